//! A database that cannot grow: the client is told, reading goes on, and once there is room again everything does.
//!
//! SQLite answers here as it does on a full disk, since its file may have no more pages than it has. The disk itself is filled in
//! the test of the whole server, where the machine allows for that.

use http::Method;
use samtal_db::{
    Batch, Sql, sql,
    testing::{Directory, sqlite},
};
use serde_json::json;

use crate::harness::{Node, Person, settings};

/// No limit is below what there is.
const NO_MORE: Sql = sql!("PRAGMA max_page_count = 1");
const AS_BEFORE: Sql = sql!("PRAGMA max_page_count = 1000000");

async fn set(node: &Node, pragma: &'static Sql) {
    let mut batch = Batch::new();
    batch.returning(pragma, vec![]);
    node.hs.db.commit(batch).await.unwrap();
}

async fn say(node: &Node, who: &Person, room: &str, what: &str) -> Result<String, (u16, serde_json::Value)> {
    let body = json!({ "msgtype": "m.text", "body": "x".repeat(2_000) });
    let answer = node.put_as(who, &format!("/v3/rooms/{room}/send/m.room.message/{what}"), body).await;
    match answer.status.as_u16() {
        200 => Ok(answer.body["event_id"].as_str().unwrap().to_owned()),
        status => Err((status, answer.body)),
    }
}

#[tokio::test]
async fn a_database_without_room_is_told_and_loses_nothing() {
    let directory = Directory::new();
    let node = Node::open(&sqlite(&directory), settings()).await;
    let who = node.somebody().await;
    let room = node.post_as(&who, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
    let room = room["room_id"].as_str().unwrap();
    let mut acknowledged = vec![say(&node, &who, room, "before").await.unwrap()];

    set(&node, &NO_MORE).await;
    let refused = loop {
        match say(&node, &who, room, &format!("full{}", acknowledged.len())).await {
            Ok(event_id) => acknowledged.push(event_id),
            Err(refused) => break refused,
        }
        assert!(acknowledged.len() < 2_000, "it grows all the same");
    };
    assert_eq!((refused.0, &refused.1["errcode"]), (507, &json!("M_UNKNOWN")), "{}", refused.1);
    let upload = node.bytes(Method::POST, "/_matrix/media/v3/upload", Some(&who.token), vec![0; 100_000]).await;
    assert!(upload.status.is_success() || upload.status.as_u16() == 507, "{}", upload.body);
    for event_id in &acknowledged {
        node.get_as(&who, &format!("/v3/rooms/{room}/event/{event_id}")).await.ok();
    }

    set(&node, &AS_BEFORE).await;
    for count in 0..20 {
        acknowledged.push(say(&node, &who, room, &format!("after{count}")).await.unwrap());
    }
    let same = say(&node, &who, room, "after0").await.unwrap();
    assert!(acknowledged.contains(&same), "a transaction is the same one still");
    for event_id in &acknowledged {
        node.get_as(&who, &format!("/v3/rooms/{room}/event/{event_id}")).await.ok();
    }
}
