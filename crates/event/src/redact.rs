//! Redaction: which parts of an event survive, by room version (RV pages, "Redactions").

use ruma::room_version_rules::{RedactionRules, RoomVersionRules};

use crate::{
    json::{self, JsonError, Numbers, Object, Value, write_string},
    pdu::{Pdu, StoredPduError},
};

/// What survives of one key of `content`.
enum Keep {
    No,
    Whole,
    /// Only `signed` of an object; anything but an object goes.
    OnlySigned,
}

fn keep_of_event(key: &str, rules: &RedactionRules) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    }
}

fn keep_of_content(event_type: &str, key: &str, rules: &RedactionRules) -> Keep {
    let whole = match (event_type, key) {
        ("m.room.member", "membership") => true,
        ("m.room.member", "join_authorised_via_users_server") => {
            rules.keep_room_member_join_authorised_via_users_server
        }
        ("m.room.member", "third_party_invite") if rules.keep_room_member_third_party_invite_signed => {
            return Keep::OnlySigned;
        }
        ("m.room.create", "creator") => true,
        ("m.room.create", _) => rules.keep_room_create_content,
        ("m.room.join_rules", "join_rule") => true,
        ("m.room.join_rules", "allow") => rules.keep_room_join_rules_allow,
        (
            "m.room.power_levels",
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users" | "users_default",
        ) => true,
        ("m.room.power_levels", "invite") => rules.keep_room_power_levels_invite,
        ("m.room.history_visibility", "history_visibility") => true,
        ("m.room.redaction", "redacts") => rules.keep_room_redaction_redacts,
        ("m.room.aliases", "aliases") => rules.keep_room_aliases_aliases,
        _ => false,
    };
    if whole { Keep::Whole } else { Keep::No }
}

/// Append the canonical form of the event, redacted by `rules` if given, without the keys of `without`.
pub(crate) fn write_event(event: &Object<'_>, rules: Option<&RedactionRules>, without: &[&str], out: &mut String) {
    let event_type = event.text("type").unwrap_or_default();
    let mut first = true;
    out.push('{');
    for (key, value) in event.iter() {
        if without.contains(&key) || rules.is_some_and(|rules| !keep_of_event(key, rules)) {
            continue;
        }
        if !first {
            out.push(',');
        }
        first = false;
        write_string(key, out);
        out.push(':');
        match (rules, value) {
            (Some(rules), Value::Object(content)) if key == "content" => {
                write_content(event_type, content, rules, out);
            }
            _ => value.write(out),
        }
    }
    out.push('}');
}

fn write_content(event_type: &str, content: &Object<'_>, rules: &RedactionRules, out: &mut String) {
    let mut first = true;
    out.push('{');
    for (key, value) in content.iter() {
        let signed = match (keep_of_content(event_type, key, rules), value) {
            (Keep::Whole, _) => None,
            (Keep::OnlySigned, Value::Object(invite)) => Some(invite.get("signed")),
            _ => continue,
        };
        if !first {
            out.push(',');
        }
        first = false;
        write_string(key, out);
        out.push(':');
        match signed {
            None => value.write(out),
            Some(None) => out.push_str("{}"),
            Some(Some(signed)) => {
                out.push_str("{\"signed\":");
                signed.write(out);
                out.push('}');
            }
        }
    }
    out.push('}');
}

/// The event as it stands after redaction, in the form servers exchange. Its ID stays the same.
///
/// Who redacted it, and why, is not part of the PDU: give it to [`crate::Unsigned::redacted_because_json`]
/// when writing the event for a client.
///
/// # Errors
/// Only if the stored text is damaged.
pub fn redact(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Pdu, StoredPduError> {
    let event = json::parse_object(pdu.json(), Numbers::Lax)?;
    let mut text = String::with_capacity(pdu.json().len());
    write_event(&event, Some(&rules.redaction), &["unsigned"], &mut text);
    Ok(Pdu::from_stored(pdu.event_id().to_owned(), text, rules)?.with_rejected(pdu.is_rejected()))
}

/// The content of an event of this type after redaction, as canonical JSON.
///
/// # Errors
/// When `content` is not a JSON object.
pub fn prune_content(event_type: &str, content: &str, rules: &RoomVersionRules) -> Result<String, JsonError> {
    let content = json::parse_object(content, Numbers::Lax)?;
    let mut out = String::new();
    write_content(event_type, &content, &rules.redaction, &mut out);
    Ok(out)
}
