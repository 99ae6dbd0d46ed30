//! What one hands a friend so that they can open a volume: a line of text (`envelope`). It has a ticket of
//! the network in it, so one is enough on a machine that is in no network yet.

use std::fmt;
use std::str::FromStr;

use serde_bytes::{ByteArray, ByteBuf};

use super::envelope;
use super::epoch::EpochKey;
use super::keys::ConvergenceSecret;
use super::sign::SigningKey;
use super::ticket::{Ticket, TicketError};
use super::volume_member::{SignedVolumeInvitation, VolumeChain, VolumeTerms};
use crate::base::limits::{VOLUME_KEYS_MAX, VOLUME_NAME_MAX_BYTES};
use crate::base::wire;
use crate::base::{EcProfile, Entropy, OwnerId, PeerId, VolumeId};

/// Version written by this program.
pub const VOLUME_TICKET_VERSION: u8 = 1;
/// What every ticket of a volume begins with.
pub const VOLUME_TICKET_PREFIX: &str = "cairn-volume:";

/// A network's ticket, a chain and everything else at its largest.
const BODY_MAX_BYTES: usize = 26 << 10;
const TEXT_MAX_CHARS: usize = 40 << 10;

/// The keys of a volume's epochs: at least one, ascending by epoch; two that were begun at the same time may have one
/// name, and ascend by key then.
pub type EpochKeys = Vec<(u32, EpochKey)>;

/// Whether keys are as an [`EpochKeys`] must be: some, not too many, each once and in order.
pub fn are_in_order(keys: &[(u32, EpochKey)]) -> bool {
    let order = |(epoch, key): &(u32, EpochKey)| (*epoch, *key.secret());
    let ascend = keys.is_sorted_by(|one, two| order(one) < order(two));
    ascend && (1..=VOLUME_KEYS_MAX).contains(&keys.len())
}

/// What the members of a volume know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVolume {
    /// The volume.
    pub id: VolumeId,
    /// The device that made it.
    pub owner: PeerId,
    /// What it is called where the ticket was made: a suggestion.
    pub name: String,
    /// For whom its blocks are kept.
    pub claims: OwnerId,
    /// Redundancy of its blocks.
    pub profile: EcProfile,
    /// What its blocks are sealed under. Who only reads needs none, and is told none.
    pub secret: Option<ConvergenceSecret>,
    /// What its deltas are sealed under.
    pub keys: EpochKeys,
}

/// A ticket that holds together. Whoever has its text can open the volume until it expires.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeTicket {
    volume: SharedVolume,
    inviter: VolumeChain,
    invitation: SignedVolumeInvitation,
    terms: VolumeTerms,
    key: [u8; 32],
    network: Ticket,
}

/// `[volume, owner, name, owner of claims, redundancy, convergence secret or null, [[epoch, key], ..],
/// inviter's chain, invitation, one-time key, ticket of the network]`.
type BodyTuple = (
    VolumeId,
    PeerId,
    String,
    OwnerId,
    EcProfile,
    Option<ByteArray<32>>,
    Vec<(u32, ByteArray<32>)>,
    ByteBuf,
    SignedVolumeInvitation,
    ByteArray<32>,
    ByteBuf,
);

impl VolumeTicket {
    /// Invites to `volume` on `terms` as the device with which `chain` ends. `network` lets those in who are in
    /// no network yet.
    ///
    /// A ticket for reading does not tell the convergence secret.
    ///
    /// # Errors
    /// `Member` as [`VolumeChain::invite`]; `Inconsistent` if `chain` is about another volume, or the name
    /// or the keys are too long.
    pub fn issue(
        mut volume: SharedVolume,
        chain: &VolumeChain,
        device: &SigningKey,
        terms: VolumeTerms,
        network: Ticket,
        now_ms: u64,
        entropy: &Entropy,
    ) -> Result<Self, TicketError> {
        let (invitation, key) = chain.invite(device, terms, now_ms, entropy)?;
        if terms.read_only {
            volume.secret = None;
        }
        Self::check(volume, chain.clone(), invitation, key.secret(), network)
    }

    /// Puts a ticket together, if its parts are all about one volume.
    fn check(
        volume: SharedVolume,
        inviter: VolumeChain,
        invitation: SignedVolumeInvitation,
        key: [u8; 32],
        network: Ticket,
    ) -> Result<Self, TicketError> {
        let fail = |why| Err(TicketError::Inconsistent(why));
        let invited = invitation.read()?;
        if invited.volume != volume.id || inviter.volume() != volume.id {
            return fail("it is about two volumes");
        }
        if inviter.owner() != volume.owner {
            return fail("it names two owners");
        }
        if invited.key != SigningKey::from_secret(&key).public() {
            return fail("its key is not that of its invitation");
        }
        match (invited.terms.read_only, &volume.secret) {
            (true, Some(_)) => return fail("a ticket for reading with the convergence secret"),
            (false, None) => return fail("a ticket for writing without the convergence secret"),
            _ => {}
        }
        if volume.name.len() > VOLUME_NAME_MAX_BYTES {
            return fail("a name that is too long");
        }
        if !are_in_order(&volume.keys) {
            return fail("keys that are none, too many, or out of order");
        }
        Ok(VolumeTicket {
            volume,
            inviter,
            invitation,
            terms: invited.terms,
            key,
            network,
        })
    }

    /// The volume to which it leads.
    pub const fn volume(&self) -> &SharedVolume {
        &self.volume
    }

    /// On which terms one joins.
    pub const fn terms(&self) -> VolumeTerms {
        self.terms
    }

    /// The invitation in it.
    pub const fn invitation(&self) -> &SignedVolumeInvitation {
        &self.invitation
    }

    /// Its one-time key, to whose holder keys may be handed out. Handle with care.
    pub fn key(&self) -> SigningKey {
        SigningKey::from_secret(&self.key)
    }

    /// The ticket of the network in which the volume is.
    pub const fn network(&self) -> &Ticket {
        &self.network
    }

    /// Joins as `device`: its proof of membership.
    ///
    /// # Errors
    /// `Expired`; `Member` if the invitation or the inviter's own proof does not hold.
    pub fn accept(&self, device: PeerId, now_ms: u64) -> Result<VolumeChain, TicketError> {
        if now_ms > self.terms.expires_ms {
            return Err(TicketError::Expired {
                ago_ms: now_ms - self.terms.expires_ms,
            });
        }
        let key = SigningKey::from_secret(&self.key);
        Ok(self.inviter.admit(&self.invitation, &key, device, now_ms)?)
    }

    /// Its bytes: `version u8 | body`.
    fn encode(&self) -> Vec<u8> {
        let volume = &self.volume;
        let keys = volume.keys.iter();
        let body: BodyTuple = (
            volume.id,
            volume.owner,
            volume.name.clone(),
            volume.claims,
            volume.profile,
            volume
                .secret
                .as_ref()
                .map(|secret| ByteArray::new(*secret.secret())),
            keys.map(|(epoch, key)| (*epoch, ByteArray::new(*key.secret())))
                .collect(),
            ByteBuf::from(self.inviter.encode()),
            self.invitation.clone(),
            ByteArray::new(self.key),
            ByteBuf::from(self.network.encode()),
        );
        let mut bytes = vec![VOLUME_TICKET_VERSION];
        bytes.extend_from_slice(&wire::encode(&body));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        let body = envelope::body(bytes, VOLUME_TICKET_VERSION)?;
        let (id, owner, name, claims, profile, secret, keys, inviter, invitation, key, network) =
            wire::decode_canonical::<BodyTuple>(body, BODY_MAX_BYTES)?;
        let keys = keys.into_iter();
        let volume = SharedVolume {
            id,
            owner,
            name,
            claims,
            profile,
            secret: secret.map(|bytes| ConvergenceSecret::from_bytes(bytes.into_array())),
            keys: keys
                .map(|(epoch, key)| (epoch, EpochKey::from_bytes(key.into_array())))
                .collect(),
        };
        let inviter = VolumeChain::decode(&inviter)?;
        let network = Ticket::decode(&network)?;
        Self::check(volume, inviter, invitation, key.into_array(), network)
    }
}

impl fmt::Display for VolumeTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&envelope::wrap(VOLUME_TICKET_PREFIX, self.encode()))
    }
}

/// Shows nothing of the secrets.
impl fmt::Debug for VolumeTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeTicket")
            .field("volume", &self.volume.id)
            .field("owner", &self.volume.owner)
            .field("terms", &self.terms)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

impl FromStr for VolumeTicket {
    type Err = TicketError;

    /// Reads a ticket; white space anywhere in it is ignored, as mail programs add it.
    ///
    /// Checks that it holds together, not that it can still be used: [`VolumeTicket::accept`] does.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let content = envelope::unwrap(VOLUME_TICKET_PREFIX, text, TEXT_MAX_CHARS)?;
        Self::decode(&content)
    }
}

#[cfg(test)]
#[path = "volume_ticket_tests.rs"]
mod tests;
