//! The root of a snapshot: the top pages of two trees.
//!
//! The first tree has the rows that replicas share, and is cut as that of a checkpoint is, so that both have pages in
//! common. The second has the rows that are derived from them and say what the tree of files shows, since whoever looks
//! into a snapshot cannot derive them without reading all of it. Their keys stand in it without the highest bit.
//!
//! Nobody merges a snapshot, so it has no heads of feeds: a volume that nobody shared has none.

use super::PageFault;
use super::page::{LEVELS_MAX, RefWire, Tree, read_ref};
use crate::base::{VolumeId, wire};
use crate::feeds::FeedError;
use crate::feeds::sealed::{FEED_VERSION, check_version};

/// Largest root of a snapshot.
pub const SNAPSHOT_ROOT_MAX_BYTES: usize = 8 << 10;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRoot {
    /// The volume.
    pub volume: VolumeId,
    /// When it was made (milliseconds since 1970).
    pub made_ms: u64,
    /// The rows that replicas share; none of a volume without rows.
    pub rows: Option<Tree>,
    /// Those derived from them.
    pub derived: Option<Tree>,
}

type TreeWire = Option<(u8, RefWire)>;
/// `[version, volume, made, [level, page] or null, [level, page] or null]`.
type RootWire = (u8, VolumeId, u64, TreeWire, TreeWire);

fn tree_out(tree: Option<&Tree>) -> TreeWire {
    tree.map(|tree| (tree.level, RefWire::from(&tree.top)))
}

fn tree_in(wire: TreeWire) -> Result<Option<Tree>, PageFault> {
    match wire {
        None => Ok(None),
        Some((level, _)) if level > LEVELS_MAX => Err("a snapshot with too many levels".into()),
        Some((level, top)) => Ok(Some(Tree {
            level,
            top: read_ref(top)?,
        })),
    }
}

impl SnapshotRoot {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode::<RootWire>(&(
            FEED_VERSION,
            self.volume,
            self.made_ms,
            tree_out(self.rows.as_ref()),
            tree_out(self.derived.as_ref()),
        ))
    }

    /// Reads a root from anywhere.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotRoot, FeedError> {
        let (version, volume, made_ms, rows, derived) =
            wire::decode_canonical::<RootWire>(bytes, SNAPSHOT_ROOT_MAX_BYTES)?;
        check_version(version)?;
        let tree = |wire| tree_in(wire).map_err(|_| "an impossible page is named");
        Ok(SnapshotRoot {
            volume,
            made_ms,
            rows: tree(rows)?,
            derived: tree(derived)?,
        })
    }
}
