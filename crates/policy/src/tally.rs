//! Counting answers: totals by kind, and refusals by server until they are stored.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    Action, Direction,
    review::{Question, Rule},
};

/// Kinds of refusals that are counted one by one until they are stored; the rest are counted together.
pub(crate) const PENDING_MAX: usize = 1_000;
/// The name under which the rest is counted. No server can have it.
pub(crate) const OTHERS: &str = "(others)";

const OUTCOMES: [&str; 3] = ["allow", "deny", "hold"];
const TOTALS: usize = Direction::ALL.len() * Action::ALL.len() * OUTCOMES.len();

/// Answers by direction, action and outcome.
pub(crate) struct Totals([AtomicU64; TOTALS]);

impl Default for Totals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Totals {
    pub(crate) fn add(&self, direction: Direction, action: Action, outcome: usize) {
        let at = (direction as usize * Action::ALL.len() + action as usize) * OUTCOMES.len() + outcome;
        if let Some(count) = self.0.get(at) {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Direction, Action, &'static str, &AtomicU64)> {
        let kinds = Direction::ALL.into_iter().flat_map(|direction| {
            Action::ALL
                .into_iter()
                .flat_map(move |action| OUTCOMES.into_iter().map(move |outcome| (direction, action, outcome)))
        });
        kinds.zip(&self.0).map(|((direction, action, outcome), count)| (direction, action, outcome, count))
    }
}

/// A kind of refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) server: String,
    pub(crate) direction: Direction,
    pub(crate) action: Action,
    pub(crate) code: &'static str,
}

/// Refusals that are not stored yet: how often, and the rule in words.
#[derive(Default)]
pub(crate) struct Tally {
    pending: Mutex<BTreeMap<Kind, (u64, String)>>,
    pub(crate) has_some: Notify,
}

impl Tally {
    pub(crate) fn add(&self, question: &Question<'_>, rule: &Rule) {
        let Question { server, direction, action, .. } = *question;
        let mut kind = Kind { server: server.to_string(), direction, action, code: rule.code() };
        let mut pending = self.pending.lock();
        if pending.len() >= PENDING_MAX && !pending.contains_key(&kind) {
            OTHERS.clone_into(&mut kind.server);
        }
        pending.entry(kind).or_insert_with(|| (0, rule.to_string())).0 += 1;
        drop(pending);
        self.has_some.notify_one();
    }

    /// What is not stored yet; it is the caller's now.
    pub(crate) fn take(&self) -> BTreeMap<Kind, (u64, String)> {
        std::mem::take(&mut *self.pending.lock())
    }

    /// Puts back what could not be stored.
    pub(crate) fn put_back(&self, kinds: BTreeMap<Kind, (u64, String)>) {
        let mut pending = self.pending.lock();
        for (kind, (count, words)) in kinds {
            if pending.len() < PENDING_MAX || pending.contains_key(&kind) {
                pending.entry(kind).or_insert_with(|| (0, words)).0 += count;
            }
        }
    }
}
