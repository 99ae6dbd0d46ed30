//! Room that comes back, blocks that stay as long as anybody uses them, and crashes at any moment.

use std::collections::BTreeMap;
use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs::testkit::{ClusterOptions, UpkeepTimes};
use cairnfs::vfs::forsake;
use cairnfs_fuse::{
    Answer, Caller, CopyRange, Fh, FileSystem, FileType, Ino, Name, NewNode, SetAttr,
};

use super::files::{NODE, block_on, bytes, close, content, make, remove, used, write};
use super::twin::{Fs, ID, OWNER, RW, Twin, find};
use crate::support::scaled;

#[test]
fn room_of_deleted_files_comes_back_also_from_packs() {
    block_on(async {
        let mut twin = Twin::new(1, 7).await;
        let entropy = Entropy::seeded(7);
        let empty = used(&twin);
        let mut kept = BTreeMap::new();
        for number in 0..60 {
            let (name, data) = (format!("f{number}"), bytes(&entropy, 100_000));
            let ino = make(&twin, &name, &data).await;
            close(&twin, ino).await;
            if number % 10 == 0 {
                kept.insert(name, data);
            }
        }
        twin.vfs().sync().await.unwrap();
        assert_eq!(twin.vfs().usage().dirty_bytes, 0);
        let full = used(&twin) - empty;
        assert!(full > 5_500_000, "{full}");
        for number in (0..60).filter(|number| number % 10 != 0) {
            remove(&twin, &format!("f{number}")).await;
        }
        // Nine tenths of each pack are gone; what is left moves to new ones.
        tokio::time::sleep(Duration::from_secs(150)).await;
        let left = used(&twin) - empty;
        assert!(left < full / 3, "{left} of {full} are still there");
        for reopened in [false, true] {
            for (name, data) in &kept {
                assert!(content(&twin, name).await == *data, "{name} {reopened}");
            }
            twin.reopen().await;
        }
        for name in kept.keys() {
            remove(&twin, name).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
    });
}

#[test]
fn a_copy_keeps_the_blocks_of_what_it_was_copied_from() {
    block_on(async {
        let mut twin = Twin::new(1, 8).await;
        let data = bytes(&Entropy::seeded(8), 300_000);
        let from = make(&twin, "from", &data).await;
        twin.vfs().sync().await.unwrap();
        let before = used(&twin);
        let to = make(&twin, "to", b"x").await;
        let copy = CopyRange {
            from: (from, Fh(from.0)),
            from_offset: 0,
            to: (to, Fh(to.0)),
            to_offset: 0,
            len: data.len() as u64,
        };
        let copied = twin
            .vfs()
            .copy_file_range(&Caller::ROOT, &copy)
            .wait()
            .await;
        assert_eq!(copied.unwrap(), data.len() as u64);
        twin.vfs().sync().await.unwrap();
        assert!(used(&twin) < before + 150_000, "bytes were copied");
        close(&twin, from).await;
        close(&twin, to).await;
        remove(&twin, "from").await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        twin.reopen().await;
        assert!(content(&twin, "to").await == data);
        remove(&twin, "to").await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
    });
}

/// A file of so many blocks that they are named by a manifest.
#[test]
fn a_copy_of_a_large_file_shares_its_blocks() {
    block_on(async {
        let mut twin = Twin::roomy(12).await;
        let data = bytes(&Entropy::seeded(12), 40 << 20);
        let from = make(&twin, "from", &[]).await;
        for (at, piece) in (0..).zip(data.chunks(1 << 20)) {
            write(&twin, from, at << 20, piece).await;
        }
        twin.vfs().sync().await.unwrap();
        let before = used(&twin);
        let to = make(&twin, "to", b"begins otherwise").await;
        // Neither begins nor ends with a block.
        let (from_offset, to_offset, mut left) = (777, 5, data.len() as u64 - 2000);
        let mut done = 0;
        let mut asked = 0;
        while left > 0 {
            let copy = CopyRange {
                from: (from, Fh(from.0)),
                from_offset: from_offset + done,
                to: (to, Fh(to.0)),
                to_offset: to_offset + done,
                len: left,
            };
            let vfs = twin.vfs();
            let copied = vfs.copy_file_range(&Caller::ROOT, &copy).wait().await;
            let copied = copied.unwrap();
            assert!(copied > 0 && copied <= left);
            (done, left, asked) = (done + copied, left - copied, asked + 1);
        }
        assert_eq!(asked, 1, "all of it at once");
        twin.vfs().sync().await.unwrap();
        assert!(used(&twin) < before + (1 << 20), "bytes were copied");
        let mut expected = b"begin".to_vec();
        expected.extend(&data[777..data.len() - 2000 + 777]);
        twin.crash().await;
        assert!(content(&twin, "to").await == expected);
        assert!(content(&twin, "from").await == data);
    });
}

/// What was written while alone survives more once others have come, and the volume says so.
#[test]
fn what_is_on_too_few_peers_is_counted_anew_when_there_are_more() {
    block_on(async {
        let options = ClusterOptions {
            peers: 1,
            upkeep: Some(UpkeepTimes {
                suspect: Duration::from_secs(600),
                dead: Duration::from_secs(12 * 3600),
                scrub: Duration::from_secs(30 * 24 * 3600),
                rate: 16 << 20,
                audit: Duration::from_secs(3600),
            }),
            signs: true,
            ..ClusterOptions::default()
        };
        let mut twin = Twin::with(options, "4+2", 15).await;
        let data = bytes(&Entropy::seeded(15), 9 << 20);
        make(&twin, "file", &data).await;
        twin.vfs().sync().await.unwrap();
        let under = |twin: &Twin| twin.vfs().usage().under_redundant_bytes;
        assert!(under(&twin) >= data.len() as u64);
        tokio::time::sleep(Duration::from_secs(1200)).await;
        assert!(under(&twin) >= data.len() as u64, "it is alone");
        while twin.cluster.len() < 6 {
            twin.cluster.add().await.unwrap();
        }
        for _ in 0..120 {
            if under(&twin) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(under(&twin), 0);
        twin.reopen().await;
        twin.vfs().sync().await.unwrap();
        assert_eq!(under(&twin), 0);
        // Any two.
        twin.cluster.crash(2);
        twin.cluster.crash(4);
        assert!(content(&twin, "file").await == data);
    });
}

#[test]
fn a_volume_that_is_given_up_leaves_nothing() {
    block_on(async {
        let mut twin = Twin::new(6, 9).await;
        let held = |twin: &Twin| -> u64 {
            let all = 0..twin.cluster.len();
            let used = all.map(|at| twin.cluster.blocks(at).unwrap().store().usage().allocated);
            used.sum()
        };
        let empty = held(&twin);
        let data = bytes(&Entropy::seeded(9), 2_000_000);
        let ino = make(&twin, "a", &data).await;
        twin.vfs().sync().await.unwrap();
        close(&twin, ino).await;
        assert!(held(&twin) > empty + 2_800_000);
        twin.shut().await;
        let blocks = twin.cluster.blocks(0).unwrap().clone();
        forsake(&blocks, ID, OWNER).await.unwrap();
        // Again, as after a crash in between.
        forsake(&blocks, ID, OWNER).await.unwrap();
        blocks.store().remove_volume(ID).await.unwrap();
        forsake(&blocks, ID, OWNER).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(held(&twin) < empty + 600_000, "{} of {empty}", held(&twin));
    });
}

/// A version of a file in which every part says which it is.
fn version(number: u64, len: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(len / 8)
}

/// What was synced is there after a crash at any moment, whatever was being sealed, described or let go.
async fn crash_anywhere(seed: u64) {
    const FILES: u64 = 5;
    const LEN: usize = 40_000;
    let peers = if seed.is_multiple_of(3) { 6 } else { 1 };
    let mut twin = Twin::new(peers, seed).await;
    let entropy = Entropy::seeded(seed);
    let (mut synced, mut written) = ([0u64; FILES as usize], [0u64; FILES as usize]);
    let mut number = 0;
    for _round in 0..6 {
        let mut open = Vec::new();
        for file in 0..FILES {
            let name = format!("f{file}");
            let made = twin
                .vfs()
                .create(&Caller::ROOT, Ino::ROOT, name.as_str().into(), &NODE, RW);
            open.push(made.wait().await.unwrap().0.attr.ino);
        }
        twin.vfs()
            .fsyncdir(Ino::ROOT, Fh(0), false)
            .wait()
            .await
            .unwrap();
        for _ in 0..entropy.below(40) {
            let file = entropy.below(FILES) as usize;
            number += 1;
            match entropy.below(6) {
                0 => tokio::time::sleep(Duration::from_millis(entropy.below(5000))).await,
                1 => {
                    let before = written[file];
                    twin.vfs()
                        .fsync(open[file], Fh(0), false)
                        .wait()
                        .await
                        .unwrap();
                    synced[file] = before;
                }
                _ => {
                    write(&twin, open[file], 0, &version(number, LEN)).await;
                    written[file] = number;
                }
            }
        }
        twin.crash().await;
        for file in 0..FILES as usize {
            let found = content(&twin, &format!("f{file}")).await;
            assert!(
                found.len() == LEN || synced[file] == 0,
                "seed {seed}: f{file} has {} bytes",
                found.len()
            );
            let parts = found.chunks_exact(8);
            let parts: Vec<u64> = parts
                .map(|part| u64::from_le_bytes(part.try_into().unwrap()))
                .collect();
            for part in &parts {
                assert!(
                    (synced[file]..=written[file]).contains(part),
                    "seed {seed}: f{file} has {part}, synced was {}, written {}",
                    synced[file],
                    written[file]
                );
            }
            // From here on it is what was found.
            synced[file] = parts.iter().copied().min().unwrap_or(0);
            written[file] = parts.iter().copied().max().unwrap_or(0);
        }
    }
    twin.vfs().sync().await.unwrap();
    twin.reopen().await;
    for file in 0..FILES {
        content(&twin, &format!("f{file}")).await;
    }
}

#[test]
fn what_was_synced_survives_a_crash_at_any_moment() {
    let first = std::env::var("CAIRN_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    for seed in first..first + scaled(30) as u64 {
        block_on(crash_anywhere(seed));
    }
}

/// One file that is synced after each write, which is then done on the thread that asks.
#[test]
fn a_file_that_is_synced_again_and_again_survives_a_crash() {
    const LEN: usize = 4096;
    for seed in 0..scaled(6) as u64 {
        block_on(async {
            let mut twin = Twin::new(1, seed).await;
            let entropy = Entropy::seeded(seed);
            let ino = make(&twin, "log", &version(1, LEN)).await;
            let named = twin.vfs().fsyncdir(Ino::ROOT, Fh(0), false).wait().await;
            named.unwrap();
            let last = 50 + entropy.below(50);
            let mut is_here = false;
            for number in 2..=last {
                let offset = number % 3 * LEN as u64;
                write(&twin, ino, offset, &version(number, LEN)).await;
                let answer = twin.vfs().fsync(ino, Fh(0), false);
                is_here = matches!(answer, Answer::Ready(_));
                answer.wait().await.unwrap();
            }
            assert!(is_here);
            // More that is not synced may be there, or not.
            write(&twin, ino, 3 * LEN as u64, &version(0, LEN)).await;
            twin.crash().await;
            let found = content(&twin, "log").await;
            for number in last - 2..=last {
                let at = number as usize % 3 * LEN;
                assert!(
                    found.get(at..at + LEN) == Some(&version(number, LEN)[..]),
                    "seed {seed}: {number} of {last} is not there"
                );
            }
        });
    }
}

#[test]
fn names_in_a_listing_are_all_there() {
    block_on(async {
        let twin = Twin::new(1, 11).await;
        for number in 0..700 {
            let name = format!("name-{number:05}");
            let node = NewNode {
                kind: FileType::Fifo,
                ..NODE
            };
            let made = twin
                .vfs()
                .mknod(&Caller::ROOT, Ino::ROOT, Name::from(name.as_str()), &node);
            made.wait().await.unwrap();
        }
        let fs: &dyn Fs = twin.vfs();
        for plus in [false, true] {
            let names = fs.names(Ino::ROOT, plus).await.unwrap();
            assert_eq!(names.len(), 700);
            assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        }
    });
}

/// More pieces than one group of the journal has room to forget.
#[test]
fn many_small_pieces_are_written_and_forgotten() {
    block_on(async {
        let mut twin = Twin::new(1, 12).await;
        let pieces = 9_000u64;
        for (name, is_cut) in [("cut", true), ("gone", false)] {
            let ino = make(&twin, name, b"x").await;
            for number in 0..pieces {
                write(&twin, ino, number * 1000, &number.to_le_bytes()).await;
            }
            twin.vfs().fsync(ino, Fh(0), false).wait().await.unwrap();
            if is_cut {
                let change = SetAttr {
                    size: Some(3),
                    ..SetAttr::default()
                };
                let cut = twin.vfs().setattr(&Caller::ROOT, ino, &change).wait().await;
                cut.unwrap();
                twin.vfs().fsync(ino, Fh(0), false).wait().await.unwrap();
                close(&twin, ino).await;
            } else {
                remove(&twin, name).await;
                twin.vfs()
                    .fsyncdir(Ino::ROOT, Fh(0), false)
                    .wait()
                    .await
                    .unwrap();
            }
        }
        twin.crash().await;
        let fs: &dyn Fs = twin.vfs();
        assert_eq!(fs.names(Ino::ROOT, false).await.unwrap(), [b"cut"]);
        let ino = find(fs, &[b"cut".to_vec()]).await.unwrap();
        let change = SetAttr {
            size: Some(5000),
            ..SetAttr::default()
        };
        let grown = twin.vfs().setattr(&Caller::ROOT, ino, &change).wait().await;
        grown.unwrap();
        let found = content(&twin, "cut").await;
        assert_eq!(found.len(), 5000);
        assert!(
            found.iter().skip(3).all(|byte| *byte == 0),
            "what was cut off is back"
        );
        twin.vfs().sync().await.unwrap();
        twin.reopen().await;
        assert_eq!(content(&twin, "cut").await, found);
    });
}

/// Blocks of which only a part of a large manifest is in use give it to others, as those do that have data.
#[test]
fn room_of_old_manifests_comes_back() {
    block_on(async {
        let mut twin = Twin::roomy(13).await;
        let held = |twin: &Twin| twin.cluster.blocks(0).unwrap().store().usage().shard_bytes;
        let parts = 32_000u64;
        let ino = make(&twin, "parts", b"x").await;
        for number in 0..parts {
            write(&twin, ino, number * 100, &[number as u8]).await;
        }
        twin.vfs().sync().await.unwrap();
        tokio::time::sleep(Duration::from_secs(40)).await;
        let whole = held(&twin);
        // All but the first node become others, and the block with the first has little use.
        for number in (parts / 3..parts).step_by(1000) {
            write(&twin, ino, number * 100, &[1]).await;
        }
        twin.vfs().sync().await.unwrap();
        let both = held(&twin);
        assert!(both > whole + whole / 2, "{both}, {whole} before");
        close(&twin, ino).await;
        tokio::time::sleep(Duration::from_secs(150)).await;
        let left = held(&twin);
        assert!(left < whole + whole / 3, "{left} of {both}, {whole} before");
        let found = content(&twin, "parts").await;
        twin.reopen().await;
        assert!(content(&twin, "parts").await == found);
        assert!((0..parts / 3).all(|number| found[number as usize * 100] == number as u8));
        remove(&twin, "parts").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
    });
}
