//! Delayed events (MSC4140).

use http::{Method, StatusCode};
use ruma::{
    OwnedRoomId,
    api::auth_scheme::{AccessToken, AccessTokenOptional},
    events::{StateEventType, TimelineEventType},
};
use samtal_jobs::State;
use samtal_kit::signed_ms;
use samtal_ops::delayed_event::{DELAY_MS_MAX, DelayedAction, DelayedEvent, SCHEDULED_MAX, Scheduled};
use samtal_room::Txn;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{Answer, ApiError, Json, RawArgs, Reply, Routes, UserPrincipal};

const BASE: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

pub(super) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::PUT,
            &["/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/{event_type}/{txn_id}"],
            schedule,
        )
        .raw::<AccessToken, _, _, _>(Method::GET, &[BASE], list)
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}"],
            one,
        )
        .raw::<AccessTokenOptional, _, _, _>(
            Method::POST,
            &["/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}"],
            act,
        )
        .raw::<AccessTokenOptional, _, _, _>(
            Method::POST,
            &["/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}"],
            act_in_body,
        )
}

/// The query of a `/send` or `/state` that is to be done later.
#[derive(Deserialize)]
struct Query {
    #[serde(rename = "org.matrix.msc4140.delay")]
    delay: Option<u64>,
}

/// How long the request in this query is to wait, in milliseconds, if it is a delayed one.
pub(super) fn delay_of(query: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(query) = query.filter(|query| query.contains("org.matrix.msc4140.delay=")) else { return Ok(None) };
    let query: Query = serde_html_form::from_str(query)
        .map_err(|_| ApiError::invalid_param("org.matrix.msc4140.delay is not a number of milliseconds"))?;
    Ok(query.delay)
}

/// An event that a client wants to have sent later.
pub(super) struct Wish<'a> {
    pub(super) room_id: OwnedRoomId,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) content: &'a RawValue,
    pub(super) delay_ms: u64,
    pub(super) sticky_ms: Option<i64>,
    pub(super) txn_id: Option<&'a str>,
}

/// Schedules an event. Its id.
pub(super) async fn put(hs: &samtal_ops::Homeserver, who: &UserPrincipal, wish: Wish<'_>) -> Result<String, ApiError> {
    let refused = |code: &str, what: &'static str| ApiError::bad_request(what).with("org.matrix.msc4140.errcode", code);
    if wish.delay_ms > DELAY_MS_MAX {
        let error = refused("M_MAX_DELAY_EXCEEDED", "The delay is too long");
        return Err(error.with("org.matrix.msc4140.max_delay", DELAY_MS_MAX));
    }
    let room = hs.rooms.room(&wish.room_id).await?;
    match &wish.state_key {
        Some(_) => {
            super::state::check(hs, &room, &StateEventType::from(wish.event_type.as_str()), wish.content).await?
        }
        None if wish.event_type == "m.room.redaction" => {
            return Err(ApiError::bad_request("Redactions cannot be delayed"));
        }
        // Whether it can be an event at all.
        None => drop(
            samtal_event::Draft::message(TimelineEventType::from(wish.event_type.as_str()), wish.content)
                .map_err(samtal_ops::OpError::from)?,
        ),
    }
    let what = format!("delayed {}", wish.event_type);
    let once = wish.txn_id.map(|txn_id| Txn::name(&who.user_id, super::device(who), &room, &what, txn_id));
    if hs.scheduled_count(&who.user_id).await? >= SCHEDULED_MAX {
        return Err(refused("M_MAX_DELAYED_EVENTS_EXCEEDED", "Too many delayed events wait"));
    }
    let event = DelayedEvent {
        room_id: wish.room_id,
        event_type: wish.event_type,
        state_key: wish.state_key,
        content: wish.content.to_owned(),
        delay: wish.delay_ms,
        sticky_ms: wish.sticky_ms,
        position: 0,
    };
    Ok(hs.schedule_event(&who.user_id, event, once.as_deref()).await?)
}

#[derive(Deserialize)]
struct Schedule {
    delay: u64,
    state_key: Option<String>,
    content: Box<RawValue>,
}

/// `PUT …/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
async fn schedule(args: RawArgs) -> Answer<Json<Value>> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let body: Schedule = args.json().await?;
    let txn_id: String = args.path(2)?;
    let wish = Wish {
        room_id: args.path(0)?,
        event_type: args.path(1)?,
        state_key: body.state_key,
        content: &body.content,
        delay_ms: body.delay,
        sticky_ms: super::sticky::duration_of(args.parts.uri.query())?,
        txn_id: Some(&txn_id),
    };
    Ok(Json(json!({ "delay_id": put(&args.hs, &args.who, wish).await? })))
}

fn written(found: &Scheduled) -> Value {
    let mut data = json!({
        "delay_id": found.delay_id,
        "room_id": found.event.room_id,
        "type": found.event.event_type,
        "content": found.event.content,
        "delay": found.event.delay,
        "running_since": found.since_ms,
        // As newer drafts name them.
        "delay_ms": found.event.delay,
        "delayed_since_ts": found.since_ms,
    });
    if let Some(sticky_ms) = found.event.sticky_ms {
        data["org.matrix.msc4354.sticky_duration_ms"] = sticky_ms.into();
    }
    if let Some(state_key) = &found.event.state_key {
        data["state_key"] = state_key.as_str().into();
    }
    if let Some(ended_ms) = found.ended_ms {
        data["finalised_ts"] = ended_ms.into();
    }
    let outcome = outcome(found);
    for key in ["event_id", "error"] {
        if let Some(value) = outcome.get(key) {
            data[key] = value.clone();
        }
    }
    if let (Some(ended_ms), Value::Object(mut outcome)) = (found.ended_ms, outcome) {
        outcome.insert("finalised_ts".into(), ended_ms.into());
        data["finalised"] = outcome.into();
    }
    data
}

/// What came of one that no longer waits: the event, or why there is none.
fn outcome(found: &Scheduled) -> Value {
    match (found.state, &found.outcome) {
        (State::Done, Some(event_id)) => json!({ "event_id": event_id }),
        (State::Failed, Some(why)) => json!({ "error": { "errcode": "M_UNKNOWN", "error": why } }),
        _ => json!({}),
    }
}

/// One that no longer waits, as matrix-js-sdk lists it.
fn finalised(found: &Scheduled) -> Value {
    let delay_ms = signed_ms(found.event.delay);
    let is_due = found.ended_ms.is_some_and(|ended_ms| ended_ms >= found.since_ms.saturating_add(delay_ms));
    let (outcome_word, reason) = match found.state {
        State::Failed => ("cancel", "error"),
        State::Cancelled => ("cancel", "action"),
        State::Done | State::Waiting if is_due => ("send", "delay"),
        State::Done | State::Waiting => ("send", "action"),
    };
    let mut data = outcome(found);
    data["delayed_event"] = written(found);
    data["outcome"] = outcome_word.into();
    data["reason"] = reason.into();
    data["origin_server_ts"] = found.ended_ms.into();
    data
}

#[derive(Default, Deserialize)]
struct Which {
    status: Option<String>,
    #[serde(default)]
    delay_id: Vec<String>,
}

/// `GET …/delayed_events`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let which: Which = args.query()?;
    let ended = match which.status.as_deref() {
        None | Some("scheduled") => false,
        Some("finalised" | "finalized") => true,
        Some(_) => return Err(ApiError::invalid_param("status is scheduled or finalised")),
    };
    let mut found = args.hs.scheduled_events(&args.who.user_id).await?;
    found.retain(|found| {
        (found.state != State::Waiting) == ended
            && (which.delay_id.is_empty() || which.delay_id.contains(&found.delay_id))
    });
    let events: Vec<Value> = found.iter().map(written).collect();
    // The one list of older drafts, and the two that clients have now.
    Ok(Json(match ended {
        false => json!({ "delayed_events": &events, "scheduled": &events }),
        true => json!({ "delayed_events": events, "finalised": found.iter().map(finalised).collect::<Vec<_>>() }),
    }))
}

/// `GET …/delayed_events/{delayId}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    let found = args.hs.scheduled_event(&args.path::<String>(0)?).await?;
    let found = found.filter(|found| found.owner == args.who.user_id.as_str());
    found.map(|found| Json(written(&found))).ok_or_else(|| ApiError::not_found("There is no such delayed event"))
}

async fn act_on(args: &RawArgs<AccessTokenOptional>, action: &str) -> Answer<Json<Value>> {
    let action = match action {
        "cancel" => DelayedAction::Cancel,
        "restart" => DelayedAction::Restart,
        "send" => DelayedAction::Send,
        _ => return Err(ApiError::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "There is no such action")),
    };
    args.hs.act_on_scheduled(&args.path::<String>(0)?, action).await?;
    Ok(Json(json!({})))
}

/// `POST …/delayed_events/{delayId}/{action}`: whoever knows the id may act, so that a call's media server can.
async fn act(args: RawArgs<AccessTokenOptional>) -> Answer<impl Reply> {
    act_on(&args, &args.path::<String>(1)?).await
}

#[derive(Deserialize)]
struct Action {
    action: String,
}

/// `POST …/delayed_events/{delayId}`, as older clients act.
async fn act_in_body(args: RawArgs<AccessTokenOptional>) -> Answer<impl Reply> {
    let body: Action = args.json().await?;
    if !matches!(body.action.as_str(), "cancel" | "restart" | "send") {
        return Err(ApiError::invalid_param("action is cancel, restart or send"));
    }
    act_on(&args, &body.action).await
}
