//! Laws of the choice of a redundancy.

use proptest::prelude::*;

use super::*;

fn profile(data: u8, parity: u8) -> EcProfile {
    EcProfile::new(data, parity).unwrap()
}

fn peers() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(prop_oneof![0.0..=1.0f64, 0.9..=1.0f64, Just(0.97)], 0..30)
}

/// By trying all outcomes.
fn at_least_by_hand(chances: &[f64], wanted: usize) -> f64 {
    (0u32..1 << chances.len())
        .filter(|live| live.count_ones() as usize >= wanted)
        .map(|live| {
            let chance = |(bit, p): (usize, &f64)| match live >> bit & 1 {
                1 => *p,
                _ => 1.0 - p,
            };
            chances.iter().enumerate().map(chance).product::<f64>()
        })
        .sum()
}

proptest! {
    #[test]
    fn chances_are_those_of_all_outcomes(
        chances in prop::collection::vec(0.0..=1.0f64, 0..10),
        wanted in 0usize..11,
    ) {
        let found = at_least(&chances, wanted);
        let by_hand = at_least_by_hand(&chances, wanted);
        prop_assert!((found - by_hand).abs() < 1e-9, "{found} {by_hand}");
    }

    #[test]
    fn a_choice_has_a_peer_for_each_shard_and_survives_two(peers in peers()) {
        let chosen = choose(&peers);
        if peers.len() < PEERS_MIN {
            prop_assert_eq!(chosen, EcProfile::DEFAULT);
        } else {
            prop_assert!(chosen.total_shards() <= peers.len());
            prop_assert!(chosen.parity_shards() >= 2);
            prop_assert!(chosen.parity_shards() <= 2 * chosen.data_shards());
        }
    }

    #[test]
    fn nothing_with_less_room_is_as_safe(peers in peers()) {
        prop_assume!(peers.len() >= PEERS_MIN);
        let chosen = choose(&peers);
        let reaches = |profile: EcProfile| readable(profile, &peers) >= TARGET;
        for other in table().filter(|other| overhead(*other) < overhead(chosen)) {
            prop_assert!(!reaches(other), "{other} instead of {chosen}");
        }
        if !reaches(chosen) {
            prop_assert!(!table().any(reaches));
        }
    }

    #[test]
    fn more_uptime_never_costs_more(
        peers in peers(),
        better in prop::collection::vec(0.0..=1.0f64, 30),
    ) {
        let raised: Vec<f64> = peers
            .iter()
            .zip(&better)
            .map(|(before, more)| before + (1.0 - before) * more)
            .collect();
        prop_assert!(overhead(choose(&raised)) <= overhead(choose(&peers)));
        for profile in table() {
            prop_assert!(readable(profile, &raised) + 1e-12 >= readable(profile, &peers));
        }
    }

    #[test]
    fn the_order_of_peers_does_not_matter(mut peers in peers()) {
        let chosen = choose(&peers);
        peers.reverse();
        prop_assert_eq!(choose(&peers), chosen);
    }

    #[test]
    fn another_peer_that_is_as_good_as_all_others_never_costs_more(
        mut peers in peers(),
    ) {
        prop_assume!(peers.len() >= PEERS_MIN);
        let before = choose(&peers);
        prop_assume!(readable(before, &peers) >= TARGET);
        let best = peers.iter().copied().fold(0.0, f64::max);
        peers.push(best);
        prop_assert!(overhead(choose(&peers)) <= overhead(before));
    }

    #[test]
    fn what_was_chosen_stays(peers in peers()) {
        prop_assert!(keeps(choose(&peers), &peers));
    }
}

/// The table of docs/ARCHITECTURE.md.
#[test]
fn the_documented_choices() {
    let told = |count: usize, availability: f64| choose(&vec![availability; count]).to_string();
    let rows = [0.8, 0.9, 0.95, 0.97, 0.99, 0.999]
        .map(|p| [5, 6, 8, 10, 12, 16, 20].map(|count| told(count, p)));
    let documented = [
        ["4+2", "2+4", "2+4", "4+6", "4+6", "6+8", "6+8"],
        ["4+2", "2+3", "4+4", "5+4", "5+4", "10+6", "10+6"],
        ["4+2", "2+2", "5+3", "6+3", "6+3", "10+4", "10+4"],
        ["4+2", "4+2", "5+2", "5+2", "8+3", "10+3", "10+3"],
        ["4+2", "4+2", "6+2", "8+2", "10+2", "10+2", "10+2"],
        ["4+2", "4+2", "6+2", "8+2", "10+2", "10+2", "10+2"],
    ];
    assert_eq!(rows, documented.map(|row| row.map(str::to_owned)));
}

#[test]
fn what_is_stored_stays_unless_it_is_unsafe_or_much_larger() {
    let good = [0.99; 12];
    assert!(!keeps(profile(4, 1), &good), "survives one loss only");
    assert!(!keeps(profile(2, 4), &good), "three times the room");
    assert!(keeps(profile(8, 3), &good));
    let known = AutoProfile::default();
    assert!(known.keeps(profile(2, 4)), "nothing is known yet");
    assert_eq!(known.get(), EcProfile::DEFAULT);
    known.set(good.to_vec(), false);
    assert!(known.keeps(profile(2, 4)), "who is there is not known yet");
    known.set(good.to_vec(), true);
    assert_eq!(known.get(), choose(&good));
    assert!(!known.keeps(profile(2, 4)));
}
