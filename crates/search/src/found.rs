//! From a question to the events that answer it and that the asker may see (CS API, "Server Side Search").

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use samtal_db::params;
use samtal_room::{EventNid, Room, RoomNid, StoredEvent, Viewer};
use samtal_sync::filter::EventFilter;

use crate::{
    Key, Search, SearchError,
    document::text,
    index::{Candidate, FIND, FIND_NEAR, room_mark, sender_mark},
    query::{Dialect, Match, Query, Reach},
    token::Token,
};

/// Documents that are looked at in one go.
const LOOKED_AT: i64 = 500;
/// Rounds of looking further when all was hidden from the asker.
const ROUNDS_MAX: usize = 8;
/// Rooms and senders that are asked for in the index itself; beyond, documents of others are passed over.
const MARKS_MAX: usize = 32;
/// The same on PostgreSQL, where each mark costs more.
const MARKS_MAX_POSTGRES: usize = 4;
/// How many rooms back a room's history goes.
const PREDECESSORS_MAX: usize = 20;

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The best first, among the newest that answer.
    #[default]
    Rank,
    /// The newest first.
    Recent,
}

/// What results are put together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The room.
    Room,
    /// The sender.
    Sender,
}

/// What somebody asks for.
#[derive(Debug, Default)]
pub struct Wish {
    /// The search term.
    pub term: String,
    /// Where to look; nowhere means everywhere.
    pub keys: Vec<Key>,
    /// Which events are wanted.
    pub filter: EventFilter,
    /// The only rooms to look in, their predecessors with them.
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// The only senders to look for.
    pub senders: Option<Vec<OwnedUserId>>,
    /// In which order.
    pub order: Order,
    /// What results are put together by.
    pub groups: Vec<GroupBy>,
    /// At most so many, at least one.
    pub limit: usize,
    /// Where to go on.
    pub from: Option<String>,
}

/// An event that answers.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// How well it answers.
    pub rank: f64,
}

/// Results that have something in common.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Where this group alone goes on.
    pub next: Option<String>,
    /// The place of the group among the groups.
    pub order: u64,
    /// Its events among the results.
    pub results: Vec<OwnedEventId>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many there are in all, as far as was looked.
    pub count: usize,
    /// The results of this page.
    pub hits: Vec<Hit>,
    /// Where to go on; nothing when there is no more.
    pub next: Option<String>,
    /// Words to mark in what is shown.
    pub highlights: Vec<String>,
    /// The results by room.
    pub by_room: Option<BTreeMap<OwnedRoomId, Group>>,
    /// The results by sender.
    pub by_sender: Option<BTreeMap<OwnedUserId, Group>>,
    /// The rooms of the results, each with the asker's eyes.
    pub viewers: HashMap<RoomNid, Viewer>,
}

/// One question under way.
struct Asked<'a> {
    search: &'a Search,
    user: &'a UserId,
    wish: &'a Wish,
    query: Query,
    rooms: Vec<i64>,
    marks: Vec<Vec<String>>,
    ignored: HashSet<OwnedUserId>,
    senders: Option<HashSet<OwnedUserId>>,
    viewers: HashMap<RoomNid, Viewer>,
}

impl Search {
    /// The events that answer, of those the user may see. A badly formed `from` is [`SearchError::BadToken`].
    pub async fn events(&self, user: &UserId, wish: &Wish) -> Result<Found, SearchError> {
        let from = wish.from.as_deref().map(Token::parse).transpose()?;
        let query = Query::parse(&self.languages, &wish.term);
        if query.is_empty() {
            return Ok(Found::default());
        }
        self.settle().await;
        let mut rooms = self.rooms_to_search(user, wish).await?;
        let mut senders: Option<HashSet<OwnedUserId>> =
            wish.senders.as_ref().map(|senders| senders.iter().cloned().collect());
        match from.as_ref().and_then(|from| from.group.as_ref()) {
            Some((GroupBy::Room, of)) => rooms.retain(|room| room.room_id.as_str() == of),
            Some((GroupBy::Sender, of)) => {
                let of = UserId::parse(of.as_str()).map_err(|_| SearchError::BadToken)?;
                senders = match senders {
                    Some(senders) if !senders.contains(&of) => Some(HashSet::new()),
                    _ => Some(HashSet::from([of])),
                };
            }
            None => {}
        }
        if rooms.is_empty() || senders.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(Found::default());
        }
        let mut marks = Vec::new();
        let marks_max = if self.engines.db.is_postgres() { MARKS_MAX_POSTGRES } else { MARKS_MAX };
        if rooms.len() <= marks_max {
            marks.push(rooms.iter().map(|room| room_mark(room.nid)).collect());
        }
        if let Some(senders) = senders.as_ref().filter(|senders| senders.len() <= marks_max) {
            marks.push(senders.iter().map(|sender| sender_mark(sender.as_str())).collect());
        }
        let ignored = self.engines.accounts.ignored(user).await?;
        let rooms = rooms.iter().map(|room| room.nid.0).collect();
        let viewers = HashMap::new();
        Asked { search: self, user, wish, query, rooms, marks, ignored, senders, viewers }.answer(from).await
    }

    /// The rooms the user is or was in, those that are wanted, and what these were before they were upgraded.
    async fn rooms_to_search(&self, user: &UserId, wish: &Wish) -> Result<Vec<Arc<Room>>, SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let mut known: BTreeMap<OwnedRoomId, ()> = BTreeMap::new();
        for found in graph.memberships(user).await? {
            use MembershipState::{Ban, Join, Leave};
            if matches!(found.membership, Join | Leave | Ban) && !found.forgotten {
                known.insert(found.room_id, ());
            }
        }
        let wanted: BTreeSet<OwnedRoomId> = match &wish.rooms {
            None => known.into_keys().collect(),
            Some(rooms) => {
                let mut wanted = BTreeSet::new();
                for room_id in rooms.iter().filter(|room_id| known.contains_key(*room_id)) {
                    wanted.insert(room_id.clone());
                    let before = self.predecessors(room_id).await?;
                    wanted.extend(before.into_iter().filter(|room_id| known.contains_key(room_id)));
                }
                wanted
            }
        };
        let mut rooms = Vec::with_capacity(wanted.len());
        for room_id in wanted.iter().filter(|room_id| wish.filter.passes_room(room_id.as_str())) {
            rooms.extend(graph.room(room_id).await?);
        }
        Ok(rooms)
    }

    async fn predecessors(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomId>, SearchError> {
        let mut before = Vec::new();
        let mut current = room_id.to_owned();
        for _ in 0..PREDECESSORS_MAX {
            let Ok(Some(create)) = self.engines.rooms.current_state(&current, "m.room.create", "").await else { break };
            let predecessor = create.pdu.content_field::<serde_json::Value>("predecessor");
            let named = predecessor.as_ref().and_then(|value| value.get("room_id")?.as_str());
            let Some(Ok(room_id)) = named.map(RoomId::parse) else { break };
            if before.contains(&room_id) {
                break;
            }
            before.push(room_id.clone());
            current = room_id;
        }
        Ok(before)
    }
}

/// What is shown of what was found.
struct Page {
    events: Vec<Arc<StoredEvent>>,
    looks: HashMap<EventNid, Match>,
    /// Where the next page begins, if there is one: a document by time, a number of events by rank.
    next: Option<i64>,
    /// By rank: all that has been shown when this page has been.
    shown: Vec<Arc<StoredEvent>>,
}

/// Events that answer, with their places in the index.
type Visible = Vec<(Candidate, Arc<StoredEvent>)>;

impl Asked<'_> {
    async fn answer(mut self, from: Option<Token>) -> Result<Found, SearchError> {
        let mut reach = from.as_ref().map_or(Reach::Form, |from| from.reach);
        let (mut all, mut ended) = self.look_from(reach, i64::MAX, LOOKED_AT).await?;
        if all.is_empty() && from.is_none() {
            reach = Reach::Part;
            (all, ended) = self.look_from(reach, i64::MAX, LOOKED_AT).await?;
        }
        let count = all.len();
        let at = from.as_ref().map(|from| from.at);
        let mut page = match self.wish.order {
            Order::Rank => self.best(all, at).await?,
            Order::Recent => self.newest(all, ended, reach, at).await?,
        };
        let group = from.and_then(|from| from.group);
        let next = page.next.map(|at| Token { reach, at, group }.print());
        let mut found = Found { count, next, ..Found::default() };
        let mut highlights = BTreeSet::new();
        for event in std::mem::take(&mut page.events) {
            let look = page.looks.remove(&event.nid).unwrap_or_default();
            highlights.extend(look.words);
            found.hits.push(Hit { event, rank: look.rank });
        }
        found.highlights = highlights.into_iter().collect();
        self.group(&mut found, &page, reach);
        found.viewers = self.viewers;
        Ok(found)
    }

    /// The page that begins behind the first `at` events by rank.
    async fn best(&self, mut all: Visible, at: Option<i64>) -> Result<Page, SearchError> {
        let looks = self.looks(&all).await?;
        let rank = |event: &StoredEvent| looks.get(&event.nid).map_or(0.0, |look| look.rank);
        all.sort_by(|(one, first), (other, second)| rank(second).total_cmp(&rank(first)).then(other.id.cmp(&one.id)));
        let all: Vec<_> = all.into_iter().map(|(_, event)| event).collect();
        let (start, limit) = (usize::try_from(at.unwrap_or(0)).unwrap_or(0), self.limit());
        let events: Vec<_> = all.iter().skip(start).take(limit).cloned().collect();
        let is_full = events.len() == limit;
        let next = is_full.then(|| i64::try_from(start + limit).unwrap_or(i64::MAX));
        let shown = all.into_iter().take(if is_full { start + limit } else { 0 }).collect();
        Ok(Page { events, looks, next, shown })
    }

    /// The page that begins behind the document `at`.
    async fn newest(
        &mut self,
        mut all: Visible,
        ended: bool,
        reach: Reach,
        at: Option<i64>,
    ) -> Result<Page, SearchError> {
        let (before, limit) = (at.unwrap_or(i64::MAX), self.limit());
        all.retain(|(candidate, _)| candidate.id < before);
        if all.len() < limit && !ended {
            (all, _) = self.look_from(reach, before, i64::try_from(limit).unwrap_or(LOOKED_AT)).await?;
        }
        all.truncate(limit);
        let next = (all.len() == limit).then(|| all.last().map(|(candidate, _)| candidate.id)).flatten();
        let looks = self.looks(&all).await?;
        let events = all.into_iter().map(|(_, event)| event).collect();
        Ok(Page { events, looks, next, shown: Vec::new() })
    }

    fn limit(&self) -> usize {
        self.wish.limit.max(1)
    }

    /// Puts the results together as was wished. By rank a group goes on behind those of its own that have been shown; by time
    /// behind the same event as the whole.
    fn group(&self, found: &mut Found, page: &Page, reach: Reach) {
        let token = |of: GroupBy, name: &str, is_of: &dyn Fn(&StoredEvent) -> bool| {
            let next = page.next?;
            let at = match self.wish.order {
                Order::Recent => next,
                Order::Rank => {
                    i64::try_from(page.shown.iter().filter(|event| is_of(event)).count()).unwrap_or(i64::MAX)
                }
            };
            Some(Token { reach, at, group: Some((of, name.to_owned())) }.print())
        };
        for by in &self.wish.groups {
            match by {
                GroupBy::Room => {
                    let key = |hit: &Hit| hit.event.pdu.room_id().to_owned();
                    found.by_room = Some(grouped(&found.hits, key, |room| {
                        token(GroupBy::Room, room.as_str(), &|event| event.pdu.room_id() == *room)
                    }));
                }
                GroupBy::Sender => {
                    let key = |hit: &Hit| hit.event.pdu.sender().to_owned();
                    found.by_sender = Some(grouped(&found.hits, key, |user| {
                        token(GroupBy::Sender, user.as_str(), &|event| event.pdu.sender() == *user)
                    }));
                }
            }
        }
    }

    /// What answers before the document `before`, newest first: at least `wanted` of the visible if there are so many and
    /// they are not too deep below what is hidden. Also says whether that was all.
    async fn look_from(&mut self, reach: Reach, before: i64, wanted: i64) -> Result<(Visible, bool), SearchError> {
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let mut before = before;
        let mut found = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let candidates = self.candidates(reach, before).await?;
            let is_last = candidates.len() < usize::try_from(LOOKED_AT).unwrap_or(0);
            before = candidates.last().map_or(before, |last| last.id);
            found.extend(self.visible(candidates).await?);
            if is_last {
                return Ok((found, true));
            }
            if found.len() >= wanted {
                break;
            }
        }
        Ok((found, false))
    }

    async fn candidates(&self, reach: Reach, before: i64) -> Result<Vec<Candidate>, SearchError> {
        let db = &self.search.engines.db;
        let dialect = if db.is_postgres() { Dialect::Tsquery } else { Dialect::Fts5 };
        let expression = self.query.expression(dialect, reach, &self.marks);
        let keys = if self.wish.keys.is_empty() { &Key::ALL[..] } else { &self.wish.keys };
        let keys: Vec<i64> = keys.iter().map(|key| key.code()).collect();
        if db.is_postgres() {
            let wish = params![before, expression.clone(), self.rooms.clone(), keys.clone(), LOOKED_AT];
            let near = db.scan(&FIND_NEAR, wish).await?;
            if i64::try_from(near.len()).is_ok_and(|found| found >= LOOKED_AT) {
                return Ok(near.iter().map(Candidate::from_row).collect::<Result<_, _>>()?);
            }
        }
        let rows = db.scan(&FIND, params![expression, before, self.rooms.clone(), keys, LOOKED_AT]).await?;
        Ok(rows.iter().map(Candidate::from_row).collect::<Result<_, _>>()?)
    }

    /// Those that are wanted and that the asker may see.
    async fn visible(&mut self, candidates: Vec<Candidate>) -> Result<Visible, SearchError> {
        let rooms = &self.search.engines.rooms;
        let nids: Vec<EventNid> = candidates.iter().map(|candidate| candidate.nid).collect();
        let mut events = rooms.store().graph.events_by_nid(&nids).await?;
        let mut visible = Vec::new();
        for candidate in candidates {
            let Some(event) = events.remove(&candidate.nid) else { continue };
            let pdu = &event.pdu;
            let is_wanted = self.senders.as_ref().is_none_or(|senders| senders.contains(pdu.sender()))
                && (pdu.is_state() || !self.ignored.contains(pdu.sender()))
                && event.redacted_by.is_none()
                && self.wish.filter.passes_event(rooms.store(), &event).await?;
            if !is_wanted {
                continue;
            }
            if !self.viewers.contains_key(&candidate.room) {
                let room = rooms.store().graph.room_by_nid(candidate.room).await?;
                self.viewers.insert(candidate.room, rooms.viewer(self.user, &room).await?);
            }
            if let Some(viewer) = self.viewers.get_mut(&candidate.room)
                && viewer.can_see(&event).await?
            {
                visible.push((candidate, event));
            }
        }
        if self.query.must_look() {
            let looks = self.looks(&visible).await?;
            visible.retain(|(_, event)| looks.contains_key(&event.nid));
        }
        Ok(visible)
    }

    /// How well each of these answers. Those that do not are left out.
    async fn looks(&self, events: &[(Candidate, Arc<StoredEvent>)]) -> Result<HashMap<EventNid, Match>, SearchError> {
        let plain: Vec<Arc<StoredEvent>> = events.iter().map(|(_, event)| Arc::clone(event)).collect();
        let edits = self.search.engines.rooms.newest_edits(&plain).await?;
        let mut looks = HashMap::with_capacity(events.len());
        for event in plain {
            let edit = edits.get(event.pdu.event_id()).map(|edit| &**edit);
            let look = text(&event, edit).and_then(|text| self.query.look(&self.search.languages, &text));
            if let Some(look) = look {
                looks.insert(event.nid, look);
            }
        }
        Ok(looks)
    }
}

fn grouped<K: Ord>(hits: &[Hit], key: impl Fn(&Hit) -> K, next: impl Fn(&K) -> Option<String>) -> BTreeMap<K, Group> {
    let mut groups: BTreeMap<K, Group> = BTreeMap::new();
    for hit in hits {
        let key = key(hit);
        let order = u64::try_from(groups.len()).unwrap_or(0) + 1;
        let next = next(&key);
        let group = groups.entry(key).or_insert_with(|| Group { next, order, results: Vec::new() });
        group.results.push(hit.event.pdu.event_id().to_owned());
    }
    groups
}
