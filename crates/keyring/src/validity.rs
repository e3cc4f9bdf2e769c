//! Which key counts when: [Retrieving server keys, Matrix 1.19](https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys) and room version 5.

use std::collections::BTreeMap;

use crate::document::KEYS_PER_SERVER_MAX;

/// What a key takes in memory beside its id: itself, and its place in the map.
const KEY_BYTES: usize = 96;

/// One key of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The Ed25519 public key.
    pub public_key: [u8; 32],
    /// Until when it is trusted, in ms since the epoch; 0 for one that is no longer in use.
    pub valid_until_ms: u64,
    /// When its server stopped to use it.
    pub expired_ms: Option<u64>,
}

impl KnownKey {
    /// Whether it may have signed an event with this `origin_server_ts`. Before room version 5 (`enforce` false) any known key may.
    pub(crate) fn signs_event_at(&self, ts_ms: u64, enforce: bool) -> bool {
        !enforce || self.expired_ms.map_or(ts_ms <= self.valid_until_ms, |expired_ms| ts_ms < expired_ms)
    }

    /// Whether it may sign a request that arrives now.
    pub(crate) fn signs_request_at(&self, now_ms: u64) -> bool {
        self.expired_ms.is_none() && now_ms <= self.valid_until_ms
    }
}

/// All we know of one server's keys, by key id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeys(BTreeMap<String, KnownKey>);

impl KnownKeys {
    /// The key with this id.
    pub fn get(&self, id: &str) -> Option<&KnownKey> {
        self.0.get(id)
    }

    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KnownKey)> {
        self.0.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// Adds or replaces a key.
    pub fn insert(&mut self, id: &str, key: KnownKey) {
        self.0.insert(id.to_owned(), key);
    }

    /// Takes over what `newer` says; keys it no longer names stay, for the events they signed, as far as [`KEYS_PER_SERVER_MAX`]
    /// allows. The ids of those that had to go, longest out of use first.
    pub(crate) fn absorb(&mut self, newer: Self) -> Vec<String> {
        let too_many = self.0.keys().filter(|id| !newer.0.contains_key(*id)).count() + newer.0.len();
        let mut old: Vec<(u64, String)> = self
            .iter()
            .filter(|(id, _)| !newer.0.contains_key(*id))
            .map(|(id, key)| (key.expired_ms.unwrap_or(key.valid_until_ms), id.to_owned()))
            .collect();
        old.sort();
        old.truncate(too_many.saturating_sub(KEYS_PER_SERVER_MAX));
        let gone: Vec<String> = old.into_iter().map(|(_, id)| id).collect();
        self.0.retain(|id, _| !gone.contains(id));
        self.0.extend(newer.0);
        gone
    }

    /// About how many bytes this takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.0.keys().map(|id| id.len() + KEY_BYTES).sum()
    }

    pub(crate) fn cap_validity(&mut self, until_ms: u64) {
        for key in self.0.values_mut() {
            key.valid_until_ms = key.valid_until_ms.min(until_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_31_current_keys_count_until_they_end_and_old_ones_before_they_ended() {
        let current = KnownKey { public_key: [0; 32], valid_until_ms: 100, expired_ms: None };
        assert!(current.signs_event_at(100, true) && !current.signs_event_at(101, true));
        assert!(current.signs_event_at(101, false), "room versions 1 to 4 do not look");
        assert!(current.signs_request_at(100) && !current.signs_request_at(101));

        let old = KnownKey { public_key: [0; 32], valid_until_ms: 0, expired_ms: Some(50) };
        assert!(old.signs_event_at(49, true) && !old.signs_event_at(50, true));
        assert!(!old.signs_request_at(1), "requests need a key in use");
    }
}
