//! Typing and presence.

use std::time::Duration;

use ruma::{
    UserId,
    api::client::{
        presence::{get_presence, set_presence},
        typing::create_typing_event::{self, v3::Typing},
    },
    presence::PresenceState,
};

use crate::{Answer, ApiError, Args, Routes, receipts::require_joined};

/// Longest message beside presence, in bytes.
const STATUS_BYTES_MAX: usize = 1_024;

pub(crate) fn routes() -> Routes {
    Routes::new().route(typing).route(set).route(get)
}

/// `PUT /rooms/{roomId}/typing/{userId}`
async fn typing(args: Args<create_typing_event::v3::Request>) -> Answer<create_typing_event::v3::Response> {
    args.who.require_self(&args.body.user_id)?;
    require_joined(&args.hs, &args.who, &args.body.room_id).await?;
    let typing = &args.hs.edus.typing;
    match &args.body.state {
        Typing::Yes(info) => {
            typing.start(&args.body.room_id, &args.who.user_id, info.timeout.max(Duration::from_secs(1)));
            args.hs.edus.presence.active(&args.who.user_id);
        }
        Typing::No => typing.stop(&args.body.room_id, &args.who.user_id),
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
