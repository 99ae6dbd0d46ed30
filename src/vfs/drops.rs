//! Letting go: contents that nothing names any more give up their blocks, and blocks that nobody uses are
//! released at their holders.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::inner::Inner;
use super::ledger::{Deltas, Keeper, Tenant, decode_dropped};
use super::read::ReadError;
use super::rows::{BLOCKS, DROPPED, RELEASES};
use crate::base::{BlockId, Classify, EcProfile};
use crate::content::ContentError;
use crate::dag::{Body as DagBody, Extents, Node, NodeAt, Shape};
use crate::namespace::Body;
use crate::store::{Group, Order};

/// Contents looked through in one group.
const BATCH: usize = 512;
/// Blocks whose counts change in one group.
const BLOCKS_PER_GROUP: usize = 1024;
/// A block is released when nobody has used it for so long: whoever was about to use it again has by then.
const REST: Duration = Duration::from_secs(3);
/// How often the books are looked through.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is looked whether there is something to let go.
const TURN: Duration = Duration::from_secs(2);

impl Inner {
    /// Lets go of what was dropped until the volume is closed.
    pub(super) async fn drop_always(self: Arc<Self>) {
        let mut resting: HashMap<BlockId, Instant> = HashMap::new();
        let mut next_look = Instant::now();
        loop {
            if let Err(error) = self.look_through().await {
                tracing::warn!("dropped contents are looked through later: {error}");
            }
            self.release_rested(&mut resting).await;
            self.release_surplus().await;
            self.settle_claims().await;
            if Instant::now() >= next_look {
                let books = self.look_through_books();
                self.publish_books(&books);
                if let Err(error) = self.compact(books).await {
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
        let (mut keys, mut all) = (Vec::new(), Deltas::default());
        let mut after: Option<Bytes> = None;
        loop {
            let from = match &after {
                Some(key) => Bound::Excluded(key.as_ref()),
                None => Bound::Unbounded,
            };
            let page = self
                .volume
                .scan(DROPPED, from, Bound::Unbounded, Order::Ascending, BATCH);
            let Ok(page) = page else { return Ok(()) };
            for (key, row) in &page.rows {
                if self.is_held(key) {
                    continue;
                }
                let mut deltas = Deltas::default();
                if let Some(Body::Stored(profile, body)) = decode_dropped(row)
                    && let Err(error) = self.uncount(profile, &body, &mut deltas).await
                {
                    // Others are let go all the same.
                    tracing::warn!("a dropped content is looked through later: {error}");
                    continue;
                }
                if deltas.0.len() > BLOCKS_PER_GROUP {
                    self.let_go(vec![key.clone()], deltas)?;
                    continue;
                }
                for (block, bytes) in deltas.0 {
                    all.add(block, bytes);
                }
                keys.push(key.clone());
                if all.0.len() > BLOCKS_PER_GROUP {
                    self.let_go(std::mem::take(&mut keys), std::mem::take(&mut all))?;
                }
            }
            self.let_go(std::mem::take(&mut keys), std::mem::take(&mut all))?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Takes contents off the counts, for good. Where one group is too small for all of them, the rows go with
    /// the first: a crash in between leaves room taken, and never a block counted down twice.
    fn let_go(&self, keys: Vec<Bytes>, deltas: Deltas) -> Result<(), ReadError> {
        let mut keys = Some(keys);
        let mut left = deltas.0.into_iter().peekable();
        while keys.as_ref().is_some_and(|keys| !keys.is_empty()) || left.peek().is_some() {
            let mut group = Group::new();
            group.cleanup();
            for key in keys.take().unwrap_or_default() {
                group.remove(DROPPED, &key);
            }
            let part = Deltas(left.by_ref().take(BLOCKS_PER_GROUP).collect());
            let applied = self.apply_counted(&mut group, &part, &[]);
            applied.map_err(|error| ReadError::Journal(error.to_string(), error.class()))?;
        }
        Ok(())
    }

    fn is_held(&self, key: &[u8]) -> bool {
        let Ok(number) = key.try_into().map(u64::from_be_bytes) else {
            return false;
        };
        self.core().held.contains(&number)
    }

    /// Takes everything that a content uses off the counts.
    async fn uncount(
        &self,
        profile: EcProfile,
        body: &DagBody<NodeAt>,
        deltas: &mut Deltas,
    ) -> Result<(), ReadError> {
        let mut nodes = match body {
            DagBody::Inline(extents) => {
                deltas.extents(extents, -1);
                return Ok(());
            }
            DagBody::Manifest(root) => vec![*root],
        };
        while let Some(at) = nodes.pop() {
            let range = at.offset..at.offset.saturating_add(at.len);
            let bytes = self.blocks.read_range(&at.block, profile, range).await;
            let bytes = bytes.map_err(ContentError::from)?;
            let fault = |fault| ContentError::Node {
                block: at.block.id,
                fault,
            };
            match Extents::decode(&bytes, &at).map_err(fault)? {
                Node::Leaf(extents) => deltas.extents(&extents, -1),
                Node::Index { children, .. } => nodes.extend(children.iter().map(|(_, at)| *at)),
            }
            deltas.node(&at, -1);
        }
        Ok(())
    }

    /// Releases blocks that have not been in use for a while.
    async fn release_rested(&self, resting: &mut HashMap<BlockId, Instant>) {
        let mut ready = Vec::new();
        let mut after: Option<Bytes> = None;
        let mut seen = HashMap::new();
        loop {
            let from = match &after {
                Some(key) => Bound::Excluded(key.as_ref()),
                None => Bound::Unbounded,
            };
            let page = self
                .volume
                .scan(RELEASES, from, Bound::Unbounded, Order::Ascending, 1024);
            let Ok(page) = page else { return };
            for (key, row) in &page.rows {
                let Ok(id) = <[u8; 32]>::try_from(key.as_ref()).map(BlockId) else {
                    continue;
                };
                let since = resting.get(&id).copied().unwrap_or_else(Instant::now);
                seen.insert(id, since);
                if since.elapsed() >= REST || !row.is_empty() {
                    ready.push((id, row.clone()));
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
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
        if placed.contains_key(&id) {
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
