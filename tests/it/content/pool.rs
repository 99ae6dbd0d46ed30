//! A pool of blocks in memory, which seals at different speeds and keeps an eye on its callers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairnfs::base::{BlockId, BlockKey, BlockRef, Chunk, Entropy};
use cairnfs::blocks::GetError;
use cairnfs::content::{ChunkSink, ChunkSource, ContentError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

#[derive(Clone)]
pub struct MemPool(Arc<State>);

struct State {
    blocks: Mutex<BTreeMap<BlockId, Bytes>>,
    window: Arc<Semaphore>,
    pace: Entropy,
    fetching: AtomicUsize,
    most_fetching: AtomicUsize,
    fetched: AtomicUsize,
    lost: Mutex<BTreeSet<BlockId>>,
}

impl MemPool {
    pub fn new(seed: u64) -> Self {
        MemPool(Arc::new(State {
            blocks: Mutex::default(),
            window: Arc::new(Semaphore::new(3)),
            pace: Entropy::seeded(seed),
            fetching: AtomicUsize::new(0),
            most_fetching: AtomicUsize::new(0),
            fetched: AtomicUsize::new(0),
            lost: Mutex::default(),
        }))
    }

    /// Puts a block in.
    pub fn add(&self, plaintext: impl Into<Bytes>) -> BlockRef {
        let plaintext = plaintext.into();
        let digest = *blake3::hash(&plaintext).as_bytes();
        let block = BlockRef {
            id: BlockId(digest),
            key: BlockKey(digest.map(|byte| !byte)),
            plain_len: plaintext.len() as u32,
        };
        self.0.blocks.lock().unwrap().insert(block.id, plaintext);
        block
    }

    pub fn ids(&self) -> BTreeSet<BlockId> {
        self.0.blocks.lock().unwrap().keys().copied().collect()
    }

    pub fn bytes(&self) -> usize {
        self.0.blocks.lock().unwrap().values().map(Bytes::len).sum()
    }

    pub fn largest(&self) -> usize {
        let blocks = self.0.blocks.lock().unwrap();
        blocks.values().map(Bytes::len).max().unwrap_or(0)
    }

    pub fn lose(&self, id: BlockId) {
        self.0.lost.lock().unwrap().insert(id);
    }

    pub fn most_fetching(&self) -> usize {
        self.0.most_fetching.load(Ordering::Relaxed)
    }

    pub fn fetching(&self) -> usize {
        self.0.fetching.load(Ordering::Relaxed)
    }

    pub fn fetched(&self) -> usize {
        self.0.fetched.load(Ordering::Relaxed)
    }

    async fn dawdle(&self) {
        for _ in 0..self.0.pace.below(12) {
            tokio::task::yield_now().await;
        }
    }
}

impl ChunkSink for MemPool {
    type Pending = BoxFuture<'static, Result<BlockRef, ContentError>>;

    async fn submit(&self, chunk: Chunk) -> Result<Self::Pending, ContentError> {
        assert!(!chunk.is_empty(), "an empty chunk");
        let plaintext = chunk.join();
        let permit = Arc::clone(&self.0.window).acquire_owned().await.unwrap();
        let pool = self.clone();
        let sealing = tokio::spawn(async move {
            pool.dawdle().await;
            let block = pool.add(plaintext);
            drop(permit);
            block
        });
        Ok(sealing.map(|block| Ok(block.unwrap())).boxed())
    }
}

struct Fetching<'a>(&'a AtomicUsize);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ChunkSource for MemPool {
    async fn block(&self, reference: &BlockRef) -> Result<Bytes, ContentError> {
        let now = self.0.fetching.fetch_add(1, Ordering::Relaxed) + 1;
        let _fetching = Fetching(&self.0.fetching);
        self.0.most_fetching.fetch_max(now, Ordering::Relaxed);
        self.0.fetched.fetch_add(1, Ordering::Relaxed);
        self.dawdle().await;
        let blocks = self.0.blocks.lock().unwrap();
        let lost = self.0.lost.lock().unwrap().contains(&reference.id);
        match blocks.get(&reference.id) {
            Some(bytes) if !lost => Ok(bytes.clone()),
            _ => Err(ContentError::Get(GetError::NotEnough {
                block: reference.id,
                have: 3,
                need: 4,
                damaged: 0,
                away: 0,
            })),
        }
    }
}
