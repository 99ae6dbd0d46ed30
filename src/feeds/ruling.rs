//! Documents about members and keys, as rows of the map: each under the hash of its bytes. Nothing removes one.

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::error::FeedError;
use super::revoke::{Cut, Heirs, Revocation};
use super::rotate::Rotation;
use super::sealed::{FEED_VERSION, check_version};
use super::signed::Signed;
use crate::base::limits::{RULING_MAX_BYTES, RULINGS_PAGE_MAX_BYTES};
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::member::MemberError;
use crate::crypto::volume_member::{SignedVolumeInvitation, VolumeInvitation};
use crate::crypto::{VolumeChain, VolumeMember};
use crate::namespace::Key;
use crate::namespace::key::ruling_name;

// What a signed record may have at most fits into a row.
const _: () = assert!(Signed::<Cut>::MAX_BYTES <= RULING_MAX_BYTES);
const _: () = assert!(Signed::<Rotation>::MAX_BYTES <= RULING_MAX_BYTES);
const _: () = assert!(Signed::<Heirs>::MAX_BYTES <= RULING_MAX_BYTES);

/// Kind of a document: the number in its row's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RulingKind {
    /// [`Revocation`]
    Revocation = 1,
    /// [`Cut`]
    Cut = 2,
    /// [`Heirs`]
    Heirs = 3,
    /// [`Rotation`]
    Rotation = 4,
    /// [`Issued`]
    Issued = 5,
}

/// A ticket that was made: so that whoever makes new keys hands them to its holder as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The proof of who made it.
    pub chain: VolumeChain,
    /// The invitation in it.
    pub invitation: SignedVolumeInvitation,
}

type IssuedWire = (u8, ByteBuf, SignedVolumeInvitation);

impl Issued {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let chain = ByteBuf::from(self.chain.encode());
        wire::encode::<IssuedWire>(&(FEED_VERSION, chain, self.invitation.clone()))
    }

    /// Reads one from anywhere, without checking it.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &[u8]) -> Result<Issued, FeedError> {
        let (version, chain, invitation) =
            wire::decode_canonical::<IssuedWire>(bytes, RULING_MAX_BYTES)?;
        check_version(version)?;
        let wrong = |_| FeedError::Impossible("a ticket of nobody");
        let chain = VolumeChain::decode(&chain).map_err(wrong)?;
        invitation.read().map_err(wrong)?;
        Ok(Issued { chain, invitation })
    }

    /// Checks all of it: the invitation, and everybody from the owner to who made it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(
        &self,
        volume: VolumeId,
        owner: PeerId,
        now_ms: u64,
    ) -> Result<(VolumeInvitation, Vec<VolumeMember>), MemberError> {
        let members = self.chain.members(volume, owner, now_ms)?;
        let link = members.len();
        let broken = |why| Err(MemberError::Broken { link, why });
        let signed = self.invitation.verify();
        let invitation = signed.map_err(|error| MemberError::Signature { link, error })?;
        let inviter = members.last();
        if invitation.volume != volume {
            return Err(MemberError::OtherVolume(invitation.volume));
        }
        if inviter.map(|member| member.device) != Some(invitation.inviter) {
            return broken("a ticket of somebody else");
        }
        if inviter.is_some_and(|member| member.read_only) && !invitation.terms.read_only {
            return Err(MemberError::Reader { link });
        }
        Ok((invitation, members))
    }
}

/// A document of which everything was checked that can be for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Somebody has no part any more.
    Revocation(Signed<Revocation>),
    /// How far its feeds go, by one member's word.
    Cut(Signed<Cut>),
    /// Who had come through it, by one member's word.
    Heirs(Signed<Heirs>),
    /// Keys.
    Rotation(Signed<Rotation>),
    /// A ticket.
    Issued(Issued),
}

impl Ruling {
    /// What it is.
    pub const fn kind(&self) -> RulingKind {
        match self {
            Ruling::Revocation(_) => RulingKind::Revocation,
            Ruling::Cut(_) => RulingKind::Cut,
            Ruling::Heirs(_) => RulingKind::Heirs,
            Ruling::Rotation(_) => RulingKind::Rotation,
            Ruling::Issued(_) => RulingKind::Issued,
        }
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Bytes {
        let bytes = match self {
            Ruling::Revocation(signed) => signed.encode(),
            Ruling::Cut(signed) => signed.encode(),
            Ruling::Heirs(signed) => signed.encode(),
            Ruling::Rotation(signed) => signed.encode(),
            Ruling::Issued(issued) => issued.encode(),
        };
        bytes.into()
    }

    /// Under which key it is a row.
    pub fn key(&self) -> Key {
        Key::Ruling(self.kind() as u8, ruling_name(&self.encode()))
    }

    /// Reads one of a kind, and checks its signature.
    ///
    /// # Errors
    /// What is wrong with it; [`FeedError::OtherVolume`].
    pub fn decode(volume: VolumeId, kind: u8, bytes: &[u8]) -> Result<Ruling, FeedError> {
        const REVOCATION: u8 = RulingKind::Revocation as u8;
        const CUT: u8 = RulingKind::Cut as u8;
        const HEIRS: u8 = RulingKind::Heirs as u8;
        const ROTATION: u8 = RulingKind::Rotation as u8;
        const ISSUED: u8 = RulingKind::Issued as u8;
        let ruling = match kind {
            REVOCATION => Ruling::Revocation(Signed::decode(bytes)?),
            CUT => Ruling::Cut(Signed::decode(bytes)?),
            HEIRS => Ruling::Heirs(Signed::decode(bytes)?),
            ROTATION => Ruling::Rotation(Signed::decode(bytes)?),
            ISSUED => Ruling::Issued(Issued::decode(bytes)?),
            _ => return Err("a document of an unknown kind".into()),
        };
        let of = match &ruling {
            Ruling::Revocation(signed) => signed.volume,
            Ruling::Cut(signed) => signed.volume,
            Ruling::Heirs(signed) => signed.volume,
            Ruling::Rotation(signed) => signed.volume,
            Ruling::Issued(issued) => issued.chain.volume(),
        };
        match of == volume {
            true => Ok(ruling),
            false => Err(FeedError::OtherVolume),
        }
    }
}

/// `[version, volume, [[kind, document], ..]]`.
type PageWire = (u8, VolumeId, Vec<(u8, ByteBuf)>);

/// A page of documents, to be found beside a checkpoint by who cannot open that: as many as fit, in this order, and how
/// many did not.
pub fn encode_page(volume: VolumeId, rulings: &[Ruling]) -> (Vec<u8>, usize) {
    let mut room = RULINGS_PAGE_MAX_BYTES - 64;
    let mut items = Vec::new();
    for ruling in rulings {
        let bytes = ruling.encode();
        let Some(left) = room.checked_sub(bytes.len() + 16) else {
            continue;
        };
        room = left;
        items.push((ruling.kind() as u8, ByteBuf::from(bytes.to_vec())));
    }
    let left_out = rulings.len() - items.len();
    let page = wire::encode::<PageWire>(&(FEED_VERSION, volume, items));
    (page, left_out)
}

/// Reads a page from anywhere; what is no document of this volume is left out. Up to thousands of signatures: not for
/// the reactor.
///
/// # Errors
/// If it is no page of this volume.
pub fn decode_page(volume: VolumeId, bytes: &[u8]) -> Result<Vec<Ruling>, FeedError> {
    let (version, of, items) = wire::decode_canonical::<PageWire>(bytes, RULINGS_PAGE_MAX_BYTES)?;
    check_version(version)?;
    if of != volume {
        return Err(FeedError::OtherVolume);
    }
    let read = |(kind, bytes): &(u8, ByteBuf)| Ruling::decode(volume, *kind, bytes).ok();
    Ok(items.iter().filter_map(read).collect())
}
