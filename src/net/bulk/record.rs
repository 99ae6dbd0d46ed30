//! TLS 1.3 records after the handshake (RFC 8446, section 5), sealed and opened by ourselves with
//! the keys that rustls agreed on.
//!
//! Why not by rustls: it reads 4 KiB at a time, copies each byte three times on its way in and
//! once more on its way out, and one lock covers both directions. Here a record is opened
//! straight into the reader's memory, and the directions are independent. The bytes on the wire
//! are those of any TLS 1.3 stack; only key updates are not spoken: before a key has protected
//! as many records as it may, the connection ends and is made anew.

use std::io;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tokio_rustls::rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// Most content bytes of one record.
pub(super) const CONTENT_MAX_BYTES: usize = 16 << 10;
/// Bytes of a record's head.
pub(super) const HEAD_BYTES: usize = 5;
/// Bytes that protection adds: the content's type and the tag.
pub(super) const OVERHEAD_BYTES: usize = 1 + TAG_BYTES;
/// Largest record that may come: padding is allowed 255 bytes.
pub(super) const RECORD_MAX_BYTES: usize = HEAD_BYTES + CONTENT_MAX_BYTES + 256;

const TAG_BYTES: usize = 16;
const TYPE_ALERT: u8 = 21;
const TYPE_DATA: u8 = 23;
/// Records one key may protect, so that no forgery becomes likely (RFC 8446, section 5.5).
const RECORDS_MAX: u64 = 1 << 24;

/// The keys of one direction.
pub(super) struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

/// Both directions of a session whose handshake is over: what is sent, and what is received.
pub(super) fn keys_of(secrets: ExtractedSecrets) -> io::Result<(Keys, Keys)> {
    Ok((Keys::new(secrets.tx)?, Keys::new(secrets.rx)?))
}

/// What a record turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// So many bytes for the reader.
    Data(usize),
    /// The peer closed its direction in good order.
    Closed,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> io::Result<Keys> {
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
            return Err(invalid("another cipher than AES-256-GCM was agreed on"));
        };
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref());
        let iv = <[u8; NONCE_LEN]>::try_from(iv.as_ref());
        match (key, iv) {
            (Ok(key), Ok(iv)) => Ok(Keys {
                key: LessSafeKey::new(key),
                iv,
                sequence,
            }),
            _ => Err(invalid("keys of a wrong length")),
        }
    }

    fn next_nonce(&mut self) -> io::Result<Nonce> {
        if self.sequence >= RECORDS_MAX {
            return Err(invalid("the keys of this connection are used up"));
        }
        let mut nonce = self.iv;
        let tail = nonce.iter_mut().skip(NONCE_LEN - 8);
        for (byte, counter) in tail.zip(self.sequence.to_be_bytes()) {
            *byte ^= counter;
        }
        self.sequence += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Appends `content`, at most [`CONTENT_MAX_BYTES`] in `parts`, as one record to `out`.
    pub(super) fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.seal_as(TYPE_DATA, parts, out)
    }

    /// Appends the alert that closes this direction.
    pub(super) fn seal_close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        // warning, close_notify
        self.seal_as(TYPE_ALERT, std::iter::once(&[1u8, 0][..]), out)
    }

    fn seal_as<'a>(
        &mut self,
        content_type: u8,
        parts: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let nonce = self.next_nonce()?;
        let start = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        for part in parts {
            out.extend_from_slice(part);
        }
        out.push(content_type);
        let len = out.len() - start - HEAD_BYTES + TAG_BYTES;
        let head = head_of(len);
        let Some((head_place, inner)) = out
            .get_mut(start..)
            .and_then(|record| record.split_first_chunk_mut::<HEAD_BYTES>())
        else {
            return Err(invalid("a record without a head"));
        };
        *head_place = head;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(head), inner)
            .map_err(|_| invalid("a record could not be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a record into the front of `target`, which must have room for all of
    /// `sealed.len() - TAG_BYTES` bytes. `sealed` is what follows the head.
    pub(super) fn open_into(
        &mut self,
        head: [u8; HEAD_BYTES],
        sealed: &[u8],
        target: &mut [u8],
    ) -> io::Result<Content> {
        let nonce = self.next_nonce()?;
        let Some((inner, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else {
            return Err(invalid("a record too short"));
        };
        let Some(target) = target.get_mut(..inner.len()) else {
            return Err(invalid("a record too long"));
        };
        self.key
            .open_separate_gather(nonce, Aad::from(head), inner, tag, target)
            .map_err(|_| invalid("a record was tampered with"))?;
        content_of(target)
    }
}

/// Finds the type behind the content and its padding.
fn content_of(inner: &[u8]) -> io::Result<Content> {
    let end = inner.iter().rposition(|byte| *byte != 0);
    let (content, content_type) = match end.and_then(|at| inner.get(..=at)) {
        Some([content @ .., content_type]) => (content, *content_type),
        _ => return Err(invalid("a record without a type")),
    };
    match (content_type, content) {
        (TYPE_DATA, content) if content.len() <= CONTENT_MAX_BYTES => {
            Ok(Content::Data(content.len()))
        }
        (TYPE_ALERT, [_, 0]) => Ok(Content::Closed),
        (TYPE_ALERT, _) => Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the peer raised a TLS alert",
        )),
        _ => Err(invalid("a record of a kind that is not spoken here")),
    }
}

/// The head of a protected record with so many bytes behind it.
fn head_of(len: usize) -> [u8; HEAD_BYTES] {
    let [high, low] = (len as u16).to_be_bytes();
    [TYPE_DATA, 3, 3, high, low]
}

/// Bytes that follow a head.
pub(super) fn length_of(head: [u8; HEAD_BYTES]) -> io::Result<usize> {
    let [TYPE_DATA, 3, 3, high, low] = head else {
        return Err(invalid("not a protected record"));
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if (OVERHEAD_BYTES..=RECORD_MAX_BYTES - HEAD_BYTES).contains(&len) {
        Ok(len)
    } else {
        Err(invalid("a record of a length that is not allowed"))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap();
        Keys {
            key: LessSafeKey::new(key),
            iv: [9; NONCE_LEN],
            sequence: 0,
        }
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        keys().seal(std::iter::once(content), &mut record).unwrap();
        record
    }

    fn open(keys: &mut Keys, record: &[u8]) -> io::Result<Vec<u8>> {
        let (head, sealed) = record.split_first_chunk().unwrap();
        assert_eq!(length_of(*head)?, sealed.len());
        let mut target = vec![0; sealed.len() - TAG_BYTES];
        match keys.open_into(*head, sealed, &mut target)? {
            Content::Data(len) => {
                target.truncate(len);
                Ok(target)
            }
            Content::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    #[test]
    fn records_open_once_in_their_order() {
        let mut sealing = keys();
        let mut records = vec![Vec::new(), Vec::new()];
        for (record, content) in records.iter_mut().zip([b"one", b"two"]) {
            sealing.seal(content.chunks(2), record).unwrap();
        }
        let mut opening = keys();
        assert_eq!(open(&mut opening, &records[0]).unwrap(), b"one");
        assert!(open(&mut opening, &records[0]).is_err());
        let mut opening = keys();
        assert!(open(&mut opening, &records[1]).is_err());
        assert_eq!(open(&mut opening, &records[1]).unwrap(), b"two");
    }

    #[test]
    fn a_key_is_used_up_before_it_is_weak() {
        let mut worn = keys();
        worn.sequence = RECORDS_MAX - 1;
        let mut out = Vec::new();
        assert!(worn.seal(std::iter::once(&b"x"[..]), &mut out).is_ok());
        assert!(worn.seal(std::iter::once(&b"x"[..]), &mut out).is_err());
    }

    #[test]
    fn the_end_is_authenticated() {
        let mut record = Vec::new();
        keys().seal_close(&mut record).unwrap();
        let (head, sealed) = record.split_first_chunk().unwrap();
        let opened = keys().open_into(*head, sealed, &mut [0; 100]);
        assert_eq!(opened.unwrap(), Content::Closed);
    }

    proptest! {
        #![proptest_config(crate::net::testing::cases(64))]

        #[test]
        fn a_changed_record_never_opens(
            content in proptest::collection::vec(any::<u8>(), 0..3000),
            at: prop::sample::Index,
            flip in 1..=255u8,
        ) {
            let record = sealed(&content);
            prop_assert_eq!(open(&mut keys(), &record).unwrap(), content);
            let mut changed = record.clone();
            changed[at.index(record.len())] ^= flip;
            let (head, sealed) = changed.split_first_chunk().unwrap();
            let mut target = vec![0; changed.len()];
            prop_assert!(keys().open_into(*head, sealed, &mut target).is_err());
        }

        #[test]
        fn random_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 5..400)) {
            let (head, sealed) = bytes.split_first_chunk().unwrap();
            let _ = length_of(*head);
            prop_assert!(keys().open_into(*head, sealed, &mut [0; 400]).is_err());
        }
    }
}
