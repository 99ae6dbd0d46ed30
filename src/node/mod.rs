//! The composition root: builds, starts and stops a peer.
//!
//! Knows every layer below it and nothing of commands and terminals. What a running peer can be
//! asked is `admin::Backend`, implemented in `backend`.

mod backend;
mod catalogue;
mod drain;
mod error;
mod export;
pub mod identity;
mod mount_point;
mod mounts;
mod network;
mod offer;
mod puts;
mod quota;
mod recode;
mod revoke;
mod share;
mod sharing;
mod show;
mod thrift;
mod trash;
mod upkeep;
mod volumes;
mod workers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::NodeError;
pub use export::import;
pub use mount_point::{umount_dead, umount_left};
#[cfg(feature = "testkit")]
pub use volumes::rewritten_record;

use self::drain::Drain;
use self::identity::Identity;
use self::mounts::Mounts;
use self::network::Network;
use self::volumes::Volumes;
use crate::admin::Backend;
use crate::base::{Clock, Entropy, Limits, PeerId, Pools};
use crate::blocks::{
    Blocks, ClaimSettler, FeedDoor, FeedInbound, Parts, PointerKeeper, ReleaseKeeper, ServeOptions,
    TailKeeper, serve,
};
use crate::config::Config;
use crate::net::{NetHandle, Offer, Stay};
use crate::placement::AutoProfile;
use crate::repair::{Repair, RepairOptions};
use crate::store::{RealDisk, Store, StoreOptions};

/// Threads that may wait for a disk at once.
const DISK_THREADS: usize = 8;
/// Memory that a chunk under way takes, in chunks: plaintext, and ciphertext with parity.
const MEMORY_PER_CHUNK: u64 = 3;

/// What a peer is started with. The caller holds the lock of the data directory.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The data directory; made if it is missing.
    pub data_dir: PathBuf,
    /// The config file, for changes of the quota.
    pub config_file: PathBuf,
    /// What the config file says.
    pub config: Config,
    /// Whether it lives only as long as one command: then it serves no mount.
    pub is_embedded: bool,
}

/// A running peer. Cheap to clone; [`Node::shutdown`] ends it for all clones.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    options: NodeOptions,
    is_new: bool,
    identity: Mutex<Identity>,
    store: Store,
    blocks: Blocks,
    net: NetHandle,
    network: tokio::sync::Mutex<Network>,
    /// The quota in force: changed by `cairn quota`, followed by the offer.
    quota: quota::Live,
    volumes: Volumes,
    mounts: Mounts,
    serving: Arc<ServeOptions>,
    /// Whether this peer leaves.
    drain: Drain,
    /// Where messages of other peers about feeds go.
    feeds: FeedDoor,
    workers: workers::Jobs,
    /// Who looks after redundancy.
    repair: Repair,
    /// What redundancy fits the peers.
    auto: AutoProfile,
    started: Instant,
    /// When something was put last (ms since 1970).
    last_put: AtomicU64,
    /// Held while it changes what puts keep: two that look at once may take the same for theirs.
    changing_puts: tokio::sync::Mutex<()>,
    /// When the first put expires (ms since 1970).
    next_expiry: AtomicU64,
    clock: Clock,
    entropy: Entropy,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Starts a peer: identity and secrets are made on demand, and no socket is opened unless it has
/// invited or joined somebody before.
pub async fn start(options: NodeOptions) -> Result<Node, NodeError> {
    let clock = Clock::system();
    let entropy = Entropy::os().map_err(NodeError::Entropy)?;
    let (identity, is_new) = own_identity(&options, &entropy)?;
    let cpu_threads = std::thread::available_parallelism().map_or(2, usize::from);
    let pools = Pools::threaded(cpu_threads, DISK_THREADS);
    let limits = limits_of(&options.config);

    let disk = RealDisk::open(&options.data_dir)?;
    let quota = quota::Live::resolve(&options.config, &disk)?;
    let mut store_options = StoreOptions::new(quota.bytes(), entropy.fork());
    store_options.reserve_free_bytes = options.config.storage.reserve_free.0;
    store_options.trash = options.config.storage.trash;
    store_options.ring_bytes = options.config.cache.disk.0;
    let (store, report) =
        Store::open(Arc::new(disk), store_options, pools.clone(), clock.clone()).await?;
    tracing::info!(?report, "the store is open");

    let own = identity.peer();
    let (net, ends, inbound) = NetHandle::new(own, limits.queue);
    let blocks = Blocks::open(Parts {
        store: store.clone(),
        net: net.clone(),
        pools,
        clock: clock.clone(),
        signer: Some(identity.device.clone()),
        limits: limits.clone(),
        fetch_timeout: options.config.fetch.timeout,
        memory_bytes: usize::try_from(options.config.cache.memory.0).unwrap_or(usize::MAX),
    })
    .await?;
    let drain = Drain::load(&store).await?;
    let offers = options.config.storage.offer && !drain.is_draining();
    let serving = Arc::new(ServeOptions {
        offer: AtomicBool::new(offers),
        claim_ttl_ms: limits.claim_ttl.as_millis() as u64,
    });
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    #[cfg(feature = "testkit")]
    let inbound = faulty(inbound)?;
    let feeds = FeedDoor::default();
    tasks.spawn(serve(
        inbound,
        blocks.clone(),
        Arc::clone(&serving),
        feeds.clone(),
        stop.clone(),
    ));
    let auto = AutoProfile::default();
    let upkeep = &options.config.repair;
    let repair = Repair::new(
        blocks.clone(),
        RepairOptions {
            suspect: upkeep.suspect,
            dead: upkeep.dead,
            rate: upkeep.rate.0,
            scrub: upkeep.scrub,
            audit: upkeep.audit,
            serving: Arc::clone(&serving),
            entropy: entropy.fork(),
            auto: auto.clone(),
        },
    );
    tasks.spawn(repair.serve(stop.clone()));
    let offer = Offer {
        capacity_bytes: 0,
        free_bytes: 0,
        zone: options.config.network.zone.clone(),
        stay: Stay::Stays,
    };
    let network = Network::lone(own, offer, ends);
    let volumes = Volumes::new(store.clone()).with_blocks(blocks.clone());
    if let Err(error) = volumes.tidy().await {
        tracing::warn!("clearing what was left of a volume: {error}");
    }
    let node = Node(Arc::new(Inner {
        options,
        is_new,
        identity: Mutex::new(identity),
        store,
        blocks,
        net,
        network: tokio::sync::Mutex::new(network),
        quota,
        volumes,
        mounts: Mounts::new(),
        serving,
        drain,
        feeds,
        workers: workers::Jobs::default(),
        repair,
        auto,
        started: Instant::now(),
        last_put: AtomicU64::new(0),
        changing_puts: tokio::sync::Mutex::default(),
        next_expiry: AtomicU64::new(u64::MAX),
        clock,
        entropy,
        stop,
        tasks,
    }));
    node.announce_offer().await;
    if node.identity().is_networked
        && let Err(error) = node.go_online(&[]).await
    {
        node.shutdown().await;
        return Err(error);
    }
    node.start_workers();
    Ok(node)
}

/// The identity of the data directory, made if there is none; whether it was.
fn own_identity(options: &NodeOptions, entropy: &Entropy) -> Result<(Identity, bool), NodeError> {
    if let Some(identity) = Identity::load(&options.data_dir)? {
        return Ok((identity, false));
    }
    let identity = Identity::generate(entropy);
    identity.save(&options.data_dir)?;
    Ok((identity, true))
}

/// The bounds that follow from the configuration.
fn limits_of(config: &Config) -> Limits {
    let mut limits = Limits::default();
    let chunk = limits.chunk_max_bytes as u64;
    let window = |bytes: u64, each: u64| usize::try_from(bytes / each).unwrap_or(1).clamp(1, 64);
    limits.upload_window_chunks = window(config.limits.upload_memory.0, MEMORY_PER_CHUNK * chunk);
    limits.download_window_blocks = window(config.limits.download_memory.0, 2 * chunk);
    limits
}

/// The fault that the environment asks for, put before the handler of requests.
#[cfg(feature = "testkit")]
fn faulty(
    inbound: tokio::sync::mpsc::Receiver<crate::net::Inbound>,
) -> Result<tokio::sync::mpsc::Receiver<crate::net::Inbound>, NodeError> {
    match std::env::var("CAIRN_FAULT") {
        Err(_) => Ok(inbound),
        Ok(text) => {
            let fault = text.parse().map_err(NodeError::Fault)?;
            Ok(crate::net::fault::inject(inbound, fault))
        }
    }
}

impl Node {
    /// How it is controlled.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    /// Whether its identity was made at this start.
    pub fn has_new_identity(&self) -> bool {
        self.0.is_new
    }

    /// Stops it in good order: answers what was asked, closes connections, brings the index up to
    /// date so that the next start replays nothing.
    pub async fn shutdown(&self) {
        // First: what is in use there may still need the network.
        self.end_mounts().await;
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.net.shutdown().await;
        if tokio::time::timeout(Duration::from_secs(10), self.0.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some work did not end in time and is cut off");
        }
        if let Err(error) = self.0.store.clone().close().await {
            tracing::warn!("closing the store: {error}");
        }
    }

    /// What other peers say about feeds from now on. Each who takes it has a queue of its own, and is asked when
    /// those before it have said [`Response::Unsupported`](crate::net::Response::Unsupported); before anybody has taken
    /// it, that is what all are told.
    pub fn take_feed_inbound(&self) -> mpsc::Receiver<FeedInbound> {
        self.0.feeds.open()
    }

    fn own(&self) -> PeerId {
        self.0.net.own()
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.0
            .identity
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn start_workers(&self) {
        self.run_worker(ClaimSettler::new(self.0.blocks.clone()));
        self.run_worker(puts::PutsKeeper::new(self.clone()));
        self.run_worker(ReleaseKeeper::new(&self.0.blocks));
        self.run_worker(PointerKeeper::new(self.0.blocks.clone()));
        self.run_worker(TailKeeper::new(self.0.blocks.clone()));
        let (compaction, expiry) = self.0.store.workers();
        self.run_worker(compaction);
        self.run_worker(expiry);
        self.run_worker(self.0.store.trash_keeper());
        self.run_worker(offer::OfferKeeper::new(self.clone()));
        let (repairer, scrubber, auditor) = self.0.repair.workers();
        self.run_worker(repairer);
        self.run_worker(scrubber);
        self.run_worker(auditor);
        self.run_worker(recode::Recoder::new(self.clone()));
        self.run_worker(thrift::Thrift::new(self.0.blocks.clone()));
    }
}
