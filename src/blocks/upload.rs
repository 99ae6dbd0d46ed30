//! One upload: chunks go in, references come out, and in the end all of it is durable or none.

mod survival;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use self::survival::Survival;
use super::claims::Unclosed;
use super::{Blocks, PutError};
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, BlockRef, Chunk, ClaimId, Classify, EcProfile, OwnerId, PeerId};
use crate::crypto::{self, ConvergenceSecret};
use crate::erasure::{self, EncodedStripe};
use crate::store::{KvChange, StoreError};

/// Bytes of shards that may wait for slow peers after the rest of their stripe is placed.
const STRAGGLER_BYTES: usize = 64 << 20;
/// Stripes whose memory is kept for others: as many as the window has, and some that waited for slow peers.
const STRIPES_IDLE: usize = 12;

/// How an upload is to be stored.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// Data and parity shards of each stripe.
    pub profile: EcProfile,
    /// Equal secrets give equal content equal addresses.
    pub secret: ConvergenceSecret,
    /// Losses each stripe must survive; none: what the profile promises over the peers now live.
    pub survive: Option<usize>,
    /// For whom the blocks are kept.
    pub owner: OwnerId,
}

/// What an upload achieved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadReport {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes of shards that all blocks have in the pool.
    pub stored_bytes: u64,
    /// Of which this upload sent, because they were not there.
    pub new_bytes: u64,
    /// The least number of peers that may be lost with everything still readable.
    pub survives: usize,
    /// Peers that hold shards of it.
    pub peers: usize,
    /// Peers that may know of its claim.
    pub told: Vec<PeerId>,
}

/// Row changes that become durable together with the completion of an upload.
pub type ExtraRows = Vec<KvChange>;

/// An upload under way. Dropped without [`Upload::finish`], it is released in the background.
#[derive(Debug)]
pub struct Upload {
    session: Arc<Session>,
    finished: bool,
}

/// What the stripes of one upload share.
#[derive(Debug)]
pub(super) struct Session {
    pub blocks: Blocks,
    pub options: UploadOptions,
    pub claim: ClaimId,
    /// Room for stragglers, in bytes.
    pub stragglers: Arc<Semaphore>,
    window: Arc<Semaphore>,
    tasks: TaskTracker,
    memory: StripeMemory,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: BTreeSet<BlockId>,
    /// Peers that may hold something, or know the claim.
    used: BTreeSet<PeerId>,
    /// What its stripes survive, by who holds them for certain.
    survival: Survival,
    report: UploadReport,
    failure: Option<PutError>,
}

/// Resolves to a chunk's reference once it is sealed (its shards may still be on their way).
#[derive(Debug)]
pub struct PendingRef(oneshot::Receiver<Result<BlockRef, PutError>>);

impl Future for PendingRef {
    type Output = Result<BlockRef, PutError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|received| received.unwrap_or(Err(PutError::Stopped)))
    }
}

impl Blocks {
    /// Begins an upload. Its claim is durable before this returns.
    pub async fn upload(&self, options: UploadOptions) -> Result<Upload, PutError> {
        let most = options.profile.parity_shards();
        if let Some(demanded) = options.survive.filter(|demanded| *demanded > most) {
            return Err(PutError::Impossible {
                profile: options.profile,
                most,
                demanded,
            });
        }
        let claim = self
            .open_claim(options.owner)
            .await
            .map_err(|error| PutError::Store(error.to_string(), error.class()))?;
        Ok(Upload {
            session: Arc::new(Session {
                blocks: self.clone(),
                options,
                claim,
                stragglers: Arc::new(Semaphore::new(STRAGGLER_BYTES)),
                window: Arc::new(Semaphore::new(self.limits.upload_window_chunks)),
                tasks: TaskTracker::new(),
                memory: StripeMemory::default(),
                state: Mutex::new(State::default()),
            }),
            finished: false,
        })
    }
}

impl Upload {
    /// Takes one chunk of at most `CHUNK_MAX_BYTES`, after waiting for room in the window.
    ///
    /// Cancel safe: a cancelled call took nothing. Fails early once any stripe has failed.
    pub async fn submit(&self, chunk: impl Into<Chunk>) -> Result<PendingRef, PutError> {
        let chunk = chunk.into();
        if chunk.len() > CHUNK_MAX_BYTES {
            return Err(PutError::TooLarge(chunk.len()));
        }
        let session = &self.session;
        let permit = Arc::clone(&session.window)
            .acquire_owned()
            .await
            .map_err(|_| PutError::Stopped)?;
        if let Some(failure) = session.state().failure.clone() {
            return Err(failure);
        }
        let (sealed, pending) = oneshot::channel();
        let task = Arc::clone(session).carry(chunk, permit, sealed);
        session.tasks.spawn(task);
        Ok(PendingRef(pending))
    }

    /// Waits until every chunk that was submitted is placed, or could not be; the peers that may know of the claim by
    /// then. Nothing is submitted afterwards.
    pub async fn placed(&self) -> Vec<PeerId> {
        self.session.tasks.close();
        self.session.tasks.wait().await;
        self.session.state().used.iter().copied().collect()
    }

    /// Waits until every stripe is durable at its holders and the claim is closed there.
    ///
    /// `extra` rows of the own store become durable at the same moment as the decision to keep
    /// the upload. On failure nothing is kept.
    /// Dropped before the decision, it is released as an upload is that was dropped; after that it is carried out
    /// though nobody hears of it.
    pub async fn finish(mut self, extra: ExtraRows) -> Result<UploadReport, PutError> {
        self.placed().await;
        self.finished = true;
        let session = Arc::clone(&self.session);
        // A task of its own: half a decision helps nobody.
        let decided = tokio::spawn(async move { session.decide(extra).await });
        decided.await.unwrap_or(Err(PutError::Stopped))
    }

    /// What keeps its blocks at their holders.
    pub fn claim(&self) -> ClaimId {
        self.session.claim
    }

    /// Gives the upload up and frees what it placed.
    pub async fn abort(mut self) {
        self.finished = true;
        self.session.abort().await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.finished {
            let session = Arc::clone(&self.session);
            tokio::spawn(async move { session.abort().await });
        }
    }
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Remembers that `peer` may hold something of this upload.
    pub fn uses(&self, peer: PeerId) {
        self.state().used.insert(peer);
    }

    /// Keeps what was placed, together with `extra` rows, if its holders promise to keep it as well; otherwise lets go of
    /// everything.
    async fn decide(&self, extra: ExtraRows) -> Result<UploadReport, PutError> {
        let (failure, used) = {
            let state = self.state();
            (state.failure.clone(), state.used.clone())
        };
        if let Some(failure) = failure {
            self.release(&used).await;
            return Err(failure);
        }
        let unkept = extra
            .iter()
            .map(|(space, key, _)| (space.clone(), key.clone(), None))
            .collect();
        let store = |error: StoreError| PutError::Store(error.to_string(), error.class());
        let unclosed = match self.blocks.close_claim(self.claim, &used, extra).await {
            Ok(unclosed) => unclosed,
            Err(error) => {
                self.release(&used).await;
                return Err(store(error));
            }
        };
        let (mut report, worth, holders) = {
            let state = self.state();
            let worth = self.worth(&state.survival, &unclosed);
            (state.report.clone(), worth, state.survival.holders())
        };
        for peer in unclosed.refused.intersection(&holders) {
            // The next upload does without it, if there are enough others.
            self.blocks.stats.failed(peer);
        }
        let Worth {
            survives,
            demanded,
            is_enough,
        } = worth;
        if !is_enough {
            let released = self.blocks.release_claim(self.claim, &used, unkept).await;
            released.map_err(store)?;
            return Err(PutError::Unconfirmed {
                lost: unclosed.all().intersection(&holders).count(),
                survives,
                demanded,
            });
        }
        report.survives = survives.unwrap_or(0);
        report.peers = holders.len();
        report.told = used.iter().copied().collect();
        Ok(report)
    }

    /// What is placed is worth with those who promise to keep it.
    ///
    /// A holder that has not closed the claim lets its shards expire, unless it is told in time: what can be read with
    /// its help only is not kept. Where the profile decides what is demanded, that is asked of those who are there:
    /// a holder that went away after it stored its shards is one of the losses that they are to survive, one that is there
    /// and does not promise is none.
    fn worth(&self, survival: &Survival, unclosed: &Unclosed) -> Worth {
        let survives = survival.without(&unclosed.all());
        let (demanded, counts) = match self.options.survive {
            Some(demanded) => (demanded, survives),
            None => (
                survival.demanded(),
                survives.and_then(|_| survival.without(&unclosed.refused)),
            ),
        };
        Worth {
            survives,
            demanded,
            is_enough: counts.is_some_and(|counts| counts >= demanded),
        }
    }

    async fn abort(&self) {
        self.state().failure.get_or_insert(PutError::Stopped);
        self.window.close();
        self.tasks.close();
        self.tasks.wait().await;
        let used = self.state().used.clone();
        self.release(&used).await;
    }

    async fn release(&self, used: &BTreeSet<PeerId>) {
        if let Err(error) = self
            .blocks
            .release_claim(self.claim, used, Vec::new())
            .await
        {
            // The open claim stays in the own store and is released at the next start.
            tracing::warn!("a failed upload is not cleaned up yet: {error}");
        }
    }

    /// Whether the upload failed already, so that work for it is wasted.
    pub fn is_over(&self) -> bool {
        self.state().failure.is_some()
    }

    /// Bytes of a stripe: as many for all but the smallest, so that one serves another.
    fn room(&self, chunk_len: usize) -> usize {
        let limits = &self.blocks.limits;
        let plain_len = match chunk_len < limits.chunk_min_bytes {
            true => chunk_len,
            false => limits.chunk_max_bytes.max(chunk_len),
        };
        erasure::stripe_capacity(crypto::sealed_len_max(plain_len), self.options.profile)
    }

    /// Seals, codes and places one chunk.
    async fn carry(
        self: Arc<Self>,
        chunk: Chunk,
        permit: OwnedSemaphorePermit,
        sealed: oneshot::Sender<Result<BlockRef, PutError>>,
    ) {
        let _placing = self.blocks.placing.begin();
        let secret = self.options.secret.clone();
        let profile = self.options.profile;
        let memory = self.memory.clone();
        let room_len = self.room(chunk.len());
        let coded = self
            .blocks
            .pools
            .cpu
            .run(move || seal_and_code(&secret, &chunk, profile, memory.take(room_len), memory))
            .await;
        let stripe = match coded {
            Ok((reference, stripe)) => {
                // Nobody may want the reference any more; the upload then ends soon.
                let _ = sealed.send(Ok(reference));
                stripe
            }
            Err(error) => {
                self.state().failure.get_or_insert(error.clone());
                let _ = sealed.send(Err(error));
                return;
            }
        };
        if self.is_over() || !self.state().seen.insert(stripe.id) {
            return;
        }
        let bytes: u64 = stripe.shards.iter().map(|s| s.data().len() as u64).sum();
        match Arc::clone(&self).place(stripe, permit).await {
            Ok(outcome) => {
                let mut state = self.state();
                state.report.blocks += 1;
                state.report.stored_bytes += bytes * outcome.placed as u64 / outcome.total as u64;
                state.report.new_bytes += outcome.new_bytes;
                state
                    .survival
                    .add(outcome.holders, outcome.survives, outcome.demanded);
            }
            Err(failure) => {
                self.state().failure.get_or_insert(failure);
            }
        }
    }
}

/// What an upload is worth when its holders have answered.
struct Worth {
    /// Losses that those survive who promise; none: they are too few to read it.
    survives: Option<usize>,
    /// Losses that had to be survived.
    demanded: usize,
    is_enough: bool,
}

/// The write path's pure part: seal, then code. One allocation from ciphertext to shards: `room`, which goes back to
/// `memory`.
fn seal_and_code(
    secret: &ConvergenceSecret,
    chunk: &Chunk,
    profile: EcProfile,
    room: Vec<u8>,
    memory: StripeMemory,
) -> Result<(BlockRef, EncodedStripe), PutError> {
    let sealed = crypto::seal(secret, chunk.pieces(), room)
        .map_err(|error| PutError::Internal(error.to_string()))?;
    let room = StripeRoom {
        bytes: sealed.memory,
        memory,
    };
    let stripe = erasure::encode_stripe_in(erasure::codec::default(), room, sealed.len, profile)
        .map_err(|error| PutError::Internal(error.to_string()))?;
    let reference = BlockRef {
        id: stripe.id,
        key: sealed.key,
        plain_len: sealed.plain_len,
    };
    Ok((reference, stripe))
}

/// Chunks of all uploads that are on their way to their holders.
#[derive(Debug, Default)]
pub(super) struct Uploading(Arc<AtomicUsize>);

/// One of them, until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Uploading {
    fn begin(&self) -> UnderWay {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(&self.0))
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory of stripes that are done with, for those that come after them: fresh memory costs a page fault for
/// every 4 KiB, and being filled with zeros.
#[derive(Debug, Clone, Default)]
struct StripeMemory(Arc<Mutex<Vec<Vec<u8>>>>);

impl StripeMemory {
    /// `len` bytes or more, whatever they are.
    fn take(&self, len: usize) -> Vec<u8> {
        let mut idle = self.lock();
        let found = idle.iter().position(|memory| memory.len() >= len);
        let memory = found.map(|at| idle.swap_remove(at));
        drop(idle);
        memory.unwrap_or_else(|| vec![0; len])
    }

    fn give(&self, memory: Vec<u8>) {
        let mut idle = self.lock();
        if idle.len() < STRIPES_IDLE {
            idle.push(memory);
        } else if let Some(smallest) = idle.iter_mut().min_by_key(|idle| idle.len())
            && smallest.len() < memory.len()
        {
            *smallest = memory;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stripe is in. Goes back when nobody has any of its shards any more.
struct StripeRoom {
    bytes: Vec<u8>,
    memory: StripeMemory,
}

impl AsMut<Vec<u8>> for StripeRoom {
    fn as_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for StripeRoom {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for StripeRoom {
    fn drop(&mut self) {
        self.memory.give(std::mem::take(&mut self.bytes));
    }
}
