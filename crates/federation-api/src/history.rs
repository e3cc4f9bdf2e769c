//! Events from before, between and near.

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        Direction,
        federation::{
            backfill::get_backfill::v1 as backfill,
            event::{get_event_by_timestamp::v1 as near, get_missing_events::v1 as missing},
        },
    },
};
use serde_json::json;

use crate::{
    ApiError,
    args::Args,
    event::{room_of_member, room_of_witness},
    membership::write_list,
    routes::{Answer, Customs, JsonText, Routes},
};

/// Most events of one answer to `/backfill`.
const BACKFILL_MAX: u64 = 100;
/// Most events of one answer to `/get_missing_events`.
const MISSING_MAX: u64 = 20;
/// Most events a question may name.
const NAMED_MAX: usize = 100;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route::<backfill::Request, _, _, _>(events_before)
        .with::<missing::Request, _, _, _>(
            Customs::defaults(&[("earliest_events", "[]"), ("latest_events", "[]")]),
            events_between,
        )
        .route::<near::Request, _, _, _>(event_near)
}

fn count(limit: UInt, max: u64) -> usize {
    usize::try_from(u64::from(limit).min(max)).unwrap_or(0)
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
async fn events_before(args: Args<backfill::Request>) -> Answer<JsonText> {
    let (hs, request) = (&args.hs, &args.request);
    let from = request.v.get(..request.v.len().min(NAMED_MAX)).unwrap_or_default();
    let room = room_of_witness(hs, &args.who, &request.room_id, from).await?;
    let events = hs.rooms.backfill_from(&room, &args.who.server, from, count(request.limit, BACKFILL_MAX)).await?;
    let mut pdus = String::new();
    write_list(&mut pdus, &events);
    let origin = json!(hs.name);
    Ok(JsonText(format!(r#"{{"origin":{origin},"origin_server_ts":{},"pdus":{pdus}}}"#, hs.clock.now_ms())))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
async fn events_between(args: Args<missing::Request>) -> Answer<JsonText> {
    let (hs, request) = (&args.hs, &args.request);
    if request.earliest_events.len() > NAMED_MAX || request.latest_events.len() > NAMED_MAX {
        return Err(ApiError::too_large("Too many events are named"));
    }
    let room = room_of_witness(hs, &args.who, &request.room_id, &request.latest_events).await?;
    let min_depth = i64::try_from(u64::from(request.min_depth)).unwrap_or(i64::MAX);
    let limit = count(request.limit, MISSING_MAX);
    let events = hs
        .rooms
        .missing_events(&room, &args.who.server, &request.earliest_events, &request.latest_events, limit, min_depth)
        .await?;
    let mut body = String::from(r#"{"events":"#);
    write_list(&mut body, &events);
    body.push('}');
    Ok(JsonText(body))
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
async fn event_near(args: Args<near::Request>) -> Answer<near::Response> {
    let (hs, request) = (&args.hs, &args.request);
    let room = room_of_member(hs, &args.who, &request.room_id).await?;
    let ts_ms = i64::try_from(u64::from(request.ts.get())).unwrap_or(i64::MAX);
    let found = hs.rooms.event_near(&room, ts_ms, request.dir == Direction::Forward).await?;
    let found = found.ok_or_else(|| ApiError::not_found("There is no event then"))?;
    let at = MilliSecondsSinceUnixEpoch(UInt::try_from(found.pdu.origin_server_ts_ms()).unwrap_or_default());
    Ok(near::Response::new(found.pdu.event_id().to_owned(), at))
}
