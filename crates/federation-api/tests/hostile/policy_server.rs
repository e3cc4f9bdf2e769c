//! A room with a policy server: what it signs is shown, what it does not sign is not.

use std::sync::Arc;

use http::StatusCode;
use ruma::{
    CanonicalJsonObject, OwnedEventId, RoomVersionId,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::sign_event,
};
use samtal_event::{Draft, rules_of};
use samtal_keyring::OwnKey;
use samtal_room::{LocalDraft, RoomError, Txn};
use serde_json::{Value, json};

use crate::{
    peer::{Peer, id_of},
    world::{Node, World},
};

const SIGN: &str = "/_matrix/policy/v1/sign";

/// A policy server that dislikes spam.
struct Guard {
    peer: Peer,
    key: Arc<OwnKey>,
}

impl Guard {
    fn new(world: &World) -> Self {
        let peer = Peer::new(world, "guard.example");
        let key = Arc::new(OwnKey::from_seed("ed25519:policy_server", [42; 32], 0, None).unwrap());
        let guard = Self { peer, key };
        guard.watch();
        guard
    }

    fn watch(&self) {
        // Others would take it for gone if it did not listen to what happens.
        self.peer.answer("/_matrix/federation/v1/send/", |_| (StatusCode::OK, json!({ "pdus": {} })));
        let (name, key) = (self.peer.name.clone(), Arc::clone(&self.key));
        self.peer.answer(SIGN, move |request| {
            assert!(request.headers()["authorization"].to_str().unwrap().starts_with("X-Matrix"));
            let event: Value = serde_json::from_slice(request.body()).unwrap();
            if event["content"]["body"].as_str().is_some_and(|body| body.contains("spam")) {
                return (StatusCode::BAD_REQUEST, json!({ "errcode": "M_FORBIDDEN", "error": "no spam here" }));
            }
            let rules = rules_of(&RoomVersionId::V11).unwrap();
            (
                StatusCode::OK,
                json!({ name.as_str(): { "ed25519:policy_server": signature(&name, &key, &event, rules) } }),
            )
        });
    }

    /// The content of `m.room.policy` that names it.
    fn content(&self) -> Value {
        let key: Base64<Standard, Vec<u8>> = Base64::new(self.key.public_key().to_vec());
        json!({ "via": self.peer.name, "public_keys": { "ed25519": key.encode() } })
    }

    fn asked(&self) -> usize {
        self.peer.asked(SIGN)
    }
}

fn signature(name: &ruma::ServerName, key: &OwnKey, event: &Value, rules: &RoomVersionRules) -> String {
    let mut object: CanonicalJsonObject = serde_json::from_value(event.clone()).unwrap();
    sign_event(name.as_str(), key.pair(), &mut object, &rules.redaction).unwrap();
    let signed: Value = serde_json::to_value(object).unwrap();
    signed["signatures"][name.as_str()]["ed25519:policy_server"].as_str().unwrap().to_owned()
}

async fn try_to_say(node: &Node, room: &ruma::RoomId, text: &str) -> Result<OwnedEventId, RoomError> {
    let draft = Draft::message_of("m.room.message", &json!({ "msgtype": "m.text", "body": text })).unwrap();
    node.hs.rooms.send_one(room, LocalDraft::new(node.user(), draft)).await
}

#[tokio::test]
async fn what_we_send_bears_the_policy_servers_signature_or_is_not_sent() {
    let world = World::new();
    let (a, guard) = (world.node("a.example").await, Guard::new(&world));
    let room = a.public_room(RoomVersionId::V11).await;
    a.set_state(&room, "m.room.policy", guard.content()).await;
    a.say(&room, "nobody of the policy server is here yet").await;
    assert_eq!(guard.asked(), 0);

    guard.peer.join(&a, &room).await;
    let before = guard.asked();
    let said = try_to_say(&a, &room, "hello").await.unwrap();
    assert_eq!(guard.asked(), before + 1);
    let event: Value = serde_json::from_str(a.hs.rooms.event(&said).await.unwrap().pdu.json()).unwrap();
    assert!(event["signatures"]["guard.example"]["ed25519:policy_server"].is_string(), "{event}");
    assert!(event["signatures"]["a.example"].is_object(), "ours stays");
    assert!(a.has(&said).await);

    let head = async || a.hs.rooms.extremities(&a.hs.rooms.room(&room).await.unwrap()).await.unwrap();
    assert_eq!(head().await, std::slice::from_ref(&said));
    match try_to_say(&a, &room, "buy spam").await {
        Err(RoomError::NotRecommended(refusal)) => {
            assert_eq!((refusal.errcode.as_str(), refusal.message.as_str()), ("M_FORBIDDEN", "no spam here"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(head().await, [said], "nothing of it is in the room");
}

#[tokio::test]
async fn a_transaction_that_is_repeated_makes_one_event() {
    let world = World::new();
    let (a, guard) = (world.node("a.example").await, Guard::new(&world));
    let room = a.public_room(RoomVersionId::V11).await;
    a.set_state(&room, "m.room.policy", guard.content()).await;
    guard.peer.join(&a, &room).await;
    let stored = a.hs.rooms.room(&room).await.unwrap();
    let txn = Txn::name(&a.user(), "PHONE", &stored, "m.room.message", "1");
    let send = async || {
        let draft = Draft::message_of("m.room.message", &json!({ "msgtype": "m.text", "body": "once" })).unwrap();
        let draft = LocalDraft { txn: Some(txn.clone()), ..LocalDraft::new(a.user(), draft) };
        a.hs.rooms.send_one(&room, draft).await.unwrap()
    };
    let first = send().await;
    assert_eq!(send().await, first);
}

#[tokio::test]
async fn a_policy_server_that_is_gone_or_signs_wrongly_stops_all_but_its_removal() {
    let world = World::new();
    let (a, guard) = (world.node("a.example").await, Guard::new(&world));
    let room = a.public_room(RoomVersionId::V11).await;
    a.set_state(&room, "m.room.policy", guard.content()).await;
    guard.peer.join(&a, &room).await;
    for answer in [
        (StatusCode::OK, json!({})),
        (StatusCode::OK, json!({ "guard.example": { "ed25519:policy_server": "AAAA" } })),
        (StatusCode::OK, json!({ "guard.example": { "ed25519:other": "AAAA" } })),
        (StatusCode::OK, json!({ "a.example": { "ed25519:policy_server": "AAAA" } })),
        (StatusCode::OK, Value::String("nonsense".to_owned())),
        (StatusCode::BAD_GATEWAY, json!({})),
    ] {
        let said = format!("{answer:?}");
        guard.peer.answer(SIGN, move |_| answer.clone());
        assert!(matches!(try_to_say(&a, &room, "hello").await, Err(RoomError::NotRecommended(_))), "{said}");
    }
    a.set_state(&room, "m.room.policy", json!({})).await;
    let said = try_to_say(&a, &room, "free again").await.unwrap();
    assert!(a.has(&said).await);
}

#[tokio::test]
async fn what_others_send_without_a_signature_is_asked_about_and_shown_or_not() {
    let world = World::new();
    let (a, guard) = (world.node("a.example").await, Guard::new(&world));
    let mallory = Peer::new(&world, "mallory.example");
    let room = a.public_room(RoomVersionId::V11).await;
    a.set_state(&room, "m.room.policy", guard.content()).await;
    guard.peer.join(&a, &room).await;
    let inside = mallory.join(&a, &room).await;
    let mut prev = vec![inside.join_id()];

    // Signed already: nobody is asked.
    let mut signed = inside.message(&mallory, &prev, "signed");
    signed["signatures"]["guard.example"] =
        json!({ "ed25519:policy_server": signature(&guard.peer.name, &guard.key, &signed, inside.rules) });
    let before = guard.asked();
    let (_, answer) = mallory.send(&a, std::slice::from_ref(&signed), &[]).await;
    prev = vec![id_of(&signed, inside.rules)];
    assert!(a.has(&prev[0]).await, "{answer}");
    assert_eq!(guard.asked(), before);

    // Not signed: it is asked about, and what comes is kept with it.
    let plain = inside.message(&mallory, &prev, "plain");
    mallory.send(&a, std::slice::from_ref(&plain), &[]).await;
    prev = vec![id_of(&plain, inside.rules)];
    assert!(a.has(&prev[0]).await);
    let kept = a.hs.rooms.event(&prev[0]).await.unwrap().pdu.json().to_owned();
    assert!(kept.contains("ed25519:policy_server"), "{kept}");

    // Refused: it is part of the graph, and nobody is shown it.
    let spam = inside.message(&mallory, &prev, "spam");
    let (status, answer) = mallory.send(&a, std::slice::from_ref(&spam), &[]).await;
    assert_eq!(status, StatusCode::OK);
    let id = id_of(&spam, inside.rules);
    assert_eq!(answer["pdus"][id.as_str()], json!({}), "its sender is not told");
    assert!(!a.has(&id).await);
    assert!(a.hs.rooms.event(&id).await.is_ok());

    // A signature of the policy server in place of the sender's is none.
    let mut unsigned = inside.message(&mallory, &prev, "unsigned");
    let by_guard = signature(&guard.peer.name, &guard.key, &unsigned, inside.rules);
    unsigned["signatures"] = json!({ "mallory.example": { "ed25519:policy_server": by_guard } });
    mallory.send(&a, std::slice::from_ref(&unsigned), &[]).await;
    assert!(a.hs.rooms.event(&id_of(&unsigned, inside.rules)).await.is_err());
}
