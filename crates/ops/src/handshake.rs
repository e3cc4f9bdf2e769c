//! Our side of make and send: joining, knocking and leaving through a server that is in the room.

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomVersionId, ServerName,
    UserId,
    api::federation::{
        membership::{
            RawStrippedState, create_join_event::v2 as send_join, create_knock_event::v1 as send_knock,
            create_leave_event::v2 as send_leave, prepare_join_event::v1 as make_join,
            prepare_knock_event::v1 as make_knock, prepare_leave_event::v1 as make_leave,
        },
        query::get_room_information::v1 as directory,
    },
    events::StateEventType,
    room_version_rules::RoomVersionRules,
};
use samtal_db::Lease;
use samtal_event::{Draft, Origin as Source, ParsedPdu, Pdu, UnsignedPdu, build, rules_of, stripped_form};
use samtal_policy::Action;
use samtal_remote::{Options, RemoteError, Urgency};
use samtal_room::{Ingested, PartialEntry, Room, RoomError};
use serde_json::{Value, value::RawValue};

use crate::{
    Content, Homeserver, OpError,
    gap::{STATE_BYTES_MAX, STATE_TIME},
};

/// Servers that are tried.
const SERVERS_MAX: usize = 8;
/// A server gets so long to make a template.
const TEMPLATE_TIME: Duration = Duration::from_secs(20);
/// A server gets so long to hear that a join came to nothing.
const TAKE_BACK_TIME: Duration = Duration::from_secs(10);

impl Homeserver {
    /// Lets a user of ours join a room of other servers: each is tried until one lets us in.
    pub(crate) async fn join_remote(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        content: Content,
    ) -> Result<(), OpError> {
        let entering = self.inbound.entering(room_id);
        let _entering = entering.lock().await;
        let _joining = self.inbound.joining();
        let _lease = self.lease_entering(room_id).await?;
        let mut refusals = Refusals::default();
        for server in via.iter().take(SERVERS_MAX) {
            match Box::pin(self.join_through(user, room_id, server, &content)).await {
                Ok(()) => return Ok(()),
                Err(error) => refusals.note(room_id, server, error),
            }
        }
        Err(refusals.worst())
    }

    /// Held while this room is entered, so that no other node does it at once: what came to nothing is deleted.
    async fn lease_entering(&self, room_id: &RoomId) -> Result<Lease, OpError> {
        const PAUSE: Duration = Duration::from_millis(50);
        const PAUSE_MAX: Duration = Duration::from_secs(2);
        const ATTEMPTS: usize = 35;
        let mut pause = PAUSE;
        for _ in 0..ATTEMPTS {
            if let Some(lease) = self.db.lease(&format!("entering {room_id}")).await? {
                return Ok(lease);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(RoomError::Busy.into())
    }

    async fn join_through(
        &self,
        user: &UserId,
        room_id: &RoomId,
        server: &ServerName,
        content: &Content,
    ) -> Result<(), OpError> {
        self.check_outward(server, room_id, Action::Join)?;
        let mut request = make_join::Request::new(room_id.to_owned(), user.to_owned());
        request.ver = known_versions();
        let made = self.remote.send_with(server, request, waiting(TEMPLATE_TIME)).await?;
        let version = made.room_version.unwrap_or_else(|| unnamed_version(&made.event));
        let rules = rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        let mut content = content.clone();
        let authorizer = content_of(&made.event, "join_authorised_via_users_server");
        content.remove("join_authorised_via_users_server");
        if rules.authorization.restricted_join_rule
            && let Some(authorizer) = authorizer
        {
            content.insert("join_authorised_via_users_server".into(), authorizer);
        }
        let room = self.rooms.ensure_room(room_id, &version).await?;
        let entered = self.join_by_template(user, &room, server, &made.event, &content).await;
        if entered.is_err() {
            // The next server may say something else of the room, even which version it has.
            self.rooms.purge_unentered(&room).await?;
        }
        entered
    }

    async fn join_by_template(
        &self,
        user: &UserId,
        room: &Arc<Room>,
        server: &ServerName,
        template: &RawValue,
        content: &Content,
    ) -> Result<(), OpError> {
        let room_id = &room.room_id;
        let join = self.complete_template(room, user, template, content)?;
        let mut request = send_join::Request::new(room_id.to_owned(), join.event_id().to_owned(), join.to_raw());
        request.omit_members = true;
        let options =
            Options { urgency: Urgency::Always, ..Options::default() }.time(STATE_TIME).body_bytes_max(STATE_BYTES_MAX);
        let entered = async {
            let answer = match self.remote.send_raw(server, samtal_remote::into_http(request)?, options).await {
                Ok(answer) => answer,
                Err(error) if is_old(&error) => self.send_join_v1(server, room_id, &join, options).await?,
                Err(error) => return Err(error.into()),
            };
            self.enter(server, room, &join, answer.body()).await
        };
        let entered: Result<(), OpError> = entered.await;
        if let Err(error) = &entered
            && may_have_let_us_in(error)
        {
            // The other servers may think that we are in the room.
            self.take_back(user, room, server).await;
        }
        entered
    }

    /// Makes the room ours: the answer of the server that has taken the join holds its state, or a part of it.
    async fn enter(&self, server: &ServerName, room: &Arc<Room>, join: &Pdu, answer: &[u8]) -> Result<(), OpError> {
        let unreadable = |error: serde_json::Error| OpError::BadRemote(error.to_string());
        let answer: JoinAnswer<'_> = match answer.iter().find(|byte| !byte.is_ascii_whitespace()) {
            // The form of before room version 3 is a list of a number and what we want.
            Some(b'[') => serde_json::from_slice::<(u16, _)>(answer).map_err(unreadable)?.1,
            _ => serde_json::from_slice(answer).map_err(unreadable)?,
        };
        let join = self.accepted_join(room, join.clone(), answer.event).await?;
        let texts: Vec<&str> = answer.auth_chain.iter().chain(&answer.state).map(|event| event.get()).collect();
        self.hold_texts(room, &texts).await?;
        let told: Vec<OwnedEventId> = answer.state.iter().filter_map(|event| event_id_of(room, event)).collect();
        let state = self.rooms.store().graph.events(&told).await?;
        let create = state.iter().find(|event| event.pdu.is_state_of("m.room.create", ""));
        let create = create.ok_or_else(|| OpError::BadRemote("the room's state has no create event".into()))?;
        check_version(&create.pdu, &room.version)?;
        self.check_entering(server, &room.room_id, state.iter().map(|event| &event.pdu))?;
        let ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        drop(state);
        if !self.unknown(join.auth_events()).await?.is_empty() {
            self.fetch_auth(server, room, &join, join.auth_events()).await?;
        }
        let goes_on =
            self.rooms.has_server(room, &self.name).await? || self.stands_on_what_is_here(room, &join).await?;
        if self.rooms.store().head(room).await?.is_some() && goes_on {
            // Others of us are in the room already: the join is one more event of it.
            return match self.take_in(server, room, &join).await? {
                Ingested::Accepted | Ingested::Duplicate => Ok(()),
                Ingested::Rejected(reason) | Ingested::SoftFailed(reason) => Err(RoomError::Refused(reason).into()),
            };
        }
        let partial = answer.members_omitted.then(|| PartialEntry {
            through: server.to_owned(),
            servers: answer.servers_in_room.into_iter().flatten().collect(),
        });
        self.rooms.adopt(room, join, &ids, partial).await?;
        Ok(())
    }

    /// Whether a join comes right after what we know of a room whose state is on its way: nothing has happened there since one of us
    /// left, so nothing is to be fetched anew.
    async fn stands_on_what_is_here(&self, room: &Room, join: &Pdu) -> Result<bool, OpError> {
        let store = self.rooms.store();
        if !store.partial.is_partial(&room.room_id) {
            return Ok(false);
        }
        let prev = store.graph.events(join.prev_events()).await?;
        let placed = prev.iter().filter(|event| event.room == room.nid && event.before.is_some()).count();
        Ok(placed == join.prev_events().len())
    }

    /// Tells the server that has, or may have, taken a join of which nothing came that the user is not there.
    async fn take_back(&self, user: &UserId, room: &Room, server: &ServerName) {
        if !matches!(self.rooms.has_server(room, &self.name).await, Ok(false)) {
            return;
        }
        let content = Content::from_iter([("membership".to_owned(), "leave".into())]);
        let left = tokio::time::timeout(TAKE_BACK_TIME, self.leave_through(user, room, server, &content)).await;
        if !matches!(left, Ok(Ok(_))) {
            tracing::debug!(room = %room.room_id, %server, "no leave after a failed join");
        }
    }

    /// The form of before room version 3, whose answer is a list of a number and what we want.
    async fn send_join_v1(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        join: &Pdu,
        options: Options,
    ) -> Result<http::Response<bytes::Bytes>, OpError> {
        let request = send_join::Request::new(room_id.to_owned(), join.event_id().to_owned(), join.to_raw());
        let mut request = samtal_remote::client::into_http(request)?;
        let path = request.uri().to_string().replacen("/v2/", "/v1/", 1);
        *request.uri_mut() = path.parse().map_err(|_| OpError::BadRequest("the room id makes no path".into()))?;
        Ok(self.remote.send_raw(server, request, options).await?)
    }

    /// The join as the other server (in restricted rooms) or the room's policy server has signed it too, or as we made it.
    async fn accepted_join(&self, room: &Room, join: Pdu, answered: Option<&RawValue>) -> Result<Pdu, OpError> {
        let Some(answered) = answered else { return Ok(join) };
        let is_needed = join.content_field::<String>("join_authorised_via_users_server").is_some();
        match self.received_one(&room.room_id, room.rules, answered).await {
            Ok(signed) if signed.event_id() == join.event_id() => Ok(signed),
            // Only a restricted room needs what was added.
            _ if !is_needed => Ok(join),
            Ok(_) => Err(OpError::BadRemote("another join came back".into())),
            Err(error) => Err(error),
        }
    }

    /// Completes, hashes and signs a template.
    fn complete_template(
        &self,
        room: &Room,
        user: &UserId,
        template: &RawValue,
        content: &Content,
    ) -> Result<Pdu, OpError> {
        let content = Value::Object(content.clone()).to_string();
        let now_ms = self.clock.signed_now_ms();
        let unsigned = UnsignedPdu::from_template(template.get(), user, &room.room_id, &content, now_ms, room.rules)
            .map_err(|error| OpError::BadRemote(format!("the template cannot be used: {error}")))?;
        Ok(self.rooms.sign(&unsigned, room)?.into_pdu())
    }

    /// Lets a user of ours knock at a room of other servers.
    pub(crate) async fn knock_remote(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        content: Content,
    ) -> Result<(), OpError> {
        let mut refusals = Refusals::default();
        for server in via.iter().take(SERVERS_MAX) {
            match self.knock_through(user, room_id, server, &content).await {
                Ok(()) => return Ok(()),
                Err(error) => refusals.note(room_id, server, error),
            }
        }
        Err(refusals.worst())
    }

    async fn knock_through(
        &self,
        user: &UserId,
        room_id: &RoomId,
        server: &ServerName,
        content: &Content,
    ) -> Result<(), OpError> {
        self.check_outward(server, room_id, Action::Join)?;
        let mut request = make_knock::Request::new(room_id.to_owned(), user.to_owned());
        request.ver = known_versions();
        let made = self.remote.send_with(server, request, waiting(TEMPLATE_TIME)).await?;
        let room = self.rooms.ensure_room(room_id, &made.room_version).await?;
        if !room.rules.authorization.knocking {
            return Err(OpError::Forbidden("this room's version knows no knocking".into()));
        }
        let knock = self.complete_template(&room, user, &made.event, content)?;
        let request = send_knock::Request::new(room_id.to_owned(), knock.event_id().to_owned(), knock.to_raw());
        let answer = self.remote.send_with(server, request, waiting(STATE_TIME)).await?;
        let stripped = self.stripped(&room, &answer.knock_room_state).await?;
        self.rooms.note_outside(&room, user, &knock, Some(&stripped)).await?;
        Ok(())
    }

    /// Lets a user of ours leave a room that we are not in: an invite is refused or a knock taken back. If no server takes it, the user
    /// is rid of it here all the same.
    pub(crate) async fn leave_remote(&self, user: &UserId, room_id: &RoomId, content: Content) -> Result<(), OpError> {
        let room = self.rooms.room(room_id).await?;
        let via = self.candidates(user, room_id, &[]).await?;
        for server in via.iter().take(SERVERS_MAX) {
            match self.leave_through(user, &room, server, &content).await {
                Ok(leave) => return Ok(self.rooms.note_outside(&room, user, &leave, None).await?),
                Err(error) => tracing::info!(room = %room_id, %server, %error, "no leave through this server"),
            }
        }
        let leave = self.leave_alone(user, &room, &content).await?;
        Ok(self.rooms.note_outside(&room, user, &leave, None).await?)
    }

    pub(crate) async fn leave_through(
        &self,
        user: &UserId,
        room: &Room,
        server: &ServerName,
        content: &Content,
    ) -> Result<Pdu, OpError> {
        let request = make_leave::Request::new(room.room_id.clone(), user.to_owned());
        let made = self.remote.send_with(server, request, waiting(TEMPLATE_TIME)).await?;
        if made.room_version.is_some_and(|version| version != room.version) {
            return Err(OpError::BadRemote("the room has another version".into()));
        }
        let leave = self.complete_template(room, user, &made.event, content)?;
        let request = send_leave::Request::new(room.room_id.clone(), leave.event_id().to_owned(), leave.to_raw());
        self.remote.send_with(server, request, waiting(TEMPLATE_TIME)).await?;
        Ok(leave)
    }

    /// A leave that nobody else will see, after the invite or knock it ends.
    async fn leave_alone(&self, user: &UserId, room: &Room, content: &Content) -> Result<Pdu, OpError> {
        let member = self.rooms.store().graph.membership(user, &room.room_id).await?;
        let member = member.ok_or(RoomError::UnknownRoom)?;
        let before = self.rooms.event(&member.event_id).await?;
        let draft = Draft::state_of(&StateEventType::RoomMember, user.as_str(), content)?;
        let now_ms = self.clock.signed_now_ms();
        let unsigned = build(
            &draft,
            user,
            &room.room_id,
            &[&before.pdu],
            &[&before.pdu],
            before.pdu.depth() + 1,
            now_ms,
            room.rules,
        );
        Ok(self.rooms.sign(&unsigned, room)?.into_pdu())
    }

    /// The room that an alias of another server names, and servers that are in it.
    pub(crate) async fn alias_remote(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), OpError> {
        let request = directory::Request::new(OwnedRoomAliasId::from(alias));
        let answer = self.remote.send_with(alias.server_name(), request, waiting(TEMPLATE_TIME)).await;
        match answer {
            Ok(mut answer) => {
                if answer.servers.is_empty() {
                    answer.servers.push(alias.server_name().to_owned());
                }
                Ok((answer.room_id, answer.servers))
            }
            Err(error) if error.status().is_some_and(|status| status.is_client_error()) => {
                Err(OpError::NotFound(format!("room alias {alias} not found")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stripped state as clients see it, from the full events other servers send (or the stripped ones of old servers): a JSON list.
    pub(crate) async fn stripped(&self, room: &Room, state: &[RawStrippedState]) -> Result<String, OpError> {
        let mut list = Vec::new();
        let mut full = Vec::new();
        for event in state.iter().take(200) {
            match event {
                RawStrippedState::Pdu(event) => full.push(event.clone()),
                #[expect(deprecated, reason = "servers older than Matrix 1.16 send them so")]
                RawStrippedState::Stripped(event) => list.push(old_stripped(event.json())),
                // The type may grow.
                _ => {}
            }
        }
        let mut list: Vec<String> = list.into_iter().flatten().collect();
        for pdu in self.received(room, &full, Source::History).await? {
            list.push(stripped_form(&pdu).get().to_owned());
        }
        Ok(format!("[{}]", list.join(",")))
    }
}

/// All room versions we know, as `ver` says them.
pub(crate) fn known_versions() -> Vec<RoomVersionId> {
    use RoomVersionId::{V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12};
    vec![V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12]
}

/// A person waits for this.
fn waiting(time: Duration) -> Options {
    Options { urgency: Urgency::Always, ..Options::default() }.time(time)
}

/// The server knows only the form before.
fn is_old(error: &RemoteError) -> bool {
    let is_unknown = matches!(error.errcode(), Some("M_UNRECOGNIZED" | "M_UNKNOWN" | "M_NOT_FOUND"));
    is_unknown && error.status().is_some_and(|status| matches!(status.as_u16(), 400 | 404 | 405))
}

/// What the servers said that were asked to let somebody in.
#[derive(Default)]
struct Refusals(Option<OpError>);

impl Refusals {
    /// Keeps the one that says more: that of a server that answered.
    fn note(&mut self, room_id: &RoomId, server: &ServerName, error: OpError) {
        tracing::info!(room = %room_id, %server, %error, "no way in through this server");
        if self.0.as_ref().is_none_or(|before| Self::weight(before) < Self::weight(&error)) {
            self.0 = Some(error);
        }
    }

    fn weight(error: &OpError) -> u8 {
        let OpError::Remote(error) = error else { return 0 };
        match error.status() {
            Some(http::StatusCode::FORBIDDEN) => 3,
            Some(status) if status.is_client_error() && status != http::StatusCode::NOT_FOUND => 2,
            Some(_) => 1,
            None => 0,
        }
    }

    fn worst(self) -> OpError {
        self.0.unwrap_or_else(|| OpError::NotFound("no server is known that is in the room".into()))
    }
}

/// The answer of `send_join`, as it came: a large room's is not copied.
#[derive(serde::Deserialize)]
struct JoinAnswer<'a> {
    #[serde(borrow)]
    state: Vec<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    members_omitted: bool,
    #[serde(default)]
    servers_in_room: Option<Vec<OwnedServerName>>,
}

/// The id of an event as it came; none of what is no event of this room.
fn event_id_of(room: &Room, event: &RawValue) -> Option<OwnedEventId> {
    let parsed = ParsedPdu::from_bytes_of(event.get().as_bytes(), room.rules, Source::History).ok()?;
    (parsed.room_id() == room.room_id).then(|| parsed.event_id().to_owned())
}

/// The version of a template that names none: 1, as the specification says; or, where it has the form that events have from version
/// 3 on, 3. The room's create event has to say the same.
fn unnamed_version(template: &RawValue) -> RoomVersionId {
    #[derive(serde::Deserialize)]
    struct Template {
        prev_events: Vec<Value>,
    }
    match serde_json::from_str::<Template>(template.get()) {
        Ok(template) if template.prev_events.first().is_some_and(Value::is_string) => RoomVersionId::V3,
        _ => RoomVersionId::V1,
    }
}

/// Whether a join that failed here may have been taken there.
fn may_have_let_us_in(error: &OpError) -> bool {
    match error {
        OpError::Remote(RemoteError::Timeout(_) | RemoteError::Malformed { .. }) => true,
        OpError::Remote(error) => error.status().is_some_and(|status| status.is_server_error()),
        // Then it should not have been taken there either.
        OpError::Room(RoomError::Refused(_)) => false,
        _ => true,
    }
}

fn content_of(event: &RawValue, field: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(event.get()).ok()?;
    event.get("content")?.get(field).filter(|value| value.is_string()).cloned()
}

fn check_version(create: &Pdu, version: &RoomVersionId) -> Result<(), OpError> {
    let said = create.content_field::<String>("room_version").unwrap_or_else(|| "1".to_owned());
    if said == version.as_str() {
        Ok(())
    } else {
        Err(OpError::BadRemote("the create event says another room version".into()))
    }
}

/// The stripped form of an event that came without signatures.
fn old_stripped(event: &RawValue) -> Option<String> {
    let event: Value = serde_json::from_str(event.get()).ok()?;
    let mut stripped = serde_json::Map::new();
    for field in ["type", "state_key", "sender", "content"] {
        stripped.insert(field.to_owned(), event.get(field)?.clone());
    }
    Some(Value::Object(stripped).to_string())
}

/// Something both sides need: rules by version.
pub(crate) fn rules_or_refuse(version: &RoomVersionId) -> Result<&'static RoomVersionRules, OpError> {
    rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()).into())
}
