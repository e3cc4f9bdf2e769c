//! Rooms: making, entering, speaking, reading, and the directory; sync and search over them.

use http::Method;

use super::{Case, case, get, post, put, with_wrong_bodies};

pub(super) const WITH_BODIES: &[(Method, &str)] = &[
    (Method::POST, "/v3/createRoom"),
    (Method::POST, "/v3/join/{room}"),
    (Method::POST, "/v3/knock/{theirs}"),
    (Method::POST, "/v3/rooms/{room}/join"),
    (Method::POST, "/v3/rooms/{theirs}/leave"),
    (Method::POST, "/v3/rooms/{room}/invite"),
    (Method::POST, "/v3/rooms/{room}/kick"),
    (Method::POST, "/v3/rooms/{room}/ban"),
    (Method::POST, "/v3/rooms/{room}/unban"),
    (Method::POST, "/v3/rooms/{room}/upgrade"),
    (Method::POST, "/v3/rooms/{room}/report"),
    (Method::POST, "/v3/rooms/{room}/report/{event}"),
    (Method::POST, "/v3/rooms/{room}/read_markers"),
    (Method::POST, "/v3/rooms/{room}/receipt/m.read/{event}"),
    (Method::PUT, "/v3/rooms/{room}/send/m.room.message/wrong"),
    (Method::PUT, "/v3/rooms/{room}/state/m.room.topic"),
    (Method::PUT, "/v3/rooms/{room}/state/m.room.topic/key"),
    (Method::PUT, "/v3/rooms/{room}/redact/{event}/wrong"),
    (Method::PUT, "/v3/rooms/{room}/typing/{me}"),
    (Method::PUT, "/v3/directory/room/%23wrong:samtal.test"),
    (Method::PUT, "/v3/directory/list/room/{room}"),
    (Method::POST, "/v3/publicRooms"),
    (Method::POST, "/v3/search"),
    (Method::POST, "/v3/user_directory/search"),
    (Method::POST, "/v3/users/{me}/report"),
    (Method::PUT, "/v3/presence/{me}/status"),
    (Method::POST, "/unstable/org.matrix.simplified_msc3575/sync"),
];

pub(super) const READ: &[&str] = &[
    "/v3/sync",
    "/v3/joined_rooms",
    "/v3/notifications",
    "/v3/pushers",
    "/v3/rooms/{room}/members",
    "/v3/rooms/{room}/joined_members",
    "/v3/rooms/{room}/messages?dir=b",
    "/v3/rooms/{room}/state",
    "/v3/rooms/{room}/state/m.room.create",
    "/v3/rooms/{room}/event/{event}",
    "/v3/rooms/{room}/context/{event}",
    "/v3/rooms/{room}/aliases",
    "/v1/rooms/{room}/hierarchy",
    "/v1/rooms/{room}/threads",
    "/v1/rooms/{room}/relations/{event}",
    "/v1/rooms/{room}/timestamp_to_event?ts=0&dir=f",
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = with_wrong_bodies(WITH_BODIES);
    let long = "x".repeat(300);
    let message = "/v3/rooms/{room}/send/m.room.message";
    cases.extend([
        // Wrong types.
        post("/v3/createRoom", r#"{"room_version":12}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"room_version":"999"}"#, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        post("/v3/createRoom", r#"{"preset":"secret_chat"}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"visibility":"hidden"}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"invite":"@bob:samtal.test"}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"invite":["bob"]}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"name":5}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"is_direct":"yes"}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"initial_state":{}}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"initial_state":[{"type":"m.room.topic"}]}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"creation_content":[]}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"creation_content":{"n":1.5}}"#, 400, "M_BAD_JSON"),
        post("/v3/createRoom", r#"{"power_level_content_override":{"ban":"50"}}"#, 400, "M_INVALID_ROOM_STATE"),
        post("/v3/createRoom", r#"{"room_alias_name":"with space"}"#, 400, "M_INVALID_PARAM"),
        post("/v3/createRoom", r#"{"room_alias_name":"with:colon"}"#, 400, "M_INVALID_PARAM"),
        post("/v3/rooms/{room}/invite", r#"{"user_id":5}"#, 400, "M_BAD_JSON"),
        post("/v3/rooms/{room}/invite", r#"{"user_id":"bob"}"#, 400, "M_BAD_JSON"),
        post("/v3/rooms/{room}/invite", "{}", 400, "M_BAD_JSON"),
        post("/v3/rooms/{room}/kick", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/rooms/{room}/ban", r#"{"user_id":"@bob:samtal.test","reason":5}"#, 400, "M_BAD_JSON"),
        post("/v3/rooms/{room}/upgrade", r#"{"new_version":12}"#, 400, "M_BAD_JSON"),
        post("/v3/rooms/{room}/upgrade", r#"{"new_version":"999"}"#, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        post("/v3/rooms/{room}/upgrade", "{}", 400, "M_MISSING_PARAM"),
        put("/v3/rooms/{room}/typing/{me}", r#"{"typing":"yes"}"#, 400, "M_BAD_JSON"),
        put("/v3/rooms/{room}/typing/{me}", r#"{"typing":true,"timeout":1.5}"#, 400, "M_BAD_JSON"),
        put("/v3/rooms/{room}/typing/@bob:samtal.test", r#"{"typing":true}"#, 403, "M_FORBIDDEN"),
        post("/v3/rooms/{room}/receipt/m.strange/{event}", "{}", 400, "M_INVALID_PARAM"),
        post("/v3/rooms/{room}/receipt/m.read/{event}", r#"{"thread_id":5}"#, 400, "M_BAD_JSON"),
        post("/v3/rooms/{room}/read_markers", r#"{"m.fully_read":5}"#, 400, "M_BAD_JSON"),
        put("/v3/directory/room/%23x:samtal.test", "{}", 400, "M_MISSING_PARAM"),
        put("/v3/directory/room/%23x:samtal.test", r#"{"room_id":"nonsense"}"#, 400, "M_BAD_JSON"),
        put("/v3/directory/room/%23x:elsewhere.test", r#"{"room_id":"!a:b"}"#, 400, "M_INVALID_PARAM"),
        put("/v3/directory/list/room/{room}", r#"{"visibility":"hidden"}"#, 400, "M_BAD_JSON"),
        post("/v3/publicRooms", r#"{"limit":"ten"}"#, 400, "M_BAD_JSON"),
        post("/v3/publicRooms", r#"{"limit":1.5}"#, 400, "M_BAD_JSON"),
        post("/v3/search", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/search", r#"{"search_categories":{"room_events":{"search_term":5}}}"#, 400, "M_BAD_JSON"),
        post("/v3/user_directory/search", r#"{"search_term":["a"]}"#, 400, "M_BAD_JSON"),
        post("/v3/user_directory/search", "{}", 400, "M_MISSING_PARAM"),
        put("/v3/presence/{me}/status", r#"{"presence":"asleep"}"#, 400, "M_INVALID_PARAM"),
        put("/v3/presence/@bob:samtal.test/status", r#"{"presence":"online"}"#, 403, "M_FORBIDDEN"),
        // Numbers: no floats, nothing beyond 2^53 - 1, whatever they are for (conformance notes 1 and 19).
        put(&format!("{message}/n1"), r#"{"msgtype":"m.text","body":"x","n":1.5}"#, 400, "M_BAD_JSON"),
        put(&format!("{message}/n2"), r#"{"msgtype":"m.text","body":"x","n":9007199254740992}"#, 400, "M_BAD_JSON"),
        put(&format!("{message}/n3"), r#"{"msgtype":"m.text","body":"x","n":-9007199254740992}"#, 400, "M_BAD_JSON"),
        put(&format!("{message}/n4"), r#"{"msgtype":"m.text","body":"x","n":1e400}"#, 400, "M_BAD_JSON"),
        put("/v3/rooms/{room}/state/m.room.power_levels", r#"{"users":{"{me}":"100"}}"#, 400, "M_BAD_JSON"),
        put("/v3/rooms/{room}/state/m.room.power_levels", r#"{"ban":50.0}"#, 400, "M_BAD_JSON"),
        put("/v3/rooms/{room}/state/m.room.member/{me}", r#"{"membership":5}"#, 400, "M_BAD_JSON"),
        put("/v3/rooms/{room}/state/m.room.canonical_alias", r#"{"alias":"nonsense"}"#, 400, "M_INVALID_PARAM"),
        put("/v3/rooms/{room}/state/m.room.create", "{}", 400, "M_UNKNOWN"),
        put("/v3/rooms/{room}/send/m.room.create/c", "{}", 403, "M_FORBIDDEN"),
        // Text that is none.
        put(&format!("{message}/s1"), br#"{"msgtype":"m.text","body":"\ud800"}"#, 400, "M_BAD_JSON"),
        put(&format!("{message}/s2"), br#"{"msgtype":"m.text","\udfff":"x"}"#, 400, "M_BAD_JSON"),
        // Ids.
        get("/v3/rooms/nonsense/state", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/!%00:samtal.test/state", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/!%FF:samtal.test/state", 400, "M_INVALID_PARAM"),
        get(&format!("/v3/rooms/!{long}:samtal.test/state"), 403, "M_FORBIDDEN"),
        get("/v3/rooms/{room}/event/nonsense", 400, "M_INVALID_PARAM"),
        get(&format!("/v3/rooms/{{room}}/event/${long}"), 404, "M_NOT_FOUND"),
        get("/v3/rooms/{room}/event/$nowhere", 404, "M_NOT_FOUND"),
        get("/v3/rooms/{room}/context/$nowhere", 404, "M_NOT_FOUND"),
        get("/v3/rooms/{room}/state/m.room.nothing", 404, "M_NOT_FOUND"),
        get("/v3/directory/room/nonsense", 400, "M_INVALID_PARAM"),
        get("/v3/directory/room/%23nowhere:samtal.test", 404, "M_NOT_FOUND"),
        case(Method::DELETE, "/v3/directory/room/%23nowhere:samtal.test", "", 404, "M_NOT_FOUND"),
        post("/v3/join/nonsense", "{}", 400, "M_INVALID_PARAM"),
        post("/v3/join/%23nowhere:samtal.test", "{}", 404, "M_NOT_FOUND"),
        // Queries.
        get("/v3/sync?timeout=soon", 400, "M_INVALID_PARAM"),
        get("/v3/sync?since=yesterday", 400, "M_INVALID_PARAM"),
        get("/v3/sync?filter=%7B", 400, "M_INVALID_PARAM"),
        get("/v3/sync?filter=%7B%22room%22%3A5%7D", 400, "M_INVALID_PARAM"),
        get("/v3/sync?full_state=maybe", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/{room}/messages", 400, "M_MISSING_PARAM"),
        get("/v3/rooms/!nowhere:samtal.test/messages", 403, "M_FORBIDDEN"),
        get("/v3/rooms/{room}/messages?dir=x", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/{room}/messages?dir=b&limit=1.5", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/{room}/messages?dir=b&limit=-1", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/{room}/messages?dir=b&from=nonsense", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/{room}/messages?dir=b&filter=nonsense", 400, "M_NOT_JSON"),
        get("/v3/rooms/{room}/context/{event}?limit=many", 400, "M_INVALID_PARAM"),
        get("/v3/rooms/{room}/members?at=nonsense", 400, "M_INVALID_PARAM"),
        get("/v1/rooms/{room}/hierarchy?max_depth=deep", 400, "M_INVALID_PARAM"),
        get("/v1/rooms/{room}/hierarchy?from=nonsense", 400, "M_INVALID_PARAM"),
        get("/v1/rooms/{room}/threads?include=some", 400, "M_INVALID_PARAM"),
        get("/v1/rooms/{room}/relations/{event}?from=nonsense", 400, "M_INVALID_PARAM"),
        get("/v1/rooms/{room}/timestamp_to_event?dir=f", 400, "M_MISSING_PARAM"),
        get("/v1/rooms/{room}/timestamp_to_event?ts=noon&dir=f", 400, "M_INVALID_PARAM"),
        get("/v3/publicRooms?limit=ten", 400, "M_INVALID_PARAM"),
        get("/v3/publicRooms?since=nonsense", 400, "M_INVALID_PARAM"),
        get("/v3/notifications?from=nonsense", 400, "M_INVALID_PARAM"),
        post("/unstable/org.matrix.simplified_msc3575/sync?pos=nonsense", "{}", 400, "M_UNKNOWN_POS"),
        // Sizes.
        put(&format!("/v3/rooms/{{room}}/send/{long}/l1"), "{}", 413, "M_TOO_LARGE"),
        put(&format!("/v3/rooms/{{room}}/state/m.x/{long}"), "{}", 413, "M_TOO_LARGE"),
        put(&format!("{message}/l2"), format!(r#"{{"body":"{}"}}"#, "x".repeat(65_536)), 413, "M_TOO_LARGE"),
        put("/v3/rooms/{room}/state/m.x", format!(r#"{{"body":"{}"}}"#, "x".repeat(65_536)), 413, "M_TOO_LARGE"),
        post("/v3/createRoom", vec![b' '; 9 * 1024 * 1024], 413, "M_TOO_LARGE"),
    ]);
    // Somebody else's room, and one that nobody has ever made.
    for room in ["{theirs}", "!nowhere:samtal.test"] {
        let forbidden = |path: &str| get(&path.replace("{room}", room), 403, "M_FORBIDDEN");
        cases.extend(
            [
                "/v3/rooms/{room}/members",
                "/v3/rooms/{room}/joined_members",
                "/v3/rooms/{room}/messages?dir=b",
                "/v3/rooms/{room}/state",
                "/v3/rooms/{room}/state/m.room.create",
                "/v3/rooms/{room}/aliases",
                "/v1/rooms/{room}/hierarchy",
                "/v1/rooms/{room}/threads",
            ]
            .map(forbidden),
        );
        cases.push(get(&format!("/v3/rooms/{room}/event/{{event}}"), 404, "M_NOT_FOUND"));
        cases.push(get(&format!("/v3/rooms/{room}/context/{{event}}"), 403, "M_FORBIDDEN"));
        for (method, path, body) in [
            (Method::PUT, "/v3/rooms/{room}/send/m.room.message/t", r#"{"msgtype":"m.text","body":"x"}"#),
            (Method::PUT, "/v3/rooms/{room}/state/m.room.topic", r#"{"topic":"x"}"#),
            (Method::PUT, "/v3/rooms/{room}/redact/{event}/t", "{}"),
            (Method::PUT, "/v3/rooms/{room}/typing/{me}", r#"{"typing":true,"timeout":1000}"#),
            (Method::POST, "/v3/rooms/{room}/invite", r#"{"user_id":"@bob:samtal.test"}"#),
            (Method::POST, "/v3/rooms/{room}/kick", r#"{"user_id":"@bob:samtal.test"}"#),
            (Method::POST, "/v3/rooms/{room}/ban", r#"{"user_id":"@bob:samtal.test"}"#),
            (Method::POST, "/v3/rooms/{room}/unban", r#"{"user_id":"@bob:samtal.test"}"#),
        ] {
            cases.push(case(method, &path.replace("{room}", room), body, 403, "M_FORBIDDEN"));
        }
    }
    cases.push(post("/v3/rooms/{theirs}/join", "{}", 403, "M_FORBIDDEN"));
    cases.push(post("/v3/rooms/{theirs}/upgrade", r#"{"new_version":"12"}"#, 403, "M_FORBIDDEN"));
    cases.push(put("/v3/directory/list/room/{theirs}", r#"{"visibility":"public"}"#, 403, "M_FORBIDDEN"));
    cases
}
