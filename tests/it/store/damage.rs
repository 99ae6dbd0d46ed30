//! Damaged, lost, old and foreign files: never a wrong value.

use std::sync::Arc;

use bytes::Bytes;
use cairnfs::base::worker::Worker;
use cairnfs::base::{Class, Classify, Clock, Entropy, IndexSet};
use cairnfs::erasure::VerifiedShard;
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{Disk, MemDisk, OpenError, Store, StoreError, StoreOptions};

use super::support::{START_MS, block_of, claim, open, options, scale, shard, simulate};

const INDEX: &str = "store/index.redb";
const SEGMENT: &str = "store/segment-00000001";

fn tiny() -> StoreOptions {
    StoreOptions {
        segment_bytes: Some(256 << 10),
        ..options(64 << 20)
    }
}

fn samples() -> Vec<VerifiedShard> {
    (0..40)
        .map(|n| shard(n, if n % 4 == 0 { 33_000 } else { 700 }))
        .collect()
}

/// A closed store with forty shards, a released claim and small records.
async fn sample_store(clock: &Clock) -> MemDisk {
    let disk = MemDisk::new(1 << 30);
    let (store, _) = open(Arc::new(disk.clone()), tiny(), clock).await;
    for (n, shard) in samples().into_iter().enumerate() {
        store
            .put(shard, claim(n as u64 / 10), u64::MAX)
            .await
            .unwrap();
        let key = (n as u32).to_be_bytes().to_vec();
        let value = Bytes::from(vec![n as u8; 50]);
        store
            .kv_put(vec![("s".to_owned(), key, Some(value))])
            .await
            .unwrap();
    }
    store
        .put(shard(1000, 34_000), claim(9), u64::MAX)
        .await
        .unwrap();
    store.release_claim(claim(9)).await.unwrap();
    store.close().await.unwrap();
    disk
}

fn copy(disk: &MemDisk) -> MemDisk {
    disk.crash_image(&Crash::KeepAll)
}

async fn check_all(store: &Store, what: &str) {
    for shard in samples() {
        let got = store.get(block_of(&shard), IndexSet::first(6)).await;
        let (found, held) = got
            .unwrap()
            .unwrap_or_else(|| panic!("{what}: lost {:?}", shard.id()));
        assert_eq!((found, held), (shard, IndexSet::one(0)), "{what}");
    }
    assert_eq!(
        store.held(&[block_of(&shard(1000, 34_000))]).await.unwrap(),
        [IndexSet::EMPTY]
    );
    let kv = store.kv_scan("s", b"").await.unwrap();
    assert_eq!(kv.len(), 40, "{what}");
    for (n, (key, value)) in kv.into_iter().enumerate() {
        assert_eq!(
            (key, value),
            (
                (n as u32).to_be_bytes().to_vec(),
                Bytes::from(vec![n as u8; 50])
            )
        );
    }
}

async fn len(disk: &MemDisk, name: &str) -> u64 {
    disk.open(name).unwrap().len().unwrap()
}

#[test]
fn an_index_with_any_bit_flipped_gives_no_wrong_value() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = sample_store(&clock).await;
        let size = len(&disk, INDEX).await;
        let entropy = Entropy::seeded(5);
        let mut rebuilt = 0;
        // Its headers densely, the rest by chance; all of it, byte by byte, where so much is asked for.
        let chances = 150 * u64::from(scale());
        let samples: Vec<u64> = match chances < size {
            true => (0..512)
                .step_by(3)
                .chain((0..chances).map(|_| entropy.below(size)))
                .collect(),
            false => (0..size).collect(),
        };
        for at in samples {
            let disk = copy(&disk);
            assert!(disk.flip_bit(INDEX, at, entropy.below(8) as u8));
            let (store, report) = open(Arc::new(disk), tiny(), &clock).await;
            rebuilt += u32::from(report.rebuilt.is_some());
            check_all(&store, &format!("bit at {at} of {size}, {report:?}")).await;
        }
        assert!(rebuilt > 50, "{rebuilt}");
    });
}

#[test]
fn an_index_that_is_damaged_while_it_is_open_is_rebuilt() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = sample_store(&clock).await;
        let size = len(&disk, INDEX).await;
        let entropy = Entropy::seeded(6);
        for round in 0..40 {
            let disk = copy(&disk);
            let without_cache = StoreOptions {
                cache_bytes: 0,
                ..tiny()
            };
            let (store, _) = open(Arc::new(disk.clone()), without_cache, &clock).await;
            for _ in 0..200 {
                disk.flip_bit(INDEX, entropy.below(size), entropy.below(8) as u8);
            }
            for shard in samples() {
                // Whether it is found is up to the damage; what is found is right.
                if let Ok(Some((found, _))) = store.get(block_of(&shard), IndexSet::one(0)).await {
                    assert_eq!(found, shard, "round {round}");
                }
            }
            // Nothing in them verifies itself: the sum of each value is what keeps them right.
            if let Ok(records) = store.kv_scan("s", b"").await {
                for (key, value) in records {
                    let number = u32::from_be_bytes(key.try_into().unwrap());
                    assert!(number < 40, "round {round}");
                    assert_eq!(value, vec![number as u8; 50], "round {round}");
                }
            }
            for number in 0..40u32 {
                if let Ok(Some(value)) = store.kv_get("s", &number.to_be_bytes()).await {
                    assert_eq!(value, vec![number as u8; 50], "round {round}");
                }
            }
            drop(store);
            let (store, _) = open(Arc::new(copy(&disk)), tiny(), &clock).await;
            check_all(&store, &format!("round {round}")).await;
        }
    });
}

#[test]
fn an_index_that_is_lost_cut_garbage_old_or_foreign_is_replaced() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = sample_store(&clock).await;
        let size = len(&disk, INDEX).await;
        let whole = disk
            .open(INDEX)
            .unwrap()
            .read_vec(0, size as usize)
            .unwrap();
        let foreign = {
            let other = MemDisk::new(1 << 30);
            let options = StoreOptions {
                entropy: Entropy::seeded(99),
                ..tiny()
            };
            let (store, _) = open(Arc::new(other.clone()), options, &clock).await;
            store.put(shard(77, 100), claim(1), u64::MAX).await.unwrap();
            store.close().await.unwrap();
            other.open(INDEX).unwrap().read_vec(0, 1 << 24).unwrap()
        };
        let cases: Vec<(&str, Option<Vec<u8>>)> = vec![
            ("lost", None),
            ("empty", Some(Vec::new())),
            ("cut in half", Some(whole[..whole.len() / 2].to_vec())),
            ("one page", Some(whole[..4096].to_vec())),
            ("garbage", Some(vec![0xa5; 100_000])),
            ("zeros", Some(vec![0; whole.len()])),
            ("foreign", Some(foreign)),
        ];
        for (what, bytes) in cases {
            let disk = copy(&disk);
            disk.remove(INDEX).unwrap();
            if let Some(bytes) = bytes {
                let file = disk.create(INDEX).unwrap();
                file.write_at(0, &mut [std::io::IoSlice::new(&bytes)])
                    .unwrap();
            }
            let (store, report) = open(Arc::new(disk), tiny(), &clock).await;
            assert!(report.rebuilt.is_some(), "{what}");
            check_all(&store, what).await;
        }
        // An old copy under a log that went on.
        let disk = copy(&disk);
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        let later = shard(500, 900);
        store.put(later.clone(), claim(50), u64::MAX).await.unwrap();
        store.close().await.unwrap();
        disk.remove(INDEX).unwrap();
        let file = disk.create(INDEX).unwrap();
        file.write_at(0, &mut [std::io::IoSlice::new(&whole)])
            .unwrap();
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        check_all(&store, "old").await;
        assert_eq!(
            store.held(&[block_of(&later)]).await.unwrap(),
            [IndexSet::one(0)]
        );
        store.close().await.unwrap();
        // An index ahead of a log that lost its end.
        let segment = disk.list("store").unwrap().pop().unwrap();
        let file = disk.open(&format!("store/{segment}")).unwrap();
        file.set_len(file.len().unwrap() - 8).unwrap();
        let (store, report) = open(Arc::new(disk), tiny(), &clock).await;
        assert!(report.rebuilt.is_some());
        check_all(&store, "log cut").await;
    });
}

#[test]
fn damaged_segments_cost_what_they_hit_and_no_wrong_byte() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = sample_store(&clock).await;
        let segments = disk.list("store").unwrap().split_off(1);
        assert!(segments.len() > 1);
        let entropy = Entropy::seeded(8);
        for round in 0..150 * u64::from(scale()) {
            let disk = copy(&disk);
            let name = &segments[entropy.below(segments.len() as u64) as usize];
            let name = format!("store/{name}");
            let at = entropy.below(len(&disk, &name).await);
            assert!(disk.flip_bit(&name, at, entropy.below(8) as u8));
            let without_index = round % 2 == 1;
            if without_index {
                disk.remove(INDEX).unwrap();
            }
            let (store, _) = open(Arc::new(disk), tiny(), &clock).await;
            let mut lost = 0;
            for shard in samples() {
                match store.get(block_of(&shard), IndexSet::one(0)).await {
                    Ok(Some((found, _))) => assert_eq!(found, shard),
                    Ok(None) => lost += 1,
                    Err(StoreError::Corrupt(id)) => {
                        assert_eq!(id, shard.id());
                        lost += 1;
                        // It counts as not held from then on.
                        let held = store.held(&[id.block]).await.unwrap();
                        assert_eq!(held, [IndexSet::EMPTY]);
                        assert_eq!(store.usage().damaged_shards, 1);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(lost <= 1, "bit at {at} took {lost}");
            let kv = store.kv_scan("s", b"").await.unwrap().len();
            assert!(kv >= 39 && (without_index || kv == 40), "bit at {at}: {kv}");
        }
    });
}

#[test]
fn a_damaged_record_in_the_middle_of_the_last_segment_does_not_end_the_log() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
        for shard in samples() {
            store.put(shard, claim(1), u64::MAX).await.unwrap();
        }
        // Not closed: all of it is the tail that a start has to read.
        let disk = disk.crash_image(&Crash::LoseAll);
        let end = len(&disk, SEGMENT).await;
        let bytes = disk
            .open(SEGMENT)
            .unwrap()
            .read_vec(0, end as usize)
            .unwrap();
        let starts: Vec<u64> = (0..end)
            .step_by(8)
            .filter(|at| bytes[*at as usize..].starts_with(b"CrnR"))
            .collect();
        assert_eq!(starts.len(), 40);
        for (number, start) in starts.iter().enumerate() {
            for at in [start + 1, start + 45, start + 130] {
                let disk = copy(&disk);
                assert!(disk.flip_bit(SEGMENT, at, 3));
                let (store, report) = open(Arc::new(disk), options(64 << 20), &clock).await;
                let is_last = number + 1 == starts.len();
                assert_eq!(report.cut_bytes > 0, is_last, "record {number}");
                let mut lost = 0;
                for shard in samples() {
                    let got = store.get(block_of(&shard), IndexSet::one(0)).await;
                    lost += u32::from(!matches!(got, Ok(Some((found, _))) if found == shard));
                }
                assert_eq!(lost, 1, "record {number}");
            }
        }
    });
}

#[test]
fn a_damaged_shard_is_replaced_by_a_good_one() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        let sample = shard(1, 40_000);
        let block = block_of(&sample);
        store.put(sample.clone(), claim(1), u64::MAX).await.unwrap();
        store.close_claim(claim(1)).await.unwrap();
        disk.flip_bit(SEGMENT, 20_000, 1);
        let bad = store.get(block, IndexSet::first(6)).await.unwrap_err();
        assert_eq!(bad.class(), Class::Corrupt);
        // Remembered across a restart.
        store.close().await.unwrap();
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        assert_eq!(store.held(&[block]).await.unwrap(), [IndexSet::EMPTY]);
        assert!(store.put(sample.clone(), claim(2), u64::MAX).await.unwrap());
        assert_eq!(
            store
                .get(block, IndexSet::first(6))
                .await
                .unwrap()
                .unwrap()
                .0,
            sample
        );
        // The first claim still counts, with the index or without.
        store.release_claim(claim(2)).await.unwrap();
        store.close().await.unwrap();
        disk.remove(INDEX).unwrap();
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        assert_eq!(
            store
                .get(block, IndexSet::first(6))
                .await
                .unwrap()
                .unwrap()
                .0,
            sample
        );
        store.release_claim(claim(1)).await.unwrap();
        assert!(
            store
                .get(block, IndexSet::first(6))
                .await
                .unwrap()
                .is_none()
        );
        store.close().await.unwrap();
        disk.remove(INDEX).unwrap();
        let (store, _) = open(Arc::new(disk), tiny(), &clock).await;
        assert!(
            store
                .get(block, IndexSet::first(6))
                .await
                .unwrap()
                .is_none()
        );
    });
}

#[test]
fn a_claim_whose_only_word_is_in_a_replaced_record_survives_compaction() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        let sample = shard(1, 40_000);
        let block = block_of(&sample);
        store.put(sample.clone(), claim(1), u64::MAX).await.unwrap();
        disk.flip_bit(SEGMENT, 20_000, 1);
        assert!(store.get(block, IndexSet::one(0)).await.is_err());
        for n in 0..20 {
            store
                .put(shard(100 + n, 30_000), claim(2), u64::MAX)
                .await
                .unwrap();
        }
        assert!(store.put(sample.clone(), claim(3), u64::MAX).await.unwrap());
        store.release_claim(claim(2)).await.unwrap();
        let (mut compaction, _) = store.workers();
        for _ in 0..30 {
            compaction.step().await;
        }
        store.release_claim(claim(3)).await.unwrap();
        store.close().await.unwrap();
        assert!(
            disk.open(SEGMENT).is_err(),
            "the first segment is still there"
        );
        disk.remove(INDEX).unwrap();
        let (store, _) = open(Arc::new(disk), tiny(), &clock).await;
        store.flush_index().await.unwrap();
        assert_eq!(
            store.get(block, IndexSet::one(0)).await.unwrap().unwrap().0,
            sample
        );
        store.release_claim(claim(1)).await.unwrap();
        assert!(store.get(block, IndexSet::one(0)).await.unwrap().is_none());
    });
}

#[test]
fn records_hidden_inside_a_shard_are_never_believed() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = sample_store(&clock).await;
        // A shard that contains a whole segment, in which every record is genuine elsewhere.
        let size = len(&disk, SEGMENT).await as usize;
        let bytes = disk.open(SEGMENT).unwrap().read_vec(0, size).unwrap();
        let entropy = Entropy::seeded(1);
        let mut carrier = bytes[..200 << 10].to_vec();
        entropy.fill(&mut carrier[..8]);
        let sample = super::support::carrying(carrier);
        let (store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
        store
            .put(sample.clone(), claim(20), u64::MAX)
            .await
            .unwrap();
        store.close().await.unwrap();
        disk.remove(INDEX).unwrap();
        // Its own header is damaged, so that the scan walks through its data.
        let last = format!("store/{}", disk.list("store").unwrap().pop().unwrap());
        let end = len(&disk, &last).await;
        let begin = (0..end)
            .step_by(8)
            .filter(|at| disk.open(&last).unwrap().read_vec(*at, 4).unwrap() == b"CrnR")
            .find(|at| {
                disk.open(&last).unwrap().read_vec(*at + 28, 4).unwrap()
                    == (200u32 << 10).to_le_bytes()
            });
        disk.flip_bit(&last, begin.unwrap() + 10, 1);
        let (store, report) = open(Arc::new(disk), tiny(), &clock).await;
        assert!(report.rebuilt.is_some());
        check_all(&store, "hidden records").await;
    });
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused_and_untouched() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = sample_store(&clock).await;
        disk.remove("VERSION").unwrap();
        let file = disk.create("VERSION").unwrap();
        file.write_at(
            0,
            &mut [std::io::IoSlice::new(b"cairn-data 9\nnew things\n")],
        )
        .unwrap();
        let before = disk.changes();
        let medium: Arc<dyn Disk> = Arc::new(disk.clone());
        let pools = cairnfs::base::Pools::inline();
        let error = Store::open(medium, tiny(), pools, clock.clone())
            .await
            .unwrap_err();
        assert!(
            matches!(error, OpenError::Newer { found: 9, known: 1 }),
            "{error}"
        );
        assert!(disk.changes() <= before + 1);
        // Without the marker, the segments say whose they are.
        disk.remove("VERSION").unwrap();
        let (store, report) = open(Arc::new(disk), tiny(), &clock).await;
        assert_eq!(report.rebuilt, None);
        check_all(&store, "no marker").await;
    });
}
