//! Rows as they were at one moment, while the volume goes on.

use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs::base::Entropy;
use cairnfs::store::{
    Disk, Group, MemDisk, Order, Space, Volume, VolumeError, VolumeOptions, VolumeSnapshot,
};
use proptest::prelude::*;

use super::support::{ID, Maker, Model, apply, open, open_with, tiny};
use crate::store::support::{scale, simulate};

type Rows = Vec<(Vec<u8>, Bytes)>;

fn rows_of(
    snapshot: &VolumeSnapshot,
    space: u8,
    order: Order,
    limit: usize,
) -> Result<Rows, VolumeError> {
    let (mut found, mut next): (Rows, Option<Bytes>) = (Vec::new(), None);
    loop {
        let beyond = next
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Excluded(&**key));
        let (from, to) = match order {
            Order::Ascending => (beyond, Bound::Unbounded),
            Order::Descending => (Bound::Unbounded, beyond),
        };
        let page = snapshot.scan(Space(space), from, to, order, limit)?;
        let rows = page.rows.into_iter();
        found.extend(rows.map(|(key, value)| (key.to_vec(), value)));
        match page.next {
            Some(key) => next = Some(key),
            None => return Ok(found),
        }
    }
}

fn check(snapshot: &VolumeSnapshot, model: &Model, maker: &Maker) {
    for space in [0u8, 1, 255] {
        let rows = model.rows.iter();
        let rows = rows.filter(|((of, _), _)| *of == space);
        let mut expected: Rows = rows
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let limit = 1 + maker.entropy.below(9) as usize;
        let found = rows_of(snapshot, space, Order::Ascending, limit).unwrap();
        assert_eq!(found, expected);
        expected.reverse();
        let found = rows_of(snapshot, space, Order::Descending, limit).unwrap();
        assert_eq!(found, expected);
    }
    for _ in 0..8 {
        let key = maker.key();
        let found = snapshot.get(Space(key.0), &key.1).unwrap();
        assert_eq!(found.as_ref(), model.rows.get(&key));
    }
}

async fn random_life(seed: u64) {
    let mut maker = Maker::new(seed);
    let (_store, volume, _) = open(&MemDisk::new(1 << 30)).await;
    let mut model = Model::default();
    let mut taken: Vec<(VolumeSnapshot, Model)> = Vec::new();
    for _ in 0..160 {
        match maker.entropy.below(20) {
            0..10 => {
                let (group, after) = maker.group(&model);
                apply(&volume, &group).await.unwrap();
                model = after;
            }
            10..13 => taken.push((volume.snapshot(), model.clone())),
            13 => volume.flush().await.unwrap(),
            14 => {
                let pause = Duration::from_millis(maker.entropy.below(7000));
                tokio::time::sleep(pause).await;
            }
            15 if !taken.is_empty() => {
                let at = maker.entropy.below(taken.len() as u64) as usize;
                taken.swap_remove(at);
            }
            _ => {
                for (snapshot, model) in &taken {
                    check(snapshot, model, &maker);
                }
            }
        }
    }
    taken.push((volume.snapshot(), model));
    for (snapshot, model) in &taken {
        check(snapshot, model, &maker);
    }
    volume.close().await.unwrap();
    for (snapshot, _) in &taken {
        assert_eq!(snapshot.get(Space(0), b""), Err(VolumeError::Closed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24 * scale()))]
    #[test]
    fn a_snapshot_stays_what_the_volume_was(seed in any::<u64>()) {
        simulate(random_life(seed));
    }
}

/// A snapshot does not keep its volume open, nor what it is in.
#[test]
fn a_snapshot_ends_with_its_volume() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let (store, volume, _) = open(&disk).await;
        let mut group = Group::new();
        group.put(Space(1), b"key", b"value");
        volume.apply(&group).unwrap();
        let snapshot = volume.snapshot();
        drop(volume);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(snapshot.get(Space(1), b"key"), Err(VolumeError::Closed));
        store.close().await.unwrap();
        let (_store, volume, _) = open(&disk).await;
        let found = volume.snapshot().get(Space(1), b"key").unwrap();
        assert_eq!(found.as_deref(), Some(b"value".as_slice()));
        assert_eq!(snapshot.get(Space(1), b"key"), Err(VolumeError::Closed));
    });
}

async fn filled(volume: &Volume, count: u32) {
    for numbers in (0..count).collect::<Vec<_>>().chunks(16) {
        let mut group = Group::new();
        for number in numbers {
            group.put(Space(1), &number.to_be_bytes(), &[*number as u8; 200]);
        }
        apply(volume, &group).await.unwrap();
    }
}

/// Damage gives an error where it is met, and no wrong value; what the tables were before they were opened anew is
/// not kept, and a new snapshot is of the others.
#[test]
fn damage_is_told_as_elsewhere() {
    simulate(async {
        let entropy = Entropy::seeded(3);
        let (mut corrupt, mut lapsed, mut right) = (0, 0, 0);
        for _ in 0..60 * scale() {
            let disk = MemDisk::new(1 << 30);
            let options = VolumeOptions {
                cache_bytes: 0,
                ..tiny()
            };
            let (_store, volume, _) = open_with(&disk, options).await.unwrap();
            filled(&volume, 2000).await;
            volume.flush().await.unwrap();
            let snapshot = volume.snapshot();
            let tables = format!("volumes/{ID}/tables.redb");
            let len = disk.open(&tables).unwrap().len().unwrap();
            let at = 8192 + entropy.below(len - 8192);
            assert!(disk.flip_bit(&tables, at, entropy.below(8) as u8));
            for number in 0..2000u32 {
                match snapshot.get(Space(1), &number.to_be_bytes()) {
                    Ok(found) => {
                        assert_eq!(found.as_deref(), Some([number as u8; 200].as_slice()));
                        right += 1;
                    }
                    Err(VolumeError::Corrupt { .. }) => corrupt += 1,
                    Err(VolumeError::Lapsed) => lapsed += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            // Damage in the next one is told as well, and nothing else keeps it from answering.
            let mut fresh = volume.snapshot();
            for number in 0..2000u32 {
                match fresh.get(Space(1), &number.to_be_bytes()) {
                    Err(VolumeError::Lapsed) => fresh = volume.snapshot(),
                    Ok(found) => {
                        assert_eq!(found.as_deref(), Some([number as u8; 200].as_slice()));
                    }
                    Err(error) => assert!(matches!(error, VolumeError::Corrupt { .. }), "{error}"),
                }
            }
        }
        println!("{right} right, {corrupt} corrupt, {lapsed} lapsed");
        assert!(corrupt > 20 && right > 60_000);
    });
}

/// What it costs to look at a volume of which 32,000 rows wait in memory, and to change that once.
#[test]
fn taking_one_is_cheap() {
    simulate(async {
        let options = VolumeOptions {
            flush_rows: 64 << 10,
            flush_bytes: 64 << 20,
            flush_idle: Duration::from_secs(3600),
            flush_tail_bytes: 1 << 30,
            unwritten_bytes: 64 << 20,
            segment_bytes: 32 << 20,
            ..tiny()
        };
        let (_store, volume, _) = open_with(&MemDisk::new(1 << 30), options).await.unwrap();
        filled(&volume, 32_000).await;
        assert_eq!(volume.usage().waiting_rows, 32_000);
        let begun = Instant::now();
        let snapshot = volume.snapshot();
        let taken = begun.elapsed();
        let mut group = Group::new();
        group.put(Space(1), b"more", b"");
        let begun = Instant::now();
        volume.apply(&group).unwrap();
        let first = begun.elapsed();
        let begun = Instant::now();
        volume.apply(&group).unwrap();
        let second = begun.elapsed();
        println!("taken in {taken:?}; the first change took {first:?}, the second {second:?}");
        let found = rows_of(&snapshot, 1, Order::Ascending, 1000).unwrap();
        assert_eq!(found.len(), 32_000);
        assert!(taken < Duration::from_millis(50));
    });
}
