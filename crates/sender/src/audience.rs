//! Which servers must hear of a change.

use std::collections::{BTreeSet, HashMap};

use ruma::{
    EventId, OwnedServerName, RoomId, ServerName, UserId,
    events::room::member::MembershipState::{Ban, Join, Leave},
};
use samtal_db::LoggedChange;
use samtal_model::ChangeKind;
use samtal_room::{StoredEvent, membership_of};

use crate::{SenderError, item::Item, sender::Engines};

/// Reads changes one after the other. Lives for one page of the log, and remembers the servers of the rooms in it.
pub(crate) struct Audience<'a> {
    engines: &'a Engines,
    rooms: HashMap<String, BTreeSet<OwnedServerName>>,
    /// Servers that may have come into a room only after the first change of the page.
    late: HashMap<String, BTreeSet<OwnedServerName>>,
}

/// What a change means for others.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) item: Item,
    pub(crate) servers: BTreeSet<OwnedServerName>,
}

impl<'a> Audience<'a> {
    pub(crate) fn new(engines: &'a Engines) -> Self {
        Self { engines, rooms: HashMap::new(), late: HashMap::new() }
    }

    /// The change as news for other servers; none for most changes.
    pub(crate) async fn news(&mut self, logged: &LoggedChange) -> Result<Option<News>, SenderError> {
        let change = &logged.change;
        let room = change.room.as_deref().and_then(|room| <&RoomId>::try_from(room).ok());
        let user = change.user.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
        let ours = user.filter(|user| user.server_name() == self.engines.name);
        let reference = change.reference.as_deref();
        let news = match (ChangeKind::from_code(change.kind), room, ours, reference) {
            (Some(ChangeKind::Event), Some(room), Some(_), Some(event_id)) => {
                self.event(room, event_id, logged.position, None).await?
            }
            // An event that another server made here: the rooms' other servers hear of it from us.
            (Some(ChangeKind::Relay), Some(room), _, Some(event_id)) => {
                self.event(room, event_id, logged.position, user.map(UserId::server_name)).await?
            }
            (Some(ChangeKind::Membership), Some(room_id), None, Some("join")) => {
                self.newcomer(room_id, user, logged.position).await?
            }
            (Some(ChangeKind::Membership), Some(room), Some(user), Some("join")) => {
                let servers = self.servers(room).await?.clone();
                Some(News { item: Item::Devices { user: user.to_owned() }, servers })
            }
            (Some(ChangeKind::Receipt), Some(room), Some(user), _) => {
                let servers = self.servers(room).await?.clone();
                Some(News { item: Item::Receipt { room: room.to_owned(), user: user.to_owned() }, servers })
            }
            (Some(ChangeKind::DeviceList), _, Some(user), _) => {
                let servers = self.engines.rooms.store().graph.servers_sharing_rooms(user).await?.into_iter().collect();
                Some(News { item: Item::DeviceList { user: user.to_owned() }, servers })
            }
            (Some(ChangeKind::OutgoingEdu), _, _, Some(destination)) => OwnedServerName::try_from(destination)
                .ok()
                .map(|destination| News { item: Item::Edu, servers: BTreeSet::from([destination]) }),
            _ => None,
        };
        Ok(news.and_then(|mut news| {
            news.servers.remove(&self.engines.name);
            (!news.servers.is_empty()).then_some(news)
        }))
    }

    /// What a server has missed that was in a room without our knowing, while its state was not whole: of users of ours in the room
    /// whose devices have changed since we entered it, the devices.
    pub(crate) async fn missed(&self, logged: &LoggedChange) -> Result<Vec<News>, SenderError> {
        let change = &logged.change;
        let room = change.room.as_deref().and_then(|room| <&RoomId>::try_from(room).ok());
        let server = change.reference.as_deref().and_then(|server| OwnedServerName::try_from(server).ok());
        let (Some(ChangeKind::Missed), Some(room_id), Some(server)) =
            (ChangeKind::from_code(change.kind), room, server)
        else {
            return Ok(Vec::new());
        };
        let store = self.engines.rooms.store();
        let Some(room) = store.graph.room(room_id).await? else { return Ok(Vec::new()) };
        let entered = match store.partial.get(room_id) {
            Some(partial) => store.graph.event(&partial.join_event).await?.and_then(|join| join.position),
            None => None,
        };
        let entered = entered.map_or(0, |position| position.0);
        let mut news = Vec::new();
        for user in store.graph.joined_of(room.nid, &self.engines.name).await? {
            if self.engines.e2ee.device_list_position(&user).await? > entered {
                news.push(News { item: Item::Missed { user }, servers: BTreeSet::from([server.clone()]) });
            }
        }
        Ok(news)
    }

    /// A server that has come into a room with a first user gets our sticky events that are fresh (MSC4354).
    async fn newcomer(
        &self,
        room_id: &RoomId,
        user: Option<&UserId>,
        position: i64,
    ) -> Result<Option<News>, SenderError> {
        let Some(server) = user.map(UserId::server_name) else { return Ok(None) };
        let store = self.engines.rooms.store();
        let Some(room) = store.graph.room(room_id).await? else { return Ok(None) };
        let has_sticky =
            store.rooms_with_sticky_events(0, i64::MAX, self.engines.clock.now_ms()).await?.contains(&room.room_id);
        if !has_sticky
            || !store.graph.servers_joined_since(room.nid, position - 1).await?.iter().any(|new| new == server)
        {
            return Ok(None);
        }
        let item = Item::Sticky { room: room_id.to_owned() };
        Ok(Some(News { item, servers: BTreeSet::from([server.to_owned()]) }))
    }

    async fn event(
        &mut self,
        room: &RoomId,
        event_id: &str,
        position: i64,
        but: Option<&ServerName>,
    ) -> Result<Option<News>, SenderError> {
        let Ok(event_id) = <&EventId>::try_from(event_id) else { return Ok(None) };
        let mut servers = self.servers(room).await?.clone();
        servers.remove(&self.engines.name);
        let event = self.engines.rooms.store().graph.event(event_id).await?;
        if let Some(event) = &event {
            if self.is_handed_in(event).await? {
                return Ok(None);
            }
            self.leave_out_late(room, event, position, &mut servers).await?;
            servers.extend(self.put_out_by(event).await?);
            if matches!(membership_of(&event.pdu), Some(Leave | Ban))
                && let Some(target) = event.pdu.state_key().and_then(|user| <&UserId>::try_from(user).ok())
            {
                // Whoever was put out must hear of it, though their server may have no member left.
                servers.insert(target.server_name().to_owned());
            }
        }
        if let Some(but) = but {
            servers.remove(but);
        }
        let item = Item::Event { room: room.to_owned(), event_id: event_id.to_owned() };
        Ok(Some(News { item, servers }))
    }

    /// Servers whose users were in the room on one of the branches that the event brings together, and are not in what that comes
    /// to: nobody but whoever brings them together can tell them.
    async fn put_out_by(&self, event: &StoredEvent) -> Result<BTreeSet<OwnedServerName>, SenderError> {
        let (store, mut servers) = (self.engines.rooms.store(), BTreeSet::new());
        let Some(before) = event.before.filter(|_| event.pdu.prev_events().len() > 1) else { return Ok(servers) };
        for prev in store.graph.events(event.pdu.prev_events()).await?.iter().filter(|prev| prev.before.is_some()) {
            for difference in store.snapshots.diff(store.state_after(prev).await?, before).await? {
                let Some(was) = difference.before else { continue };
                let was = store.graph.event_by_nid(was).await?;
                let user = was.pdu.state_key().and_then(|user| <&UserId>::try_from(user).ok());
                if let (Some(user), Some(Join)) = (user, membership_of(&was.pdu)) {
                    servers.insert(user.server_name().to_owned());
                }
            }
        }
        Ok(servers)
    }

    /// Whether a user of ours came or went through a server that is in the room: it tells the others. Such an event stands on events
    /// that are not here.
    async fn is_handed_in(&self, event: &StoredEvent) -> Result<bool, SenderError> {
        if membership_of(&event.pdu).is_none() || event.pdu.state_key() != Some(event.pdu.sender().as_str()) {
            return Ok(false);
        }
        let held = self.engines.rooms.store().graph.events(event.pdu.prev_events()).await?;
        Ok(!held.iter().any(|prev| prev.before.is_some()))
    }

    /// The log is read after the fact: a server that joined since then has this event with the room's state, or not at all.
    async fn leave_out_late(
        &mut self,
        room_id: &RoomId,
        event: &StoredEvent,
        position: i64,
        servers: &mut BTreeSet<OwnedServerName>,
    ) -> Result<(), SenderError> {
        let store = self.engines.rooms.store();
        let Some(before) = event.before.filter(|_| !servers.is_empty()) else { return Ok(()) };
        if !self.late.contains_key(room_id.as_str()) {
            let late = store.graph.servers_joined_since(event.room, position).await?;
            self.late.insert(room_id.to_string(), late.into_iter().collect());
        }
        let Some(late) = self.late.get(room_id.as_str()) else { return Ok(()) };
        for server in late.iter().filter(|server| servers.contains(*server)).cloned().collect::<Vec<_>>() {
            let mut was_there = false;
            for user in store.graph.joined_of(event.room, &server).await? {
                let member = store.state_event(before, "m.room.member", user.as_str()).await?;
                was_there = member.and_then(|member| membership_of(&member.pdu)) == Some(Join);
                if was_there {
                    break;
                }
            }
            if !was_there {
                servers.remove(&server);
            }
        }
        Ok(())
    }

    /// The servers with joined users in a room.
    pub(crate) async fn servers(&mut self, room_id: &RoomId) -> Result<&BTreeSet<OwnedServerName>, SenderError> {
        if !self.rooms.contains_key(room_id.as_str()) {
            let graph = &self.engines.rooms.store().graph;
            let servers = match graph.room(room_id).await? {
                Some(room) => graph.servers(room.nid).await?.into_iter().collect(),
                None => BTreeSet::new(),
            };
            self.rooms.insert(room_id.to_string(), servers);
        }
        Ok(self.rooms.entry(room_id.to_string()).or_default())
    }
}
