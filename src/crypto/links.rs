//! What chains of invitations have in common, whether they lead into a network (`member`) or to a volume
//! (`volume_member`): an invitation, and the word of its key which device came by it.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::member::{InvitationId, MEMBER_VERSION, MemberError};
use super::sign::{self, PublicKey, Purpose, Signature, SigningKey};
use crate::base::PeerId;
use crate::base::wire::{self, WireError};

/// Largest signed document of a chain.
pub(super) const DOCUMENT_MAX_BYTES: usize = 512;
/// How far clocks of honest members may be apart.
const CLOCK_SKEW_MS: u64 = 10 * 60 * 1000;

/// `[version, invitation id, device, joined_ms]`.
type CertificateTuple = (u8, InvitationId, PeerId, u64);

/// One step from a member to the next: the array `[invitation, certificate, signature]`. An invitation comes
/// with its own signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LinkTuple<I>", into = "LinkTuple<I>")]
#[serde(bound(
    serialize = "I: Clone + Serialize",
    deserialize = "I: Deserialize<'de>"
))]
pub(super) struct Link<I> {
    pub invitation: I,
    pub certificate: ByteBuf,
    pub signature: Signature,
}

type LinkTuple<I> = (I, ByteBuf, Signature);

impl<I> From<LinkTuple<I>> for Link<I> {
    fn from((invitation, certificate, signature): LinkTuple<I>) -> Self {
        Link {
            invitation,
            certificate,
            signature,
        }
    }
}

impl<I> From<Link<I>> for LinkTuple<I> {
    fn from(link: Link<I>) -> Self {
        (link.invitation, link.certificate, link.signature)
    }
}

/// What a link takes from its invitation.
pub(super) struct Offer {
    pub inviter: PeerId,
    pub key: PublicKey,
    pub id: InvitationId,
    pub expires_ms: u64,
}

pub(super) fn check_version(found: u8) -> Result<(), WireError> {
    if found == MEMBER_VERSION {
        Ok(())
    } else {
        Err(WireError::Version {
            found: found.into(),
            known: MEMBER_VERSION.into(),
        })
    }
}

impl<I> Link<I> {
    /// The step of `device`, which has the invitation's one-time `key`.
    pub fn sign(
        invitation: I,
        id: InvitationId,
        key: &SigningKey,
        purpose: Purpose,
        device: PeerId,
        joined_ms: u64,
    ) -> Self {
        let certificate: CertificateTuple = (MEMBER_VERSION, id, device, joined_ms);
        let body = wire::encode(&certificate);
        Link {
            invitation,
            signature: key.sign(purpose, &body),
            certificate: body.into(),
        }
    }

    /// The device to which this leads, as link number `link` after that of `member`. Whether the inviter
    /// signed the invitation is for the caller to check.
    ///
    /// # Errors
    /// The first thing that does not fit the offer.
    pub fn follow(
        &self,
        link: usize,
        member: PeerId,
        offer: &Offer,
        purpose: Purpose,
        now_ms: u64,
    ) -> Result<PeerId, MemberError> {
        let broken = |why| Err(MemberError::Broken { link, why });
        let (version, invitation, device, joined_ms): CertificateTuple =
            wire::decode_canonical(&self.certificate, DOCUMENT_MAX_BYTES)?;
        check_version(version)?;
        if offer.inviter != member {
            return broken("an invitation by another member");
        }
        if invitation != offer.id {
            return broken("a certificate for another invitation");
        }
        if joined_ms > offer.expires_ms {
            return Err(MemberError::Expired(offer.id));
        }
        if joined_ms > now_ms.saturating_add(CLOCK_SKEW_MS) {
            return Err(MemberError::Future);
        }
        sign::verify(offer.key, purpose, &self.certificate, &self.signature)
            .map_err(|error| MemberError::Signature { link, error })?;
        Ok(device)
    }
}
