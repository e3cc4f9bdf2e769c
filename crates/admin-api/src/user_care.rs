//! Users who need care: rates of their own, redacting what they wrote, how much they invite and join.

use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState};
use samtal_account::UserRate;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_jobs::State;
use samtal_model::StreamPosition;
use samtal_ops::{
    moderation::{REDACT_MAX, Redacted, Redaction},
    room_care::RoomTask,
};
use samtal_room::StoredEvent;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::{Admin, local_user},
    room_care::word,
};

const RATE: &str = "/_synapse/admin/v1/users/{user_id}/override_ratelimit";
/// Events of one room that are looked at when somebody's doings are counted.
const EVENTS_MAX: usize = 200_000;
/// Events read in one go.
const PAGE: usize = 500;

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &[RATE], rate)
        .on(Method::POST, &[RATE], set_rate)
        .on(Method::DELETE, &[RATE], clear_rate)
        .on(Method::POST, &["/_synapse/admin/v1/user/{user_id}/redact"], redact)
        .on(Method::GET, &["/_synapse/admin/v1/user/redact_status/{redact_id}"], redact_status)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/sent_invite_count"], invites_sent)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/cumulative_joined_room_count"], rooms_joined)
}

fn written(rate: Option<UserRate>) -> Json<Value> {
    Json(rate.map_or_else(
        || json!({}),
        |rate| json!({ "messages_per_second": rate.messages_per_second, "burst_count": rate.burst_count }),
    ))
}

/// `GET /_synapse/admin/v1/users/{userId}/override_ratelimit`
async fn rate(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    Ok(written(args.hs.accounts.stored_user_rate(&user.user_id).await?))
}

#[derive(Deserialize)]
struct SetRate {
    #[serde(default)]
    messages_per_second: Value,
    #[serde(default)]
    burst_count: Value,
}

/// `POST /_synapse/admin/v1/users/{userId}/override_ratelimit`: 0 means no limit.
async fn set_rate(args: RawArgs) -> Answer<Json<Value>> {
    let body: SetRate = args.json().await?;
    let number = |value: &Value| match value {
        Value::Null => Ok(0),
        value => value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| ApiError::invalid_param("messages_per_second and burst_count are whole numbers from 0 on")),
    };
    let rate =
        UserRate { messages_per_second: number(&body.messages_per_second)?, burst_count: number(&body.burst_count)? };
    let user = local_user(&args, 0).await?;
    args.hs.accounts.set_user_rate(&user.user_id, Some(rate)).await?;
    Ok(written(Some(rate)))
}

/// `DELETE /_synapse/admin/v1/users/{userId}/override_ratelimit`
async fn clear_rate(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    args.hs.accounts.set_user_rate(&user.user_id, None).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Redact {
    rooms: Vec<OwnedRoomId>,
    reason: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    use_admin: Option<bool>,
    before_ts: Option<i64>,
    after_ts: Option<i64>,
}

/// `POST /_synapse/admin/v1/user/{userId}/redact`: of users of other servers too.
async fn redact(args: RawArgs) -> Answer<Json<Value>> {
    let (user, body): (OwnedUserId, Redact) = (args.path(0)?, args.json().await?);
    if body.limit == Some(0) {
        return Err(ApiError::invalid_param("limit is at least 1"));
    }
    let task = RoomTask::RedactUser(Redaction {
        user,
        rooms: body.rooms,
        reason: body.reason,
        limit: body.limit.unwrap_or(REDACT_MAX),
        before_ms: body.before_ts,
        after_ms: body.after_ts,
        by: args.who.user_id.clone(),
        as_admin: body.use_admin.unwrap_or(false),
    });
    Ok(Json(json!({ "redact_id": args.hs.begin_room_task(&task).await? })))
}

/// `GET /_synapse/admin/v1/user/redact_status/{redactId}`
async fn redact_status(args: RawArgs) -> Answer<Json<Value>> {
    let status = args.hs.room_task(&args.path::<String>(0)?).await?;
    let status = status.filter(|status| matches!(status.task, RoomTask::RedactUser(_)));
    let status = status.ok_or_else(|| ApiError::not_found("There is no such redaction"))?;
    let mut answer = json!({ "status": word(status.state) });
    match status.state {
        State::Done => {
            let done: Option<Redacted> =
                status.outcome.as_deref().and_then(|outcome| serde_json::from_str(outcome).ok());
            answer["failed_redactions"] = json!(done.unwrap_or_default().failed_redactions);
        }
        State::Failed => answer["error"] = status.outcome.as_deref().into(),
        State::Waiting | State::Cancelled => {}
    }
    Ok(Json(answer))
}

#[derive(Deserialize)]
struct Since {
    from_ts: i64,
}

/// Looks at the events of a user's rooms from `since` on, until `seen` has seen enough of a room.
async fn look(args: &RawArgs, since: i64, mut seen: impl FnMut(&StoredEvent) -> bool) -> Result<OwnedUserId, ApiError> {
    let user = local_user(args, 0).await?.user_id;
    let graph = &args.hs.rooms.store().graph;
    for known in graph.memberships(&user).await? {
        let Some(room) = graph.room(&known.room_id).await? else { continue };
        let (mut upto, mut looked_at) = (StreamPosition(args.hs.db.position()), 0);
        'room: while looked_at < EVENTS_MAX {
            let page = graph.timeline_back(room.nid, upto, StreamPosition(i64::MIN), PAGE).await?;
            let Some(last) = page.last().and_then(|event| event.position) else { break };
            for event in &page {
                if event.pdu.origin_server_ts_ms() >= since && event.pdu.type_str() == "m.room.member" && seen(event) {
                    break 'room;
                }
            }
            if page.last().is_none_or(|event| event.pdu.origin_server_ts_ms() < since) {
                break;
            }
            looked_at += page.len();
            upto = StreamPosition(last.0 - 1);
        }
    }
    Ok(user)
}

fn membership(event: &StoredEvent) -> Option<MembershipState> {
    event.pdu.content_field::<String>("membership").map(MembershipState::from)
}

/// `GET /_synapse/admin/v1/users/{userId}/sent_invite_count`
async fn invites_sent(args: RawArgs) -> Answer<Json<Value>> {
    let (since, user): (Since, OwnedUserId) = (args.query()?, args.path(0)?);
    let mut count = 0;
    look(&args, since.from_ts, |event| {
        count += usize::from(event.pdu.sender() == user && membership(event) == Some(MembershipState::Invite));
        false
    })
    .await?;
    Ok(Json(json!({ "invite_count": count })))
}

/// `GET /_synapse/admin/v1/users/{userId}/cumulative_joined_room_count`: also rooms that they have left since.
async fn rooms_joined(args: RawArgs) -> Answer<Json<Value>> {
    let (since, user): (Since, OwnedUserId) = (args.query()?, args.path(0)?);
    let mut count = 0;
    look(&args, since.from_ts, |event| {
        let joins = event.pdu.state_key() == Some(user.as_str()) && membership(event) == Some(MembershipState::Join);
        count += usize::from(joins);
        joins
    })
    .await?;
    Ok(Json(json!({ "cumulative_joined_room_count": count })))
}
