//! Looking into a tree: paths and listings, reading only the nodes they need.

use std::sync::Arc;

use super::cache::{NodeReader, Reading};
use super::error::ContentError;
use super::seam::ChunkSource;
use super::tree_out::tree_node;
use crate::dag::directory::printable;
use crate::dag::{Entries, Entry, EntryKind, FileContent, Meta, NodeAt, Root, TreeRoot, Walk};

/// A tree that can be looked into.
pub struct TreeView<S> {
    nodes: NodeReader<S>,
    root: TreeRoot<NodeAt>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A directory, or the root.
    Directory {
        /// Mode and time.
        meta: Meta,
        /// Its entries, for [`TreeView::list`].
        entries: Option<NodeAt>,
    },
    /// A file, under its first name or another.
    File {
        /// Mode and time.
        meta: Meta,
        /// Its bytes.
        content: FileContent<NodeAt>,
    },
    /// A symbolic link; it is not followed.
    Symlink(Entry<NodeAt>),
}

/// A directory's entries, page by page.
pub struct Listing {
    walk: Option<Walk<Entries>>,
}

impl<S: ChunkSource> TreeView<S> {
    /// Reads the root of a tree.
    pub async fn open(root: &Root, source: S, how: &Reading) -> Result<Self, ContentError> {
        let (node, _) = tree_node(root)?;
        let mut nodes = NodeReader::new(Arc::new(source), how.pools.clone());
        let root = nodes.tree_root(&node).await?;
        Ok(TreeView { nodes, root })
    }

    /// The root node: what the whole tree holds.
    pub const fn root(&self) -> &TreeRoot<NodeAt> {
        &self.root
    }

    /// The entry at `path`: names joined by `/`, empty ones and `.` left out; `None` for the root.
    pub async fn entry(&mut self, path: &[u8]) -> Result<Option<Entry<NodeAt>>, ContentError> {
        let mut names = path.split(|byte| *byte == b'/').filter(is_step).peekable();
        let mut entries = self.root.entries;
        while let Some(name) = names.next() {
            let found = match entries {
                Some(node) => self.find(node, name).await?,
                None => None,
            };
            let Some(found) = found else {
                return Err(ContentError::NotFound(printable(path)));
            };
            if names.peek().is_none() {
                return Ok(Some(found));
            }
            match found.kind {
                EntryKind::Directory { entries: below, .. } => entries = below,
                _ => return Err(ContentError::NotADirectory(printable(name))),
            }
        }
        Ok(None)
    }

    /// What is at `path`, further names of a file followed to it.
    pub async fn resolve(&mut self, path: &[u8]) -> Result<Found, ContentError> {
        let Some(entry) = self.entry(path).await? else {
            return Ok(Found::Directory {
                meta: self.root.meta,
                entries: self.root.entries,
            });
        };
        match entry.kind {
            EntryKind::Directory { meta, entries } => Ok(Found::Directory { meta, entries }),
            EntryKind::File { meta, content } => Ok(Found::File { meta, content }),
            EntryKind::Symlink { .. } => Ok(Found::Symlink(entry)),
            EntryKind::HardLink { first } => match self.entry(&first).await {
                Ok(Some(Entry {
                    kind: EntryKind::File { meta, content },
                    ..
                })) => Ok(Found::File { meta, content }),
                Ok(_) | Err(ContentError::NotFound(_) | ContentError::NotADirectory(_)) => {
                    Err(ContentError::Damaged {
                        path: printable(path),
                        why: "a hard link to what is no file",
                    })
                }
                Err(error) => Err(error),
            },
        }
    }

    /// The entries of a directory that was found.
    pub fn list(&self, entries: Option<NodeAt>) -> Listing {
        Listing {
            walk: entries.map(Walk::all),
        }
    }

    /// The next entries of a listing, ascending by name; `None` at its end.
    pub async fn next_page(
        &mut self,
        listing: &mut Listing,
    ) -> Result<Option<Vec<Entry<NodeAt>>>, ContentError> {
        match &mut listing.walk {
            Some(walk) => self.nodes.next(walk).await,
            None => Ok(None),
        }
    }

    async fn find(
        &mut self,
        node: NodeAt,
        name: &[u8],
    ) -> Result<Option<Entry<NodeAt>>, ContentError> {
        let wanted = name.to_vec();
        let mut walk = Walk::<Entries>::only(node, move |span| {
            span.first <= wanted && wanted <= span.last
        });
        while let Some(entries) = self.nodes.next(&mut walk).await? {
            if let Some(found) = entries.into_iter().find(|entry| entry.name == name) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Whether a part of a path leads anywhere. (A function: closures over two lifetimes make futures
/// that are not provably `Send`.)
fn is_step(name: &&[u8]) -> bool {
    !name.is_empty() && *name != b"."
}
