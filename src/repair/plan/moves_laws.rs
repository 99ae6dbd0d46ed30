//! What holds of every move.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::laws::{any_case, live, peer, present, state};
use super::super::{Surplus, Verdict, judge};
use super::*;
use crate::base::EcProfile;

/// Most steps until all rests.
const STEPS_MAX: usize = 100;

fn add(state: &mut BlockState, index: u8, to: PeerId) {
    match state.holders.iter_mut().find(|(peer, _)| *peer == to) {
        Some((_, held)) => held.insert(index),
        None => state.holders.push((to, IndexSet::one(index))),
    }
}

fn remove(state: &mut BlockState, index: u8, at: PeerId) {
    for (_, held) in state.holders.iter_mut().filter(|(peer, _)| *peer == at) {
        held.remove(index);
    }
    state.holders.retain(|(_, held)| !held.is_empty());
}

fn leavers(state: &BlockState, candidates: &[Candidate]) -> Vec<PeerId> {
    let holders = state.holders.iter().map(|(peer, _)| *peer);
    holders
        .filter(|peer| candidates.iter().all(|c| c.peer != *peer))
        .collect()
}

/// What is to be let go: by whom it is displaced, or by whom leaves.
fn surplus(state: &BlockState, candidates: &[Candidate]) -> Option<Surplus> {
    let of_leavers = leavers(state, candidates).into_iter().find_map(|at| {
        let (index, other) = handed_over(state, candidates, at).first().copied()?;
        let block = state.block;
        Some(Surplus {
            block,
            index,
            at,
            other,
        })
    });
    let is_here = |peer: &PeerId| candidates.iter().any(|c| c.peer == *peer);
    let judged = judge(state, candidates).surplus;
    judged.filter(|found| is_here(&found.at)).or(of_leavers)
}

/// What came of carrying everything out until nothing is to be done.
struct Rest {
    state: BlockState,
    /// Copies made because of moves.
    moved: usize,
}

/// Carries out what is judged, step by step, with everything that must hold at each of them. `refuses` says who takes no
/// shard when it is offered one, after which it is offered no more.
fn settle(
    mut state: BlockState,
    mut candidates: Vec<Candidate>,
    refuses: impl Fn(PeerId) -> bool,
) -> Result<Rest, TestCaseError> {
    let mut moved = 0;
    for _ in 0..STEPS_MAX {
        let judgement = judge(&state, &candidates);
        let before = present(&state);
        let mut copies: Vec<(u8, PeerId)> = Vec::new();
        match judgement.verdict {
            Verdict::Rebuild(rebuild) | Verdict::Spread(rebuild) => {
                prop_assert!(judgement.moves.is_empty(), "what is not safe comes first");
                copies.extend(rebuild.missing);
            }
            Verdict::Nothing => {
                for each in &judgement.moves {
                    let had = state.held_by(&each.from);
                    prop_assert!(had.contains(each.index), "a plain copy");
                    prop_assert!(!state.held_by(&each.to).contains(each.index));
                    copies.push((each.index, each.to));
                }
                moved += copies.iter().filter(|(_, to)| !refuses(*to)).count();
            }
            _ => prop_assert!(judgement.moves.is_empty()),
        }
        let usable: BTreeSet<PeerId> = {
            let usable = candidates.iter().filter(|c| c.is_usable());
            usable.map(|c| c.peer).collect()
        };
        for (index, to) in &copies {
            prop_assert!(usable.contains(to));
            let taker = candidates.iter_mut().find(|c| c.peer == *to).unwrap();
            match refuses(*to) {
                true => taker.has_room = false,
                false => add(&mut state, *index, *to),
            }
        }
        if copies.is_empty() {
            let Some(gone) = surplus(&state, &candidates) else {
                return Ok(Rest { state, moved });
            };
            prop_assert!(state.held_by(&gone.other).contains(gone.index));
            remove(&mut state, gone.index, gone.at);
            // One copy more never makes it worse, though what is said of it may: it is a bound.
            let after = judge(&state, &candidates).survives;
            let before = judgement.survives;
            prop_assert!(after >= before, "{before:?} before {after:?}");
        }
        let lost = before.minus(present(&state));
        prop_assert!(lost.is_empty(), "nothing is lost");
    }
    Err(TestCaseError::fail("it does not come to rest"))
}

/// Nine candidates and two who leave, and all shards, each once, at any six of them.
fn whole() -> impl Strategy<Value = (BlockState, Vec<Candidate>)> {
    let order = Just((0..11).collect::<Vec<usize>>()).prop_shuffle();
    let room = proptest::collection::vec(0..6u8, 9);
    (order, room).prop_map(|(order, room)| {
        let held = order.iter().take(6).enumerate();
        let held: Vec<(usize, u64)> = held.map(|(index, tag)| (*tag, 1 << index)).collect();
        let candidates = room.into_iter().enumerate().map(|(tag, room)| Candidate {
            has_room: room > 0,
            has_plenty: room > 1,
            ..live(tag)
        });
        (state(&held), candidates.collect())
    })
}

fn first_six(candidates: &[Candidate]) -> BTreeSet<PeerId> {
    let six = candidates.iter().take(6);
    six.map(|candidate| candidate.peer).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn whatever_there_is_comes_to_rest((state, candidates) in any_case(), refusing in any::<u16>()) {
        // A quarter of all.
        let refuses = |peer: PeerId| (refusing & refusing.rotate_left(3)) >> (peer.0[0] % 16) & 1 == 1;
        let rest = settle(state, candidates.clone(), refuses)?;
        // And stays there.
        let again = settle(rest.state.clone(), candidates, refuses)?;
        prop_assert_eq!(again.moved, 0);
        prop_assert_eq!(again.state, rest.state);
    }

    #[test]
    fn at_rest_each_lies_on_its_holders((state, mut candidates) in whole()) {
        candidates.iter_mut().for_each(|c| (c.has_room, c.has_plenty) = (true, true));
        let wanted = first_six(&candidates);
        let had: BTreeSet<PeerId> = state.holders.iter().map(|(peer, _)| *peer).collect();
        let rest = settle(state, candidates, |_| false)?;
        let holders: BTreeSet<PeerId> = rest.state.holders.iter().map(|(peer, _)| *peer).collect();
        prop_assert_eq!(&holders, &wanted);
        prop_assert!(rest.state.holders.iter().all(|(_, held)| held.len() == 1));
        prop_assert_eq!(rest.moved, wanted.difference(&had).count(), "each displaced shard once");
    }

    #[test]
    fn who_has_no_plenty_of_room_is_passed_over((state, candidates) in whole()) {
        let rest = settle(state.clone(), candidates.clone(), |_| false)?;
        for (to, held) in &rest.state.holders {
            let came = held.minus(state.held_by(to));
            let candidate = candidates.iter().find(|c| c.peer == *to).copied();
            let candidate = candidate.unwrap_or(Candidate { has_room: false, ..live(0) });
            prop_assert!(came.is_empty() || candidate.has_room);
            // Only what leaves is taken by somebody who is nearly full.
            let leaving = of_leavers(&state, &candidates).len();
            prop_assert!(candidate.has_plenty || came.len() <= leaving);
        }
        let belongs = rightful(&rest.state, &candidates);
        let stays = |peer: &PeerId| candidates.iter().any(|c| c.peer == *peer);
        let (here, gone): (Vec<_>, Vec<_>) =
            rest.state.holders.iter().partition(|(peer, _)| stays(peer));
        prop_assert!(here.iter().all(|(peer, _)| belongs.contains(peer)));
        let has_room = candidates.iter().any(|c| c.has_room && rest.state.held_by(&c.peer).is_empty());
        prop_assert!(gone.is_empty() || !has_room, "who leaves has nothing left while somebody has room");
    }

    #[test]
    fn who_is_away_for_a_while_moves_nothing((state, mut candidates) in whole(), at in 0..9usize) {
        let mut rest = settle(state, candidates.clone(), |_| false)?.state;
        let gone = candidates[at].peer;
        rest.absent = rest.held_by(&gone);
        rest.holders.retain(|(peer, _)| *peer != gone);
        candidates[at].standing = Standing::Away;
        let judgement = judge(&rest, &candidates);
        prop_assert_eq!(judgement.verdict, Verdict::Nothing);
        prop_assert_eq!(judgement.moves, []);
        prop_assert_eq!(judgement.surplus, None);
        // One that is gone for good makes place for others.
        candidates[at].standing = Standing::Dead;
        let dead = BlockState { absent: IndexSet::EMPTY, ..rest };
        let end = settle(dead, candidates, |_| false)?.state;
        prop_assert!(end.held_by(&gone).is_empty());
    }

    #[test]
    fn nothing_moves_between_two_who_both_belong((state, candidates) in any_case()) {
        let belongs = rightful(&state, &candidates);
        prop_assert!(belongs.len() <= 6);
        for moved in judge(&state, &candidates).moves {
            prop_assert!(!belongs.contains(&moved.from));
        }
    }
}

#[test]
fn a_joiner_takes_over_the_shard_of_whom_it_displaces() {
    let candidates: Vec<Candidate> = (0..7).map(live).collect();
    // The joiner is ranked second; the seventh is displaced.
    let before = state(&[(0, 1), (2, 4), (3, 8), (4, 16), (5, 32), (6, 2)]);
    let judgement = judge(&before, &candidates);
    let moved = Moved {
        index: 1,
        from: peer(6),
        to: peer(1),
    };
    assert_eq!(
        (judgement.verdict, judgement.moves),
        (Verdict::Nothing, vec![moved])
    );
    let mut copied = before;
    add(&mut copied, 1, peer(1));
    let judgement = judge(&copied, &candidates);
    let surplus = judgement.surplus.unwrap();
    assert_eq!(
        (surplus.at, surplus.other),
        (peer(6), peer(1)),
        "never the other way round"
    );
    assert_eq!(judgement.moves, []);
}

#[test]
fn whoever_leaves_is_replaced_where_it_survives_no_less() {
    // Six others: the one who has none takes over.
    let leaver = state(&[(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (40, 32)]);
    let six: Vec<Candidate> = (0..6).map(live).collect();
    let judgement = judge(&leaver, &six);
    let moved = Moved {
        index: 5,
        from: peer(40),
        to: peer(5),
    };
    assert_eq!((judgement.moves, judgement.stranded), (vec![moved], 0));
    assert_eq!(handed_over(&leaver, &six, peer(40)), []);
    // Five others: one of them would have two, and with it two would be lost.
    let judgement = judge(&leaver, &six[..5]);
    assert_eq!((judgement.moves, judgement.stranded), (vec![], 1));
    let mut copied = leaver;
    add(&mut copied, 5, peer(0));
    assert_eq!(
        handed_over(&copied, &six[..5], peer(40)),
        [],
        "not even if it was copied"
    );
    // Nobody else at all.
    assert_eq!(judge(&state(&[(40, 63)]), &[]).stranded, 6);
    // A lone one takes the data shards, and no parity is made first.
    let alone = state(&[(40, 15)]);
    let judgement = judge(&alone, &six[..1]);
    assert_eq!((judgement.moves.len(), judgement.missing), (4, 0));
}

#[test]
fn what_is_missing_is_repaired_before_anything_moves() {
    let candidates: Vec<Candidate> = (0..8).map(live).collect();
    let some = state(&[(0, 1), (1, 2), (2, 4), (6, 8), (40, 16)]);
    assert_eq!(some.profile, EcProfile::DEFAULT);
    let judgement = judge(&some, &candidates);
    assert!(matches!(judgement.verdict, Verdict::Rebuild(_)));
    assert_eq!((judgement.moves, judgement.stranded), (vec![], 1));
}
