//! Records with the signature of the device in whose name they speak.
//!
//! The encoding is the canonical array `[record bytes, signature]`; the signature covers exactly those
//! bytes.

use std::ops::Deref;

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::error::FeedError;
use crate::base::PeerId;
use crate::base::wire;
use crate::crypto::sign::{self, Purpose, Signature, SigningKey};

/// What can be signed.
pub trait Record: Sized {
    /// What the signature is for.
    const PURPOSE: Purpose;
    /// Largest encoding of the record itself.
    const MAX_BYTES: usize;

    /// The device in whose name it speaks.
    fn signer(&self) -> PeerId;

    /// The canonical encoding.
    fn encode(&self) -> Vec<u8>;

    /// Reads a record: only the one encoding of something that can be.
    ///
    /// # Errors
    /// For anything else.
    fn decode(bytes: &[u8]) -> Result<Self, FeedError>;
}

/// What a signature and the array around it add at most.
const AROUND_BYTES: usize = 80;

/// A record whose signature was checked, or made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    record: T,
    body: Bytes,
    signature: Signature,
}

impl<T: Record> Signed<T> {
    /// Largest encoding.
    pub const MAX_BYTES: usize = T::MAX_BYTES + AROUND_BYTES;

    /// Signs a record.
    ///
    /// # Errors
    /// [`FeedError::Misuse`] if it speaks in another's name.
    pub fn sign(record: T, device: &SigningKey) -> Result<Signed<T>, FeedError> {
        if record.signer() != device.peer() {
            return Err(FeedError::Misuse("a record in the name of another device"));
        }
        let body = record.encode();
        Ok(Signed {
            record,
            signature: device.sign(T::PURPOSE, &body),
            body: body.into(),
        })
    }

    /// Reads a record and checks its signature.
    ///
    /// # Errors
    /// [`FeedError::Forged`], and whatever is wrong with the record.
    pub fn from_parts(body: Bytes, signature: Signature) -> Result<Signed<T>, FeedError> {
        let record = T::decode(&body)?;
        sign::verify(record.signer(), T::PURPOSE, &body, &signature)
            .map_err(|_| FeedError::Forged(record.signer()))?;
        Ok(Signed {
            record,
            body,
            signature,
        })
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(&(ByteBuf::from(self.body.to_vec()), self.signature))
    }

    /// Reads what [`encode`](Signed::encode) wrote, and checks everything.
    ///
    /// # Errors
    /// As [`from_parts`](Signed::from_parts).
    pub fn decode(bytes: &[u8]) -> Result<Signed<T>, FeedError> {
        let (body, signature): (ByteBuf, Signature) =
            wire::decode_canonical(bytes, Self::MAX_BYTES)?;
        Signed::from_parts(body.into_vec().into(), signature)
    }

    /// The bytes that are signed.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The signature.
    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The record.
    pub const fn record(&self) -> &T {
        &self.record
    }
}

impl<T> Deref for Signed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.record
    }
}
