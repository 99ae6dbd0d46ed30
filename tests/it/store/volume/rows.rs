//! Many rows: opening takes no longer and no more memory, whatever there is.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairnfs::base::memory::{give_back, resident_bytes};
use cairnfs::base::{Clock, Entropy, Pools, VolumeId};
use cairnfs::store::{
    Group, Order, RealDisk, Space, Store, StoreOptions, Volume, VolumeError, VolumeOptions,
};

use crate::support::scaled;

const ID: VolumeId = VolumeId([3; 16]);
const ROWS: Space = Space(2);
/// Memory that two open volumes may take, at rest, beyond what the process had before.
const MEMORY_MAX: u64 = 192 << 20;

fn key(number: usize) -> [u8; 24] {
    // Like inodes: at random, so that neighbours in time are none in the tables.
    let mut key = [0; 24];
    let hash = blake3::hash(&number.to_le_bytes());
    key.copy_from_slice(&hash.as_bytes()[..24]);
    key
}

fn value(number: usize) -> [u8; 100] {
    [number as u8; 100]
}

async fn open(path: &std::path::Path) -> (Store, Volume, Duration) {
    let disk = Arc::new(RealDisk::open(path).unwrap());
    let options = StoreOptions::new(8 << 30, Entropy::seeded(1));
    let (store, _) = Store::open(disk, options, Pools::threaded(2, 4), Clock::system())
        .await
        .unwrap();
    let _ = store.create_volume(ID).await;
    let begun = Instant::now();
    let (volume, _) = store
        .open_volume(ID, VolumeOptions::default())
        .await
        .unwrap();
    let took = begun.elapsed();
    (store, volume, took)
}

async fn fill(volume: &Volume, rows: std::ops::Range<usize>) {
    for number in rows {
        let mut group = Group::new();
        group.put(ROWS, &key(number), &value(number));
        while let Err(error) = volume.apply(&group) {
            assert_eq!(error, VolumeError::Busy);
            volume.room().await.unwrap();
        }
    }
}

fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|text| text.parse().ok()).unwrap()
}

#[test]
fn opening_reads_little_however_many_rows_there_are() {
    // A tenth of a million at every landing; CAIRN_TEST_SCALE=10 for all of it.
    let rows = scaled(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let before = resident_bytes().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let (store, volume, _) = open(dir.path()).await;
        let begun = Instant::now();
        fill(&volume, 0..rows).await;
        volume.flush().await.unwrap();
        println!("{rows} rows in {:.1} s", begun.elapsed().as_secs_f64());
        let tables = volume.usage().tables;
        volume.close().await.unwrap();
        store.close().await.unwrap();

        // After a good end.
        let read_before = bytes_read();
        let (store, volume, took) = open(dir.path()).await;
        let read = bytes_read() - read_before;
        println!("tables of {tables} bytes; opened in {took:?}, {read} bytes read");
        assert!(read < 2 << 20, "{read} of {tables}");
        assert!(tables > 12 * rows as u64);
        fill(&volume, rows..rows + 500).await;
        volume.sync_all().await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());

        // As after kill -9: the lock goes with the process, the files stay as they are.
        let read_before = bytes_read();
        let (_crashed, reopened, took) = open(copy.path()).await;
        let read = bytes_read() - read_before;
        println!("after a crash: opened in {took:?}, {read} bytes read");
        // What was replayed is written to the tables at once: pages all over.
        assert!(read < (8 << 20) + tables / 20, "{read} of {tables}");
        for number in (0..rows + 500).step_by(997) {
            let found = reopened.get(ROWS, &key(number)).unwrap();
            assert_eq!(found.as_deref(), Some(value(number).as_slice()), "{number}");
        }
        let (mut count, mut next) = (0, None);
        loop {
            let from = next
                .as_ref()
                .map_or(Bound::Unbounded, |key: &bytes::Bytes| {
                    Bound::Excluded(&**key)
                });
            let page = reopened
                .scan(ROWS, from, Bound::Unbounded, Order::Ascending, 4096)
                .unwrap();
            count += page.rows.len();
            match page.next {
                Some(key) => next = Some(key),
                None => break,
            }
        }
        assert_eq!(count, rows + 500);
        give_back();
        let resident = resident_bytes().unwrap();
        println!(
            "{} bytes more are resident",
            resident.saturating_sub(before)
        );
        assert!(
            resident < before + MEMORY_MAX,
            "{before} bytes, then {resident}"
        );
        volume.close().await.unwrap();
        store.close().await.unwrap();
    });
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
