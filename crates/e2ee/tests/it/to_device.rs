//! Messages to devices.

use ruma::UserId;
use samtal_db::Batch;
use samtal_e2ee::{
    E2ee,
    to_device::{INBOX_BYTES_MAX, INBOX_MESSAGES_MAX, Once, ToDevice},
};
use serde_json::{json, value::to_raw_value};

use crate::{each, user};

fn message(user: &UserId, device: &str, number: usize) -> ToDevice {
    let content = to_raw_value(&json!({ "n": number })).expect("JSON");
    ToDevice { user: user.to_owned(), device: device.to_owned(), content }
}

async fn send(e2ee: &E2ee, to: &[ToDevice], id: &str) -> bool {
    let bob = user("bob");
    let once = Once::Transaction { user: &bob, device: "BOB", id };
    e2ee.to_device_send(&bob, "m.room.encrypted", to, once, Batch::new()).await.expect("send")
}

async fn numbers(e2ee: &E2ee, user: &UserId, device: &str, since: i64, limit: i64) -> (Vec<u64>, i64) {
    let messages = e2ee.to_device_after(user, device.into(), since, i64::MAX, limit).await.expect("read");
    let last = messages.last().map_or(since, |message| message.position);
    let number = |event: &str| {
        let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
        assert_eq!(event["type"], "m.room.encrypted");
        assert_eq!(event["sender"], "@bob:here.example");
        event["content"]["n"].as_u64().expect("a number")
    };
    (messages.iter().map(|message| number(message.event.get())).collect(), last)
}

#[tokio::test]
async fn note_50_messages_come_in_order_and_stay_until_they_are_acknowledged() {
    each(|e2ee| async move {
        let alice = user("alice");
        for number in 0..25 {
            assert!(send(&e2ee, &[message(&alice, "PHONE", number)], &number.to_string()).await);
        }
        let (first, last) = numbers(&e2ee, &alice, "PHONE", 0, 10).await;
        assert_eq!(first, (0..10).collect::<Vec<_>>());
        // The answer was lost: the same once more.
        assert_eq!(numbers(&e2ee, &alice, "PHONE", 0, 10).await, (first, last));
        e2ee.to_device_acknowledge(&alice, "PHONE".into(), last).await.expect("acknowledge");
        assert_eq!(numbers(&e2ee, &alice, "PHONE", 0, 100).await.0, (10..25).collect::<Vec<_>>());
        assert_eq!(e2ee.inbox(&alice, "PHONE".into()).await.expect("inbox").messages, 15);
        assert!(numbers(&e2ee, &alice, "TABLET", 0, 100).await.0.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_transaction_is_stored_once_even_when_it_comes_many_times_at_once() {
    each(|e2ee| async move {
        let alice = user("alice");
        let messages = [message(&alice, "PHONE", 1), message(&alice, "TABLET", 2)];
        let sends = (0..20).map(|_| send(&e2ee, &messages, "m.room.encrypted/txn"));
        let done = futures_util::future::join_all(sends).await;
        assert_eq!(done.into_iter().filter(|done| *done).count(), 1);
        for device in ["PHONE", "TABLET"] {
            assert_eq!(numbers(&e2ee, &alice, device, 0, 100).await.0.len(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn note_42_a_message_id_of_another_server_counts_once_and_only_for_that_server() {
    each(|e2ee| async move {
        let (alice, bob) = (user("alice"), user("bob"));
        for (origin, fresh) in [("a.example", true), ("a.example", false), ("b.example", true)] {
            let once = Once::Message { origin, id: "1" };
            let to = [message(&alice, "PHONE", 1)];
            assert_eq!(
                e2ee.to_device_send(&bob, "m.room.encrypted", &to, once, Batch::new()).await.expect("send"),
                fresh
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_never_syncs_keeps_the_newest_of_a_hundred_thousand_messages() {
    each(|e2ee| async move {
        let alice = user("alice");
        for request in 0..100 {
            let messages: Vec<_> =
                (0..1_000).map(|number| message(&alice, "PHONE", request * 1_000 + number)).collect();
            send(&e2ee, &messages, &request.to_string()).await;
        }
        let inbox = e2ee.inbox(&alice, "PHONE".into()).await.expect("inbox");
        assert!(inbox.messages <= INBOX_MESSAGES_MAX && inbox.bytes <= INBOX_BYTES_MAX, "{inbox:?}");
        assert_eq!(inbox.messages + inbox.dropped, 100_000);
        assert_eq!(e2ee.to_device_dropped(), u64::try_from(inbox.dropped).expect("positive"));

        let (mut since, mut all) = (0, Vec::new());
        loop {
            let (some, last) = numbers(&e2ee, &alice, "PHONE", since, 100).await;
            if some.is_empty() {
                break;
            }
            e2ee.to_device_acknowledge(&alice, "PHONE".into(), last).await.expect("acknowledge");
            since = last;
            all.extend(some);
        }
        let first = 100_000 - u64::try_from(inbox.messages).expect("positive");
        assert_eq!(all, (first..100_000).collect::<Vec<_>>());
        let left = e2ee.inbox(&alice, "PHONE".into()).await.expect("inbox");
        assert_eq!((left.messages, left.bytes), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn large_messages_are_bounded_by_their_bytes() {
    each(|e2ee| async move {
        let alice = user("alice");
        let content = to_raw_value(&json!({ "n": 1, "pad": "x".repeat(60_000) })).expect("JSON");
        let messages: Vec<_> = (0..100)
            .map(|_| ToDevice { user: alice.clone(), device: "PHONE".to_owned(), content: content.clone() })
            .collect();
        for request in 0..4 {
            send(&e2ee, &messages, &request.to_string()).await;
        }
        let inbox = e2ee.inbox(&alice, "PHONE".into()).await.expect("inbox");
        assert!(inbox.bytes <= INBOX_BYTES_MAX && inbox.messages > 100, "{inbox:?}");
    })
    .await;
}

#[tokio::test]
async fn a_deleted_device_leaves_no_messages_behind() {
    samtal_db::testing::each_engine(&[samtal_e2ee::SCHEMA], |db| async move {
        let e2ee = E2ee::new(db.clone(), samtal_kit::Clock::manual(1));
        let alice = user("alice");
        send(&e2ee, &[message(&alice, "PHONE", 1)], "1").await;
        let mut batch = Batch::new();
        e2ee.devices_delete(&mut batch, &alice, ["PHONE".into()]);
        db.commit(batch).await.expect("commit");
        assert!(numbers(&e2ee, &alice, "PHONE", 0, 100).await.0.is_empty());
        assert_eq!(e2ee.inbox(&alice, "PHONE".into()).await.expect("inbox").messages, 0);
    })
    .await;
}
