//! Replacing rooms.

use http::Method;
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::{auth_scheme::AccessToken, client::room::upgrade_room::v3},
};
use serde::Deserialize;

use crate::{Answer, ApiError, RawArgs, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().raw::<AccessToken, _, _, _>(
        Method::POST,
        &["/_matrix/client/r0/rooms/{room_id}/upgrade", "/_matrix/client/v3/rooms/{room_id}/upgrade"],
        upgrade,
    )
}

#[derive(Deserialize)]
struct Body {
    new_version: String,
    #[serde(default)]
    additional_creators: Vec<OwnedUserId>,
}

/// `POST /rooms/{roomId}/upgrade`
async fn upgrade(args: RawArgs) -> Answer<v3::Response> {
    let room_id: OwnedRoomId = args.path(0)?;
    let Body { new_version, additional_creators } = args.json().await?;
    let version = super::create::version(&new_version)?;
    let hs = &args.hs;
    if hs.rooms.store().graph.room(&room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    let replacement = hs.upgrade_room(&args.who.user_id, &room_id, version, additional_creators).await?;
    Ok(v3::Response::new(replacement))
}
