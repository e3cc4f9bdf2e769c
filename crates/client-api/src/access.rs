//! Which endpoints are open to guests, to suspended and to locked users.

use http::Method;

use crate::principal::Access;

/// Endpoints (behind the version) that the specification opens to guests.
const GUESTS: &[(&str, &str)] = &[
    ("GET", "media/download/{}/{}"),
    ("GET", "media/download/{}/{}/{}"),
    ("GET", "media/thumbnail/{}/{}"),
    ("GET", "account/whoami"),
    ("GET", "devices"),
    ("GET", "devices/{}"),
    ("PUT", "devices/{}"),
    ("GET", "events"),
    ("POST", "keys/claim"),
    ("POST", "keys/query"),
    ("POST", "keys/upload"),
    ("DELETE", "profile/{}/{}"),
    ("PUT", "profile/{}/{}"),
    ("GET", "rooms/{}/context/{}"),
    ("GET", "rooms/{}/event/{}"),
    ("GET", "rooms/{}/initialSync"),
    ("POST", "rooms/{}/join"),
    ("POST", "join/{}"),
    ("POST", "rooms/{}/leave"),
    ("GET", "rooms/{}/members"),
    ("GET", "rooms/{}/messages"),
    ("PUT", "rooms/{}/send/{}/{}"),
    ("POST", "rooms/{}/send/{}"),
    ("GET", "rooms/{}/state"),
    ("GET", "rooms/{}/state/{}"),
    ("GET", "rooms/{}/state/{}/"),
    ("GET", "rooms/{}/state/{}/{}"),
    ("PUT", "rooms/{}/state/{}"),
    ("PUT", "rooms/{}/state/{}/"),
    ("PUT", "rooms/{}/state/{}/{}"),
    ("PUT", "sendToDevice/{}/{}"),
    ("GET", "sync"),
    // Not in the specification's list, but a guest's client cannot work without them.
    ("POST", "user/{}/filter"),
    ("GET", "user/{}/filter/{}"),
    ("GET", "pushrules/"),
    ("GET", "capabilities"),
    ("POST", "logout"),
    ("POST", "logout/all"),
    ("GET", "room_summary/{}"),
    ("GET", "joined_rooms"),
    ("GET", "profile/{}/{}"),
    ("GET", "profile/{}"),
    ("GET", "publicRooms"),
    ("POST", "publicRooms"),
    ("POST", "rooms/{}/receipt/{}/{}"),
    ("PUT", "rooms/{}/typing/{}"),
    ("PUT", "user/{}/account_data/{}"),
    ("GET", "user/{}/account_data/{}"),
];

/// Endpoints by which a user changes what others see: closed to suspended users.
const NOT_SUSPENDED: &[(&str, &str)] = &[
    ("POST", "createRoom"),
    ("POST", "join/{}"),
    ("POST", "rooms/{}/join"),
    ("POST", "knock/{}"),
    ("POST", "rooms/{}/invite"),
    ("POST", "rooms/{}/kick"),
    ("POST", "rooms/{}/ban"),
    ("POST", "rooms/{}/unban"),
    ("POST", "rooms/{}/upgrade"),
    ("PUT", "rooms/{}/send/{}/{}"),
    ("POST", "rooms/{}/send/{}"),
    ("PUT", "rooms/{}/state/{}"),
    ("PUT", "rooms/{}/state/{}/"),
    ("PUT", "rooms/{}/state/{}/{}"),
    ("PUT", "rooms/{}/typing/{}"),
    ("PUT", "profile/{}/{}"),
    ("DELETE", "profile/{}/{}"),
    ("PUT", "directory/room/{}"),
    ("DELETE", "directory/room/{}"),
    ("PUT", "directory/list/room/{}"),
    ("PUT", "presence/{}/status"),
];

/// Endpoints that a locked user may use.
const LOCKED: &[(&str, &str)] = &[("POST", "logout"), ("POST", "logout/all")];

/// Who besides ordinary users may use the endpoint.
pub(crate) fn of(method: &Method, path: &str) -> Access {
    let path = samtal_edge::without_names(path);
    // `/_matrix/client/v3/x` and `/_matrix/client/unstable/org.example/x` both end in `x`.
    let is_in = |list: &[(&str, &str)]| {
        list.iter().any(|(known_method, known)| {
            method.as_str() == *known_method
                && path
                    .strip_suffix(known)
                    .is_some_and(|rest| rest.starts_with("/_matrix/") && rest.ends_with('/') && !rest.contains("{}"))
        })
    };
    // Custom profile fields have a name of their own in the path for the two oldest.
    let profile = path.ends_with("profile/{}/displayname") || path.ends_with("profile/{}/avatar_url");
    Access {
        guests: is_in(GUESTS) || profile,
        suspended: !(is_in(NOT_SUSPENDED) || (profile && *method != Method::GET)),
        locked: is_in(LOCKED),
    }
}
