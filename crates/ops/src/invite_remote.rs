//! Invites between servers, both ways.

use ruma::{
    EventId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        RawStrippedState,
        create_invite::{v1, v2},
    },
    events::{StateEventType, room::member::MembershipState},
};
use samtal_event::{Draft, Origin as Source, Pdu, has_valid_signature};
use samtal_keyring::{Purpose, Wanted};
use samtal_policy::{Action, Direction};
use samtal_remote::{Options, Urgency};
use samtal_room::{Ingest, Ingested, Room, RoomError, membership_of};
use serde_json::{Value, value::RawValue};

use crate::{Content, Homeserver, OpError, handshake::rules_or_refuse};

/// State that whoever is invited or knocks may see beforehand (CS API, "Stripped state").
const STRIPPED: &[&str] = &[
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// An invite as another server sends it.
#[derive(Debug)]
pub struct IncomingInvite<'a> {
    /// Who sends it.
    pub origin: &'a ServerName,
    /// The room and the event that the path names.
    pub room_id: &'a RoomId,
    /// See `room_id`.
    pub event_id: &'a EventId,
    /// The room's version.
    pub version: &'a RoomVersionId,
    /// The invite.
    pub event: &'a RawValue,
    /// What may be seen of the room.
    pub state: &'a [RawStrippedState],
}

impl Homeserver {
    /// Invites a user of another server: it signs the invite, then the room has it.
    pub(crate) async fn invite_remote(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        content: Content,
    ) -> Result<(), OpError> {
        let server = target.server_name();
        let room = self.rooms.room(room_id).await?;
        let state = self.stripped_events(room_id, Some(sender)).await?;
        self.review_invite(server, Direction::Outbound, room_id, &state, false)?;
        let draft = Draft::state_of(&StateEventType::RoomMember, target.as_str(), &content)?;
        let unsigned = self.rooms.template(room_id, sender, &draft).await?;
        let invite = self.rooms.sign(&unsigned, &room)?.into_pdu();
        let invite = self.rooms.recommended(&room, &invite, true).await?;
        let signed = self.ask_to_sign(server, &room, &invite, &state).await?;
        match self.rooms.ingest(&room, &signed, None, None).await? {
            Ingest::Done(Ingested::Accepted | Ingested::Duplicate) => Ok(()),
            Ingest::Done(Ingested::Rejected(reason) | Ingested::SoftFailed(reason)) => {
                Err(RoomError::Refused(reason).into())
            }
            Ingest::NeedPrev(_) | Ingest::NeedAuth(_) => Err(RoomError::Busy.into()),
        }
    }

    async fn ask_to_sign(&self, server: &ServerName, room: &Room, invite: &Pdu, state: &[Pdu]) -> Result<Pdu, OpError> {
        let options = Options { urgency: Urgency::Always, ..Options::default() };
        let full = || state.iter().map(|pdu| RawStrippedState::Pdu(pdu.to_raw())).collect::<Vec<_>>();
        let (room_id, event_id) = (room.room_id.clone(), invite.event_id().to_owned());
        let request =
            v2::Request::new(room_id.clone(), event_id.clone(), room.version.clone(), invite.to_raw(), full());
        let answered = match self.remote.send_with(server, request, options).await {
            Ok(answer) => answer.event,
            Err(error)
                if matches!(room.version, RoomVersionId::V1 | RoomVersionId::V2)
                    && error.status().is_some_and(|status| matches!(status.as_u16(), 400 | 404)) =>
            {
                self.ask_to_sign_v1(server, room, invite, full(), options).await?
            }
            Err(error) => return Err(error.into()),
        };
        let signed = self.received_one(&room_id, room.rules, &answered).await?;
        let wanted: Vec<Wanted> = self.wanted_of(server, &signed, room);
        let keys = self
            .keyring
            .keys_for(&wanted, &self.remote)
            .await
            .map_err(|error| OpError::BadRemote(error.to_string()))?;
        let ts_ms = u64::try_from(signed.origin_server_ts_ms()).unwrap_or(0);
        let keys = keys.of_servers([server], ts_ms, room.rules.enforce_key_validity);
        if signed.event_id() != event_id || !has_valid_signature(&signed, server, &keys, room.rules) {
            return Err(OpError::BadRemote("the invite came back without a good signature".into()));
        }
        Ok(signed)
    }

    fn wanted_of(&self, server: &ServerName, pdu: &Pdu, room: &Room) -> Vec<Wanted> {
        let ts_ms = u64::try_from(pdu.origin_server_ts_ms()).unwrap_or(0);
        let purpose = Purpose::Event { ts_ms, enforce: room.rules.enforce_key_validity };
        let json: Value = serde_json::from_str(pdu.json()).unwrap_or_default();
        let ids = json.get("signatures").and_then(|all| all.get(server.as_str())).and_then(Value::as_object);
        ids.into_iter()
            .flat_map(|ids| ids.keys())
            .map(|key_id| Wanted { server: server.to_owned(), key_id: key_id.clone(), purpose })
            .collect()
    }

    /// Servers from before room version 3 know only the first form, which is the event itself.
    async fn ask_to_sign_v1(
        &self,
        server: &ServerName,
        room: &Room,
        invite: &Pdu,
        state: Vec<RawStrippedState>,
        options: Options,
    ) -> Result<Box<RawValue>, OpError> {
        let mut event: Value =
            serde_json::from_str(invite.json()).map_err(|error| OpError::BadContent(error.to_string()))?;
        let state: Vec<Value> = state.iter().filter_map(|event| serde_json::to_value(event).ok()).collect();
        event["unsigned"] = serde_json::json!({ "invite_room_state": state });
        let request = v1::Request::from(v1::RequestInit {
            room_id: room.room_id.clone(),
            event_id: invite.event_id().to_owned(),
            sender: invite.sender().to_owned(),
            origin: self.name.clone(),
            origin_server_ts: invite.origin_server_ts(),
            state_key: UserId::parse(invite.state_key().unwrap_or_default())
                .map_err(|error| OpError::Invalid(error.to_string()))?,
            content: invite.content_as().map_err(|error| OpError::BadContent(error.to_string()))?,
            unsigned: v1::UnsignedEventContent::new(),
        });
        // ruma's type holds only part of the event, but the whole must be signed: so the body is our own.
        let mut request = samtal_remote::client::into_http(request)?;
        *request.body_mut() = event.to_string().into();
        let answer = self.remote.send_raw(server, request, options).await?;
        let answer: Value =
            serde_json::from_slice(answer.body()).map_err(|error| OpError::BadRemote(error.to_string()))?;
        let event = answer.get(1).and_then(|answer| answer.get("event")).unwrap_or(&Value::Null).to_string();
        RawValue::from_string(event).map_err(|error| OpError::BadRemote(error.to_string()))
    }

    /// The state events that whoever is invited or knocks may see, and the inviter's membership.
    pub async fn stripped_events(&self, room_id: &RoomId, inviter: Option<&UserId>) -> Result<Vec<Pdu>, OpError> {
        let mut found = Vec::new();
        for event_type in STRIPPED {
            found.extend(self.rooms.current_state(room_id, event_type, "").await?.map(|event| event.pdu.clone()));
        }
        if let Some(inviter) = inviter {
            found.extend(
                self.rooms
                    .current_state(room_id, "m.room.member", inviter.as_str())
                    .await?
                    .map(|event| event.pdu.clone()),
            );
        }
        Ok(found)
    }

    /// Takes an invite of a user of ours, and signs it.
    pub async fn receive_invite(&self, invite: IncomingInvite<'_>) -> Result<Pdu, OpError> {
        let rules = rules_or_refuse(invite.version)?;
        let pdu = self.received_one(invite.room_id, rules, invite.event).await?;
        if pdu.event_id() != invite.event_id {
            return Err(OpError::Invalid("the path names another event".into()));
        }
        let target = pdu.state_key().and_then(|user| UserId::parse(user).ok());
        let target = target
            .filter(|user| self.is_local(user))
            .ok_or_else(|| OpError::Invalid("nobody of this server is invited".into()))?;
        if membership_of(&pdu) != Some(MembershipState::Invite) || pdu.sender().server_name() != invite.origin {
            return Err(OpError::Invalid("the event is no invite of the server that sends it".into()));
        }
        if self.rooms.is_blocked(invite.room_id).await? {
            return Err(RoomError::Blocked.into());
        }
        // Whether there is such a user is nobody's business.
        if self.accounts.user(&target).await?.is_some_and(|user| user.deactivated) {
            return Err(OpError::Forbidden("the user cannot be invited".into()));
        }
        self.check_server(invite.room_id, invite.origin, Action::Invite).await?;
        let room = self.rooms.ensure_room(invite.room_id, invite.version).await?;
        let state = self.full_state(&room, invite.state).await?;
        let has_create = state.iter().any(|pdu| pdu.is_state_of("m.room.create", ""));
        if rules.authorization.room_create_event_id_as_room_id && !has_create {
            return Err(OpError::BadContent("invite_room_state has no good create event".into()));
        }
        let is_unwanted = match self.check_invite(pdu.sender(), &target).await {
            Ok(()) => false,
            Err(OpError::InviteBlocked) => true,
            Err(error) => return Err(error),
        };
        let is_held = self.review_invite(invite.origin, Direction::Inbound, invite.room_id, &state, is_unwanted)?;
        let signed = self.rooms.cosign(&pdu, &room)?;
        // A server that is in the room gets the invite as an event of the room too.
        let is_resident =
            self.rooms.store().head(&room).await?.is_some() && self.rooms.has_server(&room, &self.name).await?;
        if is_resident && is_held {
            return Err(OpError::Forbidden("invites of servers that nobody named are not accepted".into()));
        }
        if !is_resident {
            let stripped = self.stripped(&room, invite.state).await?;
            if is_held {
                self.hold_invite(&room, &target, &signed, stripped).await?;
            } else {
                self.rooms.note_outside(&room, &target, &signed, Some(&stripped)).await?;
            }
        }
        Ok(signed)
    }

    async fn full_state(&self, room: &Room, state: &[RawStrippedState]) -> Result<Vec<Pdu>, OpError> {
        let full: Vec<Box<RawValue>> = state
            .iter()
            .filter_map(|event| match event {
                RawStrippedState::Pdu(event) => Some(event.clone()),
                _ => None,
            })
            .take(200)
            .collect();
        self.received(room, &full, Source::History).await
    }
}
