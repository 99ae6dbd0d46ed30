//! Where a file is shown: at its entry; a directory with several at the newest; what has none at
//! its last home, else in `lost+found`. A circle of directories is opened at its newest link.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::base::wire;
use crate::namespace::clock::Stamp;
use crate::namespace::error::StateError;
use crate::namespace::id::{Dot, Ino, Kind, Name};
use crate::namespace::key::{self, Key};
use crate::namespace::row;
use crate::namespace::state::{self, Rows};
use crate::namespace::value::Home;

/// Name of the directory for what has lost its place.
pub const LOST_NAME: &[u8] = b"lost+found";

/// Where something is shown that is not shown at its newest link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::namespace) struct Place {
    /// Directory.
    pub dir: Ino,
    /// Name that it has there if nothing else has it.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Whether no entry of that directory leads to it.
    pub is_guest: bool,
    /// Directories whose coming or going may change the place.
    pub waits_for: Vec<Ino>,
}

impl Place {
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(&(
            self.dir,
            &self.name,
            self.kind,
            self.is_guest,
            &self.waits_for,
        ))
    }
}

/// The place that is kept for a file.
pub(in crate::namespace) fn stored(rows: &dyn Rows, ino: Ino) -> Result<Option<Place>, StateError> {
    let found = state::local(rows, &key::place(ino))?;
    Ok(found.map(|(dir, name, kind, is_guest, waits_for)| Place {
        dir,
        name,
        kind,
        is_guest,
        waits_for,
    }))
}

/// The place of `lost+found`.
pub(in crate::namespace) fn of_lost() -> Place {
    Place {
        dir: Ino::ROOT,
        name: fixed_name(LOST_NAME),
        kind: Kind::Directory,
        is_guest: true,
        waits_for: Vec::new(),
    }
}

fn fixed_name(bytes: &[u8]) -> Name {
    match Name::new(bytes) {
        Ok(name) => name,
        Err(why) => panic!("a name of our own: {why}"),
    }
}

/// Whether a directory is there: named, or with something in it that brings it back.
fn exists(rows: &dyn Rows, dir: Ino) -> Result<bool, StateError> {
    Ok(dir.is_reserved()
        || state::any(rows, &key::links_of(dir))?
        || state::any(rows, &key::entries_of(dir))?)
}

/// One of the places where a directory may be shown.
#[derive(Clone, Debug)]
pub(in crate::namespace) struct Candidate {
    pub dir: Ino,
    pub name: Name,
    /// When the entry was written; none for a place without one.
    pub stamp: Option<(Stamp, Dot)>,
}

impl Candidate {
    pub const fn is_guest(&self) -> bool {
        self.stamp.is_none()
    }
}

/// All places where a directory may be shown, the best first; the last is in `lost+found`.
pub(in crate::namespace) fn candidates(
    rows: &dyn Rows,
    ino: Ino,
) -> Result<Vec<Candidate>, StateError> {
    let mut all = Vec::new();
    for (dir, name) in state::links(rows, ino, usize::MAX)? {
        let row = rows.siblings(&Key::Entry(dir, name.clone()))?;
        let stamps = row::entries(&row)
            .filter(|(_, entry)| entry.child == ino)
            .map(|(sibling, _)| (sibling.stamp(), sibling.dot));
        let stamp = stamps.max();
        all.push(Candidate { dir, name, stamp });
    }
    all.sort_by(|a, b| (b.stamp, &a.dir, &a.name).cmp(&(a.stamp, &b.dir, &b.name)));
    for home in homes(rows, ino)? {
        let is_new = all
            .iter()
            .all(|known| (known.dir, &known.name) != (home.parent, &home.name));
        if is_new && home.parent != ino && exists(rows, home.parent)? {
            all.push(Candidate {
                dir: home.parent,
                name: home.name,
                stamp: None,
            });
        }
    }
    all.push(Candidate {
        dir: Ino::LOST,
        name: fixed_name(ino.to_string().as_bytes()),
        stamp: None,
    });
    Ok(all)
}

/// What is known of where a directory was: by what is in it if it has no entry, and by itself.
pub(in crate::namespace) fn homes(rows: &dyn Rows, ino: Ino) -> Result<Vec<Home>, StateError> {
    let mut homes = Vec::new();
    if !state::any(rows, &key::links_of(ino))? {
        homes.extend(home_by_entries(rows, ino)?);
    }
    let attrs = row::attrs(&rows.siblings(&Key::Attrs(ino))?);
    homes.extend(attrs.and_then(|attrs| attrs.home.value));
    Ok(homes)
}

/// Where the first of a directory's entries says that the directory was.
pub(in crate::namespace) fn home_by_entries(
    rows: &dyn Rows,
    dir: Ino,
) -> Result<Option<Home>, StateError> {
    let first = state::below(rows, &key::entries_of(dir), 1)?;
    let Some((key, _)) = first.first() else {
        return Ok(None);
    };
    let key = Key::decode(key).map_err(|error| StateError::corrupt("a key", error))?;
    let row = rows.siblings(&key)?;
    let newest = row::entries(&row).max_by_key(|(sibling, _)| (sibling.stamp(), sibling.dot));
    Ok(newest.and_then(|(_, entry)| entry.home.clone()))
}

/// The place of a directory at one of its candidates.
pub(in crate::namespace) fn candidate(
    rows: &dyn Rows,
    ino: Ino,
    level: usize,
) -> Result<Option<Place>, StateError> {
    let waits_for: BTreeSet<Ino> = homes(rows, ino)?.iter().map(|home| home.parent).collect();
    let found = candidates(rows, ino)?.into_iter().nth(level);
    Ok(found.map(|found| Place {
        is_guest: found.is_guest(),
        dir: found.dir,
        name: found.name,
        kind: Kind::Directory,
        waits_for: waits_for.into_iter().collect(),
    }))
}

/// The place of what no entry leads to: of a directory with something in it, and of a file with
/// content. None for what has an entry, and for what is gone.
pub(in crate::namespace) fn without_entry(
    rows: &dyn Rows,
    ino: Ino,
) -> Result<Option<Place>, StateError> {
    if state::any(rows, &key::links_of(ino))? {
        return Ok(None);
    }
    if state::any(rows, &key::entries_of(ino))? {
        return candidate(rows, ino, 0);
    }
    let row = rows.siblings(&Key::Content(ino))?;
    let Some(content) = row::contents(&row).first().copied() else {
        return Ok(None);
    };
    let home = content.home.parent;
    let (dir, name) = if exists(rows, home)? {
        (home, content.home.name.clone())
    } else {
        (Ino::LOST, fixed_name(ino.to_string().as_bytes()))
    };
    Ok(Some(Place {
        dir,
        name,
        kind: Kind::File,
        is_guest: true,
        waits_for: vec![home],
    }))
}

/// Directory and name under which a directory is shown; none for the top one and for what is gone.
pub(in crate::namespace) fn shown_at(
    rows: &dyn Rows,
    ino: Ino,
) -> Result<Option<(Ino, Name)>, StateError> {
    if let Some(place) = stored(rows, ino)? {
        return Ok(Some((place.dir, place.name)));
    }
    let mut links = state::links(rows, ino, 2)?;
    if links.len() < 2 {
        return Ok(links.pop());
    }
    let newest = candidates(rows, ino)?.into_iter().next();
    Ok(newest.map(|found| (found.dir, found.name)))
}

/// The directories of the circle that the way up from `ino` runs into, if it does.
pub(in crate::namespace) fn circle_above(
    rows: &dyn Rows,
    ino: Ino,
) -> Result<Option<Vec<Ino>>, StateError> {
    let mut way = Vec::new();
    let mut seen = BTreeSet::new();
    let mut at = ino;
    while seen.insert(at) {
        way.push(at);
        match shown_at(rows, at)? {
            Some((parent, _)) => at = parent,
            None => return Ok(None),
        }
    }
    Ok(Some(way.into_iter().skip_while(|dir| *dir != at).collect()))
}

/// A directory and name under which a file of any kind is shown; of several names the first.
pub(in crate::namespace) fn first_name(
    rows: &dyn Rows,
    ino: Ino,
) -> Result<Option<(Ino, Name)>, StateError> {
    match stored(rows, ino)? {
        Some(place) => Ok(Some((place.dir, place.name))),
        None => Ok(state::links(rows, ino, 1)?.pop()),
    }
}
