//! `GET /v3/sync`: one answer, or the wait for something to tell.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, try_join_all};
use ruma::{OwnedDeviceId, OwnedUserId, RoomId, events::room::member::MembershipState, presence::PresenceState};
use samtal_account::InviteVerdict;
use samtal_edu::{Edus, PresenceEntry};
use samtal_model::SyncToken;
use samtal_room::RoomMembership;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{
    Sync, SyncError,
    core::Company,
    filter::{Filter, Members},
    json::{self, Object},
    listener::{KeyCounts, Listener, Memberships},
    marks::Changed,
    room::Round,
    view::Reader,
};

/// To-device messages in one answer.
const TO_DEVICE_MAX: i64 = 100;
/// Newcomers of whom it is told, too, that nothing is known of their presence.
const NEWCOMERS_MAX: usize = 100;
/// A device hears of its own event by sync not before it is so old: clients are confused (matrix-js-sdk in threads) when the
/// answer to their sending comes after it. That holds for a sync that did not wait, too: it may have been asked for while the
/// event was on its way.
const ECHO_PAUSE_MS: i64 = 25;
/// Rooms that are put together at once, where each read is a way to another process and back. Half of the connections that there
/// are by default.
const ROOMS_AT_ONCE: usize = 8;
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Whether state is told up to the end of the timeline, and under which name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateAfter {
    /// Up to the beginning of the timeline, as `state`.
    #[default]
    No,
    /// As `state_after`.
    Stable,
    /// As `org.matrix.msc4222.state_after`.
    Unstable,
}

/// A request of `GET /v3/sync`.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who asks.
    pub user_id: OwnedUserId,
    /// With which device; application services may have none.
    pub device_id: Option<OwnedDeviceId>,
    /// What they want to see.
    pub filter: Arc<Filter>,
    /// Up to where they have seen everything.
    pub since: Option<SyncToken>,
    /// Whether they want the whole state of all rooms again.
    pub full_state: bool,
    /// Whether state is told up to the end of the timeline.
    pub state_after: StateAfter,
    /// How long they wait for something to tell.
    pub timeout: Duration,
    /// What they are while they sync.
    pub set_presence: PresenceState,
}

struct Answer {
    body: String,
    is_empty: bool,
    /// When the newest event was made that it shows to the device that has sent it; 0 when there is none.
    echo_ms: i64,
}

/// Says that a user is there for as long as it lives.
struct Online<'a> {
    edus: &'a Edus,
    request: &'a SyncRequest,
}

impl<'a> Online<'a> {
    fn new(edus: &'a Edus, request: &'a SyncRequest) -> Self {
        edus.presence.sync_began(&request.user_id, &request.set_presence);
        Self { edus, request }
    }
}

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.edus.presence.sync_ended(&self.request.user_id, &self.request.set_presence);
    }
}

impl Sync {
    /// Answers with what there is to tell; waits for it when there is nothing yet. The answer is the JSON body.
    pub async fn sync(&self, request: &SyncRequest) -> Result<String, SyncError> {
        let online = Online::new(&self.engines.edus, request);
        let listener = self.listener(&request.user_id).await?;
        let began = self.active.position();
        self.acknowledge(request, &listener).await?;
        let mut heard = listener.listen();
        let wait = tokio::time::sleep(request.timeout.min(WAIT_MAX));
        tokio::pin!(wait);
        loop {
            heard.mark_unchanged();
            let answer = Box::pin(self.answer(request, &listener)).await?;
            if !answer.is_empty || request.since.is_none() || request.full_state || request.timeout.is_zero() {
                drop(online);
                if answer.echo_ms > 0 && request.since.is_some() {
                    let now_ms = i64::try_from(self.engines.clock.now_ms()).unwrap_or(i64::MAX);
                    // Application services may have their events look older than they are: they know what they do.
                    let left_ms = (answer.echo_ms.saturating_add(ECHO_PAUSE_MS) - now_ms).clamp(0, ECHO_PAUSE_MS);
                    tokio::time::sleep(Duration::from_millis(left_ms.unsigned_abs())).await;
                }
                return Ok(answer.body);
            }
            tokio::select! {
                _ = heard.changed() => {}
                () = &mut wait => return Ok(answer.body),
                () = self.engines.tasks.stopping() => return Ok(answer.body),
            }
            if listener.ended_since(began, request.device_id.as_ref()) {
                return Err(SyncError::Ended);
            }
        }
    }

    /// What the token shows to have arrived is deleted, before anything else is done.
    async fn acknowledge(&self, request: &SyncRequest, listener: &Listener) -> Result<(), SyncError> {
        match (&request.device_id, request.since) {
            (Some(device_id), Some(since)) if listener.must_acknowledge(device_id, told_upto(since)) => {
                self.engines.e2ee.to_device_acknowledge(&request.user_id, device_id, told_upto(since)).await?;
                listener.acknowledged(device_id, told_upto(since));
            }
            (Some(_), Some(_)) => {}
            (Some(device_id), None) => self.lazy.forget(&(request.user_id.clone(), device_id.clone())),
            (None, _) => {}
        }
        Ok(())
    }

    async fn answer(&self, request: &SyncRequest, listener: &Listener) -> Result<Answer, SyncError> {
        let user_id = &request.user_id;
        let (memberships, until) = self.memberships(listener).await?;
        let edus = &self.engines.edus;
        let mut next =
            SyncToken { typing: edus.typing.serial(), presence: edus.presence.serial(), ..SyncToken::at(until.into()) };
        let after = request.since.map_or(0, |since| since.position.0);
        let accounts = &self.engines.accounts;
        let quiet = request.since.is_some() && listener.is_quiet_since(after);
        let reads = match request.since {
            Some(_) if !quiet => edus.receipts.of_user(user_id, after, until).await?,
            _ => Vec::new(),
        };
        let round = Round {
            request,
            reader: Reader { user_id, device_id: request.device_id.as_deref(), now_ms: self.engines.clock.now_ms() },
            since: request.since,
            until,
            ignored: self.ignored(listener, until).await?,
            account_data: match request.since {
                Some(_) if !quiet => accounts.room_account_data_changed(user_id, after, until).await?,
                _ => Vec::new(),
            },
            read: reads.into_iter().map(|receipt| receipt.room_id).collect(),
            echo_ms: AtomicI64::new(0),
            sticky: OnceCell::new(),
        };
        let (rooms, company) = self.rooms(&round, &memberships).await?;
        let mut body = String::with_capacity(256 + rooms.len());
        let mut object = Object::new(&mut body);
        let mut is_empty = rooms.is_empty();
        if !rooms.is_empty() {
            object.raw("rooms", &rooms);
        }
        let account_data = if quiet { Vec::new() } else { self.account_data(&round).await? };
        is_empty &= account_data.is_empty();
        object.events("account_data", &account_data);
        let presence = self.presence(&round, &memberships, next.presence, &company).await?;
        is_empty &= presence.is_empty();
        object.events("presence", &presence);
        if let Some(device_id) = &request.device_id {
            let nothing_came = request.since.is_some_and(|since| listener.is_quiet_since(told_upto(since)));
            let to_device =
                if nothing_came { Vec::new() } else { self.to_device(&round, device_id, &mut next).await? };
            is_empty &= to_device.is_empty();
            object.events("to_device", &to_device);
            self.write_keys(&mut object, &round, listener, device_id).await?;
            is_empty &= !listener.keys_changed(after);
        }
        if request.since.is_some() && !(company.is_empty() && self.active.device_lists_quiet(after)) {
            let lists = self.device_lists(user_id, after, until, company).await?;
            is_empty &= lists.is_empty();
            if !lists.is_empty() {
                object.object("device_lists", |inner| {
                    for (key, users) in [("changed", &lists.changed), ("left", &lists.left)] {
                        if !users.is_empty() {
                            json::texts(inner.key(key), users);
                        }
                    }
                });
            }
        }
        object.text("next_batch", &next.to_string());
        object.end();
        Ok(Answer { body, is_empty, echo_ms: round.echo_ms.load(Ordering::Relaxed) })
    }

    /// The `rooms` object, empty when there is nothing to tell; and who came and went.
    async fn rooms(&self, round: &Round<'_>, memberships: &Memberships) -> Result<(String, Company), SyncError> {
        let filter = &round.request.filter;
        let typing: HashSet<_> = match round.since {
            Some(since) => self.engines.edus.typing.rooms_changed(since.typing).into_iter().collect(),
            None => HashSet::new(),
        };
        // Where it is known which rooms changed, the others are not even looked at.
        let recent = round.since.filter(|_| !round.request.full_state);
        let candidates = match recent.and_then(|since| self.active.changed_rooms(since.position.0)) {
            Some(changed) => {
                let data =
                    round.account_data.iter().filter_map(|data| <&RoomId>::try_from(data.room_id.as_deref()?).ok());
                let rooms = changed.iter().chain(&typing).chain(&round.read).map(|room_id| &**room_id);
                memberships.of(rooms.chain(data), round.after())
            }
            None => memberships.iter().collect(),
        };
        let wanted: Vec<&RoomMembership> = candidates
            .into_iter()
            .filter(|membership| {
                // SPEC: other devices are told of a leave even if the room was forgotten right after it.
                let is_news = round.since.is_some_and(|since| membership.position > since.position);
                (!membership.forgotten || is_news) && filter.passes_room(membership.room_id.as_str())
            })
            .collect();
        let changed = self.active.changed(wanted.iter().map(|membership| &*membership.room_id), round.after());
        let mut sections = Sections::default();
        let mut company = Company::default();
        let at_once = if self.engines.db.is_postgres() { ROOMS_AT_ONCE } else { 1 };
        let mut left = wanted.into_iter().zip(changed).peekable();
        while left.peek().is_some() {
            let mut part: Vec<BoxFuture<'_, Result<(Sections, Company), SyncError>>> = Vec::with_capacity(at_once);
            for (membership, changed) in left.by_ref().take(at_once) {
                let typing = typing.contains(&membership.room_id);
                part.push(Box::pin(self.one_room(round, membership, changed, typing)));
            }
            for (section, came_and_went) in try_join_all(part).await? {
                sections.extend(section);
                company.extend(came_and_went);
            }
        }
        Ok((sections.finish(), company))
    }

    async fn one_room(
        &self,
        round: &Round<'_>,
        membership: &RoomMembership,
        changed: Changed,
        typing: bool,
    ) -> Result<(Sections, Company), SyncError> {
        let (mut sections, mut company) = (Sections::default(), Company::default());
        let user_id = &round.request.user_id;
        let room_id = &membership.room_id;
        let is_new = membership.position.0 > round.after();
        let initial = round.since.is_none();
        match &membership.membership {
            MembershipState::Join => {
                let mut known = !initial && (!is_new || self.was_joined(user_id, room_id, round.after()).await?);
                // MSC3902: who does not load members lazily is shown the room when all of them are here, as new.
                if round.request.filter.members == Members::All
                    && let Some(partial) = self.store().partial.get(room_id)
                {
                    match partial.completed {
                        None => return Ok((sections, company)),
                        Some(completed) => known &= completed <= round.after(),
                    }
                }
                let has_data =
                    || round.account_data.iter().any(|data| data.room_id.as_deref() == Some(room_id.as_str()));
                let may_have_news = !known
                    || round.request.full_state
                    || changed.events
                    || changed.receipts
                    || typing
                    || round.read.contains(room_id)
                    || has_data();
                if !may_have_news {
                    return Ok((sections, company));
                }
                let joined =
                    self.joined_room(round, membership, known, changed.events || is_new, changed.receipts).await?;
                if !initial {
                    company.joined.extend(joined.members.joined);
                    company.invited.extend(joined.members.invited);
                    company.left.extend(joined.members.left);
                    if !known {
                        company.new_rooms.push(room_id.clone());
                    }
                }
                if let Some(json) = joined.json {
                    sections.join.push((room_id.to_string(), json));
                }
            }
            MembershipState::Invite if (initial || is_new) && !round.ignored.contains(&membership.sender) => {
                let filter = self.engines.accounts.invite_filter(user_id).await?;
                if filter.verdict(&membership.sender) != InviteVerdict::Allow {
                    return Ok((sections, company));
                }
                let json = self.outside_room(membership, user_id, "invite_state").await?;
                sections.invite.push((room_id.to_string(), json));
            }
            MembershipState::Knock if initial || is_new => {
                let json = self.outside_room(membership, user_id, "knock_state").await?;
                sections.knock.push((room_id.to_string(), json));
            }
            MembershipState::Leave | MembershipState::Ban => {
                let wanted = if initial { round.request.filter.include_leave } else { is_new };
                let archived = !initial && !is_new && round.request.full_state && round.request.filter.include_leave;
                if !wanted && !archived {
                    return Ok((sections, company));
                }
                let known = !initial && is_new && self.was_joined(user_id, room_id, round.after()).await?;
                if known {
                    company.left_rooms.push((room_id.clone(), membership.position));
                }
                if initial && self.never_was_there(user_id, membership).await? {
                    return Ok((sections, company));
                }
                if let Some(json) = self.left_room(round, membership, known).await? {
                    sections.leave.push((room_id.to_string(), json));
                }
            }
            _ => {}
        }
        Ok((sections, company))
    }

    /// Whether the user has never been in a room that they are not in now.
    pub(crate) async fn never_was_there(
        &self,
        user_id: &OwnedUserId,
        membership: &RoomMembership,
    ) -> Result<bool, SyncError> {
        let room = self.engines.rooms.room(&membership.room_id).await?;
        Ok(self.engines.rooms.joined_until(user_id, &room).await?.is_none())
    }

    async fn account_data(&self, round: &Round<'_>) -> Result<Vec<String>, SyncError> {
        let filter = &round.request.filter.account_data;
        if filter.passes_none() {
            return Ok(Vec::new());
        }
        let user_id = &round.request.user_id;
        let data = self.engines.accounts.account_data_changed(user_id, round.after(), round.until).await?;
        Ok(data
            .iter()
            .filter(|data| filter.passes(&data.data_type, user_id.as_str(), data.content.get()))
            .map(|data| json::event(&data.data_type, data.content.get()))
            .collect())
    }

    /// Presence of those who share a room with the user.
    async fn presence(
        &self,
        round: &Round<'_>,
        memberships: &[RoomMembership],
        until: u64,
        company: &Company,
    ) -> Result<Vec<String>, SyncError> {
        let presence = &self.engines.edus.presence;
        let filter = &round.request.filter.presence;
        if !presence.is_enabled() || filter.passes_none() || !filter.passes_type("m.presence") {
            return Ok(Vec::new());
        }
        let user_id = &round.request.user_id;
        let mut changed = presence.changed(round.since.map_or(0, |since| since.presence), until);
        let newcomers = self.newcomers(round, memberships, company).await?;
        let few = newcomers.len() <= NEWCOMERS_MAX;
        for other in newcomers.into_iter().filter(|other| other != user_id) {
            let entry = presence.get(&other).or_else(|| few.then(PresenceEntry::unknown));
            if let Some(entry) = entry
                && !changed.iter().any(|(changed, _)| *changed == other)
            {
                changed.push((other, entry));
            }
        }
        changed.retain(|(other, entry)| {
            filter.passes_sender(other.as_str())
                && !round.ignored.contains(other)
                && (round.since.is_some() || entry.state != PresenceState::Offline)
        });
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let joined_somewhere = memberships.iter().any(|membership| membership.membership == MembershipState::Join);
        let others: Vec<OwnedUserId> = changed.iter().map(|(other, _)| other.clone()).collect();
        let sharing: HashSet<OwnedUserId> = match joined_somewhere {
            true => self.store().graph.sharing_rooms_with(user_id, &others).await?.into_iter().collect(),
            false => HashSet::new(),
        };
        let now_ms = presence.now_ms();
        Ok(changed
            .iter()
            .filter(|(other, _)| other == user_id || sharing.contains(other))
            .map(|(other, entry)| {
                Value::to_string(&serde_json::json!({
                    "type": "m.presence",
                    "sender": other,
                    "content": entry.content(now_ms),
                }))
            })
            .collect())
    }

    /// Users whom the reader sees now and did not before.
    async fn newcomers(
        &self,
        round: &Round<'_>,
        memberships: &[RoomMembership],
        company: &Company,
    ) -> Result<HashSet<OwnedUserId>, SyncError> {
        let mut newcomers = company.joined.clone();
        // MSC3902: who is in a room is known only once its state is whole.
        let mut whole = match round.since {
            Some(_) => self.store().partial.completed_since(round.after()),
            None => Vec::new(),
        };
        whole.retain(|room_id| {
            !company.new_rooms.contains(room_id)
                && memberships
                    .iter()
                    .any(|membership| membership.room_id == *room_id && membership.membership == MembershipState::Join)
        });
        for room_id in company.new_rooms.iter().chain(&whole) {
            if let Some(room) = self.store().graph.room(room_id).await? {
                let members = self.store().graph.members(room.nid, &[MembershipState::Join]).await?;
                newcomers.extend(members.into_iter().map(|member| member.user_id));
            }
        }
        Ok(newcomers)
    }

    async fn to_device(
        &self,
        round: &Round<'_>,
        device_id: &OwnedDeviceId,
        next: &mut SyncToken,
    ) -> Result<Vec<String>, SyncError> {
        let since = round.since.map_or(0, told_upto);
        let messages = self
            .engines
            .e2ee
            .to_device_after(&round.request.user_id, device_id, since, round.until, TO_DEVICE_MAX)
            .await?;
        if i64::try_from(messages.len()).unwrap_or(0) == TO_DEVICE_MAX
            && let Some(last) = messages.last()
        {
            next.to_device = last.position;
        }
        Ok(messages.iter().map(|message| message.event.get().to_owned()).collect())
    }

    /// Whom the user ignores.
    pub(crate) async fn ignored(
        &self,
        listener: &Listener,
        until: i64,
    ) -> Result<Arc<HashSet<OwnedUserId>>, SyncError> {
        if let Some(ignored) = listener.ignored() {
            return Ok(ignored);
        }
        let ignored = Arc::new(self.engines.accounts.ignored(&listener.user_id).await?);
        listener.keep_ignored(until, &ignored);
        Ok(ignored)
    }

    async fn write_keys(
        &self,
        object: &mut Object<'_>,
        round: &Round<'_>,
        listener: &Listener,
        device_id: &OwnedDeviceId,
    ) -> Result<(), SyncError> {
        let counts = match listener.key_counts(device_id) {
            Some(counts) => counts,
            None => {
                let (e2ee, user_id) = (&self.engines.e2ee, &round.request.user_id);
                let one_time = e2ee.one_time_key_counts(user_id, device_id).await?.into_iter().collect();
                let unused_fallback = e2ee.unused_fallback_types(user_id, device_id).await?.into();
                let counts = KeyCounts { one_time, unused_fallback };
                listener.keep_key_counts(device_id, round.until, &counts);
                counts
            }
        };
        let mut inner = Object::new(object.key("device_one_time_keys_count"));
        for (algorithm, count) in counts.one_time.iter() {
            inner.number(algorithm, *count);
        }
        inner.end();
        for name in ["device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types"] {
            json::texts(object.key(name), counts.unused_fallback.iter());
        }
        Ok(())
    }
}

/// Up to where a token's holder has to-device messages.
fn told_upto(since: SyncToken) -> i64 {
    if since.to_device == 0 { since.position.0 } else { since.to_device }
}

/// The rooms of an answer by section, written.
#[derive(Default)]
struct Sections {
    join: Vec<(String, String)>,
    invite: Vec<(String, String)>,
    knock: Vec<(String, String)>,
    leave: Vec<(String, String)>,
}

impl Sections {
    fn extend(&mut self, other: Self) {
        self.join.extend(other.join);
        self.invite.extend(other.invite);
        self.knock.extend(other.knock);
        self.leave.extend(other.leave);
    }

    fn finish(self) -> String {
        let sections = [("invite", self.invite), ("join", self.join), ("knock", self.knock), ("leave", self.leave)];
        if sections.iter().all(|(_, rooms)| rooms.is_empty()) {
            return String::new();
        }
        let bytes: usize =
            sections.iter().flat_map(|(_, rooms)| rooms).map(|(id, json)| id.len() + json.len() + 4).sum();
        let mut out = String::with_capacity(bytes + 64);
        let mut object = Object::new(&mut out);
        for (name, rooms) in sections {
            object.object(name, |inner| {
                for (room_id, json) in rooms {
                    inner.raw(&room_id, &json);
                }
            });
        }
        object.end();
        out
    }
}
