//! Accounts, devices, profiles, account data, filters, push rules.

use http::Method;

use super::{Case, get, post, put, with_wrong_bodies};

pub(super) const WITH_BODIES: &[(Method, &str)] = &[
    (Method::POST, "/v3/login"),
    (Method::POST, "/v3/register"),
    (Method::POST, "/v3/refresh"),
    (Method::POST, "/v3/account/password"),
    (Method::POST, "/v3/account/deactivate"),
    (Method::POST, "/v3/logout"),
    (Method::PUT, "/v3/devices/PHONE"),
    (Method::DELETE, "/v3/devices/PHONE"),
    (Method::POST, "/v3/delete_devices"),
    (Method::PUT, "/v3/profile/{me}/displayname"),
    (Method::PUT, "/v3/user/{me}/account_data/x"),
    (Method::PUT, "/v3/user/{me}/rooms/!a:samtal.test/account_data/x"),
    (Method::PUT, "/v3/user/{me}/rooms/!a:samtal.test/tags/x"),
    (Method::POST, "/v3/user/{me}/filter"),
    (Method::PUT, "/v3/pushrules/global/content/x"),
    (Method::PUT, "/v3/pushrules/global/content/x/enabled"),
    (Method::POST, "/v3/user/{me}/openid/request_token"),
    (Method::POST, "/v1/login/get_token"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = with_wrong_bodies(WITH_BODIES);
    cases.extend([
        // Wrong types.
        post("/v3/login", r#"{"type":5}"#, 400, "M_BAD_JSON"),
        post("/v3/login", r#"{"type":"m.login.password","password":1.5}"#, 400, "M_BAD_JSON"),
        post("/v3/register", r#"{"username":["alice"]}"#, 400, "M_BAD_JSON"),
        post("/v3/register", r#"{"inhibit_login":"yes"}"#, 400, "M_BAD_JSON"),
        post("/v3/register", r#"{"auth":[]}"#, 400, "M_BAD_JSON"),
        post("/v3/register", r#"{"auth":{"session":5}}"#, 400, "M_BAD_JSON"),
        post("/v3/register", r#"{"auth":{"type":"m.login.magic"}}"#, 400, "M_UNRECOGNIZED"),
        post("/v3/account/password", r#"{"new_password":12345678}"#, 400, "M_BAD_JSON"),
        post("/v3/delete_devices", r#"{"devices":"PHONE"}"#, 400, "M_BAD_JSON"),
        post("/v3/delete_devices", r#"{"devices":[1.0]}"#, 400, "M_BAD_JSON"),
        put("/v3/devices/PHONE", r#"{"display_name":{}}"#, 400, "M_BAD_JSON"),
        put("/v3/pushrules/global/content/x", r#"{"actions":"notify","pattern":"x"}"#, 400, "M_BAD_JSON"),
        put("/v3/pushrules/global/content/x/enabled", r#"{"enabled":"yes"}"#, 400, "M_BAD_JSON"),
        post("/v3/user/{me}/filter", r#"{"event_fields":"content"}"#, 400, "M_BAD_JSON"),
        post("/v3/user/{me}/filter", r#"{"room":{"timeline":{"limit":1.5}}}"#, 400, "M_BAD_JSON"),
        post("/v3/user/{me}/filter", r#"{"room":{"rooms":["not a room"]}}"#, 400, "M_BAD_JSON"),
        // Unpaired surrogates are no text.
        put("/v3/profile/{me}/displayname", br#"{"displayname":"\ud800"}"#, 400, "M_BAD_JSON"),
        put("/v3/devices/PHONE", br#"{"display_name":"\udfff"}"#, 400, "M_BAD_JSON"),
        // Missing values.
        post("/v3/login", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/login", r#"{"type":"m.login.password","user":"alice"}"#, 400, "M_MISSING_PARAM"),
        post("/v3/refresh", "", 400, "M_MISSING_PARAM"),
        post("/v3/account/password", "{}", 400, "M_MISSING_PARAM"),
        post("/v3/delete_devices", "{}", 400, "M_MISSING_PARAM"),
        put("/v3/pushrules/global/content/x/enabled", "{}", 400, "M_MISSING_PARAM"),
        get("/v1/register/m.login.registration_token/validity", 400, "M_MISSING_PARAM"),
        // Ids.
        get("/v3/profile/alice", 400, "M_INVALID_PARAM"),
        get("/v3/profile/%40alice%00%3Asamtal.test", 400, "M_INVALID_PARAM"),
        get("/v3/profile/%FF", 400, "M_INVALID_PARAM"),
        get(&format!("/v3/profile/@{}:samtal.test", "a".repeat(300)), 404, "M_NOT_FOUND"),
        get("/v3/user/alice/account_data/x", 400, "M_INVALID_PARAM"),
        put("/v3/user/{me}/rooms/@a:b/account_data/x", "{}", 400, "M_INVALID_PARAM"),
        get("/v3/user/@bob:samtal.test/account_data/x", 403, "M_FORBIDDEN"),
        get("/v3/user/@bob:samtal.test/filter/0", 403, "M_FORBIDDEN"),
        get("/v3/devices/%00", 400, "M_INVALID_PARAM"),
        get("/v3/devices/NOWHERE", 404, "M_NOT_FOUND"),
        get("/v3/admin/whois/@bob:samtal.test", 403, "M_FORBIDDEN"),
        get("/v3/pushrules/global/nonsense/x", 404, "M_NOT_FOUND"),
        // Sizes.
        post("/v3/login", vec![b' '; 9 * 1024 * 1024], 413, "M_TOO_LARGE"),
        put("/v3/user/{me}/account_data/x", format!("{{\"a\":\"{}\"}}", "x".repeat(600_000)), 413, "M_TOO_LARGE"),
    ]);
    cases
}
