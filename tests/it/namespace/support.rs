//! Replicas in memory that exchange deltas, and a tree as text to compare them by.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairnfs::base::PeerId;
use cairnfs::dag::Timestamp;
use cairnfs::namespace::ops::Now;
use cairnfs::namespace::{
    Body, Changes, Delta, Edit, Hlc, HlcClock, Ino, Join, Kind, MemRows, Name, NewNode, Node,
    OpError, Outcome, Page, RenameMode, Shared, Shown, StateError, VersionVector, View, WriterId,
    apply, census, state,
};
use proptest::prelude::ProptestConfig;

use crate::support::scaled;

/// 2026-11-22 22:35:00 UTC.
pub const START_MS: u64 = 1_795_386_900_000;

pub fn config(cases: usize) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(scaled(cases) as u32)
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// One writer's copy of the volume.
#[derive(Clone)]
pub struct Replica {
    pub rows: MemRows,
    pub writer: WriterId,
    pub clock: HlcClock,
    pub now_ms: u64,
    /// Own deltas.
    pub made: Vec<Delta>,
    /// Everything merged, in that order.
    pub log: Vec<Delta>,
    inos: u64,
}

impl Replica {
    pub fn new(tag: u8) -> Replica {
        Replica {
            rows: MemRows::default(),
            writer: WriterId {
                peer: PeerId([tag; 32]),
                incarnation: 0,
            },
            clock: HlcClock::default(),
            now_ms: START_MS + u64::from(tag),
            made: Vec::new(),
            log: Vec::new(),
            inos: 0,
        }
    }

    pub fn ino(&mut self) -> Ino {
        self.inos += 1;
        let mut bytes = [self.writer.peer.0[0]; 16];
        bytes[..8].copy_from_slice(&self.inos.to_be_bytes());
        Ino(bytes)
    }

    pub fn now(&mut self) -> Now {
        self.now_ms += 1000;
        Now {
            hlc: self.clock.tick(self.now_ms),
            time: Timestamp {
                seconds: (self.now_ms / 1000) as i64,
                nanos: 7,
            },
        }
    }

    /// Makes one operation and merges it.
    pub fn edit<T>(
        &mut self,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let now = self.now();
        let mut edit = Edit::new(&self.rows, self.writer, now)?;
        let answer = operation(&mut edit)?;
        let draft = edit.finish();
        if !draft.is_empty() {
            let seen = state::version(&self.rows)?.get(&self.writer);
            let delta = draft.enter(self.writer, seen);
            let delta = Delta::decode(&delta.encode()).unwrap();
            assert!(self.receive(&delta));
            self.made.push(delta);
        }
        Ok(answer)
    }

    /// Merges a delta if its time has come. Whether it is merged now.
    pub fn receive(&mut self, delta: &Delta) -> bool {
        match apply(&self.rows, delta, u64::MAX / 2).unwrap() {
            Outcome::Merged(changes) => {
                self.change(changes);
                self.log.push(delta.clone());
                self.clock.observe(delta.draft.hlc);
                self.now_ms = self.now_ms.max(delta.draft.hlc.ms());
                true
            }
            Outcome::Known => true,
            Outcome::Early(_) => false,
            other => panic!("{other:?}"),
        }
    }

    /// Makes changes. Counting what they bring comes to the same as counting everything.
    fn change(&mut self, changes: Changes) {
        let before = census::count_shown(&self.rows).unwrap();
        let more = census::more_shown(&self.rows, &changes).unwrap();
        self.rows.apply(changes);
        let after = census::count_shown(&self.rows).unwrap();
        assert_eq!(before.checked_add_signed(more), Some(after));
    }

    /// Takes everything that another has made.
    pub fn pull(&mut self, other: &Replica) {
        for delta in &other.made {
            assert!(self.receive(delta), "{delta:?}");
        }
    }

    /// Merges a checkpoint in pages of about so many bytes; how many there were.
    pub fn join(&mut self, other: &Checkpoint, limit_bytes: usize) -> usize {
        let mut join = other.join(&self.rows);
        let mut pages = 0;
        loop {
            pages += 1;
            assert!(pages < 100_000, "it comes to no end");
            match join.page(&self.rows, limit_bytes).unwrap() {
                Page::More(changes) => self.change(changes),
                Page::Last(changes) => {
                    self.change(changes);
                    return pages;
                }
            }
        }
    }

    pub fn view(&self) -> View<'_> {
        View::new(&self.rows).unwrap()
    }

    pub fn make(&mut self, dir: Ino, text: &str, node: Node) -> Result<Ino, OpError> {
        let new = NewNode {
            ino: self.ino(),
            node,
            mode: 0o644,
            uid: 1000,
            gid: 100,
        };
        self.edit(|edit| edit.create(dir, text.as_bytes(), &new))?;
        Ok(new.ino)
    }

    pub fn file(&mut self, dir: Ino, text: &str, content: &str) -> Ino {
        let ino = self.make(dir, text, Node::File).unwrap();
        self.write(ino, content).unwrap();
        ino
    }

    pub fn dir(&mut self, dir: Ino, text: &str) -> Ino {
        self.make(dir, text, Node::Directory).unwrap()
    }

    pub fn write(&mut self, ino: Ino, content: &str) -> Result<(), OpError> {
        let body = Body::Inline(content.to_owned().into());
        let mtime = Timestamp {
            seconds: (self.now_ms / 1000) as i64,
            nanos: 0,
        };
        self.edit(|edit| edit.set_content(ino, content.len() as u64, mtime, body))
    }

    pub fn unlink(&mut self, dir: Ino, text: &str) -> Result<(), OpError> {
        self.edit(|edit| edit.unlink(dir, &name(text)).map(drop))
    }

    pub fn rmdir(&mut self, dir: Ino, text: &str) -> Result<(), OpError> {
        self.edit(|edit| edit.rmdir(dir, &name(text)).map(drop))
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str)) -> Result<(), OpError> {
        self.rename_as(from, to, RenameMode::Replace)
    }

    pub fn rename_as(
        &mut self,
        (dir, old): (Ino, &str),
        (to, new): (Ino, &str),
        mode: RenameMode,
    ) -> Result<(), OpError> {
        let old = name(old);
        self.edit(|edit| {
            edit.rename((dir, &old), (to, new.as_bytes()), mode)
                .map(drop)
        })
    }

    /// Everything shown, by path: directories end in `/`, files have their content behind `=`.
    pub fn tree(&self) -> Vec<String> {
        self.walk().into_iter().map(|item| item.text).collect()
    }

    /// Everything shown with everything about it.
    pub fn walk(&self) -> Vec<Item> {
        let view = self.view();
        let mut items = Vec::new();
        let mut seen = BTreeSet::new();
        let mut waiting = vec![(String::new(), Ino::ROOT)];
        while let Some((path, dir)) = waiting.pop() {
            assert!(seen.insert(dir), "{dir} is shown twice, at {path}");
            let mut after = None;
            let mut names = BTreeSet::new();
            loop {
                let (shown, next) = view.list(dir, after.as_ref(), 3).unwrap();
                for one in shown {
                    assert!(names.insert(one.name.clone()), "{one:?} twice");
                    let found = view.lookup(dir, &one.name).unwrap();
                    assert_eq!(found.as_ref(), Some(&one), "look-up and listing agree");
                    let stat = view.stat(&one).unwrap().unwrap();
                    let shown_path = format!("{path}/{}", one.name.escape_ascii());
                    let mut text = shown_path.clone();
                    if one.kind == Kind::Directory {
                        text.push('/');
                        waiting.push((shown_path, one.ino));
                    } else if let Some(content) = &stat.content {
                        let Body::Inline(bytes) = &content.body else {
                            panic!("all contents are inline here");
                        };
                        text.push_str(&format!("={}", bytes.escape_ascii()));
                    }
                    let full = format!("{one:?} {stat:?} {:?}", view.xattrs(one.ino).unwrap());
                    items.push(Item {
                        text,
                        shown: one,
                        full,
                    });
                }
                match next {
                    Some(_) => after = next,
                    None => break,
                }
            }
        }
        items.sort_by(|a, b| a.text.cmp(&b.text));
        items
    }

    /// Inodes of everything shown, by path.
    pub fn paths(&self) -> BTreeMap<String, Shown> {
        let items = self.walk().into_iter();
        items
            .map(|item| {
                let path = item.text.split('=').next().unwrap_or_default().to_owned();
                (path, item.shown)
            })
            .collect()
    }
}

pub struct Item {
    pub text: String,
    pub shown: Shown,
    pub full: String,
}

/// All that a replica shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub version: VersionVector,
    pub rows: Vec<(Vec<u8>, Bytes)>,
}

type Source = std::vec::IntoIter<Result<(Vec<u8>, Bytes), StateError>>;

impl Checkpoint {
    pub fn of(rows: &MemRows) -> Checkpoint {
        let shared = Shared::new(rows).unwrap();
        Checkpoint {
            version: state::version(rows).unwrap(),
            rows: shared.iter().map(Result::unwrap).collect(),
        }
    }

    pub fn source(&self) -> Source {
        let rows: Vec<_> = self.rows.iter().cloned().map(Ok).collect();
        rows.into_iter()
    }

    pub fn join(&self, rows: &MemRows) -> Join<Source> {
        Join::new(rows, self.version.clone(), Hlc(u64::MAX), self.source()).unwrap()
    }
}

/// Replicas that agree on an empty volume.
pub fn volume<const N: usize>() -> [Replica; N] {
    let mut first = Replica::new(1);
    first.edit(|edit| edit.create_root(0o755, 0, 0)).unwrap();
    let mut tag = 0;
    [(); N].map(|()| {
        tag += 1;
        if tag == 1 {
            return first.clone();
        }
        let mut other = Replica::new(tag);
        other.pull(&first);
        other
    })
}

/// All replicas take everything of each other, in an order in which it can be taken.
pub fn exchange(replicas: &mut [Replica]) {
    let all: Vec<Delta> = replicas.iter().flat_map(|r| r.made.clone()).collect();
    for replica in replicas.iter_mut() {
        let mut waiting: Vec<&Delta> = all.iter().collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|delta| !replica.receive(delta));
            assert!(waiting.len() < before, "nothing more can be merged");
        }
    }
    for pair in replicas.windows(2) {
        assert_same(&pair[0], &pair[1]);
    }
}

/// Rows, derived rows and trees are the same.
pub fn assert_same(one: &Replica, two: &Replica) {
    if one.rows != two.rows {
        let rows = |replica: &Replica| -> BTreeMap<Vec<u8>, Vec<u8>> {
            let rows = replica.rows.iter();
            rows.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
        };
        let (a, b) = (rows(one), rows(two));
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        for (key, value) in &a {
            if b.get(key) != Some(value) {
                println!("one  {} {}", hex(key), hex(value));
            }
        }
        for (key, value) in &b {
            if a.get(key) != Some(value) {
                println!("two  {} {}", hex(key), hex(value));
            }
        }
        panic!("rows differ");
    }
    assert_eq!(one.tree(), two.tree());
    let full = |replica: &Replica| -> Vec<String> {
        replica.walk().into_iter().map(|item| item.full).collect()
    };
    assert_eq!(full(one), full(two));
}
