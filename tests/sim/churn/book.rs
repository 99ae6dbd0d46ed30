//! What was promised, and what became of it: an oracle that looks at all disks.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairnfs::base::{BlockId, BlockRef, EcProfile, IndexSet, PeerId};
use cairnfs::testkit::Cluster;

/// A finished upload, by the peer that made it and the number of its claim.
pub type Claim = (usize, u64);

/// One block that was acknowledged at least once.
#[derive(Debug)]
pub struct Entry {
    pub reference: BlockRef,
    pub content: Bytes,
    /// Uploads that keep it, and who was told of each.
    pub claims: BTreeMap<Claim, Vec<PeerId>>,
    /// Whether more of it was lost with peers and disks than it survives.
    pub is_lost: bool,
    /// Shards that honest peers had at the last look, whether these run or come back.
    known: IndexSet,
}

impl Entry {
    pub fn is_kept(&self) -> bool {
        !self.claims.is_empty()
    }
}

/// Everything that was promised.
#[derive(Debug, Default)]
pub struct Book {
    pub entries: BTreeMap<BlockId, Entry>,
    /// Blocks of uploads of which nobody knows whether they were decided: their peer crashed.
    pub doubtful: BTreeSet<BlockId>,
    /// What those hold who do not run and come back.
    asleep: BTreeMap<usize, Held>,
    /// Peers that break their promises: what they hold counts as lost.
    pub liars: BTreeSet<usize>,
    /// Those of them that say nothing.
    mute: BTreeSet<usize>,
    pub wrong: Vec<String>,
}

/// Shards of each block, and whether they are kept for good.
pub type Held = BTreeMap<BlockId, (IndexSet, bool)>;

/// All that a running peer holds.
pub async fn holdings(cluster: &Cluster, at: usize) -> Held {
    let mut all = BTreeMap::new();
    let Some(blocks) = cluster.blocks(at) else {
        return all;
    };
    let mut after = None;
    loop {
        let page = blocks.store().holdings(None, after, 1024).await;
        let (page, next) = page.unwrap();
        let held = page.iter().filter(|holding| !holding.held.is_empty());
        all.extend(held.map(|holding| (holding.block, (holding.held, holding.is_kept))));
        after = next;
        if after.is_none() {
            return all;
        }
    }
}

impl Book {
    pub fn new(liars: BTreeSet<usize>, mute: BTreeSet<usize>) -> Self {
        Book {
            liars,
            mute,
            ..Book::default()
        }
    }

    /// An upload was acknowledged.
    pub fn put(&mut self, reference: BlockRef, content: Bytes, claim: Claim, told: Vec<PeerId>) {
        let entry = self.entries.entry(reference.id).or_insert(Entry {
            reference,
            content,
            claims: BTreeMap::new(),
            is_lost: false,
            known: IndexSet::EMPTY,
        });
        if entry.claims.is_empty() {
            entry.is_lost = false;
            entry.known = IndexSet::EMPTY;
        }
        entry.claims.insert(claim, told);
    }

    /// To be called before a peer is ended that comes back.
    pub async fn sleeps(&mut self, cluster: &Cluster, at: usize) {
        let held = holdings(cluster, at).await;
        self.asleep.insert(at, held);
    }

    pub fn wakes(&mut self, at: usize) {
        self.asleep.remove(&at);
    }

    /// What is kept of each block: by honest peers, and by all.
    async fn held(&self, cluster: &Cluster) -> BTreeMap<BlockId, (IndexSet, IndexSet)> {
        let mut held: BTreeMap<BlockId, (IndexSet, IndexSet)> = BTreeMap::new();
        for at in 0..cluster.len() {
            let of = match self.asleep.get(&at) {
                Some(of) => of.clone(),
                None => holdings(cluster, at).await,
            };
            for (block, (indices, is_kept)) in of {
                // What is not, was never promised: it is of an upload whose end this peer has not heard of.
                if !is_kept {
                    continue;
                }
                let (honest, all) = held.entry(block).or_default();
                *all = all.union(indices);
                if !self.liars.contains(&at) {
                    *honest = honest.union(indices);
                }
            }
        }
        held
    }

    /// Looks at everything. Nothing that is kept may have become less, unless `is_loss` says that something was
    /// just taken away.
    pub async fn look(&mut self, cluster: &Cluster, is_loss: bool, when: &str) {
        let held = self.held(cluster).await;
        for (block, entry) in &mut self.entries {
            if !entry.is_kept() || entry.is_lost {
                continue;
            }
            let (honest, all) = held.get(block).copied().unwrap_or_default();
            let less = entry.known.minus(all);
            if !less.is_empty() && !is_loss {
                self.wrong.push(format!(
                    "{when}: of block {} the shards {:?} are gone",
                    block.short(),
                    less.iter().collect::<Vec<_>>()
                ));
            }
            entry.known = honest;
            entry.is_lost = honest.len() < EcProfile::DEFAULT.data_shards();
        }
    }

    /// What is not as it should be when nothing happens any more: what is kept has all shards, on as many peers at least, and
    /// nothing is held that nobody keeps.
    pub async fn unsettled(&self, cluster: &Cluster) -> Vec<String> {
        let mut holders: BTreeMap<BlockId, Vec<(usize, IndexSet)>> = BTreeMap::new();
        for at in (0..cluster.len()).filter(|at| !self.mute.contains(at)) {
            for (block, (held, _)) in holdings(cluster, at).await {
                holders.entry(block).or_default().push((at, held));
            }
        }
        let mut open = Vec::new();
        for (block, entry) in &self.entries {
            if !entry.is_kept() || entry.is_lost {
                continue;
            }
            let of = holders.get(block).cloned().unwrap_or_default();
            let all = of.iter().map(|(_, held)| *held);
            let distinct = all.clone().fold(IndexSet::EMPTY, IndexSet::union).len();
            let count: usize = all.map(IndexSet::len).sum();
            let total = EcProfile::DEFAULT.total_shards();
            // A copy too many may stay: of what liars hold, and where two holders keep the block for other uploads, since each
            // keeps it for all of its own.
            let is_open = distinct != total || of.len() < total;
            if is_open {
                open.push(format!(
                    "block {} (group {}) of {:?} has {distinct} shards, {count} copies: {:?}",
                    block.short(),
                    block.group().0,
                    entry.claims.keys().collect::<Vec<_>>(),
                    of.iter()
                        .map(|(at, held)| (*at, held.iter().collect::<Vec<_>>()))
                        .collect::<Vec<_>>()
                ));
            }
        }
        for (block, of) in &holders {
            let entry = self.entries.get(block);
            if !entry.is_some_and(Entry::is_kept) && !self.doubtful.contains(block) {
                let honest = of.iter().filter(|(at, _)| !self.liars.contains(at));
                let at: Vec<usize> = honest.map(|(at, _)| *at).collect();
                if !at.is_empty() {
                    let was = match entry {
                        Some(_) => "let go",
                        None => "never finished",
                    };
                    open.push(format!(
                        "block {} was {was}, and is at {at:?}",
                        block.short()
                    ));
                }
            }
        }
        open
    }
}
