//! What the server answers to requests that are wrong. Each row: method, path, body, status, `errcode`.

use http::Method;

use crate::harness::each_engine;

const ME: &str = "@alice:samtal.test";

struct Case {
    method: Method,
    path: String,
    body: Vec<u8>,
    status: u16,
    errcode: &'static str,
}

fn case(method: Method, path: &str, body: impl AsRef<[u8]>, status: u16, errcode: &'static str) -> Case {
    Case { method, path: path.replace("{me}", ME), body: body.as_ref().to_vec(), status, errcode }
}

/// Bodies that are wrong whatever the endpoint wants.
fn wrong_bodies() -> Vec<(Vec<u8>, &'static str)> {
    let mut deep = b"{\"a\":".repeat(200);
    deep.extend(b"1");
    deep.extend(b"}".repeat(200));
    vec![
        (b"{".to_vec(), "M_NOT_JSON"),
        (b"not json".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":1,}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":NaN}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":Infinity}".to_vec(), "M_NOT_JSON"),
        (b"{'a':1}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":1} x".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":\"\xff\xfe\"}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":\"raw \x00 nul\"}".to_vec(), "M_NOT_JSON"),
        (deep, "M_NOT_JSON"),
        (b"[]".to_vec(), "M_BAD_JSON"),
        (b"\"text\"".to_vec(), "M_BAD_JSON"),
        (b"5".to_vec(), "M_BAD_JSON"),
        (b"null".to_vec(), "M_BAD_JSON"),
    ]
}

const WITH_BODIES: &[(Method, &str)] = &[
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

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (method, path) in WITH_BODIES {
        for (body, errcode) in wrong_bodies() {
            cases.push(case(method.clone(), path, body, 400, errcode));
        }
    }
    let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
    cases.extend([
        // Wrong types.
        case(post.clone(), "/v3/login", r#"{"type":5}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/login", r#"{"type":"m.login.password","password":1.5}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/register", r#"{"username":["alice"]}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/register", r#"{"inhibit_login":"yes"}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/register", r#"{"auth":[]}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/register", r#"{"auth":{"session":5}}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/register", r#"{"auth":{"type":"m.login.magic"}}"#, 400, "M_UNRECOGNIZED"),
        case(post.clone(), "/v3/account/password", r#"{"new_password":12345678}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/delete_devices", r#"{"devices":"PHONE"}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/delete_devices", r#"{"devices":[1.0]}"#, 400, "M_BAD_JSON"),
        case(put.clone(), "/v3/devices/PHONE", r#"{"display_name":{}}"#, 400, "M_BAD_JSON"),
        case(put.clone(), "/v3/pushrules/global/content/x", r#"{"actions":"notify","pattern":"x"}"#, 400, "M_BAD_JSON"),
        case(put.clone(), "/v3/pushrules/global/content/x/enabled", r#"{"enabled":"yes"}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/user/{me}/filter", r#"{"event_fields":"content"}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/user/{me}/filter", r#"{"room":{"timeline":{"limit":1.5}}}"#, 400, "M_BAD_JSON"),
        case(post.clone(), "/v3/user/{me}/filter", r#"{"room":{"rooms":["not a room"]}}"#, 400, "M_BAD_JSON"),
        // Unpaired surrogates are no text.
        case(put.clone(), "/v3/profile/{me}/displayname", br#"{"displayname":"\ud800"}"#, 400, "M_NOT_JSON"),
        case(put.clone(), "/v3/devices/PHONE", br#"{"display_name":"\udfff"}"#, 400, "M_NOT_JSON"),
        // Missing values.
        case(post.clone(), "/v3/login", "{}", 400, "M_MISSING_PARAM"),
        case(post.clone(), "/v3/login", r#"{"type":"m.login.password","user":"alice"}"#, 400, "M_MISSING_PARAM"),
        case(post.clone(), "/v3/refresh", "", 400, "M_MISSING_PARAM"),
        case(post.clone(), "/v3/account/password", "{}", 400, "M_MISSING_PARAM"),
        case(post.clone(), "/v3/delete_devices", "{}", 400, "M_MISSING_PARAM"),
        case(put.clone(), "/v3/pushrules/global/content/x/enabled", "{}", 400, "M_MISSING_PARAM"),
        case(get.clone(), "/v1/register/m.login.registration_token/validity", "", 400, "M_MISSING_PARAM"),
        // Ids.
        case(get.clone(), "/v3/profile/alice", "", 400, "M_INVALID_PARAM"),
        case(get.clone(), "/v3/profile/%40alice%00%3Asamtal.test", "", 400, "M_INVALID_PARAM"),
        case(get.clone(), "/v3/profile/%FF", "", 400, "M_INVALID_PARAM"),
        case(get.clone(), &format!("/v3/profile/@{}:samtal.test", "a".repeat(300)), "", 404, "M_NOT_FOUND"),
        case(get.clone(), "/v3/user/alice/account_data/x", "", 400, "M_INVALID_PARAM"),
        case(put.clone(), "/v3/user/{me}/rooms/@a:b/account_data/x", "{}", 400, "M_INVALID_PARAM"),
        case(get.clone(), "/v3/user/@bob:samtal.test/account_data/x", "", 403, "M_FORBIDDEN"),
        case(get.clone(), "/v3/user/@bob:samtal.test/filter/0", "", 403, "M_FORBIDDEN"),
        case(get.clone(), "/v3/devices/%00", "", 400, "M_INVALID_PARAM"),
        case(get.clone(), "/v3/devices/NOWHERE", "", 404, "M_NOT_FOUND"),
        case(get.clone(), "/v3/admin/whois/@bob:samtal.test", "", 403, "M_FORBIDDEN"),
        case(get, "/v3/pushrules/global/nonsense/x", "", 404, "M_NOT_FOUND"),
        // Sizes.
        case(post, "/v3/login", vec![b' '; 9 * 1024 * 1024], 413, "M_TOO_LARGE"),
        case(put, "/v3/user/{me}/account_data/x", format!("{{\"a\":\"{}\"}}", "x".repeat(600_000)), 413, "M_TOO_LARGE"),
    ]);
    cases
}

/// Conformance notes 67 and 68.
#[tokio::test]
async fn what_is_wrong_is_answered_with_the_specifications_error() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let mut wrong = Vec::new();
        for Case { method, path, body, status, errcode } in cases() {
            let answer = node.bytes(method.clone(), &path, Some(&alice.token), body.clone()).await;
            let got = (answer.status.as_u16(), answer.body["errcode"].as_str().unwrap_or_default().to_owned());
            if got != (status, errcode.to_owned()) || !answer.body["error"].is_string() {
                let body: String = String::from_utf8_lossy(&body).chars().take(80).collect();
                wrong.push(format!("{method} {path} {body}: {got:?}, expected {status} {errcode}: {}", answer.body));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn a_foreign_or_ended_token_opens_nothing() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        node.post_as(&alice, "/v3/logout", serde_json::json!({})).await.ok();
        for (method, path) in WITH_BODIES.iter().skip(3) {
            let path = path.replace("{me}", ME);
            for token in [&*alice.token, "sam_0123456789", "x", "å"] {
                let answer = node.bytes(method.clone(), &path, Some(token), "{}").await;
                assert_eq!(answer.status, 401, "{method} {path}");
            }
            node.bytes(method.clone(), &path, None, "{}").await.refused(401, "M_MISSING_TOKEN");
        }
    })
    .await;
}
