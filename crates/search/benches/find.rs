//! How long finding takes: messages of 12 words from a vocabulary in which few words are common, over many rooms; people by the
//! beginning of a name. `SAMTAL_BENCH_MESSAGES` and `SAMTAL_BENCH_PEOPLE` say how many there are, `SAMTAL_BENCH_POSTGRES` where
//! else than in a SQLite file.
//!
//! To reach with 1,000,000 messages: 50 ms for 95 of 100 questions.

#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use samtal_account::{Accounts, Options as AccountOptions};
use samtal_db::{
    Batch, Db, Schema, Sql, params,
    testing::{Directory, open, sqlite},
};
use samtal_event::Draft;
use samtal_keyring::{OwnKey, OwnKeys};
use samtal_kit::{Clock, Random, Tasks};
use samtal_room::{LocalDraft, NewRoom, Options, Rooms};
use samtal_search::{Engines, Order, Search, Wish};

const NAME: &str = "bench.example";
const ROOMS: usize = 50;
const WORDS: u64 = 30_000;
const QUESTIONS: usize = 100;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(number("SAMTAL_BENCH_MESSAGES", 20_000), number("SAMTAL_BENCH_PEOPLE", 20_000)));
}

async fn run(messages: usize, people: usize) {
    let directory = Directory::new();
    let options = match std::env::var("SAMTAL_BENCH_POSTGRES") {
        Ok(url) => samtal_db::Options::Postgres { url, schema: "bench_search".into(), connections_max: 6 },
        Err(_) => sqlite(&directory),
    };
    let schemas: &[Schema] = &[samtal_account::SCHEMA, samtal_room::SCHEMA, samtal_search::SCHEMA];
    let db = open(&options, schemas).await;
    let name: OwnedServerName = NAME.try_into().unwrap();
    let (clock, random, tasks) = (Clock::system(), Random::seeded(1), Tasks::new());
    let keys = Arc::new(OwnKeys::new(vec![OwnKey::from_seed("ed25519:a", [1; 32], 0, None).unwrap()]).unwrap());
    let rooms = Options {
        name: name.clone(),
        signing_keys: Arc::new(move || Arc::clone(&keys)),
        clock: clock.clone(),
        random: random.clone(),
        tasks: tasks.clone(),
    };
    let rooms = Rooms::open(db.clone(), rooms).await.unwrap();
    let accounts = Accounts::new(name.clone(), db.clone(), clock.clone(), random.clone(), AccountOptions::default());
    let engines = Engines {
        name,
        db: db.clone(),
        rooms: rooms.clone(),
        accounts: Arc::new(accounts),
        clock,
        tasks: tasks.clone(),
    };
    let search = Arc::new(Search::new(engines, samtal_search::Options::default()));
    let following = Arc::clone(&search);
    tasks.spawn("search", async move { following.run().await });
    let words = Vocabulary(random);

    let alice: OwnedUserId = format!("@alice:{NAME}").try_into().unwrap();
    let mut ids = Vec::new();
    for _ in 0..ROOMS {
        ids.push(room(&rooms, &alice).await);
    }
    let start = Instant::now();
    for step in 0..messages / 50 {
        let room = &ids[step % ROOMS];
        let drafts = (0..50).map(|_| message(&alice, &words.text())).collect();
        rooms.send(room, drafts).await.unwrap();
    }
    let wrote = start.elapsed();
    search.people(&alice, "wait for the index", 1).await.unwrap();
    while db.cursor("search").await.unwrap() + 1_000 < db.position() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{messages} messages written in {wrote:.1?}, indexed in {:.1?}", start.elapsed());
    for (what, order, common, rooms) in [
        ("a common word, newest first", Order::Recent, true, None),
        ("a rare word, newest first", Order::Recent, false, None),
        ("a common word, best first", Order::Rank, true, None),
        ("a common word in one room", Order::Recent, true, Some(vec![ids[7].clone()])),
    ] {
        measure(what, async || {
            let term = words.word(common);
            let wish = Wish { term, order, rooms: rooms.clone(), limit: 10, ..Wish::default() };
            search.events(&alice, &wish).await.unwrap().count
        })
        .await;
    }
    fill_directory(&db, &words, people).await;
    for (what, chars) in [("people by two letters", 2), ("people by four letters", 4)] {
        measure(&format!("{what} of {people}"), async || {
            let term: String = words.word(false).chars().take(chars).collect();
            search.people(&alice, &term, 10).await.unwrap().people.len()
        })
        .await;
    }
    tasks.shut_down(Duration::from_secs(5)).await;
}

async fn measure(what: &str, question: impl AsyncFn() -> usize) {
    let mut times = Vec::new();
    let mut found = 0;
    for _ in 0..QUESTIONS {
        let start = Instant::now();
        found += question().await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (median, p95) = (times[QUESTIONS / 2], times[QUESTIONS * 95 / 100]);
    println!("{what}: median {median:.1?}, p95 {p95:.1?}, {} found on average", found / QUESTIONS);
}

struct Vocabulary(Random);

impl Vocabulary {
    /// Common words are few and short; among the others none is more frequent than another.
    fn word(&self, common: bool) -> String {
        let number = if common { self.0.below(20) } else { 20 + self.0.below(WORDS) };
        Random::seeded(number).alphanumeric(3 + usize::try_from(number % 8).unwrap()).to_lowercase()
    }

    fn text(&self) -> String {
        let words: Vec<String> = (0..12).map(|place| self.word(place % 4 == 0)).collect();
        words.join(" ")
    }
}

fn state(event_type: &str, key: &str, content: serde_json::Value) -> Draft {
    Draft::state_of(&event_type.into(), key, &content).unwrap()
}

async fn room(rooms: &Rooms, owner: &OwnedUserId) -> OwnedRoomId {
    let new = NewRoom {
        version: RoomVersionId::V12,
        creator: owner.clone(),
        create: state("m.room.create", "", serde_json::json!({ "room_version": "12" })),
        events: vec![
            state("m.room.member", owner.as_str(), serde_json::json!({ "membership": "join" })),
            state("m.room.power_levels", "", serde_json::json!({ "users": {} })),
            state("m.room.join_rules", "", serde_json::json!({ "join_rule": "invite" })),
        ],
        alias: None,
        published: false,
    };
    tokio::time::sleep(Duration::from_millis(2)).await;
    rooms.create(new).await.unwrap()
}

fn message(sender: &OwnedUserId, body: &str) -> LocalDraft {
    let content = serde_json::json!({ "msgtype": "m.text", "body": body });
    LocalDraft::new(sender.clone(), Draft::message_of("m.room.message", &content).unwrap())
}

const ENTRY: Sql = samtal_db::sql!(
    "INSERT INTO directory_entry (user_id, room, display_name, avatar_url, public) VALUES ($1, 0, $2, NULL, 1)"
);
const WORD: Sql = samtal_db::sql!("INSERT INTO directory_word (word, user_id, room) VALUES ($1, $2, 0)");

async fn fill_directory(db: &Db, words: &Vocabulary, people: usize) {
    for step in 0..people / 500 {
        let mut batch = Batch::new();
        for number in 0..500 {
            let id = format!("@p{}:{NAME}", step * 500 + number);
            let (first, last) = (words.word(false), words.word(false));
            batch.exec(&ENTRY, params![&id, format!("{first} {last}")]);
            batch.exec(&WORD, params![first, &id]);
            batch.exec(&WORD, params![format!("{last}x"), &id]);
        }
        db.commit(batch).await.unwrap();
    }
}
