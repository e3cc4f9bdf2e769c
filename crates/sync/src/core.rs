//! The handle: what both interfaces stand on.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use samtal_account::Accounts;
use samtal_db::Db;
use samtal_e2ee::E2ee;
use samtal_edu::{EduChange, Edus};
use samtal_kit::{Clock, Tasks};
use samtal_model::StreamPosition;
use samtal_push::Push;
use samtal_room::{Rooms, Store};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    SyncError,
    active::Active,
    filter::{Filter, Filters},
    lazy::LazyMemory,
    listener::{Listener, Memberships},
    sliding::{connection::Connections, list::FactsMemory},
    span::Spans,
};

/// What sync reads from.
#[derive(Clone, Debug)]
pub struct Engines {
    /// The database.
    pub db: Db,
    /// Rooms.
    pub rooms: Rooms,
    /// Accounts.
    pub accounts: Arc<Accounts>,
    /// Receipts, typing, presence.
    pub edus: Arc<Edus>,
    /// Keys and to-device messages.
    pub e2ee: E2ee,
    /// Counts.
    pub push: Arc<Push>,
    /// The clock.
    pub clock: Clock,
    /// The tenant's tasks.
    pub tasks: Tasks,
}

/// Getting changes to the people of one tenant.
#[derive(Debug)]
pub struct Sync {
    pub(crate) engines: Engines,
    pub(crate) active: Active,
    pub(crate) spans: Spans,
    pub(crate) lazy: LazyMemory,
    filters: Filters,
    pub(crate) connections: Connections,
    pub(crate) facts: FactsMemory,
}

/// How often idle listeners are looked for.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(60);
/// How long presences are gathered before those who wait are told: where a thousand people come online at once, each of
/// them is woken a few times, and not a thousand times.
const PRESENCE_GATHERING: std::time::Duration = std::time::Duration::from_millis(250);
/// With more people than this among them, everybody is woken, and nobody's rooms are read.
const PRESENCES_MAX: usize = 100;

impl Sync {
    /// Over these engines, from where the log stands now. [`Sync::run`] must be running before anyone is answered.
    pub fn new(engines: Engines) -> Self {
        let active = Active::new(engines.db.position());
        let memory = engines.db.memory().clone();
        Self {
            engines,
            active,
            spans: Spans::new(&memory),
            lazy: LazyMemory::new(&memory),
            filters: Filters::new(&memory),
            connections: Connections::new(&memory),
            facts: FactsMemory::new(&memory),
        }
    }

    /// Follows the change log and what is not in it, until the tenant stops.
    pub async fn run(&self) {
        let mut changes = self.engines.db.changes(self.active.position());
        let mut edus = self.engines.edus.subscribe();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut seen: HashSet<OwnedUserId> = HashSet::new();
        let gathered = tokio::time::sleep(PRESENCE_GATHERING);
        tokio::pin!(gathered);
        loop {
            tokio::select! {
                () = self.engines.tasks.stopping() => {
                    self.active.wake_all();
                    return;
                }
                changes = changes.next() => match changes {
                    Ok(changes) => {
                        self.note_partial(&changes).await;
                        self.engines.push.apply(&changes);
                        self.stop_typing(&changes);
                        for user_id in self.active.apply(&changes) {
                            self.wake_rooms_of(&user_id).await;
                        }
                    }
                    Err(samtal_db::DbError::Closed) => return,
                    Err(error) => {
                        tracing::error!(%error, "the change log cannot be read");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                },
                change = edus.recv() => match change {
                    Ok(EduChange::Typing(room_id)) => self.active.wake_rooms([&*room_id]),
                    Ok(EduChange::Presence(user_id)) => {
                        if seen.is_empty() {
                            gathered.as_mut().reset(tokio::time::Instant::now() + PRESENCE_GATHERING);
                        }
                        seen.insert(user_id);
                    }
                    Err(RecvError::Lagged(_)) => self.active.wake_all(),
                    Err(RecvError::Closed) => return,
                },
                () = &mut gathered, if !seen.is_empty() => self.tell_presences(std::mem::take(&mut seen)).await,
                _ = sweep.tick() => self.active.forget_idle(self.engines.clock.now_ms()),
            }
        }
    }

    /// Wakes all who may see one of these users.
    async fn tell_presences(&self, users: HashSet<OwnedUserId>) {
        if users.len() > PRESENCES_MAX {
            self.active.wake_all();
            return;
        }
        for user_id in users {
            self.wake_rooms_of(&user_id).await;
        }
    }

    /// Which rooms have their whole state must be known before anybody is told of what follows.
    async fn note_partial(&self, changes: &[samtal_db::LoggedChange]) {
        let kind = samtal_model::ChangeKind::Partial.code();
        if changes.iter().any(|logged| logged.change.kind == kind)
            && let Err(error) = self.store().partial.read(&self.engines.db).await
        {
            tracing::error!(%error, "rooms without their whole state cannot be read");
        }
    }

    /// Who is no longer in a room does not type there.
    fn stop_typing(&self, changes: &[samtal_db::LoggedChange]) {
        let membership = samtal_model::ChangeKind::Membership.code();
        for logged in changes.iter().filter(|logged| logged.change.kind == membership) {
            let change = &logged.change;
            if change.reference.as_deref() != Some("join")
                && let (Some(room), Some(user)) = (&change.room, &change.user)
                && let (Ok(room_id), Ok(user_id)) = (<&RoomId>::try_from(&**room), <&UserId>::try_from(&**user))
            {
                self.engines.edus.typing.stop(room_id, user_id);
            }
        }
    }

    /// The filter that a request names: an id, or a definition, which begins with `{`; nothing filters nothing.
    pub async fn filter(&self, user_id: &UserId, named: Option<&str>) -> Result<Arc<Filter>, SyncError> {
        let Some(named) = named.filter(|named| !named.is_empty()) else { return Ok(Arc::default()) };
        if let Some(filter) = self.filters.get(user_id, named) {
            return Ok(filter);
        }
        let stored;
        let definition = if named.starts_with('{') {
            named
        } else {
            let found = self.engines.accounts.filter(user_id, named).await?;
            stored = found.ok_or_else(|| SyncError::Invalid("There is no such filter".into()))?;
            stored.get()
        };
        let filter = Filter::parse(definition)
            .map_err(|error| SyncError::Invalid(format!("The filter does not parse: {error}")))?;
        Ok(self.filters.put(user_id, named, filter))
    }

    async fn wake_rooms_of(&self, user_id: &UserId) {
        match self.store().graph.memberships(user_id).await {
            Ok(memberships) => {
                let joined = memberships.iter().filter(|membership| membership.membership == MembershipState::Join);
                self.active.wake_rooms(joined.map(|membership| &*membership.room_id));
            }
            Err(error) => {
                tracing::warn!(%error, "the rooms of a user cannot be read; all are woken");
                self.active.wake_all();
            }
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.engines.rooms.store()
    }

    /// The position up to which an answer can be given now: everything that was committed before this call is in it.
    pub(crate) async fn now(&self) -> i64 {
        let position = self.engines.db.position();
        tokio::select! {
            () = self.active.reached(position) => {}
            () = self.engines.tasks.stopping() => {}
        }
        self.active.position()
    }

    /// The user's listener, which hears of all rooms that the user is in.
    pub(crate) async fn listener(&self, user_id: &UserId) -> Result<Arc<Listener>, SyncError> {
        let (listener, new) = self.active.listener(user_id, self.engines.clock.now_ms());
        if new {
            let memberships = self.store().graph.memberships(user_id).await?;
            let joined = memberships.iter().filter(|membership| membership.membership == MembershipState::Join);
            self.active.ready(&listener, joined.map(|membership| &*membership.room_id));
        }
        Ok(listener)
    }

    /// Which of `others` are in a room with the user, whose memberships are given. Of those who sync themselves it is known;
    /// the database is asked for the rest alone: where a crowd comes online, everybody asks for everybody.
    pub(crate) async fn who_shares_rooms(
        &self,
        user_id: &UserId,
        memberships: &Memberships,
        others: impl IntoIterator<Item = OwnedUserId>,
    ) -> Result<HashSet<OwnedUserId>, SyncError> {
        let (mut sharing, mut unknown) = (HashSet::new(), Vec::new());
        for (other, listener) in self.active.listeners(others) {
            match listener.and_then(|listener| listener.shares_room(memberships)) {
                Some(true) => {
                    sharing.insert(other);
                }
                Some(false) => {}
                None => unknown.push(other),
            }
        }
        if !unknown.is_empty() && memberships.iter().any(|found| found.membership == MembershipState::Join) {
            sharing.extend(self.store().graph.sharing_rooms_with(user_id, &unknown).await?);
        }
        Ok(sharing)
    }

    /// The user's memberships and a position at which they hold.
    pub(crate) async fn memberships(&self, listener: &Listener) -> Result<(Arc<Memberships>, i64), SyncError> {
        let mut until = self.now().await;
        loop {
            let memberships = listener.memberships(self.store()).await?;
            let newest = memberships.newest();
            if newest <= until {
                return Ok((memberships, until));
            }
            tokio::select! {
                () = self.active.reached(newest) => {}
                () = self.engines.tasks.stopping() => return Ok((memberships, newest)),
            }
            until = self.active.position();
        }
    }

    /// Whether the user was joined when the log stood at `position`, although their membership has changed since.
    pub(crate) async fn was_joined(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        position: i64,
    ) -> Result<bool, SyncError> {
        let store = self.store();
        let Some(room) = store.graph.room(room_id).await? else { return Ok(false) };
        let state = store.state_at(room.nid, StreamPosition(position)).await?;
        let member = crate::state::member(store, state, user_id).await?;
        Ok(member.is_some_and(|member| samtal_room::membership_of(&member.pdu) == Some(MembershipState::Join)))
    }
}

/// Whose devices a user must look at anew, and whose no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceLists {
    /// Their devices changed, or they newly share a room with the user.
    pub changed: BTreeSet<OwnedUserId>,
    /// They no longer share a room with the user.
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// Who came to and went from the rooms of a user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Company {
    /// Users who joined rooms that the user is in.
    pub(crate) joined: HashSet<OwnedUserId>,
    /// Users who were invited to rooms that the user is in: what is sent from now on is encrypted for them too.
    pub(crate) invited: HashSet<OwnedUserId>,
    /// Users who left rooms that the user is in.
    pub(crate) left: HashSet<OwnedUserId>,
    /// Rooms that the user has joined.
    pub(crate) new_rooms: Vec<OwnedRoomId>,
    /// Rooms that the user has left.
    pub(crate) left_rooms: Vec<(OwnedRoomId, StreamPosition)>,
}

impl Company {
    /// Adds what happened in other rooms.
    pub(crate) fn extend(&mut self, other: Self) {
        self.joined.extend(other.joined);
        self.invited.extend(other.invited);
        self.left.extend(other.left);
        self.new_rooms.extend(other.new_rooms);
        self.left_rooms.extend(other.left_rooms);
    }

    /// Whether nobody came or went.
    pub(crate) fn is_empty(&self) -> bool {
        self.joined.is_empty()
            && self.invited.is_empty()
            && self.left.is_empty()
            && self.new_rooms.is_empty()
            && self.left_rooms.is_empty()
    }
}

impl Sync {
    /// Whose devices the user must look at after `since` (`GET /keys/changes`).
    pub async fn device_changes(&self, user_id: &UserId, since: i64) -> Result<DeviceLists, SyncError> {
        let until = self.now().await;
        let graph = &self.store().graph;
        let mut company = Company::default();
        for room in graph.memberships_changed(user_id, StreamPosition(since), StreamPosition(until)).await? {
            match room.membership {
                MembershipState::Join if !self.was_joined(user_id, &room.room_id, since).await? => {
                    company.new_rooms.push(room.room_id);
                }
                MembershipState::Leave | MembershipState::Ban => company.left_rooms.push((room.room_id, room.position)),
                _ => {}
            }
        }
        for (other, membership) in graph.company_changed(user_id, StreamPosition(since)).await? {
            match membership {
                MembershipState::Join => company.joined.insert(other),
                MembershipState::Invite => company.invited.insert(other),
                MembershipState::Leave | MembershipState::Ban => company.left.insert(other),
                _ => false,
            };
        }
        self.device_lists(user_id, since, until, company).await
    }

    /// Whose devices the user must look at after `since`, when `company` came and went.
    pub(crate) async fn device_lists(
        &self,
        user_id: &UserId,
        since: i64,
        until: i64,
        company: Company,
    ) -> Result<DeviceLists, SyncError> {
        let graph = &self.store().graph;
        let Company { mut joined, invited, mut left, new_rooms, left_rooms } = company;
        for room_id in new_rooms {
            if let Some(room) = graph.room(&room_id).await? {
                let members = graph.members(room.nid, &[MembershipState::Join]).await?;
                joined.extend(members.into_iter().map(|member| member.user_id));
            }
        }
        for (room_id, position) in left_rooms {
            let Some(room) = graph.room(&room_id).await? else { continue };
            let state = self.store().state_at(room.nid, position).await?;
            for member in self.store().state_part(state, samtal_state::Part::Members).await? {
                if samtal_room::membership_of(&member.pdu) == Some(MembershipState::Join)
                    && let Some(user_id) = member.pdu.state_key().and_then(|key| UserId::parse(key).ok())
                {
                    left.insert(user_id);
                }
            }
        }
        let mut lists = DeviceLists::default();
        let users = self.engines.e2ee.users_changed(user_id, since, until).await?;
        // Who has come into a room is told of themself, too, for the sake of their other devices.
        let own = users.iter().any(|changed| changed == user_id) || joined.contains(user_id);
        joined.extend(users);
        joined.remove(user_id);
        left.remove(user_id);
        let ask: Vec<OwnedUserId> = joined.iter().chain(&left).cloned().collect();
        let sharing: HashSet<OwnedUserId> = match ask.is_empty() {
            true => HashSet::new(),
            false => graph.sharing_rooms_with(user_id, &ask).await?.into_iter().collect(),
        };
        lists.changed = joined.into_iter().filter(|other| sharing.contains(other)).collect();
        lists.left = left.into_iter().filter(|other| !sharing.contains(other)).collect();
        lists.changed.extend(invited);
        if own {
            lists.changed.insert(user_id.to_owned());
        }
        Ok(lists)
    }
}
