//! Profiles: what they hold and how much.

use serde_json::json;

use crate::harness::each_engine;

#[tokio::test]
async fn a_profile_holds_a_name_a_picture_and_whatever_else_is_said() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let base = format!("/v3/profile/{}", alice.user_id);
        assert_eq!(node.get(&base).await.ok(), json!({ "displayname": "alice" }));
        node.put_as(&alice, &format!("{base}/displayname"), json!({ "displayname": "Alice å" })).await.ok();
        node.put_as(&alice, &format!("{base}/avatar_url"), json!({ "avatar_url": "mxc://samtal.test/a" })).await.ok();
        node.put_as(&alice, &format!("{base}/m.tz"), json!({ "m.tz": "Europe/Stockholm" })).await.ok();
        node.put_as(&alice, &format!("{base}/org.example.x"), json!({ "org.example.x": { "a": [1, null] } }))
            .await
            .ok();
        assert_eq!(node.get(&format!("{base}/m.tz")).await.ok(), json!({ "m.tz": "Europe/Stockholm" }));
        assert_eq!(
            node.get(&base).await.ok(),
            json!({
                "displayname": "Alice å",
                "avatar_url": "mxc://samtal.test/a",
                "m.tz": "Europe/Stockholm",
                "org.example.x": { "a": [1, null] },
            })
        );
        node.delete_as(&alice, &format!("{base}/m.tz"), json!({})).await.ok();
        node.put_as(&alice, &format!("{base}/avatar_url"), json!({ "avatar_url": "" })).await.ok();
        node.get(&format!("{base}/m.tz")).await.refused(404, "M_NOT_FOUND");
        assert_eq!(node.get(&format!("{base}/avatar_url")).await.ok(), json!({}));
        node.get("/v3/profile/@nobody:samtal.test").await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn a_profile_is_bounded_and_ones_own() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let bob = node.person("bob").await;
        let base = format!("/v3/profile/{}", alice.user_id);
        let name = format!("{base}/displayname");
        node.put_as(&bob, &name, json!({ "displayname": "Bob" })).await.refused(403, "M_FORBIDDEN");
        node.put_as(&alice, &name, json!({})).await.refused(400, "M_MISSING_PARAM");
        node.put_as(&alice, &name, json!({ "displayname": 5 })).await.refused(400, "M_BAD_JSON");
        node.put_as(&alice, &name, json!({ "displayname": "x".repeat(2_000) })).await.refused(400, "M_INVALID_PARAM");
        let key = "a".repeat(256);
        node.put_as(&alice, &format!("{base}/{key}"), json!({ key: 1 })).await.refused(400, "M_KEY_TOO_LARGE");
        let value = "x".repeat(40_000);
        node.put_as(&alice, &format!("{base}/org.one"), json!({ "org.one": value })).await.ok();
        node.put_as(&alice, &format!("{base}/org.two"), json!({ "org.two": value }))
            .await
            .refused(400, "M_PROFILE_TOO_LARGE");
        node.put_as(&alice, &format!("{base}/Org"), json!({ "Org": 1 })).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}
