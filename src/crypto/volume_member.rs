//! Who is a member of a volume: a chain of invitations from the device that made it to another.
//!
//! ```text
//! owner (the device that made the volume)
//!   -> invitation (signed by a member) -> certificate (the invitation's key names a device)
//!   -> invitation (signed by that device) -> ...
//! ```
//!
//! Members write and invite, or only read; who only reads can only let others read. Nothing in a chain ties the
//! volume's id to its owner, as a network's id is tied to its founder: who checks a chain knows both, from the ticket
//! by which the volume came.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::links::{DOCUMENT_MAX_BYTES, Link, Offer, check_version};
use super::member::{CHAIN_MAX_BYTES, InvitationId, MEMBER_VERSION, MemberError};
use super::sign::{self, PublicKey, Purpose, SignError, Signature, SigningKey};
use crate::base::limits::MEMBERSHIP_CHAIN_MAX;
use crate::base::wire::{self, WireError};
use crate::base::{Entropy, PeerId, VolumeId};

/// What an inviter decides about those whom it lets into a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeTerms {
    /// They write nothing, nor do those whom they invite.
    pub read_only: bool,
    /// From then on nobody may join by it (ms since 1970).
    pub expires_ms: u64,
}

/// A member's word that whoever holds a certain key may join.
///
/// Serialised as the array `[version, volume, inviter, key, read_only, expires_ms, id]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInvitation {
    /// To which volume.
    pub volume: VolumeId,
    /// Who invites.
    pub inviter: PeerId,
    /// Public half of the one-time key.
    pub key: PublicKey,
    /// On which terms.
    pub terms: VolumeTerms,
    /// Names it.
    pub id: InvitationId,
}

type InvitationTuple = (u8, VolumeId, PeerId, PublicKey, bool, u64, InvitationId);

impl VolumeInvitation {
    fn encode(&self) -> Vec<u8> {
        let tuple: InvitationTuple = (
            MEMBER_VERSION,
            self.volume,
            self.inviter,
            self.key,
            self.terms.read_only,
            self.terms.expires_ms,
            self.id,
        );
        wire::encode(&tuple)
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (version, volume, inviter, key, read_only, expires_ms, id) =
            wire::decode_canonical::<InvitationTuple>(bytes, DOCUMENT_MAX_BYTES)?;
        check_version(version)?;
        Ok(VolumeInvitation {
            volume,
            inviter,
            key,
            terms: VolumeTerms {
                read_only,
                expires_ms,
            },
            id,
        })
    }
}

/// An invitation with its inviter's signature. Serialised as `[invitation bytes, signature]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedVolumeInvitation(ByteBuf, Signature);

impl SignedVolumeInvitation {
    fn sign(invitation: &VolumeInvitation, device: &SigningKey) -> Self {
        let body = invitation.encode();
        let signature = device.sign(Purpose::VolumeInvitation, &body);
        SignedVolumeInvitation(body.into(), signature)
    }

    /// Reads the invitation, without checking its signature.
    ///
    /// # Errors
    /// `Wire` if it is not one.
    pub fn read(&self) -> Result<VolumeInvitation, MemberError> {
        Ok(VolumeInvitation::decode(&self.0)?)
    }

    /// Reads the invitation and checks that its inviter signed it.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self) -> Result<VolumeInvitation, SignError> {
        let invitation = VolumeInvitation::decode(&self.0).map_err(|_| SignError::Signature)?;
        sign::verify(
            invitation.inviter,
            Purpose::VolumeInvitation,
            &self.0,
            &self.1,
        )?;
        Ok(invitation)
    }
}

type ChainTuple = (u8, VolumeId, PeerId, Vec<Link<SignedVolumeInvitation>>);

/// A device's proof that it is a member of a volume, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeChain {
    volume: VolumeId,
    owner: PeerId,
    links: Vec<Link<SignedVolumeInvitation>>,
}

/// A checked proof: what a volume's members know of one of them. Only [`VolumeChain::verify`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeMember {
    /// The device that is a member.
    pub device: PeerId,
    /// Whether it may only read.
    pub read_only: bool,
    /// All invitations from the owner to the device.
    pub invitations: Vec<InvitationId>,
    /// All devices before it, the owner first.
    pub ancestors: Vec<PeerId>,
}

impl VolumeMember {
    /// Whether the device made the volume.
    pub fn is_owner(&self) -> bool {
        self.ancestors.is_empty()
    }

    /// Who invited it; nobody invited the owner.
    pub fn inviter(&self) -> Option<PeerId> {
        self.ancestors.last().copied()
    }

    /// Checks a link, the next of a chain, and makes this the member to which it leads.
    fn follow(
        &mut self,
        at: usize,
        link: &Link<SignedVolumeInvitation>,
        volume: VolumeId,
        now_ms: u64,
    ) -> Result<(), MemberError> {
        let invitation = link.invitation.read()?;
        if invitation.volume != volume {
            return Err(MemberError::OtherVolume(invitation.volume));
        }
        let offer = Offer {
            inviter: invitation.inviter,
            key: invitation.key,
            id: invitation.id,
            expires_ms: invitation.terms.expires_ms,
        };
        let device = link.follow(at, self.device, &offer, Purpose::VolumeCertificate, now_ms)?;
        let signed = link.invitation.verify();
        signed.map_err(|error| MemberError::Signature { link: at, error })?;
        if self.read_only && !invitation.terms.read_only {
            return Err(MemberError::Reader { link: at });
        }
        self.read_only = invitation.terms.read_only;
        self.invitations.push(invitation.id);
        self.ancestors.push(self.device);
        self.device = device;
        Ok(())
    }
}

impl VolumeChain {
    /// The proof of the device that made the volume: it is the owner.
    pub fn found(volume: VolumeId, device: &SigningKey) -> VolumeChain {
        VolumeChain {
            volume,
            owner: device.peer(),
            links: Vec::new(),
        }
    }

    /// The volume that it is about, by its own word.
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The device with which it begins.
    pub const fn owner(&self) -> PeerId {
        self.owner
    }

    /// The canonical encoding: `[version, volume, owner, [link, ..]]`.
    pub fn encode(&self) -> Vec<u8> {
        let tuple: ChainTuple = (MEMBER_VERSION, self.volume, self.owner, self.links.clone());
        wire::encode(&tuple)
    }

    /// Reads a chain from anywhere, without checking it.
    ///
    /// # Errors
    /// `Wire` if it is none, or larger than [`CHAIN_MAX_BYTES`]; `Broken` if it has too many links.
    pub fn decode(bytes: &[u8]) -> Result<Self, MemberError> {
        let (version, volume, owner, links) =
            wire::decode_canonical::<ChainTuple>(bytes, CHAIN_MAX_BYTES)?;
        check_version(version)?;
        if links.len() > MEMBERSHIP_CHAIN_MAX {
            return Err(MemberError::Broken {
                link: MEMBERSHIP_CHAIN_MAX,
                why: "the chain is too long",
            });
        }
        Ok(VolumeChain {
            volume,
            owner,
            links,
        })
    }

    /// Checks every link. The result names the device; that somebody at hand *is* that device is for the
    /// connection, or a signature, to prove.
    ///
    /// # Errors
    /// The first fault, from the owner on.
    pub fn verify(
        &self,
        volume: VolumeId,
        owner: PeerId,
        now_ms: u64,
    ) -> Result<VolumeMember, MemberError> {
        self.walk(volume, owner, now_ms, |_| {})
    }

    /// Checks every link as [`verify`](VolumeChain::verify) does: all devices on the way, the owner first.
    ///
    /// # Errors
    /// The same.
    pub fn members(
        &self,
        volume: VolumeId,
        owner: PeerId,
        now_ms: u64,
    ) -> Result<Vec<VolumeMember>, MemberError> {
        let mut members = Vec::with_capacity(self.links.len() + 1);
        let last = self.walk(volume, owner, now_ms, |passed| members.push(passed.clone()))?;
        members.push(last);
        Ok(members)
    }

    /// Follows all links; each member that has one behind it is shown before that is followed.
    fn walk(
        &self,
        volume: VolumeId,
        owner: PeerId,
        now_ms: u64,
        mut pass: impl FnMut(&VolumeMember),
    ) -> Result<VolumeMember, MemberError> {
        if self.volume != volume {
            return Err(MemberError::OtherVolume(self.volume));
        }
        if self.owner != owner {
            return Err(MemberError::OtherOwner(self.owner));
        }
        if self.links.len() > MEMBERSHIP_CHAIN_MAX {
            return Err(MemberError::TooLong);
        }
        let mut member = VolumeMember {
            device: owner,
            read_only: false,
            invitations: Vec::with_capacity(self.links.len()),
            ancestors: Vec::with_capacity(self.links.len()),
        };
        for (at, link) in self.links.iter().enumerate() {
            pass(&member);
            member.follow(at, link, volume, now_ms)?;
        }
        Ok(member)
    }

    /// Signs an invitation as the device with which this chain ends, and makes its one-time key.
    ///
    /// # Errors
    /// `Reader` if that device may only read and the invited may not; `TooLong`; any fault of this chain;
    /// `Broken` if `device` is not the one it names.
    pub fn invite(
        &self,
        device: &SigningKey,
        terms: VolumeTerms,
        now_ms: u64,
        entropy: &Entropy,
    ) -> Result<(SignedVolumeInvitation, SigningKey), MemberError> {
        let member = self.verify(self.volume, self.owner, now_ms)?;
        let link = self.links.len();
        if member.device != device.peer() {
            return Err(MemberError::Broken {
                link,
                why: "the chain is that of another device",
            });
        }
        if link >= MEMBERSHIP_CHAIN_MAX {
            return Err(MemberError::TooLong);
        }
        if member.read_only && !terms.read_only {
            return Err(MemberError::Reader { link });
        }
        let key = SigningKey::generate(entropy);
        let invitation = VolumeInvitation {
            volume: self.volume,
            inviter: member.device,
            key: key.public(),
            terms,
            id: InvitationId(entropy.array()),
        };
        Ok((SignedVolumeInvitation::sign(&invitation, device), key))
    }

    /// The proof of `device`, which joins at `now_ms` by an invitation of the device with which this chain
    /// ends.
    ///
    /// # Errors
    /// Whatever is wrong with the longer chain: the invitation expired, the key is not its key, ..
    pub fn admit(
        &self,
        invitation: &SignedVolumeInvitation,
        key: &SigningKey,
        device: PeerId,
        now_ms: u64,
    ) -> Result<VolumeChain, MemberError> {
        let mut chain = self.clone();
        chain.links.push(Link::sign(
            invitation.clone(),
            invitation.read()?.id,
            key,
            Purpose::VolumeCertificate,
            device,
            now_ms,
        ));
        chain.verify(self.volume, self.owner, now_ms)?;
        Ok(chain)
    }
}

#[cfg(test)]
#[path = "volume_member_tests.rs"]
mod tests;
