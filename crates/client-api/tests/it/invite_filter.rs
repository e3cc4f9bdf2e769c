//! Whose invites a user wants (MSC4155).

use serde_json::json;

use crate::harness::each_engine;

#[tokio::test]
async fn an_ignored_invite_seems_to_have_arrived_and_a_blocked_one_is_refused() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        let config = format!("/v3/user/{}/account_data/org.matrix.msc4155.invite_permission_config", alice.user_id);
        let lists = json!({ "ignored_users": [bob.user_id], "blocked_users": ["@car*:samtal.test"] });
        node.put_as(&alice, &config, lists).await.ok();
        let mut rooms = Vec::new();
        for who in [&bob, &carol] {
            let made = node.post_as(who, "/v3/createRoom", json!({})).await.ok();
            rooms.push(made["room_id"].as_str().unwrap().to_owned());
        }
        let invite = json!({ "user_id": alice.user_id });
        node.post_as(&bob, &format!("/v3/rooms/{}/invite", rooms[0]), invite.clone()).await.ok();
        let refused = node.post_as(&carol, &format!("/v3/rooms/{}/invite", rooms[1]), invite.clone()).await;
        refused.refused(403, "M_INVITE_BLOCKED");
        let synced = node.get_as(&alice, "/v3/sync").await.ok();
        assert!(synced["rooms"]["invite"].is_null(), "{synced}");
        let list = json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] } } });
        let path = "/unstable/org.matrix.simplified_msc3575/sync?timeout=0";
        assert_eq!(node.post_as(&alice, path, list.clone()).await.ok()["lists"]["all"]["count"], 0);
        node.put_as(&alice, &config, json!({})).await.ok();
        assert_eq!(node.post_as(&alice, path, list).await.ok()["lists"]["all"]["count"], 1, "it was only hidden");
        node.post_as(&carol, &format!("/v3/rooms/{}/invite", rooms[1]), invite).await.ok();
    })
    .await;
}
