//! A peer that leaves hands over what it holds, and is not missed.

use std::time::Duration;

use cairnfs::net::{Offer, Stay};
use cairnfs::repair::Remainder;
use cairnfs::testkit::Cluster;

use super::balance::{least, moved, put_equal};
use super::{DEAD, MINUTE, Put, held, is_whole, read_all, shards, simulate, start, sum};

async fn tell(cluster: &Cluster, at: usize, stay: Stay) {
    let bytes = match stay {
        Stay::Stays => 64 << 20,
        _ => 0,
    };
    let offer = Offer {
        capacity_bytes: bytes,
        free_bytes: bytes,
        zone: String::new(),
        stay,
    };
    let net = cluster.blocks(at).unwrap().net().clone();
    net.offer(offer).await.unwrap();
}

fn left(cluster: &Cluster, at: usize) -> Option<Remainder> {
    cluster.repair(at).unwrap().remainder()
}

/// Waits until a peer has nothing left that must not be lost. Meanwhile no block survives less than `least_lost` losses.
async fn wait_done(cluster: &Cluster, at: usize, puts: &[Put], least_lost: usize) -> Duration {
    let begun = tokio::time::Instant::now();
    while !left(cluster, at).is_some_and(|left| left.is_done()) {
        let held = held(cluster, puts).await;
        assert!(least(&held) >= least_lost, "after {:?}", begun.elapsed());
        let (took, left) = (begun.elapsed(), left(cluster, at));
        assert!(took < DEAD + 120 * MINUTE, "{left:?} are left");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    begun.elapsed()
}

#[test]
fn one_of_nine_hands_over_all_it_has_and_is_not_missed() {
    simulate(async {
        let mut cluster = start(9, 71).await;
        let puts = put_equal(&cluster, 2, 120).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(left(&cluster, 2), None);
        let own = cluster.id(2).unwrap();
        let has = held(&cluster, &puts).await;
        let has: u64 = has.iter().filter(|of| of.contains_key(&own)).count() as u64;
        tell(&cluster, 2, Stay::Leaving).await;
        let took = wait_done(&cluster, 2, &puts, 2).await;
        let (count, bytes) = moved(&cluster);
        println!("{has} shards handed over in {took:?}: {count} moved, {bytes} bytes");
        assert!(count as f64 <= 1.1 * has as f64);
        assert!(is_whole(&cluster, &puts).await);
        let now = held(&cluster, &puts).await;
        assert!(now.iter().all(|of| !of.contains_key(&own)));
        // It goes, and nobody looks for it.
        tell(&cluster, 2, Stay::Left).await;
        tokio::time::sleep(MINUTE).await;
        cluster.crash(2);
        tokio::time::sleep(DEAD + 60 * MINUTE).await;
        assert_eq!(sum(&cluster).0, 0, "nothing was made anew");
        let health = cluster.repair(0).unwrap().health();
        assert_eq!((health.peers, health.away), (8, 0));
        assert!(health.tally.is_whole(), "{}", health.line());
        let members = cluster.blocks(0).unwrap().net().members();
        assert!(members.get(&own).is_none());
        read_all(&cluster, &puts).await;
    });
}

#[test]
fn others_who_crash_meanwhile_are_waited_for_or_made_up_for() {
    simulate(async {
        let mut cluster = start(9, 72).await;
        let puts = put_equal(&cluster, 0, 60).await;
        tokio::time::sleep(5 * MINUTE).await;
        cluster.crash(6);
        tokio::time::sleep(MINUTE).await;
        tell(&cluster, 4, Stay::Leaving).await;
        tokio::time::sleep(30 * MINUTE).await;
        let waits = left(&cluster, 4).unwrap();
        assert!(
            waits.shards > 0 && waits.waiting == waits.shards,
            "{waits:?}"
        );
        // What was lost is made anew first, and nothing it survived is lost on the way but by that crash.
        let took = wait_done(&cluster, 4, &puts, 1).await;
        println!("{} shards waited, done {took:?} after", waits.shards);
        let now = held(&cluster, &puts).await;
        assert!(now.iter().all(|of| shards(of).0 == 6));
        cluster.crash(4);
        tokio::time::sleep(MINUTE).await;
        read_all(&cluster, &puts).await;
    });
}

#[test]
fn with_too_few_others_it_keeps_what_it_has_until_one_comes() {
    simulate(async {
        let mut cluster = start(6, 73).await;
        let puts = put_equal(&cluster, 1, 30).await;
        tokio::time::sleep(5 * MINUTE).await;
        tell(&cluster, 5, Stay::Leaving).await;
        tokio::time::sleep(30 * MINUTE).await;
        let stuck = left(&cluster, 5).unwrap();
        assert_eq!((stuck.shards, stuck.homeless), (30, 30));
        assert!(stuck.is_stuck() && is_whole(&cluster, &puts).await);
        assert_eq!((moved(&cluster).0, sum(&cluster).0), (0, 0));
        cluster.add().await.unwrap();
        wait_done(&cluster, 5, &puts, 2).await;
        assert!(is_whole(&cluster, &puts).await);
        assert_eq!(moved(&cluster).0, 30);
    });
}

#[test]
fn who_stays_after_all_takes_its_place_again() {
    simulate(async {
        let cluster = start(8, 74).await;
        let puts = put_equal(&cluster, 1, 40).await;
        tokio::time::sleep(5 * MINUTE).await;
        let before = held(&cluster, &puts).await;
        tell(&cluster, 5, Stay::Leaving).await;
        wait_done(&cluster, 5, &puts, 2).await;
        tell(&cluster, 5, Stay::Stays).await;
        tokio::time::sleep(30 * MINUTE).await;
        assert!(is_whole(&cluster, &puts).await);
        assert_eq!(left(&cluster, 5), None);
        let after = held(&cluster, &puts).await;
        let holders =
            |of: &std::collections::BTreeMap<_, _>| of.keys().copied().collect::<Vec<_>>();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(holders(before), holders(after));
        }
    });
}

#[test]
fn one_of_two_leaves_all_to_the_other() {
    simulate(async {
        let mut cluster = start(2, 75).await;
        let puts = put_equal(&cluster, 0, 12).await;
        tokio::time::sleep(5 * MINUTE).await;
        tell(&cluster, 0, Stay::Leaving).await;
        wait_done(&cluster, 0, &puts, 0).await;
        tell(&cluster, 0, Stay::Left).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        cluster.crash(0);
        tokio::time::sleep(MINUTE).await;
        read_all(&cluster, &puts).await;
        let health = cluster.repair(1).unwrap().health();
        assert!(health.tally.is_whole(), "{}", health.line());
    });
}
