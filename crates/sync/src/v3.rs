//! `GET /v3/sync`: one answer, or the wait for something to tell.

mod presence;
mod rooms;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ruma::{OwnedDeviceId, OwnedUserId, presence::PresenceState};
use samtal_edu::Edus;
use samtal_model::SyncToken;
use tokio::sync::OnceCell;

use crate::{
    Sync, SyncError,
    filter::{Filter, Members},
    json::{self, Object},
    listener::{KeyCounts, Listener},
    room::Round,
    view::Reader,
};

/// To-device messages in one answer.
const TO_DEVICE_MAX: i64 = 100;
/// A device hears of its own event by sync not before it is so old: clients are confused (matrix-js-sdk in threads) when the
/// answer to their sending comes after it. That holds for a sync that did not wait, too: it may have been asked for while the
/// event was on its way.
const ECHO_PAUSE_MS: i64 = 25;
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
        edus.presence.sync_began(&request.user_id, request.device_id.as_deref(), &request.set_presence);
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
                    let now_ms = self.engines.clock.signed_now_ms();
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
        if let (Some(device_id), Some(since)) = (&request.device_id, request.since)
            && request.filter.members != Members::All
        {
            self.lazy.rewind(&(request.user_id.clone(), device_id.clone()), since.position.0);
        }
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
