//! Numbers used once, for registering with the shared secret.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::Accounts;

/// How long one is good.
const NONCE_MS: u64 = 60_000;

/// Most that are kept; the oldest go first.
const NONCES_MAX: usize = 1_000;

/// The nonces that have been given out and not come back.
#[derive(Debug, Default)]
pub(crate) struct Nonces(Mutex<VecDeque<(String, u64)>>);

impl Accounts {
    /// A new nonce. It does not survive a restart.
    pub fn create_nonce(&self) -> String {
        let nonce = self.random.alphanumeric(32);
        let mut nonces = self.nonces.0.lock();
        if nonces.len() >= NONCES_MAX {
            nonces.pop_front();
        }
        nonces.push_back((nonce.clone(), self.clock.now_ms()));
        nonce
    }

    /// Takes a nonce back; whether it was good.
    pub fn take_nonce(&self, nonce: &str) -> bool {
        let now_ms = self.clock.now_ms();
        let mut nonces = self.nonces.0.lock();
        let Some(at) = nonces.iter().position(|(known, _)| known == nonce) else { return false };
        nonces.remove(at).is_some_and(|(_, given_ms)| now_ms.saturating_sub(given_ms) <= NONCE_MS)
    }
}
