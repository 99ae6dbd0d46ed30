//! Shards move to where they belong when members come or change what they offer, and not otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{EcProfile, IndexSet, PeerId};
use cairnfs::net::{Offer, Stay};
use cairnfs::placement;
use cairnfs::testkit::Cluster;

use super::{DEAD, MINUTE, Put, held, options, read_all, shards, simulate, start, sum};

/// Bytes of each block's content.
const CONTENT: usize = 4000;

/// So many blocks of the same length, put by one peer with one upload.
pub(super) async fn put_equal(cluster: &Cluster, at: usize, count: usize) -> Vec<Put> {
    let blocks = cluster.blocks(at).unwrap().clone();
    let upload = blocks.upload(options()).await.unwrap();
    let mut puts = Vec::new();
    for _ in 0..count {
        let mut content = vec![0; CONTENT];
        cluster.entropy.fill(&mut content);
        let content = Bytes::from(content);
        let pending = upload.submit(content.clone()).await.unwrap();
        let reference = pending.await.unwrap();
        puts.push(Put { reference, content });
    }
    upload.finish(Vec::new()).await.unwrap();
    puts
}

/// Who is to hold each block: the first six of its group.
pub(super) async fn wanted(cluster: &Cluster, at: usize, puts: &[Put]) -> Vec<BTreeSet<PeerId>> {
    let blocks = cluster.blocks(at).unwrap();
    let mut all = Vec::new();
    for put in puts {
        let peers = blocks.group_peers(put.reference.id.group()).await;
        all.push(peers.iter().take(6).map(|peer| peer.peer).collect());
    }
    all
}

/// The least number of lost peers that any of these survives, each shard counted once.
pub(super) fn least(held: &[BTreeMap<PeerId, IndexSet>]) -> usize {
    let of_block = |of: &BTreeMap<PeerId, IndexSet>| {
        let mut loads: BTreeMap<PeerId, usize> = BTreeMap::new();
        for index in IndexSet::first(6).iter() {
            let has = of.iter().filter(|(_, held)| held.contains(index));
            let fewest = has.min_by_key(|(peer, _)| loads.get(peer).copied().unwrap_or(0));
            if let Some((peer, _)) = fewest {
                *loads.entry(*peer).or_default() += 1;
            }
        }
        placement::survives(loads, EcProfile::DEFAULT.data_shards()).unwrap_or(0)
    };
    held.iter().map(of_block).min().unwrap_or(0)
}

/// Shards moved by all, and their bytes.
pub(super) fn moved(cluster: &Cluster) -> (u64, u64) {
    let all = (0..cluster.len()).filter_map(|at| cluster.repair(at));
    let all = all.map(|repair| repair.health());
    all.fold((0, 0), |(shards, bytes), health| {
        (shards + health.moved, bytes + health.moved_bytes)
    })
}

fn has_all_its_holders(held: &[BTreeMap<PeerId, IndexSet>], wanted: &[BTreeSet<PeerId>]) -> bool {
    let lies = |(of, wanted): (&BTreeMap<PeerId, IndexSet>, &BTreeSet<PeerId>)| {
        of.keys().eq(wanted.iter()) && shards(of) == (6, 6)
    };
    held.iter().zip(wanted).all(lies)
}

/// Waits until every block lies where it belongs. Meanwhile none survives less than `least_lost` losses.
async fn wait_settled(cluster: &Cluster, puts: &[Put], least_lost: usize) -> Duration {
    let wanted = wanted(cluster, 0, puts).await;
    let begun = tokio::time::Instant::now();
    loop {
        let held = held(cluster, puts).await;
        assert!(least(&held) >= least_lost, "after {:?}", begun.elapsed());
        if has_all_its_holders(&held, &wanted) {
            return begun.elapsed();
        }
        let off = held.iter().zip(&wanted);
        let off = off
            .filter(|(of, wanted)| !of.keys().eq(wanted.iter()))
            .count();
        assert!(
            begun.elapsed() < 90 * MINUTE,
            "{off} are not where they belong"
        );
        tokio::time::sleep(MINUTE / 4).await;
    }
}

/// Shards that are to be moved since they lay like this, if each lies at one of those who are to hold it or is copied once.
async fn least_moves(cluster: &Cluster, puts: &[Put], held: &[BTreeMap<PeerId, IndexSet>]) -> u64 {
    let wanted = wanted(cluster, 0, puts).await;
    let lacking = held.iter().zip(&wanted);
    let lacking = lacking.map(|(of, wanted)| wanted.iter().filter(|p| !of.contains_key(p)).count());
    lacking.sum::<usize>() as u64
}

async fn offer(cluster: &Cluster, at: usize, capacity_bytes: u64, free_bytes: u64) {
    let offer = Offer {
        capacity_bytes,
        free_bytes,
        zone: String::new(),
        stay: Stay::Stays,
    };
    let net = cluster.blocks(at).unwrap().net().clone();
    net.offer(offer).await.unwrap();
}

/// Shards at each peer.
async fn fill(cluster: &Cluster, puts: &[Put]) -> Vec<u64> {
    let held = held(cluster, puts).await;
    let of_peer = |at: usize| {
        let own = cluster.id(at).unwrap();
        let has = held.iter().filter_map(|of| of.get(&own));
        has.map(|held| held.len() as u64).sum()
    };
    (0..cluster.len()).map(of_peer).collect()
}

#[test]
fn three_who_join_six_are_filled_as_the_others_with_the_fewest_moves() {
    simulate(async {
        let mut cluster = start(6, 61).await;
        let puts = put_equal(&cluster, 0, 500).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(moved(&cluster), (0, 0));
        let before = held(&cluster, &puts).await;
        for _ in 0..3 {
            cluster.add().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let least_moved = least_moves(&cluster, &puts, &before).await;
        let took = wait_settled(&cluster, &puts, 2).await;
        let (count, bytes) = moved(&cluster);
        let fill = fill(&cluster, &puts).await;
        let mean = fill.iter().sum::<u64>() as f64 / fill.len() as f64;
        println!(
            "{count} shards of {bytes} bytes moved in {took:?}, {least_moved} at least; each has {fill:?}, {mean:.0} on average"
        );
        assert!(count as f64 <= 1.1 * least_moved as f64);
        assert!(
            fill.iter()
                .all(|has| (*has as f64 - mean).abs() < 0.1 * mean)
        );
        assert_eq!(sum(&cluster).0, 0, "nothing was made anew");
        // It has come to rest, and costs as little as before.
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(moved(&cluster).0, count);
        cluster.crash(1);
        cluster.crash(7);
        tokio::time::sleep(MINUTE).await;
        read_all(&cluster, &puts[..50]).await;
    });
}

#[test]
fn who_offers_more_gets_more_and_a_change_of_it_moves_what_follows_from_it() {
    simulate(async {
        let mut cluster = start(6, 62).await;
        for at in 0..6 {
            offer(&cluster, at, 1 << 24, 1 << 24).await;
        }
        let puts = put_equal(&cluster, 0, 200).await;
        let at_first = held(&cluster, &puts).await;
        for weight in [1, 2, 4] {
            let at = cluster.add().await.unwrap();
            offer(&cluster, at, weight << 24, weight << 24).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let least_moved = least_moves(&cluster, &puts, &at_first).await;
        wait_settled(&cluster, &puts, 2).await;
        let (count, _) = moved(&cluster);
        let before = fill(&cluster, &puts).await;
        println!("joiners of 1:2:4: {count} moved, {least_moved} at least; each has {before:?}");
        assert!(before[8] > before[7] && before[7] > before[6]);
        assert!(count as f64 <= 1.1 * least_moved as f64);
        // One of the six offers four times as much from now on.
        let at_first = held(&cluster, &puts).await;
        offer(&cluster, 2, 4 << 24, 4 << 24).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let least_moved = least_moves(&cluster, &puts, &at_first).await;
        wait_settled(&cluster, &puts, 2).await;
        let more = moved(&cluster).0 - count;
        let after = fill(&cluster, &puts).await;
        println!("one grown to 4: {more} moved, {least_moved} at least; each has {after:?}");
        assert!(after[2] > before[2]);
        assert!(more as f64 <= 1.1 * least_moved as f64);
    });
}

#[test]
fn who_is_away_for_a_while_or_has_no_room_moves_nothing() {
    simulate(async {
        let mut cluster = start(8, 63).await;
        let puts = put_equal(&cluster, 0, 60).await;
        tokio::time::sleep(5 * MINUTE).await;
        for _ in 0..3 {
            cluster.crash(2);
            tokio::time::sleep(25 * MINUTE).await;
            cluster.restart(2).await.unwrap();
            tokio::time::sleep(15 * MINUTE).await;
        }
        assert_eq!(moved(&cluster), (0, 0));
        assert_eq!(sum(&cluster).0, 0);
        // One that joins nearly full is handed nothing, and what is put goes elsewhere.
        let at = cluster.add().await.unwrap();
        offer(&cluster, at, 512 << 20, 2 << 20).await;
        tokio::time::sleep(10 * MINUTE).await;
        // What it was handed before it said so it keeps.
        let early = moved(&cluster).0;
        let had = fill(&cluster, &puts).await[at];
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(moved(&cluster).0, early);
        assert_eq!(fill(&cluster, &puts).await[at], had);
        // With room it is, and while it is away it keeps what it has.
        offer(&cluster, at, 64 << 20, 64 << 20).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        wait_settled(&cluster, &puts, 2).await;
        assert!(fill(&cluster, &puts).await[at] > had);
        cluster.crash(at);
        let by_others = moved(&cluster).0;
        tokio::time::sleep(DEAD / 2).await;
        assert_eq!(moved(&cluster).0, by_others);
        assert_eq!(sum(&cluster).0, 0);
    });
}
