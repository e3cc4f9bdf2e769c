//! Replacing rooms.

use ruma::api::client::room::upgrade_room::v3;

use crate::{Answer, ApiError, Args, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().route(upgrade)
}

/// `POST /rooms/{roomId}/upgrade`
async fn upgrade(args: Args<v3::Request>) -> Answer<v3::Response> {
    let (hs, body) = (&args.hs, args.body);
    if hs.rooms.store().graph.room(&body.room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    let user = &args.who.user_id;
    let replacement = hs.upgrade_room(user, &body.room_id, body.new_version, body.additional_creators).await?;
    Ok(v3::Response::new(replacement))
}
