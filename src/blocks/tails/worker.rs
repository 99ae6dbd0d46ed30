//! Lets go of the ends of feeds that nobody adds to any more.

use std::time::Duration;

use crate::base::worker::{Next, Worker};
use crate::blocks::Blocks;

/// How often it looks.
const TURN: Duration = Duration::from_secs(3600);

/// Looks after the ends of feeds that this peer keeps.
#[derive(Debug)]
pub struct TailKeeper {
    blocks: Blocks,
    gone: u64,
}

impl TailKeeper {
    /// A worker for `blocks`.
    pub const fn new(blocks: Blocks) -> Self {
        TailKeeper { blocks, gone: 0 }
    }
}

impl Worker for TailKeeper {
    fn name(&self) -> &'static str {
        "tails"
    }

    async fn step(&mut self) -> Next {
        match self.blocks.tails.let_go().await {
            Ok(gone) => self.gone += gone as u64,
            Err(error) => tracing::warn!("letting go of the ends of feeds: {error}"),
        }
        Next::Idle(TURN)
    }

    fn status(&self) -> String {
        let sum = self.blocks.tails.index().sum();
        format!(
            "keeps the ends of {} feeds, {} KiB; let go of {}",
            sum.count,
            sum.bytes >> 10,
            self.gone
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::kept::{AGE_MS, Tails};
    use crate::base::{Clock, Entropy, PeerId, Pools, VolumeId};
    use crate::crypto::EpochKey;
    use crate::crypto::sign::SigningKey;
    use crate::feeds::{Keeping, SealedDelta, TailVerdict};
    use crate::namespace::{Draft, Hlc, VersionVector, WriterId};
    use crate::store::{MemDisk, Store, StoreOptions};

    const VOLUME: VolumeId = VolumeId([7; 16]);

    /// Deltas of a device of which each follows the one before.
    fn feed(device: &SigningKey, count: u64) -> Vec<SealedDelta> {
        let writer = WriterId {
            peer: device.peer(),
            incarnation: 0,
        };
        let mut feed: Vec<SealedDelta> = Vec::new();
        for seen in 0..count {
            let draft = Draft {
                context: VersionVector::default(),
                hlc: Hlc::from_ms(1),
                writes: Vec::new(),
            };
            let delta = draft.enter(writer, seen);
            let previous = feed.last().map(SealedDelta::link);
            let key = EpochKey::from_bytes([9; 32]);
            feed.push(SealedDelta::seal(&delta, VOLUME, previous, (1, &key), device).unwrap());
        }
        feed
    }

    async fn add(tails: &Tails, from: PeerId, delta: &SealedDelta) {
        let keep = Keeping::Keep {
            volume: VOLUME,
            writer: delta.link().writer,
            covered: None,
            deltas: vec![delta.encode().into()],
        };
        match tails.answer(from, keep.encode().into(), true).await {
            Ok(Some(Keeping::Kept(kept))) => assert_eq!(kept.verdict, TailVerdict::Kept),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_adds_to_goes_after_a_month() {
        let month = std::time::Duration::from_millis(AGE_MS);
        let options = StoreOptions::new(64 << 20, Entropy::seeded(1));
        let disk = Arc::new(MemDisk::new(1 << 30));
        let (pools, clock) = (Pools::inline(), Clock::simulated(1_767_225_600_000));
        let opened = Store::open(disk, options, pools.clone(), clock.clone());
        let (store, _) = opened.await.unwrap();
        let open = || Tails::open(store.clone(), pools.clone(), clock.clone());
        let tails = open().await.unwrap();
        let (one, other) = (
            SigningKey::from_secret(&[1; 32]),
            SigningKey::from_secret(&[2; 32]),
        );
        let (of_one, of_other) = (feed(&one, 2), feed(&other, 1));
        add(&tails, one.peer(), &of_one[0]).await;
        add(&tails, other.peer(), &of_other[0]).await;
        tokio::time::sleep(month / 2).await;
        add(&tails, one.peer(), &of_one[1]).await;
        tokio::time::sleep(month / 2).await;
        assert_eq!(tails.let_go().await.unwrap(), 0);
        tokio::time::sleep(month / 10).await;
        // That is known after a start as well.
        let tails = open().await.unwrap();
        assert_eq!(tails.let_go().await.unwrap(), 1);
        assert_eq!(tails.index().sum().count, 1);
        assert_eq!(store.kv_scan("tail-runs", &[]).await.unwrap().len(), 2);
        tokio::time::sleep(month / 2).await;
        assert_eq!(tails.let_go().await.unwrap(), 1);
        for space in ["tails", "tail-runs"] {
            assert!(store.kv_scan(space, &[]).await.unwrap().is_empty());
        }
    }
}
