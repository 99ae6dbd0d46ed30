//! For whom there is how much room, and who leaves some to whom.

use super::*;

#[test]
fn reservations_come_and_go_and_lowering_stops_intake() {
    let ledger = Ledger::new(64 << 20, 0, None);
    let left = ledger.left(Tier::Data);
    assert!(left > 50 << 20 && left < 64 << 20, "{left}");
    let held = ledger.reserve(Tier::Data, left).unwrap();
    assert_eq!(ledger.reserve(Tier::Data, 1).unwrap_err(), 0);
    let small = ledger.reserve(Tier::Claims, 1000).unwrap();
    drop(held);
    drop(small);
    assert_eq!(ledger.left(Tier::Data), left);
    ledger.set_segment(1, 40 << 20);
    assert!(ledger.left(Tier::Data) > 0);
    ledger.set_quota(40 << 20);
    assert_eq!(ledger.left(Tier::Data), 0);
    assert_eq!(ledger.left(Tier::Claims), 0);
    // What is to give room back finds some.
    assert!(ledger.left(Tier::Cleanup) > 1 << 20);
    ledger.remove_segment(1);
    assert!(ledger.left(Tier::Data) > 0);
}

/// However often room to free is asked for, it is not more than was there, or than one step where the quota was lowered.
#[test]
fn what_frees_stays_within_the_quota_or_one_step_beyond() {
    let ledger = Ledger::new(64 << 20, 0, None);
    let fill = |tier: Tier| {
        let mut used = ledger.usage().allocated;
        while let Ok(room) = ledger.reserve(tier, 1000) {
            drop(room);
            used += 1000;
            ledger.set_segment(1, used);
            ledger.set_totals(Totals::default());
        }
        used
    };
    let cleaned = fill(Tier::Cleanup);
    assert!(ledger.room_to_move() >= ledger.segment_bytes() / 2);
    let released = fill(Tier::Release);
    assert!(cleaned < released && released <= 64 << 20, "{released}");
    // The same quota again is no lowering.
    ledger.set_quota(64 << 20);
    assert!(ledger.left(Tier::Release) < 1000);
    ledger.set_quota(40 << 20);
    assert!(ledger.room_to_move() >= ledger.segment_bytes() / 2);
    let beyond = fill(Tier::Release);
    assert!(beyond > released + (1 << 20), "{beyond}");
    assert!(beyond < released + (4 << 20), "{beyond}");
    // What was given back is not taken again.
    ledger.set_segment(1, 50 << 20);
    ledger.set_totals(Totals::default());
    assert!(fill(Tier::Release) < 54 << 20);
    // Below the quota nothing is beyond it.
    ledger.set_segment(1, 20 << 20);
    ledger.set_totals(Totals::default());
    assert!(fill(Tier::Release) <= 40 << 20);
}

#[test]
fn what_others_may_write_is_set_aside() {
    let ledger = Ledger::new(64 << 20, 0, None);
    for tier in [Tier::Data, Tier::Claims, Tier::Cleanup, Tier::Release] {
        ledger.set_aside(0);
        let left = ledger.left(tier);
        ledger.set_aside(3 << 20);
        assert_eq!(ledger.left(tier), left - (3 << 20), "{tier:?}");
    }
}

#[test]
fn the_ring_has_what_nobody_needs() {
    let ledger = Ledger::new(64 << 20, 0, None);
    let left = ledger.left(Tier::Data);
    assert_eq!(ledger.ring_room(), 32 << 20);
    ledger.set_ring(32 << 20);
    assert_eq!(ledger.left(Tier::Data), left);
    assert_eq!(ledger.usage().allocated, 32 << 20);
    let held = ledger.reserve(Tier::Data, left - (1 << 20)).unwrap();
    assert_eq!(ledger.ring_room(), 1 << 20);
    drop(held);
    ledger.set_quota(32 << 20);
    assert_eq!(ledger.ring_room(), 16 << 20);
}

#[test]
fn the_disks_own_space_counts() {
    let ledger = Ledger::new(1 << 40, 1 << 30, None);
    ledger.set_disk_free(1 << 30);
    assert_eq!(ledger.left(Tier::Data), 0);
    assert!(ledger.left(Tier::Cleanup) > 1 << 20);
    ledger.set_disk_free(64 << 10);
    assert_eq!(ledger.left(Tier::Cleanup), 0);
    ledger.set_disk_free(3 << 30);
    assert!(ledger.left(Tier::Data) > 1 << 30);
}

#[test]
fn each_tier_leaves_something_to_the_next() {
    let ledger = Ledger::new(64 << 20, 0, None);
    ledger.set_segment(1, 30 << 20);
    let all = |tier| ledger.reserve(tier, ledger.left(tier)).unwrap();
    let mut held = Vec::new();
    for tier in [Tier::Data, Tier::Claims, Tier::Cleanup, Tier::Free] {
        held.push(all(tier));
        assert_eq!(ledger.left(tier), 0, "{tier:?}");
    }
    assert_eq!(ledger.left(Tier::Release), FOR_RELEASE);
    held.push(all(Tier::Release));
    assert_eq!(ledger.left(Tier::Drain), FOR_DRAIN);
    // Others write more than they were expected to: what lets go goes on.
    ledger.make_way();
    assert_eq!(ledger.left(Tier::Drain), FOR_DRAIN);
    ledger.set_other(1 << 20);
    assert_eq!(ledger.left(Tier::Drain), 0);
    ledger.make_way();
    assert!(ledger.left(Tier::Drain) >= FOR_DRAIN);
}

#[test]
fn who_deletes_has_room_on_a_disk_that_others_fill() {
    let ledger = Ledger::new(1 << 30, 100 << 20, None);
    for free in [0, 1, 4, 40, 99, 100, 101, 110, 120, 200, 400] {
        ledger.set_disk_free((free << 20) + 1);
        let is_any = free > 0 && free < 100 || free >= 120;
        assert_eq!(ledger.left(Tier::Cleanup) > 0, is_any, "{free}");
        assert!(free == 0 || ledger.left(Tier::Free) >= FREE_STEP, "{free}");
        assert!(ledger.left(Tier::Release) > FREE_STEP);
        assert_eq!(ledger.left(Tier::Data) > 0, free >= 200, "{free}");
    }
}
