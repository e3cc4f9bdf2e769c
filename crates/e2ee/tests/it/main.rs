//! The engine on both databases.

mod backup;
mod cross_signing;
mod keys;
mod remote;
mod to_device;

use std::future::Future;

use ruma::{OwnedUserId, UserId};
use samtal_db::testing::each_engine;
use samtal_e2ee::{E2ee, JsonObject, SCHEMA, one_time_key::KeyUpload};
use samtal_kit::Clock;
use serde_json::{Value, json};

/// Runs a test with an engine on each database.
async fn each<F, Fut>(test: F)
where
    F: Fn(E2ee) -> Fut,
    Fut: Future<Output = ()>,
{
    each_engine(&[SCHEMA], |db| test(E2ee::new(db, Clock::manual(1_700_000_000_000)))).await;
}

fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:here.example")).expect("a user id")
}

fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is not an object"),
    }
}

fn device_keys(user: &UserId, device: &str, secret: &str) -> JsonObject {
    object(json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{device}"): secret, format!("curve25519:{device}"): "curve" },
        "signatures": { user.as_str(): { format!("ed25519:{device}"): "self" } },
    }))
}

fn one_time_keys(names: impl IntoIterator<Item = String>) -> KeyUpload {
    let key = |name: String| (format!("signed_curve25519:{name}"), json!({ "key": format!("key of {name}") }));
    KeyUpload { one_time_keys: names.into_iter().map(key).collect(), ..KeyUpload::default() }
}

fn fallback_key(name: &str) -> KeyUpload {
    let key = json!({ "key": name, "fallback": true });
    KeyUpload { fallback_keys: vec![(format!("signed_curve25519:{name}"), key)], ..KeyUpload::default() }
}
