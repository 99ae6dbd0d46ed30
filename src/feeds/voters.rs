//! Who decides on the locks of a volume: a list that its owner signs. A lock is had with the votes of more than
//! half of the list, whoever of it can be reached.

use std::collections::BTreeSet;

use super::error::FeedError;
use super::sealed::{FEED_VERSION, check_version};
use super::signed::Record;
use crate::base::limits::VOTERS_MAX;
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::sign::Purpose;

/// The device in whose row of the namespace the list is kept: nobody's key.
pub const VOTERS_ROW: PeerId = PeerId([0; 32]);

/// A list of voters. Two lists of one number are the same list, or the owner lied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterList {
    /// Of which volume.
    pub volume: VolumeId,
    /// The owner of the volume, who signs it.
    pub owner: PeerId,
    /// The first list has 1; each has one more than the one it replaces.
    pub number: u64,
    /// The voters, ascending. None: no locks are had.
    pub voters: Vec<PeerId>,
    /// Those of the list before.
    pub previous: Vec<PeerId>,
}

type VoterListWire = (u8, VolumeId, PeerId, u64, Vec<PeerId>, Vec<PeerId>);

impl VoterList {
    /// How many votes are more than half; none are where there are no voters.
    pub const fn majority(&self) -> Option<usize> {
        majority(self.voters.len())
    }

    /// Whether it may follow a list of these voters: majorities of both have somebody in common, so at most one
    /// voter comes or goes. Where there were none, any may come.
    pub fn may_follow(&self, before: &[PeerId]) -> bool {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) =
            (before.iter().collect(), self.voters.iter().collect());
        old.is_empty() || old.symmetric_difference(&new).count() <= 1
    }
}

/// How many of `voters` are more than half of them.
pub const fn majority(voters: usize) -> Option<usize> {
    match voters {
        0 => None,
        some => Some(some / 2 + 1),
    }
}

fn is_list(peers: &[PeerId]) -> bool {
    let ascend = peers.windows(2).all(|pair| match pair {
        [one, two] => one < two,
        _ => true,
    });
    ascend && peers.len() <= VOTERS_MAX
}

impl Record for VoterList {
    const PURPOSE: Purpose = Purpose::Voters;
    const MAX_BYTES: usize = 4 << 10;

    fn signer(&self) -> PeerId {
        self.owner
    }

    fn encode(&self) -> Vec<u8> {
        wire::encode::<VoterListWire>(&(
            FEED_VERSION,
            self.volume,
            self.owner,
            self.number,
            self.voters.clone(),
            self.previous.clone(),
        ))
    }

    fn decode(bytes: &[u8]) -> Result<VoterList, FeedError> {
        let (version, volume, owner, number, voters, previous) =
            wire::decode_canonical::<VoterListWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        if number == 0 || !is_list(&voters) || !is_list(&previous) {
            return Err("an impossible list of voters".into());
        }
        let list = VoterList {
            volume,
            owner,
            number,
            voters,
            previous,
        };
        match list.may_follow(&list.previous) {
            true => Ok(list),
            false => Err("a list of voters that does not follow its previous one".into()),
        }
    }
}
