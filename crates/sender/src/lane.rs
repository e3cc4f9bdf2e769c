//! One destination, in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};

use crate::item::Placed;

/// Items that wait for one destination in memory; beyond that the log is read again for it.
const QUEUE_MAX: usize = 512;
/// Typing notices and presences that wait in memory; beyond that new ones are dropped.
const PASSING_MAX: usize = 500;

/// The number of a task that works on a lane: no two have the same.
pub(crate) type Worker = u64;

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
    /// The task that works on it.
    pub(crate) worker: Option<Worker>,
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

    /// Notes that so many items from the front of the queue have arrived.
    pub(crate) fn sent(&mut self, items: &[Placed]) {
        let Some(last) = items.last().map(|placed| placed.position) else { return };
        if !self.is_behind {
            self.queue.drain(..items.len().min(self.queue.len()));
        }
        // One change may be news of several things: as long as one of them waits, or may have been given up, the change does.
        let is_told = !self.is_behind && self.queue.front().is_none_or(|next| next.position > last);
        let until = if is_told { last } else { last - 1 };
        self.after = self.after.max(until);
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

/// The destinations that something waits for. By name, in order: whoever iterates starts tasks, and one seed is to be one history.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<OwnedServerName, Lane>);

impl Lanes {
    /// The lane that this task works on: nothing if it is gone, or a later one is another's by now.
    pub(crate) fn of(&mut self, destination: &ServerName, worker: Worker) -> Option<&mut Lane> {
        self.0.get_mut(destination).filter(|lane| lane.worker == Some(worker))
    }

    /// Ends a task's work on a lane, and the lane where nothing waits.
    pub(crate) fn release(&mut self, destination: &ServerName, worker: Worker) {
        if let Some(lane) = self.of(destination, worker) {
            lane.worker = None;
            if lane.is_empty() && !lane.has_row {
                self.0.remove(destination);
            }
        }
    }

    /// Removes the lane that this task works on, if nothing waits. The lane; nothing if something waits or it is not this task's.
    pub(crate) fn finish(&mut self, destination: &ServerName, worker: Worker) -> Option<Lane> {
        self.of(destination, worker).filter(|lane| lane.is_empty())?;
        self.0.remove(destination)
    }
}

impl std::ops::Deref for Lanes {
    type Target = BTreeMap<OwnedServerName, Lane>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Lanes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::item::Item;

    #[test]
    fn whose_lane_is_gone_leaves_the_one_that_came_after_to_who_works_on_it() {
        let (mut lanes, them) = (Lanes::default(), server_name!("them.example"));
        lanes.insert(them.to_owned(), Lane { worker: Some(1), ..Lane::default() });
        assert!(lanes.finish(them, 1).is_some());
        // While the first still stores that it is done, there is news, and another one for it.
        let item = Placed { position: 7, item: Item::Edu };
        lanes.insert(them.to_owned(), Lane { worker: Some(2), queue: [item].into(), ..Lane::default() });
        lanes.release(them, 1);
        assert!(lanes.of(them, 1).is_none() && lanes.finish(them, 1).is_none());
        let lane = lanes.of(them, 2).expect("it is the second one's");
        lane.queue.clear();
        lanes.release(them, 2);
        assert!(lanes.is_empty(), "nothing waits");
    }

    #[test]
    fn a_change_that_is_news_of_several_things_has_been_told_when_all_of_them_have() {
        let item = |position| Placed { position, item: Item::Edu };
        let mut lane = Lane { queue: [3, 5, 5, 6].map(item).into(), ..Lane::default() };
        lane.sent(&[item(3), item(5)]);
        assert_eq!((lane.after, lane.queue.len()), (4, 2));
        lane.sent(&[item(5)]);
        assert_eq!((lane.after, lane.queue.len()), (5, 1));
        lane.sent(&[item(6)]);
        assert_eq!((lane.after, lane.is_done()), (6, true));
    }

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
