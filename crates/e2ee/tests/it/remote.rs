//! Device lists of users elsewhere.

use std::collections::BTreeMap;

use samtal_e2ee::remote_list::{RemoteDevice, RemoteList, RemoteUpdate, UpdateOutcome};

use crate::{device_keys, each, user};

fn update(stream_id: i64, prev_id: &[i64], secret: &str) -> RemoteUpdate {
    let keys = Some(device_keys(&user("zoe"), "PHONE", secret));
    let device = RemoteDevice { device_id: "PHONE".to_owned(), display_name: None, keys };
    RemoteUpdate { stream_id, prev_id: prev_id.to_vec(), deleted: false, device }
}

#[tokio::test]
async fn note_41_an_update_that_builds_on_what_is_held_is_stored_and_any_other_asks_for_all() {
    each(|e2ee| async move {
        let zoe = user("zoe");
        let take = async |update| e2ee.remote_update(&zoe, &update).await.expect("update");
        assert_eq!(take(update(1, &[], "a")).await, UpdateOutcome::Ignored, "nobody asked for the list");
        let changed = e2ee.users_changed(&user("alice"), 0, i64::MAX).await.expect("changed");
        assert!(changed.is_empty(), "clients hear of it when the list is here");

        let list = RemoteList { stream_id: 10, devices: vec![update(0, &[], "a").device], ..RemoteList::default() };
        e2ee.remote_list_set(&zoe, &list).await.expect("set");
        let query = BTreeMap::from([(zoe.clone(), vec![])]);
        let keys = async || {
            let found = e2ee.keys_query(&query, Some(&user("alice"))).await.expect("query");
            found.device_keys[&zoe]["PHONE"]["keys"]["ed25519:PHONE"].as_str().expect("a key").to_owned()
        };
        assert_eq!(keys().await, "a");
        assert_eq!(take(update(11, &[10], "b")).await, UpdateOutcome::Stored);
        assert_eq!(keys().await, "b");
        assert_eq!(take(update(11, &[10], "c")).await, UpdateOutcome::Ignored, "it came twice");
        assert_eq!(take(update(14, &[13], "c")).await, UpdateOutcome::Resync);
        assert_eq!(e2ee.remote_stale(None, 10).await.expect("stale"), [zoe.clone()]);
        assert!(e2ee.remote_current(&[zoe.clone()]).await.expect("current").is_empty());
        e2ee.remote_list_set(&zoe, &RemoteList { stream_id: 14, ..list.clone() }).await.expect("set");
        assert!(e2ee.remote_stale(None, 10).await.expect("stale").is_empty());
        assert_eq!(take(update(15, &[], "c")).await, UpdateOutcome::Resync, "an empty prev_id asks for all");
    })
    .await;
}
