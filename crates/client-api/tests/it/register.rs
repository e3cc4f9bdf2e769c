//! Registering, in all its ways.

use serde_json::json;

use crate::harness::{PASSWORD, Person, SHARED_SECRET, each_engine, each_engine_with, settings};

#[tokio::test]
async fn note_55_the_first_request_is_answered_with_flows_even_if_only_a_dummy_is_asked_for() {
    each_engine(async |node| {
        let body = json!({ "username": "alice", "password": PASSWORD });
        let asked = node.post("/v3/register", body.clone()).await.expect(401);
        assert_eq!(asked["flows"], json!([{ "stages": ["m.login.dummy"] }]));
        assert!(asked.get("errcode").is_none());
        let session = &asked["session"];
        // A client may send nothing but `auth` the second time.
        let done =
            node.post("/v3/register", json!({ "auth": { "type": "m.login.dummy", "session": session } })).await.ok();
        assert_eq!(done["user_id"], "@alice:samtal.test");
        let alice = Person::of(&done);
        let me = node.get_as(&alice, "/v3/account/whoami").await.ok();
        assert_eq!(me, json!({ "user_id": "@alice:samtal.test", "device_id": alice.device_id }));
    })
    .await;
}

#[tokio::test]
async fn note_65_names_are_lowered_checked_and_given_once() {
    each_engine(async |node| {
        let alice = node.person("Alice").await;
        assert_eq!(alice.user_id, "@alice:samtal.test");
        let again = json!({ "username": "alice", "password": PASSWORD });
        node.post("/v3/register", again).await.refused(400, "M_USER_IN_USE");
        for name in ["alice!", "ålice", "", "a b", "a\u{0}b", "@x:y", &"a".repeat(300)] {
            let body = json!({ "username": name, "password": PASSWORD });
            node.post("/v3/register", body).await.refused(400, "M_INVALID_USERNAME");
        }
        node.get("/v3/register/available?username=alice").await.refused(400, "M_USER_IN_USE");
        assert_eq!(node.get("/v3/register/available?username=bob").await.ok(), json!({ "available": true }));
        node.get("/v3/register/available").await.refused(400, "M_MISSING_PARAM");
        let short = json!({ "username": "bob", "password": "short" });
        node.post("/v3/register", short).await.refused(400, "M_WEAK_PASSWORD");
    })
    .await;
}

#[tokio::test]
async fn a_name_or_a_device_may_be_left_to_the_server_and_the_log_in_left_out() {
    each_engine(async |node| {
        let auth = json!({ "type": "m.login.dummy" });
        let body = json!({ "password": PASSWORD, "auth": auth, "device_id": "PHONE", "refresh_token": true });
        let done = node.post("/v3/register", body).await.ok();
        assert_eq!(done["device_id"], "PHONE");
        assert!(done["refresh_token"].is_string() && done["expires_in_ms"].is_u64());
        let body = json!({ "username": "quiet", "password": PASSWORD, "auth": auth, "inhibit_login": true });
        let done = node.post("/v3/register", body).await.ok();
        assert!(done.get("access_token").is_none() && done.get("device_id").is_none());
    })
    .await;
}

#[tokio::test]
async fn a_registration_token_is_used_up() {
    let mut settings = settings();
    settings.accounts.registration_open = false;
    each_engine_with(settings, async |node| {
        let body = |name: &str, token: &str| {
            json!({
                "username": name,
                "password": PASSWORD,
                "auth": { "type": "m.login.registration_token", "token": token },
            })
        };
        node.post("/v3/register", body("alice", "once")).await.refused(403, "M_FORBIDDEN");
        node.hs.accounts.create_registration_token(Some("once".into()), Some(1), None).await.unwrap();
        let valid = async |token: &str| {
            node.get(&format!("/v1/register/m.login.registration_token/validity?token={token}")).await.ok()["valid"]
                .clone()
        };
        assert_eq!(valid("once").await, true);
        assert_eq!(valid("twice").await, false);
        let asked = node.post("/v3/register", body("alice", "twice")).await.refused(401, "M_FORBIDDEN");
        assert_eq!(asked["completed"], json!([]));
        node.post("/v3/register", body("alice", "once")).await.ok();
        assert_eq!(valid("once").await, false);
        node.post("/v3/register", body("bob", "once")).await.refused(401, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn two_who_race_for_the_last_use_of_a_token_do_not_both_get_in() {
    let mut settings = settings();
    settings.accounts.registration_open = false;
    each_engine_with(settings, async |node| {
        node.hs.accounts.create_registration_token(Some("once".into()), Some(1), None).await.unwrap();
        let register = async |name: &str| {
            let auth = json!({ "type": "m.login.registration_token", "token": "once" });
            node.post("/v3/register", json!({ "username": name, "password": PASSWORD, "auth": auth })).await.status
        };
        let (one, other) = tokio::join!(register("alice"), register("bob"));
        assert_eq!([one, other].iter().filter(|status| status.is_success()).count(), 1);
    })
    .await;
}

#[tokio::test]
async fn terms_are_shown_and_must_be_accepted() {
    let mut settings = settings();
    let url = "https://samtal.test/terms".to_owned();
    settings.accounts.terms = Some(samtal_account::Terms { version: "3".into(), name: "Terms".into(), url });
    each_engine_with(settings, async |node| {
        let asked = node.post("/v3/register", json!({ "username": "alice", "password": PASSWORD })).await.expect(401);
        assert_eq!(asked["flows"], json!([{ "stages": ["m.login.terms"] }]));
        let policy = &asked["params"]["m.login.terms"]["policies"]["terms_of_service"];
        assert_eq!(policy["version"], "3");
        assert_eq!(policy["en"]["url"], "https://samtal.test/terms");
        let auth = json!({ "type": "m.login.terms", "session": asked["session"] });
        node.post("/v3/register", json!({ "username": "alice", "password": PASSWORD, "auth": auth })).await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_guest_looks_in_and_no_more() {
    each_engine(async |node| {
        let guest = Person::of(&node.post("/v3/register?kind=guest", json!({})).await.ok());
        assert_eq!(node.get_as(&guest, "/v3/account/whoami").await.ok()["is_guest"], true);
        let body = json!({ "new_password": PASSWORD });
        node.post_as(&guest, "/v3/account/password", body).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
        node.post("/v3/register?kind=ghost", json!({})).await.refused(400, "M_UNKNOWN");
    })
    .await;
    let mut closed = settings();
    closed.accounts.guests = false;
    each_engine_with(closed, async |node| {
        node.post("/v3/register?kind=guest", json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn who_knows_the_shared_secret_makes_any_account_once_per_nonce() {
    each_engine(async |node| {
        let nonce = node.get("/_synapse/admin/v1/register").await.ok()["nonce"].as_str().unwrap().to_owned();
        let body =
            |mac: &str| json!({ "nonce": nonce, "username": "root", "password": PASSWORD, "admin": true, "mac": mac });
        node.post("/_synapse/admin/v1/register", body("00")).await.refused(403, "M_FORBIDDEN");
        node.post("/_synapse/admin/v1/register", body("00")).await.refused(400, "M_UNKNOWN");
        let nonce = node.get("/_synapse/admin/v1/register").await.ok()["nonce"].as_str().unwrap().to_owned();
        let mac = hmac_sha1(SHARED_SECRET, &format!("{nonce}\0root\0{PASSWORD}\0admin"));
        let body = json!({ "nonce": nonce, "username": "root", "password": PASSWORD, "admin": true, "mac": mac });
        let root = Person::of(&node.post("/_synapse/admin/v1/register", body).await.ok());
        let alice = node.person("alice").await;
        node.get_as(&root, &format!("/v3/admin/whois/{}", alice.user_id)).await.ok();
        node.get_as(&alice, &format!("/v3/admin/whois/{}", root.user_id)).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

fn hmac_sha1(key: &str, text: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_can_be_asked_for_again() {
    each_engine(async |node| {
        let body = json!({ "username": "alice", "password": PASSWORD, "device_id": "PHONE" });
        let asked = node.post("/v3/register", body.clone()).await.expect(401);
        let mut body = body;
        body["auth"] = json!({ "type": "m.login.dummy", "session": asked["session"] });
        let first = Person::of(&node.post("/v3/register", body.clone()).await.ok());
        let second = Person::of(&node.post("/v3/register", body).await.ok());
        assert_eq!((&first.user_id, &first.device_id), (&second.user_id, &second.device_id));
        node.get_as(&second, "/v3/account/whoami").await.ok();
    })
    .await;
}
