//! A delta as it travels and rests: a signed link in clear, and the delta sealed.
//!
//! The link names the link before it and the hash of the sealed text, so a chain can be checked by its
//! links alone, by whoever has them; each is some 300 bytes. The hash of a link is the name of its delta.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::ByteBuf;

use super::error::FeedError;
use super::signed::{Record, Signed};
use crate::base::ids::byte_id;
use crate::base::limits::{DELTA_MAX_BYTES, SEALED_DELTA_MAX_BYTES};
use crate::base::wire::{self, WireError};
use crate::base::{PeerId, VolumeId};
use crate::crypto::epoch::SEALING_BYTES;
use crate::crypto::sign::{Purpose, Signature, SigningKey};
use crate::crypto::{EpochKey, MessageTag};
use crate::namespace::id::PENDING;
use crate::namespace::{Delta, WriterId};

/// Version of the encodings of this layer.
pub const FEED_VERSION: u8 = 1;
/// Most dots that one delta can have: each value of it takes a byte at least.
const DOTS_MAX: u64 = DELTA_MAX_BYTES as u64;

byte_id!(
    /// Names a delta: BLAKE3-256 of its link.
    LinkHash,
    32
);

byte_id!(
    /// BLAKE3-256 of a sealed text.
    TextHash,
    32
);

impl fmt::Debug for LinkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(self.0.first_chunk::<6>().unwrap_or(&[0; 6])))
    }
}

impl fmt::Debug for TextHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What everybody may know of a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of which volume.
    pub volume: VolumeId,
    /// Who made it; its device signs.
    pub writer: WriterId,
    /// First dot.
    pub first: u64,
    /// Last dot.
    pub last: u64,
    /// Under the key of which epoch it is sealed.
    pub epoch: u32,
    /// The delta before it in its writer's feed. None at the beginning, which need not be the first dot:
    /// what a writer did while it shared nothing is in its checkpoint alone.
    pub previous: Option<LinkHash>,
    /// What the key of the text follows from, together with the epoch's.
    pub tag: MessageTag,
    /// The sealed text.
    pub text: TextHash,
    /// Bytes of the sealed text.
    pub text_bytes: u32,
}

/// What is known before the text: it is bound to the text by the cipher.
type HeaderWire = (u8, VolumeId, WriterId, u64, u64, u32, Option<LinkHash>);
type LinkWire = (
    u8,
    VolumeId,
    WriterId,
    u64,
    u64,
    u32,
    Option<LinkHash>,
    MessageTag,
    TextHash,
    u32,
);

impl Link {
    fn header(&self) -> Vec<u8> {
        wire::encode::<HeaderWire>(&(
            FEED_VERSION,
            self.volume,
            self.writer,
            self.first,
            self.last,
            self.epoch,
            self.previous,
        ))
    }

    fn check(&self) -> Result<(), FeedError> {
        if self.first == 0 || self.last < self.first || self.last >= PENDING {
            return Err("a delta with impossible dots".into());
        }
        if self.last - self.first >= DOTS_MAX {
            return Err("a delta with too many dots".into());
        }
        if self.previous.is_some() && self.first == 1 {
            return Err("a delta before the first".into());
        }
        let texts = SEALING_BYTES + 1..=DELTA_MAX_BYTES + SEALING_BYTES;
        if !texts.contains(&(self.text_bytes as usize)) {
            return Err("a delta of impossible length".into());
        }
        Ok(())
    }
}

impl Record for Link {
    const PURPOSE: Purpose = Purpose::FeedLink;
    const MAX_BYTES: usize = 512;

    fn signer(&self) -> PeerId {
        self.writer.peer
    }

    fn encode(&self) -> Vec<u8> {
        wire::encode::<LinkWire>(&(
            FEED_VERSION,
            self.volume,
            self.writer,
            self.first,
            self.last,
            self.epoch,
            self.previous,
            self.tag,
            self.text,
            self.text_bytes,
        ))
    }

    fn decode(bytes: &[u8]) -> Result<Link, FeedError> {
        let (version, volume, writer, first, last, epoch, previous, tag, text, text_bytes) =
            wire::decode_canonical::<LinkWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let link = Link {
            volume,
            writer,
            first,
            last,
            epoch,
            previous,
            tag,
            text,
            text_bytes,
        };
        link.check()?;
        Ok(link)
    }
}

impl Signed<Link> {
    /// The name of the delta.
    pub fn hash(&self) -> LinkHash {
        LinkHash(*blake3::hash(self.body()).as_bytes())
    }
}

pub(super) fn check_version(found: u8) -> Result<(), WireError> {
    match found == FEED_VERSION {
        true => Ok(()),
        false => Err(WireError::Version {
            found: found.into(),
            known: FEED_VERSION.into(),
        }),
    }
}

fn text_hash(text: &[u8]) -> TextHash {
    TextHash(*blake3::hash(text).as_bytes())
}

/// A delta with its link, of which everything was checked that can be without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedDelta {
    link: Signed<Link>,
    text: Bytes,
}

type SealedWire = (ByteBuf, Signature, ByteBuf);

impl SealedDelta {
    /// Seals a delta of the own device, which follows `previous` in its feed, or begins it: once only, and at any
    /// dot. (A delta without writes begins the feed of a writer that has something to share and nothing new.)
    /// Sealing the same again makes the same bytes.
    ///
    /// # Errors
    /// [`FeedError::Misuse`] if it is another device's, or does not follow; if it is too large.
    pub fn seal(
        delta: &Delta,
        volume: VolumeId,
        previous: Option<&Signed<Link>>,
        (epoch, key): (u32, &EpochKey),
        device: &SigningKey,
    ) -> Result<SealedDelta, FeedError> {
        let follows = previous.is_none_or(|link| {
            link.volume == volume && link.writer == delta.writer && link.last + 1 == delta.first
        });
        if !follows {
            return Err(FeedError::Misuse("a delta that follows another one"));
        }
        let plain = delta.encode();
        if plain.len() > DELTA_MAX_BYTES {
            return Err(FeedError::Misuse("a delta that is too large"));
        }
        let mut link = Link {
            volume,
            writer: delta.writer,
            first: delta.first,
            last: delta.last(),
            epoch,
            previous: previous.map(Signed::hash),
            tag: MessageTag([0; 32]),
            text: TextHash([0; 32]),
            text_bytes: 0,
        };
        let (tag, text) = key.seal(&link.header(), &plain)?;
        link.tag = tag;
        link.text = text_hash(&text);
        link.text_bytes = text.len() as u32;
        Ok(SealedDelta {
            link: Signed::sign(link, device)?,
            text: text.into(),
        })
    }

    /// Puts a link and its text together.
    ///
    /// # Errors
    /// [`FeedError::Damaged`].
    pub fn from_parts(link: Signed<Link>, text: Bytes) -> Result<SealedDelta, FeedError> {
        if text.len() != link.text_bytes as usize || text_hash(&text) != link.text {
            return Err(FeedError::Damaged);
        }
        Ok(SealedDelta { link, text })
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let body = ByteBuf::from(self.link.body().to_vec());
        let text = ByteBuf::from(self.text.to_vec());
        wire::encode::<SealedWire>(&(body, *self.link.signature(), text))
    }

    /// Reads a sealed delta from anywhere and checks form, signature and text, of up to 4 MiB: not for the
    /// reactor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<SealedDelta, FeedError> {
        let (body, signature, text) =
            wire::decode_canonical::<SealedWire>(bytes, SEALED_DELTA_MAX_BYTES)?;
        let link = Signed::from_parts(body.into_vec().into(), signature)?;
        SealedDelta::from_parts(link, text.into_vec().into())
    }

    /// The delta, which is the one that the link names.
    ///
    /// # Errors
    /// [`FeedError::Sealed`] with another key than that of the link's epoch; [`FeedError::Delta`] and
    /// [`FeedError::Mismatch`] if its writer sealed something else.
    pub fn open(&self, key: &EpochKey) -> Result<Delta, FeedError> {
        let plain = key.open(&self.link.header(), &self.link.tag, &self.text)?;
        let delta = Delta::decode(&plain).map_err(FeedError::Delta)?;
        let link = &self.link;
        if (delta.writer, delta.first, delta.last()) != (link.writer, link.first, link.last) {
            return Err(FeedError::Mismatch);
        }
        Ok(delta)
    }

    /// The link.
    pub const fn link(&self) -> &Signed<Link> {
        &self.link
    }

    /// The sealed text.
    pub const fn text(&self) -> &Bytes {
        &self.text
    }

    /// The name of the delta.
    pub fn hash(&self) -> LinkHash {
        self.link.hash()
    }

    /// Bytes of the encoding, to within 20.
    pub fn len_bytes(&self) -> usize {
        self.link.body().len() + self.text.len() + 80
    }
}
