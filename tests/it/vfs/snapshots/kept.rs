//! What a snapshot names stays: whatever is done to the live tree, and whenever power is lost. And nothing else stays.

use std::collections::BTreeMap;
use std::time::Duration;

use cairnfs::base::{Entropy, KeepRule};
use cairnfs::store::{VolumeOpenError, VolumeOptions};
use cairnfs::vfs::SnapshotInfo;
use cairnfs_fuse::{Caller, FileSystem, Ino};

use super::{Tree, live, past, same};
use crate::common::books::{Books, path};
use crate::common::hand::Hand;
use crate::support::scaled;
use crate::vfs::checkpoint::support::space;
use crate::vfs::files::{block_on, bytes};
use crate::vfs::twin::{ID, Twin};

fn shards(twin: &Twin) -> u64 {
    let all = (0..6).map(|at| twin.cluster.blocks(at).unwrap().store().usage().shard_bytes);
    all.sum()
}

/// Time in which what nobody names is let go.
async fn rest() {
    tokio::time::sleep(Duration::from_secs(90)).await;
}

/// Deeds at random, and more kinds of files than the books know.
async fn deeds(twin: &Twin, books: &mut Books, entropy: &Entropy, count: usize) {
    for _ in 0..count {
        let (one, two) = (path(entropy), path(entropy));
        let deed = books.deed(entropy.below(78), one.clone(), two.clone(), entropy);
        deed.carry_out(twin.vfs()).await;
        let hand = Hand(twin.vfs());
        match entropy.below(8) {
            0 => {
                if let Ok(ino) = hand.find(&one).await {
                    let value = bytes(entropy, 1 + entropy.below(3000) as usize);
                    let set = twin
                        .vfs()
                        .setxattr(&Caller::ROOT, ino, "user.one".into(), &value, 0);
                    let _ = set.wait().await;
                }
            }
            1 => {
                let name = format!("link{}", entropy.below(6));
                if let Ok(ino) = hand.find(&one).await {
                    let linked =
                        twin.vfs()
                            .link(&Caller::ROOT, ino, Ino::ROOT, name.as_str().into());
                    let _ = linked.wait().await;
                }
            }
            2 => {
                let name = format!("link{}", entropy.below(6));
                let _ = hand.unlink(&name).await;
            }
            3 => {
                let at = entropy.below(200_000);
                let bytes = bytes(entropy, 1 + entropy.below(90_000) as usize);
                let _ = hand.write("written in places", at, &bytes).await;
            }
            4 => {
                let name = format!("pointer{}", entropy.below(4));
                let made = twin.vfs().symlink(
                    &Caller::ROOT,
                    Ino::ROOT,
                    name.as_str().into(),
                    one.as_bytes(),
                );
                let _ = made.wait().await;
            }
            _ => {}
        }
    }
}

#[test]
fn snapshots_show_the_tree_of_their_time_whatever_happens_later() {
    for seed in 0..scaled(4) as u64 {
        block_on(async {
            let entropy = Entropy::seeded(900 + seed);
            let mut twin = Twin::new(6, 900 + seed).await;
            let mut books = Books::default();
            let mut kept: BTreeMap<String, (SnapshotInfo, Tree)> = BTreeMap::new();
            for round in 0..6 {
                deeds(&twin, &mut books, &entropy, 40).await;
                let before = live(twin.vfs()).await;
                let made = twin
                    .vfs()
                    .make_snapshot(&format!("r{round}"))
                    .await
                    .unwrap();
                kept.insert(made.name.clone(), (made, before));
                match entropy.below(4) {
                    0 => twin.reopen().await,
                    1 => {
                        twin.vfs().sync().await.unwrap();
                        twin.crash().await;
                    }
                    2 => rest().await,
                    _ => {}
                }
                if entropy.below(3) == 0
                    && let Some((name, (info, _))) = kept.pop_first()
                {
                    twin.vfs().remove_snapshot(info.id).await.unwrap();
                    assert!(twin.vfs().find_snapshot(&name).is_err());
                }
                for (name, (info, before)) in &kept {
                    same(before, &past(twin.vfs(), info).await, name);
                }
            }
            rest().await;
            for (name, (info, before)) in &kept {
                same(before, &past(twin.vfs(), info).await, name);
            }
        });
    }
}

#[test]
fn deletion_and_compaction_do_not_hurt_a_snapshot_and_letting_it_go_gives_the_room_back() {
    block_on(async {
        let entropy = Entropy::seeded(77);
        let mut twin = Twin::new(6, 77).await;
        let hand = Hand(twin.vfs());
        // Small files share blocks; a large one has a manifest of many extents.
        for number in 0..300 {
            let bytes = bytes(&entropy, 20_000);
            hand.replace(&format!("f{number}"), &bytes).await.unwrap();
        }
        for part in 0..60u64 {
            let bytes = bytes(&entropy, 70_000);
            hand.write("large", part * 150_000, &bytes).await.unwrap();
            if part % 7 == 0 {
                twin.vfs().sync().await.unwrap();
            }
        }
        twin.vfs().sync().await.unwrap();
        rest().await;
        let full = shards(&twin);
        let before = live(twin.vfs()).await;
        let made = twin.vfs().make_snapshot("full").await.unwrap();
        let hand = Hand(twin.vfs());
        for number in 0..300 {
            // One of ten stays, which makes all blocks sparse.
            if number % 10 != 0 {
                hand.unlink(&format!("f{number}")).await.unwrap();
            }
        }
        hand.unlink("large").await.unwrap();
        // Nobody knows them any more.
        twin.reopen().await;
        rest().await;
        rest().await;
        same(&before, &past(twin.vfs(), &made).await, "after removals");
        assert!(shards(&twin) >= full, "{} of {full}", shards(&twin));
        let listed = twin.vfs().snapshots().unwrap();
        assert!(listed[0].alone_bytes.unwrap() > 3_000_000, "{listed:?}");
        twin.crash().await;
        rest().await;
        same(&before, &past(twin.vfs(), &made).await, "after a crash");

        twin.vfs().remove_snapshot(made.id).await.unwrap();
        assert!(twin.vfs().snapshots().unwrap().is_empty());
        rest().await;
        rest().await;
        let left = shards(&twin);
        assert!(left < full / 4, "{left} of {full}");
        assert_eq!(live(twin.vfs()).await.len(), 31);
    });
}

/// How many blocks, and counts of them, are in the books once all is let go.
async fn emptied(twin: &mut Twin) -> usize {
    let hand = Hand(twin.vfs());
    for name in hand.names("").await {
        hand.unlink(&name).await.unwrap();
    }
    // Nobody knows them any more.
    twin.reopen().await;
    for info in twin.vfs().snapshots().unwrap() {
        twin.vfs().remove_snapshot(info.id).await.unwrap();
    }
    assert!(twin.vfs().snapshots().unwrap().is_empty());
    rest().await;
    rest().await;
    twin.shut().await;
    let store = twin.cluster.blocks(0).unwrap().store().clone();
    let (volume, _) = loop {
        match store.open_volume(ID, VolumeOptions::default()).await {
            Ok(opened) => break opened,
            Err(VolumeOpenError::InUse(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let left = [6, 7, 9].map(|number| space(&volume, number).len());
    for (_, key, _) in space(&volume, 9) {
        println!("left: {:?}", &key[..key.len().min(12)]);
    }
    volume.close().await.unwrap();
    println!("blocks, releases, checkpoints: {left:?}");
    left.iter().sum()
}

#[test]
fn a_crash_at_any_moment_loses_nothing_and_keeps_nothing_for_ever() {
    block_on(async {
        let entropy = Entropy::seeded(78);
        let (mut made, mut lost) = (0, 0);
        for round in 0..scaled(14) as u64 {
            let mut twin = Twin::new(6, 7800 + round).await;
            for number in 0..60 {
                let bytes = bytes(&entropy, 3000);
                let hand = Hand(twin.vfs());
                hand.replace(&format!("f{number}"), &bytes).await.unwrap();
            }
            let before = live(twin.vfs()).await;
            let first = twin.vfs().make_snapshot("first").await.unwrap();
            for number in 0..30 {
                let hand = Hand(twin.vfs());
                hand.unlink(&format!("f{number}")).await.unwrap();
            }
            let after = live(twin.vfs()).await;
            let removes = round % 2 == 1;
            {
                let work = async {
                    match removes {
                        true => twin.vfs().remove_snapshot(first.id).await.map(drop),
                        false => twin.vfs().make_snapshot("second").await.map(drop),
                    }
                };
                let stop = async {
                    // Most of it takes no time of the clock: it is stopped after so many turns.
                    for _ in 0..1 + entropy.below(1 << (1 + round % 9)) {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    done = work => done.unwrap(),
                    () = stop => {}
                }
            }
            twin.crash().await;
            rest().await;
            let listed = twin.vfs().snapshots().unwrap();
            for info in &listed {
                let expected = match info.label.as_str() {
                    "first" => &before,
                    _ => &after,
                };
                same(expected, &past(twin.vfs(), info).await, &info.name);
            }
            let wanted = match removes {
                true => listed.is_empty(),
                false => listed.len() == 2,
            };
            match wanted {
                true => made += 1,
                false => lost += 1,
            }
            if !removes {
                assert!(listed.iter().any(|info| info.id == first.id));
            }
            same(&after, &live(twin.vfs()).await, "the live tree");
            let left = emptied(&mut twin).await;
            assert_eq!(left, 0, "round {round} keeps something for ever");
        }
        println!("{made} got through, {lost} did not");
        assert!(made > 0 && lost > 0, "both happen");
    });
}

#[test]
fn snapshots_are_made_and_thinned_by_a_rule() {
    block_on(async {
        let twin = Twin::new(6, 79).await;
        let vfs = twin.vfs();
        let rule = KeepRule {
            hourly: 3,
            daily: 2,
            ..KeepRule::default()
        };
        vfs.keep_snapshots(rule);
        let named = vfs.make_snapshot("stays").await.unwrap();
        for hour in 0..14u64 {
            let hand = Hand(vfs);
            // Nothing is written in some hours.
            if hour % 4 != 3 {
                hand.replace("file", &hour.to_be_bytes()).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let listed = vfs.snapshots().unwrap();
            assert!(listed.len() <= 6, "{listed:?}");
        }
        let listed = vfs.snapshots().unwrap();
        assert!(listed.iter().any(|info| info.id == named.id));
        assert!(listed.len() >= 4, "{listed:?}");
        // With no rule everything stays.
        vfs.keep_snapshots(KeepRule::default());
        let count = listed.len();
        Hand(vfs).replace("file", b"again").await.unwrap();
        tokio::time::sleep(Duration::from_secs(4000)).await;
        assert_eq!(vfs.snapshots().unwrap().len(), count);
    });
}

#[test]
fn labels_are_checked_and_names_find_their_snapshots() {
    block_on(async {
        let twin = Twin::new(6, 80).await;
        let vfs = twin.vfs();
        for wrong in ["a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(vfs.make_snapshot(wrong).await.is_err(), "{wrong}");
        }
        let one = vfs.make_snapshot("one").await.unwrap();
        let two = vfs.make_snapshot("").await.unwrap();
        let three = vfs.make_snapshot("").await.unwrap();
        assert_eq!(vfs.snapshots().unwrap().len(), 3);
        assert_ne!(two.name, three.name, "in one second");
        assert_eq!(vfs.find_snapshot("one").unwrap().id, one.id);
        assert_eq!(vfs.find_snapshot(&two.name).unwrap().id, two.id);
        assert!(vfs.find_snapshot("2026").is_err(), "it could be any");
        assert!(vfs.find_snapshot("nothing").is_err());
        vfs.remove_snapshot(two.id).await.unwrap();
        assert!(vfs.remove_snapshot(two.id).await.is_err());
        assert_eq!(vfs.snapshots().unwrap().len(), 2);
    });
}
