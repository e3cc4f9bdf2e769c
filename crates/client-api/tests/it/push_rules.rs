//! Push rules: their order, what is kept of them, what is refused.

use serde_json::{Value, json};

use crate::harness::each_engine;

fn ids(rules: &Value, kind: &str) -> Vec<String> {
    let rules = rules["global"][kind].as_array().unwrap();
    rules.iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn rules_are_added_moved_switched_and_removed() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let base = "/v3/pushrules/global";
        let all = async || node.get_as(&alice, "/v3/pushrules/").await.ok();
        assert_eq!(ids(&all().await, "override")[0], ".m.rule.master");
        let rule = json!({ "actions": ["notify"], "pattern": "cheese" });
        for id in ["one", "two", "three"] {
            node.put_as(&alice, &format!("{base}/content/{id}"), rule.clone()).await.ok();
        }
        assert_eq!(ids(&all().await, "content")[..3], ["three", "two", "one"]);
        node.put_as(&alice, &format!("{base}/content/three?after=one"), rule.clone()).await.ok();
        assert_eq!(ids(&all().await, "content")[..3], ["two", "one", "three"]);
        node.put_as(&alice, &format!("{base}/content/three?before=two"), rule.clone()).await.ok();
        assert_eq!(ids(&all().await, "content")[..3], ["three", "two", "one"]);
        node.put_as(&alice, &format!("{base}/content/one?after=one"), rule.clone()).await.refused(400, "M_UNKNOWN");
        node.put_as(&alice, &format!("{base}/content/four?after=nowhere"), rule.clone())
            .await
            .refused(400, "M_UNKNOWN");

        let enabled = format!("{base}/content/one/enabled");
        node.put_as(&alice, &enabled, json!({ "enabled": false })).await.ok();
        assert_eq!(node.get_as(&alice, &enabled).await.ok(), json!({ "enabled": false }));
        node.put_as(&alice, &format!("{base}/content/one"), rule.clone()).await.ok();
        assert_eq!(node.get_as(&alice, &format!("{base}/content/one")).await.ok()["enabled"], false);
        let actions = format!("{base}/override/.m.rule.master/actions");
        node.put_as(&alice, &actions, json!({ "actions": ["notify"] })).await.ok();
        assert_eq!(node.get_as(&alice, &actions).await.ok(), json!({ "actions": ["notify"] }));

        node.delete_as(&alice, &format!("{base}/content/one"), json!({})).await.ok();
        node.delete_as(&alice, &format!("{base}/content/one"), json!({})).await.refused(404, "M_NOT_FOUND");
        node.get_as(&alice, &format!("{base}/content/one")).await.refused(404, "M_NOT_FOUND");
        node.get_as(&alice, &enabled).await.refused(404, "M_NOT_FOUND");
        node.delete_as(&alice, &format!("{base}/override/.m.rule.master"), json!({}))
            .await
            .refused(400, "M_INVALID_PARAM");
        node.put_as(&alice, &format!("{base}/override/.mine"), json!({ "actions": [], "conditions": [] }))
            .await
            .refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn each_change_of_the_rules_is_account_data_for_sync() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let user: ruma::OwnedUserId = alice.user_id.parse().unwrap();
        let before = node.hs.db.position();
        let rule = json!({ "actions": ["notify"] });
        let (one, other) = tokio::join!(
            node.put_as(&alice, "/v3/pushrules/global/room/!a:samtal.test", rule.clone()),
            node.put_as(&alice, "/v3/pushrules/global/sender/@bob:samtal.test", rule.clone()),
        );
        one.ok();
        other.ok();
        let changed = node.hs.accounts.account_data_changed(&user, before, node.hs.db.position()).await.unwrap();
        let data = changed.first().unwrap();
        let content: Value = serde_json::from_str(data.content.get()).unwrap();
        assert_eq!(ids(&content, "room"), ["!a:samtal.test"]);
        assert_eq!(ids(&content, "sender"), ["@bob:samtal.test"]);
    })
    .await;
}

#[tokio::test]
async fn rules_come_back_as_they_were_sent_even_if_nothing_here_can_evaluate_them() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let base = "/v3/pushrules/global";
        let path = format!("{base}/room/%23alias:samtal.test");
        node.put_as(&alice, &path, json!({ "actions": ["notify"] })).await.ok();
        let room = node.get_as(&alice, &path).await.ok();
        let rule = json!({ "rule_id": "#alias:samtal.test", "default": false, "enabled": true, "actions": ["notify"] });
        assert_eq!(room, rule);
        let conditions = json!([{ "kind": "org.example.moon", "phase": "full" }]);
        let rule = json!({ "actions": [{ "set_tweak": "howl", "value": true }], "conditions": conditions });
        node.put_as(&alice, &format!("{base}/override/moon"), rule).await.ok();
        let kept = node.get_as(&alice, &format!("{base}/override/moon")).await.ok();
        assert_eq!(kept["conditions"], conditions);
        let user: ruma::OwnedUserId = alice.user_id.parse().unwrap();
        let rules = node.hs.accounts.push_rules(&user).await.unwrap();
        assert!(rules.room.is_empty() && !rules.underride.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_names_no_rule_is_the_clients_mistake() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        for path in [
            "/global",
            "/global/room",
            "/global/room/",
            "/nowhere/room/x",
            "/global/room/x/colour",
            "/global/room/a%5Cb",
        ] {
            let answer = node.put_as(&alice, &format!("/v3/pushrules{path}"), json!({ "actions": [] })).await;
            assert_eq!(answer.status, 400, "{path}");
        }
        for path in ["/global", "/global/room", "/nowhere/", "/global/nothing/", "/global/room/x/colour"] {
            assert_eq!(node.get_as(&alice, &format!("/v3/pushrules{path}")).await.status, 400, "{path}");
        }
        node.get_as(&alice, "/v3/pushrules").await.refused(404, "M_UNRECOGNIZED");
        for rule in [
            json!({}),
            json!({ "actions": ["explode"] }),
            json!({ "actions": [5] }),
            json!({ "actions": [] , "conditions": [{}] }),
        ] {
            let answer = node.put_as(&alice, "/v3/pushrules/global/override/x", rule).await;
            assert_eq!(answer.status, 400);
        }
        node.put_as(&alice, "/v3/pushrules/global/content/x", json!({ "actions": [] }))
            .await
            .refused(400, "M_BAD_JSON");
    })
    .await;
}
