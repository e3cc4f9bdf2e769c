//! What the server has said it has done: each entry must be there after any crash.

use std::collections::{HashMap, HashSet};

/// What clients know.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Event ids by the text that was sent.
    pub(crate) events: HashMap<String, (String, String)>,
    /// Texts whose answer never came, with the room: sent again after the restart with the same transaction.
    pub(crate) unanswered: Vec<(usize, String, String)>,
    /// For each user: the number last written into account data and acknowledged, and the one last tried.
    pub(crate) account_data: HashMap<usize, (u64, u64)>,
    /// One-time keys whose upload was acknowledged, by user.
    pub(crate) uploaded: HashSet<String>,
    /// One-time keys whose upload was tried.
    pub(crate) tried: HashSet<String>,
    /// One-time keys that somebody was given.
    pub(crate) claimed: HashSet<String>,
    /// Claims whose answer never came: each may have taken a key with it.
    pub(crate) lost_claims: usize,
    /// Answers so far.
    pub(crate) answers: u64,
}

impl Ledger {
    /// Notes a key that somebody was given: nobody else may have been.
    pub(crate) fn claim(&mut self, key: String) {
        assert!(self.tried.contains(&key), "{key} was never uploaded");
        assert!(self.claimed.insert(key.clone()), "{key} was given away twice");
    }
}
