//! Laws of voters and holders: two never have one lock, everybody has a turn, whoever begins anew waits.

use super::voter::Voter;
use super::world::{LEASE_MS, NAME, World, peer};
use crate::base::Entropy;
use crate::feeds::{LockMode, Vote, Want};

fn live(seed: u64) -> World {
    let entropy = Entropy::seeded(seed ^ 0x5eed);
    let machines = 3 + entropy.below(3) as usize;
    let voters = 1 + entropy.below(machines as u64) as usize;
    let mut world = World::new(seed, machines, voters);
    for _ in 0..12_000 {
        world.mischief();
        world.step();
    }
    world
}

#[test]
fn locks_are_never_had_by_two() {
    let (mut had, mut lost) = (0, 0);
    for seed in 0..150 {
        let world = live(seed);
        had += world.had;
        lost += world.lost;
    }
    println!("{had} times a lock was had, {lost} times it was lost");
    assert!(had > 1000 && lost > 10, "{had} {lost}");
}

#[test]
fn with_all_voters_there_everybody_has_its_turn() {
    for seed in 0..6 {
        let mut world = World::new(seed, 5, 5);
        world.loss = 0;
        for _ in 0..30_000 {
            world.step();
        }
        let mut served = vec![0; 5];
        for _ in 0..60_000 {
            world.step();
            for (at, machine) in world.machines.iter().enumerate() {
                served[at] += usize::from(machine.holds(world.now).is_some());
            }
        }
        assert!(served.iter().all(|times| *times > 0), "{seed}: {served:?}");
        assert_eq!(world.lost, 0, "{seed}");
    }
}

/// A voter that restarts at once and forgets gives nothing away that it had promised before.
#[test]
fn a_voter_that_begins_anew_waits_for_a_lease() {
    let want = |waited_ms| Want {
        name: NAME,
        mode: LockMode::Exclusive,
        waited_ms,
    };
    let mut voter = Voter::new(LEASE_MS, 5);
    assert_eq!(
        voter.ask(LEASE_MS + 4, peer(1), 1, &[want(0)]),
        [Vote::NotYet]
    );
    assert_eq!(
        voter.ask(LEASE_MS + 5, peer(1), 1, &[want(0)]),
        [Vote::Granted]
    );
    assert_eq!(
        voter.ask(LEASE_MS + 6, peer(2), 1, &[want(0)]),
        [Vote::Taken]
    );
    // Other voters come: who has a lock keeps it, nobody gets a new one.
    voter.wait_a_lease(LEASE_MS + 7);
    assert_eq!(
        voter.ask(LEASE_MS + 8, peer(1), 1, &[want(0)]),
        [Vote::Granted]
    );
    voter.release(LEASE_MS + 9, peer(1), 1, &[NAME]);
    assert_eq!(
        voter.ask(LEASE_MS + 9, peer(2), 2, &[want(0)]),
        [Vote::NotYet]
    );
    // What comes after it was given back, and was said before, gives nothing.
    let later = 2 * LEASE_MS + 7;
    assert_eq!(voter.ask(later, peer(1), 1, &[want(0)]), [Vote::Taken]);
    assert_eq!(voter.ask(later, peer(2), 2, &[want(0)]), [Vote::Granted]);
}

#[test]
fn of_two_who_wait_the_longer_is_next_and_two_who_share_do_not_wait_for_each_other() {
    let want = |mode, waited_ms| Want {
        name: NAME,
        mode,
        waited_ms,
    };
    let (alone, shared) = (LockMode::Exclusive, LockMode::Shared);
    let mut voter = Voter::new(LEASE_MS, 0);
    let t = LEASE_MS;
    assert_eq!(voter.ask(t, peer(1), 1, &[want(alone, 0)]), [Vote::Granted]);
    assert_eq!(voter.ask(t, peer(2), 1, &[want(alone, 10)]), [Vote::Taken]);
    assert_eq!(voter.ask(t, peer(3), 1, &[want(alone, 20)]), [Vote::Taken]);
    voter.release(t, peer(1), 1, &[NAME]);
    assert_eq!(voter.ask(t, peer(2), 2, &[want(alone, 15)]), [Vote::Taken]);
    assert_eq!(
        voter.ask(t, peer(3), 2, &[want(alone, 25)]),
        [Vote::Granted]
    );
    voter.release(t, peer(3), 2, &[NAME]);
    // Nobody asks for a while.
    let t = t + 3000;
    assert_eq!(
        voter.ask(t, peer(1), 3, &[want(shared, 0)]),
        [Vote::Granted]
    );
    assert_eq!(
        voter.ask(t, peer(2), 3, &[want(shared, 0)]),
        [Vote::Granted]
    );
    assert_eq!(voter.ask(t, peer(1), 4, &[want(alone, 5)]), [Vote::Taken]);
    assert_eq!(
        voter.ask(t, peer(2), 4, &[want(alone, 5)]),
        [Vote::Deadlock]
    );
    voter.release(t, peer(2), 4, &[NAME]);
    assert_eq!(voter.ask(t, peer(1), 5, &[want(alone, 9)]), [Vote::Granted]);
}
