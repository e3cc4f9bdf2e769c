//! What the server answers to requests that are wrong, for each family of endpoints. Each row: method, path, body, status,
//! `errcode`. In paths `{me}` is alice, `{room}` a room of hers, `{event}` a message in it, and `{theirs}` a private room of
//! bob's.

mod account;
mod encryption;
mod room;
mod texts;

use http::Method;
use serde_json::json;

use crate::harness::{Node, Person, each_engine};

const ME: &str = "@alice:samtal.test";

struct Case {
    method: Method,
    path: String,
    body: Vec<u8>,
    status: u16,
    errcode: &'static str,
}

fn case(method: Method, path: &str, body: impl AsRef<[u8]>, status: u16, errcode: &'static str) -> Case {
    Case { method, path: path.to_owned(), body: body.as_ref().to_vec(), status, errcode }
}

fn get(path: &str, status: u16, errcode: &'static str) -> Case {
    case(Method::GET, path, "", status, errcode)
}

fn post(path: &str, body: impl AsRef<[u8]>, status: u16, errcode: &'static str) -> Case {
    case(Method::POST, path, body, status, errcode)
}

fn put(path: &str, body: impl AsRef<[u8]>, status: u16, errcode: &'static str) -> Case {
    case(Method::PUT, path, body, status, errcode)
}

/// What the cases are tried on.
struct World {
    alice: Person,
    room: String,
    event: String,
    theirs: String,
}

impl World {
    async fn of(node: &Node) -> Self {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = crate::room::public(node, &alice, &[]).await;
        let event =
            crate::room::say(node, &alice, &room, "first", "hello").await.ok()["event_id"].as_str().unwrap().to_owned();
        let theirs = crate::room::create(node, &bob, json!({ "preset": "private_chat" })).await;
        Self { alice, room, event, theirs }
    }

    fn path(&self, path: &str) -> String {
        let named = [("{me}", ME), ("{room}", &self.room), ("{event}", &self.event), ("{theirs}", &self.theirs)];
        named.into_iter().fold(path.to_owned(), |path, (name, id)| path.replace(name, id))
    }

    /// Those of the cases that are answered otherwise, a line each.
    async fn wrong(&self, node: &Node, cases: Vec<Case>) -> String {
        let mut wrong = Vec::new();
        for Case { method, path, body, status, errcode } in cases {
            let path = self.path(&path);
            let answer = node.bytes(method.clone(), &path, Some(&self.alice.token), body.clone()).await;
            let got = (answer.status.as_u16(), answer.body["errcode"].as_str().unwrap_or_default().to_owned());
            if got != (status, errcode.to_owned()) || !answer.body["error"].is_string() {
                let body: String = String::from_utf8_lossy(&body).chars().take(80).collect();
                let path: String = path.chars().take(120).collect();
                wrong.push(format!("{method} {path} {body}: {got:?}, expected {status} {errcode}: {}", answer.body));
            }
        }
        wrong.join("\n")
    }
}

/// Each endpoint with each body that is wrong for all.
fn with_wrong_bodies(endpoints: &[(Method, &str)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (method, path) in endpoints {
        for (body, errcode) in wrong_bodies() {
            cases.push(case(method.clone(), path, body, 400, errcode));
        }
    }
    cases
}

/// Bodies that are wrong whatever the endpoint wants.
fn wrong_bodies() -> Vec<(Vec<u8>, &'static str)> {
    let mut deep = b"{\"a\":".repeat(200);
    deep.extend(b"1");
    deep.extend(b"}".repeat(200));
    vec![
        (b"{".to_vec(), "M_NOT_JSON"),
        (b"not json".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":1,}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":NaN}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":Infinity}".to_vec(), "M_NOT_JSON"),
        (b"{'a':1}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":1} x".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":\"\xff\xfe\"}".to_vec(), "M_NOT_JSON"),
        (b"{\"a\":\"raw \x00 nul\"}".to_vec(), "M_NOT_JSON"),
        (deep, "M_BAD_JSON"),
        (b"{\"a\":1e400}".to_vec(), "M_BAD_JSON"),
        (b"{\"a\":-1e400}".to_vec(), "M_BAD_JSON"),
        ([b"{\"a\":", &[b'7'; 5_000][..], b"}"].concat(), "M_BAD_JSON"),
        (b"{\"a\":\"\\ud800\"}".to_vec(), "M_BAD_JSON"),
        (b"[]".to_vec(), "M_BAD_JSON"),
        (b"\"text\"".to_vec(), "M_BAD_JSON"),
        (b"5".to_vec(), "M_BAD_JSON"),
        (b"null".to_vec(), "M_BAD_JSON"),
    ]
}

/// Conformance notes 67 and 68.
#[tokio::test]
async fn note_67_and_68_what_is_wrong_is_answered_with_the_specifications_error() {
    each_engine(async |node| {
        let world = World::of(&node).await;
        for cases in [account::cases(), room::cases(), encryption::cases()] {
            let wrong = world.wrong(&node, cases).await;
            assert!(wrong.is_empty(), "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_foreign_or_ended_token_opens_nothing() {
    each_engine(async |node| {
        let world = World::of(&node).await;
        node.post_as(&world.alice, "/v3/logout", json!({})).await.ok();
        let guarded = account::WITH_BODIES.iter().skip(3).chain(room::WITH_BODIES).chain(encryption::WITH_BODIES);
        let read = room::READ.iter().chain(encryption::READ).map(|path| (Method::GET, *path));
        for (method, path) in guarded.cloned().chain(read) {
            let path = world.path(path);
            for token in [&*world.alice.token, "sam_0123456789", "x", "å"] {
                let answer = node.bytes(method.clone(), &path, Some(token), "{}").await;
                assert_eq!(answer.status, 401, "{method} {path}");
            }
            node.bytes(method.clone(), &path, None, "{}").await.refused(401, "M_MISSING_TOKEN");
        }
    })
    .await;
}
