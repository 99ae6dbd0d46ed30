//! Giving out a tree.

use futures::stream::{self, Stream};

use super::cache::{NodeReader, Reading};
use super::error::ContentError;
use super::frames::{Frame, Head, HeadKind};
use super::plan::{Joiner, Plan, PlanStep, Planner, Stop};
use super::seam::ChunkSource;
use crate::base::limits::TREE_DEPTH_MAX;
use crate::dag::directory::printable;
use crate::dag::{Entries, Entry, EntryKind, NodeAt, Root, TreeRoot, TreeTotals, Walk};

/// Reads a tree in the order of its walk, as frames, with a window of blocks fetched ahead.
pub struct TreeReader {
    plan: Plan,
    /// Of the file that is being given out.
    joiner: Joiner,
    /// A file's end is still to be told.
    end_file: bool,
}

impl TreeReader {
    /// Begins to read. Must be called within a tokio runtime. Dropping the reader ends all its fetches.
    ///
    /// # Errors
    /// If `root` is no tree.
    pub fn open<S: ChunkSource>(
        root: &Root,
        source: S,
        how: &Reading,
    ) -> Result<Self, ContentError> {
        let (node, size) = tree_node(root)?;
        let plan = Plan::start(source, how, |planner| plan_tree(planner, node, size));
        Ok(TreeReader {
            plan,
            joiner: Joiner::default(),
            end_file: false,
        })
    }

    /// The next frame; `None` after the root's end. Not cancel safe: a cancelled call may have
    /// lost a frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, ContentError> {
        if let Some(piece) = self.joiner.take() {
            return Ok(Some(piece.into()));
        }
        if std::mem::take(&mut self.end_file) {
            return Ok(Some(Frame::End));
        }
        let Some(step) = self.plan.next().await? else {
            return Ok(None);
        };
        let frame = match step {
            PlanStep::Enter(head) | PlanStep::Link(head) => Frame::Entry(head),
            PlanStep::Exit => Frame::End,
            PlanStep::File(head) => {
                self.joiner = Joiner::default();
                Frame::Entry(head)
            }
            PlanStep::Part(part) => self.joiner.part(part).await?.into(),
            PlanStep::FileEnd(size) => match self.joiner.end(size) {
                Some(hole) => {
                    self.end_file = true;
                    hole.into()
                }
                None => Frame::End,
            },
        };
        Ok(Some(frame))
    }

    /// The frames as a stream; an error is its last item.
    pub fn into_stream(self) -> impl Stream<Item = Result<Frame, ContentError>> + Send + Unpin {
        Box::pin(stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|frame| (frame, reader)))
        }))
    }
}

/// The root node of a tree and the bytes of its files.
pub(super) const fn tree_node(root: &Root) -> Result<(NodeAt, u64), ContentError> {
    match root {
        Root::Tree { node, size } => Ok((*node, *size)),
        _ => Err(ContentError::WrongKind {
            found: "file",
            wanted: "directory tree",
        }),
    }
}

struct OpenDirectory {
    name: Vec<u8>,
    walk: Option<Walk<Entries>>,
    ready: std::vec::IntoIter<Entry<NodeAt>>,
}

/// What a [`TreeWalk`] meets.
pub(super) enum Met {
    /// An entry. A directory is entered.
    Entry(Entry<NodeAt>),
    /// The end of a directory.
    Exit,
}

/// Walks all entries of a tree, and holds it to what its root says of it.
pub(super) struct TreeWalk {
    open: Vec<OpenDirectory>,
    seen: TreeTotals,
    declared: TreeTotals,
}

impl TreeWalk {
    /// Reads the root; the walk itself begins behind it.
    pub async fn begin<S: ChunkSource>(
        nodes: &mut NodeReader<S>,
        node: NodeAt,
        size: u64,
    ) -> Result<(TreeRoot<NodeAt>, TreeWalk), ContentError> {
        let root = nodes.tree_root(&node).await?;
        if root.totals.bytes != size {
            return Err(damaged(String::new(), "link and root disagree on its size"));
        }
        let walk = TreeWalk {
            open: vec![OpenDirectory {
                name: Vec::new(),
                walk: root.entries.map(Walk::all),
                ready: Vec::new().into_iter(),
            }],
            seen: TreeTotals::default(),
            declared: root.totals,
        };
        Ok((root, walk))
    }

    /// What comes next; `None` after the end of the root.
    pub async fn next<S: ChunkSource>(
        &mut self,
        nodes: &mut NodeReader<S>,
    ) -> Result<Option<Met>, ContentError> {
        loop {
            let Some(here) = self.open.last_mut() else {
                return Ok(None);
            };
            if let Some(entry) = here.ready.next() {
                self.meet(&entry)?;
                return Ok(Some(Met::Entry(entry)));
            }
            let more = match &mut here.walk {
                Some(walk) => nodes.next(walk).await?,
                None => None,
            };
            match more {
                Some(entries) => here.ready = entries.into_iter(),
                None => {
                    self.open.pop();
                    if self.open.is_empty() && self.seen != self.declared {
                        let why = "it has less in it than its root says";
                        return Err(damaged(String::new(), why));
                    }
                    return Ok(Some(Met::Exit));
                }
            }
        }
    }

    fn meet(&mut self, entry: &Entry<NodeAt>) -> Result<(), ContentError> {
        let seen = &mut self.seen;
        match &entry.kind {
            EntryKind::File { content, .. } => {
                seen.files += 1;
                seen.bytes = seen.bytes.saturating_add(content.size);
            }
            EntryKind::Directory { .. } => seen.directories += 1,
            EntryKind::Symlink { .. } => seen.symlinks += 1,
            EntryKind::HardLink { .. } => seen.hard_links += 1,
        }
        if !self.seen.within(&self.declared) {
            return Err(damaged(
                self.path(&entry.name),
                "it has more in it than its root says",
            ));
        }
        match &entry.kind {
            EntryKind::Directory { entries, .. } => {
                if self.open.len() > TREE_DEPTH_MAX {
                    let why = "directories nested too deep";
                    return Err(damaged(self.path(&entry.name), why));
                }
                self.open.push(OpenDirectory {
                    name: entry.name.clone(),
                    walk: entries.map(Walk::all),
                    ready: Vec::new().into_iter(),
                });
            }
            EntryKind::HardLink { first } => {
                let present = self.open.iter().skip(1).map(|open| open.name.as_slice());
                let here = present.chain(std::iter::once(entry.name.as_slice()));
                if !first.split(|byte| *byte == b'/').lt(here) {
                    let why = "a hard link to what does not come before it";
                    return Err(damaged(self.path(&entry.name), why));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn path(&self, name: &[u8]) -> String {
        let open = self.open.iter().skip(1).map(|open| open.name.as_slice());
        let path: Vec<String> = open.chain(std::iter::once(name)).map(printable).collect();
        path.join("/")
    }
}

const fn damaged(path: String, why: &'static str) -> ContentError {
    ContentError::Damaged { path, why }
}

async fn plan_tree<S: ChunkSource>(
    mut planner: Planner<S>,
    node: NodeAt,
    size: u64,
) -> Result<(), Stop> {
    let (root, mut walk) = TreeWalk::begin(&mut planner.nodes, node, size).await?;
    let head = Head {
        name: Vec::new(),
        kind: HeadKind::Directory { meta: root.meta },
    };
    planner.step(PlanStep::Enter(head)).await?;
    while let Some(met) = walk.next(&mut planner.nodes).await? {
        match met {
            Met::Exit => planner.step(PlanStep::Exit).await?,
            Met::Entry(entry) => plan_entry(&mut planner, entry).await?,
        }
    }
    Ok(())
}

async fn plan_entry<S: ChunkSource>(
    planner: &mut Planner<S>,
    entry: Entry<NodeAt>,
) -> Result<(), Stop> {
    let name = entry.name;
    match entry.kind {
        EntryKind::File { meta, content } => {
            let size = content.size;
            let kind = HeadKind::File { meta, size };
            planner.step(PlanStep::File(Head { name, kind })).await?;
            planner.content(&content, 0, size).await?;
            planner.step(PlanStep::FileEnd(size)).await
        }
        EntryKind::Directory { meta, .. } => {
            let kind = HeadKind::Directory { meta };
            planner.step(PlanStep::Enter(Head { name, kind })).await
        }
        EntryKind::Symlink { mtime, target } => {
            let kind = HeadKind::Symlink { mtime, target };
            planner.step(PlanStep::Link(Head { name, kind })).await
        }
        EntryKind::HardLink { first } => {
            let kind = HeadKind::HardLink { first };
            planner.step(PlanStep::Link(Head { name, kind })).await
        }
    }
}
