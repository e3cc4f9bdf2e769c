//! What is tried with foreign bytes, whoever makes them up: libFuzzer here, or a property test in `./test`.
//!
//! Each function panics where one of our parsers does, or where it does not hold what it promises: what it has read and
//! prints, it reads back as the same.

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use ruma::{RoomVersionId, ServerName, signatures::PublicKeyMap};
use samtal_event::{Origin, ParsedPdu, TransactionBody, peek, required_signatures, rules_of, verify};
use samtal_keyring::{KeyDocument, XMatrix};
use samtal_policy::{Acl, Pattern};
use samtal_remote::well_known::{WELL_KNOWN_BYTES_MAX, WellKnown};
use serde_json::json;

/// One room version of each form that events have.
const VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V1,
    RoomVersionId::V3,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// An event, in each room version.
pub(crate) fn pdu(bytes: &[u8]) {
    let _ = peek(bytes);
    for version in &VERSIONS {
        let Some(rules) = rules_of(version) else { continue };
        for origin in [Origin::Live, Origin::History] {
            let Ok(parsed) = ParsedPdu::from_bytes_of(bytes, rules, origin) else { continue };
            let event = parsed.unverified();
            assert!(event.json().len() <= 65_536, "the limit holds");
            let again = ParsedPdu::from_bytes_of(event.json().as_bytes(), rules, origin);
            let again = again.unwrap_or_else(|error| panic!("what is printed is read back: {error}: {}", event.json()));
            assert_eq!(again.event_id(), parsed.event_id());
            assert_eq!(again.unverified().json(), event.json(), "canonical JSON stays the same");
            // What is kept of it is asked for all the time and must be there.
            let _ = (event.sender(), event.room_id(), event.depth(), event.origin_server_ts_ms());
            let _ = (event.prev_events(), event.auth_events(), event.state_key(), event.type_str());
            let _ = required_signatures(&parsed, rules);
            assert!(verify(&parsed, &PublicKeyMap::new(), rules).is_err(), "nobody's key is known");
        }
    }
}

/// The body of a transaction, and the events in it.
pub(crate) fn transaction(bytes: &[u8]) {
    let Ok(body) = TransactionBody::parse(bytes) else { return };
    assert!(body.pdus.len() <= 50 && body.edus.len() <= 100);
    for event in &body.pdus {
        pdu(event.get().as_bytes());
    }
}

/// An `Authorization` header.
pub(crate) fn x_matrix(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(header) = XMatrix::parse(text) else { return };
    let printed = header.to_string();
    assert_eq!(XMatrix::parse(&printed), Ok(header.clone()), "{printed}");
    let verified = header.verify(&header.origin, &[0; 32], "PUT", "/path?query", text);
    assert!(!matches!(verified, Ok(true)), "no signature is by the key of zeros");
}

/// An answer to `/.well-known/matrix/server`: its first line is the cache headers, the rest the body.
pub(crate) fn well_known(bytes: &[u8]) {
    let (first, body) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&[][..], bytes),
    };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(first) {
        headers.insert(header::CACHE_CONTROL, value.clone());
        headers.insert(header::EXPIRES, value);
    }
    let answer = WellKnown::from_answer(StatusCode::OK, &headers, body, 1_700_000_000_000);
    assert!((60_000..=48 * 3_600_000).contains(&answer.lifetime_ms), "{}", answer.lifetime_ms);
    if let Some(server) = &answer.delegated {
        assert!(body.len() <= WELL_KNOWN_BYTES_MAX);
        connectable(server);
    }
}

/// A document of published keys.
pub(crate) fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(document) = KeyDocument::parse(text, None) else { return };
    assert_eq!(KeyDocument::parse(&document.text, Some(&document.server)).as_ref(), Ok(&document));
    let keys = document.keys_at(0);
    assert!(keys.iter().all(|(_, key)| key.valid_until_ms <= 7 * 24 * 3_600_000));
}

/// A server's name.
pub(crate) fn server_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(server) = <&ServerName>::try_from(text) else { return };
    connectable(server);
    assert!(Pattern::new(server.host()).matches(server), "a name without wildcards names itself");
    let acl = Acl::from_content(&json!({ "allow": ["*"], "deny": [server.host()] }));
    assert!(!acl.permits(server));
}

/// A name that is taken for a server's can be put into a URI, which then means that server and nothing else.
fn connectable(server: &ServerName) {
    let uri = Uri::builder().scheme("https").authority(server.as_str()).path_and_query("/").build();
    let Ok(uri) = uri else { return };
    assert_eq!(uri.host().map(|host| host.trim_matches(['[', ']'])), Some(server.host().trim_matches(['[', ']'])));
    assert_eq!(uri.port_u16(), server.port());
    assert_eq!(uri.path(), "/");
}
