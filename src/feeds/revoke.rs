//! What is said, and signed, when a device or an invitation is revoked: that it is; and by each remaining member, what
//! it had merged of the device's feeds when it learned of that, and who had come by then through the device or the
//! invitation.
//!
//! The feeds end at the furthest position that anybody names, and those who came stay: what is beyond comes from nobody
//! who was trusted then. What follows from all of it together: [`Standing`](super::Standing).

use std::fmt;

use super::error::FeedError;
use super::sealed::{FEED_VERSION, LinkHash, check_version};
use super::signed::Record;
use crate::base::limits::RULING_NAMES_MAX;
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::member::InvitationId;
use crate::crypto::sign::Purpose;
use crate::namespace::id::PENDING;

/// Most lives of one device that a cut names.
pub const CUT_LIVES_MAX: usize = 256;

/// What a member had merged of a device's feeds when it learned that the device was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Of which volume.
    pub volume: VolumeId,
    /// The revoked device.
    pub device: PeerId,
    /// The member.
    pub by: PeerId,
    /// Incarnation, last dot and last delta of each of its feeds, ascending by incarnation.
    pub positions: Vec<(u64, u64, LinkHash)>,
}

type CutWire = (u8, VolumeId, PeerId, PeerId, Vec<(u64, u64, LinkHash)>);

impl Record for Cut {
    const PURPOSE: Purpose = Purpose::FeedCut;
    const MAX_BYTES: usize = 16 << 10;

    fn signer(&self) -> PeerId {
        self.by
    }

    fn encode(&self) -> Vec<u8> {
        wire::encode::<CutWire>(&(
            FEED_VERSION,
            self.volume,
            self.device,
            self.by,
            self.positions.clone(),
        ))
    }

    fn decode(bytes: &[u8]) -> Result<Cut, FeedError> {
        let (version, volume, device, by, positions) =
            wire::decode_canonical::<CutWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let ascend = positions.windows(2).all(|pair| match pair {
            [(one, ..), (two, ..)] => one < two,
            _ => true,
        });
        let are_dots = positions
            .iter()
            .all(|(_, last, _)| (1..PENDING).contains(last));
        if !ascend || !are_dots || positions.len() > CUT_LIVES_MAX {
            return Err("impossible positions of a cut".into());
        }
        if device == by {
            return Err("a cut by the device that was revoked".into());
        }
        Ok(Cut {
            volume,
            device,
            by,
            positions,
        })
    }
}

/// What can be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A device.
    Device(PeerId),
    /// An invitation, with the ticket that has it.
    Invitation(InvitationId),
}

/// `[kind, name]`.
pub(super) type SubjectWire = (u8, serde_bytes::ByteBuf);

const DEVICE: u8 = 0;
const INVITATION: u8 = 1;

impl From<Subject> for SubjectWire {
    fn from(subject: Subject) -> SubjectWire {
        match subject {
            Subject::Device(device) => (DEVICE, device.0.to_vec().into()),
            Subject::Invitation(id) => (INVITATION, id.0.to_vec().into()),
        }
    }
}

impl TryFrom<SubjectWire> for Subject {
    type Error = FeedError;

    fn try_from((kind, name): SubjectWire) -> Result<Subject, FeedError> {
        let wrong = |_| FeedError::Impossible("a revocation of what cannot be revoked");
        match kind {
            DEVICE => Ok(Subject::Device(PeerId(
                name.into_vec().try_into().map_err(wrong)?,
            ))),
            INVITATION => Ok(Subject::Invitation(InvitationId(
                name.into_vec().try_into().map_err(wrong)?,
            ))),
            _ => Err("a revocation of what cannot be revoked".into()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Device(device) => write!(f, "{device}"),
            Subject::Invitation(id) => write!(f, "the ticket {id}"),
        }
    }
}

/// A member's word that a device, or an invitation, has no part in the volume any more. Whether it may say so the
/// chain shows on which the subject stands: see [`Standing`](super::Standing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Of which volume.
    pub volume: VolumeId,
    /// Who says so.
    pub by: PeerId,
    /// What is revoked.
    pub subject: Subject,
    /// When (ms since 1970), by its own clock.
    pub at_ms: u64,
}

type RevocationWire = (u8, VolumeId, PeerId, SubjectWire, u64);

impl Record for Revocation {
    const PURPOSE: Purpose = Purpose::VolumeRevocation;
    const MAX_BYTES: usize = 256;

    fn signer(&self) -> PeerId {
        self.by
    }

    fn encode(&self) -> Vec<u8> {
        let subject = self.subject.into();
        wire::encode::<RevocationWire>(&(FEED_VERSION, self.volume, self.by, subject, self.at_ms))
    }

    fn decode(bytes: &[u8]) -> Result<Revocation, FeedError> {
        let (version, volume, by, subject, at_ms) =
            wire::decode_canonical::<RevocationWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        Ok(Revocation {
            volume,
            by,
            subject: subject.try_into()?,
            at_ms,
        })
    }
}

/// Who had come through a device or an invitation when a member learned that it is revoked: they stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heirs {
    /// Of which volume.
    pub volume: VolumeId,
    /// The member.
    pub by: PeerId,
    /// What is revoked.
    pub subject: Subject,
    /// Those who come next after it on their chains, ascending.
    pub devices: Vec<PeerId>,
}

type HeirsWire = (u8, VolumeId, PeerId, SubjectWire, Vec<PeerId>);

impl Record for Heirs {
    const PURPOSE: Purpose = Purpose::VolumeHeirs;
    const MAX_BYTES: usize = 12 << 10;

    fn signer(&self) -> PeerId {
        self.by
    }

    fn encode(&self) -> Vec<u8> {
        let subject = self.subject.into();
        let devices = self.devices.clone();
        wire::encode::<HeirsWire>(&(FEED_VERSION, self.volume, self.by, subject, devices))
    }

    fn decode(bytes: &[u8]) -> Result<Heirs, FeedError> {
        let (version, volume, by, subject, devices) =
            wire::decode_canonical::<HeirsWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let subject = subject.try_into()?;
        if devices.len() > RULING_NAMES_MAX || !devices.is_sorted_by(|one, two| one < two) {
            return Err("too many devices, or devices out of order".into());
        }
        if subject == Subject::Device(by) {
            return Err("a word of the device that was revoked".into());
        }
        Ok(Heirs {
            volume,
            by,
            subject,
            devices,
        })
    }
}
