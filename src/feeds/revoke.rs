//! Where the feeds of a revoked device end: at the furthest position that any remaining member had
//! merged when it learned of the revocation. Each says so, signed; what is beyond comes from nobody who was
//! trusted then.

use std::collections::BTreeMap;

use super::error::FeedError;
use super::sealed::{FEED_VERSION, LinkHash, check_version};
use super::signed::{Record, Signed};
use crate::base::{PeerId, VolumeId, wire};
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

/// The cuts of one device that members announced.
#[derive(Clone, Debug)]
pub struct Revocation {
    volume: VolumeId,
    device: PeerId,
    cuts: BTreeMap<PeerId, Signed<Cut>>,
}

impl Revocation {
    /// Of a device, before anybody announced anything.
    pub const fn new(volume: VolumeId, device: PeerId) -> Revocation {
        Revocation {
            volume,
            device,
            cuts: BTreeMap::new(),
        }
    }

    /// Takes the cut that a remaining member announced; the first that a member said stands. Whether that
    /// was new. That the signer is a member is for the caller to know.
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`].
    pub fn add(&mut self, cut: Signed<Cut>) -> Result<bool, FeedError> {
        if cut.volume != self.volume {
            return Err(FeedError::OtherVolume);
        }
        if cut.device != self.device {
            return Err(FeedError::OtherWriter);
        }
        let is_new = !self.cuts.contains_key(&cut.by);
        self.cuts.entry(cut.by).or_insert(cut);
        Ok(is_new)
    }

    /// Where the feed of one of its lives ends, by what was announced so far: the last dot that is taken, for
    /// [`Feed::revoke_at`](super::Feed::revoke_at), and the delta there. Later announcements only move it on.
    pub fn end(&self, incarnation: u64) -> (u64, Option<LinkHash>) {
        let positions = self.cuts.values().flat_map(|cut| cut.positions.iter());
        let own = positions.filter(|(of, ..)| *of == incarnation);
        let furthest = own.max_by_key(|(_, last, hash)| (*last, *hash));
        furthest.map_or((0, None), |(_, last, hash)| (*last, Some(*hash)))
    }

    /// Those of `members` who have announced nothing yet.
    pub fn awaited<'m>(&self, members: impl IntoIterator<Item = &'m PeerId>) -> Vec<PeerId> {
        let members = members.into_iter().copied();
        members
            .filter(|member| *member != self.device && !self.cuts.contains_key(member))
            .collect()
    }
}
