//! Bytes of a file on their way to the kernel.

use bytes::Bytes;

/// What a read found: one slice, or several that follow one another.
///
/// The protocol crate sends one slice as it is and would need several copied together, so one slice
/// is what a filesystem should give where it can.
#[derive(Clone, Debug)]
pub enum Data {
    /// Sent without a copy.
    One(Bytes),
    /// Copied together once.
    Many(Vec<Bytes>),
}

impl Data {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Data::One(bytes) => bytes.len(),
            Data::Many(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    /// Nothing was found: the end of the file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        match self {
            Data::One(bytes) => all.extend_from_slice(bytes),
            Data::Many(parts) => parts.iter().for_each(|part| all.extend_from_slice(part)),
        }
        all
    }
}

impl Default for Data {
    fn default() -> Data {
        Data::One(Bytes::new())
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data::One(bytes.into())
    }
}
