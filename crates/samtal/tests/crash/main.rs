//! The real server, killed (SIGKILL) while clients work, again and again: what it has acknowledged is there afterwards.
//!
//! `SAMTAL_CRASH_ROUNDS` says how many times it is killed, `SAMTAL_CRASH_SEED` when.

mod full_disk;
mod ledger;
#[expect(dead_code, reason = "shared with the test of commands")]
mod server;

use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use parking_lot::Mutex;
use samtal_kit::Random;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    ledger::Ledger,
    server::{Api, Database, Failure, Home, escape},
};

const USERS: usize = 4;
const ROOMS: usize = 2;

/// Those who work, and what they know.
struct Crowd {
    tokens: Vec<String>,
    ids: Vec<String>,
    rooms: Vec<String>,
    ledger: Mutex<Ledger>,
    /// How many answers have come.
    answers: watch::Sender<u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_survives_kill_9_on_sqlite() {
    crash(Home::new(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_survives_kill_9_on_postgres() {
    let Ok(url) = std::env::var("SAMTAL_TEST_POSTGRES") else { return };
    let database = Database::at(url);
    crash(Home::new(Some(&database))).await;
    database.remove().await;
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

async fn crash(home: Home) {
    let seed = number("SAMTAL_CRASH_SEED", 20_261_123);
    let random = Random::seeded(seed);
    let mut server = home.start().await;
    let crowd = Arc::new(Crowd::gather(&server.api()).await);
    for round in 0..number("SAMTAL_CRASH_ROUNDS", 3) {
        let target = *crowd.answers.borrow() + 20 + random.below(400);
        let api = server.api();
        let work = join_all((0..USERS).flat_map(|user| {
            let (crowd, api) = (Arc::clone(&crowd), api.clone());
            let start = format!("{round}.{user}");
            [
                tokio::spawn(Arc::clone(&crowd).send(api.clone(), user, start.clone())),
                tokio::spawn(Arc::clone(&crowd).write_account_data(api.clone(), user)),
                tokio::spawn(Arc::clone(&crowd).upload_keys(api.clone(), user, start)),
                tokio::spawn(crowd.claim_keys(api, user)),
            ]
        }));
        let mut answers = crowd.answers.subscribe();
        answers.wait_for(|answers| *answers >= target).await.unwrap();
        server.kill().await;
        for done in work.await {
            done.unwrap();
        }
        server = home.start().await;
        println!("seed {seed}, round {round}: killed after {target} answers");
        crowd.check(&server.api()).await;
    }
    crowd.claim_the_rest(&server.api()).await;
    server.kill().await;
}

impl Crowd {
    async fn gather(api: &Api) -> Self {
        let (mut tokens, mut ids) = (Vec::new(), Vec::new());
        for user in 0..USERS {
            let body = json!({
                "username": format!("user{user}"), "password": "a long enough pass phrase", "device_id": "DEVICE",
                "auth": { "type": "m.login.dummy" },
            });
            let answer = api.call(Method::POST, "/register", "", Some(body)).await.unwrap();
            tokens.push(text(&answer, "access_token"));
            ids.push(text(&answer, "user_id"));
        }
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            let body = json!({ "preset": "public_chat" });
            let room = text(&api.call(Method::POST, "/createRoom", &tokens[0], Some(body)).await.unwrap(), "room_id");
            for token in &tokens[1..] {
                let path = format!("/rooms/{}/join", escape(&room));
                api.call(Method::POST, &path, token, Some(json!({}))).await.unwrap();
            }
            rooms.push(room);
        }
        Self { tokens, ids, rooms, ledger: Mutex::default(), answers: watch::channel(0).0 }
    }

    fn answered(&self) {
        let mut ledger = self.ledger.lock();
        ledger.answers += 1;
        self.answers.send_replace(ledger.answers);
    }

    async fn send_one(&self, api: &Api, user: usize, room: &str, said: &str) -> Result<String, Failure> {
        let path = format!("/rooms/{}/send/m.room.message/{said}", escape(room));
        let body = json!({ "msgtype": "m.text", "body": said });
        Ok(text(&api.call(Method::PUT, &path, &self.tokens[user], Some(body)).await?, "event_id"))
    }

    async fn send(self: Arc<Self>, api: Api, user: usize, start: String) {
        for count in 0.. {
            let said = format!("m{start}.{count}");
            let room = self.rooms[count % ROOMS].clone();
            match self.send_one(&api, user, &room, &said).await {
                Ok(event_id) => self.ledger.lock().events.insert(said, (room, event_id)),
                Err(Failure::Silence) => {
                    self.ledger.lock().unanswered.push((user, room, said));
                    return;
                }
                Err(refused) => panic!("{refused:?}"),
            };
            self.answered();
        }
    }

    async fn write_account_data(self: Arc<Self>, api: Api, user: usize) {
        let mut count = self.ledger.lock().account_data.get(&user).map_or(0, |(_, tried)| *tried);
        let path = format!("/user/{}/account_data/org.example.crash", escape(&self.ids[user]));
        loop {
            count += 1;
            self.ledger.lock().account_data.entry(user).or_default().1 = count;
            match api.call(Method::PUT, &path, &self.tokens[user], Some(json!({ "count": count }))).await {
                Ok(_) => self.ledger.lock().account_data.entry(user).or_default().0 = count,
                Err(Failure::Silence) => return,
                Err(refused) => panic!("{refused:?}"),
            }
            self.answered();
        }
    }

    async fn upload_keys(self: Arc<Self>, api: Api, user: usize, start: String) {
        for count in 0.. {
            let key = format!("{user}:{start}.{count}");
            self.ledger.lock().tried.insert(key.clone());
            let name = format!("signed_curve25519:{start}.{count}");
            let body = json!({ "one_time_keys": { name: { "key": key, "signatures": {} } } });
            match api.call(Method::POST, "/keys/upload", &self.tokens[user], Some(body)).await {
                Ok(_) => self.ledger.lock().uploaded.insert(key),
                Err(Failure::Silence) => return,
                Err(refused) => panic!("{refused:?}"),
            };
            self.answered();
        }
    }

    /// Claims one key of a user.
    async fn claim_one(&self, api: &Api, user: usize, of: usize) -> Result<Option<String>, Failure> {
        let of = &self.ids[of];
        let body = json!({ "one_time_keys": { of: { "DEVICE": "signed_curve25519" } } });
        let answer = api.call(Method::POST, "/keys/claim", &self.tokens[user], Some(body)).await?;
        let keys = answer["one_time_keys"][of]["DEVICE"].as_object();
        Ok(keys.and_then(|keys| keys.values().next()).map(|key| text(key, "key")))
    }

    async fn claim_keys(self: Arc<Self>, api: Api, user: usize) {
        for count in 0.. {
            match self.claim_one(&api, user, count % USERS).await {
                Ok(Some(key)) => self.ledger.lock().claim(key),
                Ok(None) => {}
                Err(Failure::Silence) => {
                    self.ledger.lock().lost_claims += 1;
                    return;
                }
                Err(refused) => panic!("{refused:?}"),
            }
            self.answered();
        }
    }

    /// Whether all that was acknowledged is there; sends again what was not.
    async fn check(&self, api: &Api) {
        let unanswered = std::mem::take(&mut self.ledger.lock().unanswered);
        for (user, room, said) in unanswered {
            let event_id = self.send_one(api, user, &room, &said).await.unwrap();
            self.ledger.lock().events.insert(said, (room, event_id));
        }
        let events = self.ledger.lock().events.clone();
        for (said, (room, event_id)) in &events {
            let path = format!("/rooms/{}/event/{}", escape(room), escape(event_id));
            let event = api.call(Method::GET, &path, &self.tokens[0], None).await;
            let event = event.unwrap_or_else(|failure| panic!("the event that says {said}: {failure:?}"));
            assert_eq!(event["content"]["body"], **said);
        }
        let mut seen = Vec::new();
        for room in &self.rooms {
            seen.extend(self.history(api, room).await);
        }
        seen.sort();
        let mut expected: Vec<String> = events.into_keys().collect();
        expected.sort();
        assert_eq!(seen, expected, "the history holds each message once");
        let written = self.ledger.lock().account_data.clone();
        for (user, (acknowledged, tried)) in written {
            let path = format!("/user/{}/account_data/org.example.crash", escape(&self.ids[user]));
            let found = match api.call(Method::GET, &path, &self.tokens[user], None).await {
                Ok(found) => found["count"].as_u64().unwrap(),
                Err(_) => 0,
            };
            assert!((acknowledged..=tried).contains(&found), "{found}, acknowledged {acknowledged}, tried {tried}");
        }
    }

    /// What was said in a room, from its newest event to its oldest.
    async fn history(&self, api: &Api, room: &str) -> Vec<String> {
        let mut said = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("/rooms/{}/messages?dir=b&limit=500{from}", escape(room));
            let page = api.call(Method::GET, &path, &self.tokens[0], None).await.unwrap();
            let chunk = page["chunk"].as_array().unwrap();
            said.extend(chunk.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)));
            match page["end"].as_str() {
                Some(end) if !chunk.is_empty() => from = format!("&from={}", escape(end)),
                _ => return said,
            }
        }
    }

    /// No key was lost but those that an answer carried that never came, and none is given twice.
    async fn claim_the_rest(&self, api: &Api) {
        for of in 0..USERS {
            while let Some(key) = self.claim_one(api, 0, of).await.unwrap() {
                self.ledger.lock().claim(key);
            }
        }
        let ledger = self.ledger.lock();
        let lost = ledger.uploaded.difference(&ledger.claimed).count();
        assert!(lost <= ledger.lost_claims, "{lost} keys are lost, with {} lost answers", ledger.lost_claims);
        assert!(!ledger.uploaded.is_empty());
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}
