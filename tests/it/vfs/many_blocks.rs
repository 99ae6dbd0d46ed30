//! Files in more blocks than one group of the journal may count: they are cut, emptied and removed in parts, and
//! a crash between the parts leaves nothing behind and takes nothing away.

use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs::testkit::ClusterOptions;
use cairnfs_fuse::{AllocMode, Caller, CopyRange, Fh, FileSystem, Ino, OpenFlags, SetAttr};

use super::files::{block_on, close, content, make, remove, write};
use super::twin::{Fs, RW, Twin, find};
use crate::support::scaled;

/// From one written part to the next.
const STEP: u64 = 1000;
const PART: usize = 600;
/// With so many shards each, the counts of some 140 blocks change in one group.
const PROFILE: &str = "24+8";

fn part(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(PART / 8)
}

async fn open(seed: u64) -> Twin {
    let options = ClusterOptions {
        peers: 1,
        quota_bytes: 1 << 30,
        ..ClusterOptions::default()
    };
    Twin::with(options, PROFILE, seed).await
}

/// A file of so many parts, each in a block of its own, and what it has.
async fn scattered(twin: &Twin, name: &str, parts: u64) -> (Ino, Vec<u8>) {
    let ino = make(twin, name, &[]).await;
    let mut all = Vec::new();
    for number in 0..parts {
        write(twin, ino, number * STEP, &part(number)).await;
        twin.vfs().sync().await.unwrap();
        all.resize((number * STEP) as usize, 0);
        all.extend(part(number));
    }
    (ino, all)
}

async fn fsync(twin: &Twin, ino: Ino) {
    twin.vfs().fsync(ino, Fh(0), false).wait().await.unwrap();
}

async fn cut(twin: &Twin, ino: Ino, size: u64) {
    let change = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    let cut = twin.vfs().setattr(&Caller::ROOT, ino, &change).wait().await;
    cut.unwrap();
    fsync(twin, ino).await;
}

async fn opened(twin: &Twin, name: &str) -> Ino {
    let fs: &dyn Fs = twin.vfs();
    let ino = find(fs, &[name.as_bytes().to_vec()]).await.unwrap();
    let opened = twin.vfs().open(&Caller::ROOT, ino, RW).wait().await;
    opened.unwrap();
    ino
}

/// Loses power some time after a change: before it is described, in between, or afterwards.
async fn crash_soon(twin: &mut Twin, entropy: &Entropy) {
    tokio::time::sleep(Duration::from_millis(entropy.below(4000))).await;
    for _ in 0..entropy.below(400) {
        tokio::task::yield_now().await;
    }
    twin.crash().await;
}

async fn cut_in_parts(seed: u64) {
    const PARTS: u64 = 330;
    let mut twin = open(seed).await;
    let entropy = Entropy::seeded(seed);
    let (ino, mut all) = scattered(&twin, "file", PARTS).await;
    let stored = twin.vfs().usage().stored_bytes;
    assert!(stored >= PARTS * PART as u64, "{stored}");

    // A hole over 150 blocks.
    let (from, to) = (10 * STEP, 160 * STEP);
    let mode = AllocMode::PunchHole;
    let vfs = twin.vfs();
    let punched = vfs.fallocate(&Caller::ROOT, ino, Fh(0), from, to - from, mode);
    punched.wait().await.unwrap();
    all[from as usize..to as usize].fill(0);
    fsync(&twin, ino).await;
    crash_soon(&mut twin, &entropy).await;
    assert!(content(&twin, "file").await == all, "seed {seed}: punched");

    // 160 blocks behind a new end.
    let ino = opened(&twin, "file").await;
    let size = 170 * STEP + 17;
    cut(&twin, ino, size).await;
    all.truncate(size as usize);
    crash_soon(&mut twin, &entropy).await;
    assert!(content(&twin, "file").await == all, "seed {seed}: cut");

    // What was cut off is not there when it grows again.
    let ino = opened(&twin, "file").await;
    write(&twin, ino, 300 * STEP, b"far behind").await;
    all.resize(300 * STEP as usize, 0);
    all.extend(b"far behind");
    twin.vfs().sync().await.unwrap();
    close(&twin, ino).await;
    twin.reopen().await;
    assert!(content(&twin, "file").await == all, "seed {seed}: grown");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stored = twin.vfs().usage().stored_bytes;
    assert!(stored < 60 * PART as u64 + 20_000, "seed {seed}: {stored}");

    remove(&twin, "file").await;
    let dir = twin.vfs().fsyncdir(Ino::ROOT, Fh(0), false).wait().await;
    dir.unwrap();
    crash_soon(&mut twin, &entropy).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let usage = twin.vfs().usage();
    assert_eq!(usage.stored_bytes, 0, "seed {seed}");
}

async fn emptied_and_removed(seed: u64) {
    const PARTS: u64 = 160;
    let mut twin = open(seed).await;
    let entropy = Entropy::seeded(seed);
    let (ino, all) = scattered(&twin, "removed", PARTS).await;
    close(&twin, ino).await;
    let (ino, _) = scattered(&twin, "emptied", PARTS).await;
    let flags = OpenFlags(libc::O_RDWR | libc::O_TRUNC);
    let opened = twin.vfs().open(&Caller::ROOT, ino, flags).wait().await;
    opened.unwrap();
    write(&twin, ino, 5, &[8; 900]).await;
    fsync(&twin, ino).await;
    crash_soon(&mut twin, &entropy).await;
    let new = [&[0; 5][..], &[8; 900]].concat();
    assert!(content(&twin, "emptied").await == new, "seed {seed}");
    assert!(content(&twin, "removed").await == all, "seed {seed}");
    remove(&twin, "removed").await;
    let dir = twin.vfs().fsyncdir(Ino::ROOT, Fh(0), false).wait().await;
    dir.unwrap();
    crash_soon(&mut twin, &entropy).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(content(&twin, "emptied").await == new, "seed {seed}");
    assert_eq!(twin.vfs().usage().stored_bytes, 900, "seed {seed}");
}

#[test]
fn many_blocks_are_let_go_in_parts() {
    for seed in 0..scaled(1) as u64 {
        block_on(cut_in_parts(seed));
    }
}

#[test]
fn files_of_many_blocks_are_emptied_and_removed() {
    for seed in 0..scaled(1) as u64 {
        block_on(emptied_and_removed(seed));
    }
}

/// More blocks than one group may count: copied in several steps, each of which says how far it came.
#[test]
fn a_copy_of_many_blocks_is_made_in_parts() {
    const PARTS: u64 = 160;
    block_on(async {
        let mut twin = open(21).await;
        let (from, all) = scattered(&twin, "from", PARTS).await;
        // Changed in a place since, in memory.
        write(&twin, from, 5 * STEP, b"changed").await;
        let to = make(&twin, "to", &[]).await;
        let (mut done, mut asked) = (0, 0);
        let stored = twin.vfs().usage().stored_bytes;
        while done < all.len() as u64 {
            let copy = CopyRange {
                from: (from, Fh(from.0)),
                from_offset: done,
                to: (to, Fh(to.0)),
                to_offset: done,
                len: all.len() as u64 - done,
            };
            let vfs = twin.vfs();
            let copied = vfs.copy_file_range(&Caller::ROOT, &copy).wait().await;
            done += copied.unwrap();
            asked += 1;
        }
        assert!((2..PARTS).contains(&asked), "{asked}");
        twin.vfs().sync().await.unwrap();
        let more = twin.vfs().usage().stored_bytes.saturating_sub(stored);
        // Its manifest, and what was in memory.
        assert!(more < PARTS * PART as u64 / 4, "{more} bytes were copied");
        let mut expected = all;
        expected[5 * STEP as usize..][..7].copy_from_slice(b"changed");
        twin.crash().await;
        assert!(content(&twin, "to").await == expected);
        assert!(content(&twin, "from").await == expected);
    });
}
