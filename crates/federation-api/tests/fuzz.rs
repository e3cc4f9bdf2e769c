//! The fuzz targets (`fuzz/`) for a moment, with input that is made up anew each time: nonsense, and good input with a few
//! bytes changed, cut out or doubled.

#[path = "../../../fuzz/harness.rs"]
mod harness;

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use samtal_keyring::{OwnKey, OwnKeys};

/// Good input of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = format!("../../fuzz/seeds/{target}");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A key document, signed by its own keys: what has been changed in it is refused, so it is not worth much as a seed alone.
fn document() -> Vec<u8> {
    let old = OwnKey::from_seed("ed25519:old", [1; 32], 0, Some(500)).unwrap();
    let new = OwnKey::from_seed("ed25519:new", [2; 32], 500, None).unwrap();
    OwnKeys::new(vec![old, new]).unwrap().document("a.example".try_into().unwrap(), 10_000).into_bytes()
}

/// What happens to good input on its way: at a place (a fraction of its length), something.
#[derive(Clone, Debug)]
enum Damage {
    Byte(u8),
    Insert(Vec<u8>),
    Cut(usize),
    Double(usize),
}

fn damage() -> impl Strategy<Value = (u16, Damage)> {
    let token = prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            "\"",
            ",",
            ":",
            "\\u0000",
            "\\ud800",
            "1e400",
            "-0",
            "1.5",
            "9007199254740992",
            "null",
            "[[[[[[[[[[[[[[[[",
            "ed25519:",
            "@",
            "!",
            "$",
            "\u{0}",
            "\u{202e}",
            "é",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..8),
    ];
    let kind = prop_oneof![
        any::<u8>().prop_map(Damage::Byte),
        token.prop_map(Damage::Insert),
        (1_usize..40).prop_map(Damage::Cut),
        (1_usize..40).prop_map(Damage::Double),
    ];
    (any::<u16>(), kind)
}

fn damaged(mut bytes: Vec<u8>, damages: &[(u16, Damage)]) -> Vec<u8> {
    for (place, damage) in damages {
        let at = usize::from(*place) * bytes.len() / 65_536;
        match damage {
            Damage::Byte(byte) => {
                if let Some(there) = bytes.get_mut(at) {
                    *there = *byte;
                }
            }
            Damage::Insert(more) => {
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Cut(count) => {
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
            Damage::Double(count) => {
                let part = bytes[at..(at + count).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn try_out(target: &str, mut good: Vec<Vec<u8>>, harness: fn(&[u8])) {
    good.extend(seeds(target));
    good.iter().for_each(|bytes| harness(bytes));
    let input = prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => "\\PC{0,200}".prop_map(String::into_bytes),
        8 => (prop::sample::select(good), prop::collection::vec(damage(), 1..5))
            .prop_map(|(bytes, damages)| damaged(bytes, &damages)),
    ];
    let config = ProptestConfig {
        cases: 1_000,
        failure_persistence: None::<Box<FileFailurePersistence>>.map(|never| never as _),
        ..ProptestConfig::default()
    };
    proptest!(config, |(bytes in input)| harness(&bytes));
}

#[test]
fn an_event_of_a_stranger_is_read_or_refused() {
    try_out("pdu", Vec::new(), harness::pdu);
}

#[test]
fn a_transaction_of_a_stranger_is_read_or_refused() {
    try_out("transaction", Vec::new(), harness::transaction);
}

#[test]
fn a_header_of_a_stranger_is_read_or_refused() {
    try_out("x_matrix", Vec::new(), harness::x_matrix);
}

#[test]
fn a_well_known_of_a_stranger_is_read_or_refused() {
    try_out("well_known", Vec::new(), harness::well_known);
}

#[test]
fn keys_of_a_stranger_are_read_or_refused() {
    try_out("keys", vec![document()], harness::keys);
}

#[test]
fn a_name_of_a_stranger_is_a_servers_or_is_refused() {
    try_out("server_name", Vec::new(), harness::server_name);
}
