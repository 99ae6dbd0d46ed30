//! Nodes on their way in: extents and entries become nodes, nodes become metadata chunks.
//!
//! What a walk met is queued in [`TreeNodes`] and written strictly in that order, each as soon as
//! the chunks it names are sealed. So the same tree gives the same nodes, however fast which chunk
//! was sealed.

use std::collections::VecDeque;

use super::error::ContentError;
use super::intake::PendingExtent;
use super::seam::ChunkSink;
use crate::base::{Pools, limits::Limits};
use crate::dag::build::Close;
use crate::dag::file::INLINE_EXTENTS_MAX;
use crate::dag::{
    Body, Draft, Entries, Entry, EntryKind, Extents, FileContent, LevelBuilder, Meta, NodeAt,
    NodeBudget, NodePacker, Place, Shape, TreeRoot, TreeTotals,
};

/// Drafts of more elements than this are encoded off the reactor.
const ENCODE_INLINE_MAX: usize = 64;

/// Encodes nodes, packs them and submits the packs.
pub(super) struct NodeWriter<'a, K> {
    sink: &'a K,
    pools: Pools,
    packer: NodePacker,
    budget: NodeBudget,
}

impl<'a, K: ChunkSink> NodeWriter<'a, K> {
    pub const fn new(sink: &'a K, pools: Pools, limits: &Limits) -> Self {
        NodeWriter {
            sink,
            pools,
            packer: NodePacker::new(limits.chunk_max_bytes),
            budget: NodeBudget::for_chunks(limits.chunk_max_bytes),
        }
    }

    pub const fn list<S: Shape>(&self) -> LevelBuilder<S> {
        LevelBuilder::new(self.budget)
    }

    async fn seal(&mut self) -> Result<(), ContentError> {
        if let Some(chunk) = self.packer.take() {
            let block = self.sink.submit(chunk.into()).await?.await?;
            self.packer.sealed(block);
        }
        Ok(())
    }

    async fn place_bytes(
        &mut self,
        encode: impl Fn(&NodePacker) -> Vec<u8>,
    ) -> Result<Place, ContentError> {
        let mut bytes = encode(&self.packer);
        if !self.packer.fits(bytes.len()) {
            self.seal().await?;
            // References into the chunk just sealed have become longer.
            bytes = encode(&self.packer);
        }
        Ok(self.packer.push(&bytes))
    }

    async fn encode<S>(&mut self, draft: Draft<S>) -> (Draft<S>, Vec<u8>)
    where
        S: Shape + 'static,
        Draft<S>: Send,
    {
        if draft.len() <= ENCODE_INLINE_MAX {
            let bytes = draft.encode(&|place| self.packer.name(place));
            return (draft, bytes);
        }
        let packer = std::mem::replace(&mut self.packer, NodePacker::new(0));
        let (packer, draft, bytes) = self
            .pools
            .cpu
            .run(move || {
                let bytes = draft.encode(&|place| packer.name(place));
                (packer, draft, bytes)
            })
            .await;
        self.packer = packer;
        (draft, bytes)
    }

    async fn place<S>(
        &mut self,
        list: &mut LevelBuilder<S>,
        draft: Draft<S>,
    ) -> Result<(), ContentError>
    where
        S: Shape + 'static,
        Draft<S>: Send,
    {
        let (mut draft, mut bytes) = self.encode(draft).await;
        if !self.packer.fits(bytes.len()) {
            self.seal().await?;
            (draft, bytes) = self.encode(draft).await;
        }
        let place = self.packer.push(&bytes);
        list.placed(&draft, place);
        Ok(())
    }

    /// Appends to a list and places the nodes that this completes.
    pub async fn push<S>(
        &mut self,
        list: &mut LevelBuilder<S>,
        item: S::Draft,
    ) -> Result<(), ContentError>
    where
        S: Shape + 'static,
        Draft<S>: Send,
    {
        list.push(item);
        while let Some(draft) = list.take_full() {
            self.place(list, draft).await?;
        }
        Ok(())
    }

    /// Places what is left of a list; gives its root, unless it is empty.
    pub async fn close<S>(
        &mut self,
        mut list: LevelBuilder<S>,
    ) -> Result<Option<Place>, ContentError>
    where
        S: Shape + 'static,
        Draft<S>: Send,
    {
        loop {
            match list.close() {
                Close::Place(draft) => self.place(&mut list, draft).await?,
                Close::Root(place) => return Ok(Some(place)),
                Close::Empty => return Ok(None),
            }
        }
    }

    /// Seals the last chunk and tells where `place` has come to lie.
    pub async fn finish(mut self, place: Place) -> Result<NodeAt, ContentError> {
        self.seal().await?;
        let node = self.packer.name(place);
        match node.block {
            Some(block) => Ok(NodeAt {
                block,
                offset: node.offset,
                len: node.len,
            }),
            None => Err(ContentError::BrokenOff(
                "a metadata chunk was not sealed".to_owned(),
            )),
        }
    }
}

/// What a walk met.
pub(super) enum Event {
    /// A directory begins.
    Enter { name: Vec<u8>, meta: Meta },
    /// The next extents of the file whose `File` comes next.
    Extents(Vec<PendingExtent>),
    /// A file, with the last of its extents.
    File {
        name: Vec<u8>,
        meta: Meta,
        size: u64,
        extents: Vec<PendingExtent>,
    },
    /// A symbolic or hard link.
    Link(Entry<Place>),
    /// The directory ends.
    Exit,
}

impl Event {
    fn is_located(&self) -> bool {
        match self {
            Event::Extents(extents) | Event::File { extents, .. } => {
                extents.iter().all(|extent| extent.at.get().is_some())
            }
            _ => true,
        }
    }
}

struct OpenDirectory {
    name: Vec<u8>,
    meta: Meta,
    entries: LevelBuilder<Entries>,
}

/// Turns what a walk met into nodes.
pub(super) struct TreeNodes<'a, K> {
    nodes: NodeWriter<'a, K>,
    events: VecDeque<Event>,
    open: Vec<OpenDirectory>,
    file: Option<LevelBuilder<Extents>>,
    root: Option<(Meta, Option<Place>)>,
}

impl<'a, K: ChunkSink> TreeNodes<'a, K> {
    pub const fn new(nodes: NodeWriter<'a, K>) -> Self {
        TreeNodes {
            nodes,
            events: VecDeque::new(),
            open: Vec::new(),
            file: None,
            root: None,
        }
    }

    /// Queues what was met next.
    pub fn met(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Writes what can be written.
    pub async fn advance(&mut self) -> Result<(), ContentError> {
        while self.events.front().is_some_and(Event::is_located) {
            if let Some(event) = self.events.pop_front() {
                self.write(event).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, event: Event) -> Result<(), ContentError> {
        match event {
            Event::Enter { name, meta } => {
                self.open.push(OpenDirectory {
                    name,
                    meta,
                    entries: self.nodes.list(),
                });
                Ok(())
            }
            Event::Extents(extents) => self.write_extents(&extents).await,
            Event::File {
                name,
                meta,
                size,
                extents,
            } => {
                self.write_extents(&extents).await?;
                let mut list = match self.file.take() {
                    Some(list) => list,
                    None => self.nodes.list(),
                };
                let body = match list.take_few(INLINE_EXTENTS_MAX) {
                    Some(extents) => Body::Inline(extents),
                    None => match self.nodes.close(list).await? {
                        Some(place) => Body::Manifest(place),
                        None => Body::Inline(Vec::new()),
                    },
                };
                let content = FileContent { size, body };
                let kind = EntryKind::File { meta, content };
                self.write_entry(Entry { name, kind }).await
            }
            Event::Link(entry) => self.write_entry(entry).await,
            Event::Exit => {
                let Some(directory) = self.open.pop() else {
                    return Ok(());
                };
                let entries = self.nodes.close(directory.entries).await?;
                if self.open.is_empty() {
                    self.root = Some((directory.meta, entries));
                    return Ok(());
                }
                let kind = EntryKind::Directory {
                    meta: directory.meta,
                    entries,
                };
                self.write_entry(Entry {
                    name: directory.name,
                    kind,
                })
                .await
            }
        }
    }

    async fn write_extents(&mut self, extents: &[PendingExtent]) -> Result<(), ContentError> {
        if extents.is_empty() {
            return Ok(());
        }
        let nodes = &mut self.nodes;
        let list = self.file.get_or_insert_with(|| nodes.list());
        for extent in extents.iter().filter_map(PendingExtent::resolve) {
            nodes.push(list, extent).await?;
        }
        Ok(())
    }

    async fn write_entry(&mut self, entry: Entry<Place>) -> Result<(), ContentError> {
        match self.open.last_mut() {
            Some(directory) => self.nodes.push(&mut directory.entries, entry).await,
            None => Ok(()),
        }
    }

    /// Writes the root. Everything that was met must be located.
    pub async fn finish(mut self, totals: TreeTotals) -> Result<NodeAt, ContentError> {
        self.advance().await?;
        let Some((meta, entries)) = self.root.take().filter(|_| self.events.is_empty()) else {
            return Err(ContentError::BrokenOff("the tree has no end".to_owned()));
        };
        let place = self
            .nodes
            .place_bytes(|packer| {
                TreeRoot {
                    meta,
                    entries: entries.map(|place| packer.name(place)),
                    totals,
                }
                .encode()
            })
            .await?;
        self.nodes.finish(place).await
    }
}
