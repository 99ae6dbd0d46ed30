//! Merging one delta: rows, the feed and the count of files in one group, then what is known of files, then what
//! the kernel knows.

use std::collections::BTreeSet;

use cairnfs_fuse::kernel::Notice;
use cairnfs_fuse::{self as fuse, acl};

use super::store;
use crate::feeds::SealedDelta;
use crate::namespace::state::decode_row;
use crate::namespace::{
    self, Changes, Delta, Ino, Key, Name, Outcome, Rows, Sibling, Value, census,
};
use crate::store::Group;
use crate::vfs::errno::Step;
use crate::vfs::inner::{Core, Inner};
use crate::vfs::rows;

/// What came of a delta.
pub(super) enum Merged {
    Done,
    /// It cannot be merged, and why.
    Not(String),
}

/// What changes of the rows mean for files.
#[derive(Default)]
pub(in crate::vfs) struct Affected {
    /// Names that lead elsewhere, or may.
    pub(in crate::vfs) names: BTreeSet<(Ino, Name)>,
    /// Files and directories of which anything changed.
    pub(in crate::vfs) files: BTreeSet<Ino>,
    /// Files that a name that changed led to before.
    pub(in crate::vfs) were_named: BTreeSet<Ino>,
    /// Files whose content changed.
    pub(in crate::vfs) contents: BTreeSet<Ino>,
    /// How many more files have a name.
    pub(in crate::vfs) more_files: i64,
    pub(in crate::vfs) has_acls: bool,
}

fn children(row: &[Sibling]) -> impl Iterator<Item = Ino> {
    row.iter().filter_map(|sibling| match &sibling.value {
        Value::Entry(entry) => Some(entry.child),
        _ => None,
    })
}

impl Inner {
    /// What follows from changes that are about to be made.
    pub(in crate::vfs) fn affected(&self, changes: &Changes) -> Step<Affected> {
        let rows = self.rows();
        let mut affected = Affected {
            more_files: census::more_shown(&rows, changes)?,
            ..Affected::default()
        };
        for (bytes, value) in changes {
            // Derived rows have keys of their own.
            let Ok(key) = Key::decode(bytes) else {
                continue;
            };
            match &key {
                Key::Entry(dir, name) => {
                    let before = rows.siblings(&key)?;
                    affected.were_named.extend(children(&before));
                    if let Some(value) = value {
                        affected.files.extend(children(&decode_row(&key, value)?));
                    }
                    affected.files.insert(*dir);
                    affected.names.insert((*dir, name.clone()));
                }
                Key::Attrs(ino) | Key::Changed(ino) => {
                    affected.files.insert(*ino);
                }
                Key::Content(ino) => {
                    affected.contents.insert(*ino);
                    affected.files.insert(*ino);
                }
                Key::Xattr(ino, name) => {
                    affected.has_acls |= matches!(name.bytes(), acl::ACCESS | acl::DEFAULT);
                    affected.files.insert(*ino);
                }
                Key::Member(_) | Key::Snapshot(_) | Key::Ruling(..) => {}
            }
        }
        affected.files.extend(affected.were_named.iter().copied());
        Ok(affected)
    }

    /// Merges a delta of another writer, and adds what the kernel has to forget.
    pub(super) fn merge(
        &self,
        core: &mut Core,
        delta: &Delta,
        sealed: &SealedDelta,
        notices: &mut Vec<Notice>,
    ) -> Step<Merged> {
        let outcome = namespace::apply(&self.rows(), delta, self.now_ms())?;
        let changes = match outcome {
            Outcome::Merged(changes) => changes,
            Outcome::Known => return Ok(Merged::Done),
            Outcome::Early(_) | Outcome::NotDue { .. } => {
                return Ok(Merged::Not("it came too early".to_owned()));
            }
            Outcome::Forked => return Ok(Merged::Not("its dots were used before".to_owned())),
        };
        let was_plain = self.view(|view| Ok(view.is_plain()))?;
        let affected = self.affected(&changes)?;
        let news = self.news_of(&changes)?;
        let known = self.look_before(core, &affected)?;
        let mut group = Group::new();
        rows::add_changes(&self.volume, &mut group, &changes)?;
        store::add_sealed(&mut group, sealed);
        let files = self.count_files(&mut group, affected.more_files);
        if affected.has_acls {
            self.note_acls(&mut group);
        }
        let kept = self.keep_bases(core, &affected, &mut group);
        self.volume.apply(&group)?;
        for cell in kept {
            self.lock(&cell).has_base_row = true;
        }
        self.observe(delta.draft.hlc);
        self.applied(core, changes, &affected, files);
        let is_plain = self.view(|view| Ok(view.is_plain()))?;
        if !was_plain || !is_plain {
            notices.push(Notice::Everything);
        }
        self.tell_of(core, &affected, notices);
        self.log_news(&news);
        self.follow(core, affected, known, notices);
        Ok(Merged::Done)
    }

    /// Rows have changed: what was known of them is forgotten.
    pub(super) fn applied(
        &self,
        core: &mut Core,
        changes: Changes,
        affected: &Affected,
        files: u64,
    ) {
        self.forget_rows(changes);
        self.files
            .store(files, std::sync::atomic::Ordering::Relaxed);
        let changed: Vec<Ino> = affected.files.iter().copied().collect();
        core.changed(&changed);
    }

    /// Adds what the kernel has to forget because of changes, as far as it knows the files.
    pub(in crate::vfs) fn tell_of(
        &self,
        core: &Core,
        affected: &Affected,
        notices: &mut Vec<Notice>,
    ) {
        let known = |ino: &Ino| {
            let number = core.inodes.number(*ino);
            let node = core.inodes.get(number);
            let is_known = *ino == Ino::ROOT || node.is_some_and(|node| node.lookups > 0);
            is_known.then_some(fuse::Ino(number))
        };
        for (dir, name) in &affected.names {
            if let Some(dir) = known(dir) {
                let name = bytes::Bytes::copy_from_slice(name.bytes());
                notices.push(Notice::Entry(dir, name));
            }
        }
        let files = affected.files.iter().filter_map(known);
        notices.extend(files.map(Notice::Inode));
    }
}
