//! The resident's side of make and send: other servers' users join, knock and leave through us.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use samtal_db::{Batch, Change};
use samtal_event::{Draft, Origin as Source, ParsedPdu, Pdu};
use samtal_model::ChangeKind;
use samtal_policy::Action;
use samtal_room::{Ingested, Room, RoomError, StoredEvent, membership_of};
use samtal_state::Part;
use serde_json::{Value, json, value::RawValue};

use crate::{Content, Homeserver, OpError, join_rule, member::allowed_rooms, receive::unusable};

/// Why a resident does not help.
#[derive(Debug, thiserror::Error)]
pub enum ResidentError {
    /// As everything else.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The room has a version that the asker does not know.
    #[error("the room has version {0}")]
    IncompatibleVersion(RoomVersionId),
    /// We are in none of the rooms that would tell.
    #[error("this server cannot tell whether the user may join")]
    UnableToAuthorize,
    /// The user may join, but none of us may let them in.
    #[error("nobody of this server may let the user in")]
    UnableToGrant,
}

impl From<RoomError> for ResidentError {
    fn from(error: RoomError) -> Self {
        Self::Op(error.into())
    }
}

/// A template for another server's user.
#[derive(Clone, Debug)]
pub struct Template {
    /// The room's version.
    pub version: RoomVersionId,
    /// The event without hashes and signatures, as JSON.
    pub event: String,
}

/// What a server gets that has joined.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    /// The join, with our signature where it was needed, and that of the room's policy server.
    pub event: Pdu,
    /// Whether signatures were added.
    pub is_cosigned: bool,
    /// The state before the join.
    pub state: Vec<Pdu>,
    /// Its auth chain.
    pub auth_chain: Vec<Pdu>,
    /// The servers in the room, if members were left out.
    pub servers: Option<Vec<OwnedServerName>>,
}

impl Homeserver {
    /// Makes a join (`ver` are the versions the asker knows), leave or knock for a user of another server.
    pub async fn make_membership(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        membership: MembershipState,
        versions: Option<&[RoomVersionId]>,
    ) -> Result<Template, ResidentError> {
        if user.server_name() != origin {
            return Err(OpError::Forbidden("the user is not of the server that asks".into()).into());
        }
        let room = self.room_for(origin, room_id, action_of(&membership)).await?;
        if membership != MembershipState::Leave {
            self.check_whole(room_id)?;
        }
        if versions.is_some_and(|versions| !versions.contains(&room.version)) {
            return Err(ResidentError::IncompatibleVersion(room.version.clone()));
        }
        if membership == MembershipState::Knock && !room.rules.authorization.knocking {
            return Err(OpError::Forbidden("this room's version knows no knocking".into()).into());
        }
        let mut content = json!({ "membership": membership });
        if membership == MembershipState::Join
            && let Some(authorizer) = self.authorizer_for(&room, user).await?
        {
            content["join_authorised_via_users_server"] = json!(authorizer);
        }
        let draft = Draft::state_of(&StateEventType::RoomMember, user.as_str(), &content).map_err(OpError::from)?;
        let unsigned = self.rooms.template(room_id, user, &draft).await.map_err(|error| match error {
            RoomError::Refused(reason) => ResidentError::Op(OpError::Forbidden(reason)),
            other => other.into(),
        })?;
        Ok(Template { version: room.version.clone(), event: unsigned.json().to_owned() })
    }

    /// Refuses where all of the room's state is needed and we do not have it yet.
    pub fn check_whole(&self, room_id: &RoomId) -> Result<(), OpError> {
        if self.rooms.store().partial.is_partial(room_id) {
            return Err(OpError::NotFound("this server does not know all of the room's state yet".into()));
        }
        Ok(())
    }

    /// The room, if we are in it and the asker may ask about it.
    pub async fn room_for(&self, origin: &ServerName, room_id: &RoomId, action: Action) -> Result<Arc<Room>, OpError> {
        let room = self.resident_room(room_id).await?;
        let room = room.ok_or_else(|| OpError::NotFound("this server is not in the room".into()))?;
        if !self.rooms.has_server(&room, &self.name).await? {
            return Err(OpError::NotFound("this server is not in the room".into()));
        }
        self.check_server(room_id, origin, action).await?;
        Ok(room)
    }

    /// Who of us lets a user into a restricted room; nobody if it needs nobody.
    async fn authorizer_for(&self, room: &Room, user: &UserId) -> Result<Option<ruma::OwnedUserId>, ResidentError> {
        if !room.rules.authorization.restricted_join_rule {
            return Ok(None);
        }
        let rules = self.state_content(&room.room_id, "m.room.join_rules").await?;
        let is_restricted = matches!(join_rule(rules.as_ref()), "restricted" | "knock_restricted");
        let member = self.rooms.current_state(&room.room_id, "m.room.member", user.as_str()).await?;
        let is_let_in = matches!(
            member.and_then(|member| membership_of(&member.pdu)),
            Some(MembershipState::Join | MembershipState::Invite)
        );
        if !is_restricted || is_let_in {
            return Ok(None);
        }
        if allowed_rooms(&rules.clone().unwrap_or_default()).next().is_none() {
            return Err(OpError::Forbidden("nobody may join this room without an invite".into()).into());
        }
        if !self.meets_condition(&rules.clone().unwrap_or_default(), user).await?
            && !self.knows_a_condition(&rules.unwrap_or_default()).await?
        {
            return Err(ResidentError::UnableToAuthorize);
        }
        match self.restricted_authorizer(room, user).await? {
            Some(authorizer) => Ok(Some(authorizer)),
            None => Err(ResidentError::UnableToGrant),
        }
    }

    /// Whether we are in one of the rooms that the join rules name.
    async fn knows_a_condition(&self, rules: &Content) -> Result<bool, OpError> {
        for room_id in allowed_rooms(rules) {
            let Ok(room_id) = RoomId::parse(room_id) else { continue };
            if let Some(room) = self.resident_room(&room_id).await?
                && self.rooms.has_server(&room, &self.name).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the join of another server's user, and tells the room's state before it.
    pub async fn receive_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        raw: &RawValue,
        omit_members: bool,
    ) -> Result<JoinAnswer, ResidentError> {
        let room = self.room_for(origin, room_id, Action::Join).await?;
        self.check_whole(room_id)?;
        let (pdu, is_cosigned) = self.receive_member(origin, &room, event_id, raw, &MembershipState::Join).await?;
        self.take_in_member(origin, &room, &pdu).await?;
        let event = self.rooms.event(pdu.event_id()).await?;
        // With the signature of the room's policy server, where it has one.
        let is_cosigned = is_cosigned || event.pdu.json() != pdu.json();
        let pdu = event.pdu.clone();
        if !omit_members {
            let (state, chain) = self.rooms.state_before(&event).await?;
            let pdus = |events: Vec<Arc<StoredEvent>>| events.iter().map(|event| event.pdu.clone()).collect();
            return Ok(JoinAnswer {
                event: pdu,
                is_cosigned,
                state: pdus(state),
                auth_chain: pdus(chain),
                servers: None,
            });
        }
        let mut servers = self.rooms.store().graph.servers(room.nid).await?;
        // Those before the join.
        if self.rooms.store().graph.joined_of(room.nid, origin).await?.len() <= 1 {
            servers.retain(|server| server != origin);
        }
        let state = self.state_without_members(&event).await?;
        let ids: Vec<OwnedEventId> =
            state.iter().map(|pdu| pdu.event_id().to_owned()).chain(pdu.auth_events().iter().cloned()).collect();
        let sent: HashSet<OwnedEventId> = state.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        let mut auth_chain: Vec<Pdu> =
            self.rooms.auth_chain(&ids).await?.iter().map(|event| event.pdu.clone()).collect();
        for id in pdu.auth_events() {
            if !auth_chain.iter().any(|pdu| pdu.event_id() == id) {
                auth_chain.push(self.rooms.event(id).await?.pdu.clone());
            }
        }
        auth_chain.retain(|pdu| !sent.contains(pdu.event_id()));
        let servers = Some(servers);
        Ok(JoinAnswer { event: pdu, is_cosigned, state, auth_chain, servers })
    }

    /// The state before a join without members, but the one whom it is about and those that name a room without a name (note 37).
    async fn state_without_members(&self, join: &StoredEvent) -> Result<Vec<Pdu>, OpError> {
        /// Members that stand for a room without a name.
        const HEROES: usize = 5;
        /// Members looked at for them in one go, and how often.
        const LOOKED_AT: (usize, usize) = (50, 20);
        let store = self.rooms.store();
        let before = join.before.ok_or(RoomError::UnknownEvent)?;
        let mut state = store.state_part(before, Part::Other).await?;
        let has_text = |event_type: &str, field: &str| {
            let event = state.iter().find(|event| event.pdu.is_state_of(event_type, ""));
            let text = event.and_then(|event| event.pdu.content_field::<Value>(field));
            text.is_some_and(|text| text.as_str().is_some_and(|text| !text.is_empty()))
        };
        let has_name = has_text("m.room.name", "name") || has_text("m.room.canonical_alias", "alias");
        let own = join.pdu.state_key().unwrap_or_default();
        state.extend(store.state_event(before, "m.room.member", own).await?);
        if !has_name {
            let members = store.snapshots.list(before, Part::Members).await?;
            let mut heroes = Vec::new();
            for some in members.chunks(LOOKED_AT.0).take(LOOKED_AT.1) {
                let some = store.in_order(some).await?;
                heroes.extend(some.into_iter().filter(|event| {
                    event.pdu.state_key() != Some(own)
                        && matches!(membership_of(&event.pdu), Some(MembershipState::Join | MembershipState::Invite))
                }));
                if heroes.len() >= HEROES {
                    break;
                }
            }
            heroes.truncate(HEROES);
            state.extend(heroes);
        }
        Ok(state.iter().map(|event| event.pdu.clone()).collect())
    }

    /// Takes the leave or knock of another server's user.
    pub async fn receive_membership(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        raw: &RawValue,
        membership: MembershipState,
    ) -> Result<(), ResidentError> {
        let room = self.room_for(origin, room_id, action_of(&membership)).await?;
        if membership != MembershipState::Leave {
            self.check_whole(room_id)?;
        }
        let (pdu, _) = self.receive_member(origin, &room, event_id, raw, &membership).await?;
        self.take_in_member(origin, &room, &pdu).await
    }

    /// Checks what another server says its user's member event is.
    async fn receive_member(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event_id: &EventId,
        raw: &RawValue,
        membership: &MembershipState,
    ) -> Result<(Pdu, bool), ResidentError> {
        let parsed = ParsedPdu::from_bytes_of(raw.get().as_bytes(), room.rules, Source::Live);
        let parsed = parsed.map_err(unusable)?;
        let looks = parsed.unverified();
        let invalid = |what: &str| ResidentError::Op(OpError::Invalid(what.into()));
        if looks.room_id() != room.room_id {
            return Err(invalid("the event is of another room"));
        }
        if looks.event_id() != event_id {
            return Err(invalid("the path names another event"));
        }
        if looks.type_str() != "m.room.member" || membership_of(looks).as_ref() != Some(membership) {
            return Err(invalid("the event has another membership"));
        }
        if looks.state_key() != Some(looks.sender().as_str()) {
            return Err(invalid("the event is about somebody else"));
        }
        if looks.sender().server_name() != origin {
            return Err(OpError::Forbidden("the sender is not of the server that sends".into()).into());
        }
        let authorizer: Option<ruma::OwnedUserId> = looks
            .content_field::<String>("join_authorised_via_users_server")
            .filter(|_| {
                *membership == MembershipState::Join && room.rules.signatures.check_join_authorised_via_users_server
            })
            .and_then(|user| UserId::parse(user).ok());
        let must_cosign = authorizer.is_some_and(|user| self.is_local(&user));
        let parsed = if must_cosign {
            // Only a join that we would make a template for is worth our signature.
            self.authorizer_for(room, looks.sender()).await?;
            let cosigned = self.rooms.cosign(looks, room)?;
            let again = ParsedPdu::from_bytes_of(cosigned.json().as_bytes(), room.rules, Source::Live);
            again.map_err(|error| OpError::BadContent(error.to_string()))?
        } else {
            parsed
        };
        let checked = self.verified(room.rules, vec![parsed]).await?.into_iter().next();
        let pdu = checked.unwrap_or_else(|| Err("no event".into())).map_err(OpError::Forbidden)?;
        Ok((pdu, must_cosign))
    }

    /// Makes the event part of the room, and has the room's other servers told.
    async fn take_in_member(&self, origin: &ServerName, room: &Arc<Room>, pdu: &Pdu) -> Result<(), ResidentError> {
        match self.take_in(origin, room, pdu).await? {
            Ingested::Accepted | Ingested::Duplicate => {}
            Ingested::Rejected(reason) | Ingested::SoftFailed(reason) => return Err(OpError::Forbidden(reason).into()),
        }
        let mut batch = Batch::new();
        batch.log(Change::new(ChangeKind::Relay).room(&room.room_id).user(pdu.sender()).reference(pdu.event_id()));
        self.db.commit(batch).await.map_err(OpError::from)?;
        Ok(())
    }
}

/// What policy calls a membership. Whoever may not come in may still go.
fn action_of(membership: &MembershipState) -> Action {
    if *membership == MembershipState::Leave { Action::Room } else { Action::Join }
}
