//! What other servers read and ask for: templates, auth chains, history as far as they may see it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, OwnedUserId, RoomId, ServerName, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use samtal_db::{Sql, params, sql};
use samtal_event::{Draft, Pdu, SignedPdu, UnsignedPdu, redact, sign_and_hash};
use samtal_model::StreamPosition;
use samtal_state::{SnapshotId, authorize};

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent},
    head::Head,
    membership::membership_of,
    turn::Turn,
    visibility::visibility_of,
};

/// Events of one auth chain: beyond that a room is not served.
const AUTH_CHAIN_MAX: usize = 200_000;

const USERS_OF_SERVER: Sql = sql!("SELECT user_id FROM membership WHERE room = $1 AND server = $2");

impl Rooms {
    /// An event of this sender at the room's head, allowed there but not signed: what `make_join` and its kin answer, and
    /// what our own handshakes begin with. The sender may be of another server.
    pub async fn template(&self, room_id: &RoomId, sender: &UserId, draft: &Draft) -> Result<UnsignedPdu, RoomError> {
        self.template_at(room_id, sender, draft, None).await
    }

    /// As [`Self::template`], of another time than now.
    pub(crate) async fn template_at(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        draft: &Draft,
        ts_ms: Option<u64>,
    ) -> Result<UnsignedPdu, RoomError> {
        let store = &self.inner.store;
        let room = self.room(room_id).await?;
        let head = Head::read(store, Arc::clone(&room)).await?.ok_or(RoomError::UnknownRoom)?;
        let mut turn = Turn::new(store, self.author(), head);
        let refused = |refused: samtal_state::Refused| RoomError::Refused(refused.reason);
        let keys = authorize::auth_keys_of_draft(draft, sender, room.rules).map_err(refused)?;
        let ground = turn.ground(&keys).await?;
        let unsigned = turn.build(draft, sender, &ground, ts_ms.unwrap_or_else(|| self.inner.clock.now_ms()));
        ground.check(&unsigned.preview(room.rules)?, room.rules).map_err(refused)?;
        Ok(unsigned)
    }

    /// Hashes and signs an event of ours that is not (yet) part of a room here.
    pub fn sign(&self, unsigned: &UnsignedPdu, room: &Room) -> Result<SignedPdu, RoomError> {
        let author = self.author();
        Ok(sign_and_hash(unsigned, &author.name, author.keys.current().pair(), room.rules)?)
    }

    /// Adds our signature to an event somebody else made.
    pub fn cosign(&self, pdu: &Pdu, room: &Room) -> Result<Pdu, RoomError> {
        let author = self.author();
        Ok(samtal_event::cosign(pdu, &author.name, author.keys.current().pair(), room.rules)?)
    }

    /// All auth events of these events, and theirs, the events themselves not among them.
    pub async fn auth_chain(&self, of: &[OwnedEventId]) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let graph = &self.inner.store.graph;
        let mut chain: BTreeMap<OwnedEventId, Arc<StoredEvent>> = BTreeMap::new();
        let mut level: Vec<OwnedEventId> = of.to_vec();
        let mut asked: HashSet<OwnedEventId> = level.iter().cloned().collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            for event in graph.events(&level).await? {
                for auth in event.pdu.auth_events() {
                    if asked.insert(auth.clone()) {
                        next.push(auth.clone());
                    }
                }
                chain.insert(event.pdu.event_id().to_owned(), event);
            }
            if chain.len() > AUTH_CHAIN_MAX {
                return Err(RoomError::Refused("the auth chain is too long".into()));
            }
            level = next;
        }
        // What was asked about belongs to the chain only if something else names it.
        let named: HashSet<&OwnedEventId> = chain.values().flat_map(|event| event.pdu.auth_events()).collect();
        let own: Vec<OwnedEventId> = of.iter().filter(|id| !named.contains(id)).cloned().collect();
        for id in own {
            chain.remove(&id);
        }
        Ok(chain.into_values().collect())
    }

    /// The state before an event, for a server in the room: state and its auth chain.
    pub async fn state_before(
        &self,
        event: &StoredEvent,
    ) -> Result<(Vec<Arc<StoredEvent>>, Vec<Arc<StoredEvent>>), RoomError> {
        let before = event.before.ok_or(RoomError::UnknownEvent)?;
        let state = self.inner.store.state(before).await?;
        let ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        let chain = self.auth_chain(&ids).await?;
        Ok((state, chain))
    }

    /// Events between what another server has (`earliest`) and what it heard of (`latest`), breadth first, newest last.
    pub async fn missing_events(
        &self,
        room: &Room,
        server: &ServerName,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
        min_depth: i64,
    ) -> Result<Vec<Pdu>, RoomError> {
        let graph = &self.inner.store.graph;
        let mut seen: HashSet<OwnedEventId> = earliest.iter().cloned().collect();
        let mut queue: VecDeque<OwnedEventId> = VecDeque::new();
        for event in graph.events(latest).await?.into_iter().filter(|event| event.room == room.nid) {
            queue.extend(event.pdu.prev_events().iter().cloned());
        }
        let mut found = Vec::new();
        while let Some(id) = queue.pop_front() {
            if found.len() >= limit {
                break;
            }
            if !seen.insert(id.clone()) {
                continue;
            }
            let Some(event) = graph.event(&id).await? else { continue };
            let placed = event.room == room.nid && !event.flags.has(Flags::OUTLIER);
            if placed && !event.flags.has(Flags::REJECTED) && event.pdu.depth() >= min_depth {
                queue.extend(event.pdu.prev_events().iter().cloned());
                found.push(event);
            }
        }
        found.sort_by_key(|event| event.pdu.depth());
        self.for_server(room, server, found).await
    }

    /// At most `limit` events from these on backwards, for `/backfill`.
    pub async fn backfill_from(
        &self,
        room: &Room,
        server: &ServerName,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Pdu>, RoomError> {
        let graph = &self.inner.store.graph;
        let mut waiting: BTreeMap<(i64, i64), Arc<StoredEvent>> = BTreeMap::new();
        let key = |event: &StoredEvent| (event.pdu.depth(), event.nid.0);
        for event in graph.events(from).await?.into_iter().filter(|event| event.room == room.nid) {
            waiting.insert(key(&event), event);
        }
        let mut seen: BTreeSet<(i64, i64)> = BTreeSet::new();
        let mut found = Vec::new();
        while let Some((at, event)) = waiting.pop_last() {
            if found.len() >= limit || !seen.insert(at) {
                continue;
            }
            for prev in graph.events(event.pdu.prev_events()).await? {
                if !prev.flags.has(Flags::OUTLIER) && !prev.flags.has(Flags::REJECTED) {
                    waiting.insert(key(&prev), prev);
                }
            }
            found.push(event);
        }
        self.for_server(room, server, found).await
    }

    /// The events as this server may have them: what it may not see is redacted.
    pub async fn for_server(
        &self,
        room: &Room,
        server: &ServerName,
        events: Vec<Arc<StoredEvent>>,
    ) -> Result<Vec<Pdu>, RoomError> {
        let mut known: HashMap<SnapshotId, bool> = HashMap::new();
        let mut users = None;
        let mut served = Vec::with_capacity(events.len());
        for event in events {
            let visible = match event.before {
                None => true,
                Some(before) => match known.get(&before) {
                    Some(visible) => *visible,
                    None => {
                        let visible = self.server_may_see(room, server, before, &mut users).await?;
                        known.insert(before, visible);
                        visible
                    }
                },
            };
            let own = event.pdu.sender().server_name() == server;
            served.push(if visible || own || event.pdu.is_state() {
                // Servers are told without the words of those who asked to be forgotten, whoever was there.
                self.inner.store.erasures.shown(&event, room, None).into_owned()
            } else {
                redact(&event.pdu, room.rules)?
            });
        }
        Ok(served)
    }

    async fn server_may_see(
        &self,
        room: &Room,
        server: &ServerName,
        before: SnapshotId,
        users: &mut Option<Vec<OwnedUserId>>,
    ) -> Result<bool, RoomError> {
        let store = &self.inner.store;
        let visibility = store.state_event(before, "m.room.history_visibility", "").await?;
        let invited_count = match visibility.map(|event| visibility_of(&event.pdu)) {
            Some(HistoryVisibility::Invited) => true,
            Some(HistoryVisibility::Joined) => false,
            _ => return Ok(true),
        };
        if users.is_none() {
            let rows = store.db().query(&USERS_OF_SERVER, params![room.nid.0, server.as_str()]).await?;
            *users = Some(rows.iter().filter_map(|row| row.text(0).ok().and_then(|id| id.try_into().ok())).collect());
        }
        for user in users.iter().flatten() {
            let member = store.state_event(before, "m.room.member", user.as_str()).await?;
            match member.and_then(|member| membership_of(&member.pdu)) {
                Some(MembershipState::Join) => return Ok(true),
                Some(MembershipState::Invite) if invited_count => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Whether `server` had a joined user in the room when each of these events was sent, which must be here: in the state before
    /// it, or on one of the branches that it brings together.
    pub async fn had_server(
        &self,
        room: &Room,
        server: &ServerName,
        events: &[OwnedEventId],
    ) -> Result<bool, RoomError> {
        let store = &self.inner.store;
        let found = store.graph.events(events).await?;
        if events.is_empty() || found.len() < events.len() {
            return Ok(false);
        }
        let rows = store.db().query(&USERS_OF_SERVER, params![room.nid.0, server.as_str()]).await?;
        for event in found {
            let Some(before) = event.before.filter(|_| event.room == room.nid) else { return Ok(false) };
            let mut states = BTreeSet::from([before]);
            if event.pdu.prev_events().len() > 1 {
                for prev in
                    store.graph.events(event.pdu.prev_events()).await?.iter().filter(|prev| prev.before.is_some())
                {
                    states.insert(store.state_after(prev).await?);
                }
            }
            let mut was_there = false;
            'found: for state in states {
                for row in &rows {
                    let member = store.state_event(state, "m.room.member", row.text(0)?).await?;
                    was_there = member.and_then(|member| membership_of(&member.pdu)) == Some(MembershipState::Join);
                    if was_there {
                        break 'found;
                    }
                }
            }
            if !was_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `server` has a joined user in the room now.
    pub async fn has_server(&self, room: &Room, server: &ServerName) -> Result<bool, RoomError> {
        Ok(self.inner.store.graph.servers(room.nid).await?.iter().any(|joined| joined == server))
    }

    /// The first event at or after a time (or the last at or before it) that is here, by the senders' clocks.
    pub async fn event_near(
        &self,
        room: &Room,
        ts_ms: i64,
        forward: bool,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let graph = &self.inner.store.graph;
        const PAGE: usize = 500;
        let mut at = StreamPosition(if forward { i64::MIN } else { i64::MAX });
        loop {
            let page = if forward {
                graph.timeline_forward(room.nid, at, StreamPosition(i64::MAX), PAGE).await?
            } else {
                graph.timeline_back(room.nid, at, StreamPosition(i64::MIN), PAGE).await?
            };
            let fits = |event: &Arc<StoredEvent>| {
                let ts = event.pdu.origin_server_ts_ms();
                if forward { ts >= ts_ms } else { ts <= ts_ms }
            };
            if let Some(found) = page.iter().find(|event| fits(event)) {
                return Ok(Some(Arc::clone(found)));
            }
            let Some(last) = page.last().and_then(|event| event.position) else { return Ok(None) };
            at = if forward { last } else { StreamPosition(last.0 - 1) };
        }
    }

    /// Whether the event is here and placed in this room.
    pub async fn has_event(&self, room: &Room, id: &EventId) -> Result<bool, RoomError> {
        let event = self.inner.store.graph.event(id).await?;
        Ok(event.is_some_and(|event| event.room == room.nid && !event.flags.has(Flags::OUTLIER)))
    }

    /// Whether the event is here, placed in this room, and with it the state before it.
    pub async fn has_state(&self, room: &Room, id: &EventId) -> Result<bool, RoomError> {
        let event = self.inner.store.graph.event(id).await?;
        Ok(event.is_some_and(|event| event.room == room.nid && event.before.is_some()))
    }
}
