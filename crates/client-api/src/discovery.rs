//! What the server can do: versions and capabilities.

use http::{HeaderValue, Method, header};
use ruma::{
    RoomVersionId,
    api::auth_scheme::{AccessToken, AccessTokenOptional},
};
use samtal_ops::delayed_event::{DELAY_MS_MAX, SCHEDULED_MAX};
use serde_json::{Map, Value, json};

use crate::{Answer, Json, Raw, RawArgs, Routes};

/// The versions of the specification that are true of this server, as clients search for them.
const VERSIONS: &[&str] = &[
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12",
    "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18",
];

/// Unstable features that work, each with the reason to say so.
const UNSTABLE_FEATURES: &[&str] = &[
    // Extended profiles under their older name.
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    // Locking and suspending by administrators of the server.
    "uk.timedout.msc4323",
    // Logging another device in with a token of this one.
    "org.matrix.msc3882",
    // Users may refuse invites.
    "org.matrix.msc4380",
    "org.matrix.msc4380.stable",
    // Rooms that two users share.
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    // Simplified sliding sync, without which Element X does not start.
    "org.matrix.simplified_msc3575",
    // Delayed events, by which calls notice that a device is gone.
    "org.matrix.msc4140",
    // Account data can be deleted.
    "org.matrix.msc3391",
    // Events by what they say of others.
    "org.matrix.msc3874",
    // Notifications of single devices are silenced by others; what is said of a device goes with it.
    "org.matrix.msc3890",
    // Push rules for polls.
    "org.matrix.msc3930",
    // Lists of those whose invites are refused or ignored.
    "org.matrix.msc4155",
    // Subscriptions to threads, and their way into sliding sync.
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    // Sticky events, by which calls know who takes part.
    "org.matrix.msc4354",
];

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessTokenOptional, _, _, _>(Method::GET, &["/_matrix/client/versions"], versions)
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/capabilities", "/_matrix/client/v3/capabilities"],
            capabilities,
        )
}

/// `GET /versions`. It could differ by user some day, so caches are told.
async fn versions(_: RawArgs<AccessTokenOptional>) -> Answer<Raw> {
    let features: Map<String, Value> = UNSTABLE_FEATURES.iter().map(|name| ((*name).to_owned(), true.into())).collect();
    let body = json!({ "versions": VERSIONS, "unstable_features": features });
    let mut response = crate::json_response(http::StatusCode::OK, &body);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Authorization"));
    Ok(Raw(response))
}

/// `GET /capabilities`
async fn capabilities(args: RawArgs) -> Answer<Json<Value>> {
    let rooms: Map<String, Value> =
        room_versions().iter().map(|version| (version.to_string(), "stable".into())).collect();
    let can_change_password = args.hs.accounts.options().password_login && !args.who.is_guest;
    let mut capabilities = json!({
        "m.change_password": { "enabled": can_change_password },
        "m.room_versions": { "default": args.hs.settings.default_room_version, "available": rooms },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.3pid_changes": { "enabled": args.hs.settings.mail.is_some() },
        "m.get_login_token": { "enabled": !args.who.is_guest },
        "org.matrix.msc4140.delayed_events": { "max_delay_ms": DELAY_MS_MAX, "max_scheduled": SCHEDULED_MAX },
    });
    if args.who.is_admin {
        // Left out for those who may do neither.
        let both = json!({ "suspend": true, "lock": true });
        capabilities["uk.timedout.msc4323"] = both.clone();
        capabilities["m.account_moderation"] = both;
    }
    Ok(Json(json!({ "capabilities": capabilities })))
}

/// The room versions that rooms can be made in.
fn room_versions() -> [RoomVersionId; 12] {
    [
        RoomVersionId::V1,
        RoomVersionId::V2,
        RoomVersionId::V3,
        RoomVersionId::V4,
        RoomVersionId::V5,
        RoomVersionId::V6,
        RoomVersionId::V7,
        RoomVersionId::V8,
        RoomVersionId::V9,
        RoomVersionId::V10,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ]
}
