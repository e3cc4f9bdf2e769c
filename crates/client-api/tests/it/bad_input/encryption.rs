//! Keys, messages to devices, key backup; pushers and media.

use http::Method;

use super::{Case, case, get, post, put, with_wrong_bodies};

pub(super) const WITH_BODIES: &[(Method, &str)] = &[
    (Method::POST, "/v3/keys/upload"),
    (Method::POST, "/v3/keys/query"),
    (Method::POST, "/v3/keys/claim"),
    (Method::POST, "/v3/keys/device_signing/upload"),
    (Method::POST, "/v3/keys/signatures/upload"),
    (Method::PUT, "/v3/sendToDevice/m.x/wrong"),
    (Method::POST, "/v3/room_keys/version"),
    (Method::PUT, "/v3/room_keys/version/1"),
    (Method::PUT, "/v3/room_keys/keys?version=1"),
    (Method::PUT, "/v3/room_keys/keys/{room}?version=1"),
    (Method::PUT, "/v3/room_keys/keys/{room}/session?version=1"),
    (Method::POST, "/v3/pushers/set"),
    (Method::PUT, "/unstable/org.matrix.msc3814.v1/dehydrated_device"),
];

pub(super) const READ: &[&str] =
    &["/v3/keys/changes?from=a&to=b", "/v3/room_keys/version", "/v3/room_keys/keys?version=1", "/v1/media/config"];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = with_wrong_bodies(WITH_BODIES);
    let pusher = |change: &str| {
        let whole = r#"{"kind":"http","app_id":"a","pushkey":"k","app_display_name":"a","device_display_name":"d","lang":"en",
            "data":{"url":"https://push.example/_matrix/push/v1/notify"}}"#;
        let (from, to) = change.split_once("=>").unwrap();
        assert!(whole.contains(from), "{from}");
        whole.replace(from, to)
    };
    let long = "k".repeat(600);
    cases.extend([
        post("/v3/keys/upload", r#"{"one_time_keys":[]}"#, 400, "M_BAD_JSON"),
        post("/v3/keys/upload", r#"{"device_keys":{"user_id":5}}"#, 400, "M_INVALID_PARAM"),
        post("/v3/keys/query", r#"{"device_keys":["@bob:samtal.test"]}"#, 400, "M_BAD_JSON"),
        post("/v3/keys/query", r#"{"device_keys":{"bob":[]}}"#, 400, "M_BAD_JSON"),
        post("/v3/keys/query", r#"{"device_keys":{},"timeout":1.5}"#, 400, "M_BAD_JSON"),
        post("/v3/keys/query", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/keys/claim", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/keys/claim", r#"{"one_time_keys":{"@bob:samtal.test":"PHONE"}}"#, 400, "M_BAD_JSON"),
        post("/v3/keys/device_signing/upload", r#"{"master_key":"k"}"#, 400, "M_BAD_JSON"),
        post("/v3/keys/signatures/upload", r#"{"nonsense":{}}"#, 400, "M_BAD_JSON"),
        get("/v3/keys/changes?from=nonsense&to=nonsense", 400, "M_INVALID_PARAM"),
        get("/v3/keys/changes", 400, "M_MISSING_PARAM"),
        put("/v3/sendToDevice/m.x/1", "{}", 400, "M_MISSING_PARAM"),
        put("/v3/sendToDevice/m.x/2", r#"{"messages":{"bob":{}}}"#, 400, "M_BAD_JSON"),
        put("/v3/sendToDevice/m.x/3", r#"{"messages":{"@bob:samtal.test":{"*":5}}}"#, 400, "M_BAD_JSON"),
        post("/v3/room_keys/version", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/room_keys/version", r#"{"algorithm":5,"auth_data":{}}"#, 400, "M_BAD_JSON"),
        get("/v3/room_keys/version", 404, "M_NOT_FOUND"),
        get("/v3/room_keys/version/77", 404, "M_NOT_FOUND"),
        get("/v3/room_keys/keys?version=77", 404, "M_NOT_FOUND"),
        get("/v3/room_keys/keys", 400, "M_MISSING_PARAM"),
        put("/v3/room_keys/keys?version=77", r#"{"rooms":{}}"#, 404, "M_NOT_FOUND"),
        case(Method::DELETE, "/v3/room_keys/version/77", "", 404, "M_NOT_FOUND"),
        get("/unstable/org.matrix.msc3814.v1/dehydrated_device", 404, "M_NOT_FOUND"),
        post("/v3/pushers/set", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/pushers/set", pusher(r#""https://push.example/_matrix/push/v1/notify"=>5"#), 400, "M_INVALID_PARAM"),
        post("/v3/pushers/set", pusher(r#""lang":"en"=>"lang":5"#), 400, "M_BAD_JSON"),
        post(
            "/v3/pushers/set",
            pusher("https://push.example/_matrix/push/v1/notify=>nonsense"),
            400,
            "M_INVALID_PARAM",
        ),
        post("/v3/pushers/set", pusher(&format!(r#""pushkey":"k"=>"pushkey":"{long}""#)), 400, "M_INVALID_PARAM"),
        // Media.
        get("/v1/media/download/samtal.test/nowhere", 404, "M_NOT_FOUND"),
        get("/v1/media/download/samtal.test/..%2F..%2Fetc", 404, "M_NOT_FOUND"),
        get("/v1/media/download/samtal.test/%00", 400, "M_INVALID_PARAM"),
        get("/v1/media/thumbnail/samtal.test/nowhere", 400, "M_MISSING_PARAM"),
        get("/v1/media/thumbnail/samtal.test/nowhere?width=wide&height=5", 400, "M_INVALID_PARAM"),
        get("/v1/media/thumbnail/samtal.test/nowhere?width=5.5&height=5", 400, "M_INVALID_PARAM"),
        get("/v1/media/thumbnail/samtal.test/nowhere?width=-5&height=5", 400, "M_INVALID_PARAM"),
        get("/v1/media/thumbnail/samtal.test/nowhere?width=5&height=5&method=stretch", 400, "M_INVALID_PARAM"),
    ]);
    cases
}
