//! Invites to addresses: an identity server knows whose address it is, or keeps the invite until somebody proves that it is
//! theirs (CS API, "Third-party invites").

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, header};
use ruma::{
    OwnedUserId, RoomId, ServerName, UserId,
    api::federation::thirdparty::exchange_invite::v1 as exchange,
    events::{StateEventType, room::member::MembershipState},
    serde::Raw,
};
use samtal_db::{Batch, Change};
use samtal_event::{Draft, Pdu};
use samtal_http::FetchLimits;
use samtal_model::ChangeKind;
use samtal_policy::{Action, Direction};
use samtal_room::{Ingested, LocalDraft, Room, RoomError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Homeserver, OpError, member::Content};

/// What a question to an identity server may cost.
const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(20), bytes_max: 64 * 1024 };

/// An address to invite, and who may know whose it is.
#[derive(Clone, Debug)]
pub struct Address {
    /// The identity server: a host name, perhaps with a port.
    pub id_server: String,
    /// The user's access token there.
    pub id_access_token: String,
    /// `email` or `msisdn`.
    pub medium: String,
    /// The address itself.
    pub address: String,
}

/// An invite to an address whose owner has been found.
#[derive(Clone, Debug)]
pub struct BoundInvite {
    /// Who invited.
    pub sender: OwnedUserId,
    /// Whose address it turned out to be.
    pub target: OwnedUserId,
    /// What the identity server signed: `mxid`, `token`, `signatures`.
    pub signed: Value,
}

impl Homeserver {
    /// Invites whoever owns an address; keeps the invite with the identity server when nobody does yet.
    pub async fn invite_address(&self, sender: &UserId, room_id: &RoomId, address: &Address) -> Result<(), OpError> {
        // Nobody may ask whose address it is without being able to invite.
        let room = self.resident_room(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if !self.rooms.store().graph.is_joined(sender, room_id).await? {
            return Err(OpError::Forbidden("you are not in the room".into()));
        }
        if !self.power_levels(&room).await?.can_invite(sender) {
            return Err(OpError::Forbidden("your power level does not let you invite".into()));
        }
        if ServerName::parse(&address.id_server).is_err() {
            return Err(OpError::Invalid("id_server is not the name of a server".into()));
        }
        match self.owner_of(address).await? {
            Some(target) => self.invite(sender, &target, room_id, Content::new()).await,
            None => self.store_invite(sender, room_id, address).await,
        }
    }

    /// Whose address it is.
    async fn owner_of(&self, address: &Address) -> Result<Option<OwnedUserId>, OpError> {
        let details = self.ask(address, Method::GET, "hash_details", None).await?;
        let pepper = text(&details, "lookup_pepper")?;
        let mut hash = Sha256::new();
        hash.update(format!("{} {} {pepper}", address.address, address.medium));
        let name = URL_SAFE_NO_PAD.encode(hash.finalize());
        let question = json!({ "addresses": [name], "algorithm": "sha256", "pepper": pepper });
        let answer = self.ask(address, Method::POST, "lookup", Some(question)).await?;
        let found = answer.get("mappings").and_then(|mappings| mappings.get(&name)).and_then(Value::as_str);
        Ok(found.and_then(|user| UserId::parse(user).ok()))
    }

    /// Leaves the invite with the identity server, and what proves it later in the room.
    async fn store_invite(&self, sender: &UserId, room_id: &RoomId, address: &Address) -> Result<(), OpError> {
        let room = self.rooms.room(room_id).await?;
        let summary = self.room_summary(&room).await?;
        let profile = self.accounts.profile(sender).await?;
        let question = json!({
            "medium": address.medium,
            "address": address.address,
            "room_id": room_id,
            "sender": sender,
            "sender_display_name": profile.get("displayname"),
            "sender_avatar_url": profile.get("avatar_url"),
            "room_name": summary.name,
            "room_alias": summary.canonical_alias,
            "room_avatar_url": summary.avatar_url,
            "room_join_rules": summary.join_rule.as_str(),
            "room_type": summary.room_type,
        });
        let question = without_nulls(question);
        let kept = self.ask(address, Method::POST, "store-invite", Some(question)).await?;
        let token = text(&kept, "token")?;
        let validity = format!("https://{}/_matrix/identity/v2/pubkey/isvalid", address.id_server);
        let keys = kept.get("public_keys").and_then(Value::as_array).cloned().unwrap_or_default();
        let first = keys.first().and_then(|key| key.get("public_key")).cloned();
        let content = json!({
            "display_name": kept.get("display_name").cloned().unwrap_or_else(|| "".into()),
            "public_key": kept.get("public_key").cloned().or(first),
            "key_validity_url": validity,
            "public_keys": keys,
        });
        let draft = Draft::state_of(&StateEventType::RoomThirdPartyInvite, token, &content)?;
        self.rooms.send_one(room_id, LocalDraft::new(sender, draft)).await?;
        Ok(())
    }

    async fn ask(&self, address: &Address, method: Method, what: &str, body: Option<Value>) -> Result<Value, OpError> {
        let failed = |why: String| OpError::BadRemote(format!("the identity server {}: {why}", address.id_server));
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}/_matrix/identity/v2/{what}", address.id_server))
            .header(header::AUTHORIZATION, format!("Bearer {}", address.id_access_token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())))
            .map_err(|error| failed(error.to_string()))?;
        let response = self.web.fetch(request, LIMITS).await.map_err(|error| failed(error.to_string()))?;
        if !response.status().is_success() {
            return Err(failed(format!("status {}", response.status())));
        }
        serde_json::from_slice(response.body()).map_err(|error| failed(error.to_string()))
    }

    /// Refuses an invite whose keys the identity server has taken back, or cannot be asked about.
    async fn check_keys(&self, invite: &Pdu) -> Result<(), OpError> {
        const KEYS_MAX: usize = 10;
        let key = |of: &Value| {
            let text = |name: &str| of.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
            Some((text("key_validity_url")?, text("public_key")?))
        };
        let content: Value = invite.content_as().unwrap_or_default();
        let listed = content.get("public_keys").and_then(Value::as_array).into_iter().flatten().filter_map(key);
        for (url, public_key) in listed.chain(key(&content)).take(KEYS_MAX) {
            let query = serde_html_form::to_string([("public_key", public_key)]).unwrap_or_default();
            let Ok(request) = Request::builder().uri(format!("{url}?{query}")).body(Bytes::new()) else { continue };
            let Ok(response) = self.web.fetch(request, LIMITS).await else { continue };
            let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
            if response.status().is_success() && answer.get("valid") == Some(&Value::Bool(true)) {
                return Ok(());
            }
        }
        Err(OpError::Forbidden("the identity server does not stand by the invite's keys".into()))
    }

    /// Turns an invite to an address into one to the user who owns it: here, where the inviter is ours or we are in the room, or at
    /// the inviter's server.
    pub async fn invite_bound(&self, room_id: &RoomId, bound: BoundInvite) -> Result<(), OpError> {
        let BoundInvite { sender, target, signed } = bound;
        let mut third_party = json!({ "signed": signed });
        let token = signed.get("token").and_then(Value::as_str).unwrap_or_default();
        let resident = self.resident_room(room_id).await?;
        if resident.is_some()
            && let Some(invite) = self.rooms.current_state(room_id, "m.room.third_party_invite", token).await?
            && let Some(fields) = third_party.as_object_mut()
        {
            self.check_keys(&invite.pdu).await?;
            let name = invite.pdu.content_field::<Value>("display_name").unwrap_or_default();
            fields.insert("display_name".into(), name);
        }
        let mut content = Content::new();
        content.insert("third_party_invite".into(), third_party);
        if resident.is_some() && self.is_local(&sender) {
            return self.invite(&sender, &target, room_id, content).await;
        }
        if self.is_local(&sender) {
            return Err(OpError::NotFound("the room is not known here".into()));
        }
        if let Some(room) = resident
            && self.is_local(&target)
            && self.rooms.has_server(&room, &self.name).await?
        {
            return self.invite_for(&sender, &target, &room, content).await;
        }
        content.insert("membership".into(), MembershipState::Invite.as_str().into());
        let content = Raw::new(&content).map_err(|error| OpError::BadContent(error.to_string()))?.cast_unchecked();
        let server = sender.server_name().to_owned();
        let request = exchange::Request::new(room_id.to_owned(), sender, target, content);
        self.remote.send(&server, request).await?;
        Ok(())
    }
}

impl Homeserver {
    /// Makes the invite that an inviter of another server has promised to whoever owns an address: whoever is in the room may, since
    /// what the identity server signed proves it (server-server API, "Third-party invites").
    async fn invite_for(
        &self,
        sender: &UserId,
        target: &UserId,
        room: &Arc<Room>,
        mut content: Content,
    ) -> Result<(), OpError> {
        let origin = sender.server_name();
        self.rooms.until_whole(&room.room_id).await?;
        let is_unwanted = match self.check_invite(sender, target).await {
            Ok(()) => false,
            Err(OpError::InviteBlocked) => true,
            Err(error) => return Err(error),
        };
        self.check_server(&room.room_id, origin, Action::Invite).await?;
        let state = self.stripped_events(&room.room_id, Some(sender)).await?;
        if self.review_invite(origin, Direction::Inbound, &room.room_id, &state, is_unwanted)? {
            return Err(OpError::Forbidden("invites of servers that nobody named are not accepted".into()));
        }
        content.insert("membership".into(), MembershipState::Invite.as_str().into());
        self.complete_member(target, &mut content).await?;
        let draft = Draft::state_of(&StateEventType::RoomMember, target.as_str(), &content)?;
        let unsigned = self.rooms.template(&room.room_id, sender, &draft).await?;
        let invite = self.rooms.sign(&unsigned, room)?.into_pdu();
        match self.take_in(&self.name, room, &invite).await? {
            Ingested::Accepted | Ingested::Duplicate => {}
            Ingested::Rejected(reason) | Ingested::SoftFailed(reason) => return Err(OpError::Forbidden(reason)),
        }
        // The inviter's server hears of it from us too.
        let mut batch = Batch::new();
        batch.log(Change::new(ChangeKind::Relay).room(&room.room_id).reference(invite.event_id()));
        self.db.commit(batch).await?;
        Ok(())
    }
}

fn text<'a>(answer: &'a Value, name: &str) -> Result<&'a str, OpError> {
    let found = answer.get(name).and_then(Value::as_str);
    found.ok_or_else(|| OpError::BadRemote(format!("the identity server gave no {name}")))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => other,
    }
}
