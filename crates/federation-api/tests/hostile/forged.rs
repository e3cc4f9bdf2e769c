//! Signatures, hashes, keys and names that are not what they should be.

use std::time::Duration;

use http::StatusCode;
use ruma::RoomVersionId;
use samtal_keyring::{OwnKey, OwnKeys, XMatrix};
use serde_json::{Value, json};

use crate::{
    peer::{Peer, id_of},
    world::World,
};

#[tokio::test]
async fn an_event_with_a_bad_signature_is_dropped_and_its_neighbor_is_not() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let prev = [inside.join_id()];

    let mut forged = inside.message(&mallory, &prev, "forged");
    let signature = forged["signatures"][mallory.name.as_str()]["ed25519:peer"].take();
    forged["signatures"] = json!({ "mallory.example": { "ed25519:peer": flipped(signature.as_str().unwrap()) } });
    let mut unsigned = inside.message(&mallory, &prev, "not signed");
    unsigned["signatures"] = json!({});
    let mut stolen = inside.draft(&mallory, &prev, "in another's name");
    stolen["sender"] = json!(a.user());
    let stolen = mallory.sign(stolen, inside.rules);
    let good = inside.message(&mallory, &prev, "good");

    let (status, answer) =
        mallory.send(&a, &[forged.clone(), unsigned.clone(), stolen.clone(), good.clone()], &[]).await;
    assert_eq!(status, StatusCode::OK);
    for bad in [&forged, &unsigned, &stolen] {
        let id = id_of(bad, inside.rules);
        assert!(!a.has(&id).await);
        assert!(answer["pdus"][id.as_str()]["error"].is_string(), "{answer}");
    }
    assert!(a.has(&id_of(&good, inside.rules)).await);
}

#[tokio::test]
async fn an_event_with_a_bad_hash_is_kept_without_what_was_changed() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let mut changed = inside.message(&mallory, &[inside.join_id()], "what was signed");
    changed["content"]["body"] = json!("what was not");
    let id = id_of(&changed, inside.rules);
    mallory.send(&a, &[changed], &[]).await;
    let held = a.hs.rooms.event(&id).await.unwrap();
    assert_eq!(held.pdu.content_str(), "{}");
}

#[tokio::test]
async fn a_key_counts_as_long_as_its_owner_says() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let path = "/_matrix/federation/v1/query/profile?user_id=@user:a.example";
    assert_eq!(mallory.call(&a, "GET", path, "").await.0, StatusCode::OK);

    // The key goes out of use: whoever has stolen it can neither ask nor write from then on.
    let now_ms = world.clock.now_ms();
    let old = OwnKey::from_seed("ed25519:peer", [7; 32], 0, Some(now_ms + 1_000)).unwrap();
    let new = OwnKey::from_seed("ed25519:next", [8; 32], 1, None).unwrap();
    let document = OwnKeys::new(vec![old, new]).unwrap().document(&mallory.name, now_ms + 10 * 86_400_000);
    let document: Value = serde_json::from_str(&document).unwrap();
    mallory.answer("/_matrix/key/v2/server", move |_| (StatusCode::OK, document.clone()));
    world.clock.advance(Duration::from_secs(2 * 86_400));
    assert_eq!(mallory.call(&a, "GET", path, "").await.0, StatusCode::UNAUTHORIZED);

    let event_at = |ts_ms: u64, text: &str| {
        let mut draft = inside.draft(&mallory, &[inside.join_id()], text);
        draft["origin_server_ts"] = json!(ts_ms);
        mallory.sign(draft, inside.rules)
    };
    let (before, after) = (event_at(now_ms + 500, "before"), event_at(now_ms + 5_000, "after"));
    let pdus =
        json!({ "origin": mallory.name, "origin_server_ts": 1, "pdus": [before, after], "edus": [] }).to_string();
    let next = OwnKey::from_seed("ed25519:next", [8; 32], 1, None).unwrap();
    let send = "/_matrix/federation/v1/send/rotated";
    let header = XMatrix::sign(&mallory.name, a.name(), next.pair(), "PUT", send, &pdus).unwrap().to_string();
    let request = http::Request::put(send).header("authorization", header).body(axum::body::Body::from(pdus)).unwrap();
    let router = samtal_federation_api::router().layer(axum::Extension(a.hs.clone()));
    let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "the new key is fetched and counts");
    assert!(a.has(&id_of(&before, inside.rules)).await, "it was good when it was used");
    assert!(!a.has(&id_of(&after, inside.rules)).await);
}

#[tokio::test]
async fn a_document_of_keys_that_has_run_out_or_is_anothers_counts_for_nothing() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let path = "/_matrix/federation/v1/query/profile?user_id=@user:a.example";
    let keys = || OwnKeys::new(vec![mallory.key.clone()]).unwrap();
    let past = keys().document(&mallory.name, world.clock.now_ms() - 1);
    let other = keys().document("victim.example".try_into().unwrap(), world.clock.now_ms() + 86_400_000);
    for document in [past, other, "{}".to_owned(), "nonsense".to_owned(), "[".repeat(50_000)] {
        mallory.answer("/_matrix/key/v2/server", move |_| (StatusCode::OK, Value::String(document.clone())));
        world.clock.advance(Duration::from_secs(60));
        assert_eq!(mallory.call(&a, "GET", path, "").await.0, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_request_for_somebody_else_is_not_ours() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let path = "/_matrix/federation/v1/query/profile?user_id=@user:a.example";
    // What a server gets in good faith from another, it may not pass on.
    for destination in ["b.example", "a.example:8448", "A.example"] {
        let to = <&ruma::ServerName>::try_from(destination).unwrap();
        let header = XMatrix::sign(&mallory.name, to, mallory.key.pair(), "GET", path, "").unwrap().to_string();
        let request = http::Request::get(path).header("authorization", header).body(axum::body::Body::empty()).unwrap();
        let router = samtal_federation_api::router().layer(axum::Extension(a.hs.clone()));
        let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{destination}");
    }
}

#[tokio::test]
async fn a_transaction_that_is_sent_again_does_nothing_again() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let first = inside.message(&mallory, &[inside.join_id()], "once");
    let second = inside.message(&mallory, &[id_of(&first, inside.rules)], "twice");
    let to_device = json!({
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": mallory.user(), "type": "m.test", "message_id": "1",
            "messages": { a.user().as_str(): { "*": { "n": 1 } } },
        },
    });
    let session =
        samtal_account::NewSession { device_id: Some("PHONE".into()), ..samtal_account::NewSession::default() };
    a.hs.accounts.log_in(&a.user(), session, &samtal_account::Client::default()).await.unwrap();

    let (_, one) = mallory.send_as(&a, "one", std::slice::from_ref(&first), std::slice::from_ref(&to_device)).await;
    let (_, two) = mallory.send_as(&a, "two", &[second], &[]).await;
    let before = a.hs.db.position();
    // The last one and an older one.
    let (_, two_again) = mallory.send_as(&a, "two", &[], &[]).await;
    assert_eq!(two, two_again, "the answer is remembered");
    let (_, one_again) = mallory.send_as(&a, "one", &[first], &[to_device]).await;
    assert_eq!(one, one_again);
    let changes = a.hs.db.changes_after(before, 100).await.unwrap();
    let of_note = [samtal_model::ChangeKind::Event.code(), samtal_model::ChangeKind::ToDevice.code()];
    assert!(!changes.iter().any(|logged| of_note.contains(&logged.change.kind)), "{changes:?}");
}

/// The signature with one letter changed.
fn flipped(signature: &str) -> String {
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &signature[1..])
}
