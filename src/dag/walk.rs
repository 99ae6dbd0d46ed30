//! Reading a list of nodes part by part: says which node it needs next and takes its bytes,
//! wherever the caller got them from.

use super::error::DagError;
use super::extent::{Extent, Extents, Span};
use super::file::{Body, FileContent};
use super::node::{Node, NodeAt, Shape};

/// What a walk can do now.
#[derive(Debug)]
pub enum Step<I> {
    /// It needs the bytes of this node: [`Walk::supply`].
    Need(NodeAt),
    /// The next elements.
    Items(Vec<I>),
    /// There are no more.
    Done,
}

struct Pending<S: Shape> {
    at: NodeAt,
    /// What the parent said of it; nothing is known of the root.
    expected: Option<(u8, S::Span)>,
}

type Keep<S> = Box<dyn Fn(&S) -> bool + Send + Sync>;

/// A walk over a list kept in nodes, in order, reading only the nodes that `keep` wants.
pub struct Walk<S: Shape> {
    /// Nodes to read, the next one last.
    stack: Vec<Pending<S>>,
    ready: Option<Vec<S::Item>>,
    keep: Keep<S::Span>,
}

impl<S: Shape> Walk<S> {
    /// Everything below `root`.
    pub fn all(root: NodeAt) -> Self {
        Self::only(root, |_| true)
    }

    /// Only leaves for whose span `keep` holds. A lone leaf is given whatever it holds.
    pub fn only(root: NodeAt, keep: impl Fn(&S::Span) -> bool + Send + Sync + 'static) -> Self {
        Walk {
            stack: vec![Pending {
                at: root,
                expected: None,
            }],
            ready: None,
            keep: Box::new(keep),
        }
    }

    /// A list that is at hand.
    pub fn ready(items: Vec<S::Item>) -> Self {
        Walk {
            stack: Vec::new(),
            ready: Some(items),
            keep: Box::new(|_| true),
        }
    }

    /// What comes next.
    pub fn step(&mut self) -> Step<S::Item> {
        if let Some(items) = self.ready.take() {
            return Step::Items(items);
        }
        match self.stack.last() {
            Some(next) => Step::Need(next.at),
            None => Step::Done,
        }
    }

    /// Hands over the bytes of the node that [`Step::Need`] asked for.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), DagError> {
        let Some(pending) = self.stack.pop() else {
            return Ok(());
        };
        match S::decode(bytes, &pending.at)? {
            Node::Leaf(items) => {
                let span = S::item_span(&items);
                if let Some((level, expected)) = pending.expected
                    && (level != 0 || span.as_ref() != Some(&expected))
                {
                    return Err(DagError::Inconsistent(
                        "a leaf that its index describes wrongly",
                    ));
                }
                self.ready = Some(items);
            }
            Node::Index { level, children } => {
                if let Some((wanted, expected)) = pending.expected {
                    let mut spans = children.iter().map(|(span, _)| span);
                    let first = spans.next().cloned();
                    let whole = first.map(|f| spans.fold(f, |all, next| S::join(&all, next)));
                    if level != wanted || whole.as_ref() != Some(&expected) {
                        return Err(DagError::Inconsistent(
                            "an index that the one above describes wrongly",
                        ));
                    }
                }
                let kept = children.into_iter().filter(|(span, _)| (self.keep)(span));
                let mut below: Vec<Pending<S>> = kept
                    .map(|(span, at)| Pending {
                        at,
                        expected: Some((level - 1, span)),
                    })
                    .collect();
                below.reverse();
                self.stack.append(&mut below);
            }
        }
        Ok(())
    }
}

impl Walk<Extents> {
    /// The extents of `content` that touch `start..end`, perhaps with neighbours.
    pub fn extents(content: &FileContent<NodeAt>, start: u64, end: u64) -> Self {
        match &content.body {
            Body::Inline(extents) => {
                let touching = |extent: &&Extent| extent.offset < end && extent.end() > start;
                Walk::ready(extents.iter().filter(touching).copied().collect())
            }
            Body::Manifest(root) => Walk::only(*root, move |span: &Span| {
                span.start < end && span.end > start
            }),
        }
    }
}
