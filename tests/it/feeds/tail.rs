//! The ends of feeds as those keep them who have no key: what is taken, what lets go, and the bytes of the messages.

use bytes::Bytes;
use cairnfs::blocks::{RunRow, TailRow};
use cairnfs::feeds::{
    Accord, Clearing, Cover, Covered, FeedError, Fit, Keeping, Kept, Link, SealedDelta, Signed,
    Tail, TailEnd, TailVerdict,
};
use cairnfs::namespace::Hlc;
use proptest::prelude::*;

use super::support::{Kind, VOLUME, delta, device, feed, seal_all, writer};
use crate::namespace::support::START_MS;

/// What a writer says of a checkpoint up to a delta.
pub fn word(of: &SealedDelta, tag: u8, ms: u64) -> Signed<Covered> {
    let word = Covered {
        volume: VOLUME,
        writer: writer(tag),
        upto: of.link().last,
        hash: of.hash(),
        hlc: Hlc::from_ms(START_MS + ms),
    };
    Signed::sign(word, &device(tag)).unwrap()
}

/// A tail of these, from their beginning.
fn tail_of(deltas: &[SealedDelta]) -> Tail {
    let mut tail = Tail::new(VOLUME, writer(1));
    for delta in deltas {
        tail.append(delta.link().clone()).unwrap();
    }
    tail
}

#[test]
fn a_tail_begins_where_the_feed_does_or_behind_its_writers_word() {
    let deltas = feed(1, 6, 99);
    let empty = Tail::new(VOLUME, writer(1));
    assert_eq!(empty.check(deltas[0].link()), Ok(Fit::Next));
    // Somewhere in the middle it would shut out what is before.
    assert_eq!(empty.check(deltas[3].link()), Ok(Fit::Gap));
    let mut behind = empty.clone();
    assert_eq!(behind.cover(word(&deltas[2], 1, 1), None), Ok(Cover::All));
    assert_eq!((behind.start(), behind.last()), (3, 3));
    assert_eq!(behind.check(deltas[2].link()), Ok(Fit::Known));
    assert_eq!(behind.check(deltas[3].link()), Ok(Fit::Next));
    assert_eq!(behind.check(deltas[4].link()), Ok(Fit::Gap));
    assert!(behind.append(deltas[4].link().clone()).is_err());
    // Another's feed, and another volume's.
    let other = feed(2, 1, 99);
    assert_eq!(empty.check(other[0].link()), Err(FeedError::OtherWriter));
    let volume = cairnfs::base::VolumeId([8; 16]);
    let elsewhere = Tail::new(volume, writer(1));
    assert_eq!(
        elsewhere.check(deltas[0].link()),
        Err(FeedError::OtherVolume)
    );
    let strange = word(&other[0], 2, 1);
    assert_eq!(empty.look_at(&strange, None), Err(FeedError::OtherWriter));
}

#[test]
fn the_first_of_two_branches_stays() {
    let (one, two) = (feed(1, 5, 99), feed(1, 5, 3));
    let mut tail = tail_of(&one[..3]);
    // A rival of the last, of an earlier one, and what follows a rival.
    assert_eq!(tail.check(two[2].link()), Ok(Fit::Forked));
    assert_eq!(tail.check(two[1].link()), Ok(Fit::Known));
    assert_eq!(tail.check(two[3].link()), Ok(Fit::Forked));
    assert_eq!(tail.check(two[4].link()), Ok(Fit::Gap));
    let like_the_last = |change: &dyn Fn(&mut Link)| {
        let mut link = one[2].link().record().clone();
        change(&mut link);
        Signed::sign(link, &device(1)).unwrap()
    };
    let long = like_the_last(&|link| link.last = 5);
    assert_eq!(tail.check(&long), Ok(Fit::Forked));
    // One that skips dots can never be followed up.
    let skipping = like_the_last(&|link| {
        (link.first, link.last) = (9, 9);
        link.previous = Some(one[2].hash());
    });
    assert!(tail.check(&skipping).is_err());
    // Nor does a word of the other branch change anything.
    let before = tail.clone();
    let of_other = word(&two[2], 1, 1);
    assert_eq!(tail.cover(of_other, Some(one[2].hash())), Ok(Cover::Forked));
    let inside = word(&two[1], 1, 1);
    assert_eq!(tail.cover(inside.clone(), None), Ok(Cover::Forked));
    assert_eq!(tail, before);
    // Feeds fork at their third delta: the second is of both.
    assert_eq!(tail.cover(inside, Some(one[1].hash())), Ok(Cover::Part));
    assert_eq!((tail.start(), tail.last()), (2, 3));
}

#[test]
fn a_word_that_is_played_again_changes_nothing() {
    let deltas = feed(1, 6, 99);
    let mut tail = tail_of(&deltas);
    let (first, later) = (word(&deltas[1], 1, 1), word(&deltas[3], 1, 2));
    let at = |n: usize| Some(deltas[n].hash());
    assert_eq!(tail.cover(later.clone(), at(3)), Ok(Cover::Part));
    let before = tail.clone();
    assert_eq!(tail.cover(first, at(1)), Ok(Cover::Older));
    assert_eq!(tail.cover(later, at(3)), Ok(Cover::Older));
    assert_eq!(tail, before);
    let all = word(&deltas[5], 1, 3);
    assert_eq!(tail.cover(all, at(5)), Ok(Cover::All));
    assert_eq!((tail.head(), tail.last()), (None, 6));
    for delta in &deltas {
        assert_eq!(tail.check(delta.link()), Ok(Fit::Known));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Whatever of two branches comes in whatever order, with words in between: what is kept is one chain of one branch, it never
    /// gets shorter but by a word, and never begins earlier again.
    #[test]
    fn what_is_kept_is_one_chain(
        brought in prop::collection::vec((0usize..2, 0usize..8, 0u8..5), 0..60),
    ) {
        let branches = [feed(1, 8, 99), feed(1, 8, 5)];
        let mut tail = Tail::new(VOLUME, writer(1));
        let mut chain: Vec<SealedDelta> = Vec::new();
        for (branch, at, what) in brought {
            let delta = &branches[branch][at];
            let (start, last) = (tail.start(), tail.last());
            if what == 0 {
                let upto = delta.link().last;
                let ends_at = chain.iter().find(|kept| kept.link().last == upto);
                let found = tail.cover(word(delta, 1, 1), ends_at.map(SealedDelta::hash)).unwrap();
                match found {
                    Cover::All => chain.clear(),
                    Cover::Part => chain.retain(|kept| kept.link().last > upto),
                    Cover::Older | Cover::Forked => {
                        prop_assert_eq!((tail.start(), tail.last()), (start, last));
                    }
                }
            } else if tail.check(delta.link()).unwrap() == Fit::Next {
                tail.append(delta.link().clone()).unwrap();
                chain.push(delta.clone());
            } else {
                prop_assert!(tail.append(delta.link().clone()).is_err());
            }
            prop_assert!(tail.start() >= start && tail.last() >= last);
            prop_assert_eq!(tail.head().map(Signed::hash), chain.last().map(SealedDelta::hash));
            let mut dot = tail.start();
            for pair in chain.windows(2) {
                prop_assert_eq!(pair[1].link().previous, Some(pair[0].hash()));
            }
            for kept in &chain {
                prop_assert_eq!(kept.link().first, dot + 1);
                dot = kept.link().last;
            }
            let again = Tail::restore(VOLUME, writer(1), tail.covered().cloned(), tail.head().cloned());
            prop_assert_eq!(again.unwrap(), tail.clone());
        }
    }

    /// Deltas of any lengths are read from their runs as they were, and no run is longer than a record may be.
    #[test]
    fn runs_have_what_was_packed(lengths in prop::collection::vec(0usize..40_000, 0..30)) {
        let deltas: Vec<(u64, Bytes)> = lengths
            .iter()
            .enumerate()
            .map(|(at, len)| (at as u64 + 1, Bytes::from(vec![at as u8; *len])))
            .collect();
        let rows = RunRow::pack(deltas.clone());
        let mut found = Vec::new();
        let mut parts = Vec::new();
        for row in &rows {
            let encoded = row.encode();
            prop_assert!(encoded.len() <= 16 << 10);
            prop_assert_eq!(&RunRow::decode(&encoded).unwrap(), row);
            parts.push(row.clone());
            if row.part + 1 == row.parts {
                prop_assert!(RunRow::unpack(&parts[1..]).is_err());
                found.extend(RunRow::unpack(&std::mem::take(&mut parts)).unwrap());
            }
        }
        prop_assert!(parts.is_empty());
        prop_assert_eq!(found, deltas);
    }
}

#[test]
fn the_row_of_a_tail_shows_what_its_writer_signed() {
    let deltas = feed(1, 3, 99);
    let row = TailRow {
        from: device(2).peer(),
        touched_ms: 1,
        covered: Some(word(&deltas[0], 1, 1).encode().into()),
        head: Some(deltas[2].link().encode().into()),
        first_run: 0,
        next_run: 1,
        bytes: 9,
    };
    let read = TailRow::decode(&row.encode()).unwrap();
    assert_eq!(read, row);
    let tail = read.tail(VOLUME, writer(1)).unwrap();
    assert_eq!((tail.start(), tail.last()), (1, 3));
    assert!(read.tail(VOLUME, writer(2)).is_err());
    let backwards = TailRow {
        covered: Some(word(&deltas[2], 1, 1).encode().into()),
        head: Some(deltas[0].link().encode().into()),
        ..row
    };
    assert!(backwards.tail(VOLUME, writer(1)).is_err());
    let mut head = deltas[2].link().encode();
    *head.last_mut().unwrap() ^= 1;
    let forged = TailRow {
        head: Some(head.into()),
        ..row
    };
    assert!(forged.tail(VOLUME, writer(1)).is_err());
}

fn messages() -> Vec<Keeping> {
    let deltas = seal_all(&[delta(1, 1, &[], 1, 1), delta(1, 2, &[(2, 7)], 2, 2)], 1);
    let (volume, writer_1) = (VOLUME, writer(1));
    let encoded = |delta: &SealedDelta| Bytes::from(delta.encode());
    let word = word(&deltas[0], 1, 5);
    let mut tail = Tail::new(volume, writer_1);
    tail.cover(word.clone(), None).unwrap();
    let empty = tail.clone();
    tail.append(deltas[1].link().clone()).unwrap();
    let kept = |tail: &Tail, bytes, verdict| {
        let tail = tail.clone();
        Keeping::Kept(Box::new(Kept {
            tail,
            bytes,
            verdict,
        }))
    };
    let end = |tag, start, last| TailEnd {
        writer: writer(tag),
        start,
        last,
        hash: deltas[0].hash(),
    };
    let mut ends = vec![end(1, 0, 300), end(2, 7, 7)];
    ends.sort_by_key(|end| end.writer);
    vec![
        Keeping::Keep {
            volume,
            writer: writer_1,
            covered: None,
            deltas: deltas.iter().map(encoded).collect(),
        },
        Keeping::Keep {
            volume,
            writer: writer_1,
            covered: Some(word),
            deltas: Vec::new(),
        },
        kept(&tail, 70_000, TailVerdict::Kept),
        kept(&empty, 0, TailVerdict::Gap),
        kept(&Tail::new(volume, writer_1), 0, TailVerdict::Full),
        Keeping::Ask { volume },
        Keeping::Tails {
            volume,
            tails: ends,
        },
        Keeping::Want {
            volume,
            writer: writer_1,
            after: 0,
            limit_bytes: 1 << 20,
        },
        Keeping::Given {
            volume,
            writer: writer_1,
            deltas: deltas.iter().map(encoded).collect(),
        },
    ]
}

fn kind(messages: &[Keeping]) -> Kind<'_, Keeping> {
    Kind {
        messages,
        encode: Keeping::encode,
        decode: Keeping::decode,
    }
}

#[test]
fn keeping_encodings_are_those_of_the_golden_vectors() {
    for bytes in kind(&messages()).check_golden("keeping") {
        assert!(Keeping::is_one(&bytes));
        assert!(!Clearing::is_one(&bytes) && !Accord::is_one(&bytes));
    }
}

#[test]
fn keeping_messages_are_read_as_they_were_written_and_nothing_else() {
    // All but the long ones, whose every byte would be signed for again.
    let short: Vec<Keeping> = messages().into_iter().skip(1).take(7).collect();
    kind(&short).check_nothing_else_is_read();
    assert!(messages().iter().all(|message| message.volume() == VOLUME));
    let deltas = feed(1, 1, 99);
    let strange = Keeping::Keep {
        volume: VOLUME,
        writer: writer(2),
        covered: Some(word(&deltas[0], 1, 5)),
        deltas: Vec::new(),
    };
    assert!(Keeping::decode(&strange.encode()).is_err());
    let end = TailEnd {
        writer: writer(1),
        start: 9,
        last: 3,
        hash: deltas[0].hash(),
    };
    let good = TailEnd { start: 1, ..end };
    for tails in [
        vec![end],
        vec![good, good],
        vec![TailEnd {
            last: 0,
            start: 0,
            ..end
        }],
    ] {
        let unsound = Keeping::Tails {
            volume: VOLUME,
            tails,
        };
        assert!(Keeping::decode(&unsound.encode()).is_err());
    }
}
