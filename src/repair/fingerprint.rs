//! Whether anything has changed that a judgement came from.

/// Takes in one thing after the other.
#[derive(Default)]
pub(super) struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn end(&self) -> u128 {
        let hash = self.0.finalize();
        let first = hash.as_bytes().first_chunk::<16>();
        first.map_or(0, |half| u128::from_le_bytes(*half))
    }
}
