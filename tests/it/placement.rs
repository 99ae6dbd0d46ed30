//! The laws of placement, over whole networks.

use std::collections::{BTreeMap, BTreeSet};

use cairnfs::base::limits::CANDIDATES;
use cairnfs::base::{EcProfile, Group, PeerId, VolumeId};
use cairnfs::placement::{
    Candidate, Cluster, Offering, assign, closest, distance, group_key, peer_point, point,
    promised, rank, survives, volume_key,
};
use proptest::prelude::*;

fn config(cases: u32) -> ProptestConfig {
    let scale: u32 = std::env::var("CAIRN_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases * scale)
    }
}

fn peer(tag: u64) -> PeerId {
    PeerId(*blake3::hash(&tag.to_le_bytes()).as_bytes())
}

fn members(
    count: u64,
    capacity: impl Fn(u64) -> u64,
    zone: impl Fn(u64) -> String,
) -> Vec<Offering> {
    (0..count)
        .map(|tag| Offering {
            peer: peer(tag),
            capacity_bytes: capacity(tag),
            zone: zone(tag),
            invitation: String::new(),
        })
        .collect()
}

fn no_zone(_: u64) -> String {
    String::new()
}

#[test]
fn the_key_space_is_that_of_libp2p_kademlia() {
    let id = libp2p::PeerId::from_bytes(&peer(3).to_multihash()).unwrap();
    let key = libp2p::kad::KBucketKey::from(id);
    assert_eq!(peer_point(&peer(3)).as_slice(), key.hashed_bytes());
    let group = libp2p::kad::KBucketKey::new(group_key(Group(77)));
    assert_eq!(
        point(&group_key(Group(77))).as_slice(),
        group.hashed_bytes()
    );
}

#[test]
fn a_volume_has_one_place_for_all() {
    let key = volume_key(&VolumeId([7; 16]));
    assert_eq!(key, [b"cairn/volume/1".as_slice(), &[7; 16]].concat());
    let place = libp2p::kad::KBucketKey::new(key.clone());
    assert_eq!(point(&key).as_slice(), place.hashed_bytes());
    let hex = "febc3d583d033abd92c91f6cbae8b2eb363504a4c970d483325e3cef1da125c8";
    assert_eq!(data_encoding::HEXLOWER.encode(&point(&key)), hex);
    // As many of the closest as asked for, from lists of any size.
    for count in [0, 1, 19, 20, 300] {
        let offerings = members(count, |_| 1 << 30, no_zone);
        let cluster = Cluster::new(offerings.iter().cloned());
        let mut ids: Vec<PeerId> = offerings.iter().map(|member| member.peer).collect();
        ids.sort_by_key(|id| distance(&peer_point(id), &point(&key)));
        for most in [0, 1, 20, 40] {
            let found = cluster.closest_to(&point(&key), most);
            let found: Vec<PeerId> = found.iter().map(|member| member.peer).collect();
            assert_eq!(found, ids[..most.min(ids.len())]);
        }
    }
}

#[test]
fn the_sorted_list_finds_the_same_candidates_as_a_scan() {
    for count in [0, 1, 39, 40, 41, 90, 700] {
        let list = members(count, |tag| 1 + tag % 7, no_zone);
        let cluster = Cluster::new(list.clone());
        for group in (0..=u16::MAX).step_by(997).map(Group) {
            let scanned = closest(group, list.iter().map(|member| member.peer));
            let found: Vec<PeerId> = cluster.closest(group).iter().map(|m| m.peer).collect();
            assert_eq!(found, scanned);
        }
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn the_ranking_depends_on_the_set_alone(
        seed in any::<u64>(),
        count in 0u64..60,
        zones in 1u64..8,
        group in any::<u16>(),
    ) {
        let list = members(count, |tag| (seed ^ tag) % 5 * 100, |tag| format!("z{}", tag % zones));
        let mut shuffled = list.clone();
        shuffled.sort_by_key(|member| point(&[member.peer.as_bytes().as_slice(), &seed.to_le_bytes()].concat()));
        shuffled.extend(list.iter().take(3).cloned());
        let ranked = Cluster::new(list.clone()).rank(Group(group));
        prop_assert_eq!(&ranked, &Cluster::new(shuffled).rank(Group(group)));

        let distinct: BTreeSet<&PeerId> = ranked.iter().collect();
        prop_assert_eq!(distinct.len(), ranked.len());
        let offering = list.iter().filter(|member| member.capacity_bytes > 0).count();
        prop_assert_eq!(ranked.len(), offering.min(CANDIDATES));
    }

    /// As long as there are n zones, n holders lie in n zones; with fewer, none is used twice more
    /// often than another that still has members.
    #[test]
    fn zones_are_used_evenly(
        zone_of in prop::collection::vec(0usize..6, 1..40),
        group in any::<u16>(),
        n in 1usize..12,
    ) {
        let names: Vec<String> = (0..6).map(|zone| format!("zone{zone}")).collect();
        let candidates: Vec<Candidate<'_>> = zone_of
            .iter()
            .enumerate()
            .map(|(tag, zone)| Candidate { peer: peer(tag as u64), weight: 1.0 + tag as f64, zone: &names[*zone], invitation: "" })
            .collect();
        let ranked = rank(Group(group), &candidates);
        let zone_by_peer: BTreeMap<PeerId, usize> =
            candidates.iter().map(|c| c.peer).zip(zone_of.iter().copied()).collect();
        let mut used = [0usize; 6];
        for holder in ranked.iter().take(n) {
            used[zone_by_peer[holder]] += 1;
        }
        let size = |zone: usize| zone_of.iter().filter(|z| **z == zone).count();
        for (zone, count) in used.iter().enumerate() {
            for (other, others) in used.iter().enumerate() {
                prop_assert!(*count <= others + 1 || *others == size(other), "{used:?} {zone} {other}");
            }
        }
    }

    /// Whatever zones they name: of those that one ticket let in, one holds a shard of a stripe, as long
    /// as there are others; and among themselves their zones count.
    #[test]
    fn one_ticket_gathers_no_stripe(
        guests in 1u64..30,
        others in 0u64..12,
        racks in 1u64..8,
        group in any::<u16>(),
    ) {
        let zones: Vec<String> = (0..guests).map(|tag| format!("rack{}", tag % racks)).collect();
        let mut candidates: Vec<Candidate<'_>> = zones
            .iter()
            .zip(0..)
            .map(|(zone, tag)| Candidate { peer: peer(tag), weight: 100.0, zone, invitation: "ticket" })
            .collect();
        let alone = (guests..guests + others).map(|tag| Candidate {
            peer: peer(tag),
            weight: 1.0,
            zone: "",
            invitation: "",
        });
        candidates.extend(alone);
        let ranked = rank(Group(group), &candidates);
        let guest_peers: BTreeMap<PeerId, &str> =
            (0..guests).map(|tag| (peer(tag), zones[tag as usize].as_str())).collect();
        let first = &ranked[..=others as usize];
        prop_assert_eq!(first.iter().filter(|p| guest_peers.contains_key(*p)).count(), 1);
        let in_order: Vec<&str> = ranked.iter().filter_map(|p| guest_peers.get(p).copied()).collect();
        let rounds = racks.min(guests) as usize;
        let distinct: BTreeSet<&str> = in_order.iter().take(rounds).copied().collect();
        prop_assert_eq!(distinct.len(), rounds, "{:?}", in_order);
    }

    #[test]
    fn every_shard_has_an_owner_and_loads_are_even(
        count in 1usize..50,
        away in prop::collection::btree_set(0usize..50, 0..30),
        data in 1u8..12,
        parity in 0u8..8,
    ) {
        let profile = EcProfile::new(data, parity).unwrap();
        let n = profile.total_shards();
        let ranked: Vec<PeerId> = (0..count as u64).map(peer).collect();
        let gone: BTreeSet<PeerId> = away.iter().map(|tag| peer(*tag as u64)).collect();
        let assigned = assign(&ranked, |peer| !gone.contains(peer), profile);
        let usable = ranked.iter().filter(|peer| !gone.contains(peer)).count();

        let mut load: BTreeMap<PeerId, usize> = BTreeMap::new();
        for (_, peer) in &assigned {
            prop_assert!(!gone.contains(peer));
            *load.entry(*peer).or_default() += 1;
        }
        let indices: Vec<usize> = assigned.iter().map(|(index, _)| usize::from(*index)).collect();
        match usable {
            0 => prop_assert!(assigned.is_empty()),
            1 => prop_assert_eq!(indices, (0..profile.data_shards()).collect::<Vec<_>>()),
            _ => {
                prop_assert_eq!(indices, (0..n).collect::<Vec<_>>());
                prop_assert_eq!(load.len(), usable.min(n));
                let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
                prop_assert!(most - least <= 1);
                // Whoever is there keeps the shard of its place.
                for (index, owner) in &assigned {
                    if let Some(first) = ranked.get(usize::from(*index)) {
                        prop_assert!(gone.contains(first) || owner == first);
                    }
                }
            }
        }
        let survived = survives(assigned.iter().map(|(_, peer)| (*peer, 1)), profile.data_shards());
        if usable > 0 {
            prop_assert_eq!(survived, Some(promised(profile, usable)));
        }
    }

    #[test]
    fn happiness_is_what_brute_force_finds(
        counts in prop::collection::vec(0usize..5, 0..9),
        data in 1usize..9,
    ) {
        let held = || counts.iter().enumerate().map(|(tag, count)| (peer(tag as u64), *count));
        let all: usize = counts.iter().sum();
        let ok = |lost: u32| {
            (0u32..1 << counts.len()).filter(|set| set.count_ones() == lost).all(|set| {
                let left: usize = counts
                    .iter()
                    .enumerate()
                    .filter(|(tag, _)| set >> tag & 1 == 0)
                    .map(|(_, count)| count)
                    .sum();
                left >= data
            })
        };
        let expected = (all >= data)
            .then(|| (0..=counts.len() as u32).take_while(|lost| ok(*lost)).last().unwrap() as usize);
        prop_assert_eq!(survives(held(), data), expected);
    }
}

/// Holders of every group under a profile of `n`, in order.
fn all_holders(cluster: &Cluster, n: usize) -> Vec<Vec<PeerId>> {
    (0..=u16::MAX)
        .map(|group| {
            let mut ranked = cluster.rank(Group(group));
            ranked.truncate(n);
            ranked
        })
        .collect()
}

#[test]
fn a_joiner_takes_its_share_and_moves_nothing_else() {
    let n = 6;
    let before_list = members(30, |_| 1000, no_zone);
    let joiner = Offering {
        peer: peer(1 << 40),
        capacity_bytes: 1000,
        zone: String::new(),
        invitation: String::new(),
    };
    let before = all_holders(&Cluster::new(before_list.clone()), n);
    let after = all_holders(
        &Cluster::new(before_list.into_iter().chain([joiner.clone()])),
        n,
    );
    let mut moved = 0usize;
    for (old, new) in before.iter().zip(&after) {
        // Either nothing changed, or the joiner came in and the last holder went.
        let mut expected: Vec<PeerId> = new.iter().copied().filter(|p| *p != joiner.peer).collect();
        if expected.len() < n {
            expected.extend(old.last());
            moved += 1;
        }
        assert_eq!(&expected, old);
    }
    let share = moved as f64 / (before.len() * n) as f64;
    assert!(
        (share - 1.0 / 31.0).abs() < 0.004,
        "the joiner holds {share}"
    );
}

#[test]
fn shards_are_spread_by_weight() {
    // Small against the number of peers, so that the weights show undistorted.
    let n = 3;
    for (capacity, tolerance) in [
        ((|_| 1 << 30) as fn(u64) -> u64, 0.04),
        ((|tag| (1 + tag % 3) << 30) as fn(u64) -> u64, 0.12),
    ] {
        let list = members(36, capacity, no_zone);
        let mut held: BTreeMap<PeerId, usize> = BTreeMap::new();
        for holders in all_holders(&Cluster::new(list.clone()), n) {
            for holder in holders {
                *held.entry(holder).or_default() += 1;
            }
        }
        let total: u64 = list.iter().map(|member| member.capacity_bytes).sum();
        for member in &list {
            let fair = member.capacity_bytes as f64 / total as f64;
            let share = held[&member.peer] as f64 / (65_536 * n) as f64;
            let off = (share / fair - 1.0).abs();
            assert!(
                off < tolerance,
                "{fair} of the capacity, {share} of the shards"
            );
        }
    }
}

#[test]
fn a_giant_counts_as_four_medians() {
    let list = members(36, |tag| if tag == 0 { 1 << 60 } else { 1 << 30 }, no_zone);
    let held = all_holders(&Cluster::new(list), 1)
        .iter()
        .filter(|holders| holders[0] == peer(0))
        .count();
    let share = held as f64 / 65_536.0;
    assert!((share - 4.0 / 39.0).abs() < 0.01, "the giant holds {share}");
}

#[test]
fn promises_of_the_default_profile() {
    let promise: Vec<usize> = (0..9)
        .map(|live| promised(EcProfile::DEFAULT, live))
        .collect();
    assert_eq!(promise, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    let wide = EcProfile::new(3, 7).unwrap();
    assert_eq!(promised(wide, 10), 7);
    assert_eq!(promised(wide, 2), 1);
    assert_eq!(promised(EcProfile::new(4, 0).unwrap(), 9), 0);
}
