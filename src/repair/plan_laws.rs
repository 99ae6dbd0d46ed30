//! What holds of every judgement.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

pub(super) fn peer(tag: usize) -> PeerId {
    PeerId([tag as u8; 32])
}

/// A block of 4+2 among so many candidates, anything about it. Some of those who are live may be about to leave.
pub(super) fn any_case() -> impl Strategy<Value = (BlockState, Vec<Candidate>)> {
    let candidate = (0..3u8, any::<bool>(), any::<u64>(), 0..4u8, 0..8u8);
    proptest::collection::vec(candidate, 1..12).prop_map(|rows| {
        let all = IndexSet::first(6);
        let mut candidates = Vec::new();
        let mut state = BlockState {
            block: BlockId([1; 32]),
            profile: EcProfile::DEFAULT,
            is_kept: true,
            shard_bytes: 1000,
            holders: Vec::new(),
            absent: IndexSet::EMPTY,
        };
        for (tag, (standing, has_room, held, thin, rest)) in rows.into_iter().enumerate() {
            let standing = match standing {
                0 => Standing::Live,
                1 => Standing::Away,
                _ => Standing::Dead,
            };
            // Few shards each, as it is; sometimes many.
            let held = IndexSet(held & all.0 & if thin == 0 { u64::MAX } else { held >> 7 });
            if rest == 0 {
                if !held.is_empty() {
                    state.holders.push((peer(tag), held));
                }
                continue;
            }
            candidates.push(Candidate {
                peer: peer(tag),
                standing,
                has_room,
                has_plenty: rest > 2,
                is_displaced: false,
            });
            match standing {
                Standing::Live if !held.is_empty() => state.holders.push((peer(tag), held)),
                Standing::Away => state.absent = state.absent.union(held),
                _ => {}
            }
        }
        (state, candidates)
    })
}

pub(super) fn present(state: &BlockState) -> IndexSet {
    let held = state.holders.iter().map(|(_, held)| *held);
    held.fold(IndexSet::EMPTY, IndexSet::union)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_what_is_missing_is_made_and_nothing_that_may_come_back((state, candidates) in any_case()) {
        let judgement = judge(&state, &candidates);
        let Verdict::Rebuild(rebuild) = &judgement.verdict else { return Ok(()) };
        let made: IndexSet = rebuild.missing.iter().map(|(index, _)| *index).collect();
        prop_assert_eq!(made.len(), rebuild.missing.len(), "each once");
        prop_assert!(made.minus(IndexSet::first(6)).is_empty());
        prop_assert_eq!(IndexSet(made.0 & present(&state).0), IndexSet::EMPTY);
        prop_assert_eq!(IndexSet(made.0 & state.absent.0), IndexSet::EMPTY);
        prop_assert!(made.len() <= judgement.missing);
        prop_assert!(present(&state).len() >= 4, "it can be made");
        for (_, target) in &rebuild.missing {
            let target = candidates.iter().find(|c| c.peer == *target).unwrap();
            prop_assert!(target.standing == Standing::Live && target.has_room);
        }
    }

    #[test]
    fn a_repair_never_makes_it_survive_less((state, candidates) in any_case()) {
        let Verdict::Rebuild(rebuild) = judge(&state, &candidates).verdict else { return Ok(()) };
        let mut after = state.holders.clone();
        for (index, target) in &rebuild.missing {
            match after.iter_mut().find(|(peer, _)| peer == target) {
                Some((_, held)) => held.insert(*index),
                None => after.push((*target, IndexSet::one(*index))),
            }
        }
        prop_assert!(survives(&after, state.profile) >= survives(&state.holders, state.profile));
    }

    #[test]
    fn a_surplus_is_let_go_only_where_all_are_there((state, candidates) in any_case()) {
        let judgement = judge(&state, &candidates);
        let Some(surplus) = judgement.surplus else { return Ok(()) };
        prop_assert_eq!(present(&state), IndexSet::first(6));
        prop_assert_ne!(surplus.at, surplus.other);
        let mut after = state.clone();
        for (peer, held) in &mut after.holders {
            if *peer == surplus.at {
                prop_assert!(held.contains(surplus.index));
                held.remove(surplus.index);
            }
        }
        prop_assert_eq!(present(&after), IndexSet::first(6), "never below n");
        prop_assert!(survives(&after.holders, state.profile) >= judgement.survives);
    }

    #[test]
    fn what_is_spread_survives_no_less_and_comes_to_rest((state, candidates) in any_case()) {
        let judgement = judge(&state, &candidates);
        let Verdict::Spread(spread) = judgement.verdict else { return Ok(()) };
        prop_assert_eq!(present(&state), IndexSet::first(6), "nothing is missing");
        prop_assert!(!spread.is_missing());
        let mut state = state;
        for (index, target) in &spread.missing {
            let candidate = candidates.iter().find(|c| c.peer == *target).unwrap();
            prop_assert!(candidate.standing == Standing::Live && candidate.has_room);
            match state.holders.iter_mut().find(|(peer, _)| peer == target) {
                Some((_, held)) => {
                    prop_assert!(!held.contains(*index));
                    held.insert(*index);
                }
                None => state.holders.push((*target, IndexSet::one(*index))),
            }
        }
        let mut survives = judge(&state, &candidates).survives;
        prop_assert!(survives >= judgement.survives);
        // What is there twice by now goes, and that is the end of it.
        while let Some(surplus) = judge(&state, &candidates).surplus {
            for (peer, held) in &mut state.holders {
                if *peer == surplus.at {
                    held.remove(surplus.index);
                }
            }
            state.holders.retain(|(_, held)| !held.is_empty());
            prop_assert!(judge(&state, &candidates).survives >= survives);
            survives = judge(&state, &candidates).survives;
        }
        let end = judge(&state, &candidates);
        prop_assert_eq!(end.verdict, Verdict::Nothing);
    }

    #[test]
    fn two_repairs_of_one_block_do_no_harm((state, candidates) in any_case()) {
        // A second leader, whose view lacks one candidate, plans the same shards for other peers.
        let Verdict::Rebuild(one) = judge(&state, &candidates).verdict else { return Ok(()) };
        let fewer: Vec<Candidate> = candidates.iter().skip(1).copied().collect();
        let Verdict::Rebuild(two) = judge(&state, &fewer).verdict else { return Ok(()) };
        let indices = |rebuild: &Rebuild| -> BTreeSet<u8> {
            rebuild.missing.iter().map(|(index, _)| *index).collect()
        };
        prop_assert!(indices(&two).is_subset(&indices(&one)) || indices(&one).is_subset(&indices(&two)));
    }

    #[test]
    fn there_is_one_leader_and_it_is_live((_, candidates) in any_case()) {
        let found = leader(&candidates);
        let live = candidates.iter().filter(|c| c.standing == Standing::Live);
        prop_assert_eq!(found, live.map(|c| c.peer).next());
        // Whoever is not live changes nothing about it.
        let only: Vec<Candidate> =
            candidates.iter().filter(|c| c.standing == Standing::Live).copied().collect();
        prop_assert_eq!(leader(&only), found);
    }
}

pub(super) fn live(tag: usize) -> Candidate {
    Candidate {
        peer: peer(tag),
        standing: Standing::Live,
        has_room: true,
        has_plenty: true,
        is_displaced: false,
    }
}

pub(super) fn state(holders: &[(usize, u64)]) -> BlockState {
    BlockState {
        block: BlockId([1; 32]),
        profile: EcProfile::DEFAULT,
        is_kept: true,
        shard_bytes: 1000,
        holders: holders
            .iter()
            .map(|(tag, held)| (peer(*tag), IndexSet(*held)))
            .collect(),
        absent: IndexSet::EMPTY,
    }
}

#[test]
fn missing_shards_go_to_the_next_candidates() {
    let mut candidates: Vec<Candidate> = (0..9).map(live).collect();
    candidates[1].standing = Standing::Dead;
    candidates[4].standing = Standing::Dead;
    candidates[6].has_room = false;
    let state = state(&[(0, 1), (2, 4), (3, 8), (5, 32)]);
    let judgement = judge(&state, &candidates);
    let Verdict::Rebuild(rebuild) = judgement.verdict else {
        panic!("{judgement:?}");
    };
    assert_eq!(rebuild.missing, [(1, peer(7)), (4, peer(8))]);
    assert_eq!((judgement.survives, rebuild.survives), (Some(0), 0));
    // One of the two may come back.
    candidates[4].standing = Standing::Away;
    let waits = BlockState {
        absent: IndexSet::one(4),
        ..state
    };
    let judgement = judge(&waits, &candidates);
    assert_eq!((judgement.missing, judgement.waiting), (1, 1));
}

#[test]
fn with_fewer_peers_than_shards_some_get_several() {
    let candidates: Vec<Candidate> = (0..5).map(live).collect();
    let judgement = judge(&state(&[(0, 1), (1, 2), (2, 4), (3, 8)]), &candidates);
    let Verdict::Rebuild(rebuild) = judgement.verdict else {
        panic!("{judgement:?}");
    };
    assert_eq!(rebuild.missing, [(4, peer(4)), (5, peer(0))]);
    // A lone peer needs no parity.
    let lone = judge(&state(&[(0, 15)]), &[live(0)]);
    assert_eq!((lone.verdict, lone.missing), (Verdict::Nothing, 0));
}

#[test]
fn what_one_peer_has_of_a_block_moves_to_those_who_have_none() {
    let candidates: Vec<Candidate> = (0..8).map(live).collect();
    // Four data shards at a peer that was alone, parity made anew at the two best of the others.
    let mut alone = state(&[(3, 15), (0, 16), (1, 32)]);
    let judgement = judge(&alone, &candidates);
    assert_eq!((judgement.survives, judgement.missing), (Some(0), 0));
    let Verdict::Spread(spread) = judgement.verdict else {
        panic!("{judgement:?}");
    };
    // Each gets the shard of its place, and who had them keeps the one of its own.
    assert_eq!(spread.missing, [(2, peer(2)), (1, peer(4)), (0, peer(5))]);
    // With fewer peers each has as many as another, or one more.
    let judgement = judge(&alone, &candidates[..4]);
    let Verdict::Spread(spread) = judgement.verdict else {
        panic!("{judgement:?}");
    };
    assert_eq!(spread.missing, [(2, peer(2)), (0, peer(0))]);
    // A copy that is there already is not made again; the first one goes.
    alone.holders.push((peer(2), IndexSet::one(2)));
    alone.holders.push((peer(4), IndexSet::one(1)));
    alone.holders.push((peer(5), IndexSet::one(0)));
    let judgement = judge(&alone, &candidates);
    assert_eq!(judgement.verdict, Verdict::Nothing);
    let surplus = judgement.surplus.unwrap();
    assert_eq!((surplus.at, surplus.other), (peer(3), peer(5)));
    // One apiece is as good as it gets, wherever it is.
    let rest = state(&[(7, 1), (6, 2), (5, 4), (4, 8), (3, 16), (2, 32)]);
    assert_eq!(judge(&rest, &candidates).verdict, Verdict::Nothing);
}

#[test]
fn too_few_shards_are_unreadable_or_left_over() {
    let mut candidates: Vec<Candidate> = (0..6).map(live).collect();
    let few = state(&[(0, 1), (1, 2), (2, 4)]);
    assert_eq!(judge(&few, &candidates).verdict, Verdict::Leftover);
    candidates[5].standing = Standing::Dead;
    assert_eq!(judge(&few, &candidates).verdict, Verdict::Unreadable);
    let open = BlockState {
        is_kept: false,
        ..few
    };
    assert_eq!(judge(&open, &candidates).verdict, Verdict::NotKept);
}

#[test]
fn who_is_displaced_gets_something_only_where_others_are_too_few() {
    let state = BlockState {
        block: BlockId([1; 32]),
        profile: EcProfile::DEFAULT,
        is_kept: true,
        shard_bytes: 1000,
        holders: (0..4)
            .map(|tag| (peer(tag), IndexSet::one(tag as u8)))
            .collect(),
        absent: IndexSet::EMPTY,
    };
    let targets = |count: usize, doubted: &[usize]| -> Vec<PeerId> {
        let mut candidates: Vec<Candidate> = (0..count).map(live).collect();
        for tag in doubted {
            candidates[*tag].is_displaced = true;
        }
        let counted = displaced(&candidates, state.profile.total_shards());
        let order: Vec<PeerId> = counted.iter().map(|candidate| candidate.peer).collect();
        assert!(
            order.into_iter().eq((0..count).map(peer)),
            "the order is the same"
        );
        match judge(&state, &counted).verdict {
            Verdict::Rebuild(rebuild) => rebuild.missing.iter().map(|(_, to)| *to).collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(targets(7, &[]), [peer(4), peer(5)]);
    assert_eq!(targets(7, &[4]), [peer(5), peer(6)]);
    assert_eq!(targets(8, &[4, 5]), [peer(6), peer(7)]);
    // Five others could not have a shard each.
    assert_eq!(targets(6, &[4]), [peer(4), peer(5)]);
    assert_eq!(targets(6, &[0, 1, 2, 3, 4, 5]), [peer(4), peer(5)]);
}
