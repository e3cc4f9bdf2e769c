//! Killed (SIGKILL) while the rest of a room's state is on its way: after the restart all of it comes.
//!
//! In the first room nothing is on its way, as the other server lets in but does not tell: there is surely something to go on
//! with. In the others it is killed at some moment, and may be through with it.
//!
//! `SAMTAL_CRASH_ROUNDS` says how many rooms are joined so, `SAMTAL_CRASH_SEED` when the server is killed.

use samtal_db::Db;
use samtal_room::Store;

use super::*;

/// State events of a room beyond the usual ones: enough for their arrival to take a while.
const STATE: usize = 200;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

impl Hub {
    /// How many rooms a tenant, which nobody serves now, has only a part of the state of.
    async fn unfinished(&self, tenant: &str) -> usize {
        let options = match &self.database {
            Some(url) => Options::Postgres { url: url.clone(), schema: schema_of(tenant), connections_max: 1 },
            None => Options::Sqlite {
                path: self.directory.path().join("data").join("tenants").join(tenant).join("samtal.db"),
            },
        };
        let db = Db::open(&options, &[samtal_room::SCHEMA]).await.unwrap();
        let count = Store::open(db.clone(), &Random::system()).await.unwrap().partial.unfinished().len();
        db.close().await;
        count
    }
}

impl Serving {
    async fn ok(&self, host: &str, method: Method, path: &str, token: &str, body: Value) -> Value {
        let (status, answer) = self.call(host, method, path, token, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// The ids of the room's state, all of it.
    async fn state(&self, host: &str, token: &str, room: &str) -> std::collections::BTreeSet<String> {
        // Who asks for the members waits for them.
        let path = |what: &str| format!("/_matrix/client/v3/rooms/{room}/{what}");
        self.ok(host, Method::GET, &path("members"), token, Value::Null).await;
        let state = self.ok(host, Method::GET, &path("state"), token, Value::Null).await;
        state.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_the_state_comes_after_kill_9_on_sqlite() {
    state_comes(Hub::new(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_the_state_comes_after_kill_9_on_postgres() {
    let Ok(url) = std::env::var("SAMTAL_TEST_POSTGRES") else { return };
    state_comes(Hub::new(Some(url))).await;
}

async fn state_comes(hub: Hub) {
    let random = Random::seeded(number("SAMTAL_CRASH_SEED", 20_261_123));
    let mut serving = hub.start().await;
    let [north, south] = &hub.names;
    let (alice, bob) = (serving.register(north, "alice").await, serving.register(south, "bob").await);
    let initial: Vec<Value> =
        (0..STATE).map(|n| json!({ "type": "x.state", "state_key": n.to_string(), "content": {} })).collect();
    let silence = [south.as_str(), "--kind", "room", "--direction", "inbound"];
    for round in 0..number("SAMTAL_CRASH_ROUNDS", 3) {
        let body = json!({ "preset": "public_chat", "initial_state": initial });
        let room = serving.ok(north, Method::POST, "/_matrix/client/v3/createRoom", &alice, body).await;
        let room = room["room_id"].as_str().unwrap().to_owned();
        if round == 0 {
            hub.federation(north, &[&["deny"], silence.as_slice()].concat()).await.unwrap();
        }
        let path = format!("/_matrix/client/v3/join/{room}?server_name={north}&via={north}");
        serving.ok(south, Method::POST, &path, &bob, json!({})).await;
        if round > 0 {
            tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        }
        serving.child.kill().await.unwrap();
        if round == 0 {
            assert_eq!(hub.unfinished(south).await, 1, "it is in the middle of it");
            hub.federation(north, &[&["remove"], silence.as_slice()].concat()).await.unwrap();
        }

        serving = hub.start().await;
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{round}");
        let body = json!({ "msgtype": "m.text", "body": "still here" });
        serving.ok(south, Method::PUT, &path, &bob, body).await;
        let there = serving.state(south, &bob, &room).await;
        assert!(there.len() > STATE, "{} of {STATE}", there.len());
        assert_eq!(there, serving.state(north, &alice, &room).await);
    }
    drop(serving);
    assert_eq!(hub.unfinished(south).await, 0);
    hub.remove().await;
}
