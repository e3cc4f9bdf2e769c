//! What an answer holds beside rooms.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId};
use samtal_account::AccountData;
use samtal_model::{StreamPosition, SyncToken};
use samtal_room::StickyEvent;

use crate::{
    Sync, SyncError,
    core::Company,
    json::{self, Object},
    listener::Listener,
    room::typing_event,
    sliding::{
        Scene, Turn,
        beside::Beside,
        board::Shown,
        connection::{Kind, Memory},
    },
    view,
};

/// To-device messages in one answer, when the client names no number.
const TO_DEVICE_MAX: u64 = 100;

/// Thread subscriptions in one answer.
const THREADS_MAX: u64 = 100;

/// Sticky events in one answer, when the client names no number.
const STICKY_MAX: u64 = 100;
/// Sticky events of one room that the user has just come into.
const STICKY_OF_NEW_MAX: usize = 1_000;

/// Extensions, written; and whether they tell anything new.
pub(crate) struct Extended {
    pub(crate) json: String,
    pub(crate) is_news: bool,
}

impl Sync {
    pub(crate) async fn extensions(
        &self,
        turn: &Turn<'_>,
        scene: &Scene<'_>,
        memory: &Memory,
        listener: &Listener,
        company: Company,
    ) -> Result<Extended, SyncError> {
        let wanted = &turn.request.extensions;
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        let mut is_news = false;
        if wanted.to_device.enabled == Some(true) {
            is_news |= self.to_device_extension(turn, &mut object).await?;
        }
        if wanted.e2ee.enabled == Some(true) {
            is_news |= self.e2ee_extension(turn, &mut object, listener, company).await?;
        }
        if wanted.account_data.is_enabled() {
            is_news |= self.account_data_extension(turn, &mut object, scene, memory).await?;
        }
        if wanted.receipts.is_enabled() {
            is_news |= self.receipts_extension(turn, &mut object, scene, memory).await?;
        }
        if wanted.typing.is_enabled() {
            is_news |= self.typing_extension(turn, &mut object, scene, memory);
        }
        if wanted.threads.enabled == Some(true) {
            is_news |= self.threads_extension(turn, &mut object).await?;
        }
        if wanted.sticky.enabled == Some(true) {
            is_news |= self.sticky_extension(turn, &mut object, scene).await?;
        }
        object.end();
        Ok(Extended { json: out, is_news })
    }

    /// MSC4480: fresh sticky events of all rooms that the client looks at, in view or not, the oldest first. The client says
    /// how far it has come; of rooms that the user has come into since then, it gets all.
    async fn sticky_extension(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        scene: &Scene<'_>,
    ) -> Result<bool, SyncError> {
        let wanted = &turn.request.extensions.sticky;
        let since = wanted.since.as_deref().and_then(|since| since.parse::<i64>().ok()).unwrap_or(0);
        let limit = usize::try_from(wanted.limit.unwrap_or(STICKY_MAX).clamp(1, STICKY_MAX)).unwrap_or(1);
        let (store, now_ms) = (self.store(), turn.reader.now_ms);
        let rooms: Vec<OwnedRoomId> = store.rooms_with_sticky_events(0, turn.until, now_ms).await?;
        let mut found: Vec<(&RoomId, StickyEvent)> = Vec::new();
        for membership in rooms.iter().filter_map(|room_id| scene.board?.interesting(room_id)) {
            let room = self.engines.rooms.room(&membership.room_id).await?;
            // What was there when the user came is told once: with the first answer that the client has not confirmed.
            let is_new = membership.position.0 > since;
            let after = if is_new { 0 } else { since };
            let limit = if is_new { STICKY_OF_NEW_MAX } else { limit + 1 };
            let events = store.sticky_events(room.nid, after, turn.until, now_ms, limit).await?;
            found.extend(events.into_iter().map(|event| (&*membership.room_id, event)));
        }
        found.sort_by_key(|(_, sticky)| sticky.position);
        // Those from before the user came count as told with their coming.
        let old = found.iter().filter(|(_, sticky)| sticky.position.0 <= since).count();
        let is_all = found.len() <= old + limit;
        found.truncate(old + limit);
        let next = found.last().filter(|_| !is_all).map_or(turn.until, |(_, last)| last.position.0);
        let shown = turn.shown.lock().clone();
        let mut told: BTreeMap<&RoomId, Vec<String>> = BTreeMap::new();
        for (room_id, sticky) in &found {
            let event = &sticky.event;
            if !shown.contains(&event.nid) && !turn.ignored.contains(event.pdu.sender()) {
                let json = view::render(store, event, now_ms, None, None, None).await?;
                told.entry(room_id).or_default().push(json);
            }
        }
        if found.is_empty() {
            return Ok(false);
        }
        object.object("org.matrix.msc4354.sticky_events", |inner| {
            inner.text("next_batch", &next.max(since).to_string());
            inner.object("rooms", |inner| {
                for (room_id, events) in &told {
                    inner.object(room_id.as_str(), |inner| json::array(inner.key("events"), events));
                }
            });
        });
        Ok(!told.is_empty())
    }

    /// MSC4308: the newest changes of subscriptions; a token for older ones, which the client fetches.
    async fn threads_extension(&self, turn: &Turn<'_>, object: &mut Object<'_>) -> Result<bool, SyncError> {
        let limit = turn.request.extensions.threads.limit.unwrap_or(THREADS_MAX).clamp(1, THREADS_MAX);
        let after = turn.from.map_or(0, |from| from.position.0);
        let page =
            self.thread_page(&turn.request.user_id, after, turn.until, usize::try_from(limit).unwrap_or(1)).await?;
        if page.threads.is_empty() {
            return Ok(false);
        }
        object.object("io.element.msc4308.thread_subscriptions", |inner| {
            page.write(inner);
            if let Some(next) = page.next {
                inner.text("prev_batch", &SyncToken::at(StreamPosition(next)).to_string());
            }
        });
        Ok(true)
    }

    async fn to_device_extension(&self, turn: &Turn<'_>, object: &mut Object<'_>) -> Result<bool, SyncError> {
        let Some(device_id) = &turn.request.device_id else { return Ok(false) };
        let wanted = &turn.request.extensions.to_device;
        let since = wanted.since.as_deref().and_then(|since| since.parse::<i64>().ok()).unwrap_or(0);
        let user_id = &turn.request.user_id;
        let e2ee = &self.engines.e2ee;
        e2ee.to_device_acknowledge(user_id, device_id, since).await?;
        let limit = i64::try_from(wanted.limit.unwrap_or(TO_DEVICE_MAX).clamp(1, TO_DEVICE_MAX)).unwrap_or(1);
        let messages = e2ee.to_device_after(user_id, device_id, since, turn.until, limit).await?;
        let full = i64::try_from(messages.len()).unwrap_or(limit) >= limit;
        let next = messages.last().filter(|_| full).map_or(turn.until, |last| last.position);
        object.object("to_device", |inner| {
            inner.text("next_batch", &next.max(since).to_string());
            let events: Vec<&str> = messages.iter().map(|message| message.event.get()).collect();
            json::array(inner.key("events"), &events);
        });
        Ok(!messages.is_empty())
    }

    async fn e2ee_extension(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        listener: &Listener,
        company: Company,
    ) -> Result<bool, SyncError> {
        let (user_id, e2ee) = (&turn.request.user_id, &self.engines.e2ee);
        let mut is_news = false;
        let lists = match turn.from {
            Some(from) => {
                is_news |= listener.keys_changed(from.position.0);
                Some(self.device_lists(user_id, from.position.0, turn.until, company).await?)
            }
            None => None,
        };
        let mut inner = Object::new(object.key("e2ee"));
        if let Some(lists) = lists.filter(|lists| !lists.is_empty()) {
            is_news = true;
            inner.object("device_lists", |inner| {
                json::texts(inner.key("changed"), &lists.changed);
                json::texts(inner.key("left"), &lists.left);
            });
        }
        if let Some(device_id) = &turn.request.device_id {
            let counts = e2ee.one_time_key_counts(user_id, device_id).await?;
            let mut numbers = Object::new(inner.key("device_one_time_keys_count"));
            for (algorithm, count) in &counts {
                numbers.number(algorithm, *count);
            }
            numbers.end();
            let unused = e2ee.unused_fallback_types(user_id, device_id).await?;
            json::texts(inner.key("device_unused_fallback_key_types"), &unused);
        }
        inner.end();
        Ok(is_news)
    }

    async fn account_data_extension(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        scene: &Scene<'_>,
        memory: &Memory,
    ) -> Result<bool, SyncError> {
        let user_id = &turn.request.user_id;
        let accounts = &self.engines.accounts;
        let after = turn.from.map_or(0, |from| from.position.0);
        let was_wanted = memory.scopes().is_some_and(|scopes| scopes.data.is_enabled());
        let write = |data: &AccountData| json::event(&data.data_type, data.content.get());
        let global = accounts.account_data_changed(user_id, if was_wanted { after } else { 0 }, turn.until).await?;
        let global: Vec<String> = global.iter().map(write).collect();
        let changed = match turn.from {
            Some(_) => accounts.room_account_data_changed(user_id, after, turn.until).await?,
            None => Vec::new(),
        };
        let changed_rooms: Vec<OwnedRoomId> =
            changed.iter().filter_map(|data| OwnedRoomId::try_from(data.room_id.as_deref()?).ok()).collect();
        let wanted = &turn.request.extensions.account_data;
        let mut rooms: Vec<(&RoomId, Vec<String>)> = Vec::new();
        for (room_id, room) in scene.rooms(Some(changed_rooms.iter().chain(turn.moved.keys()))) {
            if !wanted.covers(turn.request, room) {
                continue;
            }
            let events: Vec<String> = if memory.has(room, Beside::DATA) {
                let here = |data: &&AccountData| data.room_id.as_deref() == Some(room_id.as_str());
                changed.iter().filter(here).map(write).collect()
            } else {
                accounts.room_account_data(user_id, room_id).await?.iter().map(write).collect()
            };
            if !events.is_empty() {
                rooms.push((room_id, events));
            }
        }
        let is_news = !global.is_empty() || !rooms.is_empty();
        object.object("account_data", |inner| {
            if !global.is_empty() {
                json::array(inner.key("global"), &global);
            }
            inner.object("rooms", |inner| {
                for (room_id, events) in rooms {
                    json::array(inner.key(room_id.as_str()), &events);
                }
            });
        });
        Ok(is_news)
    }

    async fn receipts_extension(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        scene: &Scene<'_>,
        memory: &Memory,
    ) -> Result<bool, SyncError> {
        let wanted = &turn.request.extensions.receipts;
        let after = turn.from.map_or(0, |from| from.position.0);
        let changed = turn.from.and_then(|_| self.active.changed_rooms(after));
        let covered: Vec<Shown<'_>> = scene
            .rooms(changed.as_ref().map(|changed| changed.iter().chain(turn.moved.keys())))
            .into_values()
            .filter(|room| room.kind == Kind::Joined && wanted.covers(turn.request, *room))
            .collect();
        let changed = self.active.changed(covered.iter().map(|room| &*room.membership.room_id), after);
        let mut rooms: Vec<(&RoomId, String)> = Vec::new();
        for (room, changed) in covered.into_iter().zip(changed) {
            let room_id = &room.membership.room_id;
            let known = memory.has(room, Beside::RECEIPTS);
            if known && !changed.receipts {
                continue;
            }
            let after = if known { after } else { 0 };
            let receipts = self.engines.edus.receipts.changed(room_id, after, turn.until).await?;
            if let Some(content) = samtal_edu::receipt::content(&receipts, &turn.request.user_id) {
                rooms.push((room_id, json::event("m.receipt", &content.to_string())));
            }
        }
        let is_news = !rooms.is_empty();
        write_rooms(object, "receipts", rooms);
        Ok(is_news)
    }

    fn typing_extension(&self, turn: &Turn<'_>, object: &mut Object<'_>, scene: &Scene<'_>, memory: &Memory) -> bool {
        let typing = &self.engines.edus.typing;
        let mut rooms: Vec<(&RoomId, String)> = Vec::new();
        let changed = turn.from.map(|from| typing.rooms_changed(from.typing));
        let wanted = &turn.request.extensions.typing;
        let rooms_to_tell = scene.rooms(changed.as_ref().map(|changed| changed.iter().chain(turn.moved.keys())));
        for room in rooms_to_tell.into_values().filter(|room| wanted.covers(turn.request, *room)) {
            let room_id = &room.membership.room_id;
            let users = match turn.from.filter(|_| memory.has(room, Beside::TYPING)) {
                _ if room.kind != Kind::Joined => None,
                Some(from) => typing.changed(room_id, from.typing),
                // Who has seen somebody type here before must hear that they have stopped.
                None if memory.told(room_id).is_some() => typing.changed(room_id, 0),
                None => Some(typing.users(room_id)).filter(|users| !users.is_empty()),
            };
            if let Some(users) = users {
                rooms.push((room_id, typing_event(&users, &turn.ignored)));
            }
        }
        let is_news = !rooms.is_empty();
        write_rooms(object, "typing", rooms);
        is_news
    }
}

fn write_rooms(object: &mut Object<'_>, name: &str, rooms: Vec<(&RoomId, String)>) {
    object.object(name, |inner| {
        inner.object("rooms", |inner| {
            for (room_id, event) in rooms {
                inner.raw(room_id.as_str(), &event);
            }
        });
    });
}
