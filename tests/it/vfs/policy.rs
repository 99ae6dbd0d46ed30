//! Redundancy as a policy: what is written has that of the nearest directory that says one, and what is stored otherwise is
//! stored anew without anybody seeing anything of it.

use std::collections::BTreeSet;
use std::time::Duration;

use cairnfs::base::{Entropy, Redundancy};
use cairnfs::testkit::ClusterOptions;
use cairnfs::vfs::Vfs;
use cairnfs_fuse::{Caller, Errno, Fh, FileSystem, Ino, Name, Rename, RenameFlags};

use super::files::{block_on, bytes};
use super::twin::Twin;
use crate::common::hand::Hand;

const XATTR: &[u8] = b"user.cairn.redundancy";

async fn open(peers: usize, seed: u64) -> Twin {
    let options = ClusterOptions {
        peers,
        quota_bytes: 256 << 20,
        ..ClusterOptions::default()
    };
    let twin = Twin::with(options, "4+2", seed).await;
    // Until the peers know each other.
    tokio::time::sleep(Duration::from_secs(10)).await;
    twin
}

fn redundancy(text: &str) -> Option<Redundancy> {
    Some(text.parse().unwrap())
}

/// The redundancies of the blocks below a path.
async fn profiles(vfs: &Vfs, path: &str) -> BTreeSet<String> {
    let footing = vfs.footing(path.as_bytes()).await.unwrap();
    footing.blocks.values().map(ToString::to_string).collect()
}

fn all(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|profile| (*profile).to_owned()).collect()
}

/// Stores anew until there is nothing more to do. Answers how many bytes.
async fn recode(vfs: &Vfs) -> u64 {
    let mut bytes = 0;
    for _ in 0..10_000 {
        let step = vfs.recode().await.unwrap();
        bytes += step.bytes;
        if !step.is_more {
            return bytes;
        }
    }
    panic!("it goes on for ever");
}

async fn left(vfs: &Vfs, path: &str) -> u64 {
    vfs.stored_otherwise(path.as_bytes()).await.unwrap()
}

#[test]
fn new_data_has_the_redundancy_of_the_nearest_directory_that_says_one() {
    block_on(async {
        let mut twin = open(8, 1).await;
        let entropy = Entropy::seeded(1);
        {
            let vfs = twin.vfs();
            let hand = Hand(vfs);
            for dir in ["a", "a/b", "a/b/c", "d"] {
                hand.mkdir(dir).await.unwrap();
            }
            vfs.set_policy(b"a", redundancy("2+1")).await.unwrap();
            vfs.set_policy(b"a/b/c", redundancy("3+3")).await.unwrap();
            // Small ones, which would share a block, and one of several blocks.
            for dir in ["", "a/", "a/b/", "a/b/c/", "d/"] {
                for number in 0..3 {
                    let path = format!("{dir}small{number}");
                    hand.write(&path, 0, &bytes(&entropy, 2000)).await.unwrap();
                }
            }
            let large = bytes(&entropy, 6 << 20);
            hand.write("a/b/large", 0, &large).await.unwrap();
            vfs.sync().await.unwrap();
            assert!(hand.read("a/b/large").await.unwrap() == large);
        }
        for is_reopened in [false, true] {
            let vfs = twin.vfs();
            assert_eq!(profiles(vfs, "d").await, all(&["4+2"]), "{is_reopened}");
            assert_eq!(profiles(vfs, "small0").await, all(&["4+2"]));
            assert_eq!(profiles(vfs, "a/small0").await, all(&["2+1"]));
            assert_eq!(profiles(vfs, "a/b/large").await, all(&["2+1"]));
            assert_eq!(profiles(vfs, "a/b/c").await, all(&["3+3"]));
            assert_eq!(profiles(vfs, "").await, all(&["2+1", "3+3", "4+2"]));
            assert_eq!(left(vfs, "").await, 0);
            let policy = vfs.policy(b"a/b/small0").unwrap();
            assert_eq!(
                (policy.redundancy, policy.levels_up),
                (redundancy("2+1"), 2)
            );
            let policy = vfs.policy(b"d").unwrap();
            assert_eq!((policy.redundancy, policy.levels_up), (None, 0));
            // Blocks survive what was asked for, whatever the volume promises.
            assert_eq!(vfs.usage().under_redundant_bytes, 0);
            twin.reopen().await;
        }
    });
}

#[test]
fn what_is_stored_otherwise_is_stored_anew_and_looks_the_same() {
    block_on(async {
        let mut twin = open(8, 2).await;
        let entropy = Entropy::seeded(2);
        let mut kept = Vec::new();
        {
            let hand = Hand(twin.vfs());
            hand.mkdir("a").await.unwrap();
            for (number, size) in [3000, 100_000, 5 << 20, 70, 0, 700_000].iter().enumerate() {
                let (path, data) = (format!("a/f{number}"), bytes(&entropy, *size));
                hand.write(&path, 0, &data).await.unwrap();
                kept.push((path, data));
            }
            // One with holes, and with more extents than its row has room for.
            let mut scattered = vec![0; 2_000_000];
            for number in 0..40 {
                let part = bytes(&entropy, 1500);
                let at = number * 50_000;
                hand.write("a/scattered", at as u64, &part).await.unwrap();
                scattered[at..at + 1500].copy_from_slice(&part);
                twin.vfs().sync().await.unwrap();
            }
            scattered.truncate(39 * 50_000 + 1500);
            kept.push(("a/scattered".to_owned(), scattered));
            hand.write("other", 0, &bytes(&entropy, 50_000))
                .await
                .unwrap();
            twin.vfs().sync().await.unwrap();
        }
        let vfs = twin.vfs();
        let hand = Hand(vfs);
        let mut before = Vec::new();
        for (path, _) in &kept {
            let ino = hand.find(path).await.unwrap();
            before.push(hand.attr(ino).await.unwrap());
        }
        let stored = vfs.usage().stored_bytes;
        assert_eq!(recode(vfs).await, 0, "nothing is set");

        vfs.set_policy(b"a", redundancy("2+2")).await.unwrap();
        let due = left(vfs, "a").await;
        assert!(due > 5 << 20, "{due}");
        let moved = recode(vfs).await;
        assert!(moved > 5 << 20, "{moved}");
        assert_eq!(left(vfs, "").await, 0);
        assert_eq!(recode(vfs).await, 0, "it is done once");
        assert_eq!(profiles(vfs, "a").await, all(&["2+2"]));
        assert_eq!(profiles(vfs, "other").await, all(&["4+2"]));
        for ((path, data), before) in kept.iter().zip(&before) {
            assert!(hand.read(path).await.unwrap() == *data, "{path}");
            let ino = hand.find(path).await.unwrap();
            let after = hand.attr(ino).await.unwrap();
            assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
            assert_eq!(
                (after.size, after.blocks),
                (before.size, before.blocks),
                "{path}"
            );
        }
        // The old blocks go, and nothing is left over.
        tokio::time::sleep(Duration::from_secs(90)).await;
        let after = vfs.usage().stored_bytes;
        assert!(after.abs_diff(stored) < 20_000, "{after} of {stored}");

        vfs.set_policy(b"a", None).await.unwrap();
        recode(vfs).await;
        assert_eq!(profiles(vfs, "").await, all(&["4+2"]));
        twin.reopen().await;
        let hand = Hand(twin.vfs());
        for (path, data) in &kept {
            assert!(hand.read(path).await.unwrap() == *data, "{path}");
        }
        for (path, _) in &kept {
            hand.unlink(path).await.unwrap();
        }
        hand.unlink("other").await.unwrap();
        // The kernel forgets what it knew.
        twin.vfs().ended();
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
    });
}

#[test]
fn a_crash_in_the_middle_costs_a_block_and_no_more() {
    block_on(async {
        let mut twin = open(6, 3).await;
        let data = bytes(&Entropy::seeded(3), 40 << 20);
        {
            let hand = Hand(twin.vfs());
            for (number, part) in data.chunks(1 << 20).enumerate() {
                let at = (number as u64) << 20;
                hand.write("large", at, part).await.unwrap();
                twin.vfs().sync().await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let set = twin.vfs().set_policy(b"large", redundancy("2+1")).await;
        set.unwrap();
        let mut moved = 0;
        for crash in 0..4 {
            for _ in 0..2 {
                moved += twin.vfs().recode().await.unwrap().bytes;
                // Long enough for the journal to be on the disk.
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            twin.crash().await;
            assert!(
                Hand(twin.vfs()).read("large").await.unwrap() == data,
                "{crash}"
            );
        }
        assert!(moved >= 20 << 20, "{moved}");
        assert_eq!(profiles(twin.vfs(), "large").await, all(&["4+2"]));
        let rest = recode(twin.vfs()).await;
        assert_eq!(moved + rest, data.len() as u64, "nothing is done twice");
        assert_eq!(profiles(twin.vfs(), "large").await, all(&["2+1"]));
        assert!(Hand(twin.vfs()).read("large").await.unwrap() == data);
        tokio::time::sleep(Duration::from_secs(90)).await;
        twin.reopen().await;
        assert!(Hand(twin.vfs()).read("large").await.unwrap() == data);
        Hand(twin.vfs()).unlink("large").await.unwrap();
        twin.vfs().ended();
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
    });
}

#[test]
fn what_is_written_meanwhile_wins_and_what_was_begun_is_let_go() {
    block_on(async {
        let twin = open(6, 4).await;
        let vfs = twin.vfs();
        let (hand, entropy) = (Hand(vfs), Entropy::seeded(4));
        let mut data = bytes(&entropy, 20 << 20);
        hand.write("large", 0, &data).await.unwrap();
        vfs.sync().await.unwrap();
        vfs.set_policy(b"", redundancy("2+1")).await.unwrap();
        assert!(vfs.recode().await.unwrap().bytes > 0);
        // An edit in the middle, and another wish.
        hand.write("large", 1 << 20, b"an edit").await.unwrap();
        data[1 << 20..(1 << 20) + 7].copy_from_slice(b"an edit");
        vfs.sync().await.unwrap();
        vfs.recode().await.unwrap();
        vfs.recode().await.unwrap();
        vfs.set_policy(b"", redundancy("3+2")).await.unwrap();
        recode(vfs).await;
        assert_eq!(profiles(vfs, "").await, all(&["3+2"]));
        assert!(hand.read("large").await.unwrap() == data);
        hand.unlink("large").await.unwrap();
        vfs.ended();
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(vfs.usage().stored_bytes, 0);
    });
}

#[test]
fn a_file_that_is_open_is_stored_anew_when_it_is_at_rest() {
    block_on(async {
        let twin = open(6, 5).await;
        let vfs = twin.vfs();
        let (hand, entropy) = (Hand(vfs), Entropy::seeded(5));
        let mut data = bytes(&entropy, 300_000);
        let ino = hand.open("file").await.unwrap();
        hand.write_open(ino, 0, &data).await.unwrap();
        vfs.sync().await.unwrap();
        vfs.set_policy(b"file", redundancy("1+2")).await.unwrap();
        // Not while it is being changed ...
        hand.write_open(ino, 5, b"changed").await.unwrap();
        data[5..12].copy_from_slice(b"changed");
        recode(vfs).await;
        assert_eq!(left(vfs, "file").await, 300_000);
        vfs.sync().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        // ... and then under whoever has it open.
        recode(vfs).await;
        assert_eq!(left(vfs, "file").await, 0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(hand.read_open(ino).await.unwrap() == data);
        hand.write_open(ino, 100, b"once more").await.unwrap();
        data[100..109].copy_from_slice(b"once more");
        vfs.sync().await.unwrap();
        assert!(hand.read_open(ino).await.unwrap() == data);
        assert_eq!(profiles(vfs, "file").await, all(&["1+2"]));
        hand.close(ino).await.unwrap();
    });
}

#[test]
fn what_is_moved_below_another_policy_is_stored_anew_within_the_hour() {
    block_on(async {
        let twin = open(6, 6).await;
        let vfs = twin.vfs();
        let hand = Hand(vfs);
        hand.mkdir("safe").await.unwrap();
        vfs.set_policy(b"safe", redundancy("1+2")).await.unwrap();
        recode(vfs).await;
        let data = bytes(&Entropy::seeded(6), 30_000);
        hand.write("file", 0, &data).await.unwrap();
        vfs.sync().await.unwrap();
        let rename = Rename {
            parent: Ino::ROOT,
            name: Name::new(b"file"),
            new_parent: hand.find("safe").await.unwrap(),
            new_name: Name::new(b"file"),
            flags: RenameFlags::Replace,
        };
        vfs.rename(&Caller::ROOT, &rename).wait().await.unwrap();
        assert_eq!(left(vfs, "safe").await, 30_000);
        tokio::time::sleep(Duration::from_secs(3700)).await;
        assert_eq!(recode(vfs).await, 30_000);
        assert_eq!(left(vfs, "safe").await, 0);
        assert!(hand.read("safe/file").await.unwrap() == data);
    });
}

#[test]
fn nothing_becomes_less_safe_than_it_is() {
    block_on(async {
        let mut twin = open(6, 7).await;
        let data = bytes(&Entropy::seeded(7), 200_000);
        Hand(twin.vfs()).write("file", 0, &data).await.unwrap();
        twin.vfs().sync().await.unwrap();
        // With four of six, new blocks of 3+3 survive the loss of one peer; what is there survived two.
        for peer in [4, 5] {
            twin.cluster.crash(peer);
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        let set = twin.vfs().set_policy(b"", redundancy("3+3")).await;
        set.unwrap();
        let refused = twin.vfs().recode().await.unwrap_err().to_string();
        assert!(refused.contains("too few peers now"), "{refused}");
        // It is left for the next time.
        assert_eq!(recode(twin.vfs()).await, 0);
        assert_eq!(profiles(twin.vfs(), "file").await, all(&["4+2"]));
        assert!(Hand(twin.vfs()).read("file").await.unwrap() == data);
        for peer in [4, 5] {
            twin.cluster.restart(peer).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        recode(twin.vfs()).await;
        assert_eq!(profiles(twin.vfs(), "file").await, all(&["3+3"]));
    });
}

#[test]
fn it_is_an_attribute_that_is_checked() {
    block_on(async {
        let twin = open(6, 8).await;
        let vfs = twin.vfs();
        let hand = Hand(vfs);
        hand.mkdir("dir").await.unwrap();
        hand.write("dir/file", 0, b"x").await.unwrap();
        let (dir, file) = (
            hand.find("dir").await.unwrap(),
            hand.find("dir/file").await.unwrap(),
        );
        let name = || Name::new(XATTR);
        let set = async |ino, value: &[u8], flags| {
            let set = vfs.setxattr(&Caller::ROOT, ino, name(), value, flags);
            set.wait().await
        };
        let get = async |ino| {
            let found = vfs.getxattr(&Caller::ROOT, ino, name()).wait().await;
            found.map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        let listed = async |ino| {
            let all = vfs.listxattr(&Caller::ROOT, ino).wait().await.unwrap();
            all.to_vec().windows(XATTR.len()).any(|part| part == XATTR)
        };
        // What is wanted can be asked for everywhere; it is listed, and copied with a file, only where it is set.
        assert_eq!(get(file).await.unwrap(), "4+2");
        for wrong in [
            b"".as_slice(),
            b"8",
            b"0+2",
            b"90+90",
            b"8+3 please",
            b"\xff+1",
        ] {
            assert_eq!(set(dir, wrong, 0).await, Err(Errno::EINVAL), "{wrong:?}");
        }
        assert!(!listed(dir).await);
        set(dir, b"8+3\n", 0).await.unwrap();
        assert_eq!(get(dir).await.unwrap(), "8+3");
        assert_eq!(get(file).await.unwrap(), "8+3");
        assert!(listed(dir).await && !listed(file).await);
        assert_eq!(
            set(dir, b"4+2", libc::XATTR_CREATE).await,
            Err(Errno::EEXIST)
        );
        assert_eq!(
            set(file, b"4+2", libc::XATTR_REPLACE).await,
            Err(Errno::ENODATA)
        );
        set(file, b"auto", 0).await.unwrap();
        assert_eq!(get(file).await.unwrap(), "auto");
        set(file, b"inherit", 0).await.unwrap();
        set(file, b"inherit", 0).await.unwrap();
        assert_eq!(get(file).await.unwrap(), "8+3");
        assert!(!listed(file).await);
        let gone = vfs.removexattr(&Caller::ROOT, dir, name()).wait().await;
        gone.unwrap();
        let gone = vfs.removexattr(&Caller::ROOT, dir, name()).wait().await;
        assert_eq!(gone, Err(Errno::ENODATA));
        assert_eq!(get(file).await.unwrap(), "4+2");
    });
}

#[test]
fn a_copy_within_the_volume_has_the_redundancy_of_where_it_goes() {
    block_on(async {
        let twin = open(6, 9).await;
        let vfs = twin.vfs();
        let hand = Hand(vfs);
        hand.mkdir("dir").await.unwrap();
        vfs.set_policy(b"dir", redundancy("2+2")).await.unwrap();
        let data = bytes(&Entropy::seeded(9), 300_000);
        hand.write("from", 0, &data).await.unwrap();
        vfs.sync().await.unwrap();
        let (from, to) = (
            hand.open("from").await.unwrap(),
            hand.open("dir/to").await.unwrap(),
        );
        let copy = cairnfs_fuse::CopyRange {
            from: (from, Fh(from.0)),
            from_offset: 0,
            to: (to, Fh(to.0)),
            to_offset: 0,
            len: data.len() as u64,
        };
        let copied = vfs.copy_file_range(&Caller::ROOT, &copy).wait().await;
        assert_eq!(copied.unwrap(), data.len() as u64);
        vfs.sync().await.unwrap();
        hand.close(from).await.unwrap();
        hand.close(to).await.unwrap();
        assert_eq!(profiles(vfs, "dir").await, all(&["2+2"]));
        assert_eq!(profiles(vfs, "from").await, all(&["4+2"]));
        let copied = vfs.footing(b"dir").await.unwrap().blocks;
        let source = vfs.footing(b"from").await.unwrap().blocks;
        assert!(source.keys().all(|block| !copied.contains_key(block)));
        assert!(hand.read("dir/to").await.unwrap() == data);
    });
}
