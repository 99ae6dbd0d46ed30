//! Rows derived from the others, brought up to date after each change at a cost that follows the
//! change: where files are named, what is shown without an entry, which names need a closer look.

use std::collections::{BTreeMap, BTreeSet};

use super::error::StateError;
use super::id::{Ino, Kind, Name};
use super::key::{self, Key};
use super::row::{self, Sibling};
use super::state::{self, Rows, Totals, Work};
use super::view::place::{self, Place};
use crate::base::wire;

/// What a change may have affected.
#[derive(Default)]
pub(super) struct Touched {
    /// Names whose rows changed.
    pub names: BTreeSet<(Ino, Name)>,
    /// Files whose entries or contents changed.
    pub files: BTreeSet<Ino>,
    /// Directories in which something changed, and files whose attributes changed: of interest
    /// only if they have no entry, or are shown elsewhere than at it.
    pub others: BTreeSet<Ino>,
    /// Whether a directory came to or left a name.
    pub has_moved: bool,
}

/// Each file that a row of a name leads to.
fn children(row: &[Sibling]) -> BTreeMap<Ino, Kind> {
    row::entries(row)
        .map(|(_, entry)| (entry.child, entry.kind))
        .collect()
}

/// Takes note that the row of a name is another one: its files' links and the directory's counts.
pub(super) fn entry_changed(
    work: &mut Work<'_>,
    touched: &mut Touched,
    (dir, name): (Ino, &Name),
    before: &[Sibling],
    after: &[Sibling],
) -> Result<(), StateError> {
    let (before, after) = (children(before), children(after));
    touched.names.insert((dir, name.clone()));
    touched.others.insert(dir);
    touched.files.extend(before.keys().chain(after.keys()));
    for (child, kind) in before
        .iter()
        .filter(|(child, _)| !after.contains_key(child))
    {
        let mut counts = state::counts(work, *child)?;
        counts.links = counts.links.saturating_sub(1);
        work.remove(key::link(*child, dir, name));
        work.put_counts(*child, counts)?;
        count_directory(work, touched, dir, *kind, |n| n.saturating_sub(1))?;
    }
    for (child, kind) in after
        .iter()
        .filter(|(child, _)| !before.contains_key(child))
    {
        let mut counts = state::counts(work, *child)?;
        counts.links += 1;
        work.put(key::link(*child, dir, name), Vec::new());
        work.put_counts(*child, counts)?;
        count_directory(work, touched, dir, *kind, |n| n + 1)?;
    }
    Ok(())
}

fn count_directory(
    work: &mut Work<'_>,
    touched: &mut Touched,
    dir: Ino,
    kind: Kind,
    change: impl Fn(u64) -> u64,
) -> Result<(), StateError> {
    if kind == Kind::Directory {
        touched.has_moved = true;
        let mut counts = state::counts(work, dir)?;
        counts.directories = change(counts.directories);
        work.put_counts(dir, counts)?;
    }
    Ok(())
}

/// Brings places, circles and odd names up to date.
pub(super) fn update(work: &mut Work<'_>, touched: Touched) -> Result<(), StateError> {
    let before = state::totals(work)?;
    let mut update = Update {
        totals: before,
        names: touched.names,
        work,
    };
    let mut files = touched.files;
    for ino in touched.others {
        let is_plain = ino == Ino::ROOT
            || (update.place(ino)?.is_none() && state::any(update.work, &key::links_of(ino))?);
        if !is_plain {
            files.insert(ino);
        }
    }
    let has_moved =
        update.add_dependents(&mut files)? || touched.has_moved || update.has_cut(&files)?;
    if has_moved {
        update.forget_cuts(&mut files)?;
    }
    for ino in &files {
        update.settle_place(*ino)?;
    }
    if has_moved || update.totals.placed > 0 {
        for ino in &files {
            update.cut_circles(*ino)?;
        }
    }
    update.show_lost()?;
    update.mark_names()?;
    let after = update.totals;
    if after != before {
        work.put_totals(after);
    }
    Ok(())
}

struct Update<'w, 'a> {
    work: &'w mut Work<'a>,
    totals: Totals,
    names: BTreeSet<(Ino, Name)>,
}

impl Update<'_, '_> {
    fn place(&self, ino: Ino) -> Result<Option<Place>, StateError> {
        if self.totals.placed == 0 {
            return Ok(None);
        }
        place::stored(self.work, ino)
    }

    /// Adds what would return to one of the directories. Whether there was any.
    fn add_dependents(&mut self, files: &mut BTreeSet<Ino>) -> Result<bool, StateError> {
        if self.totals.placed == 0 {
            return Ok(false);
        }
        let mut more = Vec::new();
        for dir in files.iter() {
            for key in state::keys_below(self.work, &key::waiting_for(*dir), usize::MAX)? {
                more.push(key::ino_at(&key, 17));
            }
        }
        files.extend(more.iter().copied());
        Ok(!more.is_empty())
    }

    fn has_cut(&self, files: &BTreeSet<Ino>) -> Result<bool, StateError> {
        if self.totals.cut > 0 {
            for ino in files {
                if self.work.get(&key::cut(*ino))?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Which directories are cut is decided anew.
    fn forget_cuts(&mut self, files: &mut BTreeSet<Ino>) -> Result<(), StateError> {
        if self.totals.cut == 0 {
            return Ok(());
        }
        for key in state::keys_below(self.work, key::CUTS, usize::MAX)? {
            files.insert(key::ino_at(&key, 1));
            self.work.remove(key);
        }
        self.totals.cut = 0;
        Ok(())
    }

    /// Where a file is shown, circles aside; and its names are looked at.
    fn settle_place(&mut self, ino: Ino) -> Result<(), StateError> {
        if ino.is_reserved() {
            return Ok(());
        }
        let place = place::without_entry(self.work, ino)?;
        self.set_place(ino, place)?;
        let is_plain_file = self.totals.odd == 0 && {
            let content = self.work.siblings(&Key::Content(ino))?;
            content.len() == 1
        };
        if !is_plain_file {
            let links = state::links(self.work, ino, usize::MAX)?;
            self.names.extend(links);
        }
        Ok(())
    }

    fn set_place(&mut self, ino: Ino, new: Option<Place>) -> Result<(), StateError> {
        let old = self.place(ino)?;
        if old == new {
            return Ok(());
        }
        if let Some(old) = old {
            self.totals.placed -= 1;
            self.work.remove(key::place(ino));
            self.work.remove(key::guest(old.dir, &old.name, ino));
            for dir in &old.waits_for {
                self.work.remove(key::waiting(*dir, ino));
            }
            self.names.insert((old.dir, old.name));
        }
        if let Some(new) = new {
            self.totals.placed += 1;
            self.work.put(key::place(ino), new.encode());
            if new.is_guest {
                let guest = key::guest(new.dir, &new.name, ino);
                self.work.put(guest, wire::encode(&new.kind));
            }
            for dir in &new.waits_for {
                self.work.put(key::waiting(*dir, ino), Vec::new());
            }
            self.names.insert((new.dir, new.name));
        }
        Ok(())
    }

    /// Opens every circle that the way up from a directory runs into, at its newest link.
    fn cut_circles(&mut self, ino: Ino) -> Result<(), StateError> {
        let has_inside = state::any(self.work, &key::entries_of(ino))?
            || state::any(self.work, &key::guests_of(ino))?;
        if !has_inside || ino.is_reserved() {
            return Ok(());
        }
        // Each turn takes one place from one directory, and the last place of all is in no circle.
        while let Some(circle) = place::circle_above(self.work, ino)? {
            let mut newest = None;
            for member in circle {
                let level = self.level(member)?;
                let candidates = place::candidates(self.work, member)?;
                if let Some(current) = candidates.get(level) {
                    let rank = (current.is_guest(), current.stamp, member);
                    newest = newest.max(Some((rank, level)));
                }
            }
            let Some(((_, _, member), level)) = newest else {
                return Err(StateError::corrupt(
                    "the directories",
                    "a circle that nothing closes",
                ));
            };
            if level == 0 {
                self.totals.cut += 1;
            }
            let next = place::candidate(self.work, member, level + 1)?;
            self.work
                .put(key::cut(member), wire::encode(&(level as u64 + 1)));
            self.set_place(member, next)?;
            let links = state::links(self.work, member, usize::MAX)?;
            self.names.extend(links);
        }
        Ok(())
    }

    fn level(&self, ino: Ino) -> Result<usize, StateError> {
        let level: Option<u64> = state::local(self.work, &key::cut(ino))?;
        Ok(level.unwrap_or(0) as usize)
    }

    /// `lost+found` is there as long as there is something in it.
    fn show_lost(&mut self) -> Result<(), StateError> {
        let lost = Ino::LOST;
        if self.totals.placed == 0 && !self.names.iter().any(|(dir, _)| *dir == lost) {
            return Ok(());
        }
        let is_needed = state::any(self.work, &key::guests_of(lost))?
            || state::any(self.work, &key::entries_of(lost))?;
        let place = is_needed.then(place::of_lost);
        self.set_place(lost, place)
    }

    /// Marks the names that need a closer look than one at their row.
    fn mark_names(&mut self) -> Result<(), StateError> {
        for (dir, name) in std::mem::take(&mut self.names) {
            let key = key::odd(dir, &name);
            let was_odd = self.totals.odd > 0 && self.work.get(&key)?.is_some();
            let is_odd = self.is_odd(dir, &name)?;
            if is_odd && !was_odd {
                self.work.put(key, Vec::new());
                self.totals.odd += 1;
            } else if was_odd && !is_odd {
                self.work.remove(key);
                self.totals.odd -= 1;
            }
        }
        Ok(())
    }

    fn is_odd(&self, dir: Ino, name: &Name) -> Result<bool, StateError> {
        if self.totals.placed > 0 && state::any(self.work, &key::guests_at(dir, name))? {
            return Ok(true);
        }
        let row = self.work.siblings(&Key::Entry(dir, name.clone()))?;
        let mut entries = row::entries(&row);
        let Some((_, entry)) = entries.next() else {
            return Ok(false);
        };
        if entries.next().is_some() {
            return Ok(true);
        }
        match entry.kind {
            Kind::Directory => Ok(self.place(entry.child)?.is_some()
                || state::counts(self.work, entry.child)?.links > 1),
            Kind::File => {
                let content = self.work.siblings(&Key::Content(entry.child))?;
                Ok(row::contents(&content).len() > 1)
            }
            _ => Ok(false),
        }
    }
}
