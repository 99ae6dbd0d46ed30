//! Deltas that wait: for others, for the clock, and for room.

use cairnfs::feeds::inbox::InboxLimits;
use cairnfs::feeds::{Ahead, Held, Inbox, SealedDelta};
use cairnfs::namespace::{Delta, VersionVector};

use super::support::{delta, seal, seal_all, writer};
use crate::namespace::support::START_MS;

const TEN_MINUTES: u64 = 10 * 60 * 1000;

fn version(seen: &[(u8, u64)]) -> VersionVector {
    let mut version = VersionVector::default();
    for (tag, upto) in seen {
        version.raise(writer(*tag), *upto);
    }
    version
}

fn chain(tag: u8, count: u64) -> Vec<(Delta, SealedDelta)> {
    let deltas: Vec<Delta> = (1..=count)
        .map(|n| delta(tag, n, &[], n, n as u8))
        .collect();
    let sealed = seal_all(&deltas, tag);
    deltas.into_iter().zip(sealed).collect()
}

#[test]
fn what_waits_for_others_is_given_out_when_they_are_there() {
    let mut inbox = Inbox::default();
    let one = chain(1, 4);
    let two = delta(2, 1, &[(1, 3), (3, 9)], 50, 7);
    let two = (two.clone(), seal(&two, 2, None));
    let now = START_MS;
    for (delta, sealed) in [&one[3], &one[2], &two] {
        assert_eq!(inbox.hold(delta.clone(), sealed.clone()), Held::Kept);
        assert_eq!(inbox.hold(delta.clone(), sealed.clone()), Held::Known);
    }
    assert_eq!((inbox.len(), inbox.is_empty()), (3, false));
    assert_eq!(inbox.take(&version(&[]), now), None);
    // Of writer 1 what comes before the third; of writer 3 everything.
    let mut missing = vec![(writer(1), 0), (writer(3), 0)];
    missing.sort();
    assert_eq!(inbox.missing(&version(&[])), missing);
    assert_eq!(inbox.missing(&version(&[(1, 2)])), [(writer(3), 0)]);
    let mut seen = version(&[(1, 2), (3, 9)]);
    let mut order = Vec::new();
    while let Some((delta, sealed)) = inbox.take(&seen, now) {
        assert_eq!(delta.first, sealed.link().first);
        seen.raise(delta.writer, delta.last());
        order.push((delta.writer, delta.first));
    }
    assert_eq!(order, [(writer(1), 3), (writer(1), 4), (writer(2), 1)]);
    assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
}

#[test]
fn what_is_beyond_a_cut_waits_no_longer() {
    let mut inbox = Inbox::default();
    let (one, two) = (chain(1, 5), chain(2, 5));
    for (delta, sealed) in one[1..].iter().chain(&two[1..]) {
        assert_eq!(inbox.hold(delta.clone(), sealed.clone()), Held::Kept);
    }
    inbox.forget_after(writer(1), 3);
    assert_eq!(inbox.len(), 6);
    assert_eq!(inbox.take(&version(&[]), START_MS), None);
    inbox.forget_after(writer(1), 0);
    assert_eq!(inbox.missing(&version(&[])), [(writer(2), 0)]);
    inbox.forget_after(writer(2), 0);
    assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
}

#[test]
fn what_is_known_meanwhile_and_both_sides_of_a_fork_come_out() {
    let mut inbox = Inbox::default();
    let rival = delta(1, 2, &[], 2, 99);
    let one = chain(1, 2);
    let rival = (rival.clone(), seal(&rival, 1, Some(&one[0].1)));
    for (delta, sealed) in [&one[1], &rival] {
        assert_eq!(inbox.hold(delta.clone(), sealed.clone()), Held::Kept);
    }
    assert_eq!(inbox.take(&version(&[]), START_MS), None);
    let seen = version(&[(1, 2)]);
    assert!(inbox.take(&seen, START_MS).is_some());
    assert!(inbox.take(&seen, START_MS).is_some());
    assert!(inbox.is_empty());
}

#[test]
fn a_clock_that_is_ahead_is_named_and_waited_for() {
    let mut inbox = Inbox::default();
    let late = TEN_MINUTES + 5000;
    let first = delta(1, 1, &[], late, 1);
    let first = (first.clone(), seal(&first, 1, None));
    let second = delta(1, 2, &[], late + 1000, 2);
    let second = (second.clone(), seal(&second, 1, Some(&first.1)));
    let dependent = delta(2, 1, &[(1, 1)], 0, 3);
    let dependent = (dependent.clone(), seal(&dependent, 2, None));
    for (delta, sealed) in [first, second, dependent] {
        inbox.hold(delta, sealed);
    }
    let seen = version(&[]);
    assert_eq!(inbox.take(&seen, START_MS), None);
    let ahead = Ahead {
        writer: writer(1),
        by_ms: late + 1000,
        count: 2,
    };
    assert_eq!(inbox.ahead(START_MS), [ahead]);
    assert_eq!(inbox.next_due_ms(START_MS), Some(START_MS + 5000));
    assert!(inbox.missing(&seen).is_empty(), "all is there but the time");
    let now = START_MS + 5000;
    assert_eq!(inbox.next_due_ms(now), Some(START_MS + 6000));
    assert_eq!(inbox.take(&seen, now).unwrap().0.writer, writer(1));
    let seen = version(&[(1, 1)]);
    assert_eq!(inbox.take(&seen, now).unwrap().0.writer, writer(2));
    assert_eq!(inbox.take(&seen, now), None);
    assert!(inbox.take(&seen, now + 1000).is_some());
    assert_eq!(inbox.next_due_ms(now), None);
    assert!(inbox.ahead(now).is_empty());
}

#[test]
fn what_finds_no_room_is_named() {
    let limits = InboxLimits {
        writer_count: 3,
        count: 5,
        ..InboxLimits::default()
    };
    let mut inbox = Inbox::new(limits);
    let one = chain(1, 10);
    // The earliest stay, in whatever order they come.
    for at in [9, 4, 7, 1, 2, 3] {
        let (delta, sealed) = one[at].clone();
        let held = inbox.hold(delta, sealed);
        assert_eq!(held, Held::Kept, "{at}");
        assert!(inbox.len() <= 3);
    }
    assert_eq!(
        inbox.hold(one[8].0.clone(), one[8].1.clone()),
        Held::Refused
    );
    assert_eq!(inbox.take_again(), (vec![(writer(1), 4)], false));
    assert_eq!(inbox.take_again(), (Vec::new(), false), "told once");
    // Of all together those go of whom there is most.
    for (tag, count) in [(2, 1), (3, 1)] {
        for (delta, sealed) in chain(tag, count) {
            assert_eq!(inbox.hold(delta, sealed), Held::Kept);
        }
    }
    let (delta, sealed) = chain(4, 1).remove(0);
    assert_eq!(inbox.hold(delta, sealed), Held::Kept);
    assert_eq!(inbox.len(), 5);
    assert_eq!(inbox.take_again(), (vec![(writer(1), 3)], false));
    // Bytes count as well.
    let (delta, sealed) = chain(1, 1).remove(0);
    let mut inbox = Inbox::new(InboxLimits {
        bytes: sealed.len_bytes() * 2 - 1,
        ..InboxLimits::default()
    });
    assert_eq!(inbox.hold(delta, sealed), Held::Refused);
    assert_eq!((inbox.bytes(), inbox.len()), (0, 0));
    assert_eq!(inbox.take_again(), (vec![(writer(1), 0)], false));
}
