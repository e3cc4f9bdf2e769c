//! Blocking and deleting rooms, deleting old history.

use http::Method;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_jobs::State;
use samtal_model::StreamPosition;
use samtal_ops::{
    Homeserver,
    room_care::{Refuge, RoomTask, ShutDown, TaskStatus},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Admin;

/// Events looked at in one step of a search by time.
const STEP: usize = 500;

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/block"], is_blocked)
        .on(Method::PUT, &["/_synapse/admin/v1/rooms/{room_id}/block"], block)
        .on(Method::DELETE, &["/_synapse/admin/v1/rooms/{room_id}"], delete_now)
        .on(Method::POST, &["/_synapse/admin/v1/rooms/{room_id}/delete"], delete_now)
        .on(Method::DELETE, &["/_synapse/admin/v2/rooms/{room_id}"], delete)
        .on(Method::GET, &["/_synapse/admin/v2/rooms/{room_id}/delete_status"], delete_status_of_room)
        .on(Method::GET, &["/_synapse/admin/v2/rooms/delete_status/{delete_id}"], delete_status)
        .on(Method::POST, &["/_synapse/admin/v1/purge_history/{room_id}"], purge_history)
        .on(Method::POST, &["/_synapse/admin/v1/purge_history/{room_id}/{event_id}"], purge_history)
        .on(Method::GET, &["/_synapse/admin/v1/purge_history_status/{purge_id}"], purge_status)
        .on(Method::GET, &["/_synapse/admin/v1/scheduled_tasks"], scheduled)
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/block`
async fn is_blocked(args: RawArgs) -> Answer<Json<Value>> {
    let room_id: OwnedRoomId = args.path(0)?;
    Ok(Json(match args.hs.rooms.blocked_by(&room_id).await? {
        Some(user_id) => json!({ "block": true, "user_id": user_id }),
        None => json!({ "block": false }),
    }))
}

#[derive(Deserialize)]
struct Block {
    block: bool,
}

/// `PUT /_synapse/admin/v1/rooms/{roomId}/block`
async fn block(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, body): (OwnedRoomId, Block) = (args.path(0)?, args.json().await?);
    args.hs.rooms.set_blocked(&room_id, body.block, &args.who.user_id).await?;
    Ok(Json(json!({ "block": body.block })))
}

#[derive(Deserialize)]
struct Delete {
    new_room_user_id: Option<OwnedUserId>,
    room_name: Option<String>,
    message: Option<String>,
    #[serde(default)]
    block: bool,
    #[serde(default = "yes")]
    purge: bool,
    #[serde(default)]
    force_purge: bool,
}

fn yes() -> bool {
    true
}

async fn task(args: &RawArgs) -> Result<RoomTask, ApiError> {
    let (room_id, body): (OwnedRoomId, Delete) = (args.path(0)?, args.json().await?);
    let hs = &args.hs;
    if !body.block && hs.rooms.store().graph.room(&room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    let refuge = match body.new_room_user_id {
        Some(creator) => {
            if !hs.accounts.is_local(&creator) || hs.accounts.user(&creator).await?.is_none() {
                return Err(ApiError::bad_request("The maker of the new room is no user of this server"));
            }
            Some(Refuge { creator, name: body.room_name, message: body.message })
        }
        None => None,
    };
    let by = args.who.user_id.clone();
    Ok(RoomTask::Delete { room_id, by, block: body.block, purge: body.purge, refuge, force: body.force_purge })
}

/// `DELETE /_synapse/admin/v1/rooms/{roomId}`: answers when it is done.
async fn delete_now(args: RawArgs) -> Answer<Json<Value>> {
    let RoomTask::Delete { room_id, by, block, purge, refuge, force } = task(&args).await? else {
        return Err(ApiError::internal("a deletion is a deletion"));
    };
    let done = args.hs.shut_down_room(&by, &room_id, block, refuge.as_ref()).await?;
    if purge && (force || done.failed_to_kick_users.is_empty()) {
        args.hs.purge_room(&room_id).await?;
    }
    Ok(Json(json!(done)))
}

/// `GET /_synapse/admin/v1/scheduled_tasks`
async fn scheduled(args: RawArgs) -> Answer<Json<Value>> {
    let filter: TaskFilter = args.query()?;
    let status = filter.status.or(filter.job_status);
    let tasks = args.hs.care_tasks().await?;
    let tasks: Vec<Value> = tasks
        .iter()
        .filter(|task| filter.action_name.as_deref().is_none_or(|action| action == task.task.action()))
        .filter(|task| filter.resource_id.as_deref().is_none_or(|resource| resource == task.task.subject()))
        .filter(|task| status.as_deref().is_none_or(|status| status == word(task.state)))
        .filter(|task| filter.max_timestamp.is_none_or(|ts| task.since_ms <= ts))
        .map(|task| {
            let failed = task.state == State::Failed;
            let result = task.outcome.as_deref().filter(|_| !failed);
            json!({
                "id": task.id,
                "action": task.task.action(),
                "status": word(task.state),
                "timestamp_ms": task.since_ms,
                "resource_id": task.task.subject(),
                "result": result.and_then(|result| serde_json::from_str::<Value>(result).ok()),
                "error": task.outcome.as_deref().filter(|_| failed),
            })
        })
        .collect();
    Ok(Json(json!({ "scheduled_tasks": tasks })))
}

#[derive(Deserialize)]
struct TaskFilter {
    action_name: Option<String>,
    resource_id: Option<String>,
    status: Option<String>,
    job_status: Option<String>,
    max_timestamp: Option<i64>,
}

/// `DELETE /_synapse/admin/v2/rooms/{roomId}`: answers at once.
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let task = task(&args).await?;
    Ok(Json(json!({ "delete_id": args.hs.begin_room_task(&task).await? })))
}

pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::Waiting => "active",
        State::Done => "complete",
        State::Failed | State::Cancelled => "failed",
    }
}

fn written(status: &TaskStatus) -> Value {
    let done: Option<ShutDown> = status.outcome.as_deref().and_then(|outcome| serde_json::from_str(outcome).ok());
    let mut answer = json!({
        "delete_id": status.id,
        "status": word(status.state),
        "shutdown_room": done.unwrap_or_default(),
    });
    if let RoomTask::Delete { room_id, .. } = &status.task {
        answer["room_id"] = room_id.as_str().into();
    }
    if status.state == State::Failed {
        answer["error"] = status.outcome.as_deref().into();
    }
    answer
}

/// `GET /_synapse/admin/v2/rooms/{roomId}/delete_status`
async fn delete_status_of_room(args: RawArgs) -> Answer<Json<Value>> {
    let room_id: OwnedRoomId = args.path(0)?;
    let mut found = args.hs.room_tasks(&room_id).await?;
    found.retain(|status| matches!(status.task, RoomTask::Delete { .. }));
    if found.is_empty() {
        return Err(ApiError::not_found("No delete task for this room"));
    }
    Ok(Json(json!({ "results": found.iter().map(written).collect::<Vec<_>>() })))
}

/// `GET /_synapse/admin/v2/rooms/delete_status/{deleteId}`
async fn delete_status(args: RawArgs) -> Answer<Json<Value>> {
    match args.hs.room_task(&args.path::<String>(0)?).await? {
        Some(status) if matches!(status.task, RoomTask::Delete { .. }) => Ok(Json(written(&status))),
        _ => Err(ApiError::not_found("No such delete task")),
    }
}

#[derive(Deserialize)]
struct Purge {
    #[serde(default)]
    delete_local_events: bool,
    purge_up_to_event_id: Option<OwnedEventId>,
    purge_up_to_ts: Option<i64>,
}

/// `POST /_synapse/admin/v1/purge_history/{roomId}[/{eventId}]`
async fn purge_history(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, body): (OwnedRoomId, Purge) = (args.path(0)?, args.json().await?);
    let hs = &args.hs;
    let room = hs.rooms.store().graph.room(&room_id).await?;
    let room = room.ok_or_else(|| ApiError::not_found("Room not found"))?;
    let named = match args.path.get(1) {
        Some(_) => Some(args.path::<OwnedEventId>(1)?),
        None => body.purge_up_to_event_id,
    };
    let before = match (named, body.purge_up_to_ts) {
        (Some(event_id), _) => {
            let event = hs.rooms.store().graph.event(&event_id).await?.filter(|event| event.room == room.nid);
            let position = event.and_then(|event| event.position);
            position.ok_or_else(|| ApiError::not_found("The event is not in the room's timeline"))?.0
        }
        (None, Some(ts)) => first_since(hs, &room, ts).await?,
        (None, None) => return Err(ApiError::missing_param("purge_up_to_event_id or purge_up_to_ts is missing")),
    };
    let task = RoomTask::PurgeHistory { room_id, before, own_too: body.delete_local_events };
    Ok(Json(json!({ "purge_id": hs.begin_room_task(&task).await? })))
}

/// The position of the first event that is not older than `ts`, in milliseconds since the epoch.
async fn first_since(hs: &Homeserver, room: &samtal_room::Room, ts: i64) -> Result<i64, ApiError> {
    let mut at = StreamPosition(i64::MIN);
    loop {
        let page = hs.rooms.store().graph.timeline_forward(room.nid, at, StreamPosition(i64::MAX), STEP).await?;
        let Some(last) = page.last().and_then(|event| event.position) else {
            return Err(ApiError::not_found("There is no event after this time"));
        };
        let found = page.iter().find(|event| event.pdu.origin_server_ts_ms() >= ts);
        if let Some(position) = found.and_then(|event| event.position) {
            return Ok(position.0);
        }
        at = last;
    }
}

/// `GET /_synapse/admin/v1/purge_history_status/{purgeId}`
async fn purge_status(args: RawArgs) -> Answer<Json<Value>> {
    match args.hs.room_task(&args.path::<String>(0)?).await? {
        Some(status) if matches!(status.task, RoomTask::PurgeHistory { .. }) => {
            let mut answer = json!({ "status": word(status.state) });
            if status.state == State::Failed {
                answer["error"] = status.outcome.as_deref().into();
            }
            Ok(Json(answer))
        }
        _ => Err(ApiError::not_found("No such purge")),
    }
}
