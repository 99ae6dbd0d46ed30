//! Joins of checkpoints: in any order, mixed with deltas in any order, cut into pages of any size and
//! interrupted anywhere, they make the rows that all deltas make.

use bytes::Bytes;
use cairnfs::base::{Class, Entropy, PeerId};
use cairnfs::namespace::{
    Delta, Dot, Edit, Hlc, Ino, Join, JoinError, MemRows, Page, Shared, WriterId, apply, join, row,
    state,
};
use proptest::prelude::*;

use super::converge::{FOUND, History, Step};
use super::support::{Checkpoint, Replica, assert_same, config, exchange, volume};

fn page_bytes(entropy: &Entropy) -> usize {
    [1, 300, 2000, 1 << 20][entropy.below(4) as usize]
}

/// A history, with checkpoints from in between.
fn history(steps: &[Step]) -> (History, Vec<Checkpoint>) {
    let mut history = History::new();
    let mut checkpoints = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        history.step(*step);
        if number % 3 == 2 {
            let of = &history.replicas[number % 2 + usize::from(step.4) % 2];
            checkpoints.push(Checkpoint::of(&of.rows));
        }
    }
    let replicas = history.replicas.iter();
    checkpoints.extend(replicas.map(|replica| Checkpoint::of(&replica.rows)));
    (history, checkpoints)
}

/// A replica that hears of everything by deltas and checkpoints as they come.
fn hear(all: &[Delta], checkpoints: &[Checkpoint], seed: u64) -> Replica {
    let entropy = Entropy::seeded(seed);
    let mut late = Replica::new(9);
    let mut waiting: Vec<&Delta> = all.iter().collect();
    let mut idle = 0;
    while !waiting.is_empty() {
        if entropy.below(6) == 0 {
            let at = entropy.below(checkpoints.len() as u64) as usize;
            late.join(&checkpoints[at], page_bytes(&entropy));
        }
        let at = entropy.below(waiting.len() as u64) as usize;
        if late.receive(waiting[at]) {
            waiting.swap_remove(at);
            idle = 0;
        } else {
            idle += 1;
            assert!(idle < 100_000, "nothing more can be merged");
        }
    }
    late
}

/// A join that stops after some pages, for ever.
fn begin(replica: &mut Replica, checkpoint: &Checkpoint, entropy: &Entropy) {
    let mut join = checkpoint.join(&replica.rows);
    for _ in 0..entropy.below(6) {
        match join
            .page(&replica.rows, 1 + entropy.below(1000) as usize)
            .unwrap()
        {
            Page::More(changes) => replica.rows.apply(changes),
            Page::Last(_) => return,
        }
    }
}

fn check(steps: &[Step]) {
    let (mut history, checkpoints) = history(steps);
    let own: Vec<Replica> = history.replicas.to_vec();
    exchange(&mut history.replicas);
    let all: Vec<Delta> = own.iter().flat_map(|r| r.made.clone()).collect();
    for seed in 0..3 {
        assert_same(&hear(&all, &checkpoints, seed), &history.replicas[0]);
    }
    // By checkpoints alone, in any order, again and again.
    let entropy = Entropy::seeded(7);
    for _ in 0..3 {
        let mut one = own[entropy.below(3) as usize].clone();
        for _ in 0..4 {
            let at = entropy.below(checkpoints.len() as u64) as usize;
            begin(&mut one, &checkpoints[at], &entropy);
            let before = join::unfinished(&one.rows).unwrap();
            one.join(&checkpoints[at], page_bytes(&entropy));
            assert!(before.is_none_or(|begun| checkpoints[at].version.includes(&begun)));
            assert_eq!(join::unfinished(&one.rows).unwrap(), None);
        }
        let mut last = checkpoints[checkpoints.len() - 3..].to_vec();
        for _ in 0..3 {
            let checkpoint = last.swap_remove(entropy.below(last.len() as u64) as usize);
            one.join(&checkpoint, page_bytes(&entropy));
        }
        assert_same(&one, &history.replicas[0]);
        let before = one.rows.clone();
        for checkpoint in &checkpoints {
            assert_eq!(one.join(checkpoint, 1), 1, "nothing is new");
        }
        assert_eq!(one.rows, before);
    }
    laws(&own);
    // What was begun with one checkpoint is finished with a later one.
    let mut one = Replica::new(9);
    begin(&mut one, &Checkpoint::of(&own[0].rows), &entropy);
    one.join(
        &Checkpoint::of(&history.replicas[0].rows),
        page_bytes(&entropy),
    );
    assert_same(&one, &history.replicas[0]);
}

/// Commutative, associative, idempotent.
fn laws(own: &[Replica]) {
    let joined = |one: &Replica, two: &Replica| {
        let mut one = one.clone();
        one.join(&Checkpoint::of(&two.rows), 700);
        one
    };
    let [a, b, c] = own else {
        panic!("three replicas");
    };
    assert_same(&joined(a, b), &joined(b, a));
    assert_same(&joined(&joined(a, b), c), &joined(a, &joined(b, c)));
    assert_same(&joined(&joined(c, b), b), &joined(c, b));
}

proptest! {
    #![proptest_config(config(60))]
    #[test]
    fn checkpoints_and_deltas_in_any_order_make_the_same_rows(
        steps in prop::collection::vec(any::<Step>(), 1..40)
    ) {
        check(&steps);
    }
}

#[test]
fn histories_that_once_failed_are_joined() {
    for steps in FOUND {
        check(steps);
    }
}

/// Directories that are moved into one another by different writers, in pages of one row.
#[test]
fn circles_are_cut_in_the_same_place_however_they_come() {
    let [mut one, mut two, mut three] = volume();
    let dirs: Vec<Ino> = (0..6)
        .map(|n| one.dir(Ino::ROOT, &format!("d{n}")))
        .collect();
    for dir in &dirs {
        one.file(*dir, "f", "text");
    }
    two.pull(&one);
    three.pull(&one);
    for n in 0..6 {
        let replica = match n % 3 {
            0 => &mut one,
            1 => &mut two,
            _ => &mut three,
        };
        let (from, to) = (format!("d{n}"), dirs[(n + 1) % 6]);
        replica.rename((Ino::ROOT, &from), (to, "in")).unwrap();
    }
    two.rename((Ino::ROOT, "d0"), (dirs[3], "there")).unwrap();
    let own = [one.clone(), two.clone(), three.clone()];
    let mut all = own.clone();
    exchange(&mut all);
    laws(&own);
    for limit in [1, 100, 1000, 10_000] {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut late = Replica::new(9);
            for at in order {
                late.join(&Checkpoint::of(&own[at].rows), limit);
            }
            assert_same(&late, &all[0]);
        }
    }
}

/// A large checkpoint comes in many pages, and each is as small as was asked.
#[test]
fn pages_are_bounded_and_a_small_change_is_one() {
    let [mut one, mut two] = volume();
    let dir = one.dir(Ino::ROOT, "d");
    for n in 0..300 {
        one.file(dir, &format!("f{n}"), &"text ".repeat(50));
    }
    two.pull(&one);
    let mut late = Replica::new(9);
    let checkpoint = Checkpoint::of(&one.rows);
    let mut join = checkpoint.join(&late.rows);
    let mut pages = 0;
    loop {
        let page = join.page(&late.rows, 4096).unwrap();
        let (Page::More(changes) | Page::Last(changes)) = &page;
        let bytes: usize = changes
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len))
            .sum();
        assert!(bytes < 3 * 4096, "{bytes}");
        late.rows.apply(changes.clone());
        pages += 1;
        match page {
            Page::Last(_) => break,
            Page::More(_) => {
                let refused = apply(&late.rows, &one.made[0], u64::MAX / 2).unwrap_err();
                assert_eq!(refused.class, Class::Retry);
                assert!(Shared::new(&late.rows).is_err());
            }
        }
    }
    assert!(pages > 30, "{pages}");
    assert_same(&late, &one);
    two.unlink(dir, "f7").unwrap();
    two.file(dir, "new", "new");
    assert_eq!(one.join(&Checkpoint::of(&two.rows), 64 << 10), 1);
    assert_same(&one, &two);
}

type Source = Vec<Result<(Vec<u8>, Bytes), &'static str>>;

fn refused(rows: &MemRows, checkpoint: &Checkpoint, source: Source) -> JoinError<&'static str> {
    refused_until(Hlc(u64::MAX), rows, checkpoint, source)
}

fn refused_until(
    until: Hlc,
    rows: &MemRows,
    checkpoint: &Checkpoint,
    source: Source,
) -> JoinError<&'static str> {
    let mut rows = rows.clone();
    let version = checkpoint.version.clone();
    let mut join = Join::new(&rows, version, until, source.into_iter()).unwrap();
    loop {
        match join.page(&rows, 500) {
            Ok(Page::More(changes)) => rows.apply(changes),
            Ok(Page::Last(_)) => panic!("it was merged"),
            Err(error) => return error,
        }
    }
}

#[test]
fn checkpoints_that_cannot_be_are_refused() {
    let [mut one, mut two] = volume();
    let ino = one.file(Ino::ROOT, "a", "1");
    one.file(Ino::ROOT, "b", "1");
    let sound = Checkpoint::of(&one.rows);
    let rows: Source = sound.rows.iter().cloned().map(Ok).collect();

    let mut broken = rows.clone();
    broken[2] = Err("the page is missing");
    let error = refused(&two.rows, &sound, broken);
    assert_eq!(error, JoinError::Source("the page is missing"));

    let mut swapped = rows.clone();
    swapped.swap(0, 1);
    assert_eq!(refused(&two.rows, &sound, swapped), JoinError::Order);
    let mut twice = rows.clone();
    twice.insert(1, twice[0].clone());
    assert_eq!(refused(&two.rows, &sound, twice), JoinError::Order);

    let mut local = rows.clone();
    local.push(Ok((vec![0x80], Bytes::new())));
    assert!(matches!(
        refused(&two.rows, &sound, local),
        JoinError::Row(_)
    ));
    let mut bad = rows.clone();
    bad[1] = Ok((sound.rows[1].0.clone(), Bytes::from_static(b"\x80")));
    assert!(matches!(refused(&two.rows, &sound, bad), JoinError::Row(_)));

    // A vector that covers less than what is there.
    let mut less = sound.clone();
    less.version = state::version(&two.rows).unwrap();
    let stranger = WriterId {
        peer: PeerId([8; 32]),
        incarnation: 0,
    };
    less.version.raise(stranger, 1);
    let error = refused(&two.rows, &less, rows.clone());
    assert!(
        matches!(error, JoinError::Uncovered(Dot { counter: 2.., .. })),
        "{error:?}"
    );

    // From after the moment that it says is the latest.
    let mut unknown = sound.clone();
    unknown.version.raise(stranger, 1);
    let error = refused_until(Hlc(1), &MemRows::default(), &unknown, rows.clone());
    assert!(matches!(error, JoinError::Late(_)), "{error:?}");

    // One dot, two values.
    let mut forked = rows.clone();
    let content = cairnfs::namespace::Key::Content(ino);
    let at = sound
        .rows
        .iter()
        .position(|(key, _)| *key == content.encode());
    let at = at.unwrap();
    let mut row = row::decode(&content, &sound.rows[at].1).unwrap();
    row[0].hlc = Hlc(1);
    forked[at] = Ok((content.encode(), row::encode(&row).into()));
    let mut longer = sound.clone();
    longer.version.raise(stranger, 1);
    let error = refused(&one.rows, &longer, forked);
    assert_eq!(error, JoinError::Forked(row[0].dot));

    // Another checkpoint was begun.
    two.file(Ino::ROOT, "c", "2");
    let mut half = Replica::new(9);
    let mut join = sound.join(&half.rows);
    let Page::More(changes) = join.page(&half.rows, 1).unwrap() else {
        panic!("one row is not all");
    };
    half.rows.apply(changes);
    let other = Checkpoint::of(&two.rows);
    let begun = Join::new(
        &half.rows,
        other.version.clone(),
        Hlc(u64::MAX),
        other.source(),
    );
    assert!(matches!(begun.map(drop), Err(JoinError::Unfinished)));
    assert_eq!(
        join::unfinished(&half.rows).unwrap(),
        Some(sound.version.clone())
    );
    half.join(&sound, 100);
    assert_same(&half, &one);
    // Nothing is left of the join: an operation can be made.
    let now = half.now();
    assert!(Edit::new(&half.rows, half.writer, now).is_ok());
}
