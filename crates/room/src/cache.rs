//! Caches bounded by weight.

use std::{hash::Hash, num::NonZeroUsize};

use lru::LruCache;
use parking_lot::Mutex;

/// Keeps what was used last, up to a total weight in bytes.
pub(crate) struct Cache<K, V> {
    inner: Mutex<Inner<K, V>>,
    weight_max: usize,
}

struct Inner<K, V> {
    entries: LruCache<K, (V, usize)>,
    weight: usize,
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// A cache of at most `weight_max` bytes.
    pub(crate) fn new(weight_max: usize) -> Self {
        Self { inner: Mutex::new(Inner { entries: LruCache::unbounded(), weight: 0 }), weight_max }
    }

    /// The value, if it is still here.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.inner.lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value of about `weight` bytes.
    pub(crate) fn put(&self, key: K, value: V, weight: usize) {
        let mut inner = self.inner.lock();
        let weight = weight + 64;
        if let Some((_, old)) = inner.entries.put(key, (value, weight)) {
            inner.weight -= old;
        }
        inner.weight += weight;
        while inner.weight > self.weight_max {
            let Some((_, (_, weight))) = inner.entries.pop_lru() else { break };
            inner.weight -= weight;
        }
    }

    /// Drops a value.
    pub(crate) fn remove<Q>(&self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut inner = self.inner.lock();
        if let Some((_, weight)) = inner.entries.pop(key) {
            inner.weight -= weight;
        }
    }
}

/// A count as a cache capacity.
pub(crate) fn capacity(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}
