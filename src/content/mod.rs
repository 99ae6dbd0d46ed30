//! Files and trees as streams: what `put` takes in and `get` gives out.
//!
//! Going in, a stream of [`Frame`]s or [`Piece`]s becomes chunks and a [`crate::dag::Root`]
//! ([`ingest_tree`], [`ingest_blob`]); coming out, a root becomes such a stream again
//! ([`TreeReader`], [`BlobReader`]). Knows nothing of peers, shards or the file system of whoever
//! sends and receives: chunks leave through a [`ChunkSink`] and come back from a [`ChunkSource`].

mod blob_in;
mod blob_out;
mod cache;
mod error;
mod extent_map;
mod extents_in;
mod frame_wire;
pub mod frames;
mod holes;
mod intake;
mod list;
pub mod overlay;
mod packs;
mod pieces;
mod plan;
mod seam;
mod survey;
mod tree_in;
mod tree_nodes;
mod tree_out;

pub use blob_in::ingest_blob;
pub use blob_out::BlobReader;
pub use cache::Reading;
pub use error::ContentError;
pub use extent_map::ExtentMap;
pub use frame_wire::{FrameDecoder, FrameEncoder, FrameError, decode_frames, encode_frames};
pub use frames::{Frame, Head, HeadKind, Remark};
pub use intake::Ingest;
pub use list::{Found, Listing, TreeView};
pub use pieces::{Piece, blob_frames, blob_pieces, flat_bytes};
pub use seam::{BlockSource, ChunkSink, ChunkSource};
pub use survey::{Survey, survey};
pub use tree_in::ingest_tree;
pub use tree_out::TreeReader;
