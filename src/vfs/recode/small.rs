//! Contents that fit into a block: as many of one redundancy as one block takes are moved together.

use std::sync::Arc;

use bytes::BytesMut;

use super::exchange::{Exchanged, Old, check_safe};
use super::{RecodeError, Task, Work};
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::content::ContentError;
use crate::dag::{self, Extent};
use crate::namespace::Body;
use crate::vfs::inner::Inner;
use crate::vfs::ledger::Deltas;
use crate::vfs::read::ReadError;

/// Most contents in one block that is made here: the group of each is written alone.
const FILES_MAX: usize = 256;

/// A content that is in the block, and from where on.
struct Packed {
    task: Task,
    at: u32,
}

/// Bytes of a content that fits into one block; none of others.
pub(super) fn bytes_of(task: &Task) -> Option<usize> {
    let dag::Body::Inline(extents) = &task.body else {
        return None;
    };
    let bytes = extents.iter().map(|extent| extent.len as usize).sum();
    (bytes <= CHUNK_MAX_BYTES).then_some(bytes)
}

fn extents_of(task: &Task) -> &[Extent] {
    match &task.body {
        dag::Body::Inline(extents) => extents,
        dag::Body::Manifest(_) => &[],
    }
}

impl Inner {
    /// Moves the first contents of the queue. Answers how many bytes that is.
    pub(super) async fn recode_small(
        self: &Arc<Self>,
        work: &mut Work,
    ) -> Result<u64, RecodeError> {
        let (mut block, mut packed) = (BytesMut::new(), Vec::new());
        let (mut target, mut losses) = (None, 0);
        // How many of the queue are in the block, or need not be.
        let mut taken = 0;
        while packed.len() < FILES_MAX {
            let Some(due) = work.queue.get(taken) else {
                break;
            };
            let Some(task) = self.task_of(due.ino)? else {
                taken += 1;
                continue;
            };
            let Some(bytes) = bytes_of(&task) else { break };
            if !self.is_quiet_file(&task)? {
                // What is written is described with what is wanted now.
                work.is_partial = true;
                taken += 1;
                continue;
            }
            let is_alike = *target.get_or_insert(task.target) == task.target;
            if !is_alike || block.len() + bytes > CHUNK_MAX_BYTES {
                break;
            }
            let at = block.len() as u32;
            let old = extents_of(&task).iter().map(|extent| extent.block.id);
            let read = match self.losses_to_survive(task.target, old) {
                Ok(safe) => {
                    losses = losses.max(safe);
                    self.read_into(&task, &mut block).await
                }
                Err(error) => Err(error),
            };
            match read {
                Ok(()) => packed.push(Packed { task, at }),
                Err(error) if packed.is_empty() => {
                    // It is the first of those that are left.
                    (0..taken).for_each(|_| self.leave(work));
                    return Err(error);
                }
                // It is the first of the next block then, and its error is told.
                Err(_) => {
                    block.truncate(at as usize);
                    break;
                }
            }
            taken += 1;
        }
        let Some(target) = target.filter(|_| !packed.is_empty()) else {
            (0..taken.max(1)).for_each(|_| self.leave(work));
            return Ok(0);
        };
        let born = self.place(block.freeze(), target).await?;
        self.hold_block(&born);
        // Into the books first: what is not used after all is let go of by them.
        self.when_there_is_room(|| self.adopt(&born)).await?;
        check_safe(losses, born.survives)?;
        let (mut moved, mut done) = (0, Vec::new());
        for Packed { task, at } in &packed {
            let (mut new, mut deltas) = (extents_of(task).to_vec(), Deltas::default());
            let mut at = *at;
            deltas.extents(&new, -1);
            for extent in &mut new {
                extent.block = born.block;
                extent.block_offset = at;
                at += extent.len;
            }
            deltas.extents(&new, 1);
            let bytes: u64 = new.iter().map(|extent| u64::from(extent.len)).sum();
            let body = Body::Stored(target, dag::Body::Inline(new));
            let exchange = || self.exchange(task, body.clone(), &deltas, Old::Counted, |_| ());
            match self.when_there_is_room(exchange).await? {
                Exchanged::Done => {
                    moved += bytes;
                    done.extend(task.has_more.then_some(task.ino));
                }
                // What is written is described with what is wanted now, or else found again.
                Exchanged::Changed | Exchanged::InUse => work.is_partial = true,
            }
        }
        (0..taken).for_each(|_| self.leave(work));
        done.into_iter().for_each(|ino| work.ask_again(ino));
        Ok(moved)
    }

    async fn read_into(&self, task: &Task, block: &mut BytesMut) -> Result<(), RecodeError> {
        for extent in extents_of(task) {
            let range = extent.block_offset..extent.block_offset.saturating_add(extent.len);
            let read = self.blocks.read_range(&extent.block, task.profile, range);
            let bytes = read.await.map_err(ContentError::from)?;
            if bytes.len() != extent.len as usize {
                return Err(ReadError::Short.into());
            }
            block.extend_from_slice(&bytes);
        }
        Ok(())
    }
}
