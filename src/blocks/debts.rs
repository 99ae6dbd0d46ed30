//! What uploads owe their holders, as rows of the own store: a close or a release, and who has yet to be told of it.
//!
//! A small record takes some hundred peers, a network may have more: the others are in further rows behind the first,
//! which say the rest as it does. Rows of one upload change together.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Blocks;
use crate::base::wire;
use crate::base::{OwnerId, PeerId};
use crate::store::{KvChange, StoreError};

/// Key-value space of uploads that owe something to holders.
const UPLOADS: &str = "uploads";
/// Peers in one row: 34 bytes each, where a small record has 16 KiB.
const PEERS_PER_ROW: usize = 400;
/// Largest encoded row.
const ROW_MAX_BYTES: usize = 16 << 10;
/// Most rows of one upload: the batch that writes them is bounded as well.
const ROWS_MAX: usize = 16;
/// Most peers that one upload owes something. Who is beyond lets an open claim expire.
pub(super) const PEERS_MAX: usize = ROWS_MAX * PEERS_PER_ROW;

/// One row, or what several of one upload say together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Debt {
    pub(super) owner: OwnerId,
    /// When it came to be owed, in milliseconds since 1970.
    pub(super) since_ms: u64,
    pub(super) state: State,
    /// Holders that have yet to be told.
    pub(super) peers: Vec<PeerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// Under way; of an earlier run: it was interrupted, and is to be released.
    Open,
    Closing,
    Releasing,
}

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// The upload of a row, of whatever part.
fn number_of(key: &[u8]) -> Option<u64> {
    let (number, part) = key.split_first_chunk::<8>()?;
    matches!(part.len(), 0 | 2).then(|| u64::from_be_bytes(*number))
}

impl Debt {
    /// Its rows, with their keys: the upload's number (8 bytes), and behind that, but not in the first, the number of the
    /// part (2 bytes), both big-endian.
    fn rows(&self, number: u64) -> Vec<(Vec<u8>, Bytes)> {
        let mut parts: Vec<&[PeerId]> = self.peers.chunks(PEERS_PER_ROW).take(ROWS_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let numbered = (0u16..).zip(parts);
        let row = |(part, peers): (u16, &[PeerId])| {
            let mut key = key(number);
            if part > 0 {
                key.extend(part.to_be_bytes());
            }
            let debt = Debt {
                peers: peers.to_vec(),
                ..self.clone()
            };
            (key, Bytes::from(wire::encode(&debt)))
        };
        numbered.map(row).collect()
    }

    /// The changes that write it where no rows are.
    pub(super) fn first_rows(&self, number: u64) -> Vec<KvChange> {
        let rows = self.rows(number).into_iter();
        rows.map(|(key, row)| (UPLOADS.to_owned(), key, Some(row)))
            .collect()
    }
}

/// What rows say, in the order of their keys. What is damaged is left out.
fn gather(rows: Vec<(Vec<u8>, Bytes)>) -> BTreeMap<u64, Debt> {
    let mut all: BTreeMap<u64, Debt> = BTreeMap::new();
    for (key, row) in rows {
        let debt = wire::decode::<Debt>(&row, ROW_MAX_BYTES).ok();
        let Some((number, debt)) = number_of(&key).zip(debt) else {
            continue;
        };
        match all.get_mut(&number) {
            Some(known) => known.peers.extend(debt.peers),
            None => drop(all.insert(number, debt)),
        }
    }
    all
}

impl Blocks {
    /// All that is owed, by number of the upload.
    pub(super) async fn debts(&self) -> Result<BTreeMap<u64, Debt>, StoreError> {
        Ok(gather(self.store.kv_scan(UPLOADS, &[]).await?))
    }

    /// What an upload owes.
    pub(super) async fn debt_of(&self, number: u64) -> Result<Option<Debt>, StoreError> {
        let rows = self.store.kv_scan(UPLOADS, &key(number)).await?;
        Ok(gather(rows).remove(&number))
    }

    /// Makes durable what an upload owes (nothing, if there is none) in place of what it owed, together with `extra`
    /// rows. Whoever calls this holds the upload's lock.
    pub(super) async fn put_debt(
        &self,
        number: u64,
        debt: Option<&Debt>,
        extra: Vec<KvChange>,
    ) -> Result<(), StoreError> {
        let mut changes = debt.map_or_else(Vec::new, |debt| debt.first_rows(number));
        for (key, _) in self.store.kv_scan(UPLOADS, &key(number)).await? {
            if !changes.iter().any(|(_, new, _)| *new == key) {
                changes.push((UPLOADS.to_owned(), key, None));
            }
        }
        let is_close = debt.is_some_and(|debt| debt.state == State::Closing);
        match is_close && !extra.is_empty() {
            true => {
                changes.extend(extra);
                self.store.kv_put(changes).await
            }
            // What is owed ends in room that comes back, or in rows that go: a full store takes it.
            false => {
                changes.extend(extra);
                self.store.kv_free(changes).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn debt(peers: usize) -> Debt {
        let peer = |number: usize| {
            let mut id = [7; 32];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            PeerId(id)
        };
        Debt {
            owner: OwnerId([3; 16]),
            since_ms: 1_767_225_600_000,
            state: State::Releasing,
            peers: (0..peers).map(peer).collect(),
        }
    }

    proptest! {
        #[test]
        fn rows_say_what_is_owed_however_many_peers_there_are(count in 0usize..3000) {
            let debt = debt(count);
            let rows = debt.rows(42);
            prop_assert_eq!(rows.len(), count.div_ceil(PEERS_PER_ROW).max(1));
            prop_assert!(rows.iter().all(|(_, row)| row.len() <= crate::store::KV_VALUE_MAX));
            let mut sorted = rows.clone();
            sorted.sort();
            prop_assert_eq!(&sorted, &rows, "the order of keys is that of parts");
            prop_assert_eq!(gather(rows), BTreeMap::from([(42, debt)]));
        }
    }

    #[test]
    fn a_row_of_earlier_versions_is_read_and_few_peers_are_written_as_before() {
        let debt = debt(3);
        let old = (
            42u64.to_be_bytes().to_vec(),
            Bytes::from(wire::encode(&debt)),
        );
        assert_eq!(debt.rows(42), vec![old.clone()]);
        assert_eq!(gather(vec![old]), BTreeMap::from([(42, debt)]));
    }

    #[test]
    fn the_rows_of_the_largest_network_fit_one_batch() {
        let all: usize = debt(20_000)
            .rows(u64::MAX)
            .iter()
            .map(|(key, row)| key.len() + row.len() + 24)
            .sum();
        assert!(all < 240 << 10, "{all}");
    }
}
