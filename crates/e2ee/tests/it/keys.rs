//! Device, one-time and fallback keys.

use std::collections::{BTreeMap, BTreeSet};

use ruma::UserId;
use samtal_e2ee::{
    E2ee, E2eeError,
    one_time_key::{Claim, FALLBACK_ALGORITHMS_MAX, KeyUpload},
};
use serde_json::json;

use crate::{device_keys, each, fallback_key, one_time_keys, user};

async fn claim(e2ee: &E2ee, user: &UserId, device: &str) -> Option<String> {
    let claims =
        [Claim { user: user.to_owned(), device: device.to_owned(), algorithm: "signed_curve25519".to_owned() }];
    let mut claimed = e2ee.keys_claim(&claims).await.expect("claim");
    let keys = claimed.remove(user)?.remove(device)?;
    keys.into_iter().next().map(|(name, _)| name.trim_start_matches("signed_curve25519:").to_owned())
}

async fn count(e2ee: &E2ee, user: &UserId, device: &str) -> u64 {
    e2ee.one_time_key_counts(user, device.into()).await.expect("counts")["signed_curve25519"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_claims_from_fifty_clients_give_no_key_twice_and_none_empty() {
    each(|e2ee| async move {
        let alice = user("alice");
        for upload in 0..10 {
            let keys = one_time_keys((0..1_000).map(|key| format!("{upload}-{key}")));
            e2ee.keys_upload(&alice, "PHONE".into(), &keys).await.expect("upload");
        }
        let client = |e2ee: E2ee| {
            let alice = alice.clone();
            async move {
                let mut got = Vec::new();
                for _ in 0..200 {
                    got.push(claim(&e2ee, &alice, "PHONE").await.expect("a key is left"));
                }
                got
            }
        };
        let got = futures_util::future::join_all((0..50).map(|_| client(e2ee.clone()))).await;
        let distinct: BTreeSet<String> = got.into_iter().flatten().collect();
        assert_eq!(distinct.len(), 10_000);
        assert_eq!(count(&e2ee, &alice, "PHONE").await, 0);
        assert_eq!(claim(&e2ee, &alice, "PHONE").await, None);
    })
    .await;
}

#[tokio::test]
async fn fallback_keys_are_bounded_by_algorithms() {
    each(|e2ee| async move {
        let alice = user("alice");
        let upload = |algorithms: std::ops::Range<usize>| KeyUpload {
            fallback_keys: algorithms.map(|n| (format!("algorithm{n}:key"), json!("key"))).collect(),
            ..KeyUpload::default()
        };
        let put = async |keys: KeyUpload| e2ee.keys_upload(&alice, "PHONE".into(), &keys).await;
        let refused = put(upload(0..FALLBACK_ALGORITHMS_MAX + 1)).await;
        assert!(matches!(refused, Err(E2eeError::TooLarge(_))), "{refused:?}");
        put(upload(0..FALLBACK_ALGORITHMS_MAX)).await.expect("as many as there may be");
        put(upload(0..1)).await.expect("instead of one that is there");
        let refused = put(upload(FALLBACK_ALGORITHMS_MAX..FALLBACK_ALGORITHMS_MAX + 1)).await;
        assert!(matches!(refused, Err(E2eeError::TooLarge(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn note_51_keys_are_claimed_in_upload_order_whatever_they_are_called() {
    each(|e2ee| async move {
        let alice = user("alice");
        for names in [["z", "c"], ["a", "b"]] {
            let keys = one_time_keys(names.map(ToOwned::to_owned));
            e2ee.keys_upload(&alice, "PHONE".into(), &keys).await.expect("upload");
        }
        let mut order = Vec::new();
        while let Some(name) = claim(&e2ee, &alice, "PHONE").await {
            order.push(name);
        }
        assert_eq!(order, ["z", "c", "a", "b"]);
    })
    .await;
}

#[tokio::test]
async fn note_51_an_identical_key_again_is_fine_and_another_under_its_name_is_not() {
    each(|e2ee| async move {
        let alice = user("alice");
        let keys = one_time_keys(["a".to_owned(), "b".to_owned()]);
        e2ee.keys_upload(&alice, "PHONE".into(), &keys).await.expect("upload");
        e2ee.keys_upload(&alice, "PHONE".into(), &keys).await.expect("the same again");
        assert_eq!(count(&e2ee, &alice, "PHONE").await, 2);

        let mut other = one_time_keys(["c".to_owned(), "a".to_owned()]);
        other.one_time_keys[1].1 = json!({ "key": "another" });
        let refused = e2ee.keys_upload(&alice, "PHONE".into(), &other).await;
        assert!(matches!(refused, Err(E2eeError::Invalid(_))), "{refused:?}");
        assert_eq!(count(&e2ee, &alice, "PHONE").await, 2, "nothing of the refused upload is kept");
    })
    .await;
}

#[tokio::test]
async fn a_claimed_key_does_not_come_back_with_a_repeated_upload() {
    each(|e2ee| async move {
        let alice = user("alice");
        let keys = one_time_keys(["a".to_owned()]);
        e2ee.keys_upload(&alice, "PHONE".into(), &keys).await.expect("upload");
        assert_eq!(claim(&e2ee, &alice, "PHONE").await.as_deref(), Some("a"));
        e2ee.keys_upload(&alice, "PHONE".into(), &keys).await.expect("the same again");
        assert_eq!(claim(&e2ee, &alice, "PHONE").await, None);
    })
    .await;
}

#[tokio::test]
async fn note_51_the_fallback_key_is_given_when_no_other_is_left_and_stays() {
    each(|e2ee| async move {
        let alice = user("alice");
        let unused = || async { e2ee.unused_fallback_types(&alice, "PHONE".into()).await.expect("types") };
        e2ee.keys_upload(&alice, "PHONE".into(), &one_time_keys(["a".to_owned()])).await.expect("upload");
        e2ee.keys_upload(&alice, "PHONE".into(), &fallback_key("f")).await.expect("upload");
        assert_eq!(unused().await, ["signed_curve25519"]);
        assert_eq!(claim(&e2ee, &alice, "PHONE").await.as_deref(), Some("a"));
        assert_eq!(unused().await, ["signed_curve25519"]);
        for _ in 0..2 {
            assert_eq!(claim(&e2ee, &alice, "PHONE").await.as_deref(), Some("f"));
            assert!(unused().await.is_empty());
        }
        e2ee.keys_upload(&alice, "PHONE".into(), &fallback_key("f")).await.expect("the same again");
        assert!(unused().await.is_empty(), "the same key is still a used one");
        e2ee.keys_upload(&alice, "PHONE".into(), &fallback_key("g")).await.expect("upload");
        assert_eq!(unused().await, ["signed_curve25519"]);
    })
    .await;
}

#[tokio::test]
async fn note_52_counts_show_zero_and_claims_wake_the_device() {
    each(|e2ee| async move {
        let alice = user("alice");
        assert_eq!(count(&e2ee, &alice, "PHONE").await, 0);
        e2ee.keys_upload(&alice, "PHONE".into(), &one_time_keys(["a".to_owned()])).await.expect("upload");
        assert_eq!(count(&e2ee, &alice, "PHONE").await, 1);
        claim(&e2ee, &alice, "PHONE").await;
        assert_eq!(count(&e2ee, &alice, "PHONE").await, 0);
    })
    .await;
}

#[tokio::test]
async fn device_keys_must_name_the_device_that_uploads_them() {
    each(|e2ee| async move {
        let (alice, bob) = (user("alice"), user("bob"));
        for keys in [device_keys(&bob, "PHONE", "x"), device_keys(&alice, "TABLET", "x")] {
            let upload = KeyUpload { device_keys: Some(keys), ..KeyUpload::default() };
            let refused = e2ee.keys_upload(&alice, "PHONE".into(), &upload).await;
            assert!(matches!(refused, Err(E2eeError::Invalid(_))), "{refused:?}");
        }
        for name in ["signed_curve25519", ":a", "signed_curve25519:"] {
            let upload = KeyUpload { one_time_keys: vec![(name.to_owned(), json!("key"))], ..KeyUpload::default() };
            let refused = e2ee.keys_upload(&alice, "PHONE".into(), &upload).await;
            assert!(matches!(refused, Err(E2eeError::Invalid(_))), "{name}: {refused:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_query_answers_the_devices_asked_for_and_names_users_without_any() {
    each(|e2ee| async move {
        let (alice, bob) = (user("alice"), user("bob"));
        for device in ["PHONE", "TABLET"] {
            let upload = KeyUpload { device_keys: Some(device_keys(&alice, device, device)), ..KeyUpload::default() };
            e2ee.keys_upload(&alice, device.into(), &upload).await.expect("upload");
        }
        let all = BTreeMap::from([(alice.clone(), vec![]), (bob.clone(), vec![])]);
        let found = e2ee.keys_query(&all, Some(&bob)).await.expect("query");
        assert_eq!(found.device_keys[&alice].keys().collect::<Vec<_>>(), ["PHONE", "TABLET"]);
        assert!(found.device_keys[&bob].is_empty());

        let one = BTreeMap::from([(alice.clone(), vec!["TABLET".to_owned()])]);
        let found = e2ee.keys_query(&one, Some(&bob)).await.expect("query");
        assert_eq!(found.device_keys[&alice]["TABLET"], device_keys(&alice, "TABLET", "TABLET"));
        assert_eq!(found.device_keys[&alice].len(), 1);
    })
    .await;
}

#[tokio::test]
async fn uploading_the_same_device_keys_twice_is_one_change() {
    each(|e2ee| async move {
        let alice = user("alice");
        let upload = KeyUpload { device_keys: Some(device_keys(&alice, "PHONE", "x")), ..KeyUpload::default() };
        e2ee.keys_upload(&alice, "PHONE".into(), &upload).await.expect("upload");
        let position = e2ee.device_list_position(&alice).await.expect("position");
        assert!(position > 0);
        e2ee.keys_upload(&alice, "PHONE".into(), &upload).await.expect("the same again");
        assert_eq!(e2ee.device_list_position(&alice).await.expect("position"), position);
        assert_eq!(e2ee.users_changed(&alice, 0, position).await.expect("changed"), [alice.clone()]);
        assert!(e2ee.users_changed(&alice, position, position).await.expect("changed").is_empty());
    })
    .await;
}

#[tokio::test]
async fn new_identity_keys_make_the_old_one_time_keys_void() {
    each(|e2ee| async move {
        let alice = user("alice");
        let mut upload = one_time_keys(["a".to_owned()]);
        upload.device_keys = Some(device_keys(&alice, "PHONE", "x"));
        e2ee.keys_upload(&alice, "PHONE".into(), &upload).await.expect("upload");
        let mut upload = one_time_keys(["b".to_owned()]);
        upload.device_keys = Some(device_keys(&alice, "PHONE", "y"));
        e2ee.keys_upload(&alice, "PHONE".into(), &upload).await.expect("upload");
        assert_eq!(claim(&e2ee, &alice, "PHONE").await.as_deref(), Some("b"));
        assert_eq!(claim(&e2ee, &alice, "PHONE").await, None);
    })
    .await;
}
