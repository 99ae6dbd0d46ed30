//! Readers of one block share one fetch, and the last few blocks stay in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use super::{Blocks, GetError};
use crate::base::{BlockRef, EcProfile};

/// Plaintext bytes of recent blocks kept in memory.
const RECENT_BYTES: usize = 16 << 20;

type SharedFetch = Shared<BoxFuture<'static, Result<Bytes, GetError>>>;

/// Fetches under way and blocks just read.
#[derive(Default)]
pub(super) struct SharedReads(Mutex<State>);

#[derive(Default)]
struct State {
    under_way: BTreeMap<BlockRef, SharedFetch>,
    recent: VecDeque<(BlockRef, Bytes)>,
    recent_bytes: usize,
}

impl std::fmt::Debug for SharedReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedReads(..)")
    }
}

impl Blocks {
    /// The verified plaintext of a block, from memory, the own store or the network.
    ///
    /// Cancel safe; a fetch that others wait for goes on.
    pub async fn read_block(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
    ) -> Result<Bytes, GetError> {
        let fetch = {
            let mut state = self.shared.lock();
            if let Some((_, bytes)) = state.recent.iter().find(|(r, _)| r == reference) {
                return Ok(bytes.clone());
            }
            match state.under_way.get(reference) {
                Some(fetch) => fetch.clone(),
                None => {
                    let (blocks, reference) = (self.clone(), *reference);
                    let fetch = async move { blocks.fetch_block(&reference, profile).await }
                        .boxed()
                        .shared();
                    state.under_way.insert(reference, fetch.clone());
                    fetch
                }
            }
        };
        let guard = Leave {
            blocks: self,
            reference,
        };
        let result = fetch.await;
        drop(guard);
        let bytes = result?;
        self.shared.lock().remember(reference, &bytes);
        Ok(bytes)
    }
}

/// Takes the fetch out of the table when its first reader is done or gone.
struct Leave<'a> {
    blocks: &'a Blocks,
    reference: &'a BlockRef,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.blocks.shared.lock().under_way.remove(self.reference);
    }
}

impl SharedReads {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl State {
    fn remember(&mut self, reference: &BlockRef, bytes: &Bytes) {
        if self.recent.iter().any(|(r, _)| r == reference) {
            return;
        }
        self.recent_bytes += bytes.len();
        self.recent.push_back((*reference, bytes.clone()));
        while self.recent_bytes > RECENT_BYTES && self.recent.len() > 1 {
            if let Some((_, dropped)) = self.recent.pop_front() {
                self.recent_bytes -= dropped.len();
            }
        }
    }
}
