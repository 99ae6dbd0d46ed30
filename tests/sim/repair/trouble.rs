//! Repairs go on beside all kinds of trouble.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::IndexSet;
use cairnfs::net::memory::LinkFaults;
use cairnfs::store::mem_disk::DiskOp;
use cairnfs::testkit::{Cluster, ClusterOptions};

use super::{
    DEAD, MINUTE, Put, TIMES, UpkeepTimes, held, is_whole, options, put, simulate, start,
    start_with, sum, wait_whole,
};

#[test]
fn disks_without_room_do_not_keep_others_from_being_repaired() {
    simulate(async {
        let mut cluster = start(9, 31).await;
        let puts = put(&cluster, 0, 20).await;
        // All but two take nothing more, not even a note of who is away.
        for at in 1..7 {
            cluster.disk(at).unwrap().set_capacity(0);
        }
        tokio::time::sleep(MINUTE).await;
        let before = held(&cluster, &puts).await;
        let own = cluster.id(0).unwrap();
        let lost = before.iter().filter(|of| of.contains_key(&own)).count() as u64;
        cluster.crash(0);
        tokio::time::sleep(DEAD + 60 * MINUTE).await;
        assert_eq!(sum(&cluster).0, lost);
    });
}

/// One peer's answers do not get through for a moment, at any moment of a look at what is held.
async fn silent_for_a_moment(from: Duration) {
    let cluster = start(7, 32).await;
    let mut puts = put(&cluster, 0, 6).await;
    tokio::time::sleep(5 * MINUTE).await;
    puts.extend(put(&cluster, 0, 6).await);
    let link = |delay: Duration, loss: f64| {
        let faults = LinkFaults {
            delay,
            loss,
            ..ClusterOptions::default().faults
        };
        for other in 0..6 {
            let (a, b) = (cluster.id(6).unwrap(), cluster.id(other).unwrap());
            cluster.hub.link(a, b, faults);
        }
    };
    // Slow enough that something gets lost between two questions.
    link(Duration::from_millis(900), 0.0);
    tokio::time::sleep(from).await;
    link(Duration::from_millis(900), 1.0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    link(Duration::from_millis(1), 0.0);
    tokio::time::sleep(10 * MINUTE).await;
    assert!(is_whole(&cluster, &puts).await);
    for at in 0..7 {
        let health = cluster.repair(at).unwrap().health();
        assert!(health.tally.is_whole(), "after {from:?}: {}", health.line());
    }
}

#[test]
fn who_says_nothing_for_a_moment_is_not_taken_as_away_for_ever() {
    // Around the next look.
    for at in 52..62 {
        simulate(silent_for_a_moment(Duration::from_secs(at)));
    }
}

/// The first shard that a peer holds of any of these.
async fn one_of(cluster: &Cluster, at: usize, puts: &[Put]) -> (cairnfs::base::BlockId, u8) {
    let store = cluster.blocks(at).unwrap().store();
    for put in puts {
        let held = store.held(&[put.reference.id]).await.unwrap();
        if let Some(index) = held[0].iter().next() {
            return (put.reference.id, index);
        }
    }
    panic!("it holds nothing");
}

#[test]
fn what_a_reader_found_damaged_is_made_anew_though_the_index_was_written_meanwhile() {
    simulate(async {
        let cluster = start(7, 33).await;
        let puts = put(&cluster, 0, 8).await;
        tokio::time::sleep(5 * MINUTE).await;
        let (block, index) = one_of(&cluster, 2, &puts).await;
        let store = cluster.blocks(2).unwrap().store().clone();
        // Somewhere in the log: some bit of it is in that shard.
        let disk = cluster.disk(2).unwrap();
        let mut at = 64;
        while store.get(block, IndexSet::one(index)).await.is_ok() {
            assert!(disk.flip_bit("store/segment-00000001", at, 1));
            if store.get(block, IndexSet::one(index)).await.is_ok() {
                disk.flip_bit("store/segment-00000001", at, 1);
            }
            at += 501;
        }
        store.flush_index().await.unwrap();
        tokio::time::sleep(10 * MINUTE).await;
        assert!(sum(&cluster).0 >= 1, "made anew");
        assert!(is_whole(&cluster, &puts).await);
        store.get(block, IndexSet::one(index)).await.unwrap();
    });
}

#[test]
fn what_the_disk_does_not_give_any_more_is_made_anew() {
    simulate(async {
        let times = UpkeepTimes {
            scrub: Duration::from_secs(3600),
            ..TIMES
        };
        let cluster = start_with(7, 34, times).await;
        let puts = put(&cluster, 0, 8).await;
        tokio::time::sleep(5 * MINUTE).await;
        let disk = cluster.disk(2).unwrap();
        let broken = |op: DiskOp, name: &str| {
            let is_data = op == DiskOp::Read && name.starts_with("store/segment");
            is_data.then_some(ErrorKind::Other)
        };
        // A moment costs nothing.
        disk.set_hook(Some(Box::new(broken)));
        tokio::time::sleep(MINUTE).await;
        disk.set_hook(None);
        tokio::time::sleep(100 * MINUTE).await;
        assert_eq!(sum(&cluster).0, 0);
        disk.set_hook(Some(Box::new(broken)));
        tokio::time::sleep(100 * MINUTE).await;
        let made = sum(&cluster).0;
        assert!(made > 0, "each was made anew");
        disk.set_hook(None);
        tokio::time::sleep(10 * MINUTE).await;
        assert!(is_whole(&cluster, &puts).await);
    });
}

#[test]
fn nothing_more_is_made_for_one_who_counted_as_gone_once_it_is_back() {
    simulate(async {
        let times = UpkeepTimes { rate: 200, ..TIMES };
        let mut cluster = start_with(8, 35, times).await;
        let puts = put(&cluster, 0, 40).await;
        let own = cluster.id(3).unwrap();
        let before = held(&cluster, &puts).await;
        let lost = before.iter().filter(|of| of.contains_key(&own)).count() as u64;
        cluster.crash(3);
        tokio::time::sleep(DEAD - MINUTE).await;
        while sum(&cluster).0 < 2 {
            tokio::time::sleep(MINUTE / 6).await;
        }
        cluster.restart(3).await.unwrap();
        // What was begun is finished.
        tokio::time::sleep(2 * MINUTE).await;
        let made = sum(&cluster).0;
        assert!(made < lost / 2, "{made} of {lost}");
        wait_whole(&cluster, &puts, 60 * MINUTE).await;
        assert_eq!(sum(&cluster).0, made);
    });
}

#[test]
fn who_places_blocks_waits_for_them_as_who_reads_does() {
    simulate(async {
        let cluster = start(7, 36).await;
        let blocks = cluster.blocks(0).unwrap().clone();
        let link = |loss: f64| {
            for other in 1..7 {
                let faults = LinkFaults {
                    loss,
                    ..ClusterOptions::default().faults
                };
                let (a, b) = (cluster.id(0).unwrap(), cluster.id(other).unwrap());
                cluster.hub.link(a, b, faults);
            }
        };
        let upload = blocks.upload(options()).await.unwrap();
        assert!(!blocks.is_wanted());
        link(1.0);
        let pending = upload.submit(Bytes::from_static(b"on its way")).await;
        pending.unwrap().await.unwrap();
        assert!(blocks.is_wanted());
        link(0.0);
        upload.finish(Vec::new()).await.unwrap();
        assert!(!blocks.is_wanted());
    });
}
