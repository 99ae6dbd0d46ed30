//! What one hands a friend so that they can join: a line of text.
//!
//! ```text
//! cairn-ticket: | length (3 characters) | base58 of { version u8 | body | checksum (4) }
//! ```
//!
//! The length is the number of base58 characters that follow, itself in base58, so that a ticket
//! that lost its end can be told from one with a typo. The checksum is the front of the BLAKE3 of
//! version and body; every later version keeps this envelope.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::keys::NetworkSecrets;
use super::member::{Invitation, MemberError, MembershipChain, SignedInvitation, Terms};
use super::sign::SigningKey;
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify, Entropy, NetworkId, PeerId};

/// Version written by this program.
pub const TICKET_VERSION: u8 = 1;
/// What every ticket begins with.
pub const TICKET_PREFIX: &str = "cairn-ticket:";
/// Most peers named in a ticket as first contacts.
pub const BOOTSTRAP_MAX: usize = 8;
/// Most bytes of all their addresses together.
pub const ADDRESSES_MAX_BYTES: usize = 4 << 10;

const TEXT_MAX_CHARS: usize = 20 << 10;
const BODY_MAX_BYTES: usize = 14 << 10;
const CHECKSUM_BYTES: usize = 4;
const LENGTH_CHARS: usize = 3;
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Why a ticket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else was pasted.
    #[error("not a ticket: it must begin with `{TICKET_PREFIX}`")]
    NotATicket,
    /// A link was pasted.
    #[error("this is a link, not a ticket: use `cairn get` to fetch what it names")]
    IsALink,
    /// Its end is missing.
    #[error("the ticket is cut short: {missing} of its characters are missing; copy it again")]
    Truncated {
        /// How many characters are missing.
        missing: usize,
    },
    /// It has more characters than it says.
    #[error("{extra} characters too many follow the ticket; copy it again")]
    Trailing {
        /// How many characters are too many.
        extra: usize,
    },
    /// A character that no ticket contains.
    #[error("the ticket has a typo: `{found}` at character {position} is not used in tickets")]
    BadCharacter {
        /// The character.
        found: char,
        /// Its position in the text, from 1.
        position: usize,
    },
    /// All characters are possible and they do not match their checksum.
    #[error("the ticket has a typo: its checksum does not match; copy it again")]
    Checksum,
    /// Made by a later program.
    #[error("ticket of version {found}; this program reads up to {known}: update it")]
    Version {
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// Its parts contradict each other: it was not made by this program.
    #[error("the ticket contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// It can no longer be used.
    #[error("the ticket expired {} minutes ago: ask for a new one", ago_ms / 60_000)]
    Expired {
        /// For how long.
        ago_ms: u64,
    },
    /// Its contents are malformed.
    #[error("the ticket: {0}")]
    Wire(#[from] WireError),
    /// Its invitation does not hold.
    #[error("the ticket: {0}")]
    Member(#[from] MemberError),
}

impl Classify for TicketError {
    fn class(&self) -> Class {
        Class::Denied
    }
}

/// Where a member can be reached.
///
/// Serialised as the array `[peer, [control, ..], [bulk, ..]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ContactTuple", into = "ContactTuple")]
pub struct Contact {
    /// Who.
    pub peer: PeerId,
    /// libp2p multiaddrs of the control plane.
    pub control: Vec<String>,
    /// `ip:port` of the bulk plane.
    pub bulk: Vec<String>,
}

type ContactTuple = (PeerId, Vec<String>, Vec<String>);

impl From<ContactTuple> for Contact {
    fn from((peer, control, bulk): ContactTuple) -> Self {
        Contact {
            peer,
            control,
            bulk,
        }
    }
}

impl From<Contact> for ContactTuple {
    fn from(contact: Contact) -> Self {
        (contact.peer, contact.control, contact.bulk)
    }
}

/// A ticket that holds together. Whoever has its text can join until it expires.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    secrets: NetworkSecrets,
    contacts: Vec<Contact>,
    inviter: MembershipChain,
    invitation: SignedInvitation,
    terms: Terms,
    key: [u8; 32],
}

/// `[secrets, [contact, ..], inviter's chain, invitation, one-time key]`.
type BodyTuple = (
    NetworkSecrets,
    Vec<Contact>,
    ByteBuf,
    SignedInvitation,
    ByteArray<32>,
);

impl Ticket {
    /// Invites on `terms` as the device that `chain` ends with.
    ///
    /// The ticket tells the convergence secret only if the invitation is not storage-only.
    ///
    /// # Errors
    /// `Member` as [`MembershipChain::invite`]; `Inconsistent` if the contacts are too many.
    pub fn issue(
        chain: &MembershipChain,
        device: &SigningKey,
        secrets: &NetworkSecrets,
        contacts: Vec<Contact>,
        terms: Terms,
        now_ms: u64,
        entropy: &Entropy,
    ) -> Result<Self, TicketError> {
        let (invitation, key) = chain.invite(device, secrets.epoch, terms, now_ms, entropy)?;
        let storage_only = invitation.read()?.terms.storage_only;
        Self::check(
            if storage_only {
                secrets.without_convergence()
            } else {
                secrets.clone()
            },
            contacts,
            chain.clone(),
            invitation,
            key.secret(),
        )
    }

    /// Puts a ticket together, if its parts are all about one admission.
    fn check(
        secrets: NetworkSecrets,
        contacts: Vec<Contact>,
        inviter: MembershipChain,
        invitation: SignedInvitation,
        key: [u8; 32],
    ) -> Result<Self, TicketError> {
        let fail = |why| Err(TicketError::Inconsistent(why));
        let Invitation {
            network,
            epoch,
            key: public,
            terms,
            ..
        } = invitation.read()?;
        if network != secrets.network || network != inviter.network() {
            return fail("it is about two networks");
        }
        if epoch != secrets.epoch {
            return fail("it is about two epochs");
        }
        if public != SigningKey::from_secret(&key).public() {
            return fail("its key is not that of its invitation");
        }
        if terms.storage_only && secrets.can_seal() {
            return fail("a storage-only ticket with the convergence secret");
        }
        if contacts.len() > BOOTSTRAP_MAX {
            return fail("too many peers to contact");
        }
        let addresses = contacts
            .iter()
            .flat_map(|c| c.control.iter().chain(&c.bulk));
        // Each counts for one byte more, so that empty ones are bounded too.
        if addresses.map(|text| text.len() + 1).sum::<usize>() > ADDRESSES_MAX_BYTES {
            return fail("too many addresses");
        }
        Ok(Ticket {
            secrets,
            contacts,
            inviter,
            invitation,
            terms,
            key,
        })
    }

    /// The network it leads to.
    pub const fn network(&self) -> NetworkId {
        self.secrets.network
    }

    /// Members to contact first.
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// On which terms one joins.
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Joins as `device`: the network's secrets and the device's proof of membership.
    ///
    /// # Errors
    /// `Expired`; `Member` if the invitation or the inviter's own proof does not hold.
    pub fn accept(
        &self,
        device: PeerId,
        now_ms: u64,
    ) -> Result<(NetworkSecrets, MembershipChain), TicketError> {
        if now_ms > self.terms.expires_ms {
            return Err(TicketError::Expired {
                ago_ms: now_ms - self.terms.expires_ms,
            });
        }
        let key = SigningKey::from_secret(&self.key);
        let chain = self.inviter.admit(&self.invitation, &key, device, now_ms)?;
        Ok((self.secrets.clone(), chain))
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: BodyTuple = (
            self.secrets.clone(),
            self.contacts.clone(),
            ByteBuf::from(self.inviter.encode()),
            self.invitation.clone(),
            ByteArray::new(self.key),
        );
        let mut bytes = vec![TICKET_VERSION];
        bytes.extend_from_slice(&wire::encode(&body));
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let text = bs58::encode(bytes).into_string();
        f.write_str(TICKET_PREFIX)?;
        f.write_str(&encode_length(text.len()))?;
        f.write_str(&text)
    }
}

/// Shows nothing of the secrets.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("network", &self.secrets.network)
            .field("contacts", &self.contacts)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket; white space anywhere in it is ignored, as mail programs add it.
    ///
    /// Checks that it holds together, not that it can still be used: [`Ticket::accept`] does.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text: String = text
            .chars()
            .filter(|c| !c.is_whitespace())
            .take(TEXT_MAX_CHARS)
            .collect();
        let Some(rest) = text.strip_prefix(TICKET_PREFIX) else {
            return Err(match text.strip_prefix("cairn:") {
                Some(_) => TicketError::IsALink,
                None => TicketError::NotATicket,
            });
        };
        let body = open_envelope(rest)?;
        let (secrets, contacts, inviter, invitation, key) =
            wire::decode_canonical::<BodyTuple>(&body, BODY_MAX_BYTES)?;
        Self::check(
            secrets,
            contacts,
            MembershipChain::decode(&inviter)?,
            invitation,
            key.into_array(),
        )
    }
}

/// The body of the text after the prefix.
fn open_envelope(text: &str) -> Result<Vec<u8>, TicketError> {
    let strange = |c: &char| !u8::try_from(*c).is_ok_and(|byte| ALPHABET.contains(&byte));
    if let Some((at, found)) = text.chars().enumerate().find(|(_, c)| strange(c)) {
        return Err(TicketError::BadCharacter {
            found,
            position: TICKET_PREFIX.len() + at + 1,
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
    let bytes = bs58::decode(digits)
        .into_vec()
        .map_err(|_| TicketError::Checksum)?;
    let (content, found) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(TicketError::Checksum)?;
    if *found != checksum(content) {
        return Err(TicketError::Checksum);
    }
    match content.split_first() {
        Some((&TICKET_VERSION, body)) => Ok(body.to_vec()),
        Some((&found, _)) => Err(TicketError::Version {
            found,
            known: TICKET_VERSION,
        }),
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
#[path = "ticket_tests.rs"]
mod tests;
