//! Compaction: blocks of which less than half is in use give their rest to new ones, so that their room comes
//! back. And the books: what all blocks of the volume hold, and how safe they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::VfsUsage;
use super::checkpoint::SNAPSHOTS;
use super::file::{Base, FileCell};
use super::inner::Inner;
use super::ledger::Tenant;
use super::read::ReadError;
use super::rows::{BLOCKS, FILE_ROWS, ROWS, pages};
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, EcProfile};
use crate::content::overlay::{Part, Piece, Source};
use crate::dag::{Body as DagBody, Extent, NodeAt};
use crate::namespace::Key;
use crate::store::{Group, VolumeError};

/// Compaction begins when it gives back so much ...
const WORTH_BYTES: u64 = 16 << 20;
/// ... or such a part of everything that is stored.
const WORTH_PART: u64 = 8;
/// Bytes that are brought together in one turn.
const TURN_BYTES: u64 = 64 << 20;
/// Bytes of nodes of one file that are written anew in one turn.
const RENEW_BYTES: u64 = 4 << 20;
/// Blocks of which it is asked at a time whether they survive more by now.
const ASKED_MAX: usize = 4096;
/// Rows read at once.
const PAGE: usize = 512;

/// What a look through the books found.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) usage: VfsUsage,
    /// Blocks of which less than half is in use.
    sparse: BTreeSet<BlockId>,
    /// What would come back.
    waste_bytes: u64,
    stored_plain: u64,
    /// Some blocks that survived less than was promised when that was last found out.
    pub(super) frail: Vec<(EcProfile, BlockId)>,
}

impl Inner {
    /// Looks through the rows of all blocks. Of those that survive too little it names some that follow `asked`.
    pub(super) fn look_through_books(&self, asked: Option<BlockId>) -> Books {
        let mut books = Books::default();
        // Those come together when the next checkpoint is made.
        let Ok(checkpoints) = self.blocks_of_checkpoints() else {
            return books;
        };
        let Ok(snapshots) = self.numbers_below(SNAPSHOTS) else {
            return books;
        };
        for page in pages(&self.volume, BLOCKS, &[], PAGE) {
            let Ok(page) = page else { return books };
            for (key, row) in &page {
                let (Some(tenant), Ok(id)) = (
                    Tenant::decode(row),
                    <[u8; 32]>::try_from(key.as_ref()).map(BlockId),
                ) else {
                    continue;
                };
                let plain = u64::from(tenant.plain_len);
                let promised = self.profile_of_block(&tenant).parity_shards() as u32;
                if tenant.survives < promised {
                    books.usage.under_redundant_bytes += tenant.live.min(plain);
                    if asked.is_none_or(|asked| id > asked) && books.frail.len() < ASKED_MAX {
                        books.frail.push((self.profile_of_block(&tenant), id));
                    }
                }
                if checkpoints.contains(&id) {
                    continue;
                }
                books.stored_plain += plain;
                books.usage.stored_bytes += tenant.live.min(plain);
                // What a snapshot has stays where it is, so nothing is won by moving the rest.
                let is_sparse = tenant.live > 0 && tenant.live * 2 < plain;
                if is_sparse && matches!(self.is_in_snapshots(&snapshots, &id), Ok(false)) {
                    books.waste_bytes += plain - tenant.live;
                    books.sparse.insert(id);
                }
            }
        }
        books
    }

    /// Takes note of what the books say, for `status`.
    pub(super) fn publish_books(&self, books: &Books) {
        let usage = &books.usage;
        self.stored.store(usage.stored_bytes, Ordering::Relaxed);
        let under = usage.under_redundant_bytes;
        self.under_redundant.store(under, Ordering::Relaxed);
    }

    /// Asks what blocks survive by now, and writes it down: peers that joined take shards over, and others make anew
    /// what was lost. Whether any of them survives more.
    pub(super) async fn ask_again(
        self: &Arc<Self>,
        frail: &[(EcProfile, BlockId)],
    ) -> Result<bool, VolumeError> {
        let mut by_profile: BTreeMap<EcProfile, Vec<BlockId>> = BTreeMap::new();
        for (profile, id) in frail {
            by_profile.entry(*profile).or_default().push(*id);
        }
        let mut is_better = false;
        for (profile, blocks) in by_profile {
            let (health, _) = self.blocks.health(&blocks, profile).await;
            let now: Vec<(BlockId, u32)> = health
                .iter()
                .map(|health| (health.block, health.survives.unwrap_or(0) as u32))
                .collect();
            let inner = Arc::clone(self);
            let note = move || inner.note_survival(&now);
            is_better |= self.blocks.pools().disk.run(note).await?;
        }
        Ok(is_better)
    }

    fn note_survival(&self, found: &[(BlockId, u32)]) -> Result<bool, VolumeError> {
        let mut is_better = false;
        for part in found.chunks(self.blocks_per_group()) {
            let _placed = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            let mut group = Group::new();
            for (id, survives) in part {
                let tenant = self.tenant(*id)?;
                let Some(mut tenant) = tenant.filter(|tenant| tenant.survives != *survives) else {
                    continue;
                };
                is_better |= *survives > tenant.survives;
                tenant.survives = *survives;
                group.put(BLOCKS, &id.0, &tenant.encode());
            }
            if !group.is_empty() {
                self.volume.apply(&group)?;
            }
        }
        Ok(is_better)
    }

    /// Moves what is left of sparse blocks, if that is worth it.
    pub(super) async fn compact(self: &Arc<Self>, books: Books) -> Result<(), ReadError> {
        let is_worth = books.waste_bytes >= WORTH_BYTES
            || books.waste_bytes > 0 && books.waste_bytes >= books.stored_plain / WORTH_PART;
        if !is_worth {
            return Ok(());
        }
        let begun = Instant::now();
        let mut moved = 0;
        for page in pages(&self.volume, ROWS, FILE_ROWS, PAGE) {
            let Ok(page) = page else { return Ok(()) };
            for (key, _) in &page {
                if moved >= TURN_BYTES || self.stop.is_cancelled() {
                    break;
                }
                if let Ok(Key::Content(ino)) = Key::decode(key) {
                    match self.rescue(ino, &books.sparse).await {
                        Ok(bytes) => moved += bytes,
                        Err(error) => tracing::warn!("a file is not compacted now: {error}"),
                    }
                }
            }
            if moved >= TURN_BYTES || self.stop.is_cancelled() {
                break;
            }
        }
        if moved > 0 {
            let blocks = books.sparse.len();
            tracing::info!(moved, blocks, took = ?begun.elapsed(), "sparse blocks are compacted");
        }
        Ok(())
    }

    /// Takes what a file has in sparse blocks into memory, from where it is sealed anew. The content stays
    /// the same, and so do its times.
    async fn rescue(
        self: &Arc<Self>,
        ino: crate::namespace::Ino,
        sparse: &BTreeSet<BlockId>,
    ) -> Result<u64, ReadError> {
        let Some((file, profile, body)) = self.candidate(ino, sparse) else {
            return Ok(0);
        };
        let moved = self.rescue_extents(&file, profile, &body, sparse).await;
        let mut core = self.core();
        if let Some(node) = core.inodes.get_mut(file.number) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.reap(&mut core, file.number);
        moved
    }

    async fn rescue_extents(
        self: &Arc<Self>,
        file: &Arc<FileCell>,
        profile: EcProfile,
        body: &DagBody<NodeAt>,
        sparse: &BTreeSet<BlockId>,
    ) -> Result<u64, ReadError> {
        let extents = self.extents(profile, body, 0, u64::MAX).await?;
        let mut moved = 0;
        for extent in extents.iter().filter(|e| sparse.contains(&e.block.id)) {
            if extent.len as usize > CHUNK_MAX_BYTES {
                continue;
            }
            let range = extent.block_offset..extent.block_offset + extent.len;
            let read = self.blocks.read_range(&extent.block, profile, range).await;
            let bytes = read.map_err(crate::content::ContentError::from)?;
            moved += self.replant(file, extent, body, bytes);
            if self.wait_for_memory().await.is_err() {
                break;
            }
        }
        if let DagBody::Manifest(root) = body {
            moved += self.renew_nodes(file, profile, *root, sparse).await?;
        }
        Ok(moved)
    }

    /// Has nodes of a manifest written anew that are in sparse blocks: the first of them, and those that follow
    /// it without a gap; others have their turn later. Answers how many bytes that is.
    async fn renew_nodes(
        &self,
        file: &Arc<FileCell>,
        profile: EcProfile,
        root: NodeAt,
        sparse: &BTreeSet<BlockId>,
    ) -> Result<u64, ReadError> {
        let is_sparse = |at: &NodeAt| sparse.contains(&at.block.id);
        let map = &self.extent_map;
        let mut nodes = map.nodes(&self.blocks, profile, root, is_sparse).await?;
        nodes.sort_by_key(|(_, span)| span.start);
        let mut nodes = nodes.into_iter();
        let Some((first, mut range)) = nodes.next() else {
            return Ok(0);
        };
        let mut bytes = u64::from(first.len);
        for (at, span) in nodes {
            if span.start > range.end || bytes >= RENEW_BYTES {
                break;
            }
            range.end = range.end.max(span.end);
            bytes += u64::from(at.len);
        }
        let mut state = self.lock(file);
        let is_same =
            matches!(&state.base, Base::Stored(_, DagBody::Manifest(now)) if *now == root);
        if state.is_orphan || !is_same {
            return Ok(0);
        }
        state.renew = Some((range.start, range.end));
        state.is_changed = true;
        self.queue(file, &mut state);
        Ok(bytes)
    }

    /// A file with a part in a sparse block, and its description. None if it has none, or is being changed.
    fn candidate(
        &self,
        ino: crate::namespace::Ino,
        sparse: &BTreeSet<BlockId>,
    ) -> Option<(Arc<FileCell>, EcProfile, DagBody<NodeAt>)> {
        let mut core = self.core();
        let stat = self.view(|view| view.stat_ino(ino)).ok()??;
        let content = stat.content?;
        let crate::namespace::Body::Stored(profile, body) = content.body else {
            return None;
        };
        if let DagBody::Inline(extents) = &body
            && !extents.iter().any(|e| sparse.contains(&e.block.id))
        {
            return None;
        }
        let (number, _) = core.inodes.node(ino);
        let file = self.file(&mut core, number).ok()?;
        let is_quiet = {
            let state = self.lock(&file);
            !state.is_publishing && !state.is_orphan && !state.is_changed
        };
        if !is_quiet {
            self.reap(&mut core, number);
            return None;
        }
        // As if it were open: nobody else makes another state of it meanwhile.
        if let Some(node) = core.inodes.get_mut(number) {
            node.opens += 1;
        }
        Some((file, profile, body))
    }

    /// Puts bytes of the old content into memory where nothing was written over them. Answers how many.
    fn replant(
        &self,
        file: &Arc<FileCell>,
        extent: &Extent,
        body: &DagBody<NodeAt>,
        bytes: Bytes,
    ) -> u64 {
        let mut state = self.lock(file);
        let is_same = matches!(&state.base, Base::Stored(_, now) if now == body);
        if state.is_orphan || !is_same || bytes.len() != extent.len as usize {
            return 0;
        }
        let buffer = Arc::new(bytes.to_vec());
        let mut moved = 0;
        let end = extent.end().min(state.head.base_end);
        for part in state.overlay.parts(extent.offset, end) {
            let Part::Old(range) = part else { continue };
            let source = Source::Memory {
                buffer: Arc::clone(&buffer),
                at: (range.start - extent.offset) as u32,
                kept: None,
            };
            let len = range.end - range.start;
            state.overlay.put(Piece {
                offset: range.start,
                len,
                source,
            });
            state.stale(range.start, range.end);
            moved += len;
        }
        if moved > 0 {
            state.is_changed = true;
            state.dirty_since.get_or_insert(Instant::now());
            self.queue(file, &mut state);
        }
        moved
    }
}
