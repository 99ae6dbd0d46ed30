//! Random groups, syncs, flushes, reopenings and crashes against maps in memory.

use std::ops::Bound;
use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{DirtyId, MemDisk, Order, Space, Volume};
use proptest::prelude::*;

use super::support::{Maker, Model, apply, content, open};
use crate::store::support::{scale, simulate};

/// Look-ups and pages of parts, against the model.
fn look(volume: &Volume, model: &Model, maker: &Maker) {
    let keys: Vec<_> = (0..4).map(|_| maker.key()).collect();
    let asked: Vec<_> = keys
        .iter()
        .map(|(space, key)| (Space(*space), key.as_slice()))
        .collect();
    let expected: Vec<_> = keys
        .iter()
        .map(|key| model.rows.get(key).cloned())
        .collect();
    assert_eq!(volume.get_all(&asked).unwrap(), expected);
    let (space, one) = maker.key();
    let (_, other) = maker.key();
    let bound = |key: &[u8]| match maker.entropy.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key.to_vec()),
        _ => Bound::Excluded(key.to_vec()),
    };
    let (from, to) = (bound(&one), bound(&other));
    let (lower, upper) = (
        from.as_ref().map(Vec::as_slice),
        to.as_ref().map(Vec::as_slice),
    );
    let is_between = |key: &[u8]| {
        let above = match lower {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let below = match upper {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        above && below
    };
    let mut expected: Vec<_> = model
        .rows
        .iter()
        .filter(|((in_space, key), _)| *in_space == space && is_between(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    let limit = 1 + maker.entropy.below(8) as usize;
    for order in [Order::Ascending, Order::Descending] {
        let page = volume
            .scan(Space(space), lower, upper, order, limit)
            .unwrap();
        let found: Vec<_> = page
            .rows
            .iter()
            .map(|(key, value)| (key.to_vec(), value.clone()))
            .collect();
        // A page may be short where much was removed, but never leaves something out.
        assert_eq!(found, expected[..found.len()], "{order:?}");
        if let Some(next) = &page.next {
            let is_before = |key: &[u8]| match order {
                Order::Ascending => key <= &next[..],
                Order::Descending => key >= &next[..],
            };
            let up_to = expected
                .iter()
                .take_while(|(key, _)| is_before(key))
                .count();
            assert_eq!(found.len(), up_to, "{order:?}");
        } else {
            assert_eq!(found.len(), expected.len(), "{order:?}");
        }
        expected.reverse();
    }
    for (id, bytes) in &model.dirty {
        let offset = maker.entropy.below(bytes.len() as u64 + 10) as u32;
        let len = maker.entropy.below(30_000) as u32;
        let found = volume.read_dirty(DirtyId(*id), offset, len).unwrap();
        let start = (offset as usize).min(bytes.len());
        let end = (start + len as usize).min(bytes.len());
        assert_eq!(found, bytes.slice(start..end));
    }
}

async fn random_life(seed: u64, steps: u64) {
    let mut maker = Maker::new(seed);
    let mut disk = MemDisk::new(1 << 30);
    let (mut store, mut volume, _) = open(&disk).await;
    let mut model = Model::default();
    // The model after each group that may still be lost, the last synced one first.
    let mut history = vec![(volume.usage().applied, model.clone())];
    for step in 0..steps {
        match maker.entropy.below(20) {
            0..12 => {
                let (group, after) = maker.group(&model);
                let seq = apply(&volume, &group).await.unwrap();
                model = after;
                history.push((seq, model.clone()));
            }
            12 => {
                // Of groups before the last one as well.
                let at = maker.entropy.below(history.len() as u64) as usize;
                volume.sync(history[at].0).await.unwrap();
                history.drain(..at);
            }
            13 => {
                volume.sync_all().await.unwrap();
                assert_eq!(volume.usage().unwritten, 0, "step {step}");
                history.drain(..history.len() - 1);
            }
            14 => {
                volume.flush().await.unwrap();
                assert_eq!(volume.usage().waiting_rows, 0, "step {step}");
                history.drain(..history.len() - 1);
            }
            15 => {
                tokio::time::sleep(Duration::from_millis(maker.entropy.below(7_000))).await;
                // Without being asked, after the interval.
                let synced = volume.usage().synced;
                history.retain(|(seq, _)| *seq >= synced);
            }
            16 => {
                volume.close().await.unwrap();
                store.close().await.unwrap();
                let report;
                (store, volume, report) = open(&disk).await;
                assert_eq!(
                    (report.replayed_groups, report.cut_bytes),
                    (0, 0),
                    "step {step}"
                );
                assert_eq!(content(&volume, 1000).unwrap(), model, "step {step}");
                history = vec![(report.last, model.clone())];
            }
            17 => {
                let image = match maker.entropy.below(3) {
                    0 => disk.crash_image(&Crash::LoseAll),
                    1 => disk.crash_image(&Crash::KeepAll),
                    _ => disk.crash_image(&Crash::Random(maker.entropy.fork())),
                };
                let synced = volume.usage().synced;
                disk = image;
                let report;
                (store, volume, report) = open(&disk).await;
                assert_eq!(report.damaged_regions, 0, "step {step}");
                assert!(report.last >= synced, "step {step}: {report:?}");
                let found = history.iter().find(|(seq, _)| *seq == report.last);
                let Some((_, at)) = found else {
                    panic!("step {step}: {report:?} is no state that was");
                };
                model = at.clone();
                assert_eq!(content(&volume, 7).unwrap(), model, "step {step}");
                history = vec![(report.last, model.clone())];
            }
            _ => look(&volume, &model, &maker),
        }
        let usage = volume.usage();
        let dirty: usize = model.dirty.values().map(bytes::Bytes::len).sum();
        assert_eq!(
            (usage.dirty, usage.dirty_count),
            (dirty as u64, model.dirty.len() as u64)
        );
    }
    assert_eq!(content(&volume, 3).unwrap(), model);
    drop(store);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24 * scale()))]
    #[test]
    fn a_volume_is_what_a_map_says(seed in any::<u64>()) {
        simulate(random_life(seed, 250));
    }
}

#[test]
fn many_threads_see_groups_whole() {
    // Each group writes the same number into three rows far from each other.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let disk = MemDisk::new(1 << 30);
        let (store, volume, _) = open(&disk).await;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = || {
                let entropy = Entropy::os().unwrap();
                let mut looks = 0u64;
                while looks < 20 || !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let row = (entropy.below(5) as u8, looks);
                    let keys = [[row.0, 0], [row.0, 100], [row.0, 200]];
                    let asked: Vec<_> = keys.iter().map(|key| (Space(1), key.as_slice())).collect();
                    let found = volume.get_all(&asked).unwrap();
                    assert!(found.iter().all(|value| *value == found[0]), "{found:?}");
                    let page = volume
                        .scan(
                            Space(1),
                            Bound::Unbounded,
                            Bound::Unbounded,
                            Order::Ascending,
                            100,
                        )
                        .unwrap();
                    for three in page.rows.chunks(3) {
                        assert!(three.iter().all(|(_, value)| *value == three[0].1));
                    }
                    looks += 1;
                }
                looks
            };
            let readers: Vec<_> = (0..2).map(|_| scope.spawn(reader)).collect();
            for round in 0..600u32 {
                let mut group = cairnfs::store::Group::new();
                let row = (round % 5) as u8;
                for place in [0, 100, 200] {
                    group.put(Space(1), &[row, place], &round.to_le_bytes());
                }
                // In a thread that is not the runtime's own.
                while let Err(error) = volume.apply(&group) {
                    assert_eq!(error, cairnfs::store::VolumeError::Busy);
                    std::thread::yield_now();
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap() >= 20);
            }
        });
        volume.close().await.unwrap();
        drop(store);
    });
}
