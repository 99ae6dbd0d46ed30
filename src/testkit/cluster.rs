//! Peers on a memory network with memory disks: the real conductor and the real store, started,
//! crashed and started again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::worker::drive;
use crate::base::{Clock, Entropy, Limits, PeerId, Pools};
use crate::blocks::{
    Blocks, ClaimSettler, FeedDoor, Parts, PointerKeeper, ReleaseKeeper, ServeOptions, TailKeeper,
    serve,
};
use crate::crypto::SigningKey;
use crate::net::fault::{Fault, inject};
use crate::net::memory::{LinkFaults, MemoryHub, MemoryOptions, MemoryPeer};
use crate::net::{NetHandle, Offer, Stay};
use crate::repair::{Repair, RepairOptions};
use crate::store::mem_disk::Crash;
use crate::store::{MemDisk, OpenError, Store, StoreError, StoreOptions};

/// When every simulation begins: 2026-01-01.
const START_MS: u64 = 1_767_225_600_000;
/// How often a tended peer looks whether it has another amount of room.
const OFFER_INTERVAL: Duration = Duration::from_secs(30);
/// Room is told of in these: every change of it shows every peer to every other.
const OFFER_UNIT: u64 = 1 << 20;

/// How one peer differs from the others.
#[derive(Debug, Clone, Default)]
pub struct PeerSetup {
    /// Its failure domain; empty: one of its own.
    pub zone: String,
    /// How it misbehaves; none: as all do.
    pub fault: Option<Fault>,
}

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Number of peers.
    pub peers: usize,
    /// Quota of each.
    pub quota_bytes: u64,
    /// Faults of every link.
    pub faults: LinkFaults,
    /// Longest member list that a peer keeps.
    pub max_members: usize,
    /// Bounds.
    pub limits: Limits,
    /// Plaintext that each keeps in memory.
    pub memory_bytes: usize,
    /// Fetched shards that each keeps on its disk.
    pub ring_bytes: u64,
    /// How all of them misbehave.
    pub fault: Option<Fault>,
    /// The upkeep of each; none: nobody looks after anything.
    pub upkeep: Option<UpkeepTimes>,
    /// Whether stores let go of what has expired and compact, and peers tell how much room they have.
    pub tended: bool,
    /// How the first peers differ from the others.
    pub setups: Vec<PeerSetup>,
    /// Whether the trace keeps its lines.
    pub keep_trace: bool,
    /// Whether peers have device keys, and so can prove to others what they let go; else their ids are made up.
    pub signs: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            peers: 6,
            quota_bytes: 64 << 20,
            faults: LinkFaults {
                delay: Duration::from_millis(1),
                jitter: Duration::from_millis(2),
                loss: 0.0,
            },
            max_members: usize::MAX,
            limits: Limits::tiny(),
            memory_bytes: 16 << 20,
            ring_bytes: 0,
            fault: None,
            upkeep: None,
            tended: false,
            setups: Vec::new(),
            keep_trace: false,
            signs: false,
        }
    }
}

/// When upkeep does what.
#[derive(Debug, Clone, Copy)]
pub struct UpkeepTimes {
    /// A peer that is away for longer is told of.
    pub suspect: Duration,
    /// What a peer holds that is away for longer is made anew.
    pub dead: Duration,
    /// Every shard is read once in this time.
    pub scrub: Duration,
    /// Bytes of repair per second; 0: no limit.
    pub rate: u64,
    /// Every other peer is asked once in this time to prove something.
    pub audit: Duration,
}

/// Why a simulated peer does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A network of simulated peers.
#[derive(Debug)]
pub struct Cluster {
    /// The network, for faults and the trace.
    pub hub: MemoryHub,
    /// Randomness of the scenario.
    pub entropy: Entropy,
    clock: Clock,
    options: ClusterOptions,
    peers: Vec<SimPeer>,
}

#[derive(Debug)]
struct SimPeer {
    id: PeerId,
    /// Its device key; none where the test made up its id.
    key: Option<SigningKey>,
    setup: PeerSetup,
    disk: MemDisk,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    blocks: Blocks,
    feeds: FeedDoor,
    repair: Option<Repair>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The id of a new peer, and its device key if it is to have one.
fn new_peer(entropy: &Entropy, signs: bool) -> (PeerId, Option<SigningKey>) {
    if signs {
        let key = SigningKey::generate(entropy);
        return (key.peer(), Some(key));
    }
    (PeerId(entropy.array()), None)
}

impl Cluster {
    /// Makes the peers and starts them all. Must be called in a current-thread runtime with paused
    /// time.
    pub async fn start(options: ClusterOptions, seed: u64) -> Result<Cluster, StartError> {
        let entropy = Entropy::seeded(seed);
        let clock = Clock::simulated(START_MS);
        let hub = MemoryHub::new(
            MemoryOptions {
                faults: options.faults,
                keep_trace: options.keep_trace,
                ..MemoryOptions::default()
            },
            entropy.fork(),
            clock.clone(),
        );
        let peers = (0..options.peers).map(|at| {
            let (id, key) = new_peer(&entropy, options.signs);
            SimPeer {
                id,
                key,
                setup: options.setups.get(at).cloned().unwrap_or_default(),
                disk: MemDisk::new(4 * options.quota_bytes),
                running: None,
            }
        });
        let peers = peers.collect();
        let mut cluster = Cluster {
            hub,
            entropy,
            clock,
            options,
            peers,
        };
        for at in 0..cluster.peers.len() {
            cluster.restart(at).await?;
        }
        Ok(cluster)
    }

    /// Number of peers, running or not.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are no peers.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The id of a peer.
    pub fn id(&self, at: usize) -> Option<PeerId> {
        self.peers.get(at).map(|peer| peer.id)
    }

    /// The conductor of a peer that runs.
    pub fn blocks(&self, at: usize) -> Option<&Blocks> {
        let running = self.peers.get(at)?.running.as_ref()?;
        Some(&running.blocks)
    }

    /// Where messages about feeds go at a peer that runs.
    pub fn feeds(&self, at: usize) -> Option<&FeedDoor> {
        let running = self.peers.get(at)?.running.as_ref()?;
        Some(&running.feeds)
    }

    /// The upkeep of a peer that runs, if there is any.
    pub fn repair(&self, at: usize) -> Option<&Repair> {
        self.peers.get(at)?.running.as_ref()?.repair.as_ref()
    }

    /// The disk of a peer, as it is now.
    pub fn disk(&self, at: usize) -> Option<&MemDisk> {
        self.peers.get(at).map(|peer| &peer.disk)
    }

    /// The device key of a peer, unless the test made up its id.
    pub fn key(&self, at: usize) -> Option<&SigningKey> {
        self.peers.get(at)?.key.as_ref()
    }

    /// The wall clock of all peers.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// One more peer, running; its number.
    pub async fn add(&mut self) -> Result<usize, StartError> {
        let (id, key) = new_peer(&self.entropy, self.options.signs);
        self.join(id, key, PeerSetup::default()).await
    }

    /// One more peer of this id, running; its number.
    pub async fn add_as(&mut self, id: PeerId) -> Result<usize, StartError> {
        self.add_with(id, PeerSetup::default()).await
    }

    /// One more peer of this id, which differs like this, running; its number.
    pub async fn add_with(&mut self, id: PeerId, setup: PeerSetup) -> Result<usize, StartError> {
        self.join(id, None, setup).await
    }

    async fn join(
        &mut self,
        id: PeerId,
        key: Option<SigningKey>,
        setup: PeerSetup,
    ) -> Result<usize, StartError> {
        self.peers.push(SimPeer {
            id,
            key,
            setup,
            disk: MemDisk::new(4 * self.options.quota_bytes),
            running: None,
        });
        let at = self.peers.len() - 1;
        self.restart(at).await?;
        Ok(at)
    }

    /// One more peer of this id, running, whose disk is a copy of what another's has durably; its number. None if
    /// there is no other of that number.
    pub async fn add_copy(&mut self, of: usize, id: PeerId) -> Result<Option<usize>, StartError> {
        let Some(other) = self.peers.get(of) else {
            return Ok(None);
        };
        let disk = other.disk.crash_image(&Crash::LoseAll);
        self.peers.push(SimPeer {
            id,
            key: None,
            setup: PeerSetup::default(),
            disk,
            running: None,
        });
        let at = self.peers.len() - 1;
        self.restart(at).await?;
        Ok(Some(at))
    }

    /// Keeps what a peer's disk has durably at this moment, for [`Cluster::put_back`].
    pub fn backup(&self, at: usize) -> Option<MemDisk> {
        let peer = self.peers.get(at)?;
        Some(peer.disk.crash_image(&Crash::LoseAll))
    }

    /// Gives a peer that does not run an earlier state of its disk back.
    pub fn put_back(&mut self, at: usize, disk: MemDisk) {
        let stopped = self.peers.get_mut(at).filter(|peer| peer.running.is_none());
        if let Some(peer) = stopped {
            peer.disk = disk;
        }
    }

    /// Ends a peer as a power cut does: what was not synced may be lost, kept or torn.
    pub fn crash(&mut self, at: usize) {
        let image = Crash::seeded(self.entropy.u64());
        let Some(peer) = self.peers.get_mut(at) else {
            return;
        };
        if let Some(running) = peer.running.take() {
            self.hub.crash(peer.id);
            for task in running.tasks {
                task.abort();
            }
            // What the dead peer's tasks still write goes to a disk that nobody looks at.
            peer.disk = peer.disk.crash_image(&image);
        }
    }

    /// How a peer misbehaves from its next start on.
    pub fn set_fault(&mut self, at: usize, fault: Option<Fault>) {
        if let Some(peer) = self.peers.get_mut(at) {
            peer.setup.fault = fault;
        }
    }

    /// Starts a peer that does not run, on what its disk holds.
    pub async fn restart(&mut self, at: usize) -> Result<(), StartError> {
        let Some(peer) = self.peers.get_mut(at) else {
            return Ok(());
        };
        if peer.running.is_some() {
            return Ok(());
        }
        let mut options = StoreOptions::new(self.options.quota_bytes, self.entropy.fork());
        options.ring_bytes = self.options.ring_bytes;
        let (store, _report) = Store::open(
            Arc::new(peer.disk.clone()),
            options,
            Pools::inline(),
            self.clock.clone(),
        )
        .await?;
        let mut member = MemoryPeer::new(peer.id, self.options.quota_bytes);
        member.max_members = self.options.max_members;
        member.offer.zone = peer.setup.zone.clone();
        let (net, inbound) = self.hub.join(member);
        let inbound = match peer.setup.fault.or(self.options.fault) {
            Some(fault) => inject(inbound, fault),
            None => inbound,
        };
        let offering = (store.clone(), net.clone());
        let blocks = Blocks::open(Parts {
            store,
            net,
            pools: Pools::inline(),
            clock: self.clock.clone(),
            signer: peer.key.clone(),
            limits: self.options.limits.clone(),
            fetch_timeout: Duration::from_secs(30),
            memory_bytes: self.options.memory_bytes,
        })
        .await?;
        let stop = CancellationToken::new();
        let feeds = FeedDoor::default();
        let serving = Arc::new(ServeOptions {
            offer: AtomicBool::new(true),
            claim_ttl_ms: self.options.limits.claim_ttl.as_millis() as u64,
        });
        let served = serve(
            inbound,
            blocks.clone(),
            Arc::clone(&serving),
            feeds.clone(),
            stop.clone(),
        );
        let settler = ClaimSettler::new(blocks.clone());
        let settled = drive(settler, stop.clone().cancelled_owned());
        let keeper = PointerKeeper::new(blocks.clone());
        let kept = drive(keeper, stop.clone().cancelled_owned());
        let releases = ReleaseKeeper::new(&blocks);
        let ended = drive(releases, stop.clone().cancelled_owned());
        let tails = drive(
            TailKeeper::new(blocks.clone()),
            stop.clone().cancelled_owned(),
        );
        let mut tasks = vec![
            tokio::spawn(served),
            tokio::spawn(tails),
            tokio::spawn(settled),
            tokio::spawn(kept),
            tokio::spawn(ended),
        ];
        if self.options.tended {
            let (store, net) = offering;
            let (compaction, expiry) = store.workers();
            let stopped = || stop.clone().cancelled_owned();
            tasks.push(tokio::spawn(drive(compaction, stopped())));
            tasks.push(tokio::spawn(drive(expiry, stopped())));
            let zone = peer.setup.zone.clone();
            tasks.push(tokio::spawn(tell_room(store, net, zone)));
        }
        let repair = self.options.upkeep.map(|times| {
            let options = RepairOptions {
                suspect: times.suspect,
                dead: times.dead,
                rate: times.rate,
                scrub: times.scrub,
                audit: times.audit,
                serving,
                entropy: self.entropy.fork(),
                auto: crate::placement::AutoProfile::default(),
            };
            let repair = Repair::new(blocks.clone(), options);
            let (repairer, scrubber, auditor) = repair.workers();
            tasks.push(tokio::spawn(repair.serve(stop.clone())));
            tasks.push(tokio::spawn(drive(
                repairer,
                stop.clone().cancelled_owned(),
            )));
            tasks.push(tokio::spawn(drive(
                scrubber,
                stop.clone().cancelled_owned(),
            )));
            tasks.push(tokio::spawn(drive(auditor, stop.clone().cancelled_owned())));
            repair
        });
        peer.running = Some(Running {
            blocks,
            feeds,
            repair,
            stop,
            tasks,
        });
        Ok(())
    }
}

/// Tells others how much room there is, until the peer ends.
async fn tell_room(store: Store, net: NetHandle, zone: String) {
    let mut told = None;
    loop {
        let usage = store.usage();
        let free_bytes = usage.intake_left / OFFER_UNIT * OFFER_UNIT;
        if told != Some(free_bytes) {
            let offer = Offer {
                capacity_bytes: usage.quota,
                free_bytes,
                zone: zone.clone(),
                stay: Stay::Stays,
            };
            if net.offer(offer).await.is_err() {
                return;
            }
            told = Some(free_bytes);
        }
        tokio::time::sleep(OFFER_INTERVAL).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            if let Some(running) = peer.running.take() {
                running.stop.cancel();
                for task in running.tasks {
                    task.abort();
                }
            }
        }
    }
}
