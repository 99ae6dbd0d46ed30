//! The root of a checkpoint: its top page, and what had been merged.
//!
//! How far each feed was merged is not only said but shown, by the signed link of the last delta: a
//! replica that claimed to have merged more than there is would remove what it never saw.

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::build::Built;
use super::page::{LEVELS_MAX, RefWire, Tree, read_ref};
use crate::base::limits::{CHECKPOINT_WRITERS_MAX, DELTA_AHEAD_MAX_MS, PAGE_PLACE_MAX_BYTES};
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::sign::Purpose;
use crate::feeds::FeedError;
use crate::feeds::sealed::{FEED_VERSION, Link, check_version};
use crate::feeds::signed::{Record as SignedRecord, Signed};
use crate::namespace::{Hlc, VersionVector, WriterId};

/// Largest root.
pub const ROOT_MAX_BYTES: usize = CHECKPOINT_WRITERS_MAX * 640 + (4 << 10);

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The volume.
    pub volume: VolumeId,
    /// The latest moment in anything that was merged.
    pub hlc: Hlc,
    /// Rows.
    pub rows: u64,
    /// The last link of each feed that was merged, ascending by writer.
    pub heads: Vec<Signed<Link>>,
    /// The pages; none of a volume without rows.
    pub tree: Option<Tree>,
}

/// `[version, volume, hlc, rows, [signed link, ..], [level, page] or null]`.
type RootWire = (u8, VolumeId, Hlc, u64, Vec<ByteBuf>, Option<(u8, RefWire)>);

impl Root {
    /// The root of a checkpoint that was made of rows with the version vector `version`, while the feeds
    /// ended with `heads`.
    ///
    /// # Errors
    /// [`FeedError::Misuse`] if a feed does not end where the vector does: what is merged has to be in a
    /// feed first, one's own changes too.
    pub fn new(
        volume: VolumeId,
        hlc: Hlc,
        built: &Built,
        mut heads: Vec<Signed<Link>>,
        version: &VersionVector,
    ) -> Result<Root, FeedError> {
        heads.sort_by_key(|link| link.writer);
        let root = Root {
            volume,
            hlc,
            rows: built.rows,
            heads,
            tree: built.tree.clone(),
        };
        if root.heads.len() > CHECKPOINT_WRITERS_MAX {
            return Err(FeedError::Misuse("a checkpoint of too many writers"));
        }
        match root.version() == *version {
            true => Ok(root),
            false => Err(FeedError::Misuse(
                "a checkpoint of more or less than its feeds",
            )),
        }
    }

    /// From when on it may be merged (milliseconds since 1970): not while it has changes from the future.
    pub const fn due_ms(&self) -> u64 {
        self.hlc.ms().saturating_sub(DELTA_AHEAD_MAX_MS)
    }

    /// What had been merged.
    pub fn version(&self) -> VersionVector {
        let mut version = VersionVector::default();
        for link in &self.heads {
            version.raise(link.writer, link.last);
        }
        version
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let heads = self.heads.iter().map(|link| ByteBuf::from(link.encode()));
        let tree = self.tree.as_ref();
        wire::encode::<RootWire>(&(
            FEED_VERSION,
            self.volume,
            self.hlc,
            self.rows,
            heads.collect(),
            tree.map(|tree| (tree.level, RefWire::from(&tree.top))),
        ))
    }

    /// Reads a root from anywhere, and checks it and every signature in it: not for the reactor. That the
    /// writers are members is for the caller to know.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Root, FeedError> {
        let (version, volume, hlc, rows, heads, tree) =
            wire::decode_canonical::<RootWire>(bytes, ROOT_MAX_BYTES)?;
        check_version(version)?;
        if heads.len() > CHECKPOINT_WRITERS_MAX {
            return Err("a checkpoint of too many writers".into());
        }
        let heads = heads
            .iter()
            .map(|bytes| Signed::decode(bytes))
            .collect::<Result<Vec<Signed<Link>>, _>>()?;
        let ascend = heads.windows(2).all(|pair| match pair {
            [one, two] => one.writer < two.writer,
            _ => true,
        });
        if !ascend {
            return Err("writers of a checkpoint out of order".into());
        }
        if heads.iter().any(|link| link.volume != volume) {
            return Err(FeedError::OtherVolume);
        }
        let tree = match tree {
            None => None,
            Some((level, _)) if level > LEVELS_MAX => {
                return Err("a checkpoint with too many levels".into());
            }
            Some((level, top)) => Some(Tree {
                level,
                top: read_ref(top).map_err(|_| "an impossible page is named")?,
            }),
        };
        if tree.as_ref().map_or(0, |tree| tree.top.rows) != rows {
            return Err("a checkpoint whose rows do not add up".into());
        }
        Ok(Root {
            volume,
            hlc,
            rows,
            heads,
            tree,
        })
    }
}

/// A writer's word that a checkpoint is its own, and where it is: what is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of which volume.
    pub volume: VolumeId,
    /// Whose.
    pub writer: WriterId,
    /// When it was made; of two the later counts.
    pub hlc: Hlc,
    /// BLAKE3-256 of the root's bytes.
    pub root: super::PageHash,
    /// Bytes of the root.
    pub root_bytes: u32,
    /// Where the root is: what the layer above needs to fetch it.
    pub place: Bytes,
}

type RecordWire = (u8, VolumeId, WriterId, Hlc, super::PageHash, u32, ByteBuf);

impl SignedRecord for Record {
    const PURPOSE: Purpose = Purpose::Checkpoint;
    const MAX_BYTES: usize = PAGE_PLACE_MAX_BYTES + 256;

    fn signer(&self) -> PeerId {
        self.writer.peer
    }

    fn encode(&self) -> Vec<u8> {
        wire::encode::<RecordWire>(&(
            FEED_VERSION,
            self.volume,
            self.writer,
            self.hlc,
            self.root,
            self.root_bytes,
            ByteBuf::from(self.place.to_vec()),
        ))
    }

    fn decode(bytes: &[u8]) -> Result<Record, FeedError> {
        let (version, volume, writer, hlc, root, root_bytes, place) =
            wire::decode_canonical::<RecordWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let is_sound = place.len() <= PAGE_PLACE_MAX_BYTES
            && (1..=ROOT_MAX_BYTES).contains(&(root_bytes as usize));
        if !is_sound {
            return Err("a checkpoint at an impossible place".into());
        }
        Ok(Record {
            volume,
            writer,
            hlc,
            root,
            root_bytes,
            place: place.into_vec().into(),
        })
    }
}

/// What a record names, checked: the root of a checkpoint that somebody fetched.
///
/// # Errors
/// [`FeedError::Damaged`] if it is another; what is wrong with it.
pub fn open(record: &Record, bytes: &[u8]) -> Result<Root, FeedError> {
    if super::PageHash::of(bytes) != record.root {
        return Err(FeedError::Damaged);
    }
    let root = Root::decode(bytes)?;
    match root.volume == record.volume {
        true => Ok(root),
        false => Err(FeedError::OtherVolume),
    }
}
