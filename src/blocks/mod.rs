//! The conductor: the one place where the order of seal, code, place, send, fetch, verify and open
//! is written.
//!
//! Knows nothing of files, directories or links: it turns a chunk into a [`crate::base::BlockRef`] and back. Beside
//! them it keeps, for anybody, the signed records that say where a volume's checkpoints are, and the sealed ends of its feeds.

mod adopt;
mod ask;
mod candidates;
mod claims;
mod debts;
mod error;
mod feed_door;
mod fetch;
mod health;
mod part;
mod peers;
mod place;
mod pointers;
mod range;
mod releases;
mod serve;
mod shared;
mod tails;
mod upkeep;
mod upload;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

pub use adopt::{AdoptError, Adopted};
pub use claims::ClaimSettler;
pub use error::{GetError, PutError};
pub use feed_door::{FeedDoor, FeedInbound};
pub use health::BlockHealth;
pub use peers::PeerStats;
pub use pointers::{FoundRecords, PointerError, PointerKeeper, PointerRow};
pub use releases::{HearError, ReleaseKeeper, Releases};
pub use serve::{ServeOptions, serve};
pub use tails::{RunRow, TailKeeper, TailPlaces, TailRow};
pub use upkeep::{Gathered, GroupPeer};
pub use upload::{PendingRef, Upload, UploadOptions, UploadReport};

use tokio::sync::{Semaphore, mpsc};

use crate::base::{Clock, Limits, Pools};
use crate::crypto::SigningKey;
use crate::erasure::VerifiedShard;
use crate::net::NetHandle;
use crate::store::{Store, StoreError};

/// Blocks whose fetched shards are written to the cache at once.
const KEEPING_MAX: usize = 4;

/// Uploads, downloads and their book-keeping for one peer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blocks {
    inner: Arc<Inner>,
    /// How long reads by this handle wait for peers that are away.
    fetch_timeout: Duration,
}

/// What [`Blocks`] is built from.
#[derive(Debug)]
pub struct Parts {
    /// The own shard store.
    pub store: Store,
    /// The network.
    pub net: NetHandle,
    /// Where hashing, ciphers and coding run.
    pub pools: Pools,
    /// Wall clock, for expiry times.
    pub clock: Clock,
    /// The own device key; without it nobody can prove to others what this peer let go.
    pub signer: Option<SigningKey>,
    /// Bounds.
    pub limits: Limits,
    /// How long a read waits for peers that are away, unless told otherwise.
    pub fetch_timeout: Duration,
    /// Plaintext of recently read blocks kept in memory.
    pub memory_bytes: usize,
}

#[derive(Debug)]
#[doc(hidden)]
pub struct Inner {
    store: Store,
    net: NetHandle,
    pools: Pools,
    clock: Clock,
    limits: Limits,
    stats: PeerStats,
    candidates: candidates::Cache,
    counter: claims::Counter,
    debts: claims::Locks,
    releases: Releases,
    signer: Option<SigningKey>,
    pointers: pointers::Kept,
    tails: tails::Tails,
    /// Where messages about upkeep go.
    upkeep: FeedDoor,
    shared: shared::SharedReads,
    placing: upload::Uploading,
    /// For writing fetched shards to the disk, beside the reads that brought them.
    keeping: Arc<Semaphore>,
}

impl Deref for Blocks {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl Blocks {
    /// Opens the conductor: recovers the claims of uploads that a crash interrupted, and what is kept for others.
    pub async fn open(parts: Parts) -> Result<Self, StoreError> {
        let pointers = pointers::Kept::open(
            parts.net.own(),
            parts.store.clone(),
            parts.pools.clone(),
            parts.clock.clone(),
        )
        .await?;
        let releases = Releases::open(
            parts.store.clone(),
            parts.pools.clone(),
            parts.clock.clone(),
        )
        .await?;
        let tails = tails::Tails::open(
            parts.store.clone(),
            parts.pools.clone(),
            parts.clock.clone(),
        )
        .await?;
        let blocks = Blocks {
            inner: Arc::new(Inner {
                store: parts.store,
                net: parts.net,
                pools: parts.pools,
                clock: parts.clock,
                limits: parts.limits,
                stats: PeerStats::default(),
                candidates: candidates::Cache::default(),
                counter: claims::Counter::default(),
                debts: claims::Locks::default(),
                releases,
                signer: parts.signer,
                pointers,
                tails,
                upkeep: FeedDoor::default(),
                shared: shared::SharedReads::new(parts.memory_bytes),
                placing: upload::Uploading::default(),
                keeping: Arc::new(Semaphore::new(KEEPING_MAX)),
            }),
            fetch_timeout: parts.fetch_timeout,
        };
        let interrupted = blocks.recover_claims().await?;
        if interrupted > 0 {
            tracing::info!(interrupted, "releasing uploads that were interrupted");
        }
        Ok(blocks)
    }

    /// The same conductor, whose reads by this handle wait so long for peers that are away.
    #[must_use]
    pub fn with_timeout(&self, fetch_timeout: Duration) -> Self {
        Blocks {
            inner: Arc::clone(&self.inner),
            fetch_timeout,
        }
    }

    /// Writes shards that others sent to the cache on disk, unless it is behind with such writes already.
    fn keep(&self, shards: Vec<VerifiedShard>) {
        if shards.is_empty() {
            return;
        }
        if let Ok(slot) = Arc::clone(&self.keeping).try_acquire_owned() {
            let store = self.store.clone();
            tokio::spawn(async move {
                store.cache(shards).await;
                drop(slot);
            });
        }
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The pools in use.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The own store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The network.
    pub fn net(&self) -> &NetHandle {
        &self.net
    }

    /// Messages of other peers about upkeep from now on. Until somebody takes them they are answered `Unsupported`.
    pub fn take_upkeep_inbound(&self) -> mpsc::Receiver<FeedInbound> {
        self.upkeep.open()
    }

    /// Experience with other peers.
    pub fn peer_stats(&self) -> &PeerStats {
        &self.stats
    }
}
