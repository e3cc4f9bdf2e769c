//! Rooms that two users share.

use http::Method;
use ruma::{OwnedUserId, api::auth_scheme::AccessToken};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().raw::<AccessToken, _, _, _>(
        Method::GET,
        &["/_matrix/client/v1/mutual_rooms", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"],
        mutual,
    )
}

#[derive(Deserialize)]
struct Query {
    user_id: OwnedUserId,
    from: Option<String>,
}

/// `GET /mutual_rooms`
async fn mutual(args: RawArgs) -> Answer<Json<Value>> {
    let Query { user_id, from } = args.query()?;
    if from.is_some() {
        // All rooms are in one answer, so no token was ever given.
        return Err(ApiError::invalid_param("from is not a token of this server"));
    }
    if user_id == args.who.user_id {
        return Err(ApiError::invalid_param("You share all your rooms with yourself"));
    }
    let joined = args.hs.rooms.store().graph.shared_rooms(&args.who.user_id, &user_id).await?;
    Ok(Json(json!({ "count": joined.len(), "joined": joined })))
}
