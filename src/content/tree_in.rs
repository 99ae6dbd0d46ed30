//! Taking in a tree.

use futures::stream::{Stream, StreamExt};

use super::error::ContentError;
use super::extents_in::FileIn;
use super::frames::{Frame, Head, HeadKind};
use super::intake::{InFlight, Ingest, PendingExtent};
use super::packs::Packs;
use super::pieces::Piece;
use super::seam::ChunkSink;
use super::tree_nodes::{Event, NodeWriter, TreeNodes};
use crate::base::limits::TREE_DEPTH_MAX;
use crate::chunk::ChunkSizes;
use crate::dag::directory::{check_meta, check_name, printable};
use crate::dag::{Entry, EntryKind, Meta, Root, TreeTotals};

/// So many links and directories may be met before what can be written is written.
const ADVANCE_EVERY: u64 = 256;

/// Takes in a tree as [`super::frames`] describes it, in memory that does not grow with its files.
/// The root depends on names, contents and metadata alone, not on the division of the stream nor
/// on what of a file came as holes; nor on the root's own name, which is not even sent.
///
/// As with [`super::ingest_blob`], the chunks are on their way when this returns, not durable.
pub async fn ingest_tree<S, K>(
    frames: S,
    sink: &K,
    how: &Ingest,
) -> Result<(Root, TreeTotals), ContentError>
where
    S: Stream<Item = Result<Frame, ContentError>> + Send,
    K: ChunkSink,
{
    let mut frames = std::pin::pin!(frames);
    let sizes = ChunkSizes::from(&how.limits);
    let mut tree = TreeIn {
        how,
        sizes,
        chunks: InFlight::new(sink),
        packs: Packs::new(sizes),
        nodes: TreeNodes::new(NodeWriter::new(sink, how.pools.clone(), &how.limits)),
        open: Vec::new(),
        file: None,
        age: 0,
        totals: TreeTotals::default(),
        ended: false,
    };
    while let Some(frame) = frames.next().await.transpose()? {
        tree.take(frame).await?;
    }
    tree.finish().await
}

struct OpenDirectory {
    name: Vec<u8>,
    /// The last name met in it.
    last: Vec<u8>,
}

struct OpenFile {
    name: Vec<u8>,
    meta: Meta,
    content: FileIn,
}

struct TreeIn<'a, K: ChunkSink> {
    how: &'a Ingest,
    sizes: ChunkSizes,
    chunks: InFlight<'a, K>,
    packs: Packs,
    nodes: TreeNodes<'a, K>,
    /// The directories that the walk is in, the root first.
    open: Vec<OpenDirectory>,
    file: Option<OpenFile>,
    /// How far the walk has come: entries met and chunks cut.
    age: u64,
    totals: TreeTotals,
    ended: bool,
}

impl<K: ChunkSink> TreeIn<'_, K> {
    async fn take(&mut self, frame: Frame) -> Result<(), ContentError> {
        if self.ended {
            return Err(self.refuse("something follows the end of the tree"));
        }
        match (frame, self.file.is_some()) {
            (Frame::Entry(head), false) => self.entry(head).await,
            (Frame::Entry(_), true) => Err(self.refuse("an entry in the middle of a file")),
            (Frame::Data(bytes), true) => self.content(Piece::Data(bytes)).await,
            (Frame::Hole(len), true) => self.content(Piece::Hole(len)).await,
            (Frame::Data(_) | Frame::Hole(_), false) => {
                Err(self.refuse("content that belongs to no file"))
            }
            (Frame::End, true) => self.end_file().await,
            (Frame::End, false) => self.end_directory().await,
            (Frame::Error(remark), _) => Err(ContentError::Sender {
                class: remark.class,
                message: remark.message,
            }),
        }
    }

    async fn entry(&mut self, head: Head) -> Result<(), ContentError> {
        let Head { name, kind } = head;
        if let Some(parent) = self.open.last_mut() {
            if name.is_empty() || name <= parent.last {
                let why = "entries must ascend by name, each once";
                return Err(self.refuse_entry(&name, why));
            }
            // Also what only a sender of another make could send.
            if let Err(why) = check_name(&name) {
                return Err(self.refuse_entry(&name, why));
            }
            parent.last.clone_from(&name);
        } else if !name.is_empty() || !matches!(kind, HeadKind::Directory { .. }) {
            return Err(self.refuse("a tree begins with its root, a directory without name"));
        }

        self.age += 1;
        self.packs
            .retire(self.age, &self.how.pools, &mut self.chunks)
            .await?;
        let entry = match kind {
            HeadKind::File { meta, .. } => {
                check_meta(&meta).map_err(|why| self.refuse_entry(&name, why))?;
                self.totals.files += 1;
                self.file = Some(OpenFile {
                    name,
                    meta,
                    content: FileIn::new(self.sizes),
                });
                return Ok(());
            }
            HeadKind::Directory { meta } => return self.enter(name, meta),
            HeadKind::Symlink { mtime, target } => {
                self.totals.symlinks += 1;
                EntryKind::Symlink { mtime, target }
            }
            HeadKind::HardLink { first } => {
                if !self.is_behind(&first, &name) {
                    let why = "a hard link must come after the first name of its file";
                    return Err(self.refuse_entry(&name, why));
                }
                self.totals.hard_links += 1;
                EntryKind::HardLink { first }
            }
        };
        let entry = Entry { name, kind: entry };
        if entry.check().is_err() {
            return Err(self.refuse_entry(&entry.name, "a name or target that cannot be stored"));
        }
        self.nodes.met(Event::Link(entry));
        self.advance_sometimes().await
    }

    fn enter(&mut self, name: Vec<u8>, meta: Meta) -> Result<(), ContentError> {
        if self.open.len() > TREE_DEPTH_MAX {
            return Err(self.refuse_entry(&name, "directories nested too deep"));
        }
        check_meta(&meta).map_err(|why| self.refuse_entry(&name, why))?;
        if !self.open.is_empty() {
            self.totals.directories += 1;
        }
        self.open.push(OpenDirectory {
            name: name.clone(),
            last: Vec::new(),
        });
        self.nodes.met(Event::Enter { name, meta });
        Ok(())
    }

    async fn content(&mut self, piece: Piece) -> Result<(), ContentError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let pushed = file
            .content
            .push(piece, &self.how.pools, &mut self.chunks)
            .await;
        if let Err(ContentError::Refused { why, .. }) = pushed {
            return Err(self.refuse(why));
        }
        pushed?;
        let (extents, cut) = match &mut self.file {
            Some(file) => (file.content.take_extents(), file.content.chunks()),
            None => return Ok(()),
        };
        if extents.is_empty() {
            return Ok(());
        }
        self.nodes.met(Event::Extents(extents));
        // The next small file would find its pack too old; do not let a huge file wait for it.
        self.packs
            .retire(self.age + cut, &self.how.pools, &mut self.chunks)
            .await?;
        self.nodes.advance().await
    }

    async fn end_file(&mut self) -> Result<(), ContentError> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        let pools = &self.how.pools;
        let small = file.content.finish(pools, &mut self.chunks).await?;
        self.age += file.content.chunks();
        let extents: Vec<PendingExtent> = match small {
            Some(small) => {
                self.packs
                    .add(small, self.age, pools, &mut self.chunks)
                    .await?
            }
            None => file.content.take_extents(),
        };
        let size = file.content.size();
        self.totals.bytes = self.totals.bytes.saturating_add(size);
        self.nodes.met(Event::File {
            name: file.name,
            meta: file.meta,
            size,
            extents,
        });
        self.advance_sometimes().await
    }

    async fn end_directory(&mut self) -> Result<(), ContentError> {
        if self.open.pop().is_none() {
            return Err(self.refuse("an end without a beginning"));
        }
        self.nodes.met(Event::Exit);
        self.ended = self.open.is_empty();
        self.advance_sometimes().await
    }

    async fn advance_sometimes(&mut self) -> Result<(), ContentError> {
        if self.age.is_multiple_of(ADVANCE_EVERY) {
            self.nodes.advance().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(Root, TreeTotals), ContentError> {
        if !self.ended {
            return Err(ContentError::BrokenOff("the tree has no end".to_owned()));
        }
        self.packs.finish(&self.how.pools, &mut self.chunks).await?;
        self.chunks.settle().await?;
        let node = self.nodes.finish(self.totals).await?;
        let size = self.totals.bytes;
        Ok((Root::Tree { node, size }, self.totals))
    }

    /// Whether the walk was at `path` before it came to `name` in the present directory.
    fn is_behind(&self, path: &[u8], name: &[u8]) -> bool {
        let present = self.open.iter().skip(1).map(|open| open.name.as_slice());
        let here = present.chain(std::iter::once(name));
        path.split(|byte| *byte == b'/').lt(here)
    }

    fn refuse(&self, why: &'static str) -> ContentError {
        match &self.file {
            Some(file) => self.refuse_entry(&file.name, why),
            None => self.refuse_entry(&[], why),
        }
    }

    fn refuse_entry(&self, name: &[u8], why: &'static str) -> ContentError {
        let open = self.open.iter().skip(1).map(|open| open.name.as_slice());
        let path: Vec<String> = open.chain(std::iter::once(name)).map(printable).collect();
        ContentError::Refused {
            path: path.join("/"),
            why,
        }
    }
}
