//! Where chunks go to and come from.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::error::ContentError;
use crate::base::{BlockRef, Chunk, EcProfile};
use crate::blocks::{Blocks, Upload};

/// Takes chunks: an upload.
pub trait ChunkSink: Send + Sync {
    /// Resolves when the chunk is sealed.
    type Pending: Future<Output = Result<BlockRef, ContentError>> + Send + Unpin + 'static;

    /// Waits for room in the upload's window, then returns at once.
    fn submit(
        &self,
        chunk: Chunk,
    ) -> impl Future<Output = Result<Self::Pending, ContentError>> + Send;
}

/// Gives back chunks.
pub trait ChunkSource: Send + Sync + 'static {
    /// The whole verified plaintext of a block.
    fn block(
        &self,
        reference: &BlockRef,
    ) -> impl Future<Output = Result<Bytes, ContentError>> + Send;
}

impl ChunkSink for Upload {
    type Pending = BoxFuture<'static, Result<BlockRef, ContentError>>;

    async fn submit(&self, chunk: Chunk) -> Result<Self::Pending, ContentError> {
        let pending = Upload::submit(self, chunk).await?;
        Ok(pending
            .map(|sealed| sealed.map_err(ContentError::from))
            .boxed())
    }
}

/// The blocks of one link, in the pool.
#[derive(Debug, Clone)]
pub struct BlockSource {
    /// Who fetches.
    pub blocks: Blocks,
    /// Redundancy of the link's blocks.
    pub profile: EcProfile,
}

impl ChunkSource for BlockSource {
    async fn block(&self, reference: &BlockRef) -> Result<Bytes, ContentError> {
        Ok(self.blocks.read_block(reference, self.profile).await?)
    }
}

impl<S: ChunkSource> ChunkSource for Arc<S> {
    async fn block(&self, reference: &BlockRef) -> Result<Bytes, ContentError> {
        S::block(self, reference).await
    }
}
