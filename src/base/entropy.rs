//! Randomness, injected: the operating system's in production, a seeded stream in simulation.

use std::sync::{Arc, Mutex};

/// A source of unpredictable bytes. Cheap to clone; clones share one stream.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<blake3::OutputReader>>);

impl Entropy {
    /// Seeded by the operating system.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn os() -> std::io::Result<Self> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
        Ok(Self::from_key(&seed))
    }

    /// The same stream for the same seed, on every machine.
    pub fn seeded(seed: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self::from_key(&key)
    }

    fn from_key(key: &[u8; 32]) -> Self {
        let reader = blake3::Hasher::new_keyed(key).finalize_xof();
        Entropy(Arc::new(Mutex::new(reader)))
    }

    /// An independent stream, derived from this one.
    pub fn fork(&self) -> Self {
        Self::from_key(&self.array())
    }

    /// Fills `buffer`.
    pub fn fill(&self, buffer: &mut [u8]) {
        let mut reader = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        reader.fill(buffer);
    }

    /// `N` random bytes.
    pub fn array<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0u8; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A uniformly random number.
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `bound` (0 for a bound of 0). The bias is below `bound / 2^64`.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    pub fn unit(&self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_stream() {
        let (a, b) = (Entropy::seeded(7), Entropy::seeded(7));
        assert_eq!(a.array::<64>(), b.array::<64>());
        assert_ne!(a.u64(), Entropy::seeded(8).u64());
        assert!((0..1000).all(|_| a.below(10) < 10));
    }
}
