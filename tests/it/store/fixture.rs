//! The committed segment: written today it is the same to the byte, and it stays readable.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use cairnfs::base::{Clock, IndexSet};
use cairnfs::store::{Disk, MemDisk};
use data_encoding::HEXLOWER;

use super::support::{HOUR_MS, START_MS, block_of, claim, open, options, shard, simulate, stripe};

const FIXTURE: &str = include_str!("../../fixtures/store-v1.txt");
const FILES: [&str; 2] = ["VERSION", "store/segment-00000001"];

/// A store with a record of every kind.
async fn written() -> MemDisk {
    let clock = Clock::simulated(START_MS);
    let disk = MemDisk::new(1 << 30);
    let (store, _) = open(Arc::new(disk.clone()), options(32 << 20), &clock).await;
    let expires = START_MS + HOUR_MS;
    let stripe = stripe(1, 24, (2, 1));
    store
        .put(stripe[0].clone(), claim(1), expires)
        .await
        .unwrap();
    store
        .put(stripe[2].clone(), claim(1), expires)
        .await
        .unwrap();
    store.put(shard(2, 40), claim(2), expires).await.unwrap();
    store
        .claim(claim(3), expires, vec![block_of(&stripe[0])])
        .await
        .unwrap();
    store.close_claim(claim(1)).await.unwrap();
    store.release_claim(claim(2)).await.unwrap();
    let value = Some(Bytes::from_static(b"value"));
    let pair = |key: &[u8], value| ("space".to_owned(), key.to_vec(), value);
    store
        .kv_put(vec![pair(b"a", value.clone()), pair(b"b", value)])
        .await
        .unwrap();
    store.kv_put(vec![pair(b"a", None)]).await.unwrap();
    store.close().await.unwrap();
    disk
}

fn as_text(disk: &MemDisk) -> String {
    let mut text = String::new();
    for name in FILES {
        let bytes = disk.open(name).unwrap().read_vec(0, 1 << 20).unwrap();
        text += &format!("{name}\n");
        for line in bytes.chunks(48) {
            text += &format!("  {}\n", HEXLOWER.encode(line));
        }
    }
    text
}

fn from_text(text: &str) -> MemDisk {
    let disk = MemDisk::new(1 << 30);
    disk.create_dir("store").unwrap();
    for line in text.lines() {
        let Some(hex) = line.strip_prefix("  ") else {
            disk.create(line).unwrap();
            continue;
        };
        let name = FILES.iter().rev().find_map(|name| disk.open(name).ok());
        let file = name.unwrap();
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        file.write_at(file.len().unwrap(), &mut [IoSlice::new(&bytes)])
            .unwrap();
    }
    disk
}

#[test]
fn the_same_store_is_written_to_the_byte() {
    let text = as_text(&simulate(written()));
    assert!(text == FIXTURE, "the format has changed:\n{text}");
}

#[test]
fn the_committed_store_is_readable() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = Arc::new(from_text(FIXTURE));
        let (store, report) = open(disk, options(32 << 20), &clock).await;
        assert_eq!(
            (report.shards, report.damaged_regions, report.cut_bytes),
            (2, 0, 0)
        );
        let stripe = stripe(1, 24, (2, 1));
        for index in [0u8, 2] {
            let got = store
                .get(block_of(&stripe[0]), IndexSet::one(index))
                .await
                .unwrap();
            let (found, held) = got.unwrap();
            assert_eq!(found, stripe[usize::from(index)]);
            assert_eq!(held, [0, 2].into_iter().collect());
        }
        let gone = store.held(&[block_of(&shard(2, 40))]).await.unwrap();
        assert_eq!(gone, [IndexSet::EMPTY]);
        let rows = store.kv_scan("space", b"").await.unwrap();
        assert_eq!(rows, [(b"b".to_vec(), Bytes::from_static(b"value"))]);
        assert_eq!(store.close_claim(claim(3)).await, Ok(true));
        assert!(store.close_claim(claim(2)).await.is_err());
    });
}
