//! Memory for what could be read again: however many caches there are, together they hold a bounded number of bytes.
//!
//! Age is counted in bytes that have been taken in since, by all caches of one [`Memory`] together: when it is full, what
//! has not been used for longest goes first, whosever it is. A cache that nobody asks gives all of its memory back to those
//! that are asked, and [`Memory::sweep`] lets go of what nobody has asked for in a while.

use std::{
    borrow::Borrow,
    fmt,
    hash::Hash,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use lru::LruCache;
use parking_lot::Mutex;

/// Bytes that the caches hold together where nothing else is said.
const BYTES_MAX: usize = 64 << 20;
/// What an entry costs beside its value: its place in the table and in the list.
const ENTRY_BYTES: usize = 96;

/// A bound on the bytes of all caches made with it. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Arc<Budget>);

struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
    age: AtomicU64,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
    /// Ages at the last two sweeps, the older one first. Also keeps two threads from making room at the same time.
    sweeps: Mutex<(u64, u64)>,
}

/// Something that holds memory it can do without.
pub trait Holder: Send + Sync {
    /// Lets go of what was last used before `age`; see [`Memory::age`].
    fn let_go(&self, age: u64);
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} of {} bytes)", self.used(), self.0.bytes_max)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(BYTES_MAX)
    }
}

impl Memory {
    /// At most `bytes_max`, as far as the caches know what they hold.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Budget {
            bytes_max,
            used: AtomicUsize::new(0),
            age: AtomicU64::new(1),
            holders: Mutex::default(),
            sweeps: Mutex::default(),
        }))
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// The present, as a mark to put on what is used now.
    pub fn age(&self) -> u64 {
        self.0.age.load(Relaxed)
    }

    /// Has somebody asked to let go when memory is short, and by [`Memory::sweep`].
    pub fn register(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.0.holders.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Lets go of what has not been used since the sweep before the last one. To be called now and then.
    pub fn sweep(&self) {
        let mut sweeps = self.0.sweeps.lock();
        let now = self.0.age.fetch_add(1, Relaxed) + 1;
        let (before, last) = *sweeps;
        *sweeps = (last, now);
        self.ask(before);
    }

    fn ask(&self, age: u64) {
        let holders: Vec<Arc<dyn Holder>> = self.0.holders.lock().iter().filter_map(Weak::upgrade).collect();
        for holder in holders {
            holder.let_go(age);
        }
    }

    fn taken(&self, bytes: usize) {
        self.0.age.fetch_add(bytes as u64, Relaxed);
        if self.0.used.fetch_add(bytes, Relaxed) + bytes > self.0.bytes_max
            && let Some(_alone) = self.0.sweeps.try_lock()
        {
            self.make_room();
        }
    }

    fn given_back(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Relaxed);
    }

    /// Some more than is needed, so that it is not needed at once again.
    fn make_room(&self) {
        let goal = self.0.bytes_max - self.0.bytes_max / 16;
        let mut span = self.0.bytes_max as u64;
        loop {
            self.ask(self.age().saturating_sub(span));
            if self.used() <= goal || span == 0 {
                return;
            }
            span = span / 4 * 3;
        }
    }
}

/// What was used last, within the bounds of its [`Memory`]. Values are given out as clones: let them be cheap to clone. Clones of
/// the cache are the same cache.
pub struct Cache<K: Hash + Eq, V>(Arc<Shelf<K, V>>);

struct Shelf<K: Hash + Eq, V> {
    memory: Memory,
    entries: Mutex<LruCache<K, Entry<V>>>,
}

struct Entry<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Hash + Eq, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
{
    /// An empty cache.
    pub fn new(memory: &Memory) -> Self {
        let shelf = Arc::new(Shelf { memory: memory.clone(), entries: Mutex::new(LruCache::unbounded()) });
        let holder: Arc<dyn Holder> = Arc::clone(&shelf) as Arc<dyn Holder>;
        memory.register(Arc::downgrade(&holder));
        Self(shelf)
    }

    /// The value, if it is still here.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut entries = self.0.entries.lock();
        let entry = entries.get_mut(key)?;
        entry.used = self.0.memory.age();
        Some(entry.value.clone())
    }

    /// Keeps a value of about `bytes` bytes, key included.
    pub fn put(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes + ENTRY_BYTES;
        let entry = Entry { value, bytes, used: self.0.memory.age() };
        let replaced = self.0.entries.lock().put(key, entry);
        if let Some(replaced) = &replaced {
            self.0.memory.given_back(replaced.bytes);
        }
        self.0.memory.taken(bytes);
    }

    /// The value, or the one that `make` makes with about how many bytes it has.
    pub fn get_or_put(&self, key: &K, make: impl FnOnce() -> (V, usize)) -> V
    where
        K: Clone,
    {
        let (value, bytes) = {
            let mut entries = self.0.entries.lock();
            if let Some(entry) = entries.get_mut(key) {
                entry.used = self.0.memory.age();
                return entry.value.clone();
            }
            let (value, bytes) = make();
            let bytes = bytes + ENTRY_BYTES;
            entries.put(key.clone(), Entry { value: value.clone(), bytes, used: self.0.memory.age() });
            (value, bytes)
        };
        self.0.memory.taken(bytes);
        value
    }

    /// Says how large a value has become that changes while it is here.
    pub fn resize<Q>(&self, key: &Q, bytes: usize)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let bytes = bytes + ENTRY_BYTES;
        let before = match self.0.entries.lock().peek_mut(key) {
            Some(entry) => std::mem::replace(&mut entry.bytes, bytes),
            None => return,
        };
        if bytes > before {
            self.0.memory.taken(bytes - before);
        } else {
            self.0.memory.given_back(before - bytes);
        }
    }

    /// Drops a value.
    pub fn remove<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let removed = self.0.entries.lock().pop(key);
        if let Some(removed) = &removed {
            self.0.memory.given_back(removed.bytes);
        }
    }

    /// Drops the values of which `stays` says no. It looks at all of them.
    pub fn retain(&self, mut stays: impl FnMut(&K, &V) -> bool)
    where
        K: Clone,
    {
        let mut gone = Vec::new();
        {
            let mut entries = self.0.entries.lock();
            let going: Vec<K> =
                entries.iter().filter(|(key, entry)| !stays(key, &entry.value)).map(|(key, _)| key.clone()).collect();
            gone.extend(going.iter().filter_map(|key| entries.pop(key)));
        }
        self.0.memory.given_back(gone.iter().map(|entry| entry.bytes).sum());
    }

    /// Drops all values.
    pub fn clear(&self) {
        self.0.let_go(u64::MAX);
    }

    /// How many values are here.
    pub fn len(&self) -> usize {
        self.0.entries.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq + Send, V: Send> Holder for Shelf<K, V> {
    fn let_go(&self, age: u64) {
        // Dropped only when the lock is free again: what a value does at its end is its own affair.
        let mut gone = Vec::new();
        {
            let mut entries = self.entries.lock();
            while entries.peek_lru().is_some_and(|(_, entry)| entry.used < age) {
                gone.extend(entries.pop_lru());
            }
            if entries.is_empty() {
                // A table keeps its size otherwise.
                *entries = LruCache::unbounded();
            }
        }
        self.memory.given_back(gone.iter().map(|(_, entry)| entry.bytes).sum());
    }
}

impl<K: Hash + Eq, V> Drop for Shelf<K, V> {
    fn drop(&mut self) {
        let held = self.entries.get_mut().iter().map(|(_, entry)| entry.bytes).sum();
        self.memory.given_back(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_caches_share_one_bound_and_the_longest_unused_goes_first() {
        let memory = Memory::new(100 * 1_096);
        let (one, other) = (Cache::new(&memory), Cache::new(&memory));
        for number in 0..90 {
            one.put(number, number, 1_000);
        }
        one.get(&0);
        for number in 0..50 {
            other.put(number, number, 1_000);
            assert!(memory.used() <= 100 * 1_096);
        }
        assert_eq!(other.len(), 50, "what was used last is kept");
        assert_eq!(one.get(&0), Some(0), "what is asked for is used");
        assert_eq!(one.get(&1), None);
        drop(one);
        drop(other);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_sweep_lets_go_of_what_two_sweeps_have_not_seen_used() {
        let memory = Memory::new(1 << 20);
        let cache = Cache::new(&memory);
        cache.put("used", 1, 10);
        cache.put("unused", 2, 10);
        memory.sweep();
        cache.get("used");
        memory.sweep();
        assert_eq!(cache.len(), 2);
        cache.get("used");
        memory.sweep();
        assert_eq!((cache.get("used"), cache.get("unused")), (Some(1), None));
    }

    #[test]
    fn a_value_that_grows_is_counted_as_it_is() {
        let memory = Memory::new(10_000);
        let cache = Cache::new(&memory);
        cache.put("a", 1, 100);
        cache.resize("a", 5_000);
        assert!(memory.used() > 5_000);
        cache.resize("a", 50);
        assert!(memory.used() < 500);
        assert_eq!(cache.get_or_put(&"a", || (2, 10)), 1);
        assert_eq!(cache.get_or_put(&"b", || (2, 10)), 2);
        cache.clear();
        assert_eq!((cache.len(), memory.used()), (0, 0));
    }
}
