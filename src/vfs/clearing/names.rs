//! Everything that this replica names at one moment: the rows of the map, with all siblings; what changed files are
//! made of; contents that are to be let go or counted, since their manifests are read for that; and what only
//! the memory knows, as files that were removed and are still open.

use std::collections::HashSet;
use std::ops::Bound;

use bytes::Bytes;

use super::ClearingError;
use crate::base::{BlockId, Classify, PeerId};
use crate::content::overlay::Source;
use crate::dag::{self, Extent, NodeAt};
use crate::namespace::state::{decode_row, end_of};
use crate::namespace::{Body, Key, Rows, StateError, VersionVector, state};
use crate::store::{Order, Space, VolumeError, VolumeSnapshot};
use crate::vfs::checkpoint::{CAME, SnapshotRows, bodies};
use crate::vfs::feed::decode_base;
use crate::vfs::file::{Base, FileCell, NotedPlace};
use crate::vfs::inner::{Core, Inner};
use crate::vfs::ledger::{Tenant, decode_dropped};
use crate::vfs::notes::decode_piece;
use crate::vfs::remove::Gone;
use crate::vfs::rows::{BASES, BLOCKS, CHECKPOINTS, DROPPED, FILE_ROWS, PIECES, RECODED, pages};

/// Rows that are looked at in one turn on the disk's threads.
const ROWS: usize = 1024;
/// Nodes of manifests that are known to have been looked into.
const SEEN_MAX: usize = 1 << 20;
/// Less is merged than was asked for.
pub(super) const BEHIND: &str = "not everything is merged that the question names";

/// How much of a block a content counts for that has a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// That part, if the content can be moved: what has a manifest is not.
    InPart,
    /// All of it.
    AsAWhole,
}

/// What is named at one moment.
pub(super) struct Moment {
    rows: SnapshotRows,
    pub(super) version: VersionVector,
    /// What only the memory knows.
    bodies: Vec<Gone>,
    blocks: Vec<BlockId>,
}

/// Contents and single blocks that some rows name.
#[derive(Default)]
struct Found {
    bodies: Vec<Gone>,
    blocks: Vec<BlockId>,
    /// Where the next ones begin.
    next: Option<Vec<u8>>,
}

fn stored(body: &Body) -> Option<Gone> {
    match body {
        Body::Stored(profile, body) => Some((*profile, body.clone())),
        Body::Inline(_) => None,
    }
}

/// Contents that rows of the map name, from a key on.
pub(super) fn bodies_of(pairs: &[(Vec<u8>, Bytes)]) -> Result<Vec<Gone>, StateError> {
    let mut found = Vec::new();
    for (bytes, value) in pairs {
        if let Ok(key @ Key::Content(_)) = Key::decode(bytes) {
            found.extend(bodies(&decode_row(&key, value)?));
        }
    }
    Ok(found)
}

fn look_at_map(rows: &SnapshotRows, from: &[u8]) -> Result<Found, StateError> {
    let pairs = rows.scan(from, &end_of(FILE_ROWS), ROWS)?;
    let mut found = Found {
        bodies: bodies_of(&pairs)?,
        ..Found::default()
    };
    if pairs.len() == ROWS {
        found.next = pairs.last().map(|(key, _)| [key, [0].as_slice()].concat());
    }
    Ok(found)
}

fn look_at_space(
    rows: &VolumeSnapshot,
    (space, prefix): (Space, &[u8]),
    from: &[u8],
) -> Result<Found, VolumeError> {
    let start = Bound::Included(from);
    let page = rows.scan(space, start, Bound::Unbounded, Order::Ascending, ROWS)?;
    let mut found = Found::default();
    let mut is_beyond = false;
    for (key, value) in &page.rows {
        if !key.starts_with(prefix) {
            is_beyond = true;
            break;
        }
        if space == PIECES {
            if let Some(NotedPlace::Block(block, _)) = decode_piece(value).map(|noted| noted.place)
            {
                found.blocks.push(block.id);
            }
        } else if space == BASES {
            let ino = key.as_ref().try_into().map(crate::namespace::Ino);
            let content = ino.ok().and_then(|ino| decode_base(ino, value));
            found
                .bodies
                .extend(content.and_then(|content| stored(&content.body)));
        } else {
            let body = decode_dropped(value).map(|(body, _)| body);
            found.bodies.extend(body.and_then(|body| stored(&body)));
        }
    }
    let next = page.next.filter(|_| !is_beyond);
    found.next = next.map(|next| [next.as_ref(), &[0]].concat());
    Ok(found)
}

impl Inner {
    /// Blocks that this device placed, ascending, with the bytes of their plaintext. Reads tables.
    pub(super) fn own_blocks(&self) -> Result<Vec<(BlockId, u32)>, VolumeError> {
        let mut found = Vec::new();
        for page in pages(&self.volume, BLOCKS, &[], ROWS) {
            for (key, row) in page? {
                let id = <[u8; 32]>::try_from(key.as_ref()).map(BlockId);
                if let (Ok(id), Some(tenant)) = (id, Tenant::decode(&row)) {
                    found.push((id, tenant.plain_len));
                }
            }
        }
        Ok(found)
    }

    /// Takes hold of everything that is named at this moment, and begins to watch. The caller holds the turn of
    /// checkpoints and snapshots.
    pub(super) fn moment(
        &self,
        asker: PeerId,
        round: u64,
        above: Option<&VersionVector>,
        blocks: Vec<BlockId>,
    ) -> Result<Moment, ClearingError> {
        // What is opened of a snapshot from now on is one that is kept.
        self.forget_gone_snapshots()?;
        let core = self.core();
        self.checkpoints.gate.check()?;
        let version = state::version(&self.rows())?;
        if above.is_some_and(|above| !version.includes(above)) {
            return Err(ClearingError::Busy(BEHIND));
        }
        let rows = SnapshotRows(self.volume.snapshot());
        let (mut bodies, mut named) = self.in_memory(&core);
        let is_own = asker == self.identity.peer;
        if !(self.watches).begin(asker, round, version.clone(), blocks, is_own) {
            return Err(ClearingError::Busy("too many ask at a time"));
        }
        drop(core);
        let (more, blocks) = self.open_in_snapshots();
        bodies.extend(more);
        named.extend(blocks);
        Ok(Moment {
            rows,
            version,
            bodies,
            blocks: named,
        })
    }

    /// What files that are known name, changed or without a name as they may be.
    fn in_memory(&self, core: &Core) -> (Vec<Gone>, Vec<BlockId>) {
        let (mut bodies, mut blocks) = (Vec::new(), Vec::new());
        for node in core.inodes.all() {
            if let Some(orphan) = &node.orphan
                && let Some(content) = &orphan.stat.content
            {
                bodies.extend(stored(&content.body));
            }
            if let Some(file) = &node.file {
                self.names_of_file(file, &mut bodies, &mut blocks);
            }
        }
        (bodies, blocks)
    }

    fn names_of_file(&self, file: &FileCell, bodies: &mut Vec<Gone>, blocks: &mut Vec<BlockId>) {
        let state = self.lock(file);
        if let Base::Stored(profile, body) = &state.base {
            bodies.push((*profile, body.clone()));
        }
        blocks.extend(
            state
                .overlay
                .pieces()
                .filter_map(|piece| match piece.source {
                    Source::Block { block, .. } => Some(block.id),
                    _ => None,
                }),
        );
    }

    /// What files of snapshots that are open name.
    pub(super) fn open_in_snapshots(&self) -> (Vec<Gone>, Vec<BlockId>) {
        let (mut bodies, mut blocks) = (Vec::new(), Vec::new());
        for file in self.snapshots.open_files() {
            self.names_of_file(&file, &mut bodies, &mut blocks);
        }
        (bodies, blocks)
    }

    /// Blocks that changed files have, which the map does not name yet. The caller holds the core.
    pub(super) fn blocks_in_memory(&self, core: &Core) -> HashSet<BlockId> {
        self.in_memory(core).1.into_iter().collect()
    }

    /// Looks through everything that a moment names, and tells the watch.
    pub(super) async fn look_through_names(
        &self,
        asker: PeerId,
        round: u64,
        moment: Moment,
    ) -> Result<(), ClearingError> {
        let mut seen = HashSet::new();
        let disk = &self.blocks.pools().disk;
        self.watches.name(asker, round, moment.blocks.iter());
        self.walk(asker, round, (&moment.bodies, How::AsAWhole), &mut seen)
            .await?;
        // What is shared with those is not seen again, and need not be: it counts as in use.
        let mut next = Some(FILE_ROWS.to_vec());
        while let Some(from) = next {
            let rows = moment.rows.clone();
            let found = disk.run(move || look_at_map(&rows, &from)).await?;
            self.walk(asker, round, (&found.bodies, How::InPart), &mut seen)
                .await?;
            next = found.next;
        }
        let came: &'static [u8] = &[CAME];
        for (space, prefix) in [
            (PIECES, [].as_slice()),
            (BASES, &[]),
            (DROPPED, &[]),
            (RECODED, &[]),
            (CHECKPOINTS, came),
        ] {
            let mut next = Some(prefix.to_vec());
            while let Some(from) = next {
                let rows = moment.rows.0.clone();
                let look = move || look_at_space(&rows, (space, prefix), &from);
                let found = disk.run(look).await?;
                self.watches.name(asker, round, found.blocks.iter());
                self.walk(asker, round, (&found.bodies, How::AsAWhole), &mut seen)
                    .await?;
                next = found.next;
            }
        }
        Ok(())
    }

    /// The same of some contents.
    pub(super) async fn look_through_bodies(
        &self,
        asker: PeerId,
        round: u64,
        bodies: &[Gone],
    ) -> Result<(), ClearingError> {
        let mut seen = HashSet::new();
        self.walk(asker, round, (bodies, How::AsAWhole), &mut seen)
            .await
    }

    /// Tells the watch what contents name, down to the last node of their manifests.
    pub(super) async fn walk(
        &self,
        asker: PeerId,
        round: u64,
        (bodies, how): (&[Gone], How),
        seen: &mut HashSet<NodeAt>,
    ) -> Result<(), ClearingError> {
        let bytes = |len: u32| match how {
            How::InPart => u64::from(len),
            How::AsAWhole => u64::MAX,
        };
        for (profile, body) in bodies {
            let root = match body {
                dag::Body::Inline(extents) => {
                    let uses = extents.iter();
                    let uses = uses.map(|extent| (extent.block.id, bytes(extent.len)));
                    self.watches.use_bytes(asker, round, uses);
                    continue;
                }
                dag::Body::Manifest(root) => *root,
            };
            if seen.len() > SEEN_MAX {
                seen.clear();
            }
            let enters = |at: &NodeAt| {
                self.watches
                    .name(asker, round, std::iter::once(&at.block.id));
                seen.insert(*at)
            };
            let found = |extents: &[Extent]| {
                let blocks = extents.iter().map(|extent| &extent.block.id);
                self.watches.name(asker, round, blocks);
            };
            let walked = self
                .extent_map
                .walk(&self.blocks, *profile, root, enters, found);
            let walked = walked.await;
            walked.map_err(|error| ClearingError::Read(error.to_string(), error.class()))?;
        }
        Ok(())
    }
}
