//! Failing and full disks, quotas, and requests out of bounds.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Class, Classify};
use cairnfs::store::mem_disk::{Crash, DiskOp};
use cairnfs::store::{
    DirtyId, Disk, Group, MemDisk, Seq, Space, Volume, VolumeError, VolumeOpenError, VolumeOptions,
};

use super::support::{ID, Maker, Model, QUOTA, apply, content, open, open_with, tiny};
use crate::store::support::simulate;

fn row(key: u64, value: &[u8]) -> Group {
    let mut group = Group::new();
    group.put(Space(1), &key.to_be_bytes(), value);
    group
}

fn has(volume: &Volume, key: u64) -> bool {
    volume.get(Space(1), &key.to_be_bytes()).unwrap().is_some()
}

/// Fails calls on files whose name contains `part`: the first, or all.
fn fail(disk: &MemDisk, op: DiskOp, part: &'static str, kind: ErrorKind, is_once: bool) {
    let mut armed = true;
    disk.set_hook(Some(Box::new(move |found, name| {
        let hit = armed && found == op && name.contains(part);
        armed &= !(hit && is_once);
        hit.then_some(kind)
    })));
}

#[test]
fn after_a_failed_write_or_sync_nothing_more_is_taken_and_reads_go_on() {
    for op in [DiskOp::Write, DiskOp::Sync] {
        for part in ["journal", "tables"] {
            simulate(async {
                let disk = MemDisk::new(1 << 30);
                let (_store, volume, _) = open(&disk).await;
                let seq = volume.apply(&row(1, b"kept")).unwrap();
                volume.sync(seq).await.unwrap();
                fail(&disk, op, part, ErrorKind::Other, true);
                let seq = volume.apply(&row(2, b"doubtful")).unwrap();
                let failed = match part {
                    "journal" => volume.sync(seq).await,
                    _ => volume.flush().await,
                };
                assert_eq!(failed.unwrap_err().class(), Class::Closed, "{op:?} {part}");
                assert!(volume.usage().poisoned);
                let error = volume.apply(&row(3, b"refused")).unwrap_err();
                assert!(matches!(error, VolumeError::Poisoned(_)), "{error}");
                assert!(matches!(volume.room().await, Err(VolumeError::Poisoned(_))));
                assert!(has(&volume, 1) && has(&volume, 2) && !has(&volume, 3));
                assert_eq!(content(&volume, 5).unwrap().rows.len(), 2);
                assert!(volume.close().await.is_err());
                let image = disk.crash_image(&Crash::LoseAll);
                let (_store, volume, _) = open(&image).await;
                assert!(has(&volume, 1) && !has(&volume, 3));
                let seq = volume.apply(&row(3, b"taken")).unwrap();
                volume.sync(seq).await.unwrap();
            });
        }
    }
}

#[test]
fn a_full_disk_is_full_and_goes_on_when_there_is_room() {
    for part in ["journal", "tables"] {
        simulate(async {
            let disk = MemDisk::new(1 << 30);
            let (_store, volume, _) = open(&disk).await;
            volume.apply(&row(1, b"first")).unwrap();
            volume.flush().await.unwrap();
            fail(&disk, DiskOp::Write, part, ErrorKind::StorageFull, false);
            let mut group = row(2, b"second");
            group.keep(DirtyId(1), Bytes::from(vec![7; 40_000]));
            let seq = volume.apply(&group).unwrap();
            let synced = volume.sync(seq).await;
            assert_eq!(synced.is_ok(), part == "tables");
            let error = volume.flush().await.unwrap_err();
            assert_eq!(error.class(), Class::Full, "{error}");
            // More comes while it is full, and what is there is read.
            volume.apply(&row(3, b"third")).unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert!(!volume.usage().poisoned);
            assert!(has(&volume, 1) && has(&volume, 2) && has(&volume, 3));
            assert_eq!(
                volume.read_dirty(DirtyId(1), 0, 9).unwrap(),
                [7; 9].as_slice()
            );
            let image = disk.crash_image(&Crash::LoseAll);
            disk.set_hook(None);
            volume.flush().await.unwrap();
            assert_eq!(volume.usage().waiting_rows, 0);
            for n in 10..60 {
                apply(&volume, &row(n, &[1; 500])).await.unwrap();
            }
            volume.flush().await.unwrap();
            assert_eq!(content(&volume, 9).unwrap().rows.len(), 53);
            let later = disk.crash_image(&Crash::LoseAll);
            for (image, rows) in [(image, if part == "tables" { 2 } else { 1 }), (later, 53)] {
                let (_store, volume, report) = open(&image).await;
                assert_eq!(report.damaged_regions, 0);
                let found = content(&volume, 9).unwrap();
                assert!(found.rows.len() >= rows, "{part}: {}", found.rows.len());
                assert_eq!(found.dirty.len(), usize::from(rows > 1));
            }
        });
    }
}

#[test]
fn changes_are_durable_after_the_interval_without_being_asked_for() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let (_store, volume, _) = open(&disk).await;
        volume.apply(&row(1, b"x")).unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(volume.usage().synced, Seq(0));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(volume.usage().synced, Seq(1));
        let image = disk.crash_image(&Crash::LoseAll);
        let (_store, reopened, report) = open(&image).await;
        assert_eq!(report.replayed_groups, 1);
        assert!(has(&reopened, 1));
        // The tables follow when nothing happens.
        assert_eq!(volume.usage().waiting_rows, 1);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(volume.usage().waiting_rows, 0);
        let (_store, _, report) = open(&disk.crash_image(&Crash::LoseAll)).await;
        assert_eq!(report.replayed_groups, 0);
    });
}

#[test]
fn many_waiters_share_one_sync() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let (_store, volume, _) = open(&disk).await;
        let seqs: Vec<Seq> = (0..16)
            .map(|n| volume.apply(&row(n, b"x")).unwrap())
            .collect();
        let before = disk.changes();
        let synced = futures::future::join_all(seqs.iter().map(|seq| volume.sync(*seq))).await;
        assert!(synced.iter().all(Result::is_ok));
        // One write and one sync.
        assert_eq!(disk.changes() - before, 2);
        // A waiter that gives up leaves the others alone.
        let seq = volume.apply(&row(99, b"x")).unwrap();
        let given_up = volume.sync(seq);
        tokio::select! { biased; () = std::future::ready(()) => {}, _ = given_up => {} }
        volume.sync(seq).await.unwrap();
    });
}

#[test]
fn what_waits_is_bounded_and_room_comes() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let (_store, volume, _) = open(&disk).await;
        let limits = tiny();
        let mut refused = 0;
        for n in 0..2000u64 {
            let group = row(n, &[3; 200]);
            if volume.apply(&group) == Err(VolumeError::Busy) {
                refused += 1;
                volume.room().await.unwrap();
                volume.apply(&group).unwrap();
            }
            let usage = volume.usage();
            assert!(
                usage.waiting_rows <= 4 * limits.flush_rows as u64,
                "{usage:?}"
            );
            assert!(
                usage.unwritten <= limits.unwritten_bytes as u64,
                "{usage:?}"
            );
        }
        assert!(refused > 5, "{refused}");
        // Dirty data as well; what is larger than the bound is taken alone.
        for n in 0..20u64 {
            let mut group = Group::new();
            group.keep(DirtyId(n), Bytes::from(vec![n as u8; 200_000]));
            apply(&volume, &group).await.unwrap();
            assert!(volume.usage().unwritten < 300_000);
        }
        let mut group = Group::new();
        group.keep(DirtyId(99), Bytes::from(vec![9; 4 << 20]));
        apply(&volume, &group).await.unwrap();
        volume.flush().await.unwrap();
        assert_eq!(
            volume.read_dirty(DirtyId(99), (4 << 20) - 3, 9).unwrap(),
            [9; 3].as_slice()
        );
        assert_eq!(volume.usage().dirty_count, 21);
    });
}

#[test]
fn a_journal_of_which_the_tables_have_all_takes_no_room() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let options = VolumeOptions {
            segment_bytes: 256 << 10,
            flush_rows: 10_000,
            flush_bytes: 1 << 20,
            ..tiny()
        };
        let (_store, volume, _) = open_with(&disk, options).await.unwrap();
        for n in 0..200 {
            apply(&volume, &row(n, &[1; 100])).await.unwrap();
        }
        volume.sync_all().await.unwrap();
        assert!(volume.usage().journal > 20_000, "{:?}", volume.usage());
        // Nobody asks for it.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(volume.usage().journal < 10_000, "{:?}", volume.usage());
        assert!((0..200).all(|n| has(&volume, n)));
        volume.close().await.unwrap();
    });
}

#[test]
fn a_journal_stays_below_twice_what_it_keeps() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let (store, volume, _) = open(&disk).await;
        let (limits, maker) = (tiny(), Maker::new(3));
        let constant = u64::from(limits.segment_bytes) * 2 + limits.flush_tail_bytes + (200 << 10);
        let mut model = Model::default();
        for n in 0..600u64 {
            let mut group = row(n % 50, &[1; 100]);
            let bytes = maker.bytes(1 + maker.entropy.below(9_000) as usize);
            group.keep(DirtyId(n), bytes.clone());
            model.dirty.insert(n, bytes);
            // Every tenth lives long.
            if n >= 30 && (n - 30) % 10 != 0 {
                group.release(DirtyId(n - 30));
                model.dirty.remove(&(n - 30));
            }
            apply(&volume, &group).await.unwrap();
            if n % 20 == 19 {
                volume.flush().await.unwrap();
                tokio::time::sleep(Duration::from_secs(10)).await;
                let usage = volume.usage();
                assert!(
                    usage.journal <= 2 * usage.dirty + constant,
                    "{n}: {usage:?}"
                );
            }
        }
        assert_eq!(content(&volume, 99).unwrap().dirty, model.dirty);
        let before = volume.usage();
        assert!(before.dirty > 200_000, "{before:?}");
        volume.close().await.unwrap();
        let (volume, _) = store.open_volume(ID, tiny()).await.unwrap();
        assert_eq!(content(&volume, 99).unwrap().dirty, model.dirty);
        // Nothing of it stays when all is let go.
        let mut group = Group::new();
        model.dirty.keys().for_each(|id| {
            group.release(DirtyId(*id));
        });
        apply(&volume, &group).await.unwrap();
        volume.flush().await.unwrap();
        apply(&volume, &row(1, &[1; 9_000])).await.unwrap();
        for _ in 0..9 {
            apply(&volume, &row(1, &[1; 9_000])).await.unwrap();
            volume.flush().await.unwrap();
        }
        let usage = volume.usage();
        assert!(usage.journal <= constant, "{usage:?}");
    });
}

#[test]
fn the_quota_of_the_store_holds_for_volumes_and_letting_go_is_always_taken() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let options = VolumeOptions {
            unwritten_bytes: 2 << 20,
            ..VolumeOptions::default()
        };
        let (store, volume, _) = open_with(&disk, options.clone()).await.unwrap();
        let quota = 40 << 20;
        store.set_quota(quota).unwrap();
        let used = || -> u64 {
            disk.walk(&|_| false)
                .unwrap()
                .iter()
                .map(|entry| entry.allocated)
                .sum()
        };
        let mut kept = 0;
        let error = loop {
            let mut group = row(kept, &[5; 1000]);
            group.keep(DirtyId(kept), Bytes::from(vec![kept as u8; 200_000]));
            match apply(&volume, &group).await {
                Ok(_) => kept += 1,
                Err(error) => break error,
            }
            assert!(kept < 1000);
            assert!(used() <= quota, "{} of {quota}", used());
        };
        assert_eq!(error.class(), Class::Full, "{error}");
        assert!(kept > 50, "{kept}");
        volume.sync_all().await.unwrap();
        // Rows find no room either in the end, but what frees does, and then there is room again.
        let mut rows = 0;
        while apply(&volume, &row(1000 + rows, &[5; 16_000]))
            .await
            .is_ok()
        {
            rows += 1;
            assert!(rows < 1000 && used() <= quota);
        }
        for id in 0..kept {
            let mut group = Group::new();
            group
                .release(DirtyId(id))
                .remove(Space(1), &id.to_be_bytes())
                .cleanup();
            apply(&volume, &group).await.unwrap();
            assert!(used() <= quota, "{} of {quota}", used());
        }
        volume.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let mut group = Group::new();
        group.keep(DirtyId(1), Bytes::from(vec![1; 200_000]));
        apply(&volume, &group).await.unwrap();
        volume.sync_all().await.unwrap();
        // What the accounts say is what is there.
        volume.close().await.unwrap();
        store.flush_index().await.unwrap();
        assert_eq!(store.usage().reserved, 0);
        assert_eq!(store.usage().allocated, used());
        let (volume, _) = store.open_volume(ID, options).await.unwrap();
        assert_eq!(store.usage().allocated, used());
        drop(volume);
        assert!(QUOTA > quota);
    });
}

#[test]
fn requests_out_of_bounds_are_refused_and_change_nothing() {
    simulate(async {
        let disk = MemDisk::new(1 << 30);
        let (store, volume, _) = open(&disk).await;
        let class = |group: &Group| volume.apply(group).map_err(|error| error.class());
        let mut group = row(1, b"x");
        group.put(Space(0), &[1; 1025], b"");
        assert_eq!(class(&group), Err(Class::Denied));
        let mut group = row(1, b"x");
        group.put(Space(0), b"", &[1; (16 << 10) + 1]);
        assert_eq!(class(&group), Err(Class::Denied));
        let mut group = row(1, b"x");
        group.keep(DirtyId(1), Bytes::from(vec![0; (4 << 20) + 1]));
        assert_eq!(class(&group), Err(Class::Denied));
        let mut group = Group::new();
        for n in 0..70 {
            group.put(Space(0), &[n], &[1; 16 << 10]);
        }
        assert_eq!(class(&group), Err(Class::Denied));
        let mut group = row(1, b"x");
        group
            .keep(DirtyId(1), Bytes::new())
            .keep(DirtyId(1), Bytes::new());
        assert_eq!(
            volume.apply(&group),
            Err(VolumeError::DirtyExists(DirtyId(1)))
        );
        let mut group = row(1, b"x");
        group.release(DirtyId(1));
        assert_eq!(
            volume.apply(&group),
            Err(VolumeError::DirtyUnknown(DirtyId(1)))
        );
        assert_eq!(
            volume.read_dirty(DirtyId(1), 0, 1).map_err(|e| e.class()),
            Err(Class::Missing)
        );
        assert_eq!(content(&volume, 9).unwrap(), Model::default());
        // The largest of everything.
        let mut group = Group::new();
        group.put(Space(255), &[255; 1024], &[1; 16 << 10]);
        let seq = volume.apply(&group).unwrap();
        volume.sync(seq).await.unwrap();
        volume.flush().await.unwrap();
        assert_eq!(content(&volume, 9).unwrap().rows.len(), 1);
        let in_use = store.open_volume(ID, tiny()).await.unwrap_err();
        assert!(matches!(in_use, VolumeOpenError::InUse(_)));
        assert!(store.remove_volume(ID).await.is_err());
        assert!(store.create_volume(ID).await.is_err());
        let other = volume.clone();
        volume.close().await.unwrap();
        assert_eq!(other.apply(&row(1, b"x")), Err(VolumeError::Closed));
        assert_eq!(other.get(Space(1), b"").unwrap_err(), VolumeError::Closed);
        assert_eq!(other.sync(Seq(1)).await, Ok(()));
        // Dropping is closing.
        let (volume, _) = store.open_volume(ID, tiny()).await.unwrap();
        volume.apply(&row(5, b"x")).unwrap();
        drop(volume);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (volume, report) = store.open_volume(ID, tiny()).await.unwrap();
        assert_eq!(report.replayed_groups, 0);
        assert!(has(&volume, 5));
    });
}
