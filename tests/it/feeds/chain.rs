//! One writer's feed: next, known, gap, fork, branch, replay, truncation, cut.

use cairnfs::base::VolumeId;
use cairnfs::crypto::SigningKey;
use cairnfs::feeds::{
    Announced, Cut, Feed, FeedError, ForkProof, Promises, SealedDelta, Signed, Verdict,
};

use super::support::{VOLUME, delta, device, epoch_key, feed, head, seal, writer};

fn taken(deltas: &[SealedDelta]) -> Feed {
    let mut feed = Feed::new(VOLUME, deltas[0].link().writer);
    for delta in deltas {
        assert_eq!(feed.check(delta.link()).unwrap(), Verdict::Next);
        feed.advance(delta.link().clone()).unwrap();
    }
    feed
}

#[test]
fn a_feed_takes_its_next_delta_and_knows_the_others() {
    let deltas = feed(1, 5, 9);
    let mut known = taken(&deltas[..3]);
    assert_eq!(known.last(), 3);
    let verdict = |of: &Feed, delta: &SealedDelta| of.check(delta.link()).unwrap();
    assert_eq!(verdict(&known, &deltas[3]), Verdict::Next);
    assert_eq!(verdict(&known, &deltas[4]), Verdict::Gap { after: 3 });
    for delta in &deltas[..3] {
        assert_eq!(verdict(&known, delta), Verdict::Known, "a replay");
    }
    let again = known.advance(deltas[2].link().clone());
    assert!(matches!(again, Err(FeedError::Misuse(_))));
    // Of another volume, of another writer.
    let one = delta(1, 1, &[], 5, 1);
    let (elsewhere, key) = (VolumeId([4; 16]), epoch_key());
    let foreign = SealedDelta::seal(&one, elsewhere, None, (4, &key), &device(1)).unwrap();
    assert_eq!(known.check(foreign.link()), Err(FeedError::OtherVolume));
    assert_eq!(
        known.check(feed(2, 1, 9)[0].link()),
        Err(FeedError::OtherWriter)
    );
    // From the last link alone, what is older cannot be told apart.
    let short = Feed::restore(vec![deltas[2].link().clone()]).unwrap();
    assert_eq!(verdict(&short, &deltas[0]), Verdict::Old);
    assert_eq!(verdict(&short, &deltas[2]), Verdict::Known);
    assert_eq!(verdict(&short, &deltas[3]), Verdict::Next);
    let links = deltas[1..4].iter().map(|delta| delta.link().clone());
    assert_eq!(Feed::restore(links.collect()).unwrap().last(), 4);
    let gap = vec![deltas[0].link().clone(), deltas[2].link().clone()];
    assert!(Feed::restore(gap).is_err() && Feed::restore(Vec::new()).is_err());
    // A checkpoint takes it further.
    known.skip_to(deltas[4].link().clone()).unwrap();
    assert_eq!((known.last(), known.links().count()), (5, 1));
    assert!(known.skip_to(deltas[4].link().clone()).is_err());
}

/// A writer that began to share late: its feed begins at any dot, and once.
#[test]
fn a_feed_begins_where_its_writer_says_and_only_there() {
    let begun = seal(&delta(1, 101, &[], 5, 1), 1, None);
    let next = seal(&delta(1, 102, &[], 6, 2), 1, Some(&begun));
    let mut known = Feed::new(VOLUME, writer(1));
    assert_eq!(known.check(next.link()).unwrap(), Verdict::Gap { after: 0 });
    known.advance(begun.link().clone()).unwrap();
    known.advance(next.link().clone()).unwrap();
    for first in [1, 50, 101, 103, 500] {
        let again = seal(&delta(1, first, &[], 7, 9), 1, None);
        let verdict = known.check(again.link()).unwrap();
        assert!(
            matches!(verdict, Verdict::Forked(_)),
            "{first}: {verdict:?}"
        );
    }
}

#[test]
fn links_are_kept_within_bounds() {
    let deltas = feed(1, 200, 999);
    let known = taken(&deltas);
    assert_eq!(known.links().count(), 64);
    assert_eq!(known.check(deltas[100].link()).unwrap(), Verdict::Old);
    assert_eq!(known.check(deltas[150].link()).unwrap(), Verdict::Known);
}

#[test]
fn a_fork_is_proven_and_its_branch_goes_as_far_as_others_built_on_it() {
    let ours = feed(1, 6, 9);
    let theirs = feed(1, 6, 3);
    let mut known = taken(&ours[..4]);
    let Verdict::Forked(proof) = known.check(theirs[2].link()).unwrap() else {
        panic!("the third is another");
    };
    let later = known.check(theirs[3].link()).unwrap();
    assert!(
        matches!(later, Verdict::Forked(_)),
        "it has a dot of one of ours"
    );
    assert_eq!(known.check(theirs[4].link()).unwrap(), Verdict::Branch);
    let gap = known.check(theirs[5].link()).unwrap();
    assert_eq!(gap, Verdict::Gap { after: 4 });
    // Anybody can check the proof.
    let bytes = proof.encode();
    let read = ForkProof::decode(&bytes).unwrap();
    assert_eq!(read, *proof);
    let hashes = [ours[2].hash(), theirs[2].hash()];
    let (one, two) = read.links();
    assert!(hashes.contains(&one.hash()) && hashes.contains(&two.hash()));
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert!(ForkProof::decode(&bad).is_err(), "byte {at}");
    }
    let link = |delta: &SealedDelta| delta.link().clone();
    assert_eq!(ForkProof::new(link(&ours[2]), link(&ours[2])), None);
    assert_eq!(ForkProof::new(link(&ours[2]), link(&theirs[3])), None);
    assert!(ForkProof::new(link(&ours[3]), link(&theirs[3])).is_some());
    assert_eq!(
        ForkProof::new(link(&ours[1]), link(&feed(2, 2, 9)[1])),
        None
    );
    assert_eq!(
        ForkProof::new(link(&theirs[2]), link(&ours[2])).as_ref(),
        Some(&*proof)
    );
    // From then on only what others build on.
    known.record_fork(*proof).unwrap();
    assert!(known.fork().is_some());
    assert_eq!(known.check(ours[4].link()).unwrap(), Verdict::Cut { at: 4 });
    known.allow(5);
    assert_eq!(known.check(ours[4].link()).unwrap(), Verdict::Next);
    known.advance(link(&ours[4])).unwrap();
    assert_eq!(known.check(ours[5].link()).unwrap(), Verdict::Cut { at: 5 });
}

#[test]
fn a_writer_that_says_less_than_before_is_noticed() {
    let deltas = feed(1, 5, 9);
    let mut known = taken(&deltas[..2]);
    assert_eq!(
        known.announce(head(&deltas[3], 1, 100)).unwrap(),
        Announced::News
    );
    assert_eq!(known.announced().unwrap().last, 4);
    assert_eq!(
        known.announce(head(&deltas[3], 1, 100)).unwrap(),
        Announced::Known
    );
    // An old one that comes late, and a new one that says less.
    assert_eq!(
        known.announce(head(&deltas[2], 1, 90)).unwrap(),
        Announced::Known
    );
    let retreat = known.announce(head(&deltas[2], 1, 110)).unwrap();
    let before = Box::new(head(&deltas[3], 1, 100));
    assert_eq!(retreat, Announced::Retreat { before });
    let other = feed(1, 5, 2);
    let contradiction = known.announce(head(&other[1], 1, 120)).unwrap();
    assert_eq!(
        contradiction,
        Announced::Contradiction,
        "another second delta"
    );
    let contradiction = known.announce(head(&other[3], 1, 120)).unwrap();
    assert_eq!(
        contradiction,
        Announced::Contradiction,
        "another fourth than announced"
    );
    assert_eq!(
        known.announce(head(&feed(2, 1, 9)[0], 2, 1)),
        Err(FeedError::OtherWriter)
    );
}

#[test]
fn a_peer_is_held_to_what_it_announced() {
    let deltas = feed(1, 5, 9);
    let (peer, other) = (device(7).peer(), device(8).peer());
    let mut promises = Promises::default();
    assert!(promises.note(peer, head(&deltas[3], 1, 100)));
    assert!(
        promises.note(peer, head(&deltas[1], 1, 110)),
        "less is no promise less"
    );
    assert_eq!(promises.check(peer, writer(1), 4), None);
    let truncated = promises.check(peer, writer(1), 3).unwrap();
    assert_eq!(
        (truncated.peer, truncated.offered, truncated.announced.last),
        (peer, 3, 4)
    );
    assert_eq!(promises.check(other, writer(1), 0), None);
    assert_eq!(promises.check(peer, writer(2), 0), None);
    promises.forget(peer);
    assert_eq!(promises.check(peer, writer(1), 0), None);
}

#[test]
fn the_feed_of_a_revoked_device_ends_where_others_say_and_that_only_moves_on() {
    let deltas = feed(1, 6, 9);
    let device_of = |tag: u8| device(tag).peer();
    let cut = |tag: u8, upto: usize, key: &SigningKey| {
        let cut = Cut {
            volume: VOLUME,
            device: device_of(1),
            by: device_of(tag),
            positions: vec![(0, upto as u64, deltas[upto - 1].hash())],
        };
        Signed::sign(cut, key)
    };
    assert!(cut(2, 3, &device(3)).is_err(), "in another's name");
    let two = cut(2, 3, &device(2)).unwrap();
    assert_eq!(Signed::<Cut>::decode(&two.encode()).unwrap(), two);
    let mut known = taken(&deltas[..3]);
    assert_eq!(known.revoked_at(), None);
    known.vouch(9);
    assert_eq!(known.revoked_at(), None, "nobody was revoked");
    known.revoke_at(3);
    assert_eq!(
        known.check(deltas[3].link()).unwrap(),
        Verdict::Cut { at: 3 }
    );
    known.vouch(5);
    known.vouch(4);
    known.advance(deltas[3].link().clone()).unwrap();
    known.advance(deltas[4].link().clone()).unwrap();
    assert_eq!(
        known.check(deltas[5].link()).unwrap(),
        Verdict::Cut { at: 5 }
    );
    // Its own word is nothing.
    let own = Cut {
        volume: VOLUME,
        device: device_of(1),
        by: device_of(1),
        positions: Vec::new(),
    };
    let own = Signed::sign(own, &device(1)).unwrap();
    assert!(Signed::<Cut>::decode(&own.encode()).is_err());
    let again = seal(&delta(1, 7, &[], 9, 9), 1, deltas.last());
    // What is beyond is not waited for, whether or not it is the next.
    assert_eq!(known.check(again.link()).unwrap(), Verdict::Cut { at: 5 });
    known.readmit();
    assert_eq!(
        known.check(again.link()).unwrap(),
        Verdict::Gap { after: 5 }
    );
    assert_eq!(known.check(deltas[5].link()).unwrap(), Verdict::Next);
}
