//! What each connection has been told. In memory: who comes with a position that is not known here starts anew.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId};
use samtal_kit::{self as kit, Cache};
use samtal_model::SyncToken;
use tokio::sync::watch;

use crate::{
    SyncError,
    sliding::{
        beside::{Beside, Scopes},
        board::Board,
        required::Required,
    },
};

/// What a remembered room weighs.
const ROOM_BYTES: usize = 250;
/// Rooms of one connection that are remembered; beyond it the connection starts anew.
const ROOMS_MAX: usize = 50_000;
/// Lazily loaded members of one room that are remembered.
pub(crate) const MEMBERS_MAX: usize = 500;

/// In which way a room has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As a room that the user is in.
    Joined,
    /// As an invite or knock.
    Outside,
    /// As one that the user has left.
    Left,
}

/// What a connection has been told of a room.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Everything up to here.
    pub(crate) upto: i64,
    pub(crate) kind: Kind,
    pub(crate) timeline_limit: usize,
    pub(crate) required: Arc<Required>,
    /// Members told because their events were shown.
    pub(crate) members: Arc<HashSet<OwnedUserId>>,
    /// Whether it counted as a direct chat.
    pub(crate) is_dm: bool,
    /// What it had of the room in the last answer.
    pub(crate) beside: Beside,
}

/// Where an answer left a connection.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) pos: String,
    pub(crate) token: SyncToken,
    scopes: Scopes,
}

/// A connection's memory: up to the last position that its client has shown to have, and what the newest answer adds.
#[derive(Debug)]
pub(crate) struct Memory {
    serial: u64,
    base: Option<Checkpoint>,
    rooms: HashMap<OwnedRoomId, Told>,
    pending: Option<(Checkpoint, HashMap<OwnedRoomId, Told>)>,
    /// As the newest answer left it.
    board: Option<Board>,
    /// Whether the newest answer told anything.
    is_news: bool,
}

impl Memory {
    fn new(serial: u64) -> Self {
        Self { serial, base: None, rooms: HashMap::new(), pending: None, board: None, is_news: false }
    }

    /// Goes to the position that the client has: the newest answer's, or the one before, if that answer was lost.
    pub(crate) fn resume(&mut self, pos: Option<&str>) -> Result<Option<SyncToken>, SyncError> {
        let Some(pos) = pos else {
            self.base = None;
            self.rooms.clear();
            self.pending = None;
            self.board = None;
            return Ok(None);
        };
        match self.pending.take() {
            Some((checkpoint, rooms)) if checkpoint.pos == pos => {
                self.rooms.extend(rooms);
                self.base = Some(checkpoint);
            }
            pending => {
                if self.base.as_ref().is_none_or(|base| base.pos != pos) {
                    self.pending = pending;
                    return Err(SyncError::UnknownPosition);
                }
                // What an answer has told that is lost must be told again.
                if self.is_news {
                    self.board = None;
                }
            }
        }
        if self.rooms.len() > ROOMS_MAX {
            return Err(SyncError::UnknownPosition);
        }
        Ok(self.base.as_ref().map(|base| base.token))
    }

    /// What has been told of a room.
    pub(crate) fn told(&self, room_id: &RoomId) -> Option<&Told> {
        self.rooms.get(room_id)
    }

    /// All rooms of which anything has been told.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &OwnedRoomId> {
        self.rooms.keys()
    }

    /// What the request wanted whose answer the client has; none if it has none.
    pub(crate) fn scopes(&self) -> Option<&Scopes> {
        self.base.as_ref().map(|base| &base.scopes)
    }

    /// What the newest answer has worked out about lists, if it still holds for this one.
    pub(crate) fn take_board(&mut self) -> Option<Board> {
        self.board.take()
    }

    /// Ends an answer, which told something or did not: its position.
    pub(crate) fn answered(
        &mut self,
        token: SyncToken,
        scopes: Scopes,
        rooms: HashMap<OwnedRoomId, Told>,
        board: Option<Board>,
        is_news: bool,
    ) -> String {
        self.board = board;
        self.is_news = is_news;
        self.serial += 1;
        let pos = format!("{}_{token}", self.serial);
        self.pending = Some((Checkpoint { pos: pos.clone(), token, scopes }, rooms));
        pos
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Held while an answer is made, not while one is waited for.
    pub(crate) memory: tokio::sync::Mutex<Memory>,
    requests: watch::Sender<u64>,
}

impl Connection {
    /// Ends the waiting of an earlier request; the answer hears of a later one.
    pub(crate) fn enter(&self) -> watch::Receiver<u64> {
        self.requests.send_modify(|count| *count += 1);
        self.requests.subscribe()
    }
}

type Key = (OwnedUserId, Option<OwnedDeviceId>, String);

/// All connections that are remembered.
#[derive(Debug)]
pub(crate) struct Connections(Cache<Key, Arc<Connection>>);

impl Connections {
    pub(crate) fn new(memory: &kit::Memory) -> Self {
        Self(Cache::new(memory))
    }

    /// The connection; a new one begins its positions at `serial`.
    pub(crate) fn get(&self, key: &Key, serial: u64) -> Arc<Connection> {
        self.0.get_or_put(key, || {
            let memory = tokio::sync::Mutex::new(Memory::new(serial));
            (Arc::new(Connection { memory, requests: watch::channel(0).0 }), 600)
        })
    }

    /// Says how much a connection remembers by now.
    pub(crate) fn remembers(&self, key: &Key, memory: &Memory) {
        let pending = memory.pending.as_ref().map_or(0, |(_, rooms)| rooms.len());
        let board = memory.board.as_ref().map_or(0, Board::bytes);
        self.0.resize(key, 600 + ROOM_BYTES * (memory.rooms.len() + pending) + board);
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_room_id;

    use super::*;
    use crate::sliding::request::Scoped;

    fn told(upto: i64) -> HashMap<OwnedRoomId, Told> {
        let told = Told {
            upto,
            kind: Kind::Joined,
            timeline_limit: 1,
            required: Arc::default(),
            members: Arc::default(),
            is_dm: false,
            beside: Beside::default(),
        };
        HashMap::from([(owned_room_id!("!r:a"), told)])
    }

    #[test]
    fn a_lost_answer_can_be_asked_for_again_and_nothing_else() {
        let (mut memory, nothing) = (Memory::new(5), Scoped::default());
        let scopes = Scopes { data: nothing.clone(), receipts: nothing.clone(), typing: nothing };
        let room = owned_room_id!("!r:a");
        assert!(matches!(memory.resume(Some("1_s1_2")), Err(SyncError::UnknownPosition)));
        memory.resume(None).unwrap();
        let first = memory.answered(SyncToken::at(1.into()), scopes.clone(), told(1), None, true);
        assert_eq!(memory.resume(Some(&first)).unwrap(), Some(SyncToken::at(1.into())));
        let second = memory.answered(SyncToken::at(2.into()), scopes.clone(), told(2), None, true);
        assert_eq!(memory.resume(Some(&first)).unwrap(), Some(SyncToken::at(1.into())));
        assert_eq!(memory.told(&room).unwrap().upto, 1, "what the lost answer told does not count");
        assert!(memory.resume(Some(&second)).is_err());
        let third = memory.answered(SyncToken::at(3.into()), scopes.clone(), told(3), None, true);
        memory.resume(Some(&third)).unwrap();
        assert_eq!(memory.told(&room).unwrap().upto, 3);
        assert!(memory.resume(Some(&first)).is_err());
    }
}
