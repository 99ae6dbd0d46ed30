//! Writing the description of a file with many extents: the nodes of its manifest around what changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairnfs_fuse::Errno;
use tokio::time::Instant;

use super::errno::{Step, Stop};
use super::file::{Base, FileCell, FileState, Head};
use super::inner::Inner;
use super::land::{SealError, push_extent};
use super::ledger::{Born, Deltas};
use super::read::ReadError;
use super::remove::{Gone, drop_body};
use super::rows::BASES;
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, EcProfile};
use crate::content::ContentError;
use crate::content::overlay::{Part, Piece, Source};
use crate::dag::file::INLINE_EXTENTS_MAX;
use crate::dag::{
    Body as DagBody, Extent, FileContent, NodeAt, NodeBudget, NodePacker, Patch, PatchStep,
    Timestamp,
};
use crate::namespace::{Body, Now, Stamp};

/// Extents of the old content that are replaced at once.
const EXTENTS_MAX: usize = 8192;

/// What is to be described, as it was when it began.
struct Snapshot {
    head: Head,
    /// The size that is told: what is in no block yet at the end would be a hole to others.
    told_size: u64,
    base: Base,
    base_size: u64,
    /// All changes of earlier generations that are no pieces are in `head`.
    generation: u64,
    /// Pieces in blocks, and holes.
    pieces: Vec<Piece>,
    parts: Vec<Part>,
    start: u64,
    end: u64,
    /// Up to there it is written anew although nothing changed.
    renew_end: u64,
    /// The old content, if nothing of it stays: it is let go as a whole.
    dropped: Option<Gone>,
    /// The redundancy of its blocks.
    profile: EcProfile,
}

/// How much of a snapshot a description says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    /// More is to be described: all at once would change the counts of too many blocks.
    Part,
}

impl Snapshot {
    /// How far a description may go whose group changes the counts of at most `most` blocks. `old` is what the
    /// old content has there, or the first of it.
    fn reach(&self, old: &[Extent], most: usize) -> u64 {
        let extents = old.iter().map(|extent| (extent.offset, extent.block.id));
        let pieces = self.pieces.iter().filter_map(|piece| match &piece.source {
            Source::Block { block, .. } => Some((piece.offset, block.id)),
            _ => None,
        });
        let mut all: Vec<(u64, BlockId)> = extents.chain(pieces).collect();
        all.sort_unstable();
        let mut named = BTreeSet::new();
        for (offset, block) in all {
            named.insert(block);
            if named.len() > most && offset > self.start {
                return offset;
            }
        }
        match old.last() {
            Some(last) if old.len() >= EXTENTS_MAX => last.end().min(self.end),
            _ => self.end,
        }
    }

    /// Size of the content that is described up to an offset, and how much of it counts: what was cut off is
    /// still there behind.
    fn shown(&self, upto: u64) -> (u64, u64) {
        if upto >= self.end {
            return (self.told_size, self.told_size);
        }
        let before = match self.dropped {
            Some(_) => 0,
            None => self.base_size,
        };
        let done = upto.min(self.head.size);
        (before.max(done), self.head.base_end.max(done))
    }
}

/// A new description and the blocks it is in.
pub(super) struct Described {
    pub(super) body: DagBody<NodeAt>,
    pub(super) deltas: Deltas,
    pub(super) born: Vec<Born>,
    /// How far it goes; what lies behind is described by the next one.
    upto: u64,
}

impl Inner {
    /// Describes a file in the background, unless that is being done.
    pub(super) fn publish_soon(self: &Arc<Self>, file: Arc<FileCell>) {
        let Some(mut snapshot) = self.begin(&file) else {
            return;
        };
        let inner = Arc::clone(self);
        inner
            .under_way
            .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.tasks.spawn(async move {
            let outcome = loop {
                let outcome = inner.describe_and_publish(&file, &snapshot).await;
                inner.lock(&file).is_publishing = false;
                let is_all = !matches!(outcome, Ok(Reach::Part));
                if is_all || inner.stop.is_cancelled() {
                    break outcome;
                }
                match inner.begin(&file) {
                    Some(next) => snapshot = next,
                    None => break outcome,
                }
            };
            let mut core = inner.core();
            inner.catch_up(&core, &file);
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
        let dropped = match &state.base {
            Base::Stored(profile, body @ DagBody::Manifest(_)) if state.head.base_end == 0 => {
                Some((*profile, body.clone()))
            }
            _ => None,
        };
        let is_cut = dropped.is_none() && state.head.base_end < state.base_size;
        let cut_at = is_cut.then_some(state.head.base_end);
        let renew = state.renew.take().filter(|_| dropped.is_none());
        let (renew_start, renew_end) = renew.unzip();
        let first = pieces.first().map(|piece| piece.offset);
        let starts = first.into_iter().chain(cut_at).chain(renew_start);
        let start = starts.min().unwrap_or(0);
        let last = pieces.last().map(Piece::end);
        let end = match is_cut {
            true => u64::MAX,
            false => last.max(renew_end).unwrap_or(0),
        };
        let parts = state.overlay.parts(start, end.min(state.head.size));
        state.is_publishing = true;
        state.described_at = Some(Instant::now());
        state.low_water = u64::MAX;
        Some(Snapshot {
            head: state.head,
            told_size: told_size(&state),
            base: state.base.clone(),
            base_size: state.base_size,
            generation: state.overlay.generation(),
            pieces,
            parts,
            start,
            end,
            renew_end: renew_end.unwrap_or(0),
            dropped,
            profile: self.profile_of_file(&state),
        })
    }

    async fn describe_and_publish(
        self: &Arc<Self>,
        file: &Arc<FileCell>,
        snapshot: &Snapshot,
    ) -> Step<Reach> {
        let described = self.describe(snapshot).await?;
        for born in &described.born {
            self.adopt(born)?;
        }
        let mut core = self.core();
        let mut state = self.lock(file);
        if state.is_orphan {
            return Ok(Reach::All);
        }
        let upto = described.upto;
        let reach = match upto < snapshot.end {
            true => Reach::Part,
            false => Reach::All,
        };
        if reach == Reach::Part || state.lifted.is_some() {
            // Until all is described, a crash leaves the rest to the journal; so does one after what was in the
            // file's row went from there.
            self.note(file, &mut state)?;
        }
        let body = match described.body {
            DagBody::Inline(extents) if extents.is_empty() => Body::EMPTY,
            body => Body::Stored(snapshot.profile, body),
        };
        let before = state.overlay.clone();
        for piece in snapshot.pieces.iter().filter_map(|p| p.clip(0, upto)) {
            state.overlay.settle(&piece);
        }
        let is_same = state.overlay.is_empty() && state.head == snapshot.head;
        if is_same && reach == Reach::All {
            let gone = snapshot.dropped.as_ref();
            let published = self.publish(&mut core, file, &mut state, body, described.deltas, gone);
            if published.is_err() {
                state.overlay = before;
            }
            return published.map(|()| Reach::All);
        }
        // More was changed meanwhile: that lies over the new content.
        let now = Now {
            hlc: snapshot.head.edited,
            time: snapshot.head.mtime,
        };
        let ino = file.ino;
        // Kernels elsewhere take what has one size and one time for one content, so what follows has another.
        let mtime = match state.head.mtime == snapshot.head.mtime {
            true => just_before(snapshot.head.mtime),
            false => snapshot.head.mtime,
        };
        let (size, base_end) = snapshot.shown(upto);
        let base = Base::of(&body);
        let origin = state.origin.clone();
        let written = self
            .edit(&core, now, |edit| {
                edit.edit_content(ino, (&origin.edits, &origin.home), size, mtime, body)
            })
            .and_then(|mut edited| {
                let affected = self.affected_besides(&mut edited)?;
                if state.has_base_row {
                    edited.group.remove(BASES, &ino.0);
                }
                if let Some(gone) = &snapshot.dropped {
                    drop_body(&core, gone, &mut edited.group);
                }
                self.commit_counted(&mut core, edited, &described.deltas)?;
                Ok(affected)
            });
        let affected = match written {
            Ok(affected) => affected,
            Err(stop) => {
                state.overlay = before;
                return Err(stop);
            }
        };
        state.has_base_row = false;
        state.origin.edited_at(Stamp {
            hlc: now.hlc,
            writer: self.writer(),
        });
        if self.is_shared() && (reach == Reach::Part || state.head.edited == now.hlc) {
            // What others make of this part is not made of what follows, which is an edit of its own: also where it was
            // there already and only not in a block.
            state.head.edited = self.now().hlc;
        }
        if snapshot.dropped.is_some() {
            self.dropped_one(&mut core);
        }
        state.base = base;
        state.lifted = None;
        state.base_size = size;
        state.head.base_end = base_end.min(state.low_water);
        if reach == Reach::All {
            let generation = snapshot.generation.min(state.overlay.oldest());
            state.described = state.described.max(generation);
        }
        if upto < snapshot.renew_end {
            state.renew = Some((upto, snapshot.renew_end));
        }
        let end = upto.min(state.head.size.max(size));
        state.stale(snapshot.start, end);
        core.changed(&[ino]);
        self.after_edit(&mut core, file, &mut state, affected);
        self.note(file, &mut state).map(|_| reach)
    }

    async fn describe(&self, snapshot: &Snapshot) -> Result<Described, SealError> {
        let mut deltas = Deltas::default();
        let (profile, body) = match &snapshot.base {
            Base::Stored(profile, body) if snapshot.dropped.is_none() => (*profile, body.clone()),
            _ => (snapshot.profile, DagBody::Inline(Vec::new())),
        };
        let Snapshot { start, end, .. } = *snapshot;
        let map = &self.extent_map;
        let found = map.first_extents(&self.blocks, profile, &body, start, end, EXTENTS_MAX);
        let found = found.await.map_err(ReadError::from)?;
        let end = snapshot.reach(&found, self.blocks_per_group());
        let old: Vec<Extent> = found
            .iter()
            .filter_map(|extent| extent.clip(start, end))
            .collect();
        let mut new = Vec::new();
        for part in &snapshot.parts {
            match part {
                Part::Piece(piece) => {
                    let Some(piece) = piece.clip(start, end) else {
                        continue;
                    };
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
                Part::Old(range) => {
                    keep(&mut new, &old, range.start, range.end.min(end), snapshot);
                }
            }
        }
        deltas.extents(&old, -1);
        deltas.extents(&new, 1);
        let size = snapshot.base_size.max(snapshot.head.size);
        let content = FileContent { size, body };
        let budget = NodeBudget::for_chunks(CHUNK_MAX_BYTES);
        let patch = Patch::new(&content, start, end, new, budget, INLINE_EXTENTS_MAX);
        let profiles = (profile, snapshot.profile);
        self.run_patch(patch, profiles, deltas, end).await
    }

    /// Carries out a patch of nodes that have the first redundancy; new ones get the second.
    pub(super) async fn run_patch(
        &self,
        mut patch: Patch,
        (profile, new_profile): (EcProfile, EcProfile),
        mut deltas: Deltas,
        upto: u64,
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
                        self.seal_nodes(
                            &mut packer,
                            new_profile,
                            &mut born,
                            &mut lens,
                            &mut deltas,
                        )
                        .await?;
                        node = draft.encode(&|place| packer.name(place));
                    }
                    let place = packer.push(&node);
                    lens.push(place.len());
                    patch.placed(&draft, place);
                }
                PatchStep::Few(extents) => break DagBody::Inline(extents),
                PatchStep::Root(place) => {
                    self.seal_nodes(&mut packer, new_profile, &mut born, &mut lens, &mut deltas)
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
        Ok(Described {
            body,
            deltas,
            born,
            upto,
        })
    }

    async fn seal_nodes(
        &self,
        packer: &mut NodePacker,
        profile: EcProfile,
        born: &mut Vec<Born>,
        lens: &mut Vec<u32>,
        deltas: &mut Deltas,
    ) -> Result<(), SealError> {
        let Some(bytes) = packer.take() else {
            return Ok(());
        };
        let placed = self.place(bytes, profile).await?;
        packer.sealed(placed.block);
        let live: u64 = lens.drain(..).map(u64::from).sum();
        deltas.add(placed.block.id, live as i64);
        born.push(placed);
        Ok(())
    }
}

/// The size of a file without what lies at its end in memory or in the journal only.
fn told_size(state: &FileState) -> u64 {
    let pieces: Vec<Piece> = state.overlay.pieces().collect();
    let mut size = state.head.size;
    for piece in pieces.iter().rev() {
        if piece.end() != size || !piece.source.is_dirty() {
            break;
        }
        size = piece.offset;
    }
    size.max(state.head.base_end.min(state.head.size))
}

/// A nanosecond before.
fn just_before(time: Timestamp) -> Timestamp {
    match time.nanos.checked_sub(1) {
        Some(nanos) => Timestamp { nanos, ..time },
        None => Timestamp {
            seconds: time.seconds.saturating_sub(1),
            nanos: 999_999_999,
        },
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
