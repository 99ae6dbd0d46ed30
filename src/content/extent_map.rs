//! Where the bytes of a file of any size are: its manifest, read as far as it is needed, the nodes read
//! lately kept decoded.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::error::ContentError;
use crate::base::EcProfile;
use crate::blocks::Blocks;
use crate::dag::{Body, DagError, Extent, Extents, Node, NodeAt, Shape, Span};

/// Extents, or children of index nodes, that are kept in each of two generations: about 5 MB.
const KEPT_MAX: usize = 48 << 10;

type Decoded = Arc<Node<Extent, Span>>;

#[derive(Debug, Default)]
struct Generation {
    nodes: HashMap<NodeAt, Decoded>,
    weight: usize,
}

/// Nodes of manifests. Shared by all files of a volume.
#[derive(Debug, Default)]
pub struct ExtentMap {
    kept: Mutex<(Generation, Generation)>,
}

const fn weight(node: &Node<Extent, Span>) -> usize {
    match node {
        Node::Leaf(extents) => extents.len(),
        Node::Index { children, .. } => children.len(),
    }
}

impl ExtentMap {
    /// The extents that touch `start..end`, in order, and perhaps neighbours of theirs.
    ///
    /// # Errors
    /// If a node cannot be fetched, or is not what the one above says.
    pub async fn extents(
        &self,
        blocks: &Blocks,
        profile: EcProfile,
        body: &Body<NodeAt>,
        start: u64,
        end: u64,
    ) -> Result<Vec<Extent>, ContentError> {
        let all = usize::MAX;
        self.first_extents(blocks, profile, body, start, end, all)
            .await
    }

    /// The same, but no more than the first `most`, however many there are.
    ///
    /// # Errors
    /// If a node cannot be fetched, or is not what the one above says.
    pub async fn first_extents(
        &self,
        blocks: &Blocks,
        profile: EcProfile,
        body: &Body<NodeAt>,
        start: u64,
        end: u64,
        most: usize,
    ) -> Result<Vec<Extent>, ContentError> {
        let touches = |extent: &&Extent| extent.offset < end && extent.end() > start;
        match body {
            Body::Inline(extents) => {
                let touching = extents.iter().filter(touches).copied();
                Ok(touching.take(most).collect())
            }
            Body::Manifest(root) => {
                let mut found = Vec::new();
                let wanted = Wanted {
                    map: self,
                    blocks,
                    profile,
                    start,
                    end,
                    most,
                };
                wanted.collect(*root, None, &mut found).await?;
                Ok(found)
            }
        }
    }

    /// The nodes below a root, itself included, that are `wanted`, each with the bytes of the file that it is
    /// about: of a node above others the first of them, which no other node of its level is about.
    ///
    /// # Errors
    /// If a node cannot be fetched, or is not one.
    pub async fn nodes(
        &self,
        blocks: &Blocks,
        profile: EcProfile,
        root: NodeAt,
        wanted: impl Fn(&NodeAt) -> bool,
    ) -> Result<Vec<(NodeAt, Range<u64>)>, ContentError> {
        let whole = Wanted {
            map: self,
            blocks,
            profile,
            start: 0,
            end: u64::MAX,
            most: usize::MAX,
        };
        let mut found = Vec::new();
        let mut left = vec![root];
        while let Some(at) = left.pop() {
            match &*whole.node(&at).await? {
                Node::Leaf(extents) => {
                    if let Some(span) = Extents::item_span(extents).filter(|_| wanted(&at)) {
                        found.push((at, span.start..span.end));
                    }
                }
                Node::Index { level, children } => {
                    let first = children.first().filter(|_| wanted(&at));
                    found.extend(first.map(|(span, _)| (at, span.start..span.start + 1)));
                    // Leaves need not be read for that.
                    match level {
                        1 => found.extend(
                            children
                                .iter()
                                .filter(|(_, leaf)| wanted(leaf))
                                .map(|(span, leaf)| (*leaf, span.start..span.end)),
                        ),
                        _ => left.extend(children.iter().rev().map(|(_, below)| *below)),
                    }
                }
            }
        }
        Ok(found)
    }

    /// Goes through everything below a root: `enters` is told of each node, and says whether to look into it; `found` of
    /// the extents in it.
    ///
    /// # Errors
    /// If a node cannot be fetched, or is not one.
    pub async fn walk(
        &self,
        blocks: &Blocks,
        profile: EcProfile,
        root: NodeAt,
        mut enters: impl FnMut(&NodeAt) -> bool + Send,
        found: impl Fn(&[Extent]) + Send + Sync,
    ) -> Result<(), ContentError> {
        let whole = Wanted {
            map: self,
            blocks,
            profile,
            start: 0,
            end: u64::MAX,
            most: usize::MAX,
        };
        let mut left = vec![root];
        while let Some(at) = left.pop() {
            if !enters(&at) {
                continue;
            }
            match &*whole.node(&at).await? {
                Node::Leaf(extents) => found(extents),
                Node::Index { children, .. } => {
                    left.extend(children.iter().rev().map(|(_, below)| *below));
                }
            }
        }
        Ok(())
    }

    fn known(&self, at: &NodeAt) -> Option<Decoded> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = kept.0.nodes.get(at) {
            return Some(Arc::clone(node));
        }
        let node = kept.1.nodes.get(at).cloned()?;
        insert(&mut kept, *at, &node);
        Some(node)
    }

    fn keep(&self, at: NodeAt, node: &Decoded) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        insert(&mut kept, at, node);
    }
}

fn insert(kept: &mut (Generation, Generation), at: NodeAt, node: &Decoded) {
    if kept.0.weight > KEPT_MAX {
        kept.1 = std::mem::take(&mut kept.0);
    }
    if kept.0.nodes.insert(at, Arc::clone(node)).is_none() {
        kept.0.weight += weight(node);
    }
}

struct Wanted<'a> {
    map: &'a ExtentMap,
    blocks: &'a Blocks,
    profile: EcProfile,
    start: u64,
    end: u64,
    most: usize,
}

impl Wanted<'_> {
    async fn node(&self, at: &NodeAt) -> Result<Decoded, ContentError> {
        if let Some(node) = self.map.known(at) {
            return Ok(node);
        }
        let range = at.offset..at.offset.saturating_add(at.len);
        let bytes = self
            .blocks
            .read_range(&at.block, self.profile, range)
            .await?;
        let decode = {
            let at = *at;
            move || Extents::decode(&bytes, &at)
        };
        let node = self.blocks.pools().cpu.run(decode).await;
        let node = Arc::new(node.map_err(|error| fault(at, error))?);
        self.map.keep(*at, &node);
        Ok(node)
    }

    fn collect<'a>(
        &'a self,
        at: NodeAt,
        expected: Option<(u8, Span)>,
        found: &'a mut Vec<Extent>,
    ) -> BoxFuture<'a, Result<(), ContentError>> {
        async move {
            let node = self.node(&at).await?;
            let wrong = || {
                fault(
                    &at,
                    DagError::Inconsistent("not the node that its index describes"),
                )
            };
            match &*node {
                Node::Leaf(extents) => {
                    let span = Extents::item_span(extents);
                    if expected.is_some_and(|(level, wanted)| level != 0 || span != Some(wanted)) {
                        return Err(wrong());
                    }
                    let first = extents.partition_point(|extent| extent.end() <= self.start);
                    let rest = extents.iter().skip(first);
                    let rest = rest.take(self.most.saturating_sub(found.len()));
                    found.extend(rest.take_while(|extent| extent.offset < self.end));
                }
                Node::Index { level, children } => {
                    let ends = (children.first(), children.last());
                    let (Some((first, _)), Some((last, _))) = ends else {
                        return Err(wrong());
                    };
                    let span = Extents::join(first, last);
                    if expected.is_some_and(|wanted| wanted != (*level, span)) {
                        return Err(wrong());
                    }
                    let below = level.saturating_sub(1);
                    for (span, child) in children {
                        let is_wanted = span.start < self.end && span.end > self.start;
                        if is_wanted && found.len() < self.most {
                            self.collect(*child, Some((below, *span)), found).await?;
                        }
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }
}

const fn fault(at: &NodeAt, fault: DagError) -> ContentError {
    ContentError::Node {
        block: at.block.id,
        fault,
    }
}
