//! Changing a part of a file of any size: the nodes around the change are written anew, all others
//! are named again where they are.
//!
//! Nodes do not wither under many small changes: where little would be left for a node of its own,
//! it is joined with what follows.

use std::collections::VecDeque;

use super::build::{Close, Draft, LevelBuilder, NodeBudget};
use super::error::DagError;
use super::extent::{EXTENT_COST, Extent, Extents, Span};
use super::file::{Body, FileContent};
use super::node::{Node, NodeAt, Shape};
use super::pack::Place;

/// What a patch needs, or has come to.
pub enum PatchStep {
    /// The bytes of this old node: [`Patch::supply`].
    Need(NodeAt),
    /// Place this node and report it: [`Patch::placed`].
    Place(Draft<Extents>),
    /// The whole list is below this node, old or new.
    Root(Place),
    /// All of the list: no more extents than a file may have without a node.
    Few(Vec<Extent>),
}

/// Part of the old list.
enum Old {
    /// An extent.
    Item(Extent),
    /// A node; of the root alone nothing is known.
    Node(NodeAt, Option<(u8, Span)>),
}

/// Replaces the bytes `start..end` of a list of extents by others.
pub struct Patch {
    start: u64,
    end: u64,
    new: VecDeque<Extent>,
    /// What of the old list is left, the next last.
    old: Vec<Old>,
    built: LevelBuilder<Extents>,
    /// An old node that is to be taken over once nothing waits below its level.
    taken: Option<(NodeAt, u8, Span)>,
    /// At most so many extents are given back without a node.
    few: usize,
}

impl Patch {
    /// The extents of `content` with those of `new`, which lie within `start..end` in order, in place
    /// of all that it has there. A list of at most `few` extents comes back as such.
    pub fn new(
        content: &FileContent<NodeAt>,
        start: u64,
        end: u64,
        new: Vec<Extent>,
        budget: NodeBudget,
        few: usize,
    ) -> Self {
        let old = match &content.body {
            Body::Inline(extents) => extents.iter().rev().map(|e| Old::Item(*e)).collect(),
            Body::Manifest(root) => vec![Old::Node(*root, None)],
        };
        Patch {
            start,
            end,
            new: new.into(),
            old,
            built: LevelBuilder::new(budget),
            taken: None,
            few,
        }
    }

    /// What comes next. After `Root` or `Few` nothing does.
    pub fn step(&mut self) -> PatchStep {
        loop {
            if let Some(draft) = self.built.take_full() {
                return PatchStep::Place(draft);
            }
            if let Some((at, level, span)) = self.taken {
                if let Some(draft) = self.built.settle(level) {
                    return PatchStep::Place(draft);
                }
                self.built.push_node(level, span, at);
                self.taken = None;
                continue;
            }
            let Some(next) = self.old.pop() else {
                if let Some(extent) = self.new.pop_front() {
                    self.built.push(extent);
                    continue;
                }
                return self.close();
            };
            match next {
                Old::Item(extent) => self.item(extent),
                Old::Node(at, known) => {
                    let Some((level, span)) = known.filter(|(_, span)| self.is_apart(span)) else {
                        self.old.push(Old::Node(at, known));
                        return PatchStep::Need(at);
                    };
                    if span.start >= self.end
                        && let Some(extent) = self.new.pop_front()
                    {
                        self.built.push(extent);
                        self.old.push(Old::Node(at, known));
                    } else if self.built.is_scanty(level) {
                        self.old.push(Old::Node(at, known));
                        return PatchStep::Need(at);
                    } else {
                        self.taken = Some((at, level, span));
                    }
                }
            }
        }
    }

    /// Hands over the bytes of the node that was needed.
    ///
    /// # Errors
    /// If it is not one, or not the one that its index describes.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), DagError> {
        let Some(Old::Node(at, known)) = self.old.pop() else {
            return Ok(());
        };
        let wrong = DagError::Inconsistent("a node that its index describes wrongly");
        match Extents::decode(bytes, &at)? {
            Node::Leaf(extents) => {
                let span = Extents::item_span(&extents);
                if known.is_some_and(|(level, expected)| level != 0 || span != Some(expected)) {
                    return Err(wrong);
                }
                if !self.old.is_empty() {
                    let count = extents.len() + self.new.len();
                    self.built.expect(0, count * EXTENT_COST);
                }
                self.old.extend(extents.into_iter().rev().map(Old::Item));
            }
            Node::Index { level, children } => {
                let ends = (children.first(), children.last());
                let (Some((first, _)), Some((last, _))) = ends else {
                    return Err(wrong);
                };
                let span = Extents::join(first, last);
                if known.is_some_and(|expected| expected != (level, span)) {
                    return Err(wrong);
                }
                if !self.old.is_empty() {
                    // Some of them may become more.
                    let costs = children.iter().map(|(span, _)| Extents::span_cost(span));
                    let spare = 4 * Extents::span_cost(&span);
                    self.built.expect(level, costs.sum::<usize>() + spare);
                }
                let below = children.into_iter().rev();
                let below = below.map(|(span, at)| Old::Node(at, Some((level - 1, span))));
                self.old.extend(below);
            }
        }
        Ok(())
    }

    /// Tells where a node was put.
    pub fn placed(&mut self, draft: &Draft<Extents>, place: Place) {
        self.built.placed(draft, place);
    }

    const fn is_apart(&self, span: &Span) -> bool {
        span.end <= self.start || span.start >= self.end
    }

    /// Takes over what of an old extent is outside of the change.
    fn item(&mut self, extent: Extent) {
        if let Some(before) = extent.clip(0, self.start) {
            self.built.push(before);
        }
        if let Some(behind) = extent.clip(self.end, u64::MAX) {
            if self.new.is_empty() {
                self.built.push(behind);
            } else {
                // New ones come first, one at a time, so that full nodes are placed between.
                self.old.push(Old::Item(behind));
                if let Some(new) = self.new.pop_front() {
                    self.built.push(new);
                }
            }
        }
    }

    fn close(&mut self) -> PatchStep {
        if let Some(few) = self.built.take_few(self.few) {
            return PatchStep::Few(few);
        }
        match self.built.close() {
            Close::Place(draft) => PatchStep::Place(draft),
            Close::Root(place) => PatchStep::Root(place),
            Close::Empty => PatchStep::Few(Vec::new()),
        }
    }
}

#[cfg(test)]
#[path = "patch_laws.rs"]
mod laws;
