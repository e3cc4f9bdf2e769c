//! Making rooms.

use http::Method;
use ruma::{
    RoomVersionId,
    api::{
        IncomingRequest,
        auth_scheme::AccessToken,
        client::room::create_room::v3::{self, RoomPreset},
    },
    serde::Raw,
};
use samtal_ops::{Content, CreateRoom, InitialState};
use serde::Deserialize;

use crate::{Answer, ApiError, RawArgs, Routes};

/// Most addresses that are invited while a room is made.
const ADDRESSES_MAX: usize = 20;

pub(super) fn routes() -> Routes {
    Routes::new().raw::<AccessToken, _, _, _>(
        Method::POST,
        &["/_matrix/client/r0/createRoom", "/_matrix/client/v3/createRoom"],
        create,
    )
}

#[derive(Deserialize)]
struct Version {
    room_version: Option<String>,
}

#[derive(Deserialize)]
struct Initial {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    state_key: String,
    content: Content,
}

/// A room version, whatever text a client sent.
pub(super) fn version(text: &str) -> Result<RoomVersionId, ApiError> {
    RoomVersionId::try_from(text).map_err(|_| {
        ApiError::new(
            http::StatusCode::BAD_REQUEST,
            "M_UNSUPPORTED_ROOM_VERSION",
            format!("{text} is not a room version"),
        )
    })
}

/// `POST /createRoom`
async fn create(args: RawArgs) -> Answer<v3::Response> {
    let json = args.json_bytes().await?;
    let Version { room_version } = serde_json::from_slice(&json).map_err(|error| crate::args::json_error(&error))?;
    if let Some(room_version) = &room_version {
        version(room_version)?;
    }
    let request = http::Request::from_parts(args.parts, &*json);
    let body = v3::Request::try_from_http_request_inner(request, &[]).map_err(crate::args::deserialization_error)?;
    let mut wish = CreateRoom::new(args.who.user_id.clone());
    wish.version = body.room_version;
    wish.preset = body.preset;
    if !matches!(
        wish.preset,
        None | Some(RoomPreset::PrivateChat | RoomPreset::PublicChat | RoomPreset::TrustedPrivateChat)
    ) {
        return Err(ApiError::bad_json("preset is private_chat, public_chat or trusted_private_chat"));
    }
    wish.published = super::public(&body.visibility)?;
    wish.alias_localpart = body.room_alias_name;
    wish.name = body.name.filter(|name| !name.is_empty());
    wish.topic = body.topic.filter(|topic| !topic.is_empty());
    wish.invite = body.invite;
    wish.is_direct = body.is_direct;
    wish.creation_content = object(body.creation_content.as_ref())?;
    wish.power_levels = object(body.power_level_content_override.as_ref())?;
    wish.service = super::service(&args.who).map(ToOwned::to_owned);
    for asked in &body.initial_state {
        let Initial { event_type, state_key, content } =
            serde_json::from_str(asked.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
        wish.initial_state.push(InitialState { event_type, state_key, content });
    }
    let room_id = args.hs.create_room(wish).await?;
    for invited in body.invite_3pid.into_iter().take(ADDRESSES_MAX) {
        let address = super::membership::address(invited);
        args.hs.invite_address(&args.who.user_id, &room_id, &address).await?;
    }
    Ok(v3::Response::new(room_id))
}

/// An optional JSON object.
fn object<T>(raw: Option<&Raw<T>>) -> Result<Content, ApiError> {
    match raw {
        None => Ok(Content::new()),
        Some(raw) => serde_json::from_str(raw.json().get()).map_err(|error| ApiError::bad_json(error.to_string())),
    }
}
