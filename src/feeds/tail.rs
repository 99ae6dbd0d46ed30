//! The end of a feed as somebody keeps it who has no key, so that what its writer did last outlives the writer.
//!
//! A tail begins where the feed does, or right behind the delta up to which the writer itself says that a checkpoint
//! makes up for all; each delta follows the one before. So whoever keeps it takes nothing from anybody that the writer did
//! not sign, in its order; nobody but the writer makes it shorter; and of two branches the first stays.

use super::chain::{decode_place, encode_place};
use super::error::FeedError;
use super::sealed::{Link, LinkHash};
use super::signed::{Record, Signed};
use crate::base::{PeerId, VolumeId};
use crate::crypto::sign::Purpose;
use crate::namespace::{Hlc, WriterId};

/// A writer's word that others find a checkpoint of its own in which everything is that it wrote up to a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Of which volume.
    pub volume: VolumeId,
    /// Whose feed.
    pub writer: WriterId,
    /// The last dot that is in the checkpoint.
    pub upto: u64,
    /// The delta that ends there.
    pub hash: LinkHash,
    /// Of when the checkpoint is.
    pub hlc: Hlc,
}

impl Record for Covered {
    const PURPOSE: Purpose = Purpose::FeedCovered;
    const MAX_BYTES: usize = 256;

    fn signer(&self) -> PeerId {
        self.writer.peer
    }

    fn encode(&self) -> Vec<u8> {
        let feed = (self.volume, self.writer);
        encode_place(feed, self.upto, self.hash, self.hlc)
    }

    fn decode(bytes: &[u8]) -> Result<Covered, FeedError> {
        let (_, volume, writer, upto, hash, hlc) = decode_place(bytes, Self::MAX_BYTES)?;
        Ok(Covered {
            volume,
            writer,
            upto,
            hash,
            hlc,
        })
    }
}

/// What a delta is to a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The next one.
    Next,
    /// Its dots were taken before, by it or by a rival: the first stays.
    Known,
    /// Deltas before it are missing.
    Gap,
    /// It contradicts the last one: the writer forked.
    Forked,
}

/// What a writer's word about a checkpoint does to a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// Nothing: it is not newer than what is known.
    Older,
    /// Deltas up to there go.
    Part,
    /// All deltas go.
    All,
    /// It contradicts what is there: the writer forked.
    Forked,
}

/// How far the end of a feed goes, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    volume: VolumeId,
    writer: WriterId,
    covered: Option<Signed<Covered>>,
    head: Option<Signed<Link>>,
}

impl Tail {
    /// Of a feed of which nothing is known.
    pub const fn new(volume: VolumeId, writer: WriterId) -> Tail {
        Tail {
            volume,
            writer,
            covered: None,
            head: None,
        }
    }

    /// A tail as it was left: behind which word, and up to which delta.
    ///
    /// # Errors
    /// If they are not of this feed, or not in this order.
    pub fn restore(
        volume: VolumeId,
        writer: WriterId,
        covered: Option<Signed<Covered>>,
        head: Option<Signed<Link>>,
    ) -> Result<Tail, FeedError> {
        let tail = Tail {
            volume,
            writer,
            covered,
            head,
        };
        if let Some(covered) = &tail.covered {
            tail.check_name(covered.volume, covered.writer)?;
        }
        if let Some(head) = &tail.head {
            tail.check_name(head.volume, head.writer)?;
            if head.last <= tail.start() {
                return Err("the end of a feed before its beginning".into());
            }
        }
        Ok(tail)
    }

    /// Of which volume.
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Whose.
    pub const fn writer(&self) -> WriterId {
        self.writer
    }

    /// The writer's last word about a checkpoint.
    pub const fn covered(&self) -> Option<&Signed<Covered>> {
        self.covered.as_ref()
    }

    /// The last delta; none if there is none behind the beginning.
    pub const fn head(&self) -> Option<&Signed<Link>> {
        self.head.as_ref()
    }

    /// The dot behind which it begins.
    pub fn start(&self) -> u64 {
        self.covered.as_ref().map_or(0, |covered| covered.upto)
    }

    /// The last dot.
    pub fn last(&self) -> u64 {
        self.end().map_or(0, |(last, _)| last)
    }

    /// The last dot, and the delta that ends there.
    pub fn end(&self) -> Option<(u64, LinkHash)> {
        let covered = self.covered.as_ref();
        let covered = covered.map(|covered| (covered.upto, covered.hash));
        let head = self.head.as_ref().map(|head| (head.last, head.hash()));
        head.or(covered)
    }

    fn check_name(&self, volume: VolumeId, writer: WriterId) -> Result<(), FeedError> {
        if volume != self.volume {
            return Err(FeedError::OtherVolume);
        }
        if writer != self.writer {
            return Err(FeedError::OtherWriter);
        }
        Ok(())
    }

    /// What a delta is to this tail. Changes nothing.
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`]; of a delta that leaves dots out behind the one that it
    /// names, which nothing will ever fill.
    pub fn check(&self, link: &Signed<Link>) -> Result<Fit, FeedError> {
        self.check_name(link.volume, link.writer)?;
        let Some((last, hash)) = self.end() else {
            return Ok(match link.previous {
                None => Fit::Next,
                Some(_) => Fit::Gap,
            });
        };
        let follows = link.previous == Some(hash);
        if link.last < last || link.last == last && link.hash() == hash {
            return Ok(Fit::Known);
        }
        if link.first <= last {
            return Ok(Fit::Forked);
        }
        match (follows, link.first == last + 1) {
            (true, true) => Ok(Fit::Next),
            (true, false) => Err("a delta that leaves dots out".into()),
            (false, true) => Ok(Fit::Forked),
            (false, false) => Ok(Fit::Gap),
        }
    }

    /// Takes the next delta, whose text is stored, or will be.
    ///
    /// # Errors
    /// [`FeedError::Misuse`] if it is not the next.
    pub fn append(&mut self, link: Signed<Link>) -> Result<(), FeedError> {
        if self.check(&link)? != Fit::Next {
            return Err(FeedError::Misuse("a link that is not the next of its tail"));
        }
        self.head = Some(link);
        Ok(())
    }

    /// What the writer's word about a checkpoint does to this tail. `ends_at` is the delta here that ends with a dot, if
    /// one does. Changes nothing.
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`].
    pub fn look_at(
        &self,
        covered: &Signed<Covered>,
        ends_at: Option<LinkHash>,
    ) -> Result<Cover, FeedError> {
        self.check_name(covered.volume, covered.writer)?;
        let (upto, hash) = (covered.upto, covered.hash);
        if let Some(known) = &self.covered
            && upto <= known.upto
        {
            let is_rival = upto == known.upto && hash != known.hash;
            return Ok(if is_rival {
                Cover::Forked
            } else {
                Cover::Older
            });
        }
        Ok(match &self.head {
            None => Cover::All,
            Some(head) if upto > head.last => Cover::All,
            Some(head) if upto == head.last && hash == head.hash() => Cover::All,
            Some(head) if upto < head.last && ends_at == Some(hash) => Cover::Part,
            Some(_) => Cover::Forked,
        })
    }

    /// Begins behind what the writer's word names from now on; see [`look_at`](Self::look_at).
    ///
    /// # Errors
    /// As for looking at it.
    pub fn cover(
        &mut self,
        covered: Signed<Covered>,
        ends_at: Option<LinkHash>,
    ) -> Result<Cover, FeedError> {
        let found = self.look_at(&covered, ends_at)?;
        if found == Cover::All {
            self.head = None;
        }
        if matches!(found, Cover::All | Cover::Part) {
            self.covered = Some(covered);
        }
        Ok(found)
    }
}
