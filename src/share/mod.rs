//! Replicas of a shared volume keep in step: what one writes is pushed to the others at once, and what anybody
//! missed is found by comparing how far each has come.
//!
//! * `peers` remembers who has part in the volume, and how far each is known to have each feed.
//! * `agree` waits for others where the volume wants that, `locks` are those that hold between members.
//! * `clearing` asks all others whether blocks can go.
//! * `tails` has the end of the own feed kept by peers without a key, and takes what they have of others' feeds.
//! * `exchange` asks and tells one peer; `serve` answers others; `points` is about checkpoints; `clocks` compares those.
//!
//! Pushing is for speed and may fail; comparing is what everything rests on. Messages are those of
//! `feeds::gossip`.

mod agree;
mod clearing;
mod clocks;
mod exchange;
mod locks;
mod peers;
mod points;
mod serve;
mod tails;

pub use clearing::{ClearError, ClearReport};
pub use locks::VotersError;
pub use points::PublishError;
pub use tails::TailStatus;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agree::{Agreed, Bond};
use self::clocks::Clocks;
use self::locks::Locks;
use self::peers::Peers;
use self::tails::Tails;
use crate::base::{Entropy, PeerId, Pools, VolumeId};
use crate::blocks::{Blocks, FeedInbound};
use crate::net::{NetHandle, Reach};
use crate::vfs::{Point, Vfs};

/// How often heads are compared with everybody who has part.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long after a change of the network, or after news that came by others, they are compared.
const SOON: Duration = Duration::from_millis(1500);
/// Peers that are talked to at once.
const TALKS: usize = 8;
/// Peers with whom heads are compared in one round; the others have their turn in the next ones.
const ROUND: usize = 64;

/// What sharing is made of.
#[derive(Debug)]
pub struct SharerParts {
    /// The volume.
    pub volume: VolumeId,
    /// The way to other peers.
    pub net: NetHandle,
    /// Where records of checkpoints are kept.
    pub blocks: Blocks,
    /// Where what others say comes in.
    pub inbound: mpsc::Receiver<FeedInbound>,
    /// Where messages are read.
    pub pools: Pools,
    /// Chooses whom to talk to.
    pub entropy: Entropy,
    /// So many peers are to keep what this device wrote since its last checkpoint.
    pub keepers: usize,
}

/// How a volume is shared at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareStatus {
    /// Connected peers that have part in the volume.
    pub connected: usize,
    /// Of those, how many are known to have all that this replica has.
    pub in_step: usize,
}

/// Clocks that are more than ten minutes ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClocksAhead {
    /// By how many ms the own one is, by what others show, or what it wrote itself; none if it is not.
    pub own_ms: Option<u64>,
    /// Members whose clocks are, or were when they wrote what waits here, with by how many ms.
    pub others: Vec<(PeerId, u64)>,
}

/// Keeps one open volume in step with its other replicas until it is [stopped](Sharer::stop). Cheap to clone.
#[derive(Clone)]
pub struct Sharer(Arc<Inner>);

struct Inner {
    vfs: Arc<Vfs>,
    volume: VolumeId,
    net: NetHandle,
    blocks: Blocks,
    pools: Pools,
    entropy: Entropy,
    peers: Peers,
    clocks: Clocks,
    agreed: Agreed,
    locks: Locks,
    tails: Tails,
    /// Heads are to be compared soon.
    soon: Notify,
    /// Something is missing that nobody has in a feed.
    lacks: Notify,
    /// Held while a checkpoint is made and published. The last one, as long as it is not safe enough for keepers to
    /// let go of what it makes up for.
    publishing: tokio::sync::Mutex<Option<Point>>,
    /// Held while others are asked about blocks.
    clearing: tokio::sync::Mutex<()>,
    talks: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Sharer {
    /// Begins to share a volume, on the runtime that this is called on.
    pub fn start(vfs: Arc<Vfs>, parts: SharerParts) -> Sharer {
        let wall_ms = vfs.wall_ms();
        let inner = Arc::new(Inner {
            vfs,
            volume: parts.volume,
            net: parts.net,
            blocks: parts.blocks,
            pools: parts.pools,
            entropy: parts.entropy,
            peers: Peers::default(),
            clocks: Clocks::default(),
            agreed: Agreed::default(),
            locks: Locks::new(wall_ms),
            tails: Tails::new(parts.keepers),
            soon: Notify::new(),
            lacks: Notify::new(),
            publishing: tokio::sync::Mutex::new(None),
            clearing: tokio::sync::Mutex::new(()),
            talks: Arc::new(Semaphore::new(TALKS)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.vfs.agree_with(Arc::new(Bond(Arc::downgrade(&inner))));
        inner.spawn(Arc::clone(&inner).answer_always(parts.inbound));
        inner.spawn(Arc::clone(&inner).push_always());
        inner.spawn(Arc::clone(&inner).compare_always());
        inner.spawn(Arc::clone(&inner).look_at_network());
        inner.spawn(Arc::clone(&inner).publish_always());
        inner.spawn(Arc::clone(&inner).catch_up_always());
        inner.spawn(Arc::clone(&inner).renew_always());
        inner.spawn(Arc::clone(&inner).clear_always());
        inner.spawn(Arc::clone(&inner).keep_tails_always());
        inner.spawn(Arc::clone(&inner).look_for_tails_always());
        Sharer(inner)
    }

    /// Compares heads with all connected peers now, and takes and gives what is missing. How many of them have
    /// part in the volume.
    pub async fn compare(&self) -> usize {
        self.0.compare_round(usize::MAX).await
    }

    /// How it is shared at the moment.
    pub fn status(&self) -> ShareStatus {
        let connected = self.0.connected();
        let claims = self.0.vfs.claims();
        let part = connected.iter().filter(|peer| self.0.peers.has_part(peer));
        let part: Vec<&PeerId> = part.collect();
        ShareStatus {
            connected: part.len(),
            in_step: part
                .iter()
                .filter(|peer| self.0.peers.has_all(peer, &claims))
                .count(),
        }
    }

    /// At how many other peers what this device wrote since its last checkpoint is. Reads tables.
    pub fn tail(&self) -> TailStatus {
        let (own, last) = self.0.own_end();
        self.0.tails.status(own, last.max(self.0.vfs.own_dots()))
    }

    /// Clocks that are so far ahead that what their machines write is not taken at once.
    pub fn clocks(&self) -> ClocksAhead {
        let clocks = &self.0.clocks;
        let progress = self.0.vfs.progress();
        let mut others: BTreeMap<PeerId, u64> = clocks.ahead().into_iter().collect();
        for ahead in progress.ahead {
            let known = others.entry(ahead.writer.peer).or_insert(0);
            *known = ahead.by_ms.max(*known);
        }
        ClocksAhead {
            own_ms: clocks.own_ahead().max(progress.own_ahead_ms),
            others: others.into_iter().collect(),
        }
    }

    /// Ends it. What others did not get yet they ask for later, here or elsewhere.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    fn connected(&self) -> Vec<PeerId> {
        let members = self.net.members();
        let connected = members
            .list
            .iter()
            .filter(|member| matches!(member.state, Reach::Connected(_)));
        connected.map(|member| member.peer).collect()
    }

    /// What this device wrote goes to everybody who has part, as soon as it is on the disk here.
    async fn push_always(self: Arc<Self>) {
        let Some(mut grown) = self.vfs.watch_feeds() else {
            return;
        };
        loop {
            let own = self.vfs.writer();
            let last = self
                .vfs
                .claims()
                .into_iter()
                .find(|claim| claim.writer == own);
            if let Some(last) = last {
                for peer in self.connected() {
                    if self.peers.begin_push(&peer, own, last.last) {
                        self.spawn(Arc::clone(&self).push(peer));
                    }
                }
            }
            if grown.changed().await.is_err() {
                return;
            }
        }
    }

    async fn compare_always(self: Arc<Self>) {
        loop {
            self.compare_round(ROUND).await;
            // Others who write at the same time need not all ask at the same time.
            let jitter = Duration::from_millis(self.entropy.below(5000));
            let next = Instant::now() + INTERVAL + jitter;
            tokio::select! {
                biased;
                () = self.soon.notified() => {
                    tokio::time::sleep_until(next.min(Instant::now() + SOON)).await;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            self.vfs.look_at_clock().await;
        }
    }

    /// A peer that comes is asked soon.
    async fn look_at_network(self: Arc<Self>) {
        let mut members = self.net.watch_members();
        let mut before: Vec<PeerId> = Vec::new();
        loop {
            let now = self.connected();
            let gone: Vec<PeerId> = before
                .iter()
                .filter(|peer| !now.contains(peer))
                .copied()
                .collect();
            self.peers.went(&gone);
            self.agreed.went(&gone);
            let new: Vec<PeerId> = now
                .iter()
                .filter(|peer| !before.contains(peer))
                .copied()
                .collect();
            if !new.is_empty() {
                self.soon.notify_one();
                if self.tails.may_be_at(&new) || new.iter().any(|peer| self.peers.has_part(peer)) {
                    self.tails.came.notify_one();
                }
            }
            before = now;
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    /// Compares heads with up to `most` connected peers: with those first who have part.
    async fn compare_round(self: &Arc<Self>, most: usize) -> usize {
        let mut peers = self.connected();
        self.shuffle(&mut peers);
        peers.retain(|peer| self.peers.may_have_part(peer));
        peers.sort_by_key(|peer| !self.peers.has_part(peer));
        peers.truncate(most);
        let talks = peers.into_iter().map(|peer| {
            let inner = Arc::clone(self);
            async move {
                let _talk = inner.talks.acquire().await;
                inner.compare_with(peer).await
            }
        });
        let done = futures::future::join_all(talks).await;
        done.into_iter().filter(|has_part| *has_part).count()
    }

    fn shuffle<T>(&self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            let other = self.entropy.below(at as u64 + 1) as usize;
            all.swap(at, other);
        }
    }
}
