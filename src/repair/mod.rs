//! Upkeep: what is missing is found and made anew, what lies on the own disk is read again now and then, and others are asked
//! to prove what they say they hold.
//!
//! Knows blocks, shards, claims and peers; nothing of keys, files or volumes, so it works while every owner of the data is
//! away. What is to be done is a function of what peers hold ([`plan`]); nothing about it is stored, so nothing can
//! be stale after a restart.

mod absence;
mod audit;
mod carry;
mod endings;
mod fingerprint;
mod health;
mod keepers;
mod leaving;
pub(crate) mod message;
mod pattern;
pub mod plan;
mod proof;
mod queue;
mod room;
mod scrub;
mod serve;
mod survey;
mod trust;
mod trusts;
mod uptime;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use audit::Auditor;
pub use health::Health;
pub use leaving::Remainder;
pub use message::Tally;
pub use scrub::Scrubber;
pub use trust::{Answers, Shown as Trust};
pub use worker::Repairer;

use self::health::Shown;
use self::plan::Rebuild;
use self::serve::{Server, SharedGroups, SharedTally};
use self::survey::SharedRoots;
use self::trusts::Trusts;
use crate::base::{BlockId, Entropy, PeerId};
use crate::blocks::{Blocks, ServeOptions};
use crate::crypto::SignedRelease;
use crate::net::Reach;
use crate::placement::AutoProfile;
use crate::store::Keeper;

/// How often holders compare what they have, at most and at least.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// How upkeep goes about it.
#[derive(Debug, Clone)]
pub struct RepairOptions {
    /// A peer that is away for longer is told of.
    pub suspect: Duration,
    /// What a peer holds that is away for longer is made anew elsewhere.
    pub dead: Duration,
    /// Bytes per second that repairs may read or move; 0: as fast as it goes.
    pub rate: u64,
    /// Every shard of the own disk is read once in this time.
    pub scrub: Duration,
    /// Every other peer is asked once in this time for a part of what it says it holds.
    pub audit: Duration,
    /// Whether this peer takes shards, and for how long a claim may stay open.
    pub serving: Arc<ServeOptions>,
    /// For proofs that nobody foresees.
    pub entropy: Entropy,
    /// Is told how often peers can be reached.
    pub auto: AutoProfile,
}

impl RepairOptions {
    /// How often what is held is compared: ten times before anybody is suspect.
    fn interval(&self) -> Duration {
        (self.suspect / 10).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }
}

/// The upkeep of one peer. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Repair {
    blocks: Blocks,
    options: RepairOptions,
    shown: Shown,
    tally: SharedTally,
    groups: SharedGroups,
    told: SharedRoots,
    trusts: Trusts,
}

impl Repair {
    /// For this conductor. Does nothing by itself: see [`Repair::serve`] and [`Repair::workers`].
    pub fn new(blocks: Blocks, options: RepairOptions) -> Self {
        Repair {
            trusts: Trusts::new(blocks.clock().clone()),
            blocks,
            options,
            shown: Shown::default(),
            tally: SharedTally::default(),
            groups: SharedGroups::default(),
            told: SharedRoots::default(),
        }
    }

    /// Answers what others ask about upkeep, until `stop`. To be called once.
    pub fn serve(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let inbound = self.blocks.take_upkeep_inbound();
        let server = Server {
            blocks: self.blocks.clone(),
            serving: Arc::clone(&self.options.serving),
            tally: self.tally.clone(),
            groups: self.groups.clone(),
            entropy: self.options.entropy.clone(),
        };
        server.run(inbound, stop)
    }

    /// Its background jobs.
    pub fn workers(&self) -> (Repairer, Scrubber, Auditor) {
        (Repairer::new(self), Scrubber::new(self), Auditor::new(self))
    }

    /// The trust in a peer, if it was asked for anything. Does no I/O.
    pub fn trust(&self, peer: &PeerId) -> Option<Trust> {
        self.trusts.shown(peer)
    }

    /// Tells these peers and the own store that a claim ends, now or later. Whoever cannot be told now hears of it from
    /// the others when they have let go, or from the writer.
    pub async fn tell_end(&self, release: SignedRelease, peers: &[PeerId]) {
        endings::tell_all(&self.blocks, release, peers).await;
    }

    /// Who keeps a block, as all of its holders know it that can be asked now.
    pub async fn keepers_of(&self, block: BlockId) -> Vec<Keeper> {
        let peers = self.blocks.group_peers(block.group()).await;
        let live = peers.iter().filter(|peer| peer.is_live());
        let wanted = vec![(block, live.map(|peer| peer.peer).collect())];
        let mut known = keepers::of_blocks(&self.blocks, wanted).await;
        known.remove(&block).unwrap_or_default()
    }

    /// How well everything is kept, as far as is known. Does no I/O.
    pub fn health(&self) -> Health {
        let members = self.blocks.net().members();
        let offering = members.list.iter().filter(|m| m.capacity_bytes > 0);
        let is_away = |reach: &Reach| matches!(reach, Reach::Away { .. });
        let away = offering.clone().filter(|m| is_away(&m.state)).count();
        let own = self.tally.get();
        let mut health = self.shown.health(own, offering.count(), away);
        if health.tally.blocks == 0 && self.blocks.store().usage().shard_bytes > 0 {
            // It came after the last look.
            health.is_known = false;
        }
        health
    }

    /// How long other upkeep has to rest after it moved so many bytes in so long: the same that repairs do.
    pub fn rest_after(&self, bytes: u64, took: Duration) -> Duration {
        let is_wanted = self.blocks.is_wanted();
        queue::rest(self.options.rate, bytes, took, is_wanted)
    }

    /// What is left to be handed over, if this peer leaves; none before it has looked. Does no I/O.
    pub fn remainder(&self) -> Option<Remainder> {
        self.blocks.is_leaving().then(|| self.shown.remainder())?
    }

    /// What this peer was going to repair when it last looked, the most urgent first. Does no I/O.
    pub fn plan(&self) -> Vec<Rebuild> {
        self.shown.plan()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What tests of this layer share.

    use std::sync::Arc;

    use crate::base::{Clock, Entropy, Pools};
    use crate::store::{MemDisk, Store, StoreOptions};

    /// An empty store in memory.
    pub(crate) async fn store() -> Store {
        let options = StoreOptions::new(64 << 20, Entropy::seeded(1));
        let disk = Arc::new(MemDisk::new(1 << 30));
        let clock = Clock::simulated(1_767_225_600_000);
        let opened = Store::open(disk, options, Pools::inline(), clock);
        opened.await.unwrap().0
    }
}
