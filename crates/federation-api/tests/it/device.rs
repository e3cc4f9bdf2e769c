//! Keys and messages of devices between servers.

use std::{collections::BTreeMap, time::Duration};

use ruma::{RoomVersionId, device_id};
use samtal_account::{Client, NewSession};
use samtal_db::Batch;
use samtal_e2ee::one_time_key::{Claim, KeyUpload};
use serde_json::json;

use crate::world::{Node, World, until};

pub async fn upload(node: &Node) {
    let user = node.user();
    let keys = json!({
        "user_id": user,
        "device_id": "D",
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { "ed25519:D": "abc", "curve25519:D": "def" },
        "signatures": {},
    });
    let upload = KeyUpload {
        device_keys: keys.as_object().cloned(),
        one_time_keys: vec![("signed_curve25519:AAAA".to_owned(), json!({ "key": "x", "signatures": {} }))],
        ..KeyUpload::default()
    };
    node.hs.e2ee.keys_upload(&user, device_id!("D"), &upload).await.unwrap();
}

#[tokio::test]
async fn note_41_devices_are_asked_for_once_and_followed_from_then_on() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    upload(&b).await;
    let wanted = BTreeMap::from([(b.user(), vec![])]);
    let viewer = a.user();
    let devices = async || {
        let (found, failed) = a.hs.remote_keys(&wanted, Some(&viewer), Duration::from_secs(5)).await.unwrap();
        assert!(failed.is_empty());
        found.device_keys.get(&b.user()).map(|devices| devices.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(devices().await, ["D"]);
    // What is followed needs no question.
    b.set_up(false);
    assert_eq!(devices().await, ["D"]);
    b.set_up(true);
    b.hs.delete_devices(&b.user(), [device_id!("D")]).await.unwrap();
    until("a hears that the device is gone", async || {
        world.clock.advance(Duration::from_secs(5));
        devices().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_one_time_key_is_claimed_once() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    upload(&b).await;
    let claim = [Claim { user: b.user(), device: "D".into(), algorithm: "signed_curve25519".into() }];
    let (claimed, failed) = a.hs.remote_claim(&claim, Duration::from_secs(5)).await.unwrap();
    assert!(failed.is_empty());
    assert_eq!(claimed[&b.user()]["D"]["signed_curve25519:AAAA"]["key"], "x");
    let (claimed, _) = a.hs.remote_claim(&claim, Duration::from_secs(5)).await.unwrap();
    assert!(claimed.get(&b.user()).is_none_or(|devices| devices.values().all(BTreeMap::is_empty)));
    b.set_up(false);
    let (_, failed) = a.hs.remote_claim(&claim, Duration::from_secs(5)).await.unwrap();
    assert_eq!(failed, [b.hs.name.clone()]);
}

#[tokio::test]
async fn note_42_a_message_to_a_device_is_kept_until_it_is_delivered_and_stored_once() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let device = NewSession { device_id: Some(device_id!("D").to_owned()), ..NewSession::default() };
    b.hs.accounts.log_in(&b.user(), device, &Client::default()).await.unwrap();
    b.set_up(false);
    let content = json!({
        "sender": a.user(),
        "type": "m.room.encrypted",
        "message_id": "abc",
        "messages": { b.user().as_str(): { "*": { "secret": 1 } } },
    });
    for _ in 0..2 {
        let mut batch = Batch::new();
        samtal_sender::queue_edu(&mut batch, b.name(), "m.direct_to_device", &content);
        a.hs.db.commit(batch).await.unwrap();
    }
    until("a waits", async || a.hs.remote.destinations().failing(b.name()).is_some()).await;
    b.set_up(true);
    let (user, db) = (b.user(), &b.hs.db);
    until("it arrives", async || {
        world.clock.advance(Duration::from_secs(5));
        !b.hs.e2ee.to_device_after(&user, device_id!("D"), 0, db.position(), 10).await.unwrap().is_empty()
    })
    .await;
    until("nothing waits", async || a.hs.sender.waiting().is_empty()).await;
    let messages = b.hs.e2ee.to_device_after(&user, device_id!("D"), 0, db.position(), 10).await.unwrap();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].event.get().contains(a.user().as_str()));
}

#[tokio::test]
async fn the_name_of_a_device_is_told_where_the_operator_lets_it_be() {
    let world = World::new();
    let federation = samtal_ops::Federation { device_names: true, ..Default::default() };
    let settings = samtal_ops::Settings { federation, ..Default::default() };
    let (a, b) = (world.node("a.example").await, world.node_with("b.example", settings).await);
    let device = NewSession { device_id: Some(device_id!("D").to_owned()), ..NewSession::default() };
    b.hs.accounts.log_in(&b.user(), device, &Client::default()).await.unwrap();
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    upload(&b).await;
    let name = async || {
        let held = a.hs.e2ee.keys_query(&BTreeMap::from([(b.user(), vec![])]), None).await.unwrap();
        let keys = held.device_keys.get(&b.user()).and_then(|devices| devices.get("D"))?;
        Some(keys.get("unsigned")?["device_display_name"].as_str()?.to_owned())
    };
    b.hs.rename_device(&b.user(), device_id!("D"), Some("phone")).await.unwrap();
    until("a knows the name", async || {
        world.clock.advance(Duration::from_secs(5));
        name().await.as_deref() == Some("phone")
    })
    .await;
    b.hs.rename_device(&b.user(), device_id!("D"), Some("old phone")).await.unwrap();
    until("a knows the other name", async || {
        world.clock.advance(Duration::from_secs(5));
        name().await.as_deref() == Some("old phone")
    })
    .await;
}
