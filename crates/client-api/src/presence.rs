//! Typing and presence.

use std::time::Duration;

use http::Method;
use ruma::{
    OwnedRoomId, OwnedUserId, UserId,
    api::{
        auth_scheme::AccessToken,
        client::{
            presence::{get_presence, set_presence},
            typing::create_typing_event,
        },
    },
    presence::PresenceState,
};
use serde::Deserialize;

use crate::{Answer, ApiError, Args, RawArgs, Routes, receipts::require_joined};

/// How long somebody types who does not say.
const TYPING: Duration = Duration::from_secs(30);

/// Longest message beside presence, in bytes.
const STATUS_BYTES_MAX: usize = 1_024;

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::PUT,
            &[
                "/_matrix/client/r0/rooms/{room_id}/typing/{user_id}",
                "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
            ],
            typing,
        )
        .route(set)
        .route(get)
}

#[derive(Deserialize)]
struct Typing {
    typing: bool,
    /// SPEC: required while typing; older clients leave it out.
    timeout: Option<u64>,
}

/// `PUT /rooms/{roomId}/typing/{userId}`
async fn typing(args: RawArgs) -> Answer<create_typing_event::v3::Response> {
    let (room_id, user_id): (OwnedRoomId, OwnedUserId) = (args.path(0)?, args.path(1)?);
    let Typing { typing, timeout } = args.json().await?;
    args.who.require_self(&user_id)?;
    require_joined(&args.hs, &args.who, &room_id).await?;
    let edus = &args.hs.edus;
    if typing {
        let timeout = timeout.map_or(TYPING, Duration::from_millis).max(Duration::from_secs(1));
        edus.typing.start(&room_id, &user_id, timeout);
        edus.presence.active(&user_id);
    } else {
        edus.typing.stop(&room_id, &user_id);
    }
    Ok(create_typing_event::v3::Response::new())
}

/// `PUT /presence/{userId}/status`
async fn set(args: Args<set_presence::v3::Request>) -> Answer<set_presence::v3::Response> {
    args.who.require_self(&args.body.user_id)?;
    let state = match &args.body.presence {
        known @ (PresenceState::Online | PresenceState::Offline | PresenceState::Unavailable) => known.clone(),
        _ => return Err(ApiError::invalid_param("presence is online, unavailable or offline")),
    };
    if args.body.status_msg.as_ref().is_some_and(|message| message.len() > STATUS_BYTES_MAX) {
        return Err(ApiError::invalid_param("status_msg is too long"));
    }
    args.hs.edus.presence.set(&args.who.user_id, state, args.body.status_msg.clone());
    Ok(set_presence::v3::Response::new())
}

/// `GET /presence/{userId}/status`
async fn get(args: Args<get_presence::v3::Request>) -> Answer<get_presence::v3::Response> {
    let user_id: &UserId = &args.body.user_id;
    let presence = &args.hs.edus.presence;
    if !presence.is_enabled() {
        return Ok(get_presence::v3::Response::new(PresenceState::Offline));
    }
    if *user_id != *args.who.user_id {
        let shared = args.hs.rooms.store().graph.shared_rooms(&args.who.user_id, user_id).await;
        if shared.map_err(ApiError::internal)?.is_empty() {
            return Err(ApiError::forbidden("You share no room with this user"));
        }
    }
    let Some(entry) = presence.get(user_id) else {
        return Ok(get_presence::v3::Response::new(PresenceState::Offline));
    };
    let mut response = get_presence::v3::Response::new(entry.state.clone());
    response.status_msg = entry.status_msg;
    response.currently_active = Some(entry.currently_active);
    response.last_active_ago = Some(Duration::from_millis(presence.now_ms().saturating_sub(entry.last_active_ms)));
    Ok(response)
}
