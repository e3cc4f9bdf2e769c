//! One room at a glance, for peeking and old clients.

use http::Method;
use ruma::{OwnedRoomId, api::auth_scheme::AccessToken, events::room::member::MembershipState};
use samtal_model::StreamPosition;
use samtal_room::{Direction, Form};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, Json, RawArgs, Routes};

const LIMIT: usize = 10;
const LIMIT_MAX: usize = 100;

pub(super) fn routes() -> Routes {
    Routes::new().raw::<AccessToken, _, _, _>(
        Method::GET,
        &["/_matrix/client/r0/rooms/{room_id}/initialSync", "/_matrix/client/v3/rooms/{room_id}/initialSync"],
        initial_sync,
    )
}

#[derive(Deserialize)]
struct Query {
    limit: Option<usize>,
}

/// `GET /rooms/{roomId}/initialSync`
async fn initial_sync(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, who) = (&args.hs, &args.who);
    let Query { limit } = args.query()?;
    let room = hs.rooms.room(&args.path::<OwnedRoomId>(0)?).await?;
    let (snapshot, is_current) = hs.rooms.readable_snapshot(&who.user_id, &room).await?;
    let mut viewer = hs.rooms.viewer(&who.user_id, &room).await?;
    let now = hs.rooms.now();
    let until = hs.rooms.joined_until(&who.user_id, &room).await?;
    let until = until.filter(|_| !is_current).map_or(now, |until| until.min(now));
    let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let chunk = hs.rooms.timeline(&mut viewer, until, None, Direction::Backward, limit).await?;
    let start = chunk.next.unwrap_or_else(|| {
        let first = chunk.events.last().and_then(|first| first.position);
        first.map_or(until, |position| StreamPosition(position.0 - 1))
    });
    let mut events = chunk.events;
    events.reverse();
    let form = super::form(who);
    let messages = hs.rooms.client_events(&mut viewer, &events, form).await?;
    let state = hs.rooms.store().state(snapshot).await?;
    let state = hs.rooms.client_events(&mut viewer, &state, Form { with_bundles: false, ..form }).await?;
    let data = hs.accounts.room_account_data(&who.user_id, &room.room_id).await?;
    let data: Vec<Value> = data.iter().map(|data| json!({ "type": data.data_type, "content": data.content })).collect();
    let membership = hs.membership(&who.user_id, &room.room_id).await?;
    let published = hs.rooms.is_published(&room.room_id).await?;
    let mut answer = json!({
        "room_id": room.room_id,
        "messages": { "chunk": messages, "start": super::token(start), "end": super::token(until) },
        "state": state,
        "account_data": data,
        "visibility": if published { "public" } else { "private" },
        "presence": [],
        "receipts": [],
    });
    let known = hs.rooms.store().graph.membership(&who.user_id, &room.room_id).await?.is_some();
    if let Some(fields) = answer.as_object_mut()
        && (known || membership != MembershipState::Leave)
    {
        fields.insert("membership".into(), membership.as_str().into());
    }
    Ok(Json(answer))
}
