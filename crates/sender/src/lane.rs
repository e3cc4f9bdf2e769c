//! One destination, in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ruma::{OwnedRoomId, OwnedUserId};

use crate::item::Placed;

/// Items that wait for one destination in memory; beyond that the log is read again for it.
const QUEUE_MAX: usize = 512;
/// Typing notices and presences that wait in memory; beyond that new ones are dropped.
const PASSING_MAX: usize = 500;

/// One destination, in memory: a few kilobytes at most.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// What is to be sent next, if `is_behind` is not set.
    pub(crate) queue: VecDeque<Placed>,
    /// The queue does not hold all: the log after `after` has to be read.
    pub(crate) is_behind: bool,
    /// It has not answered: of very much that it missed only the newest goes out.
    pub(crate) was_gone: bool,
    /// All of the log up to here has been sent.
    pub(crate) after: i64,
    /// There is a row in the database that says so.
    pub(crate) has_row: bool,
    /// A task works on it.
    pub(crate) is_running: bool,
    /// Who types, and who has stopped.
    pub(crate) typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    /// Whose presence changed.
    pub(crate) presence: BTreeSet<OwnedUserId>,
}

impl Lane {
    /// Adds an item, or notes that the log has to be read.
    pub(crate) fn push(&mut self, placed: Placed) {
        if self.is_behind {
            return;
        }
        if self.queue.len() >= QUEUE_MAX {
            self.fall_behind();
        } else {
            self.queue.push_back(placed);
        }
    }

    /// Gives up the queue: what it held is in the log.
    pub(crate) fn fall_behind(&mut self) {
        self.is_behind = true;
        self.queue = VecDeque::new();
    }

    /// Gives up what waits in memory: what matters is in the log.
    pub(crate) fn let_go(&mut self) {
        self.typing.clear();
        self.presence.clear();
        // Without a row it is soon to get one.
        if self.has_row {
            self.was_gone = true;
            self.fall_behind();
        }
    }

    /// Notes that a user types or has stopped. Whoever cannot keep up does not hear of it.
    pub(crate) fn push_typing(&mut self, room: OwnedRoomId, user: OwnedUserId, is_typing: bool) {
        if !self.is_behind && self.typing.len() < PASSING_MAX {
            self.typing.insert((room, user), is_typing);
        }
    }

    /// Notes that a user's presence changed.
    pub(crate) fn push_presence(&mut self, user: OwnedUserId) {
        if !self.is_behind && self.presence.len() < PASSING_MAX {
            self.presence.insert(user);
        }
    }

    /// Whether all that is in the log has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.queue.is_empty() && !self.is_behind
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.is_behind && self.typing.is_empty() && self.presence.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Item;

    #[test]
    fn a_queue_that_is_full_becomes_a_cursor() {
        let mut lane = Lane::default();
        for position in 0..QUEUE_MAX as i64 {
            lane.push(Placed { position, item: Item::Edu });
        }
        assert!(!lane.is_behind);
        lane.push(Placed { position: 9_999, item: Item::Edu });
        assert!(lane.is_behind && lane.queue.capacity() == 0);
        lane.push(Placed { position: 10_000, item: Item::Edu });
        assert!(lane.queue.is_empty());
    }
}
