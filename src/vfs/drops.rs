//! Letting go: contents that nothing names any more give up their blocks, and blocks that nobody uses are
//! released at their holders.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::inner::Inner;
use super::ledger::{Deltas, Keeper, Tenant, decode_dropped, encode_dropped};
use super::read::ReadError;
use super::rows::{BLOCKS, DROPPED, RELEASES, pages};
use crate::base::{BlockId, Classify, EcProfile};
use crate::content::ContentError;
use crate::dag::{Body as DagBody, Extents, Node, NodeAt, Shape};
use crate::namespace::Body;
use crate::store::Group;

/// Rows looked through at once.
const BATCH: usize = 512;
/// A block is released when nobody has used it for so long: whoever was about to use it again has by then.
pub(super) const REST: Duration = Duration::from_secs(3);
/// How often the books are looked through.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is asked whether blocks survive more by now, as long as none does.
const QUESTION: Duration = Duration::from_secs(300);
/// How often it is looked whether there is something to let go.
const TURN: Duration = Duration::from_secs(2);

/// What one group takes off the counts.
struct Part {
    deltas: Deltas,
    /// Where the next one begins, if this is not the last.
    next: Option<u64>,
}

/// Through a tree of nodes: to what is below one, and back from it.
enum Way {
    Down(NodeAt),
    Up(NodeAt),
}

impl Inner {
    /// Lets go of what was dropped until the volume is closed.
    pub(super) async fn drop_always(self: Arc<Self>) {
        let mut resting: HashMap<BlockId, Instant> = HashMap::new();
        let mut next_look = Instant::now();
        let (mut next_question, mut asked) = (Instant::now(), None);
        loop {
            // Who has something to count that is not counted yet has nothing to release.
            match self.look_through().await {
                Ok(()) => self.release_rested(&mut resting).await,
                Err(error) => {
                    tracing::warn!("dropped contents are looked through later: {error}");
                }
            }
            self.release_surplus().await;
            self.settle_claims().await;
            if Instant::now() >= next_look {
                let books = self.look_through_books(asked);
                self.publish_books(&books);
                if Instant::now() >= next_question {
                    asked = books.frail.last().map(|(_, id)| *id);
                    let pause = match self.ask_again(&books.frail).await {
                        Ok(true) => Duration::ZERO,
                        Ok(false) => QUESTION,
                        Err(error) => {
                            tracing::warn!("what blocks survive is noted later: {error}");
                            QUESTION
                        }
                    };
                    next_question = Instant::now() + pause;
                }
                if !self.is_shared()
                    && let Err(error) = self.compact(books).await
                {
                    tracing::warn!("sparse blocks are compacted later: {error}");
                }
                next_look = Instant::now() + LOOK;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(TURN) => {}
            }
        }
    }

    /// Gives up the blocks of dropped contents.
    async fn look_through(&self) -> Result<(), ReadError> {
        self.count_what_came().await?;
        let (mut keys, mut all) = (Vec::new(), Deltas::default());
        for page in pages(&self.volume, DROPPED, &[], BATCH) {
            let Ok(page) = page else { return Ok(()) };
            for (key, row) in &page {
                if self.is_held(key) {
                    continue;
                }
                let deltas = match self.let_go_but_the_end(key, row).await {
                    Ok(deltas) => deltas,
                    Err(error) => {
                        // Others are let go all the same.
                        tracing::warn!("a dropped content is looked through later: {error}");
                        continue;
                    }
                };
                if all.0.len() + deltas.0.len() > self.blocks_per_group() {
                    self.let_go(std::mem::take(&mut keys), &std::mem::take(&mut all))?;
                }
                for (block, bytes) in deltas.0 {
                    all.add(block, bytes);
                }
                keys.push(key.clone());
            }
            self.let_go(std::mem::take(&mut keys), &std::mem::take(&mut all))?;
        }
        Ok(())
    }

    /// Takes contents off the counts, for good.
    fn let_go(&self, keys: Vec<Bytes>, deltas: &Deltas) -> Result<(), ReadError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut group = Group::new();
        group.cleanup();
        for key in keys {
            group.remove(DROPPED, &key);
        }
        self.count_down(group, deltas)
    }

    fn count_down(&self, mut group: Group, deltas: &Deltas) -> Result<(), ReadError> {
        let applied = self.apply_counted(&mut group, deltas, &[]);
        applied.map_err(|error| ReadError::Journal(error.to_string(), error.class()))?;
        Ok(())
    }

    /// Takes a content off the counts in as many groups as that takes, but for the last one, which is left to
    /// the caller. Each group says how far it went, so that a crash in between leaves nothing and counts nothing
    /// twice.
    async fn let_go_but_the_end(&self, key: &Bytes, row: &Bytes) -> Result<Deltas, ReadError> {
        let mut deltas = Deltas::default();
        let Some((Body::Stored(profile, body), mut from)) = decode_dropped(row) else {
            return Ok(deltas);
        };
        let root = match &body {
            DagBody::Inline(extents) => {
                deltas.extents(extents, -1);
                return Ok(deltas);
            }
            DagBody::Manifest(root) => *root,
        };
        loop {
            let part = self.part_of(profile, root, from).await?;
            let Some(next) = part.next else {
                return Ok(part.deltas);
            };
            let mut group = Group::new();
            group.cleanup();
            group.put(DROPPED, key, &encode_dropped(profile, &body, next));
            self.count_down(group, &part.deltas)?;
            from = next;
        }
    }

    fn is_held(&self, key: &[u8]) -> bool {
        let Ok(number) = key.try_into().map(u64::from_be_bytes) else {
            return false;
        };
        self.core().held.contains(&number)
    }

    /// What a content uses from an offset on, as much as fits into one group, and where the next part begins.
    pub(super) async fn uses_from(
        &self,
        profile: EcProfile,
        root: NodeAt,
        from: u64,
    ) -> Result<(Deltas, Option<u64>), ReadError> {
        let mut part = self.part_of(profile, root, from).await?;
        part.deltas
            .0
            .values_mut()
            .for_each(|bytes| *bytes = -*bytes);
        Ok((part.deltas, part.next))
    }

    /// What a content uses from an offset on, as much as fits into one group. A node belongs to the part in
    /// which it ends: it is not needed any more to find what comes behind.
    async fn part_of(
        &self,
        profile: EcProfile,
        root: NodeAt,
        from: u64,
    ) -> Result<Part, ReadError> {
        let mut deltas = Deltas::default();
        let mut ways = vec![Way::Down(root)];
        while let Some(way) = ways.pop() {
            let at = match way {
                Way::Down(at) => at,
                Way::Up(at) => {
                    deltas.node(&at, -1);
                    continue;
                }
            };
            let range = at.offset..at.offset.saturating_add(at.len);
            let bytes = self.blocks.read_range(&at.block, profile, range).await;
            let bytes = bytes.map_err(ContentError::from)?;
            let fault = |fault| ContentError::Node {
                block: at.block.id,
                fault,
            };
            match Extents::decode(&bytes, &at).map_err(fault)? {
                Node::Leaf(extents) => {
                    for extent in extents.iter().filter(|extent| extent.end() > from) {
                        let is_new = !deltas.0.contains_key(&extent.block.id);
                        if is_new && deltas.0.len() >= self.blocks_per_group() {
                            let next = Some(extent.offset);
                            return Ok(Part { deltas, next });
                        }
                        deltas.extents(std::slice::from_ref(extent), -1);
                    }
                    deltas.node(&at, -1);
                }
                Node::Index { children, .. } => {
                    ways.push(Way::Up(at));
                    let left = children.iter().rev().filter(|(span, _)| span.end > from);
                    ways.extend(left.map(|(_, at)| Way::Down(*at)));
                }
            }
        }
        Ok(Part { deltas, next: None })
    }

    /// Releases blocks that have not been in use for a while.
    async fn release_rested(&self, resting: &mut HashMap<BlockId, Instant>) {
        let mut ready = Vec::new();
        let mut seen = HashMap::new();
        for page in pages(&self.volume, RELEASES, &[], BATCH) {
            let Ok(page) = page else { return };
            for (key, row) in &page {
                let Ok(id) = <[u8; 32]>::try_from(key.as_ref()).map(BlockId) else {
                    continue;
                };
                let since = resting.get(&id).copied().unwrap_or_else(Instant::now);
                seen.insert(id, since);
                // Other members may name it, and nobody here knows.
                let is_free = since.elapsed() >= REST && !self.is_shared();
                if is_free || !row.is_empty() {
                    ready.push((id, row.clone()));
                }
            }
        }
        *resting = seen;
        let mut released = Vec::new();
        for (id, row) in ready {
            resting.remove(&id);
            // What a crash interrupted has its claims in the row.
            let keepers = match Tenant::decode(&row) {
                Some(tenant) => Some(tenant.keepers),
                None => self.strike_off(id),
            };
            if let Some(keepers) = keepers {
                released.push((id, keepers));
            }
        }
        if released.is_empty() || self.volume.sync_all().await.is_err() {
            return;
        }
        self.release_all(released).await;
    }

    /// Takes a block that is not in use out of the books. None if it is in use again.
    fn strike_off(&self, id: BlockId) -> Option<Vec<Keeper>> {
        let mut placed = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        placed.retain(|_, at| at.elapsed() < REST);
        let is_held = self.checkpoints.held.load(Ordering::Relaxed) > 0;
        if is_held || placed.contains_key(&id) {
            return None;
        }
        let mut group = Group::new();
        group.cleanup();
        let tenant = self.tenant(id).ok()?;
        let keepers = match tenant {
            Some(tenant) if tenant.live == 0 => {
                group.remove(BLOCKS, &id.0);
                group.put(RELEASES, &id.0, &tenant.encode());
                Some(tenant.keepers)
            }
            _ => {
                group.remove(RELEASES, &id.0);
                None
            }
        };
        self.volume.apply(&group).ok()?;
        keepers
    }

    async fn release_all(&self, released: Vec<(BlockId, Vec<Keeper>)>) {
        for part in released.chunks(32) {
            let owner = self.identity.owner;
            let each = part.iter().map(|(id, keepers)| async move {
                for keeper in keepers {
                    let release = self
                        .blocks
                        .release(owner, keeper.number, keeper.peers.clone());
                    release.await.ok()?;
                }
                Some(*id)
            });
            let done = futures::future::join_all(each).await;
            let _held = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            let mut group = Group::new();
            group.cleanup();
            for id in done.into_iter().flatten() {
                // An empty row is a new one: the block came back meanwhile.
                if matches!(self.volume.get(RELEASES, &id.0), Ok(Some(row)) if !row.is_empty()) {
                    group.remove(RELEASES, &id.0);
                }
            }
            if !group.is_empty() && self.volume.apply(&group).is_err() {
                return;
            }
        }
    }
}
