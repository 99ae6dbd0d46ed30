//! Taking in one blob.

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, StreamExt};

use super::error::ContentError;
use super::extents_in::FileIn;
use super::holes::GRAIN;
use super::intake::{InFlight, Ingest, Located, PendingExtent};
use super::pieces::Piece;
use super::seam::ChunkSink;
use super::tree_nodes::NodeWriter;
use crate::chunk::ChunkSizes;
use crate::dag::{Extents, Root};

/// Takes in a blob, in constant memory. The root depends on its bytes alone, not on the division of the
/// stream nor on what of it came as holes.
///
/// The chunks are on their way when this returns, not durable: finish the upload. After an error or
/// when the future is dropped, give the upload up.
pub async fn ingest_blob<S, K>(pieces: S, sink: &K, how: &Ingest) -> Result<Root, ContentError>
where
    S: Stream<Item = Result<Piece, ContentError>> + Send,
    K: ChunkSink,
{
    let mut pieces = std::pin::pin!(pieces);
    let sizes = ChunkSizes::from(&how.limits);

    // What is smaller than a chunk is one, zeros and all.
    let mut head = Vec::new();
    let mut head_len = 0u64;
    while head_len < sizes.min() as u64 {
        match pieces.next().await.transpose()? {
            Some(piece) => {
                head_len = head_len.saturating_add(match &piece {
                    Piece::Data(bytes) => bytes.len() as u64,
                    Piece::Hole(len) => *len,
                });
                head.push(piece);
            }
            None if head_len == 0 => return Ok(Root::Empty),
            None => {
                let chunk = joined(&head, head_len as usize);
                let block = sink.submit(chunk.into()).await?.await?;
                return Ok(Root::Block(block));
            }
        }
    }

    let mut blob = BlobIn {
        how,
        file: FileIn::new(sizes),
        chunks: InFlight::new(sink),
        waiting: Vec::new(),
        nodes: NodeWriter::new(sink, how.pools.clone(), &how.limits),
        list: None,
        extents: 0,
        first: None,
    };
    for piece in head {
        blob.push(piece).await?;
    }
    while let Some(piece) = pieces.next().await.transpose()? {
        blob.push(piece).await?;
    }
    blob.finish().await
}

fn joined(pieces: &[Piece], len: usize) -> Bytes {
    if let [Piece::Data(bytes)] = pieces {
        return bytes.clone();
    }
    let mut joined = BytesMut::with_capacity(len);
    for piece in pieces {
        match piece {
            Piece::Data(bytes) => joined.extend_from_slice(bytes),
            Piece::Hole(hole) => joined.resize(joined.len() + *hole as usize, 0),
        }
    }
    joined.freeze()
}

struct BlobIn<'a, K: ChunkSink> {
    how: &'a Ingest,
    file: FileIn,
    chunks: InFlight<'a, K>,
    /// Extents whose chunks may not be sealed.
    waiting: Vec<PendingExtent>,
    nodes: NodeWriter<'a, K>,
    list: Option<crate::dag::LevelBuilder<Extents>>,
    extents: u64,
    first: Option<crate::dag::Extent>,
}

impl<K: ChunkSink> BlobIn<'_, K> {
    async fn push(&mut self, piece: Piece) -> Result<(), ContentError> {
        self.file
            .push(piece, &self.how.pools, &mut self.chunks)
            .await?;
        self.write().await
    }

    /// Writes the extents that are known, in order.
    async fn write(&mut self) -> Result<(), ContentError> {
        self.waiting.append(&mut self.file.take_extents());
        let known = self
            .waiting
            .iter()
            .take_while(|extent| extent.at.get().is_some())
            .count();
        for extent in self.waiting.drain(..known).filter_map(|e| e.resolve()) {
            self.first.get_or_insert(extent);
            self.extents += 1;
            let list = self.list.get_or_insert_with(|| self.nodes.list());
            self.nodes.push(list, extent).await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Root, ContentError> {
        let small = self.file.finish(&self.how.pools, &mut self.chunks).await?;
        let size = self.file.size();
        let mut extents = self.file.take_extents();
        if let Some(small) = small {
            // Large, but little of it is not zero. A manifest has at least one extent: then zeros.
            let mut runs = small.runs;
            let data: Vec<Piece> = if small.data_len > 0 {
                small.data.into_iter().map(Piece::Data).collect()
            } else {
                let grain = size.min(GRAIN as u64);
                runs.push_back((0, grain));
                vec![Piece::Hole(grain)]
            };
            let chunk = joined(&data, small.data_len);
            let at = Located::default();
            extents = super::extents_in::extents_of(&mut runs, chunk.len() as u64, &at);
            self.chunks.submit(chunk, vec![(at, 0)]).await?;
        }
        self.waiting.append(&mut extents);
        self.chunks.settle().await?;
        self.write().await?;
        if let Some(first) = self.first
            && self.extents == 1
            && first.offset == 0
            && size == u64::from(first.block.plain_len)
        {
            return Ok(Root::Block(first.block));
        }
        let list = match self.list.take() {
            Some(list) => list,
            None => self.nodes.list(),
        };
        match self.nodes.close(list).await? {
            Some(place) => {
                let node = self.nodes.finish(place).await?;
                Ok(Root::Manifest { node, size })
            }
            None => Ok(Root::Empty),
        }
    }
}
