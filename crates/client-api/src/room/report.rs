//! Telling those who run the server about rooms, events and users.

use http::Method;
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        auth_scheme::AccessToken,
        client::{reporting::report_user::v3 as user, room::report_room::v3 as room},
    },
};
use samtal_room::Report;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Args, Json, RawArgs, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().route(report_room).route(report_user).raw::<AccessToken, _, _, _>(
        Method::POST,
        &[
            "/_matrix/client/r0/rooms/{room_id}/report/{event_id}",
            "/_matrix/client/v3/rooms/{room_id}/report/{event_id}",
        ],
        report_event,
    )
}

#[derive(Deserialize)]
struct Body {
    reason: Option<String>,
    /// Gone from the specification; older clients send it.
    score: Option<i64>,
}

/// `POST /rooms/{roomId}/report/{eventId}`
async fn report_event(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, event_id) = (args.path::<OwnedRoomId>(0)?, args.path::<OwnedEventId>(1)?);
    let Body { reason, score } = args.json().await?;
    if score.is_some_and(|score| !(-100..=0).contains(&score)) {
        return Err(ApiError::bad_json("score is between -100 and 0"));
    }
    let user = &args.who.user_id;
    if !args.hs.rooms.store().graph.is_joined(user, &room_id).await? {
        return Err(ApiError::not_found("The event does not exist, or you are not in the room"));
    }
    let event = args.hs.rooms.visible_event(user, &room_id, &event_id).await?;
    let report = Report {
        room_id: Some(&room_id),
        event_id: Some(&event_id),
        user_id: Some(event.pdu.sender()),
        reason: reason.as_deref().unwrap_or_default(),
    };
    args.hs.rooms.open_case(user, report).await?;
    Ok(Json(json!({})))
}

/// `POST /rooms/{roomId}/report`
async fn report_room(args: Args<room::Request>) -> Answer<room::Response> {
    let room_id = &args.body.room_id;
    if args.hs.rooms.store().graph.room(room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    let report = Report { room_id: Some(room_id), reason: &args.body.reason, ..Report::default() };
    args.hs.rooms.open_case(&args.who.user_id, report).await?;
    Ok(room::Response::new())
}

/// `POST /users/{userId}/report`
async fn report_user(args: Args<user::Request>) -> Answer<user::Response> {
    let reported = &args.body.user_id;
    if args.hs.is_local(reported) && args.hs.accounts.user(reported).await?.is_none() {
        return Err(ApiError::not_found("User not found"));
    }
    let report = Report { user_id: Some(reported), reason: &args.body.reason, ..Report::default() };
    args.hs.rooms.open_case(&args.who.user_id, report).await?;
    Ok(user::Response::new())
}
