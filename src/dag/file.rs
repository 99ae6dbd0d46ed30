//! What a file or blob consists of: a few extents, or a manifest of any size.

use super::error::DagError;
use super::extent::{Extent, check_extents};

/// So many extents stand in the directory entry itself; a file with more has a manifest.
pub const INLINE_EXTENTS_MAX: usize = 8;

/// The content of a file. `R` is how it names its manifest: [`super::NodeAt`] when read,
/// [`super::Place`] while it is built, [`super::NodeRef`] in an encoded node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent<R> {
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where they are.
    pub body: Body<R>,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<R> {
    /// At most [`INLINE_EXTENTS_MAX`] extents; none: nothing but a hole (or nothing at all).
    Inline(Vec<Extent>),
    /// The root of a tree of extents.
    Manifest(R),
}

impl<R> FileContent<R> {
    /// The same content under another way to name nodes.
    pub fn try_map<S>(
        self,
        name: impl FnOnce(R) -> Result<S, DagError>,
    ) -> Result<FileContent<S>, DagError> {
        Ok(FileContent {
            size: self.size,
            body: match self.body {
                Body::Inline(extents) => Body::Inline(extents),
                Body::Manifest(node) => Body::Manifest(name(node)?),
            },
        })
    }

    /// Checks what can be checked without reading a manifest.
    pub fn check(&self) -> Result<(), DagError> {
        let Body::Inline(extents) = &self.body else {
            return Ok(());
        };
        if extents.len() > INLINE_EXTENTS_MAX {
            return Err(DagError::Inconsistent("too many inline extents"));
        }
        check_extents(extents)?;
        if extents.last().is_some_and(|last| last.end() > self.size) {
            return Err(DagError::Inconsistent(
                "an extent beyond the end of its file",
            ));
        }
        Ok(())
    }
}
