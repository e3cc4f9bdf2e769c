//! Joining, knocking and leaving through us.

use ruma::{
    EventId, RoomId,
    api::federation::membership::{
        RawStrippedState, create_join_event::v2 as send_join, create_knock_event::v1 as send_knock,
        create_leave_event::v2 as send_leave, prepare_join_event::v1 as make_join,
        prepare_knock_event::v1 as make_knock, prepare_leave_event::v1 as make_leave,
    },
    events::room::member::MembershipState,
};
use samtal_event::Pdu;
use samtal_ops::Template;
use serde_json::value::RawValue;

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Customs, JsonText, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route::<make_join::Request, _, _, _>(template_of_join)
        .route::<send_join::Request, _, _, _>(join)
        // Gone since Matrix 1.18; others still call it.
        .with::<send_join::Request, _, _, _>(
            Customs::paths(&["/_matrix/federation/v1/send_join/{room_id}/{event_id}"]),
            join_v1,
        )
        .route::<make_knock::Request, _, _, _>(template_of_knock)
        .route::<send_knock::Request, _, _, _>(knock)
        .route::<make_leave::Request, _, _, _>(template_of_leave)
        .route::<send_leave::Request, _, _, _>(leave)
        .with::<send_leave::Request, _, _, _>(
            Customs::paths(&["/_matrix/federation/v1/send_leave/{room_id}/{event_id}"]),
            leave_v1,
        )
}

fn raw(template: String) -> Result<Box<RawValue>, ApiError> {
    RawValue::from_string(template).map_err(ApiError::internal)
}

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
async fn template_of_join(args: Args<make_join::Request>) -> Answer<make_join::Response> {
    let make_join::Request { room_id, user_id, ver, .. } = args.request;
    let Template { version, event } =
        args.hs.make_membership(&args.who.server, &room_id, &user_id, MembershipState::Join, Some(&ver)).await?;
    let mut response = make_join::Response::new(raw(event)?);
    response.room_version = Some(version);
    Ok(response)
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
async fn join(args: Args<send_join::Request>) -> Answer<JsonText> {
    accept_join(args).await.map(JsonText)
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`
async fn join_v1(args: Args<send_join::Request>) -> Answer<JsonText> {
    accept_join(args).await.map(|answer| JsonText(format!("[200,{answer}]")))
}

async fn accept_join(args: Args<send_join::Request>) -> Result<String, ApiError> {
    let send_join::Request { room_id, event_id, pdu, omit_members, .. } = args.request;
    let joined = args.hs.receive_join(&args.who.server, &room_id, &event_id, &pdu, omit_members).await?;
    // Written by hand: a large room's state is not copied once more.
    let size = joined.state.iter().chain(&joined.auth_chain).map(|pdu| pdu.json().len() + 1).sum::<usize>();
    let mut body = String::with_capacity(size + 1_024);
    body.push_str(r#"{"origin":"#);
    body.push_str(&serde_json::Value::from(args.hs.name.as_str()).to_string());
    body.push_str(r#","state":"#);
    write_list(&mut body, &joined.state);
    body.push_str(r#","auth_chain":"#);
    write_list(&mut body, &joined.auth_chain);
    body.push_str(r#","event":"#);
    body.push_str(joined.event.json());
    if let Some(servers) = joined.servers {
        body.push_str(r#","members_omitted":true,"servers_in_room":"#);
        body.push_str(&serde_json::to_string(&servers).map_err(ApiError::internal)?);
    }
    body.push('}');
    Ok(body)
}

/// Appends events as a JSON list.
pub(crate) fn write_list<'a>(body: &mut String, events: impl IntoIterator<Item = &'a Pdu>) {
    body.push('[');
    for (index, pdu) in events.into_iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(pdu.json());
    }
    body.push(']');
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
async fn template_of_knock(args: Args<make_knock::Request>) -> Answer<make_knock::Response> {
    let make_knock::Request { room_id, user_id, ver, .. } = args.request;
    let Template { version, event } =
        args.hs.make_membership(&args.who.server, &room_id, &user_id, MembershipState::Knock, Some(&ver)).await?;
    Ok(make_knock::Response::new(version, raw(event)?))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
async fn knock(args: Args<send_knock::Request>) -> Answer<send_knock::Response> {
    let send_knock::Request { room_id, event_id, pdu, .. } = args.request;
    args.hs.receive_membership(&args.who.server, &room_id, &event_id, &pdu, MembershipState::Knock).await?;
    let state = args.hs.stripped_events(&room_id, None).await?;
    Ok(send_knock::Response::new(state.iter().map(|pdu| RawStrippedState::Pdu(pdu.to_raw())).collect()))
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
async fn template_of_leave(args: Args<make_leave::Request>) -> Answer<make_leave::Response> {
    let make_leave::Request { room_id, user_id, .. } = args.request;
    let Template { version, event } =
        args.hs.make_membership(&args.who.server, &room_id, &user_id, MembershipState::Leave, None).await?;
    Ok(make_leave::Response::new(Some(version), raw(event)?))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
async fn leave(args: Args<send_leave::Request>) -> Answer<send_leave::Response> {
    accept_leave(&args, &args.request.room_id, &args.request.event_id, &args.request.pdu).await?;
    Ok(send_leave::Response::new())
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`
async fn leave_v1(args: Args<send_leave::Request>) -> Answer<JsonText> {
    accept_leave(&args, &args.request.room_id, &args.request.event_id, &args.request.pdu).await?;
    Ok(JsonText("[200,{}]".to_owned()))
}

async fn accept_leave(
    args: &Args<send_leave::Request>,
    room_id: &RoomId,
    event_id: &EventId,
    pdu: &RawValue,
) -> Result<(), ApiError> {
    Ok(args.hs.receive_membership(&args.who.server, room_id, event_id, pdu, MembershipState::Leave).await?)
}
