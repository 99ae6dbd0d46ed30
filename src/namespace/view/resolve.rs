//! What is shown under a name: usually what its one entry leads to. Entries of several writers, of
//! merged directories, and what came back without an entry are told apart here.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::names::conflict_name;
use super::place;
use crate::base::wire;
use crate::namespace::clock::Stamp;
use crate::namespace::error::StateError;
use crate::namespace::id::{Dot, Ino, Kind, Name};
use crate::namespace::key::{self, Key};
use crate::namespace::row;
use crate::namespace::state::{self, Rows};

/// A name of one directory of which something is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The directory.
    pub dir: Ino,
    /// Whether an entry is there; else what is shown came back without one.
    pub is_entry: bool,
}

/// Something shown in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The name it is shown by.
    pub name: Name,
    /// The name it would have alone.
    pub base: Name,
    /// Which file. For directories that are shown as one, the one that takes new entries.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// All directories that are shown as one, `ino` first.
    pub merged: Vec<Ino>,
    /// For a copy of a file's content, which lost against a later edit: when and by whom it was
    /// written.
    pub copy: Option<Stamp>,
    /// Where it is.
    pub spots: Vec<Spot>,
}

impl Shown {
    /// Shown by the name of its only entry.
    pub(super) fn plain(dir: Ino, name: Name, ino: Ino, kind: Kind) -> Shown {
        Shown {
            base: name.clone(),
            name,
            ino,
            kind,
            merged: vec![ino],
            copy: None,
            spots: vec![Spot {
                dir,
                is_entry: true,
            }],
        }
    }

    /// Whether it is there because writers disagreed.
    pub fn is_contested(&self) -> bool {
        self.copy.is_some() || self.name != self.base
    }
}

/// Something that lays claim to a name.
struct Claim {
    ino: Ino,
    kind: Kind,
    /// Entries come before what has none, later ones before earlier.
    rank: (bool, Option<(Stamp, Dot)>),
    spots: Vec<Spot>,
}

/// Everything shown under `base`, or because of it, in the directories that are shown as one.
pub(in crate::namespace) fn resolve(
    rows: &dyn Rows,
    group: &[Ino],
    base: &Name,
) -> Result<Vec<Shown>, StateError> {
    let claims = claims(rows, group, base)?;
    let mut names = Names {
        rows,
        group,
        base,
        used: BTreeSet::new(),
    };
    if claims.len() > 1 && claims.iter().all(|claim| claim.kind == Kind::Directory) {
        return Ok(names.merged(claims).into_iter().collect());
    }
    let mut all = Vec::new();
    for (index, claim) in claims.into_iter().enumerate() {
        let name = match claim.rank.1 {
            Some((stamp, _)) if index > 0 => names.free(base, &stamp)?,
            // Without any moment there is no conflict name; the file's own makes one.
            None if index > 0 => names.free(&hex_name(claim.ino, base), &zero())?,
            _ => base.clone(),
        };
        names.used.insert(name.clone());
        let copies = names.copies(&claim, &name)?;
        all.push(Shown {
            name,
            base: base.clone(),
            ino: claim.ino,
            kind: claim.kind,
            merged: vec![claim.ino],
            copy: None,
            spots: claim.spots,
        });
        all.extend(copies);
    }
    Ok(all)
}

fn hex_name(ino: Ino, base: &Name) -> Name {
    Name::new(ino.to_string().as_bytes()).unwrap_or_else(|_| base.clone())
}

fn zero() -> Stamp {
    Stamp {
        hlc: crate::namespace::clock::Hlc(0),
        writer: (crate::base::PeerId([0; 32]), 0).into(),
    }
}

/// What lays claim to a name, the one that gets it first.
fn claims(rows: &dyn Rows, group: &[Ino], base: &Name) -> Result<Vec<Claim>, StateError> {
    let mut claims: Vec<Claim> = Vec::new();
    for dir in group {
        let row = rows.siblings(&Key::Entry(*dir, base.clone()))?;
        for (sibling, entry) in row::entries(&row) {
            if entry.kind == Kind::Directory {
                let place = place::shown_at(rows, entry.child)?;
                if place.is_none_or(|(at, name)| (at, &name) != (*dir, base)) {
                    continue;
                }
            }
            let rank = (true, Some((sibling.stamp(), sibling.dot)));
            let is_entry = true;
            let kind = entry.kind;
            add(&mut claims, entry.child, kind, rank, *dir, is_entry);
        }
        for (key, value) in state::below(rows, &key::guests_at(*dir, base), usize::MAX)? {
            let ino = key::ino_at(&key, key.len().saturating_sub(16));
            let kind = wire::decode(&value, usize::MAX)
                .map_err(|error| StateError::corrupt("a derived row", error))?;
            let rank = (false, guest_stamp(rows, ino)?);
            add(&mut claims, ino, kind, rank, *dir, false);
        }
    }
    claims.sort_by_key(|claim| Reverse((claim.rank, claim.ino)));
    Ok(claims)
}

fn add(
    claims: &mut Vec<Claim>,
    ino: Ino,
    kind: Kind,
    rank: (bool, Option<(Stamp, Dot)>),
    dir: Ino,
    is_entry: bool,
) {
    let spot = Spot { dir, is_entry };
    match claims.iter_mut().find(|claim| claim.ino == ino) {
        Some(known) => {
            known.rank = known.rank.max(rank);
            if known.spots.iter().all(|known| known.dir != dir) {
                known.spots.push(spot);
            }
        }
        None => claims.push(Claim {
            ino,
            kind,
            rank,
            spots: vec![spot],
        }),
    }
}

/// When what came back was written: a file's content, or the first entry of a directory.
pub(super) fn guest_stamp(rows: &dyn Rows, ino: Ino) -> Result<Option<(Stamp, Dot)>, StateError> {
    let dot = |stamp: Stamp| Dot {
        writer: stamp.writer,
        counter: 0,
    };
    let row = rows.siblings(&Key::Content(ino))?;
    if let Some(content) = row::contents(&row).first() {
        return Ok(Some((content.edited, dot(content.edited))));
    }
    let first = state::below(rows, &key::entries_of(ino), 1)?;
    let Some((key, value)) = first.first() else {
        return Ok(None);
    };
    let corrupt = |error| StateError::corrupt("a row", error);
    let key = Key::decode(key).map_err(corrupt)?;
    let row = row::decode(&key, value).map_err(corrupt)?;
    let newest = row.iter().map(|sibling| sibling.stamp()).max();
    Ok(newest.map(|stamp| (stamp, dot(stamp))))
}

/// Finds names that nothing else has.
struct Names<'a> {
    rows: &'a dyn Rows,
    group: &'a [Ino],
    base: &'a Name,
    used: BTreeSet<Name>,
}

impl Names<'_> {
    fn merged(&self, claims: Vec<Claim>) -> Option<Shown> {
        let merged: Vec<Ino> = claims.iter().map(|claim| claim.ino).collect();
        let ino = *merged.first()?;
        let mut spots: Vec<Spot> = Vec::new();
        for spot in claims.into_iter().flat_map(|claim| claim.spots) {
            match spots.iter_mut().find(|known| known.dir == spot.dir) {
                Some(known) => known.is_entry |= spot.is_entry,
                None => spots.push(spot),
            }
        }
        Some(Shown {
            name: self.base.clone(),
            base: self.base.clone(),
            ino,
            kind: Kind::Directory,
            merged,
            copy: None,
            spots,
        })
    }

    /// A conflict name that nothing in the directory has, with an entry or without.
    fn free(&mut self, name: &Name, stamp: &Stamp) -> Result<Name, StateError> {
        // Each turn but the last meets something else in this directory.
        let mut number = 1;
        loop {
            let tried = conflict_name(name, stamp, number);
            if !self.used.contains(&tried) && !self.is_taken(&tried)? {
                self.used.insert(tried.clone());
                return Ok(tried);
            }
            number += 1;
        }
    }

    fn is_taken(&self, name: &Name) -> Result<bool, StateError> {
        for dir in self.group {
            let key = Key::Entry(*dir, name.clone()).encode();
            if self.rows.get(&key)?.is_some() || state::any(self.rows, &key::guests_at(*dir, name))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Contents of a file that compete with the one it shows, at the first of its names.
    fn copies(&mut self, claim: &Claim, name: &Name) -> Result<Vec<Shown>, StateError> {
        if claim.kind != Kind::File {
            return Ok(Vec::new());
        }
        let first = state::links(self.rows, claim.ino, 1)?.pop();
        let spot = match first {
            Some((dir, at)) => {
                let here = |spot: &&Spot| at == *self.base && spot.dir == dir;
                claim.spots.iter().find(here)
            }
            None => claim.spots.first(),
        };
        let Some(spot) = spot else {
            return Ok(Vec::new());
        };
        let row = self.rows.siblings(&Key::Content(claim.ino))?;
        let mut copies = Vec::new();
        for content in row::contents(&row).into_iter().skip(1) {
            copies.push(Shown {
                name: self.free(name, &content.edited)?,
                base: self.base.clone(),
                ino: claim.ino,
                kind: Kind::File,
                merged: vec![claim.ino],
                copy: Some(content.edited),
                spots: vec![spot.clone()],
            });
        }
        Ok(copies)
    }
}
