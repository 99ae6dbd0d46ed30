//! Peers that say they hold what they do not: who asks them to prove it finds out, and nobody else is held to account.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, EcProfile, IndexSet, Limits, OwnerId, PeerId};
use cairnfs::blocks::UploadOptions;
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::fault::Fault;
use cairnfs::repair::Trust;
use cairnfs::testkit::{Cluster, ClusterOptions, UpkeepTimes};
use tokio::time::Instant;

use crate::simulate;

const PEERS: usize = 8;
/// The one that is not as it should be.
const ODD: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const TIMES: UpkeepTimes = UpkeepTimes {
    suspect: Duration::from_secs(10 * 60),
    dead: Duration::from_secs(12 * 3600),
    // Nobody looks at the own disk.
    scrub: Duration::from_secs(10 * 365 * 24 * 3600),
    rate: 16 << 20,
    audit: HOUR,
};

async fn start(seed: u64) -> Cluster {
    let options = ClusterOptions {
        peers: PEERS,
        upkeep: Some(TIMES),
        limits: Limits::default(),
        memory_bytes: 0,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster
}

async fn put(cluster: &Cluster, at: usize, count: usize) -> Vec<(BlockRef, Bytes)> {
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OwnerId([1; 16]),
    };
    let upload = cluster.blocks(at).unwrap().upload(options).await.unwrap();
    let mut puts = Vec::new();
    for _ in 0..count {
        let mut content = vec![0; 2000 + cluster.entropy.below(100_000) as usize];
        cluster.entropy.fill(&mut content);
        let content = Bytes::from(content);
        let reference = upload.submit(content.clone()).await.unwrap();
        puts.push((reference.await.unwrap(), content));
    }
    let report = upload.finish(Vec::new()).await.unwrap();
    assert_eq!(report.survives, 2);
    puts
}

/// What peer `at` holds of each block.
async fn held_by(cluster: &Cluster, at: usize, puts: &[(BlockRef, Bytes)]) -> Vec<IndexSet> {
    let blocks: Vec<_> = puts.iter().map(|(reference, _)| reference.id).collect();
    let store = cluster.blocks(at).unwrap().store();
    store.held(&blocks).await.unwrap()
}

/// Shards of all blocks that no peer but the odd one holds.
async fn missing_elsewhere(cluster: &Cluster, puts: &[(BlockRef, Bytes)]) -> usize {
    let mut all = vec![IndexSet::EMPTY; puts.len()];
    for at in (0..cluster.len()).filter(|at| *at != ODD) {
        let held = held_by(cluster, at, puts).await;
        for (all, held) in all.iter_mut().zip(held) {
            *all = all.union(held);
        }
    }
    all.iter().map(|of| 6 - of.len()).sum()
}

fn others() -> impl Iterator<Item = usize> {
    (0..PEERS).filter(|at| *at != ODD)
}

/// What each of the others thinks of the odd one, as far as it has asked it.
fn trusts(cluster: &Cluster) -> Vec<Trust> {
    let odd = cluster.id(ODD).unwrap();
    let of = |at| cluster.repair(at).unwrap().trust(&odd);
    others().filter_map(of).collect()
}

async fn wait_until(what: &str, most: Duration, is_so: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < most, "not within {most:?}: {what}");
        tokio::time::sleep(MINUTE).await;
    }
    begun.elapsed()
}

/// Nobody thinks badly of anybody else.
fn check_others(cluster: &Cluster) {
    for at in 0..PEERS {
        for other in others().filter(|other| *other != at) {
            let peer = cluster.id(other).unwrap();
            let trust = cluster.repair(at).unwrap().trust(&peer);
            let is_fine = |trust: &Trust| trust.percent == 100 && trust.why.is_none();
            assert!(trust.as_ref().is_none_or(is_fine), "{at} {other} {trust:?}");
        }
    }
}

async fn restart_with(cluster: &mut Cluster, fault: Option<Fault>) {
    cluster.crash(ODD);
    cluster.set_fault(ODD, fault);
    cluster.restart(ODD).await.unwrap();
}

async fn read_all(cluster: &Cluster, at: usize, puts: &[(BlockRef, Bytes)]) {
    for (reference, content) in puts {
        let reader = cluster.blocks(at).unwrap();
        let read = reader.read_block(reference, EcProfile::DEFAULT).await;
        assert_eq!(read.unwrap(), *content);
    }
}

/// What becomes of a peer that goes wrong in this way after it was given shards.
async fn goes_wrong(seed: u64, fault: Fault) {
    let mut cluster = start(seed).await;
    let puts = put(&cluster, 0, 40).await;
    tokio::time::sleep(7 * HOUR).await;
    let given = held_by(&cluster, ODD, &puts).await;
    let given: usize = given.into_iter().map(IndexSet::len).sum();
    assert_eq!(missing_elsewhere(&cluster, &puts).await, given);
    check_others(&cluster);
    assert!(trusts(&cluster).iter().all(|trust| trust.percent == 100));
    assert!(trusts(&cluster).iter().all(|trust| trust.answers.good > 3));
    restart_with(&mut cluster, Some(fault)).await;
    let begun = Instant::now();
    wait_until("somebody notices", 3 * HOUR, || {
        let is_bad = |trust: &Trust| trust.answers.lacking + trust.answers.wrong > 0;
        trusts(&cluster).iter().any(is_bad)
    })
    .await;
    // What was found missing is made anew long before nothing of it is believed.
    tokio::time::sleep(10 * MINUTE).await;
    let made = |cluster: &Cluster| -> u64 {
        let of = |at| cluster.repair(at).unwrap().health().made;
        (0..PEERS).map(of).sum()
    };
    assert!(!trusts(&cluster).iter().any(|trust| trust.is_disbelieved));
    let first = made(&cluster);
    assert!(first > 0, "nothing is made");
    wait_until("all know", 9 * HOUR, || {
        trusts(&cluster).iter().all(|trust| trust.is_disbelieved)
    })
    .await;
    let known = begun.elapsed();
    while missing_elsewhere(&cluster, &puts).await > 0 {
        assert!(begun.elapsed() < 12 * HOUR);
        tokio::time::sleep(MINUTE).await;
    }
    println!(
        "{fault:?}: {first} shards made at once; all know after {known:?}; all {} made after {:?}",
        made(&cluster),
        begun.elapsed()
    );
    tokio::time::sleep(10 * MINUTE).await;
    check_others(&cluster);
    let why = trusts(&cluster)[0].why.clone().unwrap();
    assert!(why.contains(" checks"), "{why}");
    for at in others() {
        let health = cluster.repair(at).unwrap().health();
        assert!(health.tally.is_whole(), "{}", health.line());
        assert_eq!((health.tally.blocks, health.tally.least()), (40, Some(2)));
    }
    // What is new goes to the others, from every one of them, after a restart too.
    cluster.crash(0);
    cluster.restart(0).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    for at in [0, 5] {
        let new = put(&cluster, at, 10).await;
        let held = held_by(&cluster, ODD, &new).await;
        assert!(held.iter().all(|held| held.is_empty()), "{held:?}");
        assert_eq!(missing_elsewhere(&cluster, &new).await, 0);
    }
    // Without it and any two others all is there.
    for at in [1, 2, ODD] {
        cluster.crash(at);
    }
    tokio::time::sleep(MINUTE).await;
    read_all(&cluster, 4, &puts).await;
}

#[test]
fn who_sends_what_does_not_verify_loses_trust_and_what_it_held_is_made_anew() {
    simulate(goes_wrong(71, Fault::Forge));
}

#[test]
fn who_lost_all_and_says_nothing_loses_trust_and_what_it_held_is_made_anew() {
    simulate(goes_wrong(72, Fault::Boast));
}

#[test]
fn who_is_sound_again_is_trusted_again() {
    simulate(async {
        let mut cluster = start(73).await;
        let puts = put(&cluster, 0, 30).await;
        restart_with(&mut cluster, Some(Fault::Boast)).await;
        wait_until("all know", 12 * HOUR, || {
            let known = trusts(&cluster);
            known.len() == PEERS - 1 && known.iter().all(|trust| trust.is_disbelieved)
        })
        .await;
        restart_with(&mut cluster, None).await;
        let took = wait_until("all forgive", 6 * 24 * HOUR, || {
            trusts(&cluster).iter().all(|trust| !trust.is_displaced)
        })
        .await;
        println!("trusted again after {took:?}");
        assert!(took > 24 * HOUR);
        let new = put(&cluster, 0, 30).await;
        let held = held_by(&cluster, ODD, &new).await;
        assert!(held.iter().any(|held| !held.is_empty()));
        read_all(&cluster, 5, &puts).await;
    });
}

#[test]
fn who_is_slow_all_day_gets_no_new_shards_and_keeps_what_it_has() {
    simulate(async {
        let cluster = start(74).await;
        let puts = put(&cluster, 0, 40).await;
        let before = held_by(&cluster, ODD, &puts).await;
        let odd = cluster.id(ODD).unwrap();
        cluster.hub.slow(odd, Duration::from_secs(7));
        tokio::time::sleep(6 * HOUR).await;
        assert!(trusts(&cluster).iter().all(|trust| !trust.is_displaced));
        let took = wait_until("all know", 24 * HOUR, || {
            trusts(&cluster).iter().all(|trust| trust.is_displaced)
        })
        .await;
        println!("displaced after {:?}", took + 6 * HOUR);
        let new = put(&cluster, 0, 20).await;
        let held = held_by(&cluster, ODD, &new).await;
        assert!(held.iter().all(|held| held.is_empty()), "{held:?}");
        // It is slow; nothing is lost.
        assert!(trusts(&cluster).iter().all(|trust| !trust.is_disbelieved));
        assert_eq!(held_by(&cluster, ODD, &puts).await, before);
        let made: u64 = (0..PEERS)
            .map(|at| cluster.repair(at).unwrap().health().made)
            .sum();
        assert_eq!(made, 0);
        check_others(&cluster);
    });
}

#[test]
fn who_is_away_or_begins_anew_keeps_its_trust() {
    simulate(async {
        let mut cluster = start(75).await;
        let puts = put(&cluster, 0, 30).await;
        for round in 0..8 {
            let pause = MINUTE * (10 + cluster.entropy.below(200) as u32);
            cluster.crash(ODD);
            tokio::time::sleep(pause).await;
            cluster.restart(ODD).await.unwrap();
            tokio::time::sleep(3 * HOUR).await;
            assert!(
                trusts(&cluster).iter().all(|trust| trust.percent == 100),
                "{round}: {:?}",
                trusts(&cluster)
            );
        }
        assert!(trusts(&cluster).iter().all(|trust| trust.answers.good > 8));
        read_all(&cluster, ODD, &puts).await;
    });
}

#[test]
fn what_a_disk_damaged_is_made_anew_and_costs_little_trust() {
    simulate(async {
        let cluster = start(76).await;
        let puts = put(&cluster, 0, 30).await;
        tokio::time::sleep(5 * MINUTE).await;
        let disk = cluster.disk(ODD).unwrap();
        for at in (5_000..400_000).step_by(60_000) {
            disk.flip_bit("store/segment-00000001", at, 3);
        }
        let damaged = || {
            let store = cluster.blocks(ODD).unwrap().store();
            store.usage().damaged_shards
        };
        tokio::time::sleep(48 * HOUR).await;
        let found = damaged();
        assert!(found > 0, "found though nobody reads");
        let seen: u64 = trusts(&cluster)
            .iter()
            .map(|trust| trust.answers.damaged)
            .sum();
        println!("{found} damaged, noticed {seen} times");
        let made: u64 = (0..PEERS)
            .map(|at| cluster.repair(at).unwrap().health().made)
            .sum();
        assert_eq!(made, found);
        for trust in trusts(&cluster) {
            assert!(!trust.is_displaced && trust.percent > 85, "{trust:?}");
            assert_eq!(trust.answers.wrong + trust.answers.lacking, 0);
        }
        read_all(&cluster, 1, &puts).await;
    });
}

#[test]
fn where_hardly_anybody_is_trusted_everything_is_placed_all_the_same() {
    simulate(async {
        let options = ClusterOptions {
            peers: PEERS,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, 77).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let ids: Vec<PeerId> = (0..PEERS).filter_map(|at| cluster.id(at)).collect();
        let stats = cluster.blocks(0).unwrap().peer_stats();
        for displaced in 0..PEERS {
            let distrusted: BTreeSet<PeerId> =
                ids.iter().skip(PEERS - displaced).copied().collect();
            stats.displace(&distrusted, &BTreeSet::new());
            let puts = put(&cluster, 0, 10).await;
            assert_eq!(missing_anywhere(&cluster, &puts).await, 0);
            for at in (PEERS - displaced)..PEERS {
                let held = held_by(&cluster, at, &puts).await;
                let has_some = held.iter().any(|held| !held.is_empty());
                // Six can take a shard each as long as two are passed over.
                assert_eq!(has_some, displaced > PEERS - 6, "{displaced} {at}");
            }
        }
    });
}

async fn missing_anywhere(cluster: &Cluster, puts: &[(BlockRef, Bytes)]) -> usize {
    let mut all = vec![IndexSet::EMPTY; puts.len()];
    for at in 0..cluster.len() {
        let held = held_by(cluster, at, puts).await;
        for (all, held) in all.iter_mut().zip(held) {
            *all = all.union(held);
        }
    }
    all.iter().map(|of| 6 - of.len()).sum()
}
