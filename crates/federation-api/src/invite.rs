//! Invites of our users.

use ruma::{
    RoomVersionId,
    api::federation::membership::{
        RawStrippedState,
        create_invite::{v1, v2},
    },
};
use samtal_ops::IncomingInvite;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Customs, JsonText, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .with::<v2::Request, _, _, _>(Customs::defaults(&[("invite_room_state", "[]")]), invite)
        .with::<v1::Request, _, _, _>(Customs::defaults(&[("origin", r#""left.out""#)]), invite_v1)
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
async fn invite(args: Args<v2::Request>) -> Answer<JsonText> {
    let request = &args.request;
    let signed = args
        .hs
        .receive_invite(IncomingInvite {
            origin: &args.who.server,
            room_id: &request.room_id,
            event_id: &request.event_id,
            version: &request.room_version,
            event: &request.event,
            state: &request.invite_room_state,
        })
        .await?;
    Ok(JsonText(format!(r#"{{"event":{}}}"#, signed.json())))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`: the body is the event itself, of room version 1.
async fn invite_v1(args: Args<v1::Request>) -> Answer<JsonText> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        unsigned: Unsigned,
    }
    #[derive(Default, Deserialize)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<RawStrippedState>,
    }
    let body: Body = serde_json::from_slice(&args.json).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let event: &RawValue = serde_json::from_slice(&args.json).map_err(|error| ApiError::not_json(error.to_string()))?;
    let signed = args
        .hs
        .receive_invite(IncomingInvite {
            origin: &args.who.server,
            room_id: &args.request.room_id,
            event_id: &args.request.event_id,
            version: &RoomVersionId::V1,
            event,
            state: &body.unsigned.invite_room_state,
        })
        .await?;
    Ok(JsonText(format!(r#"[200,{{"event":{}}}]"#, signed.json())))
}
