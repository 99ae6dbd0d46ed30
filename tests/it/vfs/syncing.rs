//! What a sync waits for.

use std::time::Duration;

use cairnfs::base::limits::DIRTY_PER_GROUP_MAX;
use cairnfs::base::{Entropy, Limits};
use cairnfs::blocks::PutError;
use cairnfs::net::fault::Fault;
use cairnfs::store::mem_disk::DiskOp;
use cairnfs::testkit::ClusterOptions;
use cairnfs::vfs::VfsError;
use cairnfs_fuse::{
    AllocMode, Caller, CopyRange, Errno, Fh, FileSystem, Ino, Rename, RenameFlags, SetAttr, Write,
};

use super::files::{block_on, close, content, make, write};
use super::twin::{RW, Twin};
use crate::common::hand::Hand;
use crate::support::scaled;

/// Longer than any sync of so little takes, and than a file is left alone before it is sealed.
const LONG: Duration = Duration::from_secs(30);

/// Writes to all files, again and again: at the end, in the middle, and to one that stays in its row.
async fn write_on(twin: &Twin, files: [Ino; 3]) {
    for round in 1.. {
        let bytes = [round as u8; 3000];
        write(twin, files[0], 3000 * round, &bytes).await;
        write(twin, files[1], 500, &bytes).await;
        write(twin, files[2], 0, &round.to_le_bytes()).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// The same files under steady writes before, during and after the sync: it ends, and what was written before
/// is described.
async fn under_writes(peers: usize) {
    let mut twin = Twin::new(peers, 3).await;
    let names = ["longer", "middle", "small"];
    let mut files = [Ino::ROOT; 3];
    for (file, name) in files.iter_mut().zip(names) {
        *file = make(&twin, name, b"first").await;
    }
    let old = make(&twin, "old", &[7; 200_000]).await;
    close(&twin, old).await;
    let sync = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for _ in 0..3 {
            let synced = tokio::time::timeout(LONG, twin.vfs().sync()).await;
            synced.expect("a sync that waits for later writes").unwrap();
        }
    };
    tokio::select! {
        biased;
        () = write_on(&twin, files) => {}
        () = sync => {}
    }
    let usage = twin.vfs().usage();
    assert!(usage.stored_bytes >= 200_000 + 2 * 3000, "{usage:?}");
    twin.crash().await;
    assert!(content(&twin, "old").await == [7; 200_000]);
    assert!(content(&twin, "longer").await.len() >= 6 * 3000);
    assert!(content(&twin, "middle").await.len() == 3500);
    assert!(content(&twin, "small").await.len() == 8);
}

#[test]
fn a_sync_does_not_wait_for_what_is_written_after_it_began() {
    for peers in [1, 6] {
        block_on(under_writes(peers));
    }
}

/// A sync covers sizes as well, of files that are cut and made longer all the time.
#[test]
fn a_sync_describes_sizes_that_were_set_before() {
    block_on(async {
        let twin = Twin::new(1, 4).await;
        let ino = make(&twin, "cut", &[1; 100_000]).await;
        twin.vfs().sync().await.unwrap();
        let resize = async {
            for round in 0u64.. {
                let change = cairnfs_fuse::SetAttr {
                    size: Some(90_000 - round % 1000),
                    ..Default::default()
                };
                let caller = &cairnfs_fuse::Caller::ROOT;
                let cut = twin.vfs().setattr(caller, ino, &change).wait().await;
                cut.unwrap();
                write(&twin, ino, 0, &round.to_le_bytes()).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let sync = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let synced = tokio::time::timeout(LONG, twin.vfs().sync()).await;
            synced
                .expect("a sync that waits for later changes")
                .unwrap();
        };
        tokio::select! {
            biased;
            () = resize => {}
            () = sync => {}
        }
        // The blocks that the file had before are counted for what it has left of them.
        let stored = twin.vfs().usage().stored_bytes;
        assert!(stored < 100_000, "{stored} bytes are described");
    });
}

/// Writes of all sizes anywhere in two files, synced after every few: as databases do, and `fio`.
async fn at_random(seed: u64, writes: usize) {
    const SIZE: u64 = 8 << 20;
    let options = ClusterOptions {
        peers: 1,
        quota_bytes: 256 << 20,
        limits: Limits::default(),
        ..ClusterOptions::default()
    };
    let mut twin = Twin::with(options, "4+2", seed).await;
    let entropy = Entropy::seeded(seed);
    let mut files = Vec::new();
    for name in ["one", "two"] {
        files.push((make(&twin, name, b"").await, vec![0u8; SIZE as usize], name));
    }
    for round in 1..=writes {
        let at = entropy.below(2) as usize;
        let (ino, expected, name) = &mut files[at];
        let len = 512 * (1 + entropy.below(256));
        let offset = 512 * entropy.below((SIZE - len) / 512);
        let mut bytes = vec![0; len as usize];
        entropy.fill(&mut bytes);
        write(&twin, *ino, offset, &bytes).await;
        expected[offset as usize..][..len as usize].copy_from_slice(&bytes);
        if round % 64 == 0 {
            let synced = Hand(twin.vfs()).fsync(name).await;
            assert_eq!(synced, Ok(()), "seed {seed}, write {round}");
            tokio::time::sleep(Duration::from_millis(entropy.below(30))).await;
        }
    }
    for (_, _, name) in &files {
        Hand(twin.vfs()).fsync(name).await.unwrap();
    }
    for is_reopened in [false, true] {
        if is_reopened {
            twin.crash().await;
        }
        for (_, expected, name) in &files {
            let found = content(&twin, name).await;
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed}, {name}, {is_reopened}");
        }
    }
}

/// As many changes as one group of the journal takes, in front of others that were synced before.
#[test]
fn changes_that_fill_a_group_leave_those_behind_them_alone() {
    block_on(async {
        let mut twin = Twin::new(1, 7).await;
        let ino = make(&twin, "file", b"").await;
        for batch in [1u64, 0] {
            for at in 0..DIRTY_PER_GROUP_MAX as u64 {
                let offset = 8192 * (at + 100 * batch);
                write(&twin, ino, offset, &[1 + batch as u8; 512]).await;
            }
            Hand(twin.vfs()).fsync("file").await.unwrap();
        }
        twin.crash().await;
        let found = content(&twin, "file").await;
        for batch in [1u64, 0] {
            for at in 0..DIRTY_PER_GROUP_MAX as u64 {
                let offset = 8192 * (at + 100 * batch);
                let part = &found[offset as usize..][..512];
                assert!(part == [1 + batch as u8; 512], "{batch} {at}");
            }
        }
    });
}

/// What a small file had is in its row; when it grows, a crash at any moment leaves at least that.
#[test]
fn a_file_that_grows_keeps_what_it_had_at_every_moment() {
    for ms in (0..3000).step_by(150) {
        block_on(async {
            let options = ClusterOptions {
                peers: 1,
                quota_bytes: 256 << 20,
                limits: Limits::default(),
                ..ClusterOptions::default()
            };
            let mut twin = Twin::with(options, "4+2", ms).await;
            let ino = make(&twin, "file", &[7; 200]).await;
            close(&twin, ino).await;
            twin.vfs().sync().await.unwrap();
            let ino = Hand(twin.vfs()).open("file").await.unwrap();
            for at in 0..12u64 {
                write(&twin, ino, 200 + (at << 20), &vec![8; 1 << 20]).await;
            }
            tokio::time::sleep(Duration::from_millis(ms)).await;
            // Another file's sync writes down what the journal was told of this one.
            let other = make(&twin, "other", b"x").await;
            close(&twin, other).await;
            Hand(twin.vfs()).fsync("other").await.unwrap();
            twin.crash().await;
            let found = content(&twin, "file").await;
            assert!(
                found.starts_with(&[7; 200]),
                "after {ms} ms: {:?}",
                &found[..8]
            );
        });
    }
}

/// One write over more pieces than a group of the journal takes.
#[test]
fn a_large_write_over_very_many_small_ones_is_synced() {
    block_on(async {
        let options = ClusterOptions {
            peers: 1,
            quota_bytes: 256 << 20,
            limits: Limits::default(),
            ..ClusterOptions::default()
        };
        let mut twin = Twin::with(options, "4+2", 8).await;
        let ino = make(&twin, "file", b"").await;
        for at in 0..30_000u64 {
            write(&twin, ino, 128 * at, &[1; 100]).await;
        }
        Hand(twin.vfs()).fsync("file").await.unwrap();
        for at in 0..4u64 {
            write(&twin, ino, at << 20, &vec![2; 1 << 20]).await;
        }
        assert_eq!(Hand(twin.vfs()).fsync("file").await, Ok(()));
        twin.crash().await;
        assert!(content(&twin, "file").await == vec![2; 4 << 20]);
    });
}

#[test]
fn writes_of_all_sizes_that_are_synced_now_and_then_stay() {
    for seed in 0..scaled(4) as u64 {
        block_on(at_random(seed, 1500));
    }
}

/// More than the journal takes at once: the rename waits for the disk, and not in circles.
#[test]
fn a_rename_of_much_that_was_just_written_waits_for_the_journal() {
    block_on(async {
        let mut twin = Twin::roomy(13).await;
        let ino = make(&twin, "written", &[]).await;
        let piece = vec![9; 1 << 20];
        for at in 0..48u64 {
            write(&twin, ino, at << 20, &piece).await;
        }
        make(&twin, "beside", b"something that waits to be written").await;
        let rename = Rename {
            parent: Ino::ROOT,
            name: "written".into(),
            new_parent: Ino::ROOT,
            new_name: "renamed".into(),
            flags: RenameFlags::Replace,
        };
        let renamed = twin.vfs().rename(&Caller::ROOT, &rename).wait();
        let renamed = tokio::time::timeout(LONG, renamed).await;
        renamed.expect("it ends").unwrap();
        twin.vfs().fsync(ino, Fh(0), false).wait().await.unwrap();
        twin.crash().await;
        let found = content(&twin, "renamed").await;
        assert!(found.len() == 48 << 20 && found.iter().all(|byte| *byte == 9));
    });
}

/// What was not on the disk when a sync failed may be lost: nobody is told later that it is safe, and nothing more
/// is taken that would be lost with it.
#[test]
fn after_a_sync_that_failed_nothing_is_written_until_it_is_opened_again() {
    block_on(async {
        let mut twin = Twin::new(1, 14).await;
        let ino = make(&twin, "file", &[1; 100_000]).await;
        let other = make(&twin, "other", &[2; 100_000]).await;
        twin.vfs().sync().await.unwrap();
        let disk = twin.cluster.disk(0).unwrap().clone();
        disk.set_hook(Some(Box::new(|found, name: &str| {
            let is_journal = found == DiskOp::Sync && name.contains("journal");
            is_journal.then_some(std::io::ErrorKind::Other)
        })));
        write(&twin, ino, 0, b"is lost").await;
        let vfs = twin.vfs();
        let synced = vfs.fsync(ino, Fh(0), false).wait().await;
        assert_eq!(synced, Err(Errno::EIO));
        disk.set_hook(None);
        let root = &Caller::ROOT;
        let bytes = Write {
            offset: 0,
            bytes: b"more",
            flags: RW,
            is_from_cache: false,
            kill_suidgid: false,
        };
        let cut = SetAttr {
            size: Some(5),
            ..SetAttr::default()
        };
        let copy = CopyRange {
            from: (other, Fh(0)),
            from_offset: 0,
            to: (ino, Fh(0)),
            to_offset: 0,
            len: 1000,
        };
        let written = vfs.write(root, ino, Fh(0), &bytes).wait().await;
        let cut = vfs.setattr(root, ino, &cut).wait().await;
        let copied = vfs.copy_file_range(root, &copy).wait().await;
        let mode = AllocMode::PunchHole;
        let punched = vfs.fallocate(root, ino, Fh(0), 0, 1000, mode).wait().await;
        let removed = vfs.unlink(root, Ino::ROOT, "other".into()).wait().await;
        let synced = vfs.fsync(ino, Fh(0), false).wait().await;
        assert_eq!(written, Err(Errno::EIO));
        assert_eq!(cut.map(drop), Err(Errno::EIO));
        assert_eq!(copied, Err(Errno::EIO));
        assert_eq!(punched, Err(Errno::EIO));
        assert_eq!(removed, Err(Errno::EIO));
        assert_eq!(synced, Err(Errno::EIO));
        // Reads go on, and what was synced before is there.
        assert_eq!(content(&twin, "other").await, [2; 100_000]);
        twin.crash().await;
        assert_eq!(content(&twin, "file").await, [1; 100_000]);
        let again = make(&twin, "again", b"x").await;
        twin.vfs().fsync(again, Fh(0), false).wait().await.unwrap();
    });
}

/// Peers that take shards and promise nothing are too few, and no full disk.
#[test]
fn a_sync_that_fails_says_why() {
    block_on(async {
        let options = ClusterOptions {
            peers: 6,
            fault: Some(Fault::Renege),
            ..ClusterOptions::default()
        };
        let twin = Twin::with(options, "4+2", 11).await;
        // They know each other by then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let file = make(&twin, "file", &[7; 200_000]).await;
        close(&twin, file).await;
        let failed = tokio::time::timeout(LONG, twin.vfs().sync()).await;
        let failed = failed.unwrap().unwrap_err();
        let is_told = matches!(failed, VfsError::Unplaced(PutError::Unconfirmed { .. }));
        assert!(is_told, "{failed}");
        assert!(failed.to_string().contains("did not confirm"), "{failed}");
    });
}

/// Of a file that is written all the time, and whose blocks take long to be placed, the journal is behind by two commit
/// intervals at most.
#[test]
fn of_what_is_on_its_way_into_the_pool_a_crash_loses_the_last_moments() {
    for ms in (2600..4200).step_by(200) {
        block_on(async {
            let options = ClusterOptions {
                peers: 6,
                fault: Some(Fault::Delay(Duration::from_secs(5))),
                ..ClusterOptions::default()
            };
            let mut twin = Twin::with(options, "4+2", ms).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let ino = make(&twin, "file", b"").await;
            let begun = tokio::time::Instant::now();
            // How much was written, and when.
            let mut written = Vec::new();
            let writing = async {
                for at in 0u64.. {
                    write(&twin, ino, at * 40_000, &[at as u8 + 1; 40_000]).await;
                    written.push((begun.elapsed(), (at + 1) * 40_000));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let crash = Duration::from_millis(ms);
            assert!(tokio::time::timeout(crash, writing).await.is_err());
            twin.crash().await;
            let found = content(&twin, "file").await;
            let safe = crash - Duration::from_millis(2100);
            let safe = written.iter().filter(|(when, _)| *when <= safe);
            let safe = safe.map(|(_, upto)| *upto).max().unwrap_or(0);
            assert!(safe > 0, "{written:?}");
            assert!(found.len() as u64 >= safe, "{} of {safe}", found.len());
            for (at, piece) in (0u8..).zip(found.chunks(40_000)) {
                assert!(piece.iter().all(|byte| *byte == at + 1), "{at}");
            }
        });
    }
}
