//! How an event's text is stored: LZ4 with a dictionary of what stands in every event, and the room's id behind it. Hashes,
//! signatures and ciphertext, on which LZ4 can do nothing, are taken out before and stored as the bytes that they are.
//! A message of a line of text takes half of its length.

use base64::{Engine as _, engine::GeneralPurpose, prelude::BASE64_STANDARD_NO_PAD, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::RoomId;

use crate::error::RoomError;

/// The first byte: how to read the rest. `PLAIN`: it is the text. `LZ4_1`: the length of the text (3 bytes), and LZ4 with the
/// first dictionary. `LZ4_2`: the length of the frame (3 bytes), the length of its LZ4 with the second dictionary (3 bytes),
/// that, and the bytes of the runs that were taken out of the frame.
const PLAIN: u8 = 0;
const LZ4_1: u8 = 1;
const LZ4_2: u8 = 2;

/// What stands in the frame where a run of Base64 was: bytes that JSON has none of. The two of any length have it, as two
/// bytes, before their bytes.
const RUNS: [Run; 6] = [
    Run { mark: 1, url_safe: true, bytes: Some(32) },
    Run { mark: 2, url_safe: false, bytes: Some(32) },
    Run { mark: 3, url_safe: true, bytes: Some(64) },
    Run { mark: 4, url_safe: false, bytes: Some(64) },
    Run { mark: 5, url_safe: true, bytes: None },
    Run { mark: 6, url_safe: false, bytes: None },
];
/// Shorter runs may be words.
const RUN_CHARS_MIN: usize = 40;

/// Most bytes that a text may have when unpacked: far more than an event may have.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Never to be changed: what is stored can be read only with it. A better one gets a first byte of its own.
const DICTIONARY_1: &str = concat!(
    r#"{"auth_events":["$"],"content":{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_ms":604800000,"#,
    r#""rotation_period_msgs":100},"state_key":"","type":"m.room.encryption"},"type":"m.room.topic"},"type":"m.room.name"},"#,
    r#""type":"m.room.avatar"},"content":{"guest_access":"can_join"},"content":{"history_visibility":"shared"},"#,
    r#""type":"m.room.history_visibility"},"content":{"join_rule":"invite"},"join_rule":"public"},"type":"m.room.join_rules"},"#,
    r#""content":{"ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,"m.room.encryption":100,"#,
    r#""m.room.history_visibility":100,"m.room.name":50,"m.room.power_levels":100,"m.room.server_acl":100,"#,
    r#""m.room.tombstone":150},"events_default":0,"historical":100,"invite":0,"kick":50,"redact":50,"state_default":50,"#,
    r#""users":{"@":100},"users_default":0},"type":"m.room.power_levels"},"content":{"redacts":"$","reason":""#,
    r#""type":"m.room.redaction"},"content":{"avatar_url":"mxc://","displayname":"","membership":"leave","membership":"#,
    r#""invite","membership":"join"},"origin":"","state_key":"@","type":"m.room.member"},"content":{"body":"image.png","#,
    r#""file":{"hashes":{"sha256":""},"iv":"","key":{"alg":"A256CTR","ext":true,"k":"","key_ops":["encrypt","decrypt"],"#,
    r#""kty":"oct"},"url":"mxc://","v":"v2"},"info":{"h":1080,"mimetype":"image/png","image/jpeg","size":1,"#,
    r#""thumbnail_info":{},"thumbnail_url":"mxc://","w":1920},"msgtype":"m.image","msgtype":"m.file","url":"mxc://","#,
    r#""content":{"m.relates_to":{"event_id":"$","key":"👍️","rel_type":"m.annotation"}},"type":"m.reaction"},"#,
    r#""m.new_content":{"body":"","m.mentions":{},"msgtype":"m.text"},"m.relates_to":{"event_id":"$","rel_type":"m.replace"},"#,
    r#""m.relates_to":{"event_id":"$","is_falling_back":true,"m.in_reply_to":{"event_id":"$"},"rel_type":"m.thread"},"#,
    r#""m.mentions":{"user_ids":["@"]},"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgAEpAB","device_id":""#,
    r#"","m.relates_to":{"sender_key":"","session_id":""},"type":"m.room.encrypted"},"content":{"body":"","#,
    r#""format":"org.matrix.custom.html","formatted_body":"<p></p>","m.mentions":{},"msgtype":"m.text"},"#,
    r#""{"auth_events":["$","$","$"],"content":{"body":"","msgtype":"m.text"},"depth":1,"hashes":{"sha256":""},"#,
    r#""origin_server_ts":17,"prev_events":["$"],"room_id":"!","sender":"@","signatures":{"":{"ed25519:":""}},"#,
    r#""type":"m.room.message"}"#,
);

/// As the first, with the marks of runs, and what is most common last. Never to be changed either.
const DICTIONARY_2: &str = concat!(
    r#"{"auth_events":["$"],"content":{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_ms":604800000,"#,
    r#""rotation_period_msgs":100},"state_key":"","type":"m.room.encryption"},"type":"m.room.topic"},"type":"m.room.name"},"#,
    r#""type":"m.room.avatar"},"content":{"guest_access":"can_join"},"content":{"history_visibility":"shared"},"#,
    r#""type":"m.room.history_visibility"},"content":{"join_rule":"invite"},"join_rule":"public"},"type":"m.room.join_rules"},"#,
    r#""content":{"ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,"m.room.encryption":100,"#,
    r#""m.room.history_visibility":100,"m.room.name":50,"m.room.power_levels":100,"m.room.server_acl":100,"#,
    r#""m.room.tombstone":150},"events_default":0,"historical":100,"invite":0,"kick":50,"redact":50,"state_default":50,"#,
    r#""users":{"@":100},"users_default":0},"type":"m.room.power_levels"},"content":{"redacts":"$","reason":""#,
    r#""type":"m.room.redaction"},"content":{"avatar_url":"mxc://","displayname":"","membership":"leave","membership":"#,
    r#""invite","membership":"join"},"origin":"","state_key":"@","type":"m.room.member"},"content":{"body":"image.png","#,
    r#""file":{"hashes":{"sha256":""#,
    "\u{2}",
    r#""},"iv":"","key":{"alg":"A256CTR","ext":true,"k":""#,
    "\u{1}",
    r#"","key_ops":["encrypt","decrypt"],"kty":"oct"},"url":"mxc://","v":"v2"},"info":{"h":1080,"#,
    r#""mimetype":"image/png","image/jpeg","size":1,"thumbnail_info":{},"thumbnail_url":"mxc://","w":1920},"#,
    r#""msgtype":"m.image","msgtype":"m.file","url":"mxc://","content":{"m.relates_to":{"event_id":"$"#,
    "\u{1}",
    r#"","key":"👍️","rel_type":"m.annotation"}},"type":"m.reaction"},"m.new_content":{"body":"","m.mentions":{},"#,
    r#""msgtype":"m.text"},"m.relates_to":{"event_id":"$"#,
    "\u{1}",
    r#"","is_falling_back":true,"m.in_reply_to":{"event_id":"$"#,
    "\u{1}",
    r#""},"rel_type":"m.thread"},"rel_type":"m.replace"},"m.mentions":{"user_ids":["@"]},"#,
    r#""format":"org.matrix.custom.html","formatted_body":"<p></p>","m.mentions":{},"msgtype":"m.text"},"#,
    r#"{"auth_events":["$"#,
    "\u{1}\",\"$\u{1}\",\"$\u{1}\",\"$\u{1}",
    r#""],"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":""#,
    "\u{6}",
    r#"","device_id":"","m.relates_to":{"sender_key":""#,
    "\u{2}",
    r#"","session_id":""#,
    "\u{2}",
    r#""},"type":"m.room.encrypted"},"content":{"body":"","m.mentions":{},"msgtype":"m.text"},"depth":1,"hashes":{"sha256":""#,
    "\u{2}",
    r#""},"origin_server_ts":17,"prev_events":["$"#,
    "\u{1}",
    r#""],"room_id":"!","sender":"@","signatures":{"":{"ed25519:":""#,
    "\u{4}",
    r#""}},"type":"m.room.message"}"#,
);

/// A kind of run.
struct Run {
    mark: u8,
    url_safe: bool,
    bytes: Option<usize>,
}

impl Run {
    fn engine(&self) -> &'static GeneralPurpose {
        if self.url_safe { &BASE64_URL_SAFE_NO_PAD } else { &BASE64_STANDARD_NO_PAD }
    }
}

fn dictionary(common: &str, room_id: &RoomId) -> Vec<u8> {
    [common.as_bytes(), br#""],"room_id":""#, room_id.as_bytes(), br#"","sender":"@"#].concat()
}

/// The stored form of a text.
pub(crate) fn pack(json: &str, room_id: &RoomId) -> Vec<u8> {
    let text = json.as_bytes();
    let plain = || [&[PLAIN], text].concat();
    if text.len() >= TEXT_BYTES_MAX || text.iter().any(|byte| RUNS.iter().any(|run| run.mark == *byte)) {
        return plain();
    }
    let (frame, runs) = take_out(text, room_id);
    let packed = lz4_flex::block::compress_with_dict(&frame, &dictionary(DICTIONARY_2, room_id));
    let stored = [&[LZ4_2][..], &three_bytes(frame.len()), &three_bytes(packed.len()), &*packed, &*runs].concat();
    if stored.len() > text.len() { plain() } else { stored }
}

/// A length below 2²⁴.
fn three_bytes(length: usize) -> [u8; 3] {
    let [low, middle, high, ..] = length.to_le_bytes();
    [low, middle, high]
}

/// The text with marks where runs of Base64 were, and the bytes of these. The room's id stays: the dictionary has it.
fn take_out(text: &[u8], room_id: &RoomId) -> (Vec<u8>, Vec<u8>) {
    let room = room_id.as_bytes().get(1..).unwrap_or_default();
    let in_run = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_');
    let (mut frame, mut runs) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len() / 2));
    let mut rest = text;
    while let Some(first) = rest.first() {
        let same = rest.iter().position(|byte| in_run(byte) != in_run(first)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(same);
        rest = after;
        match bytes_of(piece).filter(|_| piece != room) {
            Some((run, bytes)) => {
                frame.push(run.mark);
                if run.bytes.is_none() {
                    runs.extend(u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
                }
                runs.extend(bytes);
            }
            None => frame.extend(piece),
        }
    }
    (frame, runs)
}

/// What a run stands for, if it is one that can be made again from its bytes, and does not look like something that LZ4
/// makes shorter.
fn bytes_of(piece: &[u8]) -> Option<(&'static Run, Vec<u8>)> {
    let has = |kind: fn(&u8) -> bool| piece.iter().any(kind);
    if piece.len() < RUN_CHARS_MIN
        || !(has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase))
    {
        return None;
    }
    let standard = has(|byte| matches!(byte, b'+' | b'/'));
    // An engine takes only its own alphabet, and only what it would write itself.
    let engine = if standard { &BASE64_STANDARD_NO_PAD } else { &BASE64_URL_SAFE_NO_PAD };
    let bytes = engine.decode(piece).ok().filter(|bytes| u16::try_from(bytes.len()).is_ok())?;
    let fits = |run: &&Run| run.url_safe != standard && run.bytes.is_none_or(|length| length == bytes.len());
    Some((RUNS.iter().find(fits)?, bytes))
}

/// The text.
pub(crate) fn unpack(stored: &[u8], room_id: &RoomId) -> Result<String, RoomError> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| damaged("is not UTF-8"));
    match stored {
        [PLAIN, plain @ ..] => text(plain.to_vec()),
        [LZ4_1, low, middle, high, packed @ ..] => text(frame(DICTIONARY_1, [*low, *middle, *high], packed, room_id)?),
        [LZ4_2, low, middle, high, packed_low, packed_middle, packed_high, rest @ ..] => {
            let packed = rest.split_at_checked(length([*packed_low, *packed_middle, *packed_high]));
            let (packed, runs) = packed.ok_or_else(|| damaged("is cut off"))?;
            put_back(&frame(DICTIONARY_2, [*low, *middle, *high], packed, room_id)?, runs)
        }
        _ => Err(damaged("is in an unknown form")),
    }
}

fn damaged(what: &str) -> RoomError {
    RoomError::Damaged(format!("an event's text {what}"))
}

fn length([low, middle, high]: [u8; 3]) -> usize {
    usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16
}

fn frame(common: &str, unpacked: [u8; 3], packed: &[u8], room_id: &RoomId) -> Result<Vec<u8>, RoomError> {
    let unpacked = length(unpacked);
    if unpacked > TEXT_BYTES_MAX {
        return Err(damaged("is too long"));
    }
    lz4_flex::block::decompress_with_dict(packed, unpacked, &dictionary(common, room_id))
        .map_err(|_| damaged("does not unpack"))
}

fn put_back(frame: &[u8], mut runs: &[u8]) -> Result<String, RoomError> {
    let mut text = String::with_capacity(frame.len() + runs.len() * 4 / 3 + 8);
    // Runs of Base64 are what a piece ends with, so that each piece is a text.
    let is_mark = |byte: &u8| RUNS.iter().find(|run| run.mark == *byte);
    for piece in frame.split_inclusive(|byte| is_mark(byte).is_some()) {
        let run = piece.last().and_then(is_mark);
        let before = if run.is_some() { piece.split_last().map_or(piece, |(_, before)| before) } else { piece };
        text.push_str(std::str::from_utf8(before).map_err(|_| damaged("is not UTF-8"))?);
        let Some(run) = run else { continue };
        let count = match run.bytes {
            Some(count) => count,
            None => {
                let (count, rest) = runs.split_first_chunk().ok_or_else(|| damaged("has too few bytes"))?;
                runs = rest;
                usize::from(u16::from_le_bytes(*count))
            }
        };
        let (bytes, rest) = runs.split_at_checked(count).ok_or_else(|| damaged("has too few bytes"))?;
        runs = rest;
        run.engine().encode_string(bytes, &mut text);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = concat!(
        r#"{"auth_events":["$Zr7nt-qCCmN3oUeH8GGZjwvE1yCTsa7f6Gn-WbBmayY","$fDY83tCq60wab6M0rzsD2MGPYA9fA4HwFdsae0mxGxU"],"#,
        r#""content":{"body":"The minutes are in the shared folder; please read them before Thursday.","msgtype":"m.text"},"#,
        r#""depth":88,"hashes":{"sha256":"URTu+v73EIZdBTfrh/vF+5mVUTa+HjvgfM+r8rmNw4k"},"origin_server_ts":1795439356227,"#,
        r#""prev_events":["$YO9IWaD7a4Xa2p-NBD3LZmpvcj8kNsYEgGDjBRD1CPY"],"#,
        r#""room_id":"!9dDYtcCnIuj8bf0fmMIOPVTiN2Durhk5xvnlqXQO6SY","sender":"@someone:example.org","#,
        r#""signatures":{"example.org":{"ed25519:gl2HVB":"#,
        r#""Rvvu4AuJKxRl/bABFYOGhh0r4fwuLlQV098HZNVu0ROuSaU+ZIKImRlzk/+CATvkPgOBFoVKs1nIxDGDjsslDw"}},"type":"m.room.message"}"#,
    );

    fn room() -> &'static RoomId {
        "!9dDYtcCnIuj8bf0fmMIOPVTiN2Durhk5xvnlqXQO6SY".try_into().unwrap()
    }

    #[test]
    fn what_is_packed_unpacks_and_is_smaller() {
        let ciphertext = BASE64_STANDARD_NO_PAD.encode((0..=255).collect::<Vec<u8>>());
        let encrypted = MESSAGE.replace("The minutes", &ciphertext);
        let (url_safe, mixed) = (ciphertext.replace('+', "-").replace('/', "_"), ciphertext.replace('+', "-"));
        let near_misses = "a1B".repeat(14) + " " + &"a1B".repeat(15) + "= " + &"long".repeat(20) + &mixed;
        let marked = format!("{MESSAGE}\u{1}\u{6}");
        let huge = "aB1".repeat(50_000) + &"\"".repeat(TEXT_BYTES_MAX);
        let texts =
            [MESSAGE, "{}", "", "äöü", &MESSAGE.repeat(100), &encrypted, &url_safe, &near_misses, &marked, &huge];
        for text in texts {
            let packed = pack(text, room());
            assert_eq!(unpack(&packed, room()).unwrap(), text);
            assert!(packed.len() <= text.len() + 1);
        }
        let packed = pack(MESSAGE, room()).len();
        assert!(packed * 100 < MESSAGE.len() * 57, "{packed} of {}", MESSAGE.len());
        let more = pack(&encrypted, room()).len() - packed;
        assert!(more < 256 + 16, "{more} for 256 bytes of ciphertext");
    }

    #[test]
    fn what_the_first_form_stored_is_read() {
        let packed = lz4_flex::block::compress_with_dict(MESSAGE.as_bytes(), &dictionary(DICTIONARY_1, room()));
        let stored = [&[LZ4_1][..], &three_bytes(MESSAGE.len()), &*packed].concat();
        assert_eq!(unpack(&stored, room()).unwrap(), MESSAGE);
        assert_eq!(
            blake3::hash(DICTIONARY_1.as_bytes()).to_hex().get(..16),
            Some("89d6f7db55bf4c3b"),
            "never to be changed"
        );
        assert_eq!(
            blake3::hash(DICTIONARY_2.as_bytes()).to_hex().get(..16),
            Some("97e1717ee4d4e922"),
            "never to be changed"
        );
    }

    #[test]
    fn damage_is_told() {
        let packed = pack(MESSAGE, room());
        assert!(unpack(&[], room()).is_err());
        assert!(unpack(&[9, 1, 2], room()).is_err());
        assert!(unpack(&[LZ4_1, 1], room()).is_err());
        assert!(unpack(packed.get(..packed.len() / 2).unwrap(), room()).is_err());
        assert!(unpack(&[LZ4_1, 255, 255, 255, 0], room()).is_err());
        assert!(unpack(&[LZ4_2, 1, 0, 0, 255, 255, 255], room()).is_err());
        assert!(unpack(packed.get(..packed.len() - 1).unwrap(), room()).is_err(), "too few bytes for the runs");
    }
}
