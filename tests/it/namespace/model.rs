//! One writer against a plain tree in memory, compared after every operation.

use std::cell::Cell;
use std::collections::BTreeMap;

use cairnfs::namespace::{
    AttrChange, Body, Ino, Kind, Node, OpError, RenameMode, Rows, StateError, View,
};
use proptest::prelude::*;

use super::support::{Replica, config, exchange, name, volume};

#[derive(Clone, Debug)]
enum Op {
    Make(u8, u8, u8),
    Write(u8, u16),
    Link(u8, u8, u8),
    Unlink(u8, u8),
    Rmdir(u8, u8),
    Rename(u8, u8, u8, u8, u8),
    Chmod(u8, u16),
    Xattr(u8, u8),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(a, b, c)| Op::Make(a, b, c)),
        2 => (any::<u8>(), any::<u16>()).prop_map(|(a, b)| Op::Write(a, b)),
        1 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(a, b, c)| Op::Link(a, b, c)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Unlink(a, b)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Rmdir(a, b)),
        4 => any::<(u8, u8, u8, u8, u8)>()
            .prop_map(|(a, b, c, d, e)| Op::Rename(a, b, c, d, e)),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(a, b)| Op::Chmod(a, b)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Xattr(a, b)),
    ]
}

/// What a file is in the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct File {
    is_dir: bool,
    content: String,
    mode: u16,
    links: u64,
    xattr: Option<u8>,
}

#[derive(Default)]
struct Model {
    names: BTreeMap<(Ino, String), Ino>,
    files: BTreeMap<Ino, File>,
}

impl Model {
    fn is_empty(&self, dir: Ino) -> bool {
        !self.names.keys().any(|(at, _)| *at == dir)
    }

    fn parent(&self, dir: Ino) -> Option<Ino> {
        let found = self.names.iter().find(|(_, child)| **child == dir);
        found.map(|((parent, _), _)| *parent)
    }

    fn is_within(&self, mut below: Ino, above: Ino) -> bool {
        loop {
            if below == above {
                return true;
            }
            match self.parent(below) {
                Some(parent) => below = parent,
                None => return false,
            }
        }
    }

    fn lose(&mut self, ino: Ino) {
        let file = self.files.get_mut(&ino).unwrap();
        file.links -= 1;
        if file.links == 0 {
            self.files.remove(&ino);
        }
    }

    fn rename(
        &mut self,
        (dir, old): (Ino, String),
        (to, new): (Ino, String),
        mode: RenameMode,
    ) -> Result<(), OpError> {
        let moved = *self
            .names
            .get(&(dir, old.clone()))
            .ok_or(OpError::NotFound)?;
        let there = self.names.get(&(to, new.clone())).copied();
        let is_dir = |model: &Model, ino: Ino| model.files[&ino].is_dir;
        if is_dir(self, moved) && self.is_within(to, moved) {
            return Err(OpError::IntoItself);
        }
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => return Err(OpError::Exists),
            (RenameMode::Exchange, None) => return Err(OpError::NotFound),
            (_, Some(there)) if there == moved => return Ok(()),
            (RenameMode::Exchange, Some(there)) => {
                if is_dir(self, there) && self.is_within(dir, there) {
                    return Err(OpError::IntoItself);
                }
                self.names.insert((dir, old), there);
                self.names.insert((to, new), moved);
                return Ok(());
            }
            (_, Some(there)) => {
                match (is_dir(self, moved), is_dir(self, there)) {
                    (true, false) => return Err(OpError::NotADirectory),
                    (true, true) if !self.is_empty(there) => return Err(OpError::NotEmpty),
                    (false, true) => return Err(OpError::IsADirectory),
                    _ => {}
                }
                self.lose(there);
            }
            (_, None) => {}
        }
        self.names.remove(&(dir, old));
        self.names.insert((to, new), moved);
        Ok(())
    }

    fn tree(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut waiting = vec![(String::new(), Ino::ROOT)];
        while let Some((path, dir)) = waiting.pop() {
            for ((at, name), child) in &self.names {
                if *at != dir {
                    continue;
                }
                let path = format!("{path}/{name}");
                let file = &self.files[child];
                if file.is_dir {
                    all.push(format!("{path}/"));
                    waiting.push((path, *child));
                } else {
                    all.push(format!("{path}={}", file.content));
                }
            }
        }
        all.sort();
        all
    }
}

struct Pair {
    real: Replica,
    model: Model,
    known: Vec<Ino>,
}

impl Pair {
    fn pick(&self, number: u8) -> Ino {
        self.known[usize::from(number) % self.known.len()]
    }

    fn is_dir(&self, ino: Ino) -> Result<(), OpError> {
        if ino == Ino::ROOT {
            return Ok(());
        }
        match self.model.files.get(&ino) {
            Some(file) if file.is_dir => Ok(()),
            Some(_) => Err(OpError::NotADirectory),
            None => Err(OpError::Gone),
        }
    }

    /// A directory that exists, mostly.
    fn pick_dir(&self, number: u8) -> Ino {
        let dirs: Vec<Ino> = self
            .known
            .iter()
            .copied()
            .filter(|ino| self.is_dir(*ino).is_ok())
            .collect();
        match number {
            0..=3 => self.pick(number),
            _ => dirs[usize::from(number) % dirs.len()],
        }
    }

    fn step(&mut self, op: &Op) {
        let text = |number: u8| ["a", "b", "c"][usize::from(number) % 3].to_owned();
        match *op {
            Op::Make(dir, number, kind) => {
                let (dir, text) = (self.pick_dir(dir), text(number));
                let is_dir = kind % 2 == 0;
                let node = if is_dir { Node::Directory } else { Node::File };
                let made = self.real.make(dir, &text, node);
                let expected = self.is_dir(dir).and_then(|()| {
                    let is_taken = self.model.names.contains_key(&(dir, text.clone()));
                    if is_taken {
                        Err(OpError::Exists)
                    } else {
                        Ok(())
                    }
                });
                assert_eq!(made.clone().map(drop), expected);
                if let Ok(ino) = made {
                    self.known.push(ino);
                    self.model.names.insert((dir, text), ino);
                    let file = File {
                        is_dir,
                        mode: 0o644,
                        links: 1,
                        ..File::default()
                    };
                    self.model.files.insert(ino, file);
                }
            }
            Op::Write(file, content) => {
                let ino = self.pick(file);
                let content = content.to_string();
                let expected = match self.model.files.get_mut(&ino) {
                    _ if ino == Ino::ROOT => Err(OpError::WrongKind),
                    None => Err(OpError::Gone),
                    Some(file) if file.is_dir => Err(OpError::WrongKind),
                    Some(file) => {
                        file.content.clone_from(&content);
                        Ok(())
                    }
                };
                assert_eq!(self.real.write(ino, &content), expected);
            }
            Op::Link(file, dir, number) => {
                let (ino, dir, text) = (self.pick(file), self.pick_dir(dir), text(number));
                let done = self.real.edit(|edit| edit.link(ino, dir, text.as_bytes()));
                let expected = self.is_dir(dir).and_then(|()| {
                    if self.model.names.contains_key(&(dir, text.clone())) {
                        return Err(OpError::Exists);
                    }
                    match self.model.files.get_mut(&ino) {
                        _ if ino == Ino::ROOT => Err(OpError::WrongKind),
                        None => Err(OpError::Gone),
                        Some(file) if file.is_dir => Err(OpError::WrongKind),
                        Some(file) => {
                            file.links += 1;
                            self.model.names.insert((dir, text), ino);
                            Ok(())
                        }
                    }
                });
                assert_eq!(done, expected);
            }
            Op::Unlink(dir, number) => {
                let (dir, text) = (self.pick_dir(dir), text(number));
                let done = self.real.unlink(dir, &text);
                let key = (dir, text);
                let expected = self.is_dir(dir).and_then(|()| {
                    let ino = *self.model.names.get(&key).ok_or(OpError::NotFound)?;
                    if self.model.files[&ino].is_dir {
                        return Err(OpError::IsADirectory);
                    }
                    self.model.names.remove(&key);
                    self.model.lose(ino);
                    Ok(())
                });
                assert_eq!(done, expected);
            }
            Op::Rmdir(dir, number) => {
                let (dir, text) = (self.pick_dir(dir), text(number));
                let done = self.real.rmdir(dir, &text);
                let key = (dir, text);
                let expected = self.is_dir(dir).and_then(|()| {
                    let ino = *self.model.names.get(&key).ok_or(OpError::NotFound)?;
                    if !self.model.files[&ino].is_dir {
                        return Err(OpError::NotADirectory);
                    }
                    if !self.model.is_empty(ino) {
                        return Err(OpError::NotEmpty);
                    }
                    self.model.names.remove(&key);
                    self.model.lose(ino);
                    Ok(())
                });
                assert_eq!(done, expected);
            }
            Op::Rename(dir, old, to, new, mode) => {
                let (dir, old) = (self.pick_dir(dir), text(old));
                let (to, new) = (self.pick_dir(to), text(new));
                let mode = match mode % 4 {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let done = self.real.rename_as((dir, &old), (to, &new), mode);
                let expected = self
                    .is_dir(dir)
                    .and_then(|()| self.is_dir(to))
                    .and_then(|()| self.model.rename((dir, old), (to, new), mode));
                assert_eq!(done, expected);
            }
            Op::Chmod(file, mode) => {
                let (ino, mode) = (self.pick(file), mode & 0o7777);
                let change = AttrChange {
                    mode: Some(mode),
                    ..AttrChange::default()
                };
                let done = self.real.edit(|edit| edit.set_attrs(ino, &change));
                match self.model.files.get_mut(&ino) {
                    Some(file) => file.mode = mode,
                    None => assert_eq!(done.is_ok(), ino == Ino::ROOT),
                }
            }
            Op::Xattr(file, value) => {
                let (ino, key) = (self.pick(file), name("user.x"));
                let done = self.real.edit(|edit| match value {
                    0..64 => edit.remove_xattr(ino, &key),
                    _ => edit.set_xattr(ino, &key, vec![value].into()),
                });
                match self.model.files.get_mut(&ino) {
                    Some(file) if value >= 64 => file.xattr = Some(value),
                    Some(file) => assert_eq!(done.is_ok(), file.xattr.take().is_some()),
                    None => {}
                }
            }
        }
        self.compare();
    }

    fn compare(&self) {
        let view = View::new(&self.real.rows).unwrap();
        assert!(view.is_plain(), "one writer never disagrees");
        assert_eq!(self.real.tree(), self.model.tree());
        for (ino, file) in &self.model.files {
            let stat = view.stat_ino(*ino).unwrap().unwrap();
            let subdirs = self
                .model
                .names
                .iter()
                .filter(|((dir, _), child)| dir == ino && self.model.files[child].is_dir);
            let links = match file.is_dir {
                true => 2 + subdirs.count() as u64,
                false => file.links,
            };
            assert_eq!((stat.links, stat.mode), (links, file.mode));
            assert_eq!((stat.uid, stat.gid), (1000, 100));
            let kind = if file.is_dir {
                Kind::Directory
            } else {
                Kind::File
            };
            assert_eq!(stat.node.kind(), kind);
            let xattr = view.xattr(*ino, &name("user.x")).unwrap();
            assert_eq!(xattr.map(|value| value[0]), file.xattr);
        }
        // What is gone left no row behind.
        let rows = self.real.rows.iter().filter(|(key, _)| key[0] == 2);
        for (key, _) in rows {
            let ino = Ino(key[1..17].try_into().unwrap());
            let is_known = ino == Ino::ROOT || self.model.files.contains_key(&ino);
            assert!(is_known, "a row of {ino} is left");
        }
    }
}

proptest! {
    #![proptest_config(config(48))]
    #[test]
    fn one_writer_sees_a_plain_tree(ops in prop::collection::vec(ops(), 1..60)) {
        let [real] = volume();
        let mut pair = Pair { real, model: Model::default(), known: vec![Ino::ROOT] };
        for op in &ops {
            pair.step(op);
        }
    }
}

/// Counts reads of one row, scans, and the rows that these find.
struct Counting<'a>(&'a Replica, Cell<usize>, Cell<usize>, Cell<usize>);

impl<'a> Counting<'a> {
    fn new(replica: &'a Replica) -> Self {
        Counting(replica, Cell::new(0), Cell::new(0), Cell::new(0))
    }
}

impl Rows for Counting<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StateError> {
        self.1.set(self.1.get() + 1);
        self.0.rows.get(key)
    }
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<cairnfs::namespace::state::Pairs, StateError> {
        let found = self.0.rows.scan(start, end, limit)?;
        self.2.set(self.2.get() + 1);
        self.3.set(self.3.get() + found.len());
        Ok(found)
    }
}

#[test]
fn a_look_up_in_directories_that_became_one_does_not_look_at_all_that_is_in_them() {
    let mut both: [Replica; 2] = volume();
    for (writer, names) in both.iter_mut().zip(["one", "two"]) {
        let dir = writer.dir(Ino::ROOT, "dir");
        for number in 0..100 {
            writer.file(dir, &format!("{names} {number}"), "content");
        }
    }
    exchange(&mut both);
    let counting = Counting::new(&both[0]);
    let view = View::new(&counting).unwrap();
    let dir = view.lookup(Ino::ROOT, &name("dir")).unwrap().unwrap();
    assert_eq!(dir.merged.len(), 2);
    for (sought, is_there) in [("one 7", true), ("two 99", true), ("absent", false)] {
        for count in [&counting.1, &counting.2, &counting.3] {
            count.set(0);
        }
        let found = view.lookup(dir.ino, &name(sought)).unwrap();
        assert_eq!(found.is_some(), is_there, "{sought}");
        let reads = counting.1.get() + counting.2.get() + counting.3.get();
        assert!(reads < 60, "{reads} reads for {sought}");
    }
}

#[test]
fn a_look_up_and_a_listing_read_what_they_must_and_no_more() {
    let [mut real] = volume();
    let dir = real.dir(Ino::ROOT, "dir");
    for number in 0..50 {
        real.file(dir, &format!("file {number}"), "content");
    }
    let counting = Counting::new(&real);
    let view = View::new(&counting).unwrap();
    counting.1.set(0);
    assert!(view.lookup(dir, &name("file 7")).unwrap().is_some());
    assert!(view.lookup(dir, &name("absent")).unwrap().is_none());
    assert_eq!((counting.1.get(), counting.2.get()), (2, 0));
    let (all, next) = view.list(dir, None, 1000).unwrap();
    assert_eq!((all.len(), next), (50, None));
    assert_eq!((counting.1.get(), counting.2.get()), (2, 1));
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    // The body of a large file stays out of the map.
    let big = Body::Inline(vec![0; 16 * 1024 + 1].into());
    let ino = all[0].ino;
    let done = real.edit(|edit| edit.set_content(ino, 1 << 20, Default::default(), big));
    assert!(matches!(done, Err(OpError::Invalid(_))));
}
