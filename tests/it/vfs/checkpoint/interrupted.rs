//! Crashes and cancelled calls, at any moment.

use std::task::Poll;
use std::time::Duration;

use cairnfs::base::{Class, Classify, Entropy};
use cairnfs::vfs::MadeCheckpoint;
use cairnfs_fuse::{Answer, Caller, Errno, Fh, FileSystem, Ino};

use super::support::{Pair, heads, space};
use crate::support::scaled;
use crate::vfs::files::{block_on, bytes};
use crate::vfs::twin::{RW, find};

/// Some time, and then some turns of others.
async fn soon(entropy: &Entropy) {
    tokio::time::sleep(Duration::from_millis(entropy.below(60))).await;
    for _ in 0..entropy.below(20) {
        tokio::task::yield_now().await;
    }
}

/// A second replica that has something of its own and does not have most of the first.
async fn apart(seed: u64) -> (Pair, MadeCheckpoint) {
    let entropy = Entropy::seeded(seed);
    let mut pair = Pair::new(2, seed).await;
    for number in 0..30 {
        pair.make(0, Ino::ROOT, &format!("old{number}"), &[1; 300])
            .await;
    }
    pair.open(1, true).await;
    pair.exchange(0, 1).await;
    for number in 0..30 {
        match number % 3 {
            0 => pair.remove(0, Ino::ROOT, &format!("old{number}")).await,
            1 => {
                pair.rename(1, &format!("old{number}"), &format!("own{number}"))
                    .await;
            }
            _ => {}
        }
    }
    for number in 0..900 {
        pair.make(0, Ino::ROOT, &format!("new{number}"), &bytes(&entropy, 200))
            .await;
    }
    let made = pair.checkpoint(0).await;
    // Something that is not in blocks yet.
    pair.make(1, Ino::ROOT, "dirty", b"first").await;
    pair.vfs(1).sync().await.unwrap();
    let file = find(pair.fs(1), &[b"dirty".to_vec()]).await.unwrap();
    let vfs = pair.vfs(1);
    vfs.open(&Caller::ROOT, file, RW).wait().await.unwrap();
    pair.write(1, file, 0, &[9; 50_000]).await;
    vfs.fsync(file, Fh(0), false).wait().await.unwrap();
    vfs.release(file, Fh(0), RW).wait().await.unwrap();
    (pair, made)
}

/// Merges until so many groups were made at most, and stops there. Whether it was through.
async fn stop_after(pair: &Pair, made: &MadeCheckpoint, count: u64) -> bool {
    let mut left = count;
    let stop = std::future::poll_fn(|_| {
        // Whoever looks waits from the first group on. The other side wakes this one.
        let looked = pair.vfs(1).lookup(&Caller::ROOT, Ino::ROOT, "x".into());
        if !matches!(looked, Answer::Ready(_)) {
            match left {
                0 => return Poll::Ready(()),
                _ => left -= 1,
            }
        }
        Poll::Pending
    });
    let joined = tokio::select! {
        biased;
        joined = pair.vfs(1).join(&made.root) => {
            joined.unwrap();
            true
        }
        () = stop => false,
    };
    if !joined {
        // What was done is on the disk, and no more.
        let vfs = pair.vfs(1);
        vfs.fsyncdir(Ino::ROOT, Fh(0), false).wait().await.unwrap();
    }
    joined
}

#[test]
fn a_join_that_was_interrupted_is_finished_before_anything_else() {
    block_on(async {
        let (whole, made) = apart(21).await;
        whole.vfs(1).join(&made.root).await.unwrap();
        whole.vfs(1).sync().await.unwrap();
        let expected = whole.fs(1).tree(1 << 20).await.unwrap();
        let (mut interrupted, mut count) = (0, 0);
        loop {
            let (mut pair, made) = apart(21).await;
            let is_through = stop_after(&pair, &made, count).await;
            let is_cancelled = count % 2 == 1;
            if !is_cancelled {
                pair.crash(1).await;
                pair.open(1, false).await;
            }
            let begun = pair.vfs(1).unfinished_join().unwrap();
            if begun.is_some() {
                interrupted += 1;
                assert_eq!(begun, Some(made.root.version()));
                let looked = pair.vfs(1).getattr(&Caller::ROOT, Ino::ROOT, None);
                assert!(matches!(looked.wait().await, Err(Errno::EBUSY)));
                let changed = pair.vfs(1).unlink(&Caller::ROOT, Ino::ROOT, "dirty".into());
                assert!(matches!(changed.wait().await, Err(Errno::EBUSY)));
                let version = pair.vfs(1).version().unwrap();
                let refused = pair.vfs(1).checkpoint(heads(&version), made.root.hlc).await;
                assert_eq!(refused.unwrap_err().class(), Class::Retry);
                // An older one does not include it.
                let mut older = made.root.clone();
                let mut less = older.version();
                let first = older.heads[0].clone();
                less = less.without(&first.writer);
                less.raise(first.writer, first.last - 1);
                older.heads = heads(&less);
                let refused = pair.vfs(1).join(&older).await;
                assert_eq!(refused.unwrap_err().class(), Class::Denied);
            }
            pair.vfs(1).join(&made.root).await.unwrap();
            pair.vfs(1).sync().await.unwrap();
            assert_eq!(pair.vfs(1).unfinished_join().unwrap(), None);
            let found = pair.fs(1).tree(1 << 20).await.unwrap();
            assert!(found == expected, "stopped after {count}");
            if is_through {
                break;
            }
            count += 1;
        }
        println!("{interrupted} were interrupted, of {count} turns");
        assert!(interrupted > 3, "{interrupted}");
        whole.exchange(1, 0).await;
        whole.assert_same_trees().await;
    });
}

/// A checkpoint that a crash interrupts leaves nothing: no room is lost, and what is kept can be read.
async fn make_and_crash(seed: u64) {
    let entropy = Entropy::seeded(seed);
    let mut pair = Pair::new(2, seed).await;
    pair.vfs(0).keep_checkpoints(0);
    for number in 0..400 {
        pair.make(0, Ino::ROOT, &format!("f{number}"), &bytes(&entropy, 200))
            .await;
    }
    let mut last = pair.checkpoint(0).await;
    for round in 0..5 {
        for _ in 0..3 {
            let name = format!("f{}", entropy.below(400));
            pair.rename(0, &name, &format!("{name} {round}")).await;
            pair.rename(0, &format!("{name} {round}"), &name).await;
        }
        pair.vfs(0).sync().await.unwrap();
        let version = pair.vfs(0).version().unwrap();
        let made = tokio::select! {
            biased;
            made = pair.vfs(0).checkpoint(heads(&version), last.root.hlc) => Some(made.unwrap()),
            () = soon(&entropy) => None,
        };
        let is_made = made.is_some();
        last = made.unwrap_or(last);
        pair.crash(0).await;
        pair.open(0, false).await;
        pair.vfs(0).keep_checkpoints(0);
        // What was begun is let go; what was answered is there.
        tokio::time::sleep(Duration::from_secs(40)).await;
        let kept = pair.vfs(0).checkpoints().unwrap();
        assert!(
            kept.iter().any(|kept| kept.number == last.number),
            "{is_made} {kept:?}"
        );
        let numbers: Vec<u64> = kept.iter().map(|kept| kept.number).collect();
        let opened = pair.vfs(0).open_checkpoint(last.number).await.unwrap();
        let rows = opened
            .look(|rows| rows.scan(&[], &[0xff], usize::MAX))
            .await
            .unwrap();
        assert_eq!(rows.len() as u64, last.root.rows);
        pair.shut(0).await;
        let counted = pair.raw(0, async |volume| space(volume, 9)).await;
        for (_, key, _) in counted.iter().filter(|(_, key, _)| key[0] == 2) {
            let number = u64::from_be_bytes(key[1..9].try_into().unwrap());
            assert!(
                numbers.contains(&number),
                "seed {seed}: {number} of {numbers:?}"
            );
        }
        pair.open(0, false).await;
        pair.vfs(0).keep_checkpoints(0);
    }
    pair.checkpoint(0).await;
    let used = |pair: &Pair| -> u64 {
        let all = (0..2).map(|at| pair.cluster.blocks(at).unwrap().store().usage().shard_bytes);
        all.sum()
    };
    tokio::time::sleep(Duration::from_secs(60)).await;
    let left = used(&pair);
    // As much as if it had been the first one, and half of it at most for what is not used of its blocks.
    let expected = last.built.bytes_stored.max(60_000) * 4;
    assert!(
        left < expected + 1_000_000,
        "seed {seed}: {left}, {expected}"
    );
}

#[test]
fn a_checkpoint_that_was_interrupted_leaves_nothing() {
    for seed in 0..scaled(8) as u64 {
        block_on(make_and_crash(seed));
    }
}
