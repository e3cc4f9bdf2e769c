//! How an event's text is stored: LZ4 with a dictionary of what stands in every event, and the room's id behind it. A
//! message of a line of text takes two thirds of its length.

use ruma::RoomId;

use crate::error::RoomError;

/// The first byte: how to read the rest.
const PLAIN: u8 = 0;
const LZ4_1: u8 = 1;

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

fn dictionary(room_id: &RoomId) -> Vec<u8> {
    [DICTIONARY_1.as_bytes(), br#""],"room_id":""#, room_id.as_bytes(), br#"","sender":"@"#].concat()
}

/// The stored form of a text.
pub(crate) fn pack(json: &str, room_id: &RoomId) -> Vec<u8> {
    let packed = lz4_flex::block::compress_with_dict(json.as_bytes(), &dictionary(room_id));
    let [low, middle, high, over] = u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes();
    if packed.len() + 4 >= json.len() || over > 0 {
        return [&[PLAIN], json.as_bytes()].concat();
    }
    [&[LZ4_1, low, middle, high], &*packed].concat()
}

/// The text.
pub(crate) fn unpack(stored: &[u8], room_id: &RoomId) -> Result<String, RoomError> {
    let damaged = |what: &str| RoomError::Damaged(format!("an event's text {what}"));
    let text = match stored {
        [PLAIN, text @ ..] => text.to_vec(),
        [LZ4_1, low, middle, high, packed @ ..] => {
            let length = usize::from(*low) | usize::from(*middle) << 8 | usize::from(*high) << 16;
            if length > TEXT_BYTES_MAX {
                return Err(damaged("is too long"));
            }
            lz4_flex::block::decompress_with_dict(packed, length, &dictionary(room_id))
                .map_err(|_| damaged("does not unpack"))?
        }
        _ => return Err(damaged("is in an unknown form")),
    };
    String::from_utf8(text).map_err(|_| damaged("is not UTF-8"))
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
        for text in [MESSAGE, "{}", "", "äöü", &MESSAGE.repeat(100)] {
            let packed = pack(text, room());
            assert_eq!(unpack(&packed, room()).unwrap(), text);
            assert!(packed.len() <= text.len() + 1);
        }
        let packed = pack(MESSAGE, room()).len();
        assert!(packed * 100 < MESSAGE.len() * 75, "{packed} of {}", MESSAGE.len());
    }

    #[test]
    fn damage_is_told() {
        let packed = pack(MESSAGE, room());
        assert!(unpack(&[], room()).is_err());
        assert!(unpack(&[9, 1, 2], room()).is_err());
        assert!(unpack(&[LZ4_1, 1], room()).is_err());
        assert!(unpack(packed.get(..packed.len() / 2).unwrap(), room()).is_err());
        assert!(unpack(&[LZ4_1, 255, 255, 255, 0], room()).is_err());
    }
}
