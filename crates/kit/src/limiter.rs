//! Token buckets: how often somebody may do something.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use parking_lot::Mutex;

use crate::Clock;

/// Most buckets that are kept, about two megabytes; the fullest ones, which say nothing, go first.
const BUCKETS_MAX: usize = 50_000;

/// So many a second in the long run, so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How fast what was used comes back.
    pub per_second: f64,
    /// How many at once.
    pub burst: f64,
}

impl Rate {
    /// A rate.
    pub const fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst: burst as f64 }
    }
}

/// Buckets by what is done and who does it. Bounded: when it is full, buckets that have refilled are dropped.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    /// Names are foreign input of any length, so a bucket is found by the hash of its own. That two share one is unlikely and
    /// cannot be brought about from outside: the hash has a key that nobody knows.
    hasher: RandomState,
    buckets: Mutex<HashMap<u64, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at_ms: u64,
    rate: Rate,
}

impl Bucket {
    fn refill(&mut self, now_ms: u64) {
        // A clock that runs backwards refills nothing.
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        self.left = (self.left + elapsed_ms as f64 * self.rate.per_second / 1000.0).min(self.rate.burst);
        self.at_ms = now_ms;
    }
}

impl Limiter {
    /// No buckets yet: everybody's is full.
    pub fn new(clock: Clock) -> Self {
        Self { clock, hasher: RandomState::new(), buckets: Mutex::default() }
    }

    /// Takes one from the bucket of `who` for `what`. When it is empty: how many milliseconds until there is one again.
    pub fn take(&self, what: &'static str, who: &str, rate: Rate) -> Result<(), u64> {
        let now_ms = self.clock.now_ms();
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX {
            buckets.retain(|_, bucket| {
                bucket.refill(now_ms);
                bucket.left < bucket.rate.burst
            });
            if buckets.len() >= BUCKETS_MAX {
                buckets.clear();
            }
        }
        let name = self.hasher.hash_one((what, who));
        let bucket = buckets.entry(name).or_insert(Bucket { left: rate.burst, at_ms: now_ms, rate });
        bucket.rate = rate;
        bucket.refill(now_ms);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let wait_ms = (1.0 - bucket.left) / rate.per_second.max(0.000_1) * 1000.0;
        Err((wait_ms.ceil() as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_for_each_interval() {
        let clock = Clock::manual(1_000);
        let limiter = Limiter::new(clock.clone());
        let rate = Rate::new(2.0, 3);
        for _ in 0..3 {
            assert_eq!(limiter.take("login", "a", rate), Ok(()));
        }
        assert_eq!(limiter.take("login", "a", rate), Err(500));
        assert_eq!(limiter.take("login", "b", rate), Ok(()));
        clock.set_ms(1_500);
        assert_eq!(limiter.take("login", "a", rate), Ok(()));
        clock.set_ms(500);
        assert!(limiter.take("login", "a", rate).is_err());
    }
}
