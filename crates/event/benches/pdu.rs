//! The hot path of reading: an event from the store to a client; and of receiving: hashes and
//! signatures.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeMap, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ruma::{
    ServerName, event_id,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeyMap},
    user_id,
};
use samtal_event::{Draft, ParsedPdu, Pdu, Unsigned, build, sign_and_hash, verify, write_client};

const RULES: &RoomVersionRules = &RoomVersionRules::V11;

fn key() -> Ed25519KeyPair {
    let seed: Base64 = Base64::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    Ed25519KeyPair::from_der(&[head.as_slice(), seed.as_bytes()].concat(), "1".to_owned()).unwrap()
}

/// An encrypted message of usual size.
fn message() -> Pdu {
    let content = format!(
        r#"{{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"{}","device_id":"ABCDEFGHIJ","sender_key":"{}","session_id":"{}"}}"#,
        "A".repeat(500),
        "B".repeat(43),
        "C".repeat(43)
    );
    let draft = Draft::from_text("m.room.encrypted".into(), None, &content).unwrap();
    let room = "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap();
    let unsigned = build(&draft, user_id!("@u:domain"), room, &[], &[], 9, 1_700_000_000_000, RULES);
    let server = <&ServerName>::try_from("domain").unwrap();
    sign_and_hash(&unsigned, server, &key(), RULES).unwrap().into_pdu()
}

fn pdu(c: &mut Criterion) {
    let pdu = message();
    let text = pdu.json();
    let mut group = c.benchmark_group("pdu");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("from the store", |b| {
        b.iter(|| Pdu::from_stored(event_id!("$x").to_owned(), black_box(text), RULES).unwrap());
    });
    let mut out = String::new();
    group.bench_function("to a client", |b| {
        b.iter(|| {
            out.clear();
            write_client(black_box(&pdu), None, &Unsigned::default(), &mut out);
        });
    });
    group.bench_function("from the wire", |b| {
        b.iter(|| ParsedPdu::from_bytes(black_box(text.as_bytes()), RULES).unwrap());
    });
    let public = Base64::new(key().public_key().to_vec());
    let keys: PublicKeyMap =
        BTreeMap::from([("domain".to_owned(), BTreeMap::from([("ed25519:1".to_owned(), public)]))]);
    let parsed = ParsedPdu::from_bytes(text.as_bytes(), RULES).unwrap();
    group.bench_function("signature and hash", |b| {
        b.iter(|| verify(black_box(&parsed), &keys, RULES).unwrap());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = pdu
}
criterion_main!(benches);
