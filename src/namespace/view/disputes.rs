//! What writers disagreed about, told as such: which names are there because of it, who wrote what is behind each,
//! and when.

use std::collections::{BTreeMap, BTreeSet};

use super::names::is_conflict_name;
use super::place::{self, Candidate};
use super::resolve::{Shown, guest_stamp};
use super::{View, resolve};
use crate::base::limits::CONFLICT_LOOKS_MAX;
use crate::namespace::clock::Stamp;
use crate::namespace::error::StateError;
use crate::namespace::id::{Dot, Ino, Kind, Name};
use crate::namespace::key::{self, Key};
use crate::namespace::row;
use crate::namespace::state;

/// The extended attribute of a file that is there as a conflict copy: the name that it competed for.
pub const CONFLICT_XATTR: &[u8] = b"user.cairn.conflict";

/// Odd names read at once.
const PAGE: usize = 256;

/// What kind of disagreement it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DisputeKind {
    /// Several files were given one name.
    Names,
    /// One file was given several contents at a time.
    Content,
    /// Something was removed by one writer and changed by another: it came back.
    Returned,
    /// A directory was moved to several places.
    Moved,
    /// Something came back whose directory is gone: it is in `lost+found`.
    Lost,
}

/// One of what competes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The directory, of several that are shown as one the first.
    pub dir: Ino,
    /// The name in it: that by which it is shown; of a directory that was moved to several places the one it was
    /// given there.
    pub name: Name,
    /// Which file.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Set for a content that is no file of its own yet.
    pub copy: Option<Stamp>,
    /// When and by whom it was put there; none if no row says so any more.
    pub stamp: Option<Stamp>,
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// What kind.
    pub kind: DisputeKind,
    /// Where: the directory, of several that are shown as one the first.
    pub dir: Ino,
    /// The name that it is about.
    pub base: Name,
    /// What competes, the one that has the name first. Never empty.
    pub parties: Vec<Party>,
}

/// Disagreements by directory and name.
pub type Disputes = BTreeMap<(Ino, Name), Dispute>;

/// Looks that are still to be made.
struct Search {
    found: Disputes,
    seen: BTreeSet<(Ino, Name)>,
    /// Directories that are shown as one: any name in them may be contested.
    groups: Vec<Vec<Ino>>,
    limit: usize,
}

impl Search {
    fn is_over(&self) -> bool {
        self.found.len() >= self.limit || self.seen.len() >= CONFLICT_LOOKS_MAX
    }
}

impl View<'_> {
    /// Disagreements that are not settled, at most `limit`. One look for each odd name, and one for each name that two
    /// directories have which are shown as one.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn disputes(&self, limit: usize) -> Result<Disputes, StateError> {
        let mut search = Search {
            found: Disputes::new(),
            seen: BTreeSet::new(),
            groups: Vec::new(),
            limit,
        };
        let mut after = None;
        while !self.is_plain() && !search.is_over() {
            let page = self.odd(after.as_ref(), PAGE)?;
            for (dir, name) in &page {
                self.look_at(&self.group(*dir)?, name, &mut search)?;
            }
            while let Some(group) = search.groups.pop() {
                for name in self.odd_names(&group)? {
                    self.look_at(&group, &name, &mut search)?;
                }
            }
            let is_last = page.len() < PAGE;
            after = page.into_iter().next_back();
            if is_last {
                break;
            }
        }
        Ok(search.found)
    }

    fn look_at(&self, group: &[Ino], base: &Name, search: &mut Search) -> Result<(), StateError> {
        let Some(dir) = group.first().copied() else {
            return Ok(());
        };
        if search.is_over() || !search.seen.insert((dir, base.clone())) {
            return Ok(());
        }
        let all = self.shown_by(group, base)?;
        for shown in all.iter().filter(|shown| shown.merged.len() > 1) {
            search.groups.push(shown.merged.clone());
        }
        if let Some(dispute) = self.judge(group, base, &all)? {
            search.found.insert((dir, base.clone()), dispute);
        }
        Ok(())
    }

    /// What is contested about a name in a directory. None if nothing is.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn dispute(&self, dir: Ino, base: &Name) -> Result<Option<Dispute>, StateError> {
        if self.is_plain() {
            return Ok(None);
        }
        let group = self.group(dir)?;
        self.judge(&group, base, &self.shown_by(&group, base)?)
    }

    /// All that is shown because of a name, but for the directory of what has lost its place.
    fn shown_by(&self, group: &[Ino], base: &Name) -> Result<Vec<Shown>, StateError> {
        let mut all = resolve(self.rows, group, base)?;
        all.retain(|shown| !shown.merged.contains(&Ino::LOST));
        Ok(all)
    }

    fn judge(
        &self,
        group: &[Ino],
        base: &Name,
        all: &[Shown],
    ) -> Result<Option<Dispute>, StateError> {
        let (Some(dir), Some(first)) = (group.first().copied(), all.first()) else {
            return Ok(None);
        };
        let told = |kind, parties| Dispute {
            kind,
            dir,
            base: base.clone(),
            parties,
        };
        if all.len() > 1 {
            let is_content = all.iter().all(|shown| shown.ino == first.ino);
            let kind = match is_content {
                true => DisputeKind::Content,
                false => DisputeKind::Names,
            };
            let mut parties = Vec::with_capacity(all.len());
            for shown in all {
                let stamp = match shown.copy {
                    Some(copy) => Some(copy),
                    None if is_content => self.edited(shown.ino)?,
                    None => self.put_there(group, base, shown)?,
                };
                parties.push(party(dir, shown, stamp));
            }
            return Ok(Some(told(kind, parties)));
        }
        if first.kind == Kind::Directory && first.merged.len() == 1 {
            let places = place::candidates(self.rows, first.ino)?;
            let entries: Vec<&Candidate> = places.iter().filter(|at| !at.is_guest()).collect();
            let is_cut = self.rows.get(&key::cut(first.ino))?.is_some();
            if entries.len() > 1 || is_cut {
                let parties = self.places(dir, first, &entries)?;
                return Ok((parties.len() > 1).then(|| told(DisputeKind::Moved, parties)));
            }
        }
        if first.spots.iter().any(|spot| spot.is_entry) {
            return Ok(None);
        }
        let kind = match dir {
            Ino::LOST => DisputeKind::Lost,
            _ => DisputeKind::Returned,
        };
        let stamp = self.put_there(group, base, first)?;
        Ok(Some(told(kind, vec![party(dir, first, stamp)])))
    }

    /// Where a directory was moved to, the place at which it is shown first.
    fn places(
        &self,
        dir: Ino,
        shown: &Shown,
        entries: &[&Candidate],
    ) -> Result<Vec<Party>, StateError> {
        let mut parties = Vec::new();
        for at in entries {
            let home = self.group(at.dir)?.first().copied().unwrap_or(at.dir);
            let is_shown = home == dir && at.name == shown.base;
            let at = Party {
                dir: home,
                name: match is_shown {
                    true => shown.name.clone(),
                    false => at.name.clone(),
                },
                ino: shown.ino,
                kind: shown.kind,
                copy: None,
                stamp: at.stamp.map(|(stamp, _)| stamp),
            };
            match is_shown {
                true => parties.insert(0, at),
                false => parties.push(at),
            }
        }
        let has_shown = parties
            .first()
            .is_some_and(|first| (first.dir, &first.name) == (dir, &shown.name));
        if !has_shown {
            // Where it was before others moved it into each other.
            parties.insert(0, party(dir, shown, None));
        }
        Ok(parties)
    }

    /// When and by whom something was put where it is shown.
    fn put_there(
        &self,
        group: &[Ino],
        base: &Name,
        shown: &Shown,
    ) -> Result<Option<Stamp>, StateError> {
        let mut newest = None;
        for dir in group {
            let row = self.rows.siblings(&Key::Entry(*dir, base.clone()))?;
            let here = row::entries(&row).filter(|(_, entry)| shown.merged.contains(&entry.child));
            newest = newest.max(here.map(|(sibling, _)| sibling.stamp()).max());
        }
        match newest {
            Some(stamp) => Ok(Some(stamp)),
            None => {
                let found: Option<(Stamp, Dot)> = guest_stamp(self.rows, shown.ino)?;
                Ok(found.map(|(stamp, _)| stamp))
            }
        }
    }

    /// The last edit of a file's content.
    fn edited(&self, ino: Ino) -> Result<Option<Stamp>, StateError> {
        let row = self.rows.siblings(&Key::Content(ino))?;
        Ok(row::contents(&row).first().map(|content| content.edited))
    }

    /// Adds what a file with the mark of a conflict copy competes with. Nothing if that is over: it has no conflict name
    /// any more, or nothing has the name that it was about.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn add_marked(&self, ino: Ino, found: &mut Disputes) -> Result<(), StateError> {
        let mark = Name::xattr(CONFLICT_XATTR).map_err(|why| StateError::corrupt("a name", why))?;
        let Some(value) = self.xattr(ino, &mark)? else {
            return Ok(());
        };
        // Anybody may have set it, to anything.
        let Ok(base) = Name::new(&value) else {
            return Ok(());
        };
        for (at, name) in state::links(self.rows, ino, usize::MAX)? {
            if name == base || !is_conflict_name(&name, &base) {
                continue;
            }
            let Some(dir) = self.group(at)?.first().copied() else {
                continue;
            };
            // A file does not compete with itself, by whatever names.
            let rival = self.lookup(dir, &base)?.filter(|rival| rival.ino != ino);
            let Some(rival) = rival else {
                continue;
            };
            if self
                .lookup(dir, &name)?
                .is_none_or(|shown| shown.ino != ino)
            {
                continue;
            }
            let own = Party {
                dir,
                name,
                ino,
                kind: Kind::File,
                copy: None,
                stamp: self.edited(ino)?,
            };
            let known = found.entry((dir, base.clone()));
            let dispute = match known {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => {
                    let stamp = match self.edited(rival.ino)? {
                        Some(stamp) => Some(stamp),
                        None => self.put_there(&self.group(dir)?, &base, &rival)?,
                    };
                    free.insert(Dispute {
                        kind: DisputeKind::Content,
                        dir,
                        base,
                        parties: vec![party(dir, &rival, stamp)],
                    })
                }
            };
            if dispute.parties.iter().all(|party| party.name != own.name) {
                dispute.parties.push(own);
            }
            return Ok(());
        }
        Ok(())
    }

    /// The names by which a directory is shown, from the top one down. None if it is gone.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn path(&self, dir: Ino) -> Result<Option<Vec<Name>>, StateError> {
        let mut way = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = dir;
        while at != Ino::ROOT {
            if !seen.insert(at) {
                return Err(StateError::corrupt(
                    "the directories",
                    "they run in a circle",
                ));
            }
            let Some((parent, base)) = place::shown_at(self.rows, at)? else {
                return Ok(None);
            };
            let name = match self.is_plain() {
                true => base,
                false => {
                    let all = self.shown_for(&self.group(parent)?, &base)?;
                    let here = all.into_iter().find(|shown| shown.merged.contains(&at));
                    match here {
                        Some(shown) => shown.name,
                        None => return Ok(None),
                    }
                }
            };
            way.push(name);
            at = parent;
        }
        way.reverse();
        Ok(Some(way))
    }
}

fn party(dir: Ino, shown: &Shown, stamp: Option<Stamp>) -> Party {
    Party {
        dir,
        name: shown.name.clone(),
        ino: shown.ino,
        kind: shown.kind,
        copy: shown.copy,
        stamp,
    }
}
