//! Invites to addresses whose owners have been found.

use http::Method;
use ruma::{
    OwnedUserId,
    api::federation::thirdparty::{bind_callback::v1 as bind, exchange_invite::v1 as exchange},
};
use samtal_ops::BoundInvite;
use samtal_policy::Action;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, Customs, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    const DEFAULTS: &[(&str, &str)] = &[("invites", "[]")];
    routes
        .with::<bind::Request, _, _, _>(Customs::defaults(DEFAULTS), bound)
        .with::<bind::Request, _, _, _>(Customs { method: Some(&Method::POST), ..Customs::defaults(DEFAULTS) }, bound)
        .route(exchanged)
}

#[derive(Deserialize)]
struct Bound {
    mxid: OwnedUserId,
    #[serde(default)]
    invites: Vec<Invite>,
}

#[derive(Deserialize)]
struct Invite {
    room_id: ruma::OwnedRoomId,
    sender: OwnedUserId,
    signed: Value,
}

/// `PUT /_matrix/federation/v1/3pid/onbind`
async fn bound(args: Args<bind::Request>) -> Answer<bind::Response> {
    on_bound(&args.hs, &args.json).await?;
    Ok(bind::Response::default())
}

/// Who calls need not prove anything: the invite's signature does, by the keys in the room.
async fn on_bound(hs: &samtal_ops::Homeserver, json: &[u8]) -> Result<(), ApiError> {
    const INVITES_MAX: usize = 50;
    let Bound { mxid, invites } =
        serde_json::from_slice(json).map_err(|error| ApiError::bad_json(error.to_string()))?;
    if !hs.is_local(&mxid) {
        return Err(ApiError::forbidden("The user is not of this server"));
    }
    let mut outcome = Ok(());
    for invite in invites.into_iter().take(INVITES_MAX) {
        let bound = BoundInvite { sender: invite.sender, target: mxid.clone(), signed: invite.signed };
        if let Err(error) = hs.invite_bound(&invite.room_id, bound).await {
            tracing::info!(room = %invite.room_id, %error, "an invite to an address did not become one to its owner");
            outcome = outcome.and(Err(error));
        }
    }
    Ok(outcome?)
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
async fn exchanged(args: Args<exchange::Request>) -> Answer<exchange::Response> {
    #[derive(Deserialize)]
    struct Body {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        third_party_invite: ThirdParty,
    }
    #[derive(Deserialize)]
    struct ThirdParty {
        signed: Value,
    }
    let request = &args.request;
    if !args.hs.is_local(&request.sender) {
        return Err(ApiError::forbidden("The inviter is not of this server"));
    }
    args.hs.check_server(&request.room_id, &args.who.server, Action::Invite).await?;
    let body: Body = serde_json::from_slice(&args.json).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let bound = BoundInvite {
        sender: request.sender.clone(),
        target: request.state_key.clone(),
        signed: body.content.third_party_invite.signed,
    };
    args.hs.invite_bound(&request.room_id, bound).await?;
    Ok(exchange::Response::default())
}
