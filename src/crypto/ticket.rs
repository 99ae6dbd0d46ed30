//! What one hands a friend so that they can join: a line of text (`envelope`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::envelope;
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

/// Why a ticket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else was pasted.
    #[error("not a ticket: it must begin with `{0}`")]
    NotATicket(&'static str),
    /// A link was pasted.
    #[error("this is a link, not a ticket: use `cairn get` to fetch what it names")]
    IsALink,
    /// A network's ticket was pasted where a volume's belongs.
    #[error("this is the ticket of a network, not of a volume: use `cairn join` to enter it")]
    IsOfANetwork,
    /// A volume's ticket was pasted where a network's belongs.
    #[error(
        "this is the ticket of a volume, not of a network: use `cairn volume open`, which joins the network too"
    )]
    IsOfAVolume,
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

    /// Its bytes: `version u8 | body`.
    pub fn encode(&self) -> Vec<u8> {
        let body: BodyTuple = (
            self.secrets.clone(),
            self.contacts.clone(),
            ByteBuf::from(self.inviter.encode()),
            self.invitation.clone(),
            ByteArray::new(self.key),
        );
        let mut bytes = vec![TICKET_VERSION];
        bytes.extend_from_slice(&wire::encode(&body));
        bytes
    }

    /// Reads what [`encode`](Ticket::encode) wrote. Checks that it holds together, not that it can still be
    /// used: [`Ticket::accept`] does.
    ///
    /// # Errors
    /// `Version`, `Wire`, `Member`, `Inconsistent`.
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        let body = envelope::body(bytes, TICKET_VERSION)?;
        let (secrets, contacts, inviter, invitation, key) =
            wire::decode_canonical::<BodyTuple>(body, BODY_MAX_BYTES)?;
        Self::check(
            secrets,
            contacts,
            MembershipChain::decode(&inviter)?,
            invitation,
            key.into_array(),
        )
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
        f.write_str(&envelope::wrap(TICKET_PREFIX, self.encode()))
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
        Self::decode(&envelope::unwrap(TICKET_PREFIX, text, TEXT_MAX_CHARS)?)
    }
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
