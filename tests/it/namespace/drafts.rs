//! Drafts on one replica, while others write and checkpoints come and go: nobody learns of a draft
//! before it enters the feed, and in whatever order drafts enter, all have the same rows.

use std::collections::BTreeSet;

use cairnfs::base::Entropy;
use cairnfs::namespace::{AttrChange, Body, Delta, Draft, Edit, Ino, Kind, NewNode, Node};
use cairnfs::namespace::{OpError, RenameMode, Rows, Shared, drafts, merge, state};
use proptest::prelude::*;

use super::support::{Checkpoint, Replica, assert_same, config, name, volume};

/// A replica that shows drafts, and one that has what the first shares.
struct Drafting {
    one: Replica,
    mirror: Replica,
    drafts: Vec<(Draft, u64)>,
    number: u64,
}

impl Drafting {
    fn draft(&mut self, operation: impl FnOnce(&mut Edit<'_>) -> Result<(), OpError>) {
        let now = self.one.now();
        let mut edit = Edit::new(&self.one.rows, self.one.writer, now).unwrap();
        match operation(&mut edit) {
            Err(OpError::State(error)) => panic!("{error}"),
            Err(_) => return,
            Ok(()) => {}
        }
        let draft = edit.finish();
        if draft.is_empty() {
            return;
        }
        let before = Checkpoint::of(&self.one.rows);
        let changes = merge::apply_draft(&self.one.rows, &draft, self.one.writer, self.number);
        self.one.rows.apply(changes.unwrap());
        assert_eq!(
            Checkpoint::of(&self.one.rows),
            before,
            "a draft is shared by nobody"
        );
        let dots = draft.dots();
        self.drafts.push((draft, self.number));
        self.number += dots;
    }

    fn enter(&mut self, at: usize) {
        let (draft, number) = self.drafts.remove(at);
        let seen = state::version(&self.one.rows)
            .unwrap()
            .get(&self.one.writer);
        let delta = draft.enter(self.one.writer, seen);
        let delta = Delta::decode(&delta.encode()).unwrap();
        let changes = merge::promote(&self.one.rows, &delta, number).unwrap();
        let before = Checkpoint::of(&self.one.rows);
        self.one.rows.apply(changes.clone());
        let after = Checkpoint::of(&self.one.rows);
        // What is another row now was named as one that may be.
        let named: BTreeSet<&[u8]> = drafts::shared_keys(&changes).collect();
        let all = before.rows.iter().chain(&after.rows);
        for row in all.filter(|row| !(before.rows.contains(row) && after.rows.contains(row))) {
            assert!(named.contains(row.0.as_slice()));
        }
        self.one.made.push(delta.clone());
        assert!(self.mirror.receive(&delta));
    }

    /// What is shared is what a replica without drafts has, to the byte.
    fn check(&self) {
        let mine = Checkpoint::of(&self.one.rows);
        assert_eq!(mine, Checkpoint::of(&self.mirror.rows));
        let shared = Shared::new(&self.one.rows).unwrap();
        for (at, (key, value)) in mine.rows.iter().enumerate() {
            assert_eq!(shared.get(key).unwrap().as_ref(), Some(value));
            for limit in 0..3 {
                let some = &mine.rows[at..(at + limit).min(mine.rows.len())];
                assert_eq!(shared.scan(key, &[0xff], limit).unwrap(), some);
            }
        }
        let mut late = Replica::new(9);
        late.join(&mine, 400);
        assert_same(&late, &self.mirror);
    }
}

fn new_node(replica: &mut Replica, node: Node) -> NewNode {
    NewNode {
        ino: replica.ino(),
        node,
        mode: 0o600,
        uid: 1,
        gid: 2,
    }
}

/// One operation somewhere in the tree that a replica shows, as a draft if there are drafts.
fn operate(drafting: &mut Drafting, other: Option<&mut Replica>, entropy: &Entropy) {
    let below = |bound: usize| entropy.below(bound.max(1) as u64) as usize;
    let is_own = other.is_none();
    let mut stand_in = other.as_deref().cloned();
    let replica = stand_in.as_mut().unwrap_or(&mut drafting.one);
    let walk = replica.walk();
    let dirs: Vec<Ino> = walk
        .iter()
        .filter(|item| item.shown.kind == Kind::Directory)
        .map(|item| item.shown.ino)
        .chain([Ino::ROOT])
        .collect();
    let dir = dirs[below(dirs.len())];
    let item = walk.get(below(walk.len())).map(|item| item.shown.clone());
    let fresh = ["a", "b", "c"][below(3)];
    let file = new_node(replica, Node::File);
    let folder = new_node(replica, Node::Directory);
    let text = format!("text {}", replica.now_ms);
    let what = below(7);
    let operation = move |edit: &mut Edit<'_>| -> Result<(), OpError> {
        let body = Body::Inline(text.clone().into());
        let time = cairnfs::dag::Timestamp::default();
        match (what, item) {
            (0, _) => {
                edit.create(dir, fresh.as_bytes(), &file)?;
                edit.set_content(file.ino, text.len() as u64, time, body)
            }
            (1, _) => edit.create(dir, fresh.as_bytes(), &folder),
            (2 | 3, Some(item)) if item.kind == Kind::File => {
                edit.set_content(item.ino, text.len() as u64, time, body)
            }
            (4, Some(item)) => {
                let at = item.spots[0].dir;
                match edit.unlink(at, &item.name) {
                    Err(OpError::IsADirectory) => edit.rmdir(at, &item.name).map(drop),
                    other => other.map(drop),
                }
            }
            (5, Some(item)) => {
                let from = (item.spots[0].dir, &item.name);
                edit.rename(from, (dir, fresh.as_bytes()), RenameMode::Replace)
                    .map(drop)
            }
            (_, Some(item)) => {
                let change = AttrChange {
                    mode: Some(below(512) as u16),
                    ..AttrChange::default()
                };
                edit.set_attrs(item.ino, &change)
            }
            _ => Ok(()),
        }
    };
    if is_own {
        drafting.draft(operation);
    } else if let (Some(other), Some(mut changed)) = (other, stand_in) {
        let _ = changed.edit(operation);
        *other = changed;
    }
}

fn run(seed: u64, count: usize) {
    let entropy = Entropy::seeded(seed);
    let [one, mut other, mirror] = volume();
    let mut drafting = Drafting {
        one,
        mirror,
        drafts: Vec::new(),
        number: 0,
    };
    for _ in 0..count {
        match entropy.below(10) {
            0..4 => operate(&mut drafting, None, &entropy),
            4 | 5 => operate(&mut drafting, Some(&mut other), &entropy),
            6 | 7 if !drafting.drafts.is_empty() => {
                let at = entropy.below(drafting.drafts.len() as u64) as usize;
                drafting.enter(at);
            }
            8 => {
                other.join(&Checkpoint::of(&drafting.one.rows), 300);
                let checkpoint = Checkpoint::of(&other.rows);
                drafting.one.join(&checkpoint, 500);
                drafting.mirror.join(&checkpoint, 1 << 20);
            }
            _ => {
                for delta in other.made.clone() {
                    if drafting.one.receive(&delta) {
                        assert!(drafting.mirror.receive(&delta));
                    }
                }
            }
        }
        drafting.check();
    }
    while !drafting.drafts.is_empty() {
        let at = entropy.below(drafting.drafts.len() as u64) as usize;
        drafting.enter(at);
        drafting.check();
    }
    // Not even a trace is left of the drafts.
    assert_same(&drafting.one, &drafting.mirror);
}

proptest! {
    #![proptest_config(config(120))]
    #[test]
    fn drafts_are_shared_by_nobody_and_end_the_same_in_any_order(
        seed in any::<u64>(), count in 1usize..40
    ) {
        run(seed, count);
    }
}

/// Two names in one directory, the second of which enters the feed first.
#[test]
fn a_directory_changed_by_drafts_that_overtake_each_other_has_one_time() {
    let [one, mirror] = volume();
    let mut drafting = Drafting {
        one,
        mirror,
        drafts: Vec::new(),
        number: 0,
    };
    for text in ["first", "second"] {
        let new = new_node(&mut drafting.one, Node::Directory);
        drafting.draft(|edit| edit.create(Ino::ROOT, text.as_bytes(), &new));
    }
    assert_eq!(drafting.one.tree(), ["/first/", "/second/"]);
    assert!(drafting.mirror.tree().is_empty());
    drafting.check();
    drafting.enter(1);
    assert_eq!(drafting.mirror.tree(), ["/second/"]);
    drafting.check();
    drafting.enter(0);
    assert_same(&drafting.one, &drafting.mirror);
}

/// A removal has no dots of its own to be known by, and is not shared either.
#[test]
fn what_a_draft_removed_is_in_the_checkpoint() {
    let [mut one, mut mirror] = volume();
    one.file(Ino::ROOT, "a", "text");
    mirror.pull(&one);
    let mut drafting = Drafting {
        one,
        mirror,
        drafts: Vec::new(),
        number: 0,
    };
    drafting.draft(|edit| edit.unlink(Ino::ROOT, &name("a")).map(drop));
    assert!(drafting.one.tree().is_empty());
    drafting.check();
    let mut fresh = Replica::new(9);
    fresh.join(&Checkpoint::of(&drafting.one.rows), 1 << 20);
    assert_eq!(fresh.tree(), ["/a=text"]);
    // It does not come back by a checkpoint of somebody who knows nothing of the draft.
    let checkpoint = Checkpoint::of(&fresh.rows);
    drafting.one.join(&checkpoint, 10);
    assert!(drafting.one.tree().is_empty());
    drafting.enter(0);
    assert_same(&drafting.one, &drafting.mirror);
}

/// A history that once failed.
#[test]
fn a_history_of_drafts_that_once_failed() {
    run(6_720_466_571_729_754_239, 17);
}
