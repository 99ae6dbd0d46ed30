//! Histories of three writers: replicas become the same in every order, and nothing that somebody
//! wrote and nobody knowingly removed is lost.

use std::collections::BTreeSet;

use cairnfs::base::Entropy;
use cairnfs::namespace::{
    AttrChange, Body, Delta, Ino, Kind, Node, OpError, Outcome, RenameMode, Shown, apply, merge,
    state,
};
use proptest::prelude::*;

use super::support::{Item, Replica, assert_same, config, exchange, name, volume};

/// Who, what, and three numbers that pick paths.
pub type Step = (u8, u8, u8, u8, u8);

pub struct History {
    pub replicas: [Replica; 3],
    written: BTreeSet<String>,
    removed: BTreeSet<String>,
    count: usize,
}

/// Contents of all files that are shown.
fn contents(replica: &Replica) -> BTreeSet<String> {
    let items = replica.walk().into_iter();
    let contents = items.filter_map(|item| content_of(&item));
    contents.filter(|content| !content.is_empty()).collect()
}

fn content_of(item: &Item) -> Option<String> {
    item.text
        .split_once('=')
        .map(|(_, content)| content.to_owned())
}

impl History {
    pub fn new() -> History {
        History::of(volume())
    }

    pub fn of(replicas: [Replica; 3]) -> History {
        History {
            replicas,
            written: BTreeSet::new(),
            removed: BTreeSet::new(),
            count: 0,
        }
    }

    pub fn step(&mut self, (who, what, a, b, c): Step) {
        let who = usize::from(who) % 3;
        if what % 5 == 0 {
            let other = (who + 1 + usize::from(a) % 2) % 3;
            let known = self.replicas[other].clone();
            // Some of what the other has, in the order in which it came there.
            let upto = known.log.len() * (1 + usize::from(b) % 4) / 4;
            for delta in &known.log[..upto] {
                assert!(self.replicas[who].receive(delta));
            }
            return;
        }
        let replica = &mut self.replicas[who];
        let before = contents(replica);
        let walk = replica.walk();
        let dirs: Vec<Ino> = walk
            .iter()
            .filter(|item| item.shown.kind == Kind::Directory)
            .map(|item| item.shown.ino)
            .chain([Ino::ROOT])
            .collect();
        let dir = dirs[usize::from(a) % dirs.len()];
        let pick = |number: u8| walk.get(usize::from(number) % walk.len().max(1));
        let fresh = ["a", "b", "c.txt"][usize::from(b) % 3];
        let mut may_go: Vec<String> = Vec::new();
        let done: Result<(), OpError> = match what % 16 {
            0..4 => match replica.make(dir, fresh, Node::File) {
                Ok(ino) => {
                    self.count += 1;
                    let content = format!("text {}", self.count);
                    self.written.insert(content.clone());
                    replica.write(ino, &content)
                }
                Err(error) => Err(error),
            },
            4..7 => replica.make(dir, fresh, Node::Directory).map(drop),
            7..10 => match pick(c).filter(|item| item.shown.kind == Kind::File) {
                Some(item) => {
                    // A copy is written to after it was made a file of its own.
                    let ino = plain(replica, item).unwrap();
                    self.count += 1;
                    let content = format!("text {}", self.count);
                    self.written.insert(content.clone());
                    may_go.extend(content_of(item));
                    replica.write(ino, &content)
                }
                None => Ok(()),
            },
            10 => match pick(c) {
                Some(item) => {
                    let shown = item.shown.clone();
                    may_go.extend(content_of(item));
                    let dir = shown.spots[0].dir;
                    let done = replica.edit(|edit| edit.unlink(dir, &shown.name).map(drop));
                    match done {
                        Err(OpError::IsADirectory) => {
                            replica.edit(|edit| edit.rmdir(dir, &shown.name).map(drop))
                        }
                        other => {
                            assert_eq!(other, Ok(()));
                            let gone = replica.view().lookup(dir, &shown.name).unwrap();
                            assert_eq!(gone, None, "what was removed is gone");
                            Ok(())
                        }
                    }
                }
                None => Ok(()),
            },
            11..14 => match pick(c) {
                Some(item) => {
                    let shown = item.shown.clone();
                    let target = replica.view().lookup(dir, &name(fresh)).unwrap();
                    if let Some(target) = target {
                        let same = |item: &&Item| item.shown == target;
                        may_go.extend(walk.iter().find(same).and_then(content_of));
                    }
                    let mode = match b % 4 {
                        0 => RenameMode::Exchange,
                        _ => RenameMode::Replace,
                    };
                    let from = shown.spots[0].dir;
                    let to = (dir, fresh.as_bytes());
                    replica.edit(|edit| edit.rename((from, &shown.name), to, mode).map(drop))
                }
                None => Ok(()),
            },
            14 => match pick(c) {
                Some(item) => {
                    let ino = item.shown.ino;
                    replica.edit(|edit| edit.link(ino, dir, fresh.as_bytes()))
                }
                None => Ok(()),
            },
            _ => match pick(c) {
                Some(item) => {
                    let (ino, mode) = (item.shown.ino, u16::from(b));
                    let change = AttrChange {
                        mode: Some(mode),
                        ..AttrChange::default()
                    };
                    replica.edit(|edit| edit.set_attrs(ino, &change))
                }
                None => Ok(()),
            },
        };
        if let Err(OpError::State(error)) = &done {
            panic!("{error}");
        }
        let after = contents(replica);
        for gone in before.difference(&after) {
            assert!(may_go.contains(gone), "{gone} went with {what}: {done:?}");
            self.removed.insert(gone.clone());
        }
    }

    fn finish(mut self) {
        exchange(&mut self.replicas);
        let shown = contents(&self.replicas[0]);
        for content in self.written.difference(&self.removed) {
            assert!(shown.contains(content), "{content} is lost: {shown:?}");
        }
        let all: Vec<Delta> = self.replicas.iter().flat_map(|r| r.made.clone()).collect();
        for seed in 0..2 {
            let mut late = Replica::new(9);
            deliver(&mut late, &all, seed);
            assert_same(&late, &self.replicas[0]);
        }
    }
}

/// The file behind something shown; a conflict copy becomes one.
fn plain(replica: &mut Replica, item: &Item) -> Result<Ino, OpError> {
    let Shown {
        spots, base, copy, ..
    } = &item.shown;
    if copy.is_none() {
        return Ok(item.shown.ino);
    }
    let dir = spots[0].dir;
    replica.edit(|edit| edit.settle_name(dir, base))?;
    let found = replica.view().lookup(dir, &item.shown.name)?;
    Ok(found.unwrap().ino)
}

/// Merges all, each time a random one of those that can be merged; each twice.
fn deliver(replica: &mut Replica, all: &[Delta], seed: u64) {
    let entropy = Entropy::seeded(seed);
    let mut waiting: Vec<&Delta> = all.iter().collect();
    let mut idle = 0;
    while !waiting.is_empty() {
        let at = entropy.below(waiting.len() as u64) as usize;
        if replica.receive(waiting[at]) {
            assert!(
                replica.receive(waiting[at]),
                "a second time changes nothing"
            );
            waiting.swap_remove(at);
            idle = 0;
        } else {
            idle += 1;
            assert!(idle < 100_000, "nothing more can be merged");
        }
    }
}

proptest! {
    #![proptest_config(config(150))]
    #[test]
    fn replicas_converge_and_lose_nothing(
        steps in prop::collection::vec(any::<Step>(), 1..50)
    ) {
        let mut history = History::new();
        for step in steps {
            history.step(step);
        }
        history.finish();
    }
}

#[test]
fn a_delta_waits_for_what_it_builds_on_and_for_its_time() {
    let [mut one, mut two] = volume();
    let before = two.clone();
    let ino = one.file(Ino::ROOT, "a", "1");
    two.pull(&one);
    two.write(ino, "2").unwrap();
    let delta = two.made[0].clone();
    let known = one.made[1].clone();
    match apply(&before.rows, &delta, u64::MAX / 2).unwrap() {
        Outcome::Early(missing) => {
            assert_eq!(missing, [(one.writer, one.made[2].last())]);
        }
        other => panic!("{other:?}"),
    }
    let ms = delta.draft.hlc.ms();
    let ten_minutes = 10 * 60 * 1000;
    let outcome = apply(&one.rows, &delta, ms - ten_minutes - 1).unwrap();
    assert_eq!(
        outcome,
        Outcome::NotDue {
            due_ms: ms - ten_minutes
        }
    );
    let outcome = apply(&one.rows, &delta, ms - ten_minutes).unwrap();
    assert!(matches!(outcome, Outcome::Merged(_)));
    let outcome = apply(&one.rows, &known, u64::MAX / 2).unwrap();
    assert_eq!(outcome, Outcome::Known);
    // Another delta in place of one that was merged, and more.
    let mut forked = one.made[2].clone();
    forked.first -= 1;
    forked
        .draft
        .writes
        .push(one.made[1].draft.writes[0].clone());
    forked.draft.writes[1]
        .values
        .push(one.made[1].draft.writes[0].values[0].clone());
    assert!(forked.last() > one.made[2].last());
    assert_eq!(
        apply(&one.rows, &forked, u64::MAX / 2).unwrap(),
        Outcome::Forked
    );
}

/// Drafts shown before they enter the feed, in another order than they were made in.
#[test]
fn drafts_that_enter_late_end_as_if_they_had_entered_at_once() {
    let [mut one, mut two] = volume();
    let dir = one.dir(Ino::ROOT, "d");
    let file = one.file(dir, "f", "old");
    two.pull(&one);
    let mut number = 0;
    let mut drafts = Vec::new();
    let body = |text: &str| Body::Inline(text.to_owned().into());
    // A content that waits for its blocks, and a name elsewhere that need not wait.
    for step in 0..3 {
        let now = one.now();
        let ino = one.ino();
        let mut edit = cairnfs::namespace::Edit::new(&one.rows, one.writer, now).unwrap();
        let new = cairnfs::namespace::NewNode {
            ino,
            node: Node::Directory,
            mode: 0o700,
            uid: 1,
            gid: 1,
        };
        match step {
            0 => edit.set_content(file, 3, now.time, body("new")).unwrap(),
            1 => edit.create(Ino::ROOT, b"other", &new).unwrap(),
            _ => edit.set_content(file, 5, now.time, body("newer")).unwrap(),
        }
        let draft = edit.finish();
        let changes = merge::apply_draft(&one.rows, &draft, one.writer, number).unwrap();
        one.rows.apply(changes);
        drafts.push((draft.clone(), number));
        number += draft.dots();
    }
    assert_eq!(one.tree(), ["/d/", "/d/f=newer", "/other/"]);
    // Meanwhile another writer edits the same file.
    two.write(file, "rival").unwrap();
    one.pull(&two);
    assert_eq!(one.tree().len(), 4, "a conflict copy: {:?}", one.tree());
    let shown = one.tree();
    for index in [1, 0, 2] {
        let (draft, number) = drafts[index].clone();
        let seen = state::version(&one.rows).unwrap().get(&one.writer);
        let delta = draft.enter(one.writer, seen);
        let changes = merge::promote(&one.rows, &delta, number).unwrap();
        one.rows.apply(changes);
        assert_eq!(one.tree(), shown);
        one.made.push(delta);
    }
    two.pull(&one);
    assert_same(&one, &two);
    let mut three = Replica::new(3);
    exchange(std::slice::from_mut(&mut three));
    let all: Vec<Delta> = [&one, &two].iter().flat_map(|r| r.made.clone()).collect();
    deliver(&mut three, &all, 5);
    assert_same(&one, &three);
}

/// Histories that were once found to break something.
pub const FOUND: &[&[Step]] = &[
    &[
        (113, 16, 0, 66, 0),
        (11, 1, 0, 22, 0),
        (19, 81, 0, 2, 0),
        (42, 52, 0, 2, 0),
        (80, 1, 0, 29, 0),
        (150, 101, 126, 0, 0),
        (1, 0, 85, 112, 0),
        (52, 11, 0, 67, 0),
        (33, 68, 17, 0, 0),
        (150, 255, 92, 181, 0),
        (78, 206, 1, 97, 51),
        (69, 87, 0, 0, 178),
        (100, 164, 0, 234, 0),
        (24, 139, 4, 82, 131),
        (39, 96, 20, 15, 0),
        (93, 40, 68, 58, 0),
        (80, 23, 0, 0, 0),
        (54, 95, 19, 132, 0),
        (21, 156, 12, 119, 149),
    ],
    &[
        (47, 212, 0, 0, 0),
        (190, 81, 0, 198, 0),
        (8, 187, 187, 31, 0),
        (68, 212, 109, 134, 0),
        (94, 46, 0, 229, 0),
        (19, 25, 2, 69, 0),
        (159, 25, 49, 19, 0),
        (119, 123, 16, 1, 92),
        (64, 52, 11, 17, 0),
        (0, 23, 0, 0, 0),
        (63, 43, 141, 5, 125),
        (16, 61, 42, 1, 44),
    ],
    &[
        (24, 48, 0, 220, 0),
        (55, 70, 1, 58, 0),
        (3, 7, 0, 0, 0),
        (235, 236, 0, 218, 0),
        (129, 199, 0, 0, 0),
        (120, 106, 0, 0, 0),
        (115, 0, 29, 17, 0),
        (29, 225, 56, 5, 0),
        (45, 15, 134, 134, 0),
        (4, 136, 0, 0, 0),
        (45, 7, 0, 0, 0),
    ],
    &[
        (78, 32, 0, 16, 0),
        (83, 1, 0, 15, 0),
        (15, 35, 91, 150, 0),
        (45, 0, 0, 0, 0),
        (0, 87, 0, 0, 0),
        (0, 158, 0, 0, 0),
        (13, 0, 0, 0, 0),
        (233, 48, 0, 140, 0),
        (9, 78, 0, 44, 8),
        (8, 1, 0, 115, 0),
        (15, 5, 103, 2, 0),
        (42, 106, 0, 0, 73),
    ],
];

#[test]
fn histories_that_once_failed() {
    for steps in FOUND {
        let mut history = History::new();
        for step in *steps {
            let who = usize::from(step.0) % 3;
            println!("{step:?} by {who}: {}", step.1 % 16);
            println!("  before {:?}", history.replicas[who].tree());
            history.step(*step);
            println!("  after  {:?}", history.replicas[who].tree());
        }
        history.finish();
    }
}
