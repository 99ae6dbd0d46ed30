//! Giving out one blob, or a part of it.

use std::ops::Range;

use futures::stream::{self, Stream};

use super::cache::Reading;
use super::error::ContentError;
use super::pieces::Piece;
use super::plan::{Joiner, Plan, PlanStep};
use super::seam::ChunkSource;
use crate::dag::{Body, Extent, FileContent, NodeAt, Root};

/// Reads a blob in order, with a window of blocks fetched ahead.
pub struct BlobReader {
    plan: Plan,
    joiner: Joiner,
    end: u64,
    done: bool,
}

/// A blob as the content of a file.
pub(super) fn blob_content(root: &Root) -> Result<FileContent<NodeAt>, ContentError> {
    let body = match root {
        Root::Empty => Body::Inline(Vec::new()),
        Root::Block(block) => Body::Inline(vec![Extent {
            offset: 0,
            len: block.plain_len,
            block: *block,
            block_offset: 0,
        }]),
        Root::Manifest { node, .. } => Body::Manifest(*node),
        Root::Tree { .. } => {
            return Err(ContentError::WrongKind {
                found: "directory tree",
                wanted: "file",
            });
        }
    };
    Ok(FileContent {
        size: root.size(),
        body,
    })
}

impl BlobReader {
    /// Begins to read the bytes of `range` (what lies beyond the end is left out). Must be called within a tokio
    /// runtime. Dropping the reader ends all its fetches.
    ///
    /// # Errors
    /// If `root` is a tree.
    pub fn open<S: ChunkSource>(
        root: &Root,
        range: Range<u64>,
        source: S,
        how: &Reading,
    ) -> Result<Self, ContentError> {
        let content = blob_content(root)?;
        Ok(Self::of_file(content, range, source, how))
    }

    /// As [`BlobReader::open`], for a file of a tree.
    pub fn of_file<S: ChunkSource>(
        content: FileContent<NodeAt>,
        range: Range<u64>,
        source: S,
        how: &Reading,
    ) -> Self {
        let end = range.end.min(content.size);
        let start = range.start.min(end);
        let plan = Plan::start(source, how, |mut planner| async move {
            planner.content(&content, start, end).await
        });
        BlobReader {
            plan,
            joiner: Joiner::at(start),
            end,
            done: false,
        }
    }

    /// The next piece; `None` at the end. Nothing that comes was not verified. Not cancel safe: a
    /// cancelled call may have lost a piece.
    pub async fn next(&mut self) -> Result<Option<Piece>, ContentError> {
        if let Some(piece) = self.joiner.take() {
            return Ok(Some(piece));
        }
        while !self.done {
            match self.plan.next().await? {
                Some(PlanStep::Part(part)) => return self.joiner.part(part).await.map(Some),
                Some(_) => {}
                None => {
                    self.done = true;
                    return Ok(self.joiner.end(self.end));
                }
            }
        }
        Ok(None)
    }

    /// The pieces as a stream; an error is its last item.
    pub fn into_stream(self) -> impl Stream<Item = Result<Piece, ContentError>> + Send + Unpin {
        Box::pin(stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        }))
    }
}
