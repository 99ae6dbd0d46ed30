//! Reading ahead: a task walks the metadata and starts fetches, at most a window of them before
//! whoever consumes the plan.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::cache::{BlockCache, Fetch, NodeReader, Reading};
use super::error::ContentError;
use super::frames::Head;
use super::pieces::Piece;
use super::seam::ChunkSource;
use crate::dag::{Body, DagError, Extent, FileContent, NodeAt, Walk};

/// Steps planned ahead. A pack may hold thousands of small files, and the plan must see its end to
/// fetch the next.
const STEPS_AHEAD: usize = 8192;

/// One step of a plan.
pub(super) enum PlanStep {
    /// A directory begins.
    Enter(Head),
    /// A directory ends.
    Exit,
    /// A symbolic or hard link.
    Link(Head),
    /// A file begins; its extents follow.
    File(Head),
    /// A part of the file.
    Part(Part),
    /// The file ends, at this offset.
    FileEnd(u64),
}

/// An extent whose block is under way.
pub(super) struct Part {
    pub extent: Extent,
    fetch: Fetch,
    /// Held by the step that began the fetch, until it is consumed.
    room: Option<OwnedSemaphorePermit>,
}

impl Part {
    /// The bytes; the plan may go on by one block.
    pub async fn bytes(self) -> Result<Bytes, ContentError> {
        let plaintext = self.fetch.await?;
        drop(self.room);
        let start = self.extent.block_offset as usize;
        let end = start + self.extent.len as usize;
        if end > plaintext.len() {
            return Err(ContentError::Node {
                block: self.extent.block.id,
                fault: DagError::Inconsistent("an extent beyond the end of its block"),
            });
        }
        Ok(plaintext.slice(start..end))
    }
}

/// What a planning task works with.
pub(super) struct Planner<S> {
    pub nodes: NodeReader<S>,
    blocks: BlockCache<S>,
    window: Arc<Semaphore>,
    steps: mpsc::Sender<Result<PlanStep, ContentError>>,
}

/// Nobody wants the plan any more, or it has failed.
pub(super) enum Stop {
    Unwanted,
    Failed(ContentError),
}

impl From<ContentError> for Stop {
    fn from(error: ContentError) -> Self {
        Stop::Failed(error)
    }
}

/// A plan under way. Dropping it ends its task and its fetches.
pub(super) struct Plan {
    steps: mpsc::Receiver<Result<PlanStep, ContentError>>,
    _task: AbortOnDropHandle<()>,
}

impl Plan {
    /// Starts `work`; what it returns as failed is the plan's last step.
    pub fn start<S, F, W>(source: S, how: &Reading, work: W) -> Plan
    where
        S: ChunkSource,
        F: Future<Output = Result<(), Stop>> + Send + 'static,
        W: FnOnce(Planner<S>) -> F,
    {
        let source = Arc::new(source);
        let window_blocks = how.window_blocks.max(1);
        let (sender, steps) = mpsc::channel(STEPS_AHEAD);
        let planner = Planner {
            nodes: NodeReader::new(Arc::clone(&source), how.pools.clone()),
            blocks: BlockCache::new(source, window_blocks + 1),
            window: Arc::new(Semaphore::new(window_blocks)),
            steps: sender.clone(),
        };
        let work = work(planner);
        let task = tokio::spawn(async move {
            if let Err(Stop::Failed(error)) = work.await {
                // A receiver that is gone does not care.
                let _ = sender.send(Err(error)).await;
            }
        });
        Plan {
            steps,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The next step; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<PlanStep>, ContentError> {
        self.steps.recv().await.transpose()
    }
}

impl<S: ChunkSource> Planner<S> {
    /// Appends a step.
    pub async fn step(&self, step: PlanStep) -> Result<(), Stop> {
        self.steps.send(Ok(step)).await.map_err(|_| Stop::Unwanted)
    }

    /// Appends an extent and starts to fetch its block, once there is room for it.
    pub async fn extent(&mut self, extent: Extent) -> Result<(), Stop> {
        let part = match self.blocks.known(&extent.block) {
            Some(fetch) => Part {
                extent,
                fetch,
                room: None,
            },
            None => {
                let room = Arc::clone(&self.window)
                    .acquire_owned()
                    .await
                    .map_err(|_| Stop::Unwanted)?;
                Part {
                    extent,
                    fetch: self.blocks.fetch(&extent.block),
                    room: Some(room),
                }
            }
        };
        self.step(PlanStep::Part(part)).await
    }

    /// Appends what of `content` lies in `start..end`.
    pub async fn content(
        &mut self,
        content: &FileContent<NodeAt>,
        start: u64,
        end: u64,
    ) -> Result<(), Stop> {
        let mut walk = Walk::extents(content, start, end);
        let root = match &content.body {
            Body::Manifest(node) => Some(*node),
            Body::Inline(_) => None,
        };
        while let Some(extents) = self.nodes.next(&mut walk).await? {
            for extent in extents {
                if extent.end() > content.size {
                    let wrong = DagError::Inconsistent("an extent beyond the end of its file");
                    let block = root.map_or(extent.block.id, |node| node.block.id);
                    return Err(Stop::Failed(ContentError::Node {
                        block,
                        fault: wrong,
                    }));
                }
                if let Some(part) = extent.clip(start, end) {
                    self.extent(part).await?;
                }
            }
        }
        Ok(())
    }
}

/// Turns parts into pieces: fills what lies between them with holes.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    position: u64,
    waiting: Option<Piece>,
}

impl Joiner {
    pub const fn at(position: u64) -> Self {
        Joiner {
            position,
            waiting: None,
        }
    }

    /// What `part` adds: it, or the hole before it, which [`Joiner::take`] then follows.
    pub async fn part(&mut self, part: Part) -> Result<Piece, ContentError> {
        let (offset, end) = (part.extent.offset, part.extent.end());
        let data = Piece::Data(part.bytes().await?);
        let gap = offset.saturating_sub(self.position);
        self.position = end;
        if gap > 0 {
            self.waiting = Some(data);
            return Ok(Piece::Hole(gap));
        }
        Ok(data)
    }

    /// What is left of the last part.
    pub const fn take(&mut self) -> Option<Piece> {
        self.waiting.take()
    }

    /// The hole up to `end`, if there is one.
    pub const fn end(&mut self, end: u64) -> Option<Piece> {
        let gap = end.saturating_sub(self.position);
        self.position = end;
        if gap > 0 {
            Some(Piece::Hole(gap))
        } else {
            None
        }
    }
}
