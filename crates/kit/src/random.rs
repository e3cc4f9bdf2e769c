//! Random bytes and the tokens made of them.

use std::sync::Arc;

use parking_lot::Mutex;
#[expect(clippy::disallowed_types, reason = "the one place that takes a seed from the machine")]
use rand::rngs::SysRng;
use rand::{Rng, SeedableRng, TryRng, rngs::ChaCha12Rng};

const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A source of random bytes fit for secrets. Cheap to clone; clones share one stream.
#[derive(Clone)]
pub struct Random(Arc<Mutex<ChaCha12Rng>>);

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}

impl Random {
    /// Seeded by the operating system.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing secret can be made then.
    pub fn system() -> Self {
        let mut seed = [0; 32];
        SysRng.try_fill_bytes(&mut seed).expect("the operating system gives random bytes");
        Self(Arc::new(Mutex::new(ChaCha12Rng::from_seed(seed))))
    }

    /// The same stream for the same seed, for tests and the simulator.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(ChaCha12Rng::seed_from_u64(seed))))
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Any `u64`.
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number below `bound`; 0 for a bound of 0. (The bias is below 2^-32 for bounds under 2^32.)
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.u64() % bound }
    }

    /// `length` letters and digits, each unbiased: about 5.95 bits a character.
    pub fn alphanumeric(&self, length: usize) -> String {
        let mut text = String::with_capacity(length);
        let mut bytes = [0; 64];
        while text.len() < length {
            self.fill(&mut bytes);
            for byte in bytes {
                if text.len() < length
                    && let Some(letter) = ALPHANUMERIC.get(usize::from(byte & 63))
                {
                    text.push(char::from(*letter));
                }
            }
        }
        text
    }
}
