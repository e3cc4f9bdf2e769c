//! Content hash, reference hash, event ID (SS API, "Signing Events"; RV3, RV4).

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    OwnedEventId,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};
use sha2::{Digest, Sha256};

use crate::{json::Object, parse::FormatError, redact::write_event, rules::id_in_event};

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The content hash: over the whole event without `unsigned`, `signatures` and `hashes`; standard
/// base64 without padding.
#[must_use]
pub fn content_hash(event: &Object<'_>) -> String {
    let mut text = String::new();
    write_event(event, None, &["hashes", "signatures", "unsigned"], &mut text);
    STANDARD_NO_PAD.encode(sha256(&text))
}

/// The reference hash: over the redacted event without `signatures` and `unsigned`.
#[must_use]
pub fn reference_hash(event: &Object<'_>, rules: &RoomVersionRules) -> [u8; 32] {
    let mut text = String::new();
    write_event(event, Some(&rules.redaction), &["signatures", "unsigned"], &mut text);
    sha256(&text)
}

/// The reference hash as room versions 1 and 2 write it into edges.
pub(crate) fn edge_hash(hash: [u8; 32]) -> String {
    STANDARD_NO_PAD.encode(hash)
}

/// The event's ID: a field of it in room versions 1 and 2, its hash from 3.
///
/// # Errors
/// In room versions 1 and 2, when the field is missing or not an event ID.
pub fn event_id(event: &Object<'_>, rules: &RoomVersionRules) -> Result<OwnedEventId, FormatError> {
    if id_in_event(rules) {
        let id = event.text("event_id").ok_or(FormatError::Field("event_id"))?;
        return id.try_into().map_err(|_| FormatError::Field("event_id"));
    }
    let hash = reference_hash(event, rules);
    let encoded = if rules.event_id_format == EventIdFormatVersion::V2 {
        STANDARD_NO_PAD.encode(hash)
    } else {
        URL_SAFE_NO_PAD.encode(hash)
    };
    format!("${encoded}").try_into().map_err(|_| FormatError::Field("event_id"))
}
