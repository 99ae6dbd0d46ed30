//! Canonical DAG-CBOR, for everything that is stored, signed or sent.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not DAG-CBOR, or not of the expected shape.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A valid value in an encoding that is not the canonical one.
    #[error("not in canonical form")]
    NotCanonical,
    /// A version this program does not know.
    #[error("format version {found}; this program reads up to {known}: update it")]
    Version {
        /// The version found.
        found: u64,
        /// The newest version known.
        known: u64,
    },
    /// Larger than the limit for its kind.
    #[error("{size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes given or announced.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

/// Encodes a value. Structs become maps with sorted keys, tuples arrays, bytes byte strings.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    match serde_ipld_dagcbor::to_vec(value) {
        Ok(bytes) => bytes,
        // Our own types have no floats that are NaN, no non-string keys, and no failing serialiser.
        Err(error) => panic!("encoding to memory failed: {error}"),
    }
}

/// Decodes a value of at most `limit_bytes`; unknown map keys are ignored.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit_bytes: usize) -> Result<T, WireError> {
    if bytes.len() > limit_bytes {
        return Err(WireError::TooLarge {
            size: bytes.len() as u64,
            limit: limit_bytes as u64,
        });
    }
    serde_ipld_dagcbor::from_slice(bytes).map_err(|error| WireError::Malformed(error.to_string()))
}

/// Decodes a value whose bytes are hashed or signed: only its one canonical form is accepted.
pub fn decode_canonical<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    limit_bytes: usize,
) -> Result<T, WireError> {
    let value: T = decode(bytes, limit_bytes)?;
    if encode(&value) == bytes {
        Ok(value)
    } else {
        Err(WireError::NotCanonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_accepted() {
        let bytes = encode(&(1u8, "a"));
        assert_eq!(bytes, [0x82, 0x01, 0x61, b'a']);
        assert!(decode_canonical::<(u8, String)>(&bytes, 64).is_ok());
        // 1 written in two bytes.
        let long = [0x82, 0x18, 0x01, 0x61, b'a'];
        assert!(decode_canonical::<(u8, String)>(&long, 64).is_err());
        assert!(decode::<(u8, String)>(&bytes[..3], 64).is_err());
        assert!(matches!(
            decode::<(u8, String)>(&bytes, 3),
            Err(WireError::TooLarge { .. })
        ));
    }
}
