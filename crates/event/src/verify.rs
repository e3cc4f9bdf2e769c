//! Signatures and the content hash of a received event (SS API, "Validating hashes and signatures
//! on received events").

use std::collections::BTreeSet;

use base64::{Engine, alphabet, engine};
use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm, UserId,
    room_version_rules::RoomVersionRules,
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};

use crate::{
    hash::content_hash,
    json::{self, Numbers, Object, Value},
    parse::ParsedPdu,
    pdu::{Pdu, StoredPduError},
    redact::{redact, write_event},
};

/// Base64 as found on the wire: padded or not, stray bits tolerated.
const LENIENT: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The id of the key that a policy server signs with. A room's state says what the key is: nobody publishes it, and in the
/// ordinary check of signatures it counts for nothing.
pub const POLICY_SERVER_KEY: &str = "ed25519:policy_server";

/// An event whose required signatures are valid.
#[derive(Clone, Debug)]
pub enum Verified {
    /// Signatures and content hash are right.
    All(Pdu),
    /// The signatures are right, but the content was changed (or redacted) on the way: this is the
    /// redacted copy, which is what to go on with.
    ContentHashMismatch(Pdu),
}

impl Verified {
    /// The event to go on with.
    #[must_use]
    pub fn into_pdu(self) -> Pdu {
        match self {
            Self::All(pdu) | Self::ContentHashMismatch(pdu) => pdu,
        }
    }
}

/// Why an event is dropped.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A required server did not sign, or with no key we know.
    #[error("no signature of {0} with a key we know")]
    Unsigned(OwnedServerName),
    /// A signature of a required server is wrong.
    #[error("bad signature of {0}")]
    BadSignature(OwnedServerName),
    /// The event names an authorizing user that is no user ID.
    #[error("malformed {0}")]
    Field(&'static str),
    /// The text does not parse.
    #[error(transparent)]
    Stored(#[from] StoredPduError),
}

/// A server that has to have signed, and the key IDs it signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSignature {
    /// The server.
    pub server: OwnedServerName,
    /// The IDs (`ed25519:…`) of the keys it signed with; empty when it did not sign.
    pub key_ids: Vec<String>,
}

/// The servers which have to have signed this event, to fetch their keys.
///
/// The sender's server (not for invites made from third-party invites), the event ID's server in
/// room versions 1 and 2, and from 8 the server of the user who authorized a restricted join.
///
/// # Errors
/// When `join_authorised_via_users_server` is no user ID.
pub fn required_signatures(
    parsed: &ParsedPdu,
    rules: &RoomVersionRules,
) -> Result<Vec<RequiredSignature>, VerifyError> {
    let event = object_of(&parsed.pdu)?;
    let signatures = event.get("signatures").and_then(Value::as_object);
    let required = required_servers(&parsed.pdu, &event, rules)?;
    Ok(required
        .into_iter()
        .map(|server| {
            let own = signatures.and_then(|all| all.get(server.as_str())).and_then(Value::as_object);
            let keys = own.into_iter().flat_map(Object::iter).map(|(key, _)| key.to_owned());
            let keys = keys.filter(|key| key != POLICY_SERVER_KEY);
            RequiredSignature { key_ids: keys.collect(), server }
        })
        .collect())
}

fn object_of(pdu: &Pdu) -> Result<Object<'_>, StoredPduError> {
    Ok(json::parse_object(pdu.json(), Numbers::Lax)?)
}

fn required_servers(
    pdu: &Pdu,
    event: &Object<'_>,
    rules: &RoomVersionRules,
) -> Result<BTreeSet<OwnedServerName>, VerifyError> {
    let mut servers = BTreeSet::new();
    let content = event.get("content").and_then(Value::as_object);
    let member = content.filter(|_| pdu.type_str() == "m.room.member");
    let membership = member.and_then(|content| content.text("membership"));
    let third_party = membership == Some("invite")
        && member.is_some_and(|content| matches!(content.get("third_party_invite"), Some(Value::Object(_))));
    if !third_party {
        servers.insert(pdu.sender().server_name().to_owned());
    }
    if rules.signatures.check_event_id_server {
        let server = pdu.event_id().server_name().ok_or(VerifyError::Field("event_id"))?;
        servers.insert(server.to_owned());
    }
    if rules.signatures.check_join_authorised_via_users_server
        && membership == Some("join")
        && let Some(user) = member.and_then(|content| content.get("join_authorised_via_users_server"))
    {
        let user = user.as_str().and_then(|user| <&UserId>::try_from(user).ok());
        let user = user.ok_or(VerifyError::Field("join_authorised_via_users_server"))?;
        servers.insert(user.server_name().to_owned());
    }
    Ok(servers)
}

/// Check signatures and the content hash.
///
/// `keys` are the keys valid for this event (the caller decides validity by time). Keys of a server
/// that are not in the map are skipped; every signature of a required server with a key of the map
/// must be right, and there must be one.
///
/// # Errors
/// When a required signature is missing or wrong: the event is dropped.
pub fn verify(parsed: &ParsedPdu, keys: &PublicKeyMap, rules: &RoomVersionRules) -> Result<Verified, VerifyError> {
    let event = object_of(&parsed.pdu)?;
    let mut signed = String::new();
    write_event(&event, Some(&rules.redaction), &["signatures", "unsigned"], &mut signed);
    for server in required_servers(&parsed.pdu, &event, rules)? {
        check_server(&event, &server, keys, &signed, |key_id| key_id != POLICY_SERVER_KEY)?;
    }
    let hash = event.get("hashes").and_then(Value::as_object).and_then(|all| all.text("sha256"));
    let claimed = hash.and_then(|text| LENIENT.decode(text).ok());
    let actual = LENIENT.decode(content_hash(&event)).ok();
    if claimed.is_some() && claimed == actual {
        Ok(Verified::All(parsed.pdu.clone()))
    } else {
        Ok(Verified::ContentHashMismatch(redact(&parsed.pdu, rules)?))
    }
}

/// Whether this one server's signature stands on the event and is right: for policy servers, and
/// for answers that a resident server has to have signed.
#[must_use]
pub fn has_valid_signature(pdu: &Pdu, server: &ServerName, keys: &PublicKeyMap, rules: &RoomVersionRules) -> bool {
    let Ok(event) = object_of(pdu) else { return false };
    let mut signed = String::new();
    write_event(&event, Some(&rules.redaction), &["signatures", "unsigned"], &mut signed);
    check_server(&event, server, keys, &signed, |_| true).is_ok()
}

fn check_server(
    event: &Object<'_>,
    server: &ServerName,
    keys: &PublicKeyMap,
    signed: &str,
    counts: impl Fn(&str) -> bool,
) -> Result<(), VerifyError> {
    let unsigned = || VerifyError::Unsigned(server.to_owned());
    let bad = || VerifyError::BadSignature(server.to_owned());
    let known = keys.get(server.as_str()).ok_or_else(unsigned)?;
    let signatures = event.get("signatures").and_then(Value::as_object);
    let own = signatures.and_then(|all| all.get(server.as_str())).and_then(Value::as_object);
    let mut checked = false;
    for (key_id, signature) in own.into_iter().flat_map(Object::iter) {
        let Some(key) = known.get(key_id).filter(|_| key_id.starts_with("ed25519:") && counts(key_id)) else {
            continue;
        };
        let signature = signature.as_str().and_then(|text| LENIENT.decode(text).ok());
        verify_canonical_json_bytes(
            &SigningKeyAlgorithm::Ed25519,
            key.as_bytes(),
            &signature.ok_or_else(bad)?,
            signed.as_bytes(),
        )
        .map_err(|_| bad())?;
        checked = true;
    }
    if checked { Ok(()) } else { Err(unsigned()) }
}
