//! Counting votes, and what a machine holds because of them.
//!
//! Pure, as [`voter`](super::voter) is.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::PeerId;
use crate::feeds::{LockMode, Vote};
use crate::namespace::VersionVector;

/// What a count of votes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Not decided yet.
    Open,
    /// More than half granted it.
    Won,
    /// It cannot be won any more; the vote that counts most against it.
    Lost(Vote),
    /// Too few of the voters can be reached.
    TooFew,
}

/// The votes on one lock in one attempt.
#[derive(Clone, Debug)]
pub struct Poll {
    voters: usize,
    needed: usize,
    granted: BTreeSet<PeerId>,
    against: BTreeMap<PeerId, Vote>,
    silent: usize,
    released: VersionVector,
}

impl Poll {
    /// Among so many voters.
    pub fn new(voters: usize, needed: usize) -> Poll {
        Poll {
            voters,
            needed,
            granted: BTreeSet::new(),
            against: BTreeMap::new(),
            silent: 0,
            released: VersionVector::default(),
        }
    }

    /// A voter voted, and knows of this that was released.
    pub fn voted(&mut self, voter: PeerId, vote: Vote, released: &VersionVector) {
        if vote == Vote::Granted {
            self.granted.insert(voter);
            self.released.join(released);
        } else {
            self.against.insert(voter, vote);
        }
    }

    /// A voter cannot be reached, or decides by another list.
    pub const fn is_silent(&mut self) {
        self.silent += 1;
    }

    /// What it has come to.
    pub fn count(&self) -> Count {
        if self.granted.len() >= self.needed {
            return Count::Won;
        }
        let lost = self.against.len() + self.silent;
        if self.voters.saturating_sub(lost) >= self.needed {
            return Count::Open;
        }
        let is = |vote: Vote| self.against.values().any(|other| *other == vote);
        let worst = [Vote::Deadlock, Vote::Taken, Vote::NotYet];
        match worst.into_iter().find(|vote| is(*vote)) {
            // With those who are silent it could have been won.
            Some(vote) if self.voters - self.silent >= self.needed => Count::Lost(vote),
            _ => Count::TooFew,
        }
    }

    /// Whether a voter voted against it.
    pub fn is_against(&self, voter: &PeerId) -> bool {
        self.against.contains_key(voter)
    }

    /// All that the voters who granted it know to be released: what must be merged before it is used.
    pub const fn released(&self) -> &VersionVector {
        &self.released
    }
}

/// A lock that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// How.
    pub mode: LockMode,
    /// The attempt in which it was had: the same as long as it was never lost.
    pub grant: u64,
    /// The last attempt in which it was asked for.
    pub attempt: u64,
    /// Whether what was released before is merged here: until then nobody has it, and it is only kept from others.
    pub is_merged: bool,
    /// When it ends by the clock that never goes back.
    pub until_ms: u64,
    /// When it ends by the clock on the wall, which goes on while a machine sleeps.
    pub until_wall_ms: u64,
}

/// For how long a lease is relied on by whom it was given to: less than by the voter, so that clocks may
/// differ by a tenth in how fast they go, and half a second for what happens between a look at the clock and a deed.
pub const fn relied_on_ms(lease_ms: u64) -> u64 {
    lease_ms.saturating_sub(lease_ms / 10).saturating_sub(500)
}

impl Hold {
    /// Whether it may be relied on.
    pub const fn is_valid(&self, now_ms: u64, wall_ms: u64) -> bool {
        now_ms < self.until_ms && wall_ms < self.until_wall_ms
    }
}
