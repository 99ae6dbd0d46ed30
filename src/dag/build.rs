//! Building the node tree of a list that is given element by element, of any length, in memory
//! bounded by a few nodes.

use std::collections::VecDeque;

use super::node::{NODE_MAX_BYTES, NodeAt, NodeRef, Shape};
use super::pack::Place;

/// A node of less than this part of the budget is a poor one.
const SCANTY: usize = 4;

/// How large a writer makes its nodes.
#[derive(Debug, Clone, Copy)]
pub struct NodeBudget {
    bytes: usize,
}

impl NodeBudget {
    /// For metadata chunks of `chunk_max_bytes`: half of one, and at most half of what a reader
    /// accepts, so that a node which a single large entry pushes over the budget still passes.
    pub const fn for_chunks(chunk_max_bytes: usize) -> Self {
        let half_chunk = chunk_max_bytes / 2;
        NodeBudget {
            bytes: if half_chunk < NODE_MAX_BYTES / 2 {
                half_chunk
            } else {
                NODE_MAX_BYTES / 2
            },
        }
    }
}

/// A node that is complete and waits to be placed.
pub struct Draft<S: Shape> {
    level: u8,
    body: DraftBody<S>,
}

enum DraftBody<S: Shape> {
    Leaf(Vec<S::Draft>),
    Index(Vec<(S::Span, Place)>),
}

impl<S: Shape> Draft<S> {
    /// Encodes the node as it must be in a chunk where nodes are named by `name`.
    pub fn encode(&self, name: &dyn Fn(Place) -> NodeRef) -> Vec<u8> {
        match &self.body {
            DraftBody::Leaf(drafts) => S::encode_leaf(drafts, name),
            DraftBody::Index(children) => {
                let named: Vec<(S::Span, NodeRef)> = children
                    .iter()
                    .map(|(span, place)| (span.clone(), name(*place)))
                    .collect();
                S::encode_index(self.level, &named)
            }
        }
    }

    /// Elements or children in it.
    pub const fn len(&self) -> usize {
        match &self.body {
            DraftBody::Leaf(drafts) => drafts.len(),
            DraftBody::Index(children) => children.len(),
        }
    }

    /// Never: drafts are made of something.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn span(&self) -> Option<S::Span> {
        match &self.body {
            DraftBody::Leaf(drafts) => S::draft_span(drafts),
            DraftBody::Index(children) => match (children.first(), children.last()) {
                (Some((first, _)), Some(_)) => {
                    let rest = children.iter().skip(1);
                    Some(rest.fold(first.clone(), |span, (next, _)| S::join(&span, next)))
                }
                _ => None,
            },
        }
    }
}

/// What [`LevelBuilder::close`] asks for.
pub enum Close<S: Shape> {
    /// Place this node, report it with [`LevelBuilder::placed`], and close again.
    Place(Draft<S>),
    /// Done: the whole list is below this node.
    Root(Place),
    /// Done: the list is empty.
    Empty,
}

struct Level<S: Shape> {
    children: Vec<(S::Span, Place)>,
    cost: usize,
    /// Cost at which a node is made of them.
    limit: usize,
}

/// Collects a list into nodes. All nodes it gives out must be placed in that order.
pub struct LevelBuilder<S: Shape> {
    budget: NodeBudget,
    leaf: Vec<S::Draft>,
    leaf_cost: usize,
    leaf_limit: usize,
    /// Index 0: what the nodes of level 1 will hold, and so on.
    levels: Vec<Level<S>>,
    full: VecDeque<Draft<S>>,
}

impl<S: Shape> LevelBuilder<S> {
    /// An empty list.
    pub const fn new(budget: NodeBudget) -> Self {
        LevelBuilder {
            budget,
            leaf: Vec::new(),
            leaf_cost: 0,
            leaf_limit: budget.bytes,
            levels: Vec::new(),
            full: VecDeque::new(),
        }
    }

    /// Appends an element. Afterwards [`LevelBuilder::take_full`] may have a node.
    pub fn push(&mut self, draft: S::Draft) {
        let cost = S::draft_cost(&draft);
        if !self.leaf.is_empty() && self.leaf_cost + cost > self.leaf_limit {
            self.finish_leaf();
        }
        self.leaf_cost += cost;
        self.leaf.push(draft);
    }

    /// Takes all elements if they are at most `most` and no node was made of any yet.
    pub fn take_few(&mut self, most: usize) -> Option<Vec<S::Draft>> {
        let mut levels = self.levels.iter();
        let has_nodes = levels.any(|level| !level.children.is_empty());
        if has_nodes || !self.full.is_empty() || self.leaf.len() > most {
            return None;
        }
        self.leaf_cost = 0;
        Some(std::mem::take(&mut self.leaf))
    }

    /// The next node to place. Report it with [`LevelBuilder::placed`] before asking again.
    pub fn take_full(&mut self) -> Option<Draft<S>> {
        self.full.pop_front()
    }

    /// Tells where `draft` was put.
    pub fn placed(&mut self, draft: &Draft<S>, place: Place) {
        if let Some(span) = draft.span() {
            self.append(draft.level, span, place);
        }
    }

    fn append(&mut self, below: u8, span: S::Span, place: Place) {
        let at = usize::from(below);
        self.reach(at);
        let cost = S::span_cost(&span);
        if let Some(level) = self.levels.get_mut(at) {
            let overflow = !level.children.is_empty() && level.cost + cost > level.limit;
            let finished = overflow.then(|| {
                level.cost = 0;
                std::mem::take(&mut level.children)
            });
            level.cost += cost;
            level.children.push((span, place));
            if let Some(children) = finished {
                self.full.push_back(Draft {
                    level: below + 1,
                    body: DraftBody::Index(children),
                });
            }
        }
    }

    fn reach(&mut self, level: usize) {
        while self.levels.len() <= level {
            self.levels.push(Level {
                children: Vec::new(),
                cost: 0,
                limit: self.budget.bytes,
            });
        }
    }

    /// Tells that elements of this cost follow (children of a node of `level`, if it is not 0), and then
    /// nodes that are there already: so that what waits and they become nodes of one size, and
    /// not full ones with a rest.
    pub(super) fn expect(&mut self, level: u8, cost: usize) {
        let budget = self.budget.bytes;
        let fair = |waiting: usize| {
            let total = waiting + cost;
            match total.div_ceil(budget) {
                0 | 1 => budget,
                nodes => (total / nodes + budget / (4 * SCANTY)).min(budget),
            }
        };
        match level.checked_sub(1) {
            None => self.leaf_limit = fair(self.leaf_cost),
            Some(below) => {
                let below = usize::from(below);
                self.reach(below);
                if let Some(level) = self.levels.get_mut(below) {
                    level.limit = fair(level.cost);
                }
            }
        }
    }

    /// Whether what waits below `level` is so little that a node of it would be a poor one.
    pub(super) fn is_scanty(&self, level: u8) -> bool {
        let little = |cost: usize| cost > 0 && cost < self.budget.bytes / SCANTY;
        let mut below = self.levels.iter().take(usize::from(level));
        little(self.leaf_cost) || below.any(|level| little(level.cost))
    }

    /// Makes a node of what waits below `level`. Place it, report it with [`LevelBuilder::placed`], and ask
    /// again until there is none.
    pub(super) fn settle(&mut self, level: u8) -> Option<Draft<S>> {
        if let Some(draft) = self.full.pop_front() {
            return Some(draft);
        }
        if !self.leaf.is_empty() {
            self.finish_leaf();
            return self.full.pop_front();
        }
        let below = self.levels.iter_mut().take(usize::from(level));
        let mut waiting = below.enumerate().filter(|(_, l)| !l.children.is_empty());
        waiting.next().map(|(at, level)| {
            level.cost = 0;
            Draft {
                level: at as u8 + 1,
                body: DraftBody::Index(std::mem::take(&mut level.children)),
            }
        })
    }

    /// Appends a node of `level` that is there already, with all that is below it. Nothing may wait
    /// below: [`LevelBuilder::settle`]. Afterwards [`LevelBuilder::take_full`] may have a node.
    pub(super) fn push_node(&mut self, level: u8, span: S::Span, at: NodeAt) {
        self.append(level, span, at.into());
    }

    /// Call until it answers `Root` or `Empty`; nothing may be pushed afterwards.
    pub fn close(&mut self) -> Close<S> {
        if !self.leaf.is_empty() {
            self.finish_leaf();
        }
        if let Some(draft) = self.full.pop_front() {
            return Close::Place(draft);
        }
        let mut levels = self.levels.iter();
        let top = levels.rposition(|level| !level.children.is_empty());
        for (at, level) in self.levels.iter_mut().enumerate() {
            if Some(at) == top
                && let [(_, place)] = level.children.as_slice()
            {
                return Close::Root(*place);
            }
            if !level.children.is_empty() {
                level.cost = 0;
                return Close::Place(Draft {
                    level: at as u8 + 1,
                    body: DraftBody::Index(std::mem::take(&mut level.children)),
                });
            }
        }
        Close::Empty
    }

    fn finish_leaf(&mut self) {
        self.leaf_cost = 0;
        self.full.push_back(Draft {
            level: 0,
            body: DraftBody::Leaf(std::mem::take(&mut self.leaf)),
        });
    }
}
