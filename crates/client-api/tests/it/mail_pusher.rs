//! Pushers of the kind `email`: letters about what is unread, and the way out of them.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use samtal_ops::MailNotifications;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::{
    harness::{Node, Person, each_engine, each_engine_with, settings},
    mail_server,
};

/// Long enough for a few messages to be sent meanwhile.
const DELAY: Duration = Duration::from_secs(1);

async fn each_engine_with_letters(test: impl AsyncFn(Node, &mut Receiver<(String, String)>)) {
    let (mut mail, mails) = mail_server::start().await;
    mail.notifications = Some(MailNotifications { delay: DELAY, pause: Duration::ZERO });
    let mut settings = settings();
    settings.public_base_url = Some("https://samtal.test".into());
    settings.mail = Some(mail);
    let mails = tokio::sync::Mutex::new(mails);
    let run = each_engine_with(settings, async |node| Box::pin(test(node, &mut *mails.lock().await)).await);
    Box::pin(run).await;
}

/// Somebody with a mail address who wants letters.
async fn reader(node: &Node, lang: &str) -> Person {
    let alice = node.person("alice").await;
    let id = alice.user_id.parse::<ruma::OwnedUserId>().unwrap();
    node.hs.accounts.add_threepid(&id, "email", "alice@example.org").await.unwrap();
    node.post_as(&alice, "/v3/pushers/set", pusher(lang)).await.ok();
    alice
}

fn pusher(lang: &str) -> Value {
    json!({
        "kind": "email", "app_id": "m.email", "pushkey": "alice@example.org", "lang": lang,
        "app_display_name": "Email Notifications", "device_display_name": "alice@example.org", "data": {},
    })
}

async fn room(node: &Node, bob: &Person, alice: &Person, encrypted: bool) -> String {
    let mut wish = json!({ "preset": "public_chat", "name": "Fika" });
    if encrypted {
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        wish["initial_state"] = json!([{ "type": "m.room.encryption", "state_key": "", "content": content }]);
    }
    let room = node.post_as(bob, "/v3/createRoom", wish).await.ok()["room_id"].as_str().unwrap().to_owned();
    node.post_as(alice, &format!("/v3/join/{room}"), json!({})).await.ok();
    room
}

async fn say(node: &Node, who: &Person, room: &str, txn: &str, body: &str) -> String {
    let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
    let sent = node.put_as(who, &path, json!({ "msgtype": "m.text", "body": body })).await.ok();
    sent["event_id"].as_str().unwrap().to_owned()
}

async fn next(mails: &mut Receiver<(String, String)>) -> (String, String) {
    tokio::time::timeout(Duration::from_secs(30), mails.recv()).await.expect("a letter comes").unwrap()
}

#[tokio::test]
async fn one_letter_tells_of_all_that_is_unread_and_ends_at_a_click() {
    each_engine_with_letters(async |node, mails| {
        let (alice, bob) = (reader(&node, "en").await, node.person("bob").await);
        let (open, closed) = (room(&node, &bob, &alice, false).await, room(&node, &bob, &alice, true).await);
        let read = say(&node, &bob, &open, "0", "read in time").await;
        node.post_as(&alice, &format!("/v3/rooms/{open}/receipt/m.read/{read}"), json!({})).await.ok();
        say(&node, &bob, &open, "1", "coffee?").await;
        say(&node, &bob, &open, "2", "now!").await;
        let path = format!("/v3/rooms/{closed}/send/m.room.encrypted/3");
        let secret = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgAEn", "session_id": "s" });
        node.put_as(&bob, &path, secret).await.ok();
        let (to, letter) = next(mails).await;
        assert_eq!(to, "alice@example.org");
        assert!(letter.contains("Subject: Unread messages on samtal.test"), "{letter}");
        assert!(
            letter.contains("Fika: 2 messages") && letter.contains("bob: coffee?") && letter.contains("bob: now!"),
            "{letter}"
        );
        assert!(!letter.contains("read in time"), "{letter}");
        assert!(letter.contains("Fika: 1 message (encrypted)") && !letter.contains("AwgAEn"), "{letter}");
        let link = letter.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        assert!(letter.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"), "{letter}");
        let path = link.strip_prefix("https://samtal.test").unwrap();
        let ask = async |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap();
            node.send(request).await.status
        };
        // Programs that follow links end nothing.
        assert_eq!(ask(Method::GET, path).await, StatusCode::OK);
        let pushers = async || node.get_as(&alice, "/v3/pushers").await.ok()["pushers"].as_array().unwrap().len();
        assert_eq!(pushers().await, 1);
        assert_eq!(ask(Method::POST, path).await, StatusCode::OK);
        assert_eq!(pushers().await, 0);
        assert_eq!(ask(Method::GET, path).await, StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn what_is_read_in_time_is_no_letter() {
    each_engine_with_letters(async |node, mails| {
        let (alice, bob) = (reader(&node, "sv-SE").await, node.person("bob").await);
        let room = room(&node, &bob, &alice, false).await;
        let event = say(&node, &bob, &room, "1", "soon read").await;
        node.post_as(&alice, &format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
        // The next letter, in Swedish, tells only of the invite.
        node.post_as(&bob, "/v3/createRoom", json!({ "name": "Möte", "invite": [alice.user_id] })).await.ok();
        let (_, letter) = next(mails).await;
        assert!(letter.contains("Du har olästa meddelanden") && letter.contains("Möte: en inbjudan"), "{letter}");
        assert!(!letter.contains("soon read"), "{letter}");
    })
    .await;
}

#[tokio::test]
async fn letters_go_to_shown_addresses_only() {
    each_engine_with_letters(async |node, _| {
        let bob = node.person("bob").await;
        node.post_as(&bob, "/v3/pushers/set", pusher("en")).await.refused(400, "M_THREEPID_NOT_FOUND");
    })
    .await;
    // Without a mail server there are none.
    each_engine(async |node: Node| {
        let bob = node.person("bob").await;
        node.post_as(&bob, "/v3/pushers/set", pusher("en")).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}
