//! Key backup and dehydrated devices.

use std::collections::BTreeMap;

use ruma::UserId;
use samtal_e2ee::{
    E2ee, E2eeError,
    backup::{Session, Sessions, Stored, VERSIONS_MAX, Which},
    dehydrated::Dehydrated,
    one_time_key::KeyUpload,
};
use serde_json::{json, value::to_raw_value};

use crate::{device_keys, each, one_time_keys, user};

fn session(is_verified: bool, first_message_index: i64, forwarded_count: i64) -> Session {
    let data = json!({ "is": format!("{is_verified} {first_message_index} {forwarded_count}") });
    Session { first_message_index, forwarded_count, is_verified, session_data: to_raw_value(&data).expect("JSON") }
}

fn one(room: &str, id: &str, session: Session) -> Sessions {
    Sessions::from([(room.to_owned(), BTreeMap::from([(id.to_owned(), session)]))])
}

async fn create(e2ee: &E2ee, user: &UserId) -> i64 {
    let auth = to_raw_value(&json!({ "public_key": "k" })).expect("JSON");
    e2ee.backup_create(user, "m.megolm_backup.v1.curve25519-aes-sha2", &auth).await.expect("create")
}

#[tokio::test]
async fn a_key_is_replaced_only_by_a_better_one() {
    each(|e2ee| async move {
        let alice = user("alice");
        let version = create(&e2ee, &alice).await;
        // In this order: each says whether it replaces what was before.
        let steps = [
            (session(false, 5, 5), true),
            (session(false, 5, 5), false),
            (session(false, 6, 0), false),
            (session(false, 5, 4), true),
            (session(false, 4, 9), true),
            (session(true, 9, 9), true),
            (session(false, 0, 0), false),
            (session(true, 9, 8), true),
        ];
        let mut kept = String::new();
        let mut etag = e2ee.backup_version(&alice, None).await.expect("version").expect("one").etag;
        for (session, replaces) in steps {
            let text = session.session_data.get().to_owned();
            let stored = e2ee.backup_put(&alice, version, &one("!r", "s", session)).await.expect("put");
            assert_eq!(stored.count, 1);
            assert_eq!(stored.etag != etag, replaces, "{text}");
            etag = stored.etag;
            if replaces {
                kept = text;
            }
            let held = e2ee.backup_get(&alice, version, Which::Session("!r", "s")).await.expect("get");
            assert_eq!(held["!r"]["s"].session_data.get(), kept);
        }
    })
    .await;
}

#[tokio::test]
async fn versions_are_bounded_and_a_deleted_one_makes_room() {
    each(|e2ee| async move {
        let alice = user("alice");
        let first = create(&e2ee, &alice).await;
        for _ in 1..VERSIONS_MAX {
            create(&e2ee, &alice).await;
        }
        let auth = to_raw_value(&json!({ "public_key": "k" })).expect("JSON");
        let refused = e2ee.backup_create(&alice, "m.megolm_backup.v1.curve25519-aes-sha2", &auth).await;
        assert!(matches!(refused, Err(E2eeError::TooLarge(_))), "{refused:?}");
        create(&e2ee, &user("bob")).await;
        e2ee.backup_delete(&alice, first).await.expect("delete");
        create(&e2ee, &alice).await;
    })
    .await;
}

#[tokio::test]
async fn an_id_that_could_be_taken_for_another_or_has_no_end_is_refused() {
    each(|e2ee| async move {
        let alice = user("alice");
        let version = create(&e2ee, &alice).await;
        let long = "s".repeat(256);
        for (room, id) in [("!a\0b", "s"), ("!a", "s\0t")] {
            let refused = e2ee.backup_put(&alice, version, &one(room, id, session(true, 0, 0))).await;
            assert!(matches!(refused, Err(E2eeError::Invalid(_))), "{refused:?}");
        }
        for (room, id) in [(long.as_str(), "s"), ("!a", long.as_str())] {
            let refused = e2ee.backup_put(&alice, version, &one(room, id, session(true, 0, 0))).await;
            assert!(matches!(refused, Err(E2eeError::TooLarge(_))), "{refused:?}");
        }
        assert!(e2ee.backup_get(&alice, version, Which::All).await.expect("get").is_empty());
    })
    .await;
}

#[tokio::test]
async fn keys_go_only_into_the_current_version_and_numbers_do_not_come_again() {
    each(|e2ee| async move {
        let alice = user("alice");
        let first = create(&e2ee, &alice).await;
        let second = create(&e2ee, &alice).await;
        assert!(second > first);
        let refused = e2ee.backup_put(&alice, first, &one("!r", "s", session(true, 0, 0))).await;
        assert!(matches!(refused, Err(E2eeError::WrongVersion { current }) if current == second), "{refused:?}");
        e2ee.backup_delete(&alice, second).await.expect("delete");
        let current = e2ee.backup_version(&alice, None).await.expect("version").expect("the first again");
        assert_eq!(current.version, first);
        assert!(create(&e2ee, &alice).await > second);
        assert!(e2ee.backup_version(&alice, Some(second)).await.expect("version").is_none());
        assert!(matches!(e2ee.backup_delete(&alice, second).await, Err(E2eeError::NotFound(_))));
        assert!(matches!(e2ee.backup_get(&user("bob"), first, Which::All).await, Err(E2eeError::NotFound(_))));
    })
    .await;
}

#[tokio::test]
async fn keys_are_counted_and_deleted_by_session_room_and_version() {
    each(|e2ee| async move {
        let alice = user("alice");
        let version = create(&e2ee, &alice).await;
        for (room, id) in [("!a", "1"), ("!a", "2"), ("!b", "1"), ("!c", "1")] {
            e2ee.backup_put(&alice, version, &one(room, id, session(true, 0, 0))).await.expect("put");
        }
        let count = async |which| {
            let before = e2ee.backup_version(&alice, None).await.expect("version").expect("one").etag;
            let Stored { etag, count } = e2ee.backup_remove(&alice, version, which).await.expect("remove");
            assert!(etag > before);
            count
        };
        assert_eq!(count(Which::Session("!a", "1")).await, 3);
        assert_eq!(count(Which::Room("!a")).await, 2);
        assert_eq!(e2ee.backup_get(&alice, version, Which::All).await.expect("get").len(), 2);
        assert!(e2ee.backup_get(&alice, version, Which::Room("!a")).await.expect("get").is_empty());
        assert_eq!(count(Which::All).await, 0);
        assert!(e2ee.backup_get(&alice, version, Which::All).await.expect("get").is_empty());
    })
    .await;
}

#[tokio::test]
async fn many_devices_may_store_keys_at_once() {
    each(|e2ee| async move {
        let alice = user("alice");
        let version = create(&e2ee, &alice).await;
        let put = |number: usize| {
            let (e2ee, alice) = (e2ee.clone(), alice.clone());
            async move { e2ee.backup_put(&alice, version, &one("!r", &number.to_string(), session(true, 0, 0))).await }
        };
        for result in futures_util::future::join_all((0..4).map(put)).await {
            result.expect("put");
        }
        assert_eq!(e2ee.backup_version(&alice, None).await.expect("version").expect("one").count, 4);
    })
    .await;
}

#[tokio::test]
async fn a_new_dehydrated_device_replaces_the_one_before() {
    each(|e2ee| async move {
        let alice = user("alice");
        let device = |id: &str| Dehydrated {
            device_id: id.to_owned(),
            display_name: None,
            device_data: to_raw_value(&json!({ "algorithm": "x" })).expect("JSON"),
        };
        for id in ["ONE", "TWO", "TWO"] {
            let mut upload: KeyUpload = one_time_keys([id.to_owned()]);
            upload.device_keys = Some(device_keys(&alice, id, id));
            e2ee.dehydrate(&alice, &device(id), &upload).await.expect("dehydrate");
        }
        assert_eq!(e2ee.devices_with_keys(&alice).await.expect("devices"), ["TWO"]);
        assert_eq!(e2ee.dehydrated(&alice).await.expect("read").expect("one").device_id, "TWO");
        assert_eq!(e2ee.dehydrated_delete(&alice).await.expect("delete").as_deref(), Some("TWO"));
        assert_eq!(e2ee.dehydrated_delete(&alice).await.expect("delete"), None);
        assert!(e2ee.devices_with_keys(&alice).await.expect("devices").is_empty());
    })
    .await;
}
