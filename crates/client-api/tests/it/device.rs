//! Devices, whose they are, and application services' devices.

use serde_json::json;

use crate::harness::{Person, each_engine};

#[tokio::test]
async fn devices_are_listed_named_and_deleted_by_who_owns_them() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let bob = node.somebody().await;
        let login = json!({ "device_id": "PHONE", "initial_device_display_name": "my phone" });
        let phone = Person::of(&node.log_in(&alice, login).await.ok());
        let shown = node.get_as(&alice, "/v3/devices/PHONE").await.ok();
        assert_eq!(shown["display_name"], "my phone");
        assert_eq!(shown["last_seen_ip"], "192.0.2.1");
        assert_eq!(node.get_as(&alice, "/v3/devices").await.ok()["devices"].as_array().unwrap().len(), 2);
        node.put_as(&alice, "/v3/devices/PHONE", json!({ "display_name": "old phone" })).await.ok();
        node.put_as(&alice, "/v3/devices/PHONE", json!({})).await.ok();
        assert_eq!(node.get_as(&alice, "/v3/devices/PHONE").await.ok()["display_name"], "old phone");
        node.get_as(&bob, "/v3/devices/PHONE").await.refused(404, "M_NOT_FOUND");
        node.put_as(&bob, "/v3/devices/PHONE", json!({ "display_name": "mine" })).await.refused(404, "M_NOT_FOUND");
        let long = "x".repeat(600);
        node.put_as(&alice, "/v3/devices/PHONE", json!({ "display_name": long })).await.refused(400, "M_INVALID_PARAM");
        node.put_as(&alice, "/v3/devices/PHONE", json!({ "display_name": "a\0" }))
            .await
            .refused(400, "M_INVALID_PARAM");

        let asked = node.delete_as(&alice, "/v3/devices/PHONE", json!({})).await.expect(401);
        let auth = alice.auth(&asked["session"]);
        node.delete_as(&alice, "/v3/devices/PHONE", json!({ "auth": auth })).await.ok();
        node.get_as(&phone, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        node.get_as(&alice, "/v3/devices/PHONE").await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn note_55_what_was_proven_for_one_device_is_not_good_for_another() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        for device in ["ONE", "TWO"] {
            node.log_in(&alice, json!({ "device_id": device })).await.ok();
        }
        let asked = node.delete_as(&alice, "/v3/devices/ONE", json!({})).await.expect(401);
        let auth = alice.auth(&asked["session"]);
        node.delete_as(&alice, "/v3/devices/TWO", json!({ "auth": auth })).await.refused(403, "M_FORBIDDEN");

        let asked = node.post_as(&alice, "/v3/delete_devices", json!({ "devices": ["ONE"] })).await.expect(401);
        let auth = alice.auth(&asked["session"]);
        let other = json!({ "devices": ["TWO"], "auth": auth });
        node.post_as(&alice, "/v3/delete_devices", other).await.refused(403, "M_FORBIDDEN");
        node.post_as(&alice, "/v3/delete_devices", json!({ "devices": ["ONE"], "auth": auth })).await.ok();
        node.get_as(&alice, "/v3/devices/ONE").await.refused(404, "M_NOT_FOUND");
        node.get_as(&alice, "/v3/devices/TWO").await.ok();
    })
    .await;
}

#[tokio::test]
async fn an_application_service_acts_for_its_own_users_and_makes_their_devices() {
    each_engine(async |node| {
        node.hs.accounts.services.set(vec![samtal_account::Service {
            id: "bridge".into(),
            token: samtal_kit::Secret::new("as-token".into()),
            sender: "@bridge:samtal.test".parse().unwrap(),
            users: vec![samtal_account::Namespace::new(true, "@irc_.*:samtal\\.test").unwrap()],
            aliases: vec![],
            rooms: vec![],
            rate_limited: false,
        }]);
        let bridge = Person { user_id: String::new(), device_id: String::new(), token: "as-token".into() };
        let register = json!({ "type": "m.login.application_service", "username": "irc_anna", "inhibit_login": true });
        node.post("/v3/register", register.clone()).await.refused(401, "M_MISSING_TOKEN");
        node.post_as(&bridge, "/v3/register", register).await.ok();
        let outside = json!({ "type": "m.login.application_service", "username": "alice" });
        node.post_as(&bridge, "/v3/register", outside).await.refused(400, "M_EXCLUSIVE");
        let taken = json!({ "username": "irc_bert", "password": "long enough" });
        node.post("/v3/register", taken).await.refused(400, "M_EXCLUSIVE");

        let me = node.get_as(&bridge, "/v3/account/whoami?user_id=@irc_anna:samtal.test").await.ok();
        assert_eq!(me, json!({ "user_id": "@irc_anna:samtal.test" }));
        node.get_as(&bridge, "/v3/account/whoami?user_id=@alice:samtal.test").await.refused(403, "M_FORBIDDEN");
        let device = "/v3/devices/BRIDGED?user_id=@irc_anna:samtal.test";
        node.put_as(&bridge, device, json!({ "display_name": "b" })).await.expect(201);
        node.put_as(&bridge, device, json!({ "display_name": "b" })).await.ok();
        let me = node.get_as(&bridge, "/v3/account/whoami?user_id=@irc_anna:samtal.test&device_id=BRIDGED").await.ok();
        assert_eq!(me["device_id"], "BRIDGED");
        let login = json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": "irc_anna" },
        });
        node.post_as(&bridge, "/v3/login", login).await.ok();
    })
    .await;
}
