//! Bodies and events that are not what they should be: refused in words, never a panic, and what is good beside them is taken.

use http::StatusCode;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::{
    peer::{Peer, id_of},
    world::World,
};

const SEND: &str = "/_matrix/federation/v1/send/x";

#[tokio::test]
async fn a_body_of_nonsense_is_refused() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    for body in [
        "nonsense".to_owned(),
        "{".to_owned(),
        "[]".to_owned(),
        "\"\u{0}\"".to_owned(),
        r#"{"pdus":{},"edus":[]}"#.to_owned(),
        r#"{"pdus":[],"edus":7}"#.to_owned(),
        deep("[", "]"),
        deep(r#"{"a":"#, "}"),
        format!(r#"{{"pdus":[{}],"edus":[]}}"#, deep("[", "]")),
        format!(r#"{{"pdus":[],"edus":[{}]}}"#, deep("[", "]")),
    ] {
        let (status, error) = mallory.call(&a, "PUT", SEND, &body).await;
        assert!(
            matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED),
            "{status} {error} for {:.40}",
            body
        );
        assert!(error["errcode"].is_string(), "{error}");
    }
    // Well formed, and still nothing that can be used.
    for body in [
        r#"{"pdus":[1,"x",null,[],{}],"edus":[1,"x",null,[],{},{"edu_type":7},{"edu_type":"m.typing"}]}"#,
        r#"{"pdus":[{"room_id":"!r:a.example"},{"room_id":7},{"room_id":"!r:a.example","content":[]}],"edus":[]}"#,
    ] {
        assert_eq!(mallory.call(&a, "PUT", SEND, body).await.0, StatusCode::OK, "{body}");
    }
}

#[tokio::test]
async fn too_many_events_or_messages_are_refused() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let edu = json!({ "edu_type": "what.is.this", "content": {} });
    assert_eq!(mallory.send(&a, &[], &vec![edu.clone(); 100]).await.0, StatusCode::OK);
    assert_eq!(mallory.send(&a, &[], &vec![edu; 101]).await.0, StatusCode::BAD_REQUEST);
    let pdu = json!({ "room_id": "!nowhere:a.example" });
    assert_eq!(mallory.send(&a, &vec![pdu.clone(); 50], &[]).await.0, StatusCode::OK);
    assert_eq!(mallory.send(&a, &vec![pdu; 51], &[]).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_event_that_is_too_large_too_deep_or_not_canonical_is_left_out_and_the_next_one_is_taken() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let prev = [inside.join_id()];
    let with = |name: &str, value: Value| {
        let mut event = inside.message(&mallory, &prev, name);
        event["content"][name] = value;
        event.to_string()
    };
    let raw = |name: &str, text: &str| {
        let event = inside.message(&mallory, &prev, name).to_string();
        event.replacen(r#""msgtype":"m.text""#, text, 1)
    };
    let mut deep = String::new();
    for _ in 0..60 {
        deep = if deep.is_empty() { "[1]".to_owned() } else { format!("[{deep}]") };
    }
    let bad = [
        with("large", json!("x".repeat(65_536))),
        with("float", json!(1.5)),
        with("big", json!(9_007_199_254_740_992_u64)),
        raw("surrogate", r#""msgtype":"\ud800""#),
        raw("deeper", &format!(r#""msgtype":{}1{}"#, "[".repeat(10_000), "]".repeat(10_000))),
        raw("control", "\"msgtype\":\"\u{1}\""),
    ];
    let mut long_type = inside.draft(&mallory, &prev, "long type");
    long_type["type"] = json!("t".repeat(256));
    let mut many_prev = inside.draft(&mallory, &prev, "many prev");
    many_prev["prev_events"] = (0..21).map(|n| format!("$prev{n}")).collect();
    let mut many_auth = inside.draft(&mallory, &prev, "many auth");
    many_auth["auth_events"] = (0..11).map(|n| format!("$auth{n}")).collect();
    let signed = [long_type, many_prev, many_auth].map(|draft| mallory.sign(draft, inside.rules).to_string());

    let good = inside.message(&mallory, &prev, "good");
    for bad in bad.iter().chain(&signed) {
        let body = format!(r#"{{"origin":"mallory.example","origin_server_ts":1,"pdus":[{bad}],"edus":[]}}"#);
        let path = format!("{SEND}{}", body.len());
        let (status, answer) = mallory.call(&a, "PUT", &path, &body).await;
        assert!(
            matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED),
            "{status} {answer}"
        );
        let room = a.hs.rooms.room(&room).await.unwrap();
        assert_eq!(a.hs.rooms.extremities(&room).await.unwrap(), prev, "nothing of it is in the room: {bad:.80}");
    }
    mallory.send(&a, std::slice::from_ref(&good), &[]).await;
    assert!(a.has(&id_of(&good, inside.rules)).await);
}

#[tokio::test]
async fn of_equal_keys_all_see_the_same_one() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    // Signed with one content, sent with two: whichever is read, it is the one whose signature is checked and that is kept.
    let event = inside.message(&mallory, &[inside.join_id()], "signed");
    let id = id_of(&event, inside.rules);
    let text = event.to_string();
    let doubled = text.replacen(r#""content":"#, r#""content":{"body":"other","msgtype":"m.text"},"content":"#, 1);
    let rooms = text.replacen(r#""room_id":"#, r#""room_id":"!other:a.example","room_id":"#, 1);
    for body in [doubled, rooms] {
        let body = format!(r#"{{"origin":"mallory.example","origin_server_ts":1,"pdus":[{body}],"edus":[]}}"#);
        let (status, _) = mallory.call(&a, "PUT", &format!("{SEND}{}", body.len()), &body).await;
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST));
        if let Ok(held) = a.hs.rooms.event(&id).await {
            assert!(!held.pdu.content_str().contains("other"), "{}", held.pdu.content_str());
        }
    }
    // And the room goes on.
    let said = a.say(&room, "still here").await;
    assert!(a.has(&said).await);
}

#[tokio::test]
async fn nul_and_strange_letters_are_text_like_any_other() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let mut prev = vec![inside.join_id()];
    for text in ["\u{0}", "a\u{0}b", "\u{202e}\u{fffd}\u{10ffff}", "\r\n\u{7f}"] {
        let event = inside.message(&mallory, &prev, text);
        prev = vec![id_of(&event, inside.rules)];
        mallory.send(&a, &[event], &[]).await;
        assert!(a.has(&prev[0]).await, "{text:?}");
    }
    for (name, value) in [("type", "m.\u{0}"), ("state_key", "\u{0}")] {
        let mut draft = inside.draft(&mallory, &prev, name);
        draft[name] = json!(value);
        mallory.send(&a, &[mallory.sign(draft, inside.rules)], &[]).await;
    }
    let edu = json!({ "edu_type": "m.presence", "content": { "push": [
        { "user_id": mallory.user(), "presence": "\u{0}", "status_msg": "\u{0}".repeat(10_000) },
        { "user_id": "@\u{0}:mallory.example", "presence": "online" },
    ] } });
    assert_eq!(mallory.send(&a, &[], &[edu]).await.0, StatusCode::OK);
    let said = a.say(&room, "still here").await;
    assert!(a.has(&said).await);
}
