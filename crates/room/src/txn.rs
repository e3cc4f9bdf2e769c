//! The names of clients' transactions.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::UserId;

use crate::graph::Room;

/// How a name begins; longer ones, of before, were written out: `user|device|room|what|transaction id`.
const HASHED: char = '~';
/// Hashed for who it was: what no one finds a second device for, as Base64 characters.
const WHO_CHARS: usize = 16;
/// Hashed for what was asked for: only who it was could choose it.
const WHAT_CHARS: usize = 12;

/// Names the transaction of a client's request, unique in a tenant. There is a name with each message, so it is short.
#[derive(Clone, Debug)]
pub struct Txn;

impl Txn {
    /// The name.
    ///
    /// `what` tells requests apart that may use the same transaction id: the event type, or the redacted event.
    pub fn name(user: &UserId, device_id: &str, room: &Room, what: &str, txn_id: &str) -> String {
        let mut name = String::with_capacity(1 + WHO_CHARS + WHAT_CHARS + txn_id.len());
        name.push(HASHED);
        name.push_str(&who(user, device_id));
        name.push_str(&hashed(&[&room.nid.0.to_le_bytes(), what.as_bytes()], WHAT_CHARS));
        name.push_str(txn_id);
        name
    }

    /// The transaction id in a name, if this device of this user made it.
    pub(crate) fn id_for<'n>(name: &'n str, user: &UserId, device_id: &str) -> Option<&'n str> {
        if let Some(rest) = name.strip_prefix(HASHED)
            && let Some((found, rest)) = rest.split_at_checked(WHO_CHARS)
            && !found.contains('|')
        {
            return (found == who(user, device_id)).then(|| rest.get(WHAT_CHARS..)).flatten();
        }
        let mut parts = name.splitn(5, '|').skip(1);
        (parts.next()? == device_id.replace('|', "\u{1}")).then(|| parts.nth(2)).flatten()
    }
}

fn who(user: &UserId, device_id: &str) -> String {
    hashed(&[user.as_bytes(), b"\0", device_id.as_bytes()], WHO_CHARS)
}

fn hashed(parts: &[&[u8]], chars: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let bytes = hasher.finalize();
    BASE64_URL_SAFE_NO_PAD.encode(bytes.as_bytes().get(..chars * 3 / 4).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn names_that_were_written_out_are_still_read() {
        let (user, old) = (user_id!("@alice:example.org"), "alice|DEV\u{1}ICE|33|send m.room.message|a|b");
        assert_eq!(Txn::id_for(old, user, "DEV|ICE"), Some("a|b"));
        assert_eq!(Txn::id_for(old, user, "OTHER"), None);
        assert_eq!(Txn::id_for("~|DEVICE|1|x|t", user, "DEVICE"), Some("t"));
        assert_eq!(Txn::id_for("", user, "DEVICE"), None);
    }
}
