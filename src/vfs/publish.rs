//! Writing the description of a file with many extents: the nodes of its manifest around what changed.

use std::sync::Arc;

use cairnfs_fuse::Errno;

use super::errno::{Step, Stop};
use super::file::{Base, FileCell, Head};
use super::inner::Inner;
use super::land::{SealError, push_extent};
use super::ledger::{Born, Deltas};
use crate::base::EcProfile;
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::content::ContentError;
use crate::content::overlay::{Part, Piece, Source};
use crate::dag::file::INLINE_EXTENTS_MAX;
use crate::dag::{
    Body as DagBody, Extent, FileContent, NodeAt, NodeBudget, NodePacker, Patch, PatchStep,
};
use crate::namespace::{Body, Now};

/// What is to be described, as it was when it began.
struct Snapshot {
    head: Head,
    base: Base,
    base_size: u64,
    /// All changes of earlier generations that are no pieces are in `head`.
    generation: u64,
    /// Pieces in blocks, and holes.
    pieces: Vec<Piece>,
    parts: Vec<Part>,
    start: u64,
    end: u64,
}

/// A new description and the blocks it is in.
struct Described {
    body: DagBody<NodeAt>,
    deltas: Deltas,
    born: Vec<Born>,
}

impl Inner {
    /// Describes a file in the background, unless that is being done.
    pub(super) fn publish_soon(self: &Arc<Self>, file: Arc<FileCell>) {
        let Some(snapshot) = self.begin(&file) else {
            return;
        };
        let inner = Arc::clone(self);
        inner
            .under_way
            .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.tasks.spawn(async move {
            let outcome = inner.describe_and_publish(&file, &snapshot).await;
            let mut core = inner.core();
            inner.lock(&file).is_publishing = false;
            inner.reap(&mut core, file.number);
            drop(core);
            if let Err(stop) = outcome {
                tracing::debug!(?stop, "the description of a file is written later");
                if !matches!(stop, Stop::Busy) {
                    inner.take_a_break();
                }
            }
            inner
                .under_way
                .fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
            inner.relief.notify_waiters();
        });
    }

    /// Takes note of what is to be described. None if nothing is, or if it is being done.
    fn begin(&self, file: &FileCell) -> Option<Snapshot> {
        let mut state = self.lock(file);
        if state.is_publishing || state.is_orphan || !state.is_changed {
            return None;
        }
        let pieces: Vec<Piece> = state
            .overlay
            .pieces()
            .filter(|piece| !piece.source.is_dirty())
            .collect();
        let is_cut = state.head.base_end < state.base_size;
        let cut_at = is_cut.then_some(state.head.base_end);
        let first = pieces.first().map(|piece| piece.offset);
        let start = first.into_iter().chain(cut_at).min().unwrap_or(0);
        let end = match is_cut {
            true => u64::MAX,
            false => pieces.last().map_or(0, Piece::end),
        };
        let parts = state.overlay.parts(start, end.min(state.head.size));
        state.is_publishing = true;
        state.low_water = u64::MAX;
        Some(Snapshot {
            head: state.head,
            base: state.base.clone(),
            base_size: state.base_size,
            generation: state.overlay.generation(),
            pieces,
            parts,
            start,
            end,
        })
    }

    async fn describe_and_publish(
        self: &Arc<Self>,
        file: &Arc<FileCell>,
        snapshot: &Snapshot,
    ) -> Step<()> {
        let described = self.describe(snapshot).await?;
        for born in &described.born {
            self.adopt(born)?;
        }
        let mut core = self.core();
        let mut state = self.lock(file);
        if state.is_orphan {
            return Ok(());
        }
        let body = match described.body {
            DagBody::Inline(extents) if extents.is_empty() => Body::EMPTY,
            body => Body::Stored(self.identity.profile, body),
        };
        let before = state.overlay.clone();
        for piece in &snapshot.pieces {
            state.overlay.settle(piece);
        }
        let is_all = state.overlay.is_empty() && state.head == snapshot.head;
        if is_all {
            let published = self.publish(&mut core, file, &mut state, body, described.deltas);
            if published.is_err() {
                state.overlay = before;
            }
            return published;
        }
        // More was changed meanwhile: that lies over the new content.
        let now = Now {
            hlc: snapshot.head.edited,
            time: snapshot.head.mtime,
        };
        let (ino, size, mtime) = (file.ino, snapshot.head.size, snapshot.head.mtime);
        let base = Base::of(&body);
        let written = self
            .edit(&core, now, |edit| edit.set_content(ino, size, mtime, body))
            .and_then(|edited| self.commit_counted(&mut core, edited, &described.deltas));
        if let Err(stop) = written {
            state.overlay = before;
            return Err(stop);
        }
        state.base = base;
        state.base_size = size;
        state.head.base_end = size.min(state.low_water);
        let upto = snapshot.generation.min(state.overlay.oldest());
        state.described = state.described.max(upto);
        let end = snapshot.end.min(state.head.size.max(size));
        state.stale(snapshot.start, end);
        core.changed(&[ino]);
        self.note(file, &mut state).map(drop)
    }

    async fn describe(&self, snapshot: &Snapshot) -> Result<Described, SealError> {
        let mut deltas = Deltas::default();
        let (profile, body) = match &snapshot.base {
            Base::Stored(profile, body) => (*profile, body.clone()),
            Base::Inline(_) => (self.identity.profile, DagBody::Inline(Vec::new())),
        };
        let Snapshot { start, end, .. } = *snapshot;
        let old: Vec<Extent> = self
            .extents(profile, &body, start, end)
            .await?
            .iter()
            .filter_map(|extent| extent.clip(start, end))
            .collect();
        let mut new = Vec::new();
        for part in &snapshot.parts {
            match part {
                Part::Piece(piece) => {
                    if let Source::Block { block, at } = &piece.source {
                        push_extent(
                            &mut new,
                            Extent {
                                offset: piece.offset,
                                len: piece.len as u32,
                                block: *block,
                                block_offset: *at,
                            },
                        );
                    } else if piece.source.is_dirty() {
                        // It lies over whatever is below; that stays.
                        keep(&mut new, &old, piece.offset, piece.end(), snapshot);
                    }
                }
                Part::Old(range) => keep(&mut new, &old, range.start, range.end, snapshot),
            }
        }
        deltas.extents(&old, -1);
        deltas.extents(&new, 1);
        let size = snapshot.base_size.max(snapshot.head.size);
        let content = FileContent { size, body };
        let budget = NodeBudget::for_chunks(CHUNK_MAX_BYTES);
        let patch = Patch::new(&content, start, end, new, budget, INLINE_EXTENTS_MAX);
        self.run_patch(patch, profile, deltas).await
    }

    async fn run_patch(
        &self,
        mut patch: Patch,
        profile: EcProfile,
        mut deltas: Deltas,
    ) -> Result<Described, SealError> {
        let mut packer = NodePacker::new(CHUNK_MAX_BYTES);
        let mut born: Vec<Born> = Vec::new();
        let mut lens: Vec<u32> = Vec::new();
        let body = loop {
            match patch.step() {
                PatchStep::Need(at) => {
                    let range = at.offset..at.offset.saturating_add(at.len);
                    let bytes = self.blocks.read_range(&at.block, profile, range).await;
                    let bytes = bytes.map_err(|e| SealError::Read(ContentError::from(e).into()))?;
                    deltas.node(&at, -1);
                    patch
                        .supply(&bytes)
                        .map_err(|fault| node_fault(&at, fault))?;
                }
                PatchStep::Place(draft) => {
                    let mut node = draft.encode(&|place| packer.name(place));
                    if !packer.fits(node.len()) {
                        self.seal_nodes(&mut packer, &mut born, &mut lens, &mut deltas)
                            .await?;
                        node = draft.encode(&|place| packer.name(place));
                    }
                    let place = packer.push(&node);
                    lens.push(place.len());
                    patch.placed(&draft, place);
                }
                PatchStep::Few(extents) => break DagBody::Inline(extents),
                PatchStep::Root(place) => {
                    self.seal_nodes(&mut packer, &mut born, &mut lens, &mut deltas)
                        .await?;
                    let Some(block) = packer.block(place) else {
                        let why = "a node that was not placed".to_owned();
                        return Err(SealError::Put(crate::blocks::PutError::Internal(why)));
                    };
                    break DagBody::Manifest(NodeAt {
                        block,
                        offset: place.offset(),
                        len: place.len(),
                    });
                }
            }
        };
        Ok(Described { body, deltas, born })
    }

    async fn seal_nodes(
        &self,
        packer: &mut NodePacker,
        born: &mut Vec<Born>,
        lens: &mut Vec<u32>,
        deltas: &mut Deltas,
    ) -> Result<(), SealError> {
        let Some(bytes) = packer.take() else {
            return Ok(());
        };
        let placed = self.place(bytes).await?;
        packer.sealed(placed.block);
        let live: u64 = lens.drain(..).map(u64::from).sum();
        deltas.add(placed.block.id, live as i64);
        born.push(placed);
        Ok(())
    }
}

/// Extents of the old content that stay.
fn keep(new: &mut Vec<Extent>, old: &[Extent], start: u64, end: u64, snapshot: &Snapshot) {
    let end = end.min(snapshot.head.base_end);
    let first = old.partition_point(|extent| extent.end() <= start);
    for extent in old.iter().skip(first).take_while(|e| e.offset < end) {
        if let Some(extent) = extent.clip(start, end) {
            push_extent(new, extent);
        }
    }
}

fn node_fault(at: &NodeAt, fault: crate::dag::DagError) -> SealError {
    let block = at.block.id;
    SealError::Read(ContentError::Node { block, fault }.into())
}

impl From<SealError> for Errno {
    fn from(error: SealError) -> Errno {
        match Stop::from(error) {
            Stop::Errno(errno) => errno,
            Stop::Busy => Errno::EAGAIN,
        }
    }
}
