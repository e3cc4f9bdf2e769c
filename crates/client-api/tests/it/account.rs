//! Passwords, deactivation, OpenID, capabilities.

use serde_json::json;

use crate::harness::{PASSWORD, Person, each_engine};

#[tokio::test]
async fn a_changed_password_ends_the_other_sessions_unless_they_are_to_stay() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let phone = Person::of(&node.log_in(&alice, json!({})).await.ok());
        let change = async |body: serde_json::Value| {
            let asked = node.post_as(&alice, "/v3/account/password", body.clone()).await.expect(401);
            assert_eq!(asked["flows"], json!([{ "stages": ["m.login.password"] }]));
            let mut body = body;
            body["auth"] = alice.auth(&asked["session"]);
            node.post_as(&alice, "/v3/account/password", body).await
        };
        change(json!({ "new_password": PASSWORD, "logout_devices": false })).await.ok();
        node.get_as(&phone, "/v3/account/whoami").await.ok();
        change(json!({ "new_password": "another good one" })).await.ok();
        node.get_as(&phone, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        node.get_as(&alice, "/v3/account/whoami").await.ok();
        node.log_in(&alice, json!({})).await.refused(403, "M_FORBIDDEN");
        node.log_in(&alice, json!({ "password": "another good one" })).await.ok();
        let weak = json!({ "new_password": "weak" });
        node.post_as(&alice, "/v3/account/password", weak).await.refused(400, "M_WEAK_PASSWORD");
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_leaves_the_session_open_for_another_try() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let bob = node.somebody().await;
        let wish = json!({ "new_password": "another good one" });
        let asked = node.post_as(&alice, "/v3/account/password", wish.clone()).await.expect(401);
        let mut wrong = wish.clone();
        wrong["auth"] = alice.auth(&asked["session"]);
        wrong["auth"]["password"] = "wrong".into();
        let still = node.post_as(&alice, "/v3/account/password", wrong).await.refused(401, "M_FORBIDDEN");
        assert_eq!(still["session"], asked["session"]);
        // Another user cannot use the session, nor their own password in it.
        let mut others = wish.clone();
        others["auth"] = bob.auth(&asked["session"]);
        node.post_as(&bob, "/v3/account/password", others.clone()).await.refused(403, "M_FORBIDDEN");
        node.post_as(&alice, "/v3/account/password", others).await.refused(403, "M_FORBIDDEN");
        let mut unknown = wish.clone();
        unknown["auth"] = alice.auth(&json!("no such session"));
        node.post_as(&alice, "/v3/account/password", unknown).await.refused(400, "M_UNKNOWN");
        let mut right = wish;
        right["auth"] = alice.auth(&asked["session"]);
        node.post_as(&alice, "/v3/account/password", right).await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_deactivated_account_is_gone_for_good() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let asked = node.post_as(&alice, "/v3/account/deactivate", json!({ "erase": true })).await.expect(401);
        let auth = alice.auth(&asked["session"]);
        let body = json!({ "erase": true, "auth": auth });
        let done = node.post_as(&alice, "/v3/account/deactivate", body).await.ok();
        assert_eq!(done, json!({ "id_server_unbind_result": "success" }));
        node.get_as(&alice, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        node.log_in(&alice, json!({})).await.refused(403, "M_USER_DEACTIVATED");
        node.get(&format!("/v3/profile/{}", alice.user_id)).await.refused(404, "M_NOT_FOUND");
        node.get("/v3/register/available?username=alice").await.refused(400, "M_USER_IN_USE");
        let user: ruma::OwnedUserId = alice.user_id.parse().unwrap();
        assert!(node.hs.accounts.user(&user).await.unwrap().unwrap().erased);
        assert!(node.hs.deactivate(&user, false).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn an_openid_token_says_who_asked_for_it() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let body = node.post_as(&alice, "/v3/user/@alice:samtal.test/openid/request_token", json!({})).await.ok();
        assert_eq!(body["matrix_server_name"], "samtal.test");
        assert_eq!(body["token_type"], "Bearer");
        let token = body["access_token"].as_str().unwrap();
        let user = node.hs.accounts.openid_user(token).await.unwrap().unwrap();
        assert_eq!(user, alice.user_id);
        node.clock.advance(std::time::Duration::from_secs(3_600));
        assert!(node.hs.accounts.openid_user(token).await.unwrap().is_none());
        let path = "/v3/user/@bob:samtal.test/openid/request_token";
        node.post_as(&alice, path, json!({})).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn note_69_versions_and_capabilities_say_what_is_there() {
    each_engine(async |node| {
        let answer = node.get("/versions").await;
        assert_eq!(answer.headers.get("vary").unwrap(), "Authorization");
        assert!(answer.ok()["versions"].as_array().unwrap().contains(&json!("v1.11")));
        let alice = node.somebody().await;
        let all = node.get_as(&alice, "/v3/capabilities").await.ok()["capabilities"].clone();
        assert_eq!(all["m.room_versions"]["default"], "12");
        assert_eq!(all["m.room_versions"]["available"]["1"], "stable");
        assert_eq!(all["m.change_password"]["enabled"], true);
        assert_eq!(node.get_as(&alice, "/v3/account/3pid").await.ok(), json!({ "threepids": [] }));
    })
    .await;
}
