//! Who is let in at all.

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use samtal_ops::{Federation, Settings};
use samtal_policy::ServerRule;
use samtal_remote::{Network, RemoteError};
use serde_json::Value;
use tower::ServiceExt;

use crate::world::{Node, World};

async fn ask(node: &Node, method: &str, path: &str, authorization: Option<String>, body: &str) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let router = samtal_federation_api::router().layer(axum::Extension(node.hs.clone()));
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

const PATH: &str = "/_matrix/federation/v1/send/1";

#[tokio::test]
async fn note_30_only_what_is_signed_for_us_is_taken() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let body =
        r#"{"origin":"b.example","origin_server_ts":1,"pdus":[],"edus":[{"edu_type":"what.is.this","content":{}}]}"#;
    let sign = |to: &str, path: &str, body: &str| {
        let to = <&ruma::ServerName>::try_from(to).unwrap();
        b.hs.keyring.sign_request(to, "PUT", path, body).unwrap().to_string()
    };
    let (status, error) = ask(&a, "PUT", PATH, None, body).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::UNAUTHORIZED, &"M_UNAUTHORIZED".into()));
    assert_eq!(ask(&a, "PUT", PATH, Some("Bearer abc".into()), body).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&a, "PUT", PATH, Some(sign("c.example", PATH, body)), body).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&a, "PUT", PATH, Some(sign("a.example", PATH, "{}")), body).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&a, "PUT", PATH, Some(sign("a.example", "/other", body)), body).await.0, StatusCode::UNAUTHORIZED);
    let (status, answer) = ask(&a, "PUT", PATH, Some(sign("a.example", PATH, body)), body).await;
    assert_eq!(
        (status, answer),
        (StatusCode::OK, serde_json::json!({ "pdus": {} })),
        "note 33: unknown EDUs are tolerated"
    );
    let bare = sign("a.example", PATH, body).replace(r#",destination="a.example""#, "");
    assert_eq!(ask(&a, "PUT", PATH, Some(bare), body).await.0, StatusCode::OK, "old servers leave the destination out");
}

#[tokio::test]
async fn note_33_a_transaction_has_its_limits() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let body =
        serde_json::json!({ "origin": "b.example", "origin_server_ts": 1, "pdus": vec![serde_json::json!({}); 51] })
            .to_string();
    let header = b.hs.keyring.sign_request(a.name(), "PUT", PATH, &body).unwrap().to_string();
    assert_eq!(ask(&a, "PUT", PATH, Some(header), &body).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn note_36_a_join_is_offered_in_a_version_that_the_other_knows_and_for_its_own_users_only() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(ruma::RoomVersionId::V11).await;
    let get = async |user: &str, versions: &str| {
        let path = format!("/_matrix/federation/v1/make_join/{room}/{user}{versions}");
        let header = b.hs.keyring.sign_request(a.name(), "GET", &path, "").unwrap().to_string();
        ask(&a, "GET", &path, Some(header), "").await
    };
    let (status, answer) = get("@user:b.example", "?ver=10&ver=11").await;
    assert_eq!((status, &answer["room_version"]), (StatusCode::OK, &"11".into()), "{answer}");
    assert_eq!(answer["event"]["content"]["membership"], "join");
    for versions in ["?ver=10", ""] {
        let (status, answer) = get("@user:b.example", versions).await;
        assert_eq!(
            (status, &answer["errcode"], &answer["room_version"]),
            (StatusCode::BAD_REQUEST, &"M_INCOMPATIBLE_ROOM_VERSION".into(), &"11".into()),
            "{versions} {answer}"
        );
    }
    let (status, answer) = get("@user:c.example", "?ver=11").await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_FORBIDDEN".into()), "{answer}");
}

#[tokio::test]
async fn note_43_what_is_not_built_is_not_recognized() {
    let world = World::new();
    let a = world.node("a.example").await;
    assert_eq!(ask(&a, "GET", "/_matrix/federation/v1/nothing", None, "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask(&a, "DELETE", "/_matrix/federation/v1/version", None, "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, version) = ask(&a, "GET", "/_matrix/federation/v1/version", None, "").await;
    assert_eq!((status, &version["server"]["name"]), (StatusCode::OK, &"Samtal".into()));
}

#[tokio::test]
async fn note_44_an_openid_token_tells_its_user() {
    let world = World::new();
    let a = world.node("a.example").await;
    let path = "/_matrix/federation/v1/openid/userinfo?access_token=";
    assert_eq!(ask(&a, "GET", &format!("{path}no"), None, "").await.0, StatusCode::UNAUTHORIZED);
    let token = a.hs.accounts.create_openid_token(&a.user()).await.unwrap();
    let (status, answer) = ask(&a, "GET", &format!("{path}{token}"), None, "").await;
    assert_eq!((status, &answer["sub"]), (StatusCode::OK, &a.user().as_str().into()));
}

#[tokio::test]
async fn note_32_keys_are_published_and_notarized() {
    let world = World::new();
    let (a, _b) = (world.node("a.example").await, world.node("b.example").await);
    for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:any"] {
        let (status, keys) = ask(&a, "GET", path, None, "").await;
        assert_eq!((status, &keys["server_name"]), (StatusCode::OK, &"a.example".into()));
    }
    let query = r#"{"server_keys":{"b.example":{},"gone.example":{}}}"#;
    let (status, answer) = ask(&a, "POST", "/_matrix/key/v2/query", None, query).await;
    assert_eq!(status, StatusCode::OK);
    let keys = answer["server_keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert!(keys[0]["signatures"]["a.example"].is_object() && keys[0]["signatures"]["b.example"].is_object());
}

#[tokio::test]
async fn a_server_that_the_operator_denies_is_not_spoken_with_either_way() {
    let world = World::new();
    let policy = samtal_policy::Settings { deny: vec![ServerRule::new("b.*", "spam")], ..Default::default() };
    let settings = Settings { federation: Federation { policy, ..Federation::default() }, ..Settings::default() };
    let a = world.node_with("a.example", settings).await;
    let b = world.node("b.example").await;
    let header = b.hs.keyring.sign_request(a.name(), "PUT", PATH, "{}").unwrap().to_string();
    let (status, error) = ask(&a, "PUT", PATH, Some(header), "{}").await;
    assert_eq!((status, &error["errcode"]), (StatusCode::FORBIDDEN, &"M_FORBIDDEN".into()));
    let request = Request::get("/_matrix/federation/v1/version").body(bytes::Bytes::new()).unwrap();
    let refused = a.hs.remote.send_raw(b.name(), request, Default::default()).await;
    assert!(matches!(refused, Err(RemoteError::Refused(_))));
    let refusals = a.hs.rulebook.refusals(Some(b.name()), 10).await.unwrap();
    let ways: Vec<&str> = refusals.iter().map(|refusal| refusal.direction.as_str()).collect();
    assert!(ways.contains(&"inbound") && ways.contains(&"outbound"), "{refusals:?}");
    assert!(refusals.iter().all(|refusal| refusal.rule == "denied" && refusal.words.contains("b.*")), "{refusals:?}");
    let _: &dyn Network = a.hs.remote.network();
}
