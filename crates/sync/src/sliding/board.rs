//! The rooms of a connection: which of them its lists hold, in which order, and which must be looked at.
//!
//! What was worked out for one answer serves the next one, which then looks only at rooms that have changed or come into view,
//! however many there are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, events::room::member::MembershipState};
use samtal_account::{InviteFilter, InviteVerdict};
use samtal_room::RoomMembership;

use crate::{
    Sync, SyncError,
    listener::{Listener, Memberships},
    sliding::{
        connection::{Kind, Memory},
        list::Personal,
        request::{List, RoomWish, SlidingRequest},
        required::Required,
    },
};

/// The bit of rooms that are subscribed to, beside one for each list, of which there are fewer.
const SUBSCRIBED: u128 = 1 << 127;

/// What the user has said that decides which rooms are shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Basis {
    pub(crate) personal: Arc<Personal>,
    pub(crate) ignored: Arc<HashSet<OwnedUserId>>,
    invites: Arc<InviteFilter>,
}

#[derive(Clone, Debug)]
struct Seat {
    /// How the room is told; none where it is not.
    kind: Option<Kind>,
    activity: i64,
    /// The lists that hold it, a bit for each.
    held: u128,
    /// The lists and subscriptions in whose view it is.
    view: u128,
    /// Whether all that was to be told of it has been looked at.
    settled: bool,
}

/// What is wanted of rooms with the same bits.
type Wishes = HashMap<u128, (usize, Arc<Required>)>;

/// The rooms of a connection as they were when its last answer was given.
#[derive(Debug)]
pub(crate) struct Board {
    memberships: Arc<Memberships>,
    basis: Basis,
    lists: Arc<BTreeMap<String, List>>,
    subscriptions: Arc<BTreeMap<OwnedRoomId, RoomWish>>,
    /// Changes up to here are in it.
    at: i64,
    /// One for each membership.
    seats: Vec<Seat>,
    /// Rooms that can be in lists, the newest activity first.
    order: Vec<u32>,
    /// Rooms that the user has left and that have just been told as such.
    leaving: Vec<u32>,
    /// Rooms that the newest look found in other views than the one before.
    moved: Vec<u32>,
    /// Whether it was made for the answer that is being given.
    is_new: bool,
    wishes: Wishes,
}

/// A room in view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) membership: &'a RoomMembership,
    pub(crate) kind: Kind,
    bits: u128,
}

impl<'a> Shown<'a> {
    /// The names of the lists that show it.
    pub(crate) fn lists(self, request: &SlidingRequest) -> impl Iterator<Item = &str> {
        request.lists.keys().zip(0..).filter(move |(_, bit)| self.bits & (1 << bit) != 0).map(|(name, _)| name.as_str())
    }

    /// Whether it is in view as the client has named it.
    pub(crate) fn is_subscribed(self) -> bool {
        self.bits & SUBSCRIBED != 0
    }
}

/// A room that must be looked at, and all that is wanted of it.
#[derive(Clone, Debug)]
pub(crate) struct InView<'a> {
    pub(crate) shown: Shown<'a>,
    pub(crate) timeline_limit: usize,
    pub(crate) required: Arc<Required>,
}

impl Board {
    /// What the user has said, as the board has it.
    pub(crate) fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Whether nothing of it is from the answer before.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The rooms that [`Board::look`] found in other views than the one before.
    pub(crate) fn moved(&self) -> impl Iterator<Item = &RoomId> {
        self.moved.iter().filter_map(|place| Some(&*self.memberships.get(*place as usize)?.room_id))
    }

    /// What it weighs, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.seats.len() * (size_of::<Seat>() + size_of::<u32>())
    }

    /// How many rooms each list holds, and the places of the rooms that must be looked at, in the order of their ids.
    pub(crate) fn look(&mut self) -> (BTreeMap<String, usize>, Vec<u32>) {
        let mut view = vec![0_u128; self.seats.len()];
        let mut counts = BTreeMap::new();
        for (bit, (name, list)) in self.lists.iter().enumerate() {
            let bit = 1 << bit;
            let mut count = 0;
            for &place in &self.order {
                let place = place as usize;
                if self.seats.get(place).is_none_or(|seat| seat.held & bit == 0) {
                    continue;
                }
                if (list.ranges.is_empty() || list.ranges.iter().any(|(from, to)| (*from..=*to).contains(&count)))
                    && let Some(view) = view.get_mut(place)
                {
                    *view |= bit;
                }
                count += 1;
            }
            counts.insert(name.clone(), count);
        }
        for room_id in self.subscriptions.keys() {
            let place = self.memberships.place(room_id);
            if let Some(view) = place.and_then(|place| view.get_mut(place)) {
                *view |= SUBSCRIBED;
            }
        }
        let mut fresh = Vec::new();
        self.moved.clear();
        for ((place, seat), view) in (0_u32..).zip(&mut self.seats).zip(view) {
            let view = if seat.kind.is_some() { view } else { 0 };
            let is_fresh = view != 0 && (!seat.settled || view & !seat.view != 0);
            if seat.view != view {
                self.moved.push(place);
            }
            seat.view = view;
            if is_fresh {
                seat.settled = true;
                fresh.push(place);
            }
        }
        let room_id = |place: &u32| self.memberships.get(*place as usize).map(|membership| &membership.room_id);
        fresh.sort_unstable_by_key(room_id);
        let left = |place: &&u32| self.seats.get(**place as usize).is_some_and(|seat| seat.kind == Some(Kind::Left));
        self.leaving = fresh.iter().filter(left).copied().collect();
        for place in &fresh {
            let Some(seat) = self.seats.get(*place as usize) else { continue };
            if seat.view & SUBSCRIBED == 0 && !self.wishes.contains_key(&seat.view) {
                self.wishes.insert(seat.view, wish(&self.lists, seat.view, None));
            }
        }
        (counts, fresh)
    }

    fn shown_at(&self, place: usize) -> Option<Shown<'_>> {
        let (seat, membership) = (self.seats.get(place)?, self.memberships.get(place)?);
        Some(Shown { membership, kind: seat.kind?, bits: seat.view }).filter(|shown| shown.bits != 0)
    }

    /// A room that [`Board::look`] has found, with what is wanted of it.
    pub(crate) fn in_view(&self, place: u32) -> Option<InView<'_>> {
        let shown = self.shown_at(place as usize)?;
        let (timeline_limit, required) = match self.wishes.get(&shown.bits) {
            Some(wish) => wish.clone(),
            None => wish(&self.lists, shown.bits, self.subscriptions.get(&shown.membership.room_id)),
        };
        Some(InView { shown, timeline_limit, required })
    }

    /// A room, if it is in view.
    pub(crate) fn shown(&self, room_id: &RoomId) -> Option<Shown<'_>> {
        self.shown_at(self.memberships.place(room_id)?)
    }

    /// All rooms in view.
    pub(crate) fn all_shown(&self) -> impl Iterator<Item = Shown<'_>> {
        (0..self.seats.len()).filter_map(|place| self.shown_at(place))
    }

    /// The user's membership in a room that they are in and that a list or subscription holds, in view or not.
    pub(crate) fn interesting(&self, room_id: &RoomId) -> Option<&RoomMembership> {
        let place = self.memberships.place(room_id)?;
        let seat = self.seats.get(place).filter(|seat| seat.kind == Some(Kind::Joined))?;
        let is_wanted = seat.held != 0 || self.subscriptions.contains_key(room_id);
        self.memberships.get(place).filter(|_| is_wanted)
    }

    /// Takes over what a request wants; false when it asks for other rooms than the board was made for.
    fn suits(&mut self, request: &SlidingRequest, memberships: &Arc<Memberships>, basis: &Basis) -> bool {
        if !Arc::ptr_eq(&self.memberships, memberships) || self.basis != *basis {
            return false;
        }
        if !Arc::ptr_eq(&self.lists, &request.lists) {
            let same = |((name, list), (other_name, other)): ((&String, &List), (&String, &List))| {
                name == other_name && list.filters == other.filters
            };
            if self.lists.len() != request.lists.len() || !self.lists.iter().zip(&*request.lists).all(same) {
                return false;
            }
            if self.lists.values().zip(request.lists.values()).any(|(list, other)| list.room != other.room) {
                self.wishes.clear();
                for seat in &mut self.seats {
                    seat.settled = false;
                }
            }
            self.lists = Arc::clone(&request.lists);
        }
        if !Arc::ptr_eq(&self.subscriptions, &request.subscriptions) {
            let is_other =
                |room_id: &&OwnedRoomId| self.subscriptions.get(*room_id) != request.subscriptions.get(*room_id);
            let other = self.subscriptions.keys().chain(request.subscriptions.keys()).filter(is_other);
            let places: Vec<usize> = other.filter_map(|room_id| self.memberships.place(room_id)).collect();
            for place in places {
                if let Some(seat) = self.seats.get_mut(place) {
                    seat.settled = false;
                }
            }
            self.subscriptions = Arc::clone(&request.subscriptions);
        }
        true
    }

    fn sort(&mut self) {
        let key = |place: &u32| {
            let place = *place as usize;
            let activity = self.seats.get(place).map(|seat| seat.activity);
            (activity, self.memberships.get(place).map(|membership| &membership.room_id))
        };
        // Most of it is in order already, which this way of sorting makes use of.
        self.order.sort_by(|one, other| key(other).cmp(&key(one)));
    }
}

fn wish(lists: &BTreeMap<String, List>, bits: u128, subscription: Option<&RoomWish>) -> (usize, Arc<Required>) {
    let holding = lists.values().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, list)| &list.room);
    let mut required = Required::default();
    let mut timeline_limit = 0;
    for wish in holding.chain(subscription) {
        timeline_limit = timeline_limit.max(wish.timeline_limit);
        required.add(&wish.state);
    }
    (timeline_limit, Arc::new(required))
}

impl Sync {
    /// The board of a connection as it is at `until` or later: that of its last answer, brought up to date, or a new one.
    pub(crate) async fn board(
        &self,
        request: &SlidingRequest,
        listener: &Listener,
        memory: &mut Memory,
        memberships: &Arc<Memberships>,
        until: i64,
    ) -> Result<Board, SyncError> {
        let before = memory.take_board();
        let basis = match &before {
            Some(board) if listener.is_quiet_since(board.at) => board.basis.clone(),
            _ => Basis {
                personal: Arc::new(self.personal(request, until).await?),
                ignored: self.ignored(listener, until).await?,
                invites: Arc::new(self.engines.accounts.invite_filter(&request.user_id).await?),
            },
        };
        if let Some(mut board) = before
            && board.suits(request, memberships, &basis)
            && let Some(changed) = self.active.changed_rooms(board.at)
            && !asks_for_spaces_in(request, &changed)
        {
            self.advance(request, &mut board, memory, &changed, until).await?;
            return Ok(board);
        }
        self.new_board(request, memory, memberships, basis, until).await
    }

    async fn new_board(
        &self,
        request: &SlidingRequest,
        memory: &Memory,
        memberships: &Arc<Memberships>,
        basis: Basis,
        until: i64,
    ) -> Result<Board, SyncError> {
        let order = self.order(&request.user_id).await?;
        let newest = self.active.last_changes(memberships.iter().map(|membership| &*membership.room_id));
        let mut seats = Vec::with_capacity(memberships.len());
        for (membership, newest) in memberships.iter().zip(newest) {
            let kind = self.kind_of(membership, memory, &request.user_id, &basis).await?;
            let activity = match kind {
                Some(Kind::Joined) => {
                    let activity = order.get(&membership.room_id).copied().unwrap_or(membership.position.0);
                    activity.max(newest.unwrap_or(0))
                }
                _ => membership.position.0,
            };
            seats.push(Seat { kind, activity, held: 0, view: 0, settled: false });
        }
        let order = (0_u32..).zip(&seats).filter(|(_, seat)| seat.kind.is_some()).map(|(place, _)| place).collect();
        let mut board = Board {
            memberships: Arc::clone(memberships),
            basis,
            lists: Arc::clone(&request.lists),
            subscriptions: Arc::clone(&request.subscriptions),
            at: until,
            seats,
            order,
            leaving: Vec::new(),
            moved: Vec::new(),
            is_new: true,
            wishes: HashMap::new(),
        };
        board.sort();
        let places: Vec<u32> = board.order.clone();
        self.hold(request, &mut board, &places).await?;
        Ok(board)
    }

    async fn advance(
        &self,
        request: &SlidingRequest,
        board: &mut Board,
        memory: &Memory,
        changed: &HashSet<OwnedRoomId>,
        until: i64,
    ) -> Result<(), SyncError> {
        let mut is_sorted = true;
        board.is_new = false;
        for place in std::mem::take(&mut board.leaving) {
            let Some(membership) = board.memberships.get(place as usize) else { continue };
            let kind = self.kind_of(membership, memory, &request.user_id, &board.basis).await?;
            if kind.is_none() {
                board.order.retain(|other| *other != place);
            }
            if let Some(seat) = board.seats.get_mut(place as usize) {
                seat.kind = kind;
            }
        }
        let places: Vec<usize> = changed.iter().filter_map(|room_id| board.memberships.place(room_id)).collect();
        let rooms = places.iter().filter_map(|place| board.memberships.get(*place));
        let newest = self.active.last_changes(rooms.map(|membership| &*membership.room_id));
        let mut again = Vec::with_capacity(places.len());
        for (place, newest) in places.into_iter().zip(newest) {
            let Some(seat) = board.seats.get_mut(place).filter(|seat| seat.kind.is_some()) else { continue };
            seat.settled = false;
            again.extend(u32::try_from(place).ok());
            if let Some(newest) = newest.filter(|newest| seat.kind == Some(Kind::Joined) && *newest > seat.activity) {
                seat.activity = newest;
                is_sorted = false;
            }
        }
        if !is_sorted {
            board.sort();
        }
        self.hold(request, board, &again).await?;
        board.at = until;
        Ok(())
    }

    /// Finds out which lists hold these rooms.
    async fn hold(&self, request: &SlidingRequest, board: &mut Board, places: &[u32]) -> Result<(), SyncError> {
        let seats = places.iter().filter_map(|place| {
            let (seat, membership) = (board.seats.get(*place as usize)?, board.memberships.get(*place as usize)?);
            Some((*place, membership, seat.kind?))
        });
        let seats: Vec<(u32, &RoomMembership, Kind)> = seats.collect();
        if seats.is_empty() {
            return Ok(());
        }
        let rooms: Vec<(&RoomMembership, Kind)> =
            seats.iter().map(|(_, membership, kind)| (*membership, *kind)).collect();
        let facts = self.facts_of(request, &rooms).await?;
        let mut held = vec![0_u128; seats.len()];
        for (bit, list) in request.lists.values().enumerate() {
            let spaces = self.rooms_of_spaces(&request.user_id, &list.filters).await?;
            for (((_, membership, _), facts), held) in seats.iter().zip(&facts).zip(&mut held) {
                if list.filters.hold(membership, facts.as_deref(), &board.basis.personal, spaces.as_ref()) {
                    *held |= 1 << bit;
                }
            }
        }
        let held: Vec<(u32, u128)> = seats.iter().zip(held).map(|((place, ..), held)| (*place, held)).collect();
        for (place, held) in held {
            if let Some(seat) = board.seats.get_mut(place as usize) {
                seat.held = held;
            }
        }
        Ok(())
    }

    /// In which way a room is told, if it is.
    async fn kind_of(
        &self,
        membership: &RoomMembership,
        memory: &Memory,
        user_id: &OwnedUserId,
        basis: &Basis,
    ) -> Result<Option<Kind>, SyncError> {
        if membership.forgotten {
            return Ok(None);
        }
        let sender = &membership.sender;
        let is_unwanted = || basis.ignored.contains(sender) || basis.invites.verdict(sender) != InviteVerdict::Allow;
        Ok(match &membership.membership {
            MembershipState::Join => Some(Kind::Joined),
            MembershipState::Invite if is_unwanted() => None,
            MembershipState::Invite | MembershipState::Knock => Some(Kind::Outside),
            // A ban of somebody who never was there is not theirs to see.
            MembershipState::Ban
                if memory.told(&membership.room_id).is_none() && self.never_was_there(user_id, membership).await? =>
            {
                None
            }
            MembershipState::Ban => Some(Kind::Left),
            // Who was thrown out sees it; who left by themselves only where the room was shown before.
            MembershipState::Leave if sender != user_id => Some(Kind::Left),
            MembershipState::Leave => memory
                .told(&membership.room_id)
                .filter(|told| told.kind != Kind::Left || told.upto < membership.position.0)
                .map(|_| Kind::Left),
            _ => None,
        })
    }
}

fn asks_for_spaces_in(request: &SlidingRequest, changed: &HashSet<OwnedRoomId>) -> bool {
    let mut spaces = request.lists.values().filter_map(|list| list.filters.spaces.as_ref()).flatten();
    spaces.any(|space| changed.contains(space))
}
