//! Who is a member: a chain of invitations from the founder to a device.
//!
//! ```text
//! founder (its key and a salt hash to the network's id)
//!   -> invitation (signed by a member) -> certificate (the invitation's key names a device)
//!   -> invitation (signed by that device) -> ...
//! ```
//!
//! An invitation can be used until it expires, by everybody who has its key. The time of joining
//! is the joiner's own word: expiry stops honest latecomers; a ticket in wrong hands is answered
//! by rotating the secrets, which it contains anyway.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::{ByteArray, ByteBuf};

use super::keys::{NetworkSecrets, network_id};
use super::links::{DOCUMENT_MAX_BYTES, Link, Offer, check_version};
use super::sign::{self, PublicKey, Purpose, SignError, Signature, SigningKey};
use crate::base::ids::byte_id;
use crate::base::limits::MEMBERSHIP_CHAIN_MAX;
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify, Entropy, NetworkId, PeerId, VolumeId};

/// Version written by this program, of chains, invitations and certificates.
pub const MEMBER_VERSION: u8 = 1;
/// Largest encoded chain.
pub const CHAIN_MAX_BYTES: usize = 8 << 10;

byte_id!(
    /// One invitation.
    InvitationId,
    16
);

impl fmt::Debug for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Why a membership was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Not something this program can read.
    #[error("proof of membership: {0}")]
    Wire(#[from] WireError),
    /// A signature in the chain is not valid.
    #[error("proof of membership, link {link}: {error}")]
    Signature {
        /// Position in the chain, from its beginning.
        link: usize,
        /// What is wrong.
        error: SignError,
    },
    /// The chain begins at the founder of another network.
    #[error("a proof of membership for another network, {0}")]
    OtherNetwork(NetworkId),
    /// The chain is about another volume.
    #[error("a proof of membership for another volume, {0}")]
    OtherVolume(VolumeId),
    /// The chain begins at a device that did not make the volume.
    #[error("a proof of membership by {0}, which does not own the volume")]
    OtherOwner(PeerId),
    /// Who may only read let somebody write.
    #[error("proof of membership, link {link}: who may only read cannot let others write")]
    Reader {
        /// Position in the chain, from the owner.
        link: usize,
    },
    /// The links do not hang together.
    #[error("proof of membership, link {link}: {why}")]
    Broken {
        /// Position in the chain, from its beginning.
        link: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The device joined after the invitation had expired.
    #[error("the invitation {0} had expired when it was used")]
    Expired(InvitationId),
    /// The device claims to join later than now: a clock is wrong.
    #[error("the joining time lies in the future: set the clocks of both machines")]
    Future,
    /// The chain is as long as a chain may be.
    #[error(
        "a chain of {MEMBERSHIP_CHAIN_MAX} invitations cannot be extended; ask a member with a shorter one"
    )]
    TooLong,
}

impl Classify for MemberError {
    fn class(&self) -> Class {
        match self {
            MemberError::Wire(_) => Class::Corrupt,
            _ => Class::Denied,
        }
    }
}

/// What an inviter decides about those it admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// They store for others and are told no convergence secret; so are all whom they invite.
    pub storage_only: bool,
    /// The inviter vouches that they fail independently of each other, and lets them vouch for
    /// those whom they invite. Otherwise all of them count as one zone.
    pub independent: bool,
    /// From then on nobody may join by it (ms since 1970).
    pub expires_ms: u64,
}

/// A member's word that whoever holds a certain key may join.
///
/// Serialised as the array
/// `[version, network, epoch, inviter, key, storage_only, independent, expires_ms, id]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// To which network.
    pub network: NetworkId,
    /// Epoch of the secrets handed out with it.
    pub epoch: u32,
    /// Who invites.
    pub inviter: PeerId,
    /// Public half of the one-time key.
    pub key: PublicKey,
    /// On which terms.
    pub terms: Terms,
    /// Names it, for zones and for deny lists.
    pub id: InvitationId,
}

type InvitationTuple = (
    u8,
    NetworkId,
    u32,
    PeerId,
    PublicKey,
    bool,
    bool,
    u64,
    InvitationId,
);

impl Invitation {
    fn encode(&self) -> Vec<u8> {
        let tuple: InvitationTuple = (
            MEMBER_VERSION,
            self.network,
            self.epoch,
            self.inviter,
            self.key,
            self.terms.storage_only,
            self.terms.independent,
            self.terms.expires_ms,
            self.id,
        );
        wire::encode(&tuple)
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (version, network, epoch, inviter, key, storage_only, independent, expires_ms, id) =
            wire::decode_canonical::<InvitationTuple>(bytes, DOCUMENT_MAX_BYTES)?;
        check_version(version)?;
        Ok(Invitation {
            network,
            epoch,
            inviter,
            key,
            terms: Terms {
                storage_only,
                independent,
                expires_ms,
            },
            id,
        })
    }
}

/// An invitation with its inviter's signature. Serialised as `[invitation bytes, signature]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedInvitation(ByteBuf, Signature);

impl SignedInvitation {
    /// Reads the invitation, without checking its signature.
    pub fn read(&self) -> Result<Invitation, MemberError> {
        Ok(Invitation::decode(&self.0)?)
    }

    /// Reads the invitation and checks that its inviter signed it.
    pub fn verify(&self) -> Result<Invitation, SignError> {
        let invitation = Invitation::decode(&self.0).map_err(|_| SignError::Signature)?;
        sign::verify(invitation.inviter, Purpose::Invitation, &self.0, &self.1)?;
        Ok(invitation)
    }
}

type ChainTuple = (u8, PeerId, ByteArray<16>, Vec<Link<SignedInvitation>>);

/// A device's proof of membership, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipChain {
    founder: PeerId,
    salt: [u8; 16],
    links: Vec<Link<SignedInvitation>>,
}

/// A checked proof: what the network knows of a member. Only [`MembershipChain::verify`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// The network.
    pub network: NetworkId,
    /// The device that is a member.
    pub device: PeerId,
    /// Whether it may hold no convergence secret.
    pub storage_only: bool,
    /// The invitation whose admitted count as one zone; `None` if nobody said that it shares one.
    pub zone: Option<InvitationId>,
    /// Epoch of the secrets it was first given.
    pub epoch: u32,
    /// All invitations from the founder to the device.
    pub invitations: Vec<InvitationId>,
    /// All devices before it, the founder first.
    pub ancestors: Vec<PeerId>,
}

impl Membership {
    /// Whether the device founded the network.
    pub fn is_founder(&self) -> bool {
        self.ancestors.is_empty()
    }

    /// The failure domain that follows from the chain; empty if the device is one of its own.
    pub fn zone_name(&self) -> String {
        self.zone
            .map(|id| format!("invitation-{id}"))
            .unwrap_or_default()
    }

    /// Checks a link, the next of a chain, and makes this the membership to which it leads.
    fn follow(
        &mut self,
        at: usize,
        link: &Link<SignedInvitation>,
        now_ms: u64,
    ) -> Result<(), MemberError> {
        let invitation = link.invitation.read()?;
        if invitation.network != self.network {
            return Err(MemberError::Broken {
                link: at,
                why: "an invitation to another network",
            });
        }
        let offer = Offer {
            inviter: invitation.inviter,
            key: invitation.key,
            id: invitation.id,
            expires_ms: invitation.terms.expires_ms,
        };
        let device = link.follow(at, self.device, &offer, Purpose::Certificate, now_ms)?;
        let signed = link.invitation.verify();
        signed.map_err(|error| MemberError::Signature { link: at, error })?;

        // A member who was not vouched for cannot vouch for others: their zone is its own.
        if self.zone.is_none() && !invitation.terms.independent {
            self.zone = Some(invitation.id);
        }
        self.storage_only |= invitation.terms.storage_only;
        self.epoch = invitation.epoch;
        self.invitations.push(invitation.id);
        self.ancestors.push(self.device);
        self.device = device;
        Ok(())
    }
}

impl MembershipChain {
    /// Founds a network: its secrets, and the founder's proof.
    pub fn found(device: &SigningKey, entropy: &Entropy) -> (NetworkSecrets, MembershipChain) {
        let chain = MembershipChain {
            founder: device.peer(),
            salt: entropy.array(),
            links: Vec::new(),
        };
        (NetworkSecrets::generate(chain.network(), entropy), chain)
    }

    /// The network whose founder this chain begins with.
    pub fn network(&self) -> NetworkId {
        network_id(self.founder.as_bytes(), &self.salt)
    }

    /// The canonical encoding: `[version, founder, salt, [link, ..]]`.
    pub fn encode(&self) -> Vec<u8> {
        let tuple: ChainTuple = (
            MEMBER_VERSION,
            self.founder,
            ByteArray::new(self.salt),
            self.links.clone(),
        );
        wire::encode(&tuple)
    }

    /// Reads a chain from anywhere, without checking it.
    pub fn decode(bytes: &[u8]) -> Result<Self, MemberError> {
        let (version, founder, salt, links) =
            wire::decode_canonical::<ChainTuple>(bytes, CHAIN_MAX_BYTES)?;
        check_version(version)?;
        if links.len() > MEMBERSHIP_CHAIN_MAX {
            return Err(MemberError::Broken {
                link: MEMBERSHIP_CHAIN_MAX,
                why: "the chain is too long",
            });
        }
        Ok(MembershipChain {
            founder,
            salt: salt.into_array(),
            links,
        })
    }

    /// Checks every link. The result names the device; that the peer at hand *is* that device is
    /// for the connection to prove.
    ///
    /// # Errors
    /// The first fault, from the founder on.
    pub fn verify(&self, network: NetworkId, now_ms: u64) -> Result<Membership, MemberError> {
        if self.network() != network {
            return Err(MemberError::OtherNetwork(self.network()));
        }
        if self.links.len() > MEMBERSHIP_CHAIN_MAX {
            return Err(MemberError::TooLong);
        }
        let mut member = Membership {
            network,
            device: self.founder,
            storage_only: false,
            zone: None,
            epoch: 0,
            invitations: Vec::with_capacity(self.links.len()),
            ancestors: Vec::with_capacity(self.links.len()),
        };
        for (at, link) in self.links.iter().enumerate() {
            member.follow(at, link, now_ms)?;
        }
        Ok(member)
    }

    /// Signs an invitation as the device that this chain ends with, and makes its one-time key.
    ///
    /// A storage-only member can only invite storage-only peers.
    ///
    /// # Errors
    /// `TooLong`; any fault of this chain; `Broken` if `device` is not the one it names.
    pub fn invite(
        &self,
        device: &SigningKey,
        epoch: u32,
        terms: Terms,
        now_ms: u64,
        entropy: &Entropy,
    ) -> Result<(SignedInvitation, SigningKey), MemberError> {
        let member = self.verify(self.network(), now_ms)?;
        if member.device != device.peer() {
            return Err(MemberError::Broken {
                link: self.links.len(),
                why: "the chain is that of another device",
            });
        }
        if self.links.len() >= MEMBERSHIP_CHAIN_MAX {
            return Err(MemberError::TooLong);
        }
        let key = SigningKey::generate(entropy);
        let body = Invitation {
            network: member.network,
            epoch,
            inviter: member.device,
            key: key.public(),
            terms: Terms {
                storage_only: terms.storage_only || member.storage_only,
                ..terms
            },
            id: InvitationId(entropy.array()),
        }
        .encode();
        let signature = device.sign(Purpose::Invitation, &body);
        Ok((SignedInvitation(body.into(), signature), key))
    }

    /// The proof of `device`, admitted at `now_ms` by an invitation of the device that this
    /// chain ends with.
    ///
    /// # Errors
    /// Whatever is wrong with the longer chain: the invitation expired, the key is not its key, ..
    pub fn admit(
        &self,
        invitation: &SignedInvitation,
        key: &SigningKey,
        device: PeerId,
        now_ms: u64,
    ) -> Result<MembershipChain, MemberError> {
        let mut chain = self.clone();
        chain.links.push(Link::sign(
            invitation.clone(),
            invitation.read()?.id,
            key,
            Purpose::Certificate,
            device,
            now_ms,
        ));
        chain.verify(self.network(), now_ms)?;
        Ok(chain)
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
