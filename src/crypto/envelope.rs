//! The text in which tickets of all kinds are handed over.
//!
//! ```text
//! prefix | length (3 characters) | base58 of { version u8 | body | checksum (4) }
//! ```
//!
//! The length is the number of base58 characters that follow, itself in base58, so that a ticket
//! that lost its end can be told from one with a typo. The checksum is the front of the BLAKE3 of
//! version and body; every later version keeps this envelope.

use super::ticket::{TICKET_PREFIX, TicketError};
use super::volume_ticket::VOLUME_TICKET_PREFIX;

const CHECKSUM_BYTES: usize = 4;
const LENGTH_CHARS: usize = 3;
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// The text for `content`, which is a version and a body.
pub(super) fn wrap(prefix: &str, mut content: Vec<u8>) -> String {
    let checksum = checksum(&content);
    content.extend_from_slice(&checksum);
    let digits = bs58::encode(content).into_string();
    format!("{prefix}{}{digits}", encode_length(digits.len()))
}

/// Version and body of a text of at most `max_chars` characters; white space anywhere in it is ignored, as
/// mail programs add it.
///
/// # Errors
/// What is wrong with it, as far as the text tells; what else was pasted, if it is known.
pub(super) fn unwrap(
    prefix: &'static str,
    text: &str,
    max_chars: usize,
) -> Result<Vec<u8>, TicketError> {
    let text: String = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .take(max_chars)
        .collect();
    match text.strip_prefix(prefix) {
        Some(rest) => open(prefix, rest),
        None if text.starts_with(TICKET_PREFIX) => Err(TicketError::IsOfANetwork),
        None if text.starts_with(VOLUME_TICKET_PREFIX) => Err(TicketError::IsOfAVolume),
        None if text.starts_with("cairn:") => Err(TicketError::IsALink),
        None => Err(TicketError::NotATicket(prefix)),
    }
}

fn open(prefix: &str, text: &str) -> Result<Vec<u8>, TicketError> {
    let strange = |c: &char| !u8::try_from(*c).is_ok_and(|byte| ALPHABET.contains(&byte));
    if let Some((at, found)) = text.chars().enumerate().find(|(_, c)| strange(c)) {
        return Err(TicketError::BadCharacter {
            found,
            position: prefix.len() + at + 1,
        });
    }
    let (length, digits) = text
        .split_at_checked(LENGTH_CHARS)
        .ok_or(TicketError::Truncated {
            missing: LENGTH_CHARS - text.len().min(LENGTH_CHARS),
        })?;
    let expected = decode_length(length);
    if digits.len() < expected {
        return Err(TicketError::Truncated {
            missing: expected - digits.len(),
        });
    }
    if digits.len() > expected {
        return Err(TicketError::Trailing {
            extra: digits.len() - expected,
        });
    }
    let mut content = bs58::decode(digits)
        .into_vec()
        .map_err(|_| TicketError::Checksum)?;
    let (front, found) = content
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(TicketError::Checksum)?;
    if *found != checksum(front) {
        return Err(TicketError::Checksum);
    }
    content.truncate(front.len());
    Ok(content)
}

/// The body of a content of version `known`.
///
/// # Errors
/// `Version`; `Checksum` if there is nothing.
pub(super) fn body(content: &[u8], known: u8) -> Result<&[u8], TicketError> {
    match content.split_first() {
        Some((found, body)) if *found == known => Ok(body),
        Some((&found, _)) => Err(TicketError::Version { found, known }),
        None => Err(TicketError::Checksum),
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// Three base58 digits, the most significant first.
fn encode_length(length: usize) -> String {
    [58 * 58, 58, 1]
        .iter()
        .filter_map(|weight| ALPHABET.get(length / weight % 58))
        .map(|byte| char::from(*byte))
        .collect()
}

fn decode_length(digits: &str) -> usize {
    digits.bytes().fold(0, |length, digit| {
        let value = ALPHABET.iter().position(|byte| *byte == digit);
        length * 58 + value.unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::testing::cases;

    proptest! {
        #![proptest_config(cases(64))]

        #[test]
        fn lengths_round_trip(length in 0usize..58 * 58 * 58) {
            prop_assert_eq!(decode_length(&encode_length(length)), length);
        }

        #[test]
        fn what_is_wrapped_comes_out(content in proptest::collection::vec(any::<u8>(), 1..200)) {
            let text = wrap(TICKET_PREFIX, content.clone());
            prop_assert_eq!(unwrap(TICKET_PREFIX, &text, 1000), Ok(content));
            prop_assert_eq!(
                unwrap(VOLUME_TICKET_PREFIX, &text, 1000),
                Err(TicketError::IsOfANetwork)
            );
        }
    }
}
