//! Of which rooms a connection has what is beside events (account data, receipts, typing) up to its position. Of a room that
//! was out of view for a while, or for which the client did not ask for it, all of it is told anew.

use std::collections::HashMap;

use ruma::{OwnedRoomId, RoomId};

use crate::sliding::{
    Scene,
    board::Shown,
    connection::Memory,
    request::{Scoped, SlidingRequest},
};

/// What a connection has of a room up to its position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside(u8);

impl Beside {
    /// The room itself was in view.
    pub(crate) const VIEW: Self = Self(1);
    /// Its account data.
    pub(crate) const DATA: Self = Self(2);
    /// Its receipts.
    pub(crate) const RECEIPTS: Self = Self(4);
    /// Who types in it.
    pub(crate) const TYPING: Self = Self(8);

    /// Whether `part` is among it.
    pub(crate) fn has(self, part: Self) -> bool {
        self.0 & part.0 != 0
    }

    /// What an answer to this request tells of a room in view.
    fn of(request: &SlidingRequest, shown: Shown<'_>) -> Self {
        let wanted = &request.extensions;
        let parts =
            [(Self::DATA, &wanted.account_data), (Self::RECEIPTS, &wanted.receipts), (Self::TYPING, &wanted.typing)];
        let told = parts.into_iter().filter(|(_, scope)| scope.is_enabled() && scope.covers(request, shown));
        Self(told.fold(Self::VIEW.0, |all, (part, _)| all | part.0))
    }
}

/// For which rooms a request wants what is beside events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scopes {
    pub(crate) data: Scoped,
    pub(crate) receipts: Scoped,
    pub(crate) typing: Scoped,
}

impl Scopes {
    pub(crate) fn of(request: &SlidingRequest) -> Self {
        let wanted = &request.extensions;
        Self { data: wanted.account_data.clone(), receipts: wanted.receipts.clone(), typing: wanted.typing.clone() }
    }
}

impl Scoped {
    /// Whether it is asked for at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether it is asked for of this room.
    pub(crate) fn covers(&self, request: &SlidingRequest, shown: Shown<'_>) -> bool {
        let any = |names: &Option<Vec<String>>, of: &dyn Fn(&str) -> bool| {
            names.as_ref().is_none_or(|names| names.iter().any(|name| name == "*" || of(name)))
        };
        let room_id = shown.membership.room_id.as_str();
        let is_listed = shown.lists(request).next().is_some();
        let by_list = is_listed && any(&self.lists, &|name| shown.lists(request).any(|list| list == name));
        let by_room = match &self.rooms {
            None => shown.is_subscribed(),
            Some(rooms) => rooms.iter().any(|room| room == room_id || room == "*" && shown.is_subscribed()),
        };
        by_list || by_room
    }
}

impl Memory {
    /// Whether the connection has this part of a room up to its position, told as it is told now.
    pub(crate) fn has(&self, shown: Shown<'_>, part: Beside) -> bool {
        self.told(&shown.membership.room_id).is_some_and(|told| told.kind == shown.kind && told.beside.has(part))
    }
}

/// The rooms of which an answer tells other parts than the last one did.
pub(crate) fn moves(request: &SlidingRequest, scene: &Scene<'_>, memory: &Memory) -> HashMap<OwnedRoomId, Beside> {
    let mut moves = HashMap::new();
    let mut look = |room_id: &RoomId, shown: Option<Shown<'_>>| {
        let before = memory.told(room_id).map_or(Beside::default(), |told| told.beside);
        let now = shown.map_or(Beside::default(), |shown| Beside::of(request, shown));
        if before != now {
            moves.insert(room_id.to_owned(), now);
        }
    };
    let Some(board) = scene.board else {
        memory.rooms().for_each(|room_id| look(room_id, None));
        return moves;
    };
    if board.is_new() || memory.scopes() != Some(&Scopes::of(request)) {
        board.all_shown().for_each(|shown| look(&shown.membership.room_id, Some(shown)));
        memory.rooms().filter(|room_id| board.shown(room_id).is_none()).for_each(|room_id| look(room_id, None));
    } else {
        board.moved().for_each(|room_id| look(room_id, board.shown(room_id)));
    }
    moves
}
