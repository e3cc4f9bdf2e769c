//! What the ring promises, without a network.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ruma::server_name;
use samtal_db::{sql, testing::each_engine};

use super::*;
use crate::{OwnKey, OwnKeys, SCHEMA, document::KEYS_PER_SERVER_MAX};

/// Servers and notaries that answer from a table, and how often they were asked.
#[derive(Default)]
struct Table {
    direct: Mutex<BTreeMap<OwnedServerName, String>>,
    notary: Mutex<BTreeMap<OwnedServerName, String>>,
    asked: AtomicUsize,
}

impl KeySource for Table {
    fn direct<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.direct.lock().get(server).cloned()
        })
    }

    fn notary<'a>(&'a self, notary: &'a ServerName, _server: &'a ServerName) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move { self.notary.lock().get(notary).cloned().into_iter().collect() })
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;

fn their_keys(seed: u8) -> OwnKeys {
    OwnKeys::new(vec![OwnKey::from_seed("ed25519:k", [seed; 32], 0, None).unwrap()]).unwrap()
}

async fn ring(db: &Db, clock: &Clock, notaries: Vec<OwnedServerName>) -> Keyring {
    Keyring::open(db.clone(), clock.clone(), Random::seeded(1), server_name!("us.example").to_owned(), notaries)
        .await
        .unwrap()
}

fn header(keys: &OwnKeys, destination: &str) -> String {
    let destination = ServerName::parse(destination).unwrap();
    XMatrix::sign(server_name!("them.example"), &destination, keys.current().pair(), "GET", "/x", "")
        .unwrap()
        .to_string()
}

fn request(authorization: &str) -> SignedRequest<'_> {
    SignedRequest { authorization, method: "GET", uri: "/x", content: b"" }
}

#[tokio::test]
async fn a_key_is_made_at_the_first_start_and_kept_and_rotated() {
    each_engine(&[SCHEMA], |db| async move {
        let clock = Clock::manual(1_000);
        let first = ring(&db, &clock, vec![]).await;
        let id = first.own().current().id().to_owned();
        assert_eq!(ring(&db, &clock, vec![]).await.own().current().id(), id);

        clock.set_ms(5_000);
        first.rotate().await.unwrap();
        assert_ne!(first.own().current().id(), id);
        let published = KeyDocument::parse(&first.own_document(), Some(server_name!("us.example"))).unwrap();
        assert_eq!(published.keys.get(&id).unwrap().expired_ms, Some(5_000));
        assert_eq!(published.valid_until_ms, 5_000 + DAY_MS);
        assert_eq!(ring(&db, &clock, vec![]).await.own().current().id(), first.own().current().id());
    })
    .await;
}

#[tokio::test]
async fn note_30_a_request_is_for_us_and_signed_with_a_key_in_use() {
    each_engine(&[SCHEMA], |db| async move {
        let clock = Clock::manual(1_000);
        let ring = ring(&db, &clock, vec![]).await;
        let (theirs, source) = (their_keys(9), Table::default());
        let verify = async |authorization: &str| ring.verify_request(request(authorization), &source).await;

        let good = header(&theirs, "us.example");
        assert!(matches!(verify(&good).await, Err(RequestError::Key { .. })), "nobody tells their key");
        source
            .direct
            .lock()
            .insert(server_name!("them.example").to_owned(), theirs.document(server_name!("them.example"), 50_000));
        clock.set_ms(1_000 + ASK_AGAIN_MS);
        assert_eq!(verify(&good).await.unwrap(), "them.example");
        assert!(matches!(verify(&header(&theirs, "other.example")).await, Err(RequestError::Destination(_))));
        assert!(matches!(verify(&header(&their_keys(8), "us.example")).await, Err(RequestError::Signature(_))));

        let asked = source.asked.load(Ordering::SeqCst);
        verify(&good).await.unwrap();
        assert_eq!(source.asked.load(Ordering::SeqCst), asked, "a key in memory is not asked for");

        clock.set_ms(50_001);
        for _ in 0..10 {
            assert!(matches!(verify(&good).await, Err(RequestError::Key { .. })), "note 31: the key has ended");
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), asked + ASKED_MAX, "and is asked for, but not for ever");
    })
    .await;
}

#[tokio::test]
async fn note_31_keys_of_the_past_still_verify_the_events_of_the_past() {
    each_engine(&[SCHEMA], |db| async move {
        let clock = Clock::manual(1_000);
        let ring = ring(&db, &clock, vec![]).await;
        let source = Table::default();
        let them = server_name!("them.example");
        source.direct.lock().insert(them.to_owned(), their_keys(9).document(them, 50_000));
        let wanted = |ts_ms| Wanted {
            server: them.to_owned(),
            key_id: "ed25519:k".into(),
            purpose: Purpose::Event { ts_ms, enforce: true },
        };
        let keys = ring.keys_for(&[wanted(10)], &source).await.unwrap();
        assert_eq!(keys.for_event(50_000, true).len(), 1);
        assert_eq!(keys.for_event(50_001, true).len(), 0);
        assert_eq!(keys.for_event(50_001, false).len(), 1);

        source.direct.lock().clear();
        clock.set_ms(10 * DAY_MS);
        let keys = ring.keys_for(&[wanted(10)], &source).await.unwrap();
        assert_eq!(keys.for_event(10, true).len(), 1, "the server is gone, its past is not");
    })
    .await;
}

#[tokio::test]
async fn note_32_a_notary_signs_and_serves_the_last_known_answer_of_a_dead_server() {
    each_engine(&[SCHEMA], |db| async move {
        let clock = Clock::manual(1_000);
        let ring = ring(&db, &clock, vec![]).await;
        let source = Table::default();
        let them = server_name!("them.example");
        assert_eq!(ring.notarized(them, &[], None, &source).await.unwrap(), Vec::<String>::new());
        let document = their_keys(9).document(them, 101_000);
        source.direct.lock().insert(them.to_owned(), document.clone());
        clock.set_ms(1_000 + ASK_AGAIN_MS);
        let answer = ring.notarized(them, &[], None, &source).await.unwrap().remove(0);
        let ours = KeyDocument::parse(&ring.own_document(), None).unwrap().keys;
        assert!(signed_by(&answer, server_name!("us.example"), &ours));
        assert!(KeyDocument::parse(&answer, Some(them)).is_ok(), "their own signature is still there");

        let asked = || source.asked.load(Ordering::SeqCst);
        let before = asked();
        clock.set_ms(40_000);
        ring.notarized(them, &[], None, &source).await.unwrap();
        assert_eq!(asked(), before, "half of its life is not over");
        ring.notarized(them, &[], Some(200_000), &source).await.unwrap();
        assert_eq!(asked(), before + 1, "minimum_valid_until_ts is honored");

        source.direct.lock().clear();
        clock.set_ms(10 * DAY_MS);
        assert_eq!(ring.notarized(them, &[], None, &source).await.unwrap().len(), 1);

        let other = OwnKeys::new(vec![OwnKey::from_seed("ed25519:other", [4; 32], 0, None).unwrap()]).unwrap();
        source.direct.lock().insert(them.to_owned(), other.document(them, 20 * DAY_MS));
        clock.set_ms(11 * DAY_MS);
        assert_eq!(ring.notarized(them, &["ed25519:other".into()], None, &source).await.unwrap().len(), 1);
        assert_eq!(
            ring.notarized(them, &["ed25519:k".into()], None, &source).await.unwrap(),
            [ring.sign_object(&document).unwrap()]
        );
    })
    .await;
}

#[tokio::test]
async fn a_notary_is_asked_last_and_must_sign() {
    each_engine(&[SCHEMA], |db| async move {
        let clock = Clock::manual(1_000);
        let (them, notary) = (server_name!("them.example"), server_name!("notary.example"));
        let ring = ring(&db, &clock, vec![notary.to_owned()]).await;
        let source = Table::default();
        let document = their_keys(9).document(them, 101_000);
        source.direct.lock().insert(notary.to_owned(), their_keys(3).document(notary, 101_000));
        source.notary.lock().insert(notary.to_owned(), document.clone());
        let wanted = [Wanted { server: them.to_owned(), key_id: "ed25519:k".into(), purpose: Purpose::Request }];
        assert!(ring.keys_for(&wanted, &source).await.unwrap().get(them, "ed25519:k").is_none());

        source.notary.lock().insert(notary.to_owned(), their_keys(3).sign_object(notary, &document).unwrap());
        clock.set_ms(1_000 + ASK_AGAIN_MS);
        assert!(ring.keys_for(&wanted, &source).await.unwrap().get(them, "ed25519:k").is_some());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_names_new_keys_each_time_fills_neither_memory_nor_disk() {
    each_engine(&[SCHEMA], |db| async move {
        let (clock, them) = (Clock::manual(1_000), server_name!("them.example"));
        let ring = ring(&db, &clock, vec![]).await;
        let mut learned = Arc::default();
        for round in 0..12_u64 {
            clock.set_ms(2_000 + round);
            let key = |number: u64, expired_ms| {
                let id = format!("ed25519:{round}_{number}");
                OwnKey::from_seed(&id, [3; 32], number, expired_ms).unwrap()
            };
            let old = (1..30).map(|number| key(number, Some(1_000 + round)));
            let text = OwnKeys::new(old.chain([key(0, None)]).collect()).unwrap().document(them, 50_000);
            learned = ring.learn(&KeyDocument::parse(&text, Some(them)).unwrap()).await.unwrap();
        }
        assert_eq!(learned.iter().count(), KEYS_PER_SERVER_MAX);
        assert!(learned.get("ed25519:11_0").is_some(), "what it says now is known");
        assert!(learned.get("ed25519:10_1").is_some() && learned.get("ed25519:0_1").is_none(), "the oldest go first");
        assert_eq!(
            *store::keys(&db, them).await.unwrap().get("ed25519:10_1").unwrap(),
            *learned.get("ed25519:10_1").unwrap()
        );
        let rows = async |sql| db.query_opt(&sql, params![]).await.unwrap().unwrap().int(0).unwrap();
        assert_eq!(rows(sql!("SELECT COUNT(*) FROM server_key")).await, KEYS_PER_SERVER_MAX as i64);
        let documents = rows(sql!("SELECT COUNT(*) FROM server_document")).await;
        assert_eq!(documents, store::DOCUMENTS_PER_SERVER_MAX as i64);
    })
    .await;
}

#[tokio::test]
async fn a_document_that_says_all_of_an_older_one_takes_its_place() {
    each_engine(&[SCHEMA], |db| async move {
        let (clock, them) = (Clock::manual(1_000), server_name!("them.example"));
        let ring = ring(&db, &clock, vec![]).await;
        for ms in 0..3 {
            clock.set_ms(1_000 + ms);
            let text = their_keys(9).document(them, 50_000 + ms);
            ring.learn(&KeyDocument::parse(&text, Some(them)).unwrap()).await.unwrap();
        }
        let stored = store::documents(&db, them).await.unwrap();
        assert_eq!(stored.iter().map(|stored| stored.valid_until_ms).collect::<Vec<_>>(), [50_002]);
    })
    .await;
}
