//! Contents of many blocks: a block at a time. How far it is stands in rows, which count as uses of the new blocks; the content's
//! row takes them over when all are there. Until then a crash costs one block, and what is not wanted any more is dropped like
//! any content.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::exchange::{Exchanged, Old, check_safe};
use super::{PAGE, RecodeError, Task, Work};
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{EcProfile, wire};
use crate::content::ContentError;
use crate::dag::file::INLINE_EXTENTS_MAX;
use crate::dag::{self, Extent, FileContent, NodeBudget, Patch};
use crate::namespace::{Body, Ino};
use crate::store::Group;
use crate::vfs::errno::Step;
use crate::vfs::inner::Inner;
use crate::vfs::land::push_extent;
use crate::vfs::ledger::{Deltas, decode_dropped, encode_dropped};
use crate::vfs::read::ReadError;
use crate::vfs::remove::{Gone, drop_body_as};
use crate::vfs::rows::{RECODED, pages};

/// Version of the first row.
const VERSION: u8 = 1;
/// Longest first row that is read.
const HEAD_MAX_BYTES: usize = 256;
/// Extents of one block that are noted in one row: as many as fit.
const EXTENTS_PER_ROW: usize = 96;
/// Rows that are dropped in one group.
const ROWS_PER_GROUP: usize = 64;

/// A content that is being moved.
#[derive(Debug)]
pub(super) struct Large {
    task: Task,
    /// Where it is in new blocks, from its beginning.
    new: Vec<Extent>,
    /// Everything before is there.
    upto: u64,
    /// Rows that say so, the first one not counted.
    rows: u32,
}

/// `[version, [data, parity], hash of what is moved]`.
type HeadRow = (u8, EcProfile, serde_bytes::ByteArray<32>);

/// Tells one content in its old blocks from any other.
fn hash_of(task: &Task) -> [u8; 32] {
    *blake3::hash(&encode_dropped(task.profile, &task.body, 0)).as_bytes()
}

fn key_of(ino: Ino, number: u32) -> Vec<u8> {
    [&ino.0[..], &number.to_be_bytes()].concat()
}

/// What rows say of a file that was begun.
struct Begun {
    target: EcProfile,
    hash: [u8; 32],
    new: Vec<Extent>,
    rows: u32,
}

impl Inner {
    /// Goes on with the first of the queue, by one block. Answers how many bytes that is.
    pub(super) async fn recode_large(
        self: &Arc<Self>,
        work: &mut Work,
        task: Task,
    ) -> Result<u64, RecodeError> {
        let is_under_way = |large: &Large| {
            large.task.ino == task.ino
                && large.task.version == task.version
                && large.task.body == task.body
        };
        let under_way = work.large.take().filter(is_under_way);
        let has_more = task.has_more;
        let mut large = match under_way {
            Some(large) => large,
            None if !self.is_quiet_file(&task)? => {
                work.is_partial = true;
                self.leave(work);
                return Ok(0);
            }
            None => self.resume(task)?,
        };
        let moved = self.move_block(&mut large).await?;
        if moved > 0 {
            work.large = Some(large);
            return Ok(moved);
        }
        match self.finish(&large).await? {
            Exchanged::Done if has_more => work.ask_again(large.task.ino),
            Exchanged::Done => {}
            Exchanged::Changed => self.abandon(large.task.ino)?,
            // What is there serves the next time, if the content is the same then.
            Exchanged::InUse => work.is_partial = true,
        }
        self.leave(work);
        Ok(0)
    }

    /// What there is of a content already, if that is still wanted.
    fn resume(&self, mut task: Task) -> Result<Large, RecodeError> {
        if let Some(begun) = self.begun_of(task.ino)? {
            if begun.hash == hash_of(&task) && self.would_do(task.ino, begun.target)? {
                task.target = begun.target;
                return Ok(Large {
                    task,
                    upto: begun.new.last().map_or(0, Extent::end),
                    new: begun.new,
                    rows: begun.rows,
                });
            }
            self.abandon(task.ino)?;
        }
        Ok(Large {
            task,
            new: Vec::new(),
            upto: 0,
            rows: 0,
        })
    }

    fn begun_of(&self, ino: Ino) -> Result<Option<Begun>, RecodeError> {
        let mut begun = None;
        for page in pages(&self.volume, RECODED, &ino.0, PAGE) {
            for (key, row) in page? {
                if key.as_ref() == key_of(ino, 0).as_slice() {
                    let head = wire::decode::<HeadRow>(&row, HEAD_MAX_BYTES);
                    begun = head
                        .ok()
                        .filter(|head| head.0 == VERSION)
                        .map(|(_, target, hash)| Begun {
                            target,
                            hash: hash.into_array(),
                            new: Vec::new(),
                            rows: 0,
                        });
                } else if let Some(begun) = &mut begun
                    && let Some((Body::Stored(_, dag::Body::Inline(extents)), _)) =
                        decode_dropped(&row)
                {
                    begun.new.extend(extents);
                    begun.rows += 1;
                }
            }
        }
        Ok(begun)
    }

    /// Places the next block. Answers how many bytes are in it: none if there is nothing more.
    async fn move_block(&self, large: &mut Large) -> Result<u64, RecodeError> {
        let Task {
            ino,
            profile,
            body,
            target,
            ..
        } = &large.task;
        let map = &self.extent_map;
        let most = EXTENTS_PER_ROW + 1;
        let found = map.first_extents(&self.blocks, *profile, body, large.upto, u64::MAX, most);
        let found = found.await?;
        let (mut block, mut old, mut new) = (BytesMut::new(), Vec::new(), Vec::new());
        for extent in &found {
            let Some(left) = extent.clip(large.upto, u64::MAX) else {
                continue;
            };
            let room = CHUNK_MAX_BYTES - block.len();
            let Some(part) = left.clip(left.offset, left.offset + room as u64) else {
                break;
            };
            if new.len() >= EXTENTS_PER_ROW {
                break;
            }
            let range = part.block_offset..part.block_offset.saturating_add(part.len);
            let read = self.blocks.read_range(&part.block, *profile, range);
            let bytes = read.await.map_err(ContentError::from)?;
            if bytes.len() != part.len as usize {
                return Err(ReadError::Short.into());
            }
            new.push((part, block.len() as u32));
            old.push(part.block.id);
            block.extend_from_slice(&bytes);
        }
        if new.is_empty() {
            return Ok(0);
        }
        let bytes = block.len() as u64;
        let losses = self.losses_to_survive(*target, old.into_iter())?;
        let born = self.place(block.freeze(), *target).await?;
        self.hold_block(&born);
        self.when_there_is_room(|| self.adopt(&born)).await?;
        check_safe(losses, born.survives)?;
        let mut extents = Vec::new();
        for (part, at) in new {
            let extent = Extent {
                block: born.block,
                block_offset: at,
                ..part
            };
            push_extent(&mut extents, extent);
        }
        let (ino, target) = (*ino, *target);
        let note = || self.note_block(large, ino, target, &extents);
        self.when_there_is_room(note).await?;
        large.rows += 1;
        large.upto = extents.last().map_or(large.upto, Extent::end);
        large.new.extend(extents);
        Ok(bytes)
    }

    /// Writes down that a block is there, which counts as a use of it.
    fn note_block(
        &self,
        large: &Large,
        ino: Ino,
        target: EcProfile,
        extents: &[Extent],
    ) -> Step<()> {
        let mut group = Group::new();
        if large.rows == 0 {
            let hash = serde_bytes::ByteArray::new(hash_of(&large.task));
            let head: HeadRow = (VERSION, target, hash);
            group.put(RECODED, &key_of(ino, 0), &wire::encode(&head));
        }
        let body = dag::Body::Inline(extents.to_vec());
        let row = encode_dropped(target, &body, 0);
        group.put(RECODED, &key_of(ino, large.rows + 1), &row);
        let mut deltas = Deltas::default();
        deltas.extents(extents, 1);
        self.apply_counted(&mut group, &deltas, &[])?;
        Ok(())
    }

    /// All of it is in new blocks: the content's row says so from now on.
    async fn finish(&self, large: &Large) -> Result<Exchanged, RecodeError> {
        let task = &large.task;
        let target = task.target;
        let mut new = Vec::new();
        for extent in &large.new {
            push_extent(&mut new, *extent);
        }
        let content = FileContent {
            size: task.size,
            body: dag::Body::Inline(Vec::new()),
        };
        let budget = NodeBudget::for_chunks(CHUNK_MAX_BYTES);
        let patch = Patch::new(&content, 0, u64::MAX, new, budget, INLINE_EXTENTS_MAX);
        let described = self
            .run_patch(patch, (target, target), Deltas::default(), u64::MAX)
            .await?;
        let losses = self.losses_to_survive(target, task.root().into_iter())?;
        for born in &described.born {
            self.hold_block(born);
            self.when_there_is_room(|| self.adopt(born)).await?;
            check_safe(losses, born.survives)?;
        }
        let gone: Gone = (task.profile, task.body.clone());
        let body = Body::Stored(target, described.body);
        let exchange = || {
            self.exchange(
                task,
                body.clone(),
                &described.deltas,
                Old::Dropped(&gone),
                |group| {
                    for number in 0..=large.rows {
                        group.remove(RECODED, &key_of(task.ino, number));
                    }
                },
            )
        };
        self.when_there_is_room(exchange).await
    }

    /// Lets go of what was placed of a file, if anything was.
    pub(super) fn abandon(&self, ino: Ino) -> Result<(), RecodeError> {
        let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
        for page in pages(&self.volume, RECODED, &ino.0, PAGE) {
            rows.extend(page?);
        }
        // The first row goes last: without it nobody knows what the others are.
        rows.reverse();
        for part in rows.chunks(ROWS_PER_GROUP) {
            let mut core = self.core();
            let mut group = Group::new();
            group.cleanup();
            let mut number = core.next_dropped;
            for (key, row) in part {
                if let Some((Body::Stored(profile, body), _)) = decode_dropped(row) {
                    drop_body_as(number, &(profile, body), &mut group);
                    number += 1;
                }
                group.remove(RECODED, key);
            }
            self.volume.apply(&group)?;
            core.next_dropped = number;
            self.dropping.notify_one();
        }
        Ok(())
    }
}

impl Task {
    /// The block with the root of its manifest.
    fn root(&self) -> Option<crate::base::BlockId> {
        match &self.body {
            dag::Body::Manifest(root) => Some(root.block.id),
            dag::Body::Inline(_) => None,
        }
    }
}
