//! Cross-signing keys and signatures, signed for real.

use std::collections::BTreeMap;

use ruma::{
    OwnedUserId, UserId,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair},
};
use samtal_e2ee::{
    E2ee, E2eeError, JsonObject,
    cross_signing::{CrossSigningEffect, CrossSigningUpload},
    one_time_key::KeyUpload,
    signature::SignatureFailure,
};
use serde_json::{Value, json};

use crate::{each, object, user};

struct Key(Ed25519KeyPair);

impl Key {
    fn new() -> Self {
        let der = Ed25519KeyPair::generate();
        Self(Ed25519KeyPair::from_der(&der, "x".to_owned()).expect("a key"))
    }

    fn public(&self) -> String {
        let bytes: Base64 = Base64::new(self.0.public_key().to_vec());
        bytes.encode()
    }

    /// Signs as `user`, under the name `ed25519:name`.
    fn sign(&self, mut object: JsonObject, user: &UserId, name: &str) -> JsonObject {
        let mut bare = object.clone();
        bare.remove("signatures");
        bare.remove("unsigned");
        let text = Value::Object(bare).to_string();
        let canonical =
            samtal_event::json::parse_object(&text, samtal_event::json::Numbers::Strict).expect("canonical");
        let signature = self.0.sign(canonical.to_canonical().as_bytes()).base64();
        let signatures = object.entry("signatures").or_insert_with(|| json!({}));
        let by = signatures.as_object_mut().expect("object").entry(user.as_str()).or_insert_with(|| json!({}));
        by.as_object_mut().expect("object").insert(format!("ed25519:{name}"), signature.into());
        object
    }
}

struct Identity {
    user: OwnedUserId,
    master: Key,
    self_signing: Key,
    user_signing: Key,
    device: Key,
}

impl Identity {
    fn new(name: &str) -> Self {
        let [master, self_signing, user_signing, device] = [(); 4].map(|()| Key::new());
        Self { user: user(name), master, self_signing, user_signing, device }
    }

    fn key(&self, key: &Key, usage: &str) -> JsonObject {
        let public = key.public();
        object(json!({
            "user_id": self.user, "usage": [usage], "keys": { format!("ed25519:{public}"): public },
        }))
    }

    fn upload(&self) -> CrossSigningUpload {
        let by_master = |key| self.master.sign(key, &self.user, &self.master.public());
        CrossSigningUpload {
            master_key: Some(self.key(&self.master, "master")),
            self_signing_key: Some(by_master(self.key(&self.self_signing, "self_signing"))),
            user_signing_key: Some(by_master(self.key(&self.user_signing, "user_signing"))),
        }
    }

    fn device_keys(&self) -> JsonObject {
        let keys = object(json!({
            "user_id": self.user, "device_id": "PHONE", "algorithms": [],
            "keys": { "ed25519:PHONE": self.device.public() },
        }));
        self.device.sign(keys, &self.user, "PHONE")
    }

    async fn set_up(&self, e2ee: &E2ee) {
        let upload = KeyUpload { device_keys: Some(self.device_keys()), ..KeyUpload::default() };
        e2ee.keys_upload(&self.user, "PHONE".into(), &upload).await.expect("device keys");
        e2ee.cross_signing_upload(&self.user, &self.upload()).await.expect("cross-signing keys");
    }
}

async fn sign_one(
    e2ee: &E2ee,
    signer: &UserId,
    owner: &UserId,
    key: &str,
    signed: JsonObject,
) -> Option<SignatureFailure> {
    let upload = BTreeMap::from([(owner.to_owned(), BTreeMap::from([(key.to_owned(), Value::Object(signed))]))]);
    let mut failures = e2ee.signatures_upload(signer, &upload).await.expect("upload");
    failures.remove(owner)?.remove(key)
}

#[tokio::test]
async fn the_first_keys_and_the_same_keys_need_no_proof_but_others_do() {
    each(|e2ee| async move {
        let alice = Identity::new("alice");
        let effect =
            async |upload: &CrossSigningUpload| e2ee.cross_signing_effect(&alice.user, upload).await.expect("effect");
        assert_eq!(effect(&alice.upload()).await, CrossSigningEffect::First);
        e2ee.cross_signing_upload(&alice.user, &alice.upload()).await.expect("upload");
        assert_eq!(effect(&alice.upload()).await, CrossSigningEffect::Nothing);
        assert_eq!(effect(&Identity::new("alice").upload()).await, CrossSigningEffect::Replace);
    })
    .await;
}

#[tokio::test]
async fn keys_must_be_signed_by_the_master_key_and_named_right() {
    each(|e2ee| async move {
        let (alice, other) = (Identity::new("alice"), Identity::new("alice"));
        let without_master = CrossSigningUpload { master_key: None, ..alice.upload() };
        let refused = e2ee.cross_signing_upload(&alice.user, &without_master).await;
        assert!(matches!(refused, Err(E2eeError::Invalid(_))), "{refused:?}");
        let mixed = CrossSigningUpload { master_key: other.upload().master_key, ..alice.upload() };
        let refused = e2ee.cross_signing_upload(&alice.user, &mixed).await;
        assert!(matches!(refused, Err(E2eeError::Signature(_))), "{refused:?}");
        let bob = e2ee.cross_signing_upload(&user("bob"), &alice.upload()).await;
        assert!(matches!(bob, Err(E2eeError::Invalid(_))), "{bob:?}");
        let swapped =
            CrossSigningUpload { master_key: alice.upload().self_signing_key, ..CrossSigningUpload::default() };
        let refused = e2ee.cross_signing_upload(&alice.user, &swapped).await;
        assert!(matches!(refused, Err(E2eeError::Invalid(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn a_signed_device_shows_the_signature_to_everybody() {
    each(|e2ee| async move {
        let alice = Identity::new("alice");
        alice.set_up(&e2ee).await;
        let before = e2ee.device_list_position(&alice.user).await.expect("position");
        let name = alice.self_signing.public();
        let signed = alice.self_signing.sign(alice.device_keys(), &alice.user, &name);
        assert_eq!(sign_one(&e2ee, &alice.user, &alice.user, "PHONE", signed).await, None);
        assert!(e2ee.device_list_position(&alice.user).await.expect("position") > before);
        let query = BTreeMap::from([(alice.user.clone(), vec![])]);
        for viewer in [None, Some(&*user("bob"))] {
            let found = e2ee.keys_query(&query, viewer).await.expect("query");
            let signatures = &found.device_keys[&alice.user]["PHONE"]["signatures"][alice.user.as_str()];
            assert!(signatures.get("ed25519:PHONE").is_some() && signatures.get(format!("ed25519:{name}")).is_some());
            assert!(found.user_signing_keys.is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn a_signature_on_another_user_is_seen_by_the_signer_alone() {
    each(|e2ee| async move {
        let (alice, bob) = (Identity::new("alice"), Identity::new("bob"));
        alice.set_up(&e2ee).await;
        bob.set_up(&e2ee).await;
        let since = e2ee.device_list_position(&bob.user).await.expect("position");
        let key = alice.master.public();
        let signed = bob.user_signing.sign(alice.key(&alice.master, "master"), &bob.user, &bob.user_signing.public());
        assert_eq!(sign_one(&e2ee, &bob.user, &alice.user, &key, signed).await, None);
        let query = BTreeMap::from([(alice.user.clone(), vec![])]);
        let carol = user("carol");
        for (viewer, sees) in [(&bob.user, true), (&alice.user, false), (&carol, false)] {
            let found = e2ee.keys_query(&query, Some(viewer)).await.expect("query");
            let signatures = found.master_keys[&alice.user].get("signatures");
            assert_eq!(signatures.is_some_and(|by| by.get(bob.user.as_str()).is_some()), sees, "{viewer}");
            let changed = e2ee.users_changed(viewer, since, i64::MAX).await.expect("changed");
            assert_eq!(changed.contains(&alice.user), sees, "{viewer}");
        }
    })
    .await;
}

#[tokio::test]
async fn each_bad_signature_fails_by_itself() {
    each(|e2ee| async move {
        let (alice, bob) = (Identity::new("alice"), Identity::new("bob"));
        alice.set_up(&e2ee).await;
        bob.set_up(&e2ee).await;
        let name = alice.self_signing.public();
        let good = alice.self_signing.sign(alice.device_keys(), &alice.user, &name);
        let mut changed = good.clone();
        changed.insert("algorithms".to_owned(), json!(["other"]));
        let by_other = bob.self_signing.sign(alice.device_keys(), &alice.user, &name);
        let upload = BTreeMap::from([(
            alice.user.clone(),
            BTreeMap::from([("PHONE".to_owned(), Value::Object(good)), ("NONE".to_owned(), json!({}))]),
        )]);
        let failures = e2ee.signatures_upload(&alice.user, &upload).await.expect("upload");
        assert_eq!(failures[&alice.user], BTreeMap::from([("NONE".to_owned(), SignatureFailure::UnknownKey)]));
        let failure = sign_one(&e2ee, &alice.user, &alice.user, "PHONE", changed).await;
        assert_eq!(failure, Some(SignatureFailure::OtherObject));
        let failure = sign_one(&e2ee, &alice.user, &alice.user, "PHONE", by_other).await;
        assert_eq!(failure, Some(SignatureFailure::BadSignature));
        let unsigned = sign_one(&e2ee, &alice.user, &alice.user, "PHONE", alice.device_keys()).await;
        assert_eq!(unsigned, Some(SignatureFailure::BadSignature));
    })
    .await;
}

#[tokio::test]
async fn a_device_may_sign_its_users_master_key() {
    each(|e2ee| async move {
        let alice = Identity::new("alice");
        alice.set_up(&e2ee).await;
        let key = alice.master.public();
        let signed = alice.device.sign(alice.key(&alice.master, "master"), &alice.user, "PHONE");
        assert_eq!(sign_one(&e2ee, &alice.user, &alice.user, &key, signed).await, None);
        let query = BTreeMap::from([(alice.user.clone(), vec![])]);
        let found = e2ee.keys_query(&query, Some(&alice.user)).await.expect("query");
        assert!(found.master_keys[&alice.user]["signatures"][alice.user.as_str()].get("ed25519:PHONE").is_some());
        assert!(found.user_signing_keys.contains_key(&alice.user));
    })
    .await;
}
