//! What a room says of itself to those who are not in it.

use ruma::api::client::room::get_summary::v1;

use crate::{Answer, ApiError, Args, Routes};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route(summary)
        .route_at(&["/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}"], summary)
}

/// `GET /room_summary/{roomIdOrAlias}`
async fn summary(args: Args<v1::Request>) -> Answer<v1::Response> {
    let hs = &args.hs;
    let user = args.who.as_ref().map(|who| who.user_id.clone());
    let (room_id, via) = super::resolve(hs, &args.body.room_id_or_alias, args.body.via).await?;
    let summary = hs.preview(user.as_deref(), &room_id, &via).await?;
    let summary = summary.ok_or_else(|| ApiError::not_found("The room does not exist, or you may not see it"))?;
    let mut response = v1::Response::new(summary);
    if let Some(user) = user {
        response.membership = Some(hs.membership(&user, &room_id).await?);
    }
    Ok(response)
}
