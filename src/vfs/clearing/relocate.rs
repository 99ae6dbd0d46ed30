//! Bringing together what is left of blocks of which less than half is in use, in a volume that several machines write. Each
//! does it with the blocks that it placed. The contents stay the same for everybody: a relocation is no edit, and
//! yields to one (`namespace`). Files that are open here have their turn when they are closed; and those with
//! manifests stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{ClearingError, Relocated};
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, Classify, EcProfile};
use crate::content::ContentError;
use crate::dag::{self, Extent};
use crate::namespace::state::{decode_row, end_of};
use crate::namespace::{Body, Ino, Key, Rows, StateError, Value, VersionVector};
use crate::vfs::checkpoint::SnapshotRows;
use crate::vfs::errno::Stop;
use crate::vfs::inner::Inner;
use crate::vfs::ledger::{Born, Deltas};
use crate::vfs::read::ReadError;
use crate::vfs::rows::FILE_ROWS;

/// Rows that are looked at in one turn on the disk's threads.
const ROWS: usize = 1024;
/// Bytes that are moved in one round.
const ROUND_BYTES: u64 = 256 << 20;

/// A content with parts in sparse blocks.
struct Candidate {
    ino: Ino,
    version: VersionVector,
    profile: EcProfile,
    extents: Vec<Extent>,
}

/// A content whose sparse parts are in the block that is being filled: which of them, and where in it.
struct Move {
    from: Candidate,
    to: Vec<(usize, u32)>,
}

#[derive(Default)]
struct Filling {
    bytes: BytesMut,
    moves: Vec<Move>,
}

/// Contents with parts in some blocks among rows from a key on, and where the next rows begin.
fn candidates(
    rows: &SnapshotRows,
    from: &[u8],
    sparse: &BTreeSet<BlockId>,
) -> Result<(Vec<Candidate>, Option<Vec<u8>>), StateError> {
    let pairs = rows.scan(from, &end_of(FILE_ROWS), ROWS)?;
    let mut found = Vec::new();
    for (bytes, value) in &pairs {
        let Ok(key) = Key::decode(bytes) else {
            continue;
        };
        let Key::Content(ino) = &key else { continue };
        for sibling in decode_row(&key, value)?.iter() {
            let Value::Content(content) = &sibling.value else {
                continue;
            };
            let Body::Stored(profile, dag::Body::Inline(extents)) = &content.body else {
                continue;
            };
            let is_sparse = |extent: &Extent| sparse.contains(&extent.block.id);
            if extents.iter().any(is_sparse) {
                found.push(Candidate {
                    ino: *ino,
                    version: content.edits.clone(),
                    profile: *profile,
                    extents: extents.clone(),
                });
            }
        }
    }
    let is_more = pairs.len() == ROWS;
    let last = pairs.last().filter(|_| is_more);
    Ok((found, last.map(|(key, _)| [key, [0].as_slice()].concat())))
}

impl Inner {
    /// Moves what is left of some blocks to new ones, as far as one round goes.
    pub(super) async fn relocate(
        self: &Arc<Self>,
        sparse: BTreeSet<BlockId>,
    ) -> Result<Relocated, ClearingError> {
        let mut done = Relocated::default();
        // A block has contents of one redundancy.
        let mut fillings: BTreeMap<EcProfile, Filling> = BTreeMap::new();
        let sparse = Arc::new(sparse);
        let rows = SnapshotRows(self.volume.snapshot());
        let mut next = Some(FILE_ROWS.to_vec());
        while let Some(from) = next.filter(|_| done.bytes < ROUND_BYTES) {
            let (rows, among) = (rows.clone(), Arc::clone(&sparse));
            let look = move || candidates(&rows, &from, &among);
            let (found, more) = self.blocks.pools().disk.run(look).await?;
            for candidate in found {
                if self.is_known(candidate.ino) {
                    continue;
                }
                let is_sparse = |extent: &&Extent| sparse.contains(&extent.block.id);
                let left = candidate.extents.iter().filter(is_sparse);
                let bytes: usize = left.map(|extent| extent.len as usize).sum();
                if bytes > CHUNK_MAX_BYTES {
                    continue;
                }
                let profile = candidate.profile;
                let filling = fillings.entry(profile).or_default();
                if filling.bytes.len() + bytes > CHUNK_MAX_BYTES {
                    self.land_moves(profile, filling, &mut done).await?;
                }
                self.take_in(candidate, &sparse, filling).await?;
            }
            next = more;
        }
        for (profile, filling) in &mut fillings {
            self.land_moves(*profile, filling, &mut done).await?;
        }
        Ok(done)
    }

    /// Whether a file is open, or has changes that are not described.
    fn is_known(&self, ino: Ino) -> bool {
        let core = self.core();
        let node = core.inodes.get(core.inodes.number(ino));
        node.is_some_and(|node| node.file.is_some())
    }

    async fn take_in(
        &self,
        candidate: Candidate,
        sparse: &BTreeSet<BlockId>,
        filling: &mut Filling,
    ) -> Result<(), ClearingError> {
        let mut to = Vec::new();
        for (number, extent) in candidate.extents.iter().enumerate() {
            if !sparse.contains(&extent.block.id) {
                continue;
            }
            let range = extent.block_offset..extent.block_offset.saturating_add(extent.len);
            let read = self
                .blocks
                .read_range(&extent.block, candidate.profile, range);
            let bytes: Bytes = read
                .await
                .map_err(|e| ReadError::from(ContentError::from(e)))?;
            if bytes.len() != extent.len as usize {
                return Err(ReadError::Short.into());
            }
            to.push((number, filling.bytes.len() as u32));
            filling.bytes.extend_from_slice(&bytes);
        }
        filling.moves.push(Move {
            from: candidate,
            to,
        });
        Ok(())
    }

    /// Places what was taken in, and says of each content where it is now.
    async fn land_moves(
        self: &Arc<Self>,
        profile: EcProfile,
        filling: &mut Filling,
        done: &mut Relocated,
    ) -> Result<(), ClearingError> {
        let Filling { bytes, moves } = std::mem::take(filling);
        if moves.is_empty() {
            return Ok(());
        }
        let born = self.place(bytes.freeze(), profile).await;
        let born = born.map_err(|error| ClearingError::Read(error.to_string(), error.class()))?;
        while let Err(stop) = self.adopt(&born) {
            self.wait_for_room(stop).await?;
        }
        for moved in &moves {
            loop {
                match self.say_where(moved, &born) {
                    Ok(bytes) => {
                        done.files += u64::from(bytes > 0);
                        done.bytes += bytes;
                        break;
                    }
                    Err(stop) => self.wait_for_room(stop).await?,
                }
            }
        }
        Ok(())
    }

    async fn wait_for_room(&self, stop: Stop) -> Result<(), ClearingError> {
        match stop {
            Stop::Busy if self.room().await.is_ok() => Ok(()),
            _ => Err(ClearingError::Busy("the volume takes no changes now")),
        }
    }

    /// Answers how many bytes moved: none if the content is another one by now.
    fn say_where(&self, moved: &Move, born: &Born) -> Result<u64, Stop> {
        let Candidate {
            ino,
            version,
            profile,
            extents,
        } = &moved.from;
        let mut core = self.core();
        let node = core.inodes.get(core.inodes.number(*ino));
        if node.is_some_and(|node| node.file.is_some()) {
            return Ok(0);
        }
        let (mut new, mut deltas, mut bytes) = (extents.clone(), Deltas::default(), 0);
        for (number, at) in &moved.to {
            let Some(extent) = new.get_mut(*number) else {
                continue;
            };
            deltas.extents(std::slice::from_ref(extent), -1);
            extent.block = born.block;
            extent.block_offset = *at;
            deltas.extents(std::slice::from_ref(extent), 1);
            bytes += u64::from(extent.len);
        }
        let body = Body::Stored(*profile, dag::Body::Inline(new));
        let edited = self.edit(&core, self.now(), |edit| edit.relocate(*ino, version, body));
        let edited = match edited {
            Ok(edited) => edited,
            // It was edited or removed meanwhile.
            Err(Stop::Errno(cairnfs_fuse::Errno::EAGAIN)) => return Ok(0),
            Err(stop) => return Err(stop),
        };
        self.commit_counted(&mut core, edited, &deltas)?;
        core.changed(&[*ino]);
        Ok(bytes)
    }
}
