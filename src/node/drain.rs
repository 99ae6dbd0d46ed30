//! Leaving the network in good order: whether this peer does, across restarts, and how far that is.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Node;
use crate::admin::AdminError;
use crate::admin::types::{DrainChange, DrainInfo};
use crate::base::wire;
use crate::net::Stay;
use crate::store::{Store, StoreError};

/// Key-value space and key of the one row.
const SPACE: &str = "drain";
const KEY: &[u8] = b"own";
const ROW_MAX_BYTES: usize = 64;
/// How long others have had to hear that this peer has left, before it says that it can be stopped.
const HEARD_AFTER: Duration = Duration::from_secs(2);

/// As it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    version: u8,
    /// Bytes to be handed over when that was first known; 0 before.
    total_bytes: u64,
    /// Whether all was handed over.
    has_left: bool,
}

#[derive(Debug, Clone, Copy)]
struct State {
    row: Row,
    /// Since when others are told that it has left.
    left_since: Option<Instant>,
}

/// Whether this peer leaves.
#[derive(Debug, Default)]
pub(super) struct Drain {
    state: Mutex<Option<State>>,
    /// Held while it is changed, here and where it is written down.
    changing: tokio::sync::Mutex<()>,
}

impl Drain {
    /// As it was written down.
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let rows = store.kv_scan(SPACE, KEY).await?;
        let row = rows
            .into_iter()
            .find_map(|(_, value)| wire::decode::<Row>(&value, ROW_MAX_BYTES).ok());
        let state = row.map(|row| State {
            row,
            left_since: row.has_left.then(Instant::now),
        });
        Ok(Drain {
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// What others are told.
    pub(super) fn stay(&self) -> Stay {
        match *self.lock() {
            None => Stay::Stays,
            Some(state) if state.row.has_left => Stay::Left,
            Some(_) => Stay::Leaving,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.lock().is_some()
    }
}

impl Node {
    async fn write_drain(&self, row: Option<Row>) -> Result<(), AdminError> {
        let value = row.map(|row| Bytes::from(wire::encode(&row)));
        let change = (SPACE.to_owned(), KEY.to_vec(), value);
        let written = self.0.store.kv_put(vec![change]).await;
        written.map_err(|error| AdminError::of(&error))
    }

    /// Begins to leave, or stays after all.
    pub(super) async fn change_drain(&self, change: DrainChange) -> Result<DrainInfo, AdminError> {
        let inner = &self.0;
        let changing = inner.drain.changing.lock().await;
        if change.cancel {
            self.write_drain(None).await?;
            *inner.drain.lock() = None;
            let offers = inner.options.config.storage.offer;
            inner.serving.offer.store(offers, Ordering::Relaxed);
            self.announce_offer().await;
            drop(changing);
            return Ok(self.show_drain().await);
        }
        if !inner.drain.is_draining() {
            let (others, _) = self.other_peers();
            if others == 0 {
                return Err(AdminError::refused(
                    "no other peer offers storage: what this one holds cannot be handed over to anybody",
                )
                .hint("`cairn invite` makes a ticket for another machine"));
            }
            let row = Row {
                version: 1,
                total_bytes: 0,
                has_left: false,
            };
            self.write_drain(Some(row)).await?;
            let left_since = None;
            *inner.drain.lock() = Some(State { row, left_since });
            inner.serving.offer.store(false, Ordering::Relaxed);
            self.announce_offer().await;
        }
        drop(changing);
        Ok(self.show_drain().await)
    }

    /// Other members that offer storage, and how many of them are away.
    fn other_peers(&self) -> (u32, u32) {
        let members = self.0.net.members();
        let own = self.own();
        let others = members.list.iter().filter(|member| member.peer != own);
        let offering = others.filter(|member| member.capacity_bytes > 0);
        let away = offering.clone().filter(|member| member.is_away()).count();
        (offering.count() as u32, away as u32)
    }

    /// Takes note of how far it is: the first sight of how much there is, and the end.
    pub(super) async fn settle_drain(&self) {
        let inner = &self.0;
        let _changing = inner.drain.changing.lock().await;
        let (Some(left), Some(before)) = (inner.repair.remainder(), *inner.drain.lock()) else {
            return;
        };
        let mut row = before.row;
        row.total_bytes = row.total_bytes.max(left.bytes);
        row.has_left = left.is_done();
        if row == before.row {
            return;
        }
        if let Err(error) = self.write_drain(Some(row)).await {
            tracing::warn!("how far this peer is with leaving is not written down: {error}");
            return;
        }
        {
            let mut state = inner.drain.lock();
            let Some(state) = state.as_mut() else { return };
            let since = state.left_since.unwrap_or_else(Instant::now);
            state.row = row;
            state.left_since = row.has_left.then_some(since);
        }
        if row.has_left != before.row.has_left {
            self.announce_offer().await;
        }
    }

    /// How far it is.
    pub(super) async fn show_drain(&self) -> DrainInfo {
        self.settle_drain().await;
        let inner = &self.0;
        let state = *inner.drain.lock();
        let (peers, away) = self.other_peers();
        let volumes = self.show_volumes().await.unwrap_or_default();
        let mounted = volumes.iter().filter(|volume| volume.mounted_on.is_some());
        let mut info = DrainInfo {
            peers,
            away,
            mounted: mounted.count() as u32,
            ..DrainInfo::default()
        };
        let Some(state) = state else { return info };
        info.draining = true;
        info.total_bytes = state.row.total_bytes;
        let was_heard = |since: Instant| since.elapsed() >= HEARD_AFTER;
        if let Some(left) = inner.repair.remainder() {
            info.known = true;
            info.done = left.is_done() && state.left_since.is_some_and(was_heard);
            info.left_bytes = left.bytes;
            info.left_shards = left.shards;
            info.waiting_shards = left.waiting;
            info.homeless_shards = left.homeless;
            info.stuck = left.is_stuck();
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_down_as_described() {
        let row = Row {
            version: 1,
            total_bytes: 5_000_000_000,
            has_left: true,
        };
        let golden = crate::base::golden::row("drain-own");
        assert_eq!(wire::encode(&row), golden);
        assert_eq!(wire::decode::<Row>(&golden, ROW_MAX_BYTES).unwrap(), row);
    }
}
