//! Manifests: files as extents of blocks, directories as packed nodes, links that name a root.
//!
//! Pure functions over values; knows nothing of sealing, disk or network. Encoded nodes are packed
//! into *metadata chunks* ([`pack`]), which are sealed and stored like any other chunk.
//!
//! Nodes are read from strangers' links: every decoder here is strict (one encoding for one
//! value), bounded, and answers nonsense with a [`DagError`]. A node refers only to blocks whose
//! address it holds and to nodes before it in its own block, so no walk can run in a circle.

pub mod build;
pub mod directory;
mod entry_wire;
pub mod error;
pub mod extent;
pub mod file;
pub mod link;
pub mod node;
pub mod pack;
pub mod patch;
pub mod root;
mod table;
pub mod walk;

pub use build::{Draft, LevelBuilder, NodeBudget};
pub use directory::{Entries, Entry, EntryKind, Meta, NameSpan, Timestamp, check_name};
pub use error::DagError;
pub use extent::{Extent, Extents, Span};
pub use file::{Body, FileContent};
pub use link::{Link, LinkError, Root};
pub use node::{Node, NodeAt, NodeRef, Shape};
pub use pack::{NodePacker, Place};
pub use patch::{Patch, PatchStep};
pub use root::{TreeRoot, TreeTotals};
pub use walk::{Step, Walk};

/// Refuses a node whose bytes are not the one encoding of what they say.
fn same_bytes(found: &[u8], canonical: &[u8]) -> Result<(), DagError> {
    if found == canonical {
        Ok(())
    } else {
        Err(crate::base::wire::WireError::NotCanonical.into())
    }
}
