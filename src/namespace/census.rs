//! How many files a volume shows: those with an entry, and those that are shown without one. Attributes that
//! nothing names any more show nothing, and so do not count.

use std::collections::BTreeSet;

use super::error::StateError;
use super::id::Ino;
use super::key;
use super::state::{self, Changes, Rows};

/// Keys read at once.
const PAGE: usize = 1024;

/// Files that rows show, the top directory and `lost+found` aside. Looks at every name.
///
/// # Errors
/// If rows cannot be read.
pub fn count_shown(rows: &dyn Rows) -> Result<u64, StateError> {
    let mut count = 0;
    for space in [key::LINKS, key::PLACES] {
        let mut at = space.to_vec();
        let end = state::end_of(space);
        let mut before = None;
        loop {
            let keys = rows.keys(&at, &end, PAGE)?;
            let Some(last) = keys.last() else { break };
            at = state::after(last);
            for found in keys {
                let ino = key::ino_at(&found, 1);
                let is_new = before.replace(ino) != Some(ino) && !ino.is_reserved();
                let is_named = space == key::PLACES && state::any(rows, &key::links_of(ino))?;
                count += u64::from(is_new && !is_named);
            }
        }
    }
    Ok(count)
}

/// How many more files are shown once `changes` are made to `rows`.
///
/// # Errors
/// If rows cannot be read.
pub fn more_shown(rows: &dyn Rows, changes: &Changes) -> Result<i64, StateError> {
    let of_files = |space: &'static [u8]| {
        let range = changes.range(space.to_vec()..state::end_of(space));
        range.map(|(found, _)| key::ino_at(found, 1))
    };
    let touched: BTreeSet<Ino> = of_files(key::LINKS).chain(of_files(key::PLACES)).collect();
    let mut more = 0;
    for ino in touched.into_iter().filter(|ino| !ino.is_reserved()) {
        let was_shown =
            rows.get(&key::place(ino))?.is_some() || state::any(rows, &key::links_of(ino))?;
        more += i64::from(is_shown_after(rows, changes, ino)?) - i64::from(was_shown);
    }
    Ok(more)
}

fn is_shown_after(rows: &dyn Rows, changes: &Changes, ino: Ino) -> Result<bool, StateError> {
    let place = key::place(ino);
    let has_place = match changes.get(&place) {
        Some(change) => change.is_some(),
        None => rows.get(&place)?.is_some(),
    };
    if has_place {
        return Ok(true);
    }
    let links = key::links_of(ino);
    let end = state::end_of(&links);
    let changed = || changes.range(links.clone()..end.clone());
    if changed().any(|(_, change)| change.is_some()) {
        return Ok(true);
    }
    // One more than can have been taken away tells.
    let kept = rows.keys(&links, &end, changed().count() + 1)?;
    Ok(kept.iter().any(|link| !changes.contains_key(link)))
}
