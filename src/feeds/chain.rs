//! The feed of one writer as a replica or a holder knows it: how far it goes, what is its next delta,
//! and what its writer or somebody else does wrong.
//!
//! Whoever has no key can do all of this.

use std::collections::{BTreeMap, VecDeque};

use serde_bytes::ByteBuf;

use super::error::FeedError;
use super::sealed::{FEED_VERSION, Link, LinkHash, check_version};
use super::signed::{Record, Signed};
use crate::base::limits::{FEED_LINKS_KEPT, FEED_PROMISES_MAX};
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::sign::{Purpose, Signature};
use crate::namespace::id::PENDING;
use crate::namespace::{Hlc, WriterId};

/// What a writer says of its feed: how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of which volume.
    pub volume: VolumeId,
    /// Whose feed.
    pub writer: WriterId,
    /// Its last dot.
    pub last: u64,
    /// Its last delta.
    pub hash: LinkHash,
    /// When it was so.
    pub hlc: Hlc,
}

/// The array of which a [`Head`] and other words of a writer about a place in its feed consist.
type PlaceWire = (u8, VolumeId, WriterId, u64, LinkHash, Hlc);

/// Writes a place in a feed: a dot, the delta that ends there, and a moment.
pub(super) fn encode_place(
    (volume, writer): (VolumeId, WriterId),
    dot: u64,
    hash: LinkHash,
    hlc: Hlc,
) -> Vec<u8> {
    wire::encode::<PlaceWire>(&(FEED_VERSION, volume, writer, dot, hash, hlc))
}

/// Reads one.
///
/// # Errors
/// If it is none, of another version, or at a dot that cannot be.
pub(super) fn decode_place(bytes: &[u8], most: usize) -> Result<PlaceWire, FeedError> {
    let place = wire::decode_canonical::<PlaceWire>(bytes, most)?;
    check_version(place.0)?;
    match (1..PENDING).contains(&place.3) {
        true => Ok(place),
        false => Err("a place in a feed with an impossible dot".into()),
    }
}

impl Record for Head {
    const PURPOSE: Purpose = Purpose::FeedHead;
    const MAX_BYTES: usize = 256;

    fn signer(&self) -> PeerId {
        self.writer.peer
    }

    fn encode(&self) -> Vec<u8> {
        let feed = (self.volume, self.writer);
        encode_place(feed, self.last, self.hash, self.hlc)
    }

    fn decode(bytes: &[u8]) -> Result<Head, FeedError> {
        let (_, volume, writer, last, hash, hlc) = decode_place(bytes, Self::MAX_BYTES)?;
        Ok(Head {
            volume,
            writer,
            last,
            hash,
            hlc,
        })
    }
}

/// Two different deltas that follow the same one, or have dots in common, or both begin the feed: proof, to
/// whomever it is shown, that two feeds go by one name. The encoding is `[version, link, signature, link,
/// signature]`, the lesser hash first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkProof {
    one: Signed<Link>,
    two: Signed<Link>,
}

type ForkWire = (u8, ByteBuf, Signature, ByteBuf, Signature);

/// Whether no feed has both of two different links.
fn contradict(one: &Link, two: &Link) -> bool {
    let have_common_dots = one.first <= two.last && two.first <= one.last;
    (one.volume, one.writer) == (two.volume, two.writer)
        && (have_common_dots || one.previous == two.previous)
}

impl ForkProof {
    /// Largest encoding.
    pub const MAX_BYTES: usize = 2 * (Link::MAX_BYTES + 80) + 8;

    /// From two links; none if they prove nothing.
    pub fn new(one: Signed<Link>, two: Signed<Link>) -> Option<ForkProof> {
        let (one, two) = match one.hash().cmp(&two.hash()) {
            std::cmp::Ordering::Less => (one, two),
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => (two, one),
        };
        contradict(&one, &two).then_some(ForkProof { one, two })
    }

    /// The two links.
    pub const fn links(&self) -> (&Signed<Link>, &Signed<Link>) {
        (&self.one, &self.two)
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let body = |link: &Signed<Link>| ByteBuf::from(link.body().to_vec());
        wire::encode::<ForkWire>(&(
            FEED_VERSION,
            body(&self.one),
            *self.one.signature(),
            body(&self.two),
            *self.two.signature(),
        ))
    }

    /// Reads a proof and checks it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<ForkProof, FeedError> {
        let (version, one, one_signature, two, two_signature) =
            wire::decode_canonical::<ForkWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let one: Signed<Link> = Signed::from_parts(one.into_vec().into(), one_signature)?;
        let two: Signed<Link> = Signed::from_parts(two.into_vec().into(), two_signature)?;
        let is_sorted = one.hash() < two.hash();
        let proof = ForkProof::new(one, two).filter(|_| is_sorted);
        proof.ok_or(FeedError::Impossible("two links that prove no fork"))
    }
}

/// What a delta is to a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next one.
    Next,
    /// It is in the feed.
    Known,
    /// It was taken long ago, it or a rival: nobody here remembers which.
    Old,
    /// Deltas before it are missing: those after this dot. Where nobody has them any more, a checkpoint has
    /// what they did.
    Gap {
        /// The feed's last dot.
        after: u64,
    },
    /// It contradicts one that is in the feed.
    Forked(Box<ForkProof>),
    /// It follows another delta than the last one here. Those before it lead to the fork.
    Branch,
    /// It is beyond the dot at which the feed was cut, since it forked or its device was revoked.
    Cut {
        /// The last dot that is allowed.
        at: u64,
    },
}

/// What a signed head is to a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The feed goes further than was known.
    News,
    /// Nothing new.
    Known,
    /// It names another delta than the feed has at that dot: the writer forked.
    Contradiction,
    /// The writer said earlier that its feed was longer. It lost the end of it and goes on under the same name,
    /// or it lies.
    Retreat {
        /// What it said then.
        before: Box<Signed<Head>>,
    },
}

/// The feed of one writer.
#[derive(Clone, Debug)]
pub struct Feed {
    volume: VolumeId,
    writer: WriterId,
    /// The last ones, in order, without gaps.
    links: VecDeque<Signed<Link>>,
    announced: Option<Signed<Head>>,
    fork: Option<Fork>,
    revoked_at: Option<u64>,
}

#[derive(Clone, Debug)]
struct Fork {
    proof: ForkProof,
    /// Up to where the branch at hand is allowed.
    allowed: u64,
}

impl Feed {
    /// An empty feed.
    pub const fn new(volume: VolumeId, writer: WriterId) -> Feed {
        Feed {
            volume,
            writer,
            links: VecDeque::new(),
            announced: None,
            fork: None,
            revoked_at: None,
        }
    }

    /// A feed as it was left: its last links, or the last alone.
    ///
    /// # Errors
    /// If they are not one chain.
    pub fn restore(links: Vec<Signed<Link>>) -> Result<Feed, FeedError> {
        let Some(first) = links.first() else {
            return Err("a feed without a link".into());
        };
        let mut feed = Feed::new(first.volume, first.writer);
        feed.links.push_back(first.clone());
        for link in links.into_iter().skip(1) {
            feed.advance(link)?;
        }
        Ok(feed)
    }

    /// Whose it is.
    pub const fn writer(&self) -> WriterId {
        self.writer
    }

    /// The last link.
    pub fn head(&self) -> Option<&Signed<Link>> {
        self.links.back()
    }

    /// The last dot; 0 of an empty feed.
    pub fn last(&self) -> u64 {
        self.head().map_or(0, |link| link.last)
    }

    /// The last links, oldest first.
    pub fn links(&self) -> impl Iterator<Item = &Signed<Link>> {
        self.links.iter()
    }

    /// The proof that its writer forked.
    pub fn fork(&self) -> Option<&ForkProof> {
        self.fork.as_ref().map(|fork| &fork.proof)
    }

    /// The furthest head that its writer announced.
    pub const fn announced(&self) -> Option<&Signed<Head>> {
        self.announced.as_ref()
    }

    /// The dot beyond which nothing is taken; none if the feed is whole and sound.
    pub fn cut(&self) -> Option<u64> {
        let fork = self.fork.as_ref().map(|fork| fork.allowed);
        match (fork, self.revoked_at) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        }
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

    /// What a delta is to this feed. An empty feed begins with a delta that names none before it. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`]; of a link that leaves dots out behind the head that
    /// it names, which nothing will ever fill.
    pub fn check(&self, link: &Signed<Link>) -> Result<Verdict, FeedError> {
        self.check_name(link.volume, link.writer)?;
        let (last, hash) = (self.last(), link.hash());
        let (previous, is_empty) = (self.head().map(Signed::hash), self.links.is_empty());
        let is_next = link.previous == previous && (is_empty || link.first == last + 1);
        if !is_empty && link.previous == previous && link.first > last + 1 {
            return Err("a delta that leaves dots out".into());
        }
        if is_next {
            return Ok(match self.cut().filter(|cut| link.last > *cut) {
                Some(at) => Verdict::Cut { at },
                None => Verdict::Next,
            });
        }
        if self.links.iter().any(|known| known.hash() == hash) {
            return Ok(Verdict::Known);
        }
        let rival = self.links.iter().find(|known| contradict(known, link));
        let proof = rival.and_then(|rival| ForkProof::new(rival.clone(), link.clone()));
        if let Some(proof) = proof {
            return Ok(Verdict::Forked(Box::new(proof)));
        }
        // Where those before it are refused it never becomes the next.
        let beyond = self.cut().filter(|cut| link.last > *cut);
        Ok(match link.first {
            first if first > last + 1 => match beyond {
                Some(at) => Verdict::Cut { at },
                None => Verdict::Gap { after: last },
            },
            first if first == last + 1 => Verdict::Branch,
            _ => Verdict::Old,
        })
    }

    /// Takes the next delta, whose text is stored and whose effects are merged, or will be.
    ///
    /// # Errors
    /// [`FeedError::Misuse`] if it is not the next.
    pub fn advance(&mut self, link: Signed<Link>) -> Result<(), FeedError> {
        if self.check(&link)? != Verdict::Next {
            return Err(FeedError::Misuse("a link that is not the next of its feed"));
        }
        self.links.push_back(link);
        while self.links.len() > FEED_LINKS_KEPT {
            self.links.pop_front();
        }
        Ok(())
    }

    /// Goes to a later place, everything up to which was merged by a checkpoint.
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`]; [`FeedError::Misuse`] if it is not later.
    pub fn skip_to(&mut self, link: Signed<Link>) -> Result<(), FeedError> {
        self.check_name(link.volume, link.writer)?;
        if link.last <= self.last() {
            return Err(FeedError::Misuse("a place in a feed that is not later"));
        }
        self.links.clear();
        self.links.push_back(link);
        Ok(())
    }

    /// Keeps the proof of a fork. From now on nothing is taken but what is [allowed](Feed::allow).
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`].
    pub fn record_fork(&mut self, proof: ForkProof) -> Result<(), FeedError> {
        self.check_name(proof.one.volume, proof.one.writer)?;
        let allowed = self.last();
        self.fork.get_or_insert(Fork { proof, allowed });
        Ok(())
    }

    /// Another member's delta that was verified builds on this feed up to `dot`: after a fork, the
    /// branch at hand may go so far.
    pub fn allow(&mut self, dot: u64) {
        if let Some(fork) = &mut self.fork {
            fork.allowed = fork.allowed.max(dot);
        }
    }

    /// The device was revoked: nothing after `dot` is taken. What was taken stays, and a
    /// later call may move the cut.
    pub const fn revoke_at(&mut self, dot: u64) {
        self.revoked_at = Some(dot);
    }

    /// Up to where it goes since its device was revoked; none if it was not.
    pub const fn revoked_at(&self) -> Option<u64> {
        self.revoked_at
    }

    /// The device is a member after all: others invited it as well.
    pub const fn readmit(&mut self) {
        self.revoked_at = None;
    }

    /// A member that remains merged this feed up to `dot`: if the device was revoked, the feed goes so far at least.
    pub fn vouch(&mut self, dot: u64) {
        if let Some(end) = &mut self.revoked_at {
            *end = dot.max(*end);
        }
    }

    /// Takes note of what the writer says of its feed.
    ///
    /// # Errors
    /// [`FeedError::OtherVolume`], [`FeedError::OtherWriter`].
    pub fn announce(&mut self, head: Signed<Head>) -> Result<Announced, FeedError> {
        self.check_name(head.volume, head.writer)?;
        let mut links = self.links.iter();
        if let Some(link) = links.find(|link| (link.first..=link.last).contains(&head.last))
            && link.hash() != head.hash
        {
            return Ok(Announced::Contradiction);
        }
        let before = match &self.announced {
            Some(before) if before.last > head.last => {
                return Ok(match head.hlc > before.hlc {
                    true => Announced::Retreat {
                        before: Box::new(before.clone()),
                    },
                    false => Announced::Known,
                });
            }
            Some(before) if before.last == head.last && before.hash != head.hash => {
                return Ok(Announced::Contradiction);
            }
            Some(before) => before.last,
            None => 0,
        };
        let is_news = head.last > before.max(self.last());
        self.announced = Some(head);
        Ok(match is_news {
            true => Announced::News,
            false => Announced::Known,
        })
    }
}

/// A peer offers less of a feed than it showed that it knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The peer.
    pub peer: PeerId,
    /// The head that it announced, signed by the writer.
    pub announced: Box<Signed<Head>>,
    /// The last dot that it offers now.
    pub offered: u64,
}

/// The heads that peers announced, to which they are held.
#[derive(Clone, Debug, Default)]
pub struct Promises(BTreeMap<(PeerId, WriterId), Signed<Head>>);

impl Promises {
    /// `peer` announced a head of one volume's feed. False if there is no room to remember it.
    pub fn note(&mut self, peer: PeerId, head: Signed<Head>) -> bool {
        let key = (peer, head.writer);
        let has_room = self.0.len() < FEED_PROMISES_MAX || self.0.contains_key(&key);
        if has_room {
            let is_further = |known: &Signed<Head>| known.last < head.last;
            if self.0.get(&key).is_none_or(is_further) {
                self.0.insert(key, head);
            }
        }
        has_room
    }

    /// `peer` says that it has no more of a feed than up to the dot `offered`. What is wrong with that, if
    /// anything.
    pub fn check(&self, peer: PeerId, writer: WriterId, offered: u64) -> Option<Truncated> {
        let announced = self.0.get(&(peer, writer))?;
        (announced.last > offered).then(|| Truncated {
            peer,
            announced: Box::new(announced.clone()),
            offered,
        })
    }

    /// Forgets what a peer announced: it may have dropped what a checkpoint covers, or is gone.
    pub fn forget(&mut self, peer: PeerId) {
        self.0.retain(|(of, _), _| *of != peer);
    }
}
