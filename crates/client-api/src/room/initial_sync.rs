//! Rooms at a glance, for peeking and old clients: `/initialSync`, of all rooms and of one.

use std::collections::HashSet;

use http::Method;
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId, api::auth_scheme::AccessToken, events::room::member::MembershipState,
};
use samtal_account::PUSH_RULES;
use samtal_model::{StreamPosition, SyncToken};
use samtal_ops::Homeserver;
use samtal_room::{Direction, Form, RoomMembership};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{Answer, ApiError, Json, RawArgs, Routes, UserPrincipal};

const LIMIT: usize = 10;
const LIMIT_MAX: usize = 100;
/// Members whose presence is told.
const PRESENCE_MAX: usize = 1_000;

pub(super) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/rooms/{room_id}/initialSync", "/_matrix/client/v3/rooms/{room_id}/initialSync"],
            of_room,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/initialSync", "/_matrix/client/v3/initialSync"],
            of_all,
        )
}

#[derive(Deserialize)]
struct Query {
    limit: Option<usize>,
    #[serde(default)]
    archived: bool,
}

impl Query {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).min(LIMIT_MAX)
    }
}

/// `GET /rooms/{roomId}/initialSync`
async fn of_room(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, who) = (&args.hs, &args.who);
    let query: Query = args.query()?;
    let room_id = args.path::<OwnedRoomId>(0)?;
    let mut room = at_a_glance(hs, who, &room_id, query.limit()).await?;
    let known = hs.rooms.room(&room_id).await?;
    let (_, is_current) = hs.rooms.readable_snapshot(&who.user_id, &known).await?;
    // Who has left learns no more about those who stayed.
    let members = match is_current {
        true => hs.rooms.store().graph.members(known.nid, &[MembershipState::Join]).await?,
        false => Vec::new(),
    };
    let presence = presence(hs, &who.user_id, members.into_iter().map(|member| member.user_id).take(PRESENCE_MAX));
    room.insert("presence".into(), presence.into());
    room.insert("receipts".into(), receipts(hs, &who.user_id, &room_id).await?.into());
    Ok(Json(Value::Object(room)))
}

/// `GET /initialSync`
async fn of_all(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, who) = (&args.hs, &args.who);
    let query: Query = args.query()?;
    let edus = &hs.edus;
    let end =
        SyncToken { typing: edus.typing.serial(), presence: edus.presence.serial(), ..SyncToken::at(hs.rooms.now()) };
    let (mut rooms, mut read) = (Vec::new(), Vec::new());
    for found in hs.rooms.store().graph.memberships(&who.user_id).await? {
        match found.membership {
            MembershipState::Join => {
                rooms.push(Value::Object(at_a_glance(hs, who, &found.room_id, query.limit()).await?));
                read.extend(receipts(hs, &who.user_id, &found.room_id).await?);
            }
            MembershipState::Invite => rooms.push(invite(hs, who, &found).await?),
            MembershipState::Leave if query.archived && !found.forgotten => {
                // Those who never were in the room have left nothing that they may read.
                if let Ok(room) = at_a_glance(hs, who, &found.room_id, query.limit()).await {
                    rooms.push(Value::Object(room));
                }
            }
            _ => {}
        }
    }
    let mut company: HashSet<OwnedUserId> =
        hs.rooms.store().graph.users_sharing_rooms(&who.user_id).await?.into_iter().take(PRESENCE_MAX).collect();
    company.insert(who.user_id.clone());
    let data = hs.accounts.account_data_changed(&who.user_id, 0, i64::MAX).await?;
    let data: Vec<Value> = data
        .iter()
        // Old clients ask for the push rules by themselves.
        .filter(|data| data.room_id.is_none() && data.data_type != PUSH_RULES)
        .map(|data| json!({ "type": data.data_type, "content": data.content }))
        .collect();
    Ok(Json(json!({
        "end": end.to_string(),
        "rooms": rooms,
        "presence": presence(hs, &who.user_id, company),
        "receipts": read,
        "account_data": data,
    })))
}

async fn invite(hs: &Homeserver, who: &UserPrincipal, found: &RoomMembership) -> Result<Value, ApiError> {
    let mut room = json!({ "room_id": found.room_id, "membership": "invite", "inviter": found.sender });
    if let Some(event) = hs.rooms.store().graph.event(&found.event_id).await?
        && let Some(fields) = room.as_object_mut()
    {
        let invite = hs.rooms.client_event(&event, &who.user_id, super::form(who)).await?;
        fields.insert("invite".into(), with_user_id(&invite));
    }
    Ok(room)
}

/// A room's state and its last messages.
async fn at_a_glance(
    hs: &Homeserver,
    who: &UserPrincipal,
    room_id: &RoomId,
    limit: usize,
) -> Result<Map<String, Value>, ApiError> {
    let room = hs.rooms.room(room_id).await?;
    let (snapshot, is_current) = hs.rooms.readable_snapshot(&who.user_id, &room).await?;
    let mut viewer =
        hs.rooms.viewer(&who.user_id, &room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
    let now = hs.rooms.now();
    let until = hs.rooms.joined_until(&who.user_id, &room).await?;
    let until = until.filter(|_| !is_current).map_or(now, |until| until.min(now));
    let chunk = hs.rooms.timeline(&mut viewer, until, None, Direction::Backward, limit).await?;
    let start = chunk.next.unwrap_or_else(|| {
        let first = chunk.events.last().and_then(|first| first.position);
        first.map_or(until, |position| StreamPosition(position.0 - 1))
    });
    let mut events = chunk.events;
    events.reverse();
    let form = super::form(who);
    let messages = hs.rooms.client_events(&mut viewer, &events, form).await?;
    let messages: Vec<Value> = messages.iter().map(|event| with_user_id(event)).collect();
    let state = hs.rooms.store().state(snapshot).await?;
    let state = hs.rooms.client_events(&mut viewer, &state, Form { with_bundles: false, ..form }).await?;
    let state: Vec<Value> = state.iter().map(|event| with_user_id(event)).collect();
    let data = hs.accounts.room_account_data(&who.user_id, room_id).await?;
    let data: Vec<Value> = data.iter().map(|data| json!({ "type": data.data_type, "content": data.content })).collect();
    let visibility = if hs.rooms.is_published(room_id).await? { "public" } else { "private" };
    let mut answer = Map::new();
    answer.insert("room_id".into(), room_id.as_str().into());
    answer.insert("visibility".into(), visibility.into());
    answer.insert(
        "messages".into(),
        json!({ "chunk": messages, "start": super::token(start), "end": super::token(until) }),
    );
    answer.insert("state".into(), state.into());
    answer.insert("account_data".into(), data.into());
    if let Some(found) = hs.rooms.store().graph.membership(&who.user_id, room_id).await? {
        answer.insert("membership".into(), found.membership.as_str().into());
    }
    Ok(answer)
}

/// An event as the oldest clients read it: the sender is also called `user_id`.
pub(super) fn with_user_id(event: &RawValue) -> Value {
    let mut event: Value = serde_json::from_str(event.get()).unwrap_or_default();
    if let Some(fields) = event.as_object_mut()
        && let Some(sender) = fields.get("sender").cloned()
    {
        fields.insert("user_id".into(), sender);
    }
    event
}

/// `m.presence` events of users, as the oldest clients read them.
fn presence(hs: &Homeserver, asks: &UserId, users: impl IntoIterator<Item = OwnedUserId>) -> Vec<Value> {
    let now = hs.edus.presence.now_ms();
    let event = |user: OwnedUserId| {
        let known = hs.edus.presence.get(&user).map(|entry| entry.content(now));
        // Whoever of us was never seen is away.
        let away = || hs.is_local(&user).then(|| json!({ "presence": "offline" }));
        let mut content = known.or_else(away)?;
        if let Some(fields) = content.as_object_mut() {
            // Who asks is doing something right now.
            if user == asks {
                fields.entry("last_active_ago").or_insert_with(|| 0.into());
            }
            fields.insert("user_id".into(), user.as_str().into());
        }
        Some(json!({ "type": "m.presence", "sender": user, "content": content }))
    };
    users.into_iter().filter_map(event).collect()
}

async fn receipts(hs: &Homeserver, user: &UserId, room_id: &RoomId) -> Result<Vec<Value>, ApiError> {
    let found = hs.edus.receipts.changed(room_id, 0, i64::MAX).await?;
    let content = samtal_edu::receipt::content(&found, user);
    let event = content.map(|content| json!({ "type": "m.receipt", "room_id": room_id, "content": content }));
    Ok(event.into_iter().collect())
}
