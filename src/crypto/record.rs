//! Protection of TLS 1.3 records (RFC 8446, section 5.2) with keys that a handshake has agreed on.
//!
//! The handshake is none of its business. AES-256-GCM alone, as everywhere here.

use std::fmt;

use super::aead::{Cipher, CipherError, NONCE_BYTES, TAG_BYTES};

/// Bytes in front of each record.
pub const RECORD_HEAD_BYTES: usize = 5;
/// Most bytes of content that a record carries.
pub const RECORD_CONTENT_MAX_BYTES: usize = 1 << 14;
/// Most bytes behind a head: what is sealed may be padded.
pub const RECORD_BODY_MAX_BYTES: usize = RECORD_CONTENT_MAX_BYTES + 256;
/// Records that one key may protect; RFC 8446 (5.5) allows one and a half times as many.
pub const RECORDS_MAX: u64 = 1 << 24;

/// What a protected record says of itself outside, whatever is in it: application data of TLS 1.2.
const OUTER: [u8; 3] = [23, 3, 3];

/// What is in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// A warning, or the end.
    Alert,
    /// A message of the handshake, which may come behind it as well.
    Handshake,
    /// What it is all for.
    Data,
}

impl ContentType {
    const fn byte(self) -> u8 {
        match self {
            ContentType::Alert => 21,
            ContentType::Handshake => 22,
            ContentType::Data => 23,
        }
    }

    const fn of(byte: u8) -> Option<ContentType> {
        match byte {
            21 => Some(ContentType::Alert),
            22 => Some(ContentType::Handshake),
            23 => Some(ContentType::Data),
            _ => None,
        }
    }
}

/// Why a record could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The head is none of a protected record.
    #[error("not a protected record of TLS 1.3")]
    Head,
    /// More than a record may have.
    #[error("a record of {0} bytes, more than {RECORD_BODY_MAX_BYTES}")]
    TooLong(usize),
    /// Changed on the way, left out, sent twice, or of another key.
    #[error("a record that does not authenticate")]
    Authentication,
    /// What is in it is nothing that is known.
    #[error("a record of unknown content")]
    Content,
    /// The key has protected as much as it may.
    #[error("the key of the connection is used up")]
    UsedUp,
}

impl From<CipherError> for RecordError {
    fn from(_: CipherError) -> Self {
        RecordError::Authentication
    }
}

/// The bytes behind this head.
///
/// # Errors
/// `Head`, `TooLong`.
pub fn body_len(head: [u8; RECORD_HEAD_BYTES]) -> Result<usize, RecordError> {
    let [outer @ .., high, low] = head;
    if outer != OUTER {
        return Err(RecordError::Head);
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        len if len > RECORD_BODY_MAX_BYTES => Err(RecordError::TooLong(len)),
        len => Ok(len),
    }
}

/// The key of one direction, and how far it has come: each record has its number, and must be sealed and opened in turn.
pub struct RecordKey {
    cipher: Cipher,
    iv: [u8; NONCE_BYTES],
    next: u64,
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordKey")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl RecordKey {
    /// The key of a direction in which `next` records have been protected already.
    ///
    /// # Errors
    /// If the cipher takes no such key.
    pub fn new(key: &[u8; 32], iv: [u8; 12], next: u64) -> Result<RecordKey, RecordError> {
        let cipher = Cipher::new(key)?;
        Ok(RecordKey { cipher, iv, next })
    }

    /// Records that it has protected.
    pub const fn used(&self) -> u64 {
        self.next
    }

    fn nonce(&mut self) -> Result<[u8; NONCE_BYTES], RecordError> {
        if self.next >= RECORDS_MAX {
            return Err(RecordError::UsedUp);
        }
        let mut nonce = self.iv;
        let number = self.next.to_be_bytes();
        for (byte, of) in nonce.iter_mut().skip(NONCE_BYTES - 8).zip(number) {
            *byte ^= of;
        }
        self.next += 1;
        Ok(nonce)
    }

    /// Writes a record of `pieces`, one after the other, to the beginning of `target`: its length. One piece is read where
    /// it is, several are copied.
    ///
    /// # Errors
    /// `TooLong`, also if `target` has less room than [`record_len`]; `UsedUp`.
    pub fn seal(
        &mut self,
        content: ContentType,
        pieces: &[&[u8]],
        target: &mut [u8],
    ) -> Result<usize, RecordError> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let record = record_len(len);
        let target = target.get_mut(..record).ok_or(RecordError::TooLong(len))?;
        let (head, body) = target
            .split_first_chunk_mut::<RECORD_HEAD_BYTES>()
            .ok_or(RecordError::TooLong(len))?;
        if len > RECORD_CONTENT_MAX_BYTES {
            return Err(RecordError::TooLong(len));
        }
        let nonce = self.nonce()?;
        let [high, low] = (body.len() as u16).to_be_bytes();
        let [a, b, c] = OUTER;
        *head = [a, b, c, high, low];
        let kind = [content.byte()];
        match pieces {
            [one] => self.cipher.seal_to(nonce, head, &[one, &kind], body)?,
            _ => {
                let mut room = &mut *body;
                for piece in pieces.iter().copied().chain([&kind[..]]) {
                    let (now, later) = room
                        .split_at_mut_checked(piece.len())
                        .ok_or(RecordError::TooLong(len))?;
                    now.copy_from_slice(piece);
                    room = later;
                }
                self.cipher.seal(nonce, head, body)?;
            }
        }
        Ok(record)
    }

    /// Opens a record in place: what is in it is at the beginning of `body` then. Says what that is, and its length.
    ///
    /// # Errors
    /// All but `TooLong`. The connection is of no use any more.
    pub fn open(
        &mut self,
        head: [u8; RECORD_HEAD_BYTES],
        body: &mut [u8],
    ) -> Result<(ContentType, usize), RecordError> {
        let nonce = self.nonce()?;
        let (text, tag) = body
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(RecordError::Authentication)?;
        self.cipher.open(nonce, &head, text, *tag)?;
        content_of(text)
    }

    /// Opens a record to `target`, of which it takes [`opened_len`] bytes: what is in it, its length, which is less.
    ///
    /// # Errors
    /// All but `TooLong`. The connection is of no use any more.
    pub fn open_to(
        &mut self,
        head: [u8; RECORD_HEAD_BYTES],
        body: &[u8],
        target: &mut [u8],
    ) -> Result<(ContentType, usize), RecordError> {
        let nonce = self.nonce()?;
        let (text, tag) = body
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(RecordError::Authentication)?;
        let target = target
            .get_mut(..text.len())
            .ok_or(RecordError::Authentication)?;
        self.cipher.open_to(nonce, &head, text, *tag, target)?;
        content_of(target)
    }
}

/// Bytes of a record with so much content.
pub const fn record_len(content: usize) -> usize {
    RECORD_HEAD_BYTES + content + 1 + TAG_BYTES
}

/// Bytes that opening a record of this length, its head included, writes.
pub const fn opened_len(record: usize) -> usize {
    record.saturating_sub(RECORD_HEAD_BYTES + TAG_BYTES)
}

/// What an opened record is and how much of it is content: behind that comes its type, and then zeros without meaning.
fn content_of(text: &[u8]) -> Result<(ContentType, usize), RecordError> {
    let last = text.iter().rposition(|byte| *byte != 0);
    let last = last.ok_or(RecordError::Content)?;
    let content = text.get(last).copied().and_then(ContentType::of);
    Ok((content.ok_or(RecordError::Content)?, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(next: u64) -> [RecordKey; 2] {
        [7, 7].map(|byte| RecordKey::new(&[byte; 32], [9; 12], next).unwrap())
    }

    fn split(record: &mut [u8]) -> ([u8; RECORD_HEAD_BYTES], &mut [u8]) {
        let (head, body) = record.split_first_chunk_mut().unwrap();
        assert_eq!(body_len(*head), Ok(body.len()));
        (*head, body)
    }

    proptest! {
        /// What is sealed comes out in order; nothing else does.
        #[test]
        fn records_come_out_as_they_went_in(
            contents in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 1..5),
            flipped: proptest::sample::Index,
            bit in 0..8,
        ) {
            let [mut sealing, mut opening] = pair(3);
            for content in &contents {
                let mut record = vec![1; record_len(content.len()) + 3];
                let halves = content.split_at(content.len() / 3);
                let [mut same, _] = pair(sealing.used());
                let pieces = [halves.0, halves.1];
                let len = sealing.seal(ContentType::Data, &pieces, &mut record).unwrap();
                prop_assert_eq!((len, &record[len..]), (record_len(content.len()), &[1; 3][..]));
                record.truncate(len);
                let mut again = vec![2; len];
                same.seal(ContentType::Data, &[content], &mut again).unwrap();
                prop_assert_eq!(&again, &record);

                let mut damaged = record.to_vec();
                let at = flipped.index(damaged.len());
                damaged[at] ^= 1u8 << bit;
                let (head, body) = damaged.split_first_chunk_mut().unwrap();
                let mut other = pair(opening.used()).into_iter().next().unwrap();
                let mut other_too = pair(opening.used()).into_iter().next().unwrap();
                let mut room = [0; 400];
                prop_assert!(other_too.open_to(*head, body, &mut room).is_err());
                prop_assert!(other.open(*head, body).is_err());

                let [mut beside, _] = pair(opening.used());
                let (head, body) = split(&mut record);
                let again = body.to_vec();
                let small = &mut room[..opened_len(len) - 1];
                prop_assert!(pair(opening.used())[0].open_to(head, body, small).is_err());
                let (kind, len) = beside.open_to(head, body, &mut room).unwrap();
                prop_assert_eq!((kind, &room[..len]), (ContentType::Data, &content[..]));
                let (kind, len) = opening.open(head, body).unwrap();
                prop_assert_eq!(kind, ContentType::Data);
                prop_assert_eq!(&body[..len], &content[..]);
                // Nothing is taken twice.
                let mut replayed = pair(opening.used()).into_iter().next().unwrap();
                prop_assert!(replayed.open(head, &mut again.clone()).is_err());
            }
        }
    }

    #[test]
    fn padding_is_taken_off_and_nonsense_refused() {
        let seal = |text: &[u8]| {
            let [mut key, _] = pair(0);
            let nonce = key.nonce().unwrap();
            let mut body = text.to_vec();
            body.extend_from_slice(&[0; TAG_BYTES]);
            let head = [23, 3, 3, 0, body.len() as u8];
            key.cipher.seal(nonce, &head, &mut body).unwrap();
            let [_, mut opening] = pair(0);
            opening.open(head, &mut body)
        };
        assert_eq!(seal(&[5, 6, 23, 0, 0, 0]), Ok((ContentType::Data, 2)));
        assert_eq!(seal(&[1, 0, 21]), Ok((ContentType::Alert, 2)));
        assert_eq!(seal(&[0, 22]), Ok((ContentType::Handshake, 1)));
        assert_eq!(seal(&[23]), Ok((ContentType::Data, 0)));
        assert_eq!(seal(&[0, 0]), Err(RecordError::Content));
        assert_eq!(seal(&[]), Err(RecordError::Content));
        assert_eq!(seal(&[1, 24]), Err(RecordError::Content));
        let [mut key, _] = pair(0);
        let short = key.open([23, 3, 3, 0, 4], &mut [0; 4]);
        assert_eq!(short, Err(RecordError::Authentication));
        assert_eq!(body_len([22, 3, 3, 0, 4]), Err(RecordError::Head));
        assert_eq!(body_len([23, 3, 3, 65, 0]), Ok(RECORD_BODY_MAX_BYTES));
        let too_long = body_len([23, 3, 3, 65, 1]);
        assert_eq!(
            too_long,
            Err(RecordError::TooLong(RECORD_BODY_MAX_BYTES + 1))
        );
    }

    #[test]
    fn a_key_is_used_no_more_often_than_it_may_be() {
        let [mut key, mut other] = pair(RECORDS_MAX - 1);
        let mut record = vec![0; record_len(1)];
        key.seal(ContentType::Data, &[b"x"], &mut record).unwrap();
        let used_up = key.seal(ContentType::Data, &[b"x"], &mut record.clone());
        assert_eq!(used_up, Err(RecordError::UsedUp));
        let (head, body) = split(&mut record);
        other.open(head, &mut body.to_vec()).unwrap();
        assert_eq!(other.open(head, body), Err(RecordError::UsedUp));
        let large = vec![0; RECORD_CONTENT_MAX_BYTES + 1];
        let [mut key, _] = pair(0);
        let mut room = vec![0; record_len(large.len())];
        let large = key.seal(ContentType::Data, &[&large], &mut room);
        assert!(matches!(large, Err(RecordError::TooLong(_))));
        let small = &mut room[..record_len(1) - 1];
        let small = key.seal(ContentType::Data, &[b"x"], small);
        assert_eq!(small, Err(RecordError::TooLong(1)));
        assert_eq!(key.used(), 0);
    }
}
