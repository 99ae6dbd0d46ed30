//! Redundancy as a policy: what is set on a directory or file counts for all that is below it, unless something
//! nearer says otherwise. It is the extended attribute `user.cairn.redundancy`, so it is a row of the namespace like any
//! other: it travels, converges, and is kept by snapshots.
//!
//! All blocks of one content have one redundancy, which its row says. What is there already keeps its own until
//! `recode` stores it anew.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use cairnfs_fuse::{Errno, FileType};

use super::errno::{Step, Stop};
use super::file::{Base, FileCell, FileState};
use super::inner::Inner;
use super::recode::Pass;
use super::rows::{OWN, POLICIES, RECODE, pages, policy_file};
use super::{FootingError, Vfs};
use crate::base::{EcProfile, Redundancy};
use crate::namespace::{Changes, Ino, Name, StateError, View};

/// The attribute that says which redundancy is wanted.
pub(super) const REDUNDANCY_XATTR: &[u8] = b"user.cairn.redundancy";
/// What, written into the attribute, takes it away.
const INHERIT: &[u8] = b"inherit";
/// Most directories above a file that are looked at.
const LEVELS_MAX: usize = 4096;

/// Which redundancy is wanted at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The redundancy; none where none is set: that with which the volume was made.
    pub redundancy: Option<Redundancy>,
    /// How many levels above the path it is set; 0: at the path itself.
    pub levels_up: usize,
    /// In what new data is stored at this moment.
    pub profile: EcProfile,
}

/// What is known of policies without looking at rows.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// Whether redundancy is, or was since the opening, set anywhere.
    any: AtomicBool,
    /// How often it was set or taken away since the opening.
    changes: AtomicU64,
    /// Whether something may be stored otherwise than it should be.
    owed: AtomicBool,
    /// What is being done about that.
    pub(super) pass: Pass,
}

impl Policies {
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Acquire)
    }

    pub(super) fn set_owed(&self, is_owed: bool) {
        self.owed.store(is_owed, Ordering::Release);
    }

    /// Rows have changed.
    pub(super) fn see(&self, changes: &Changes) {
        if changes.keys().any(|key| policy_file(key).is_some()) {
            self.any.store(true, Ordering::Release);
            self.owed.store(true, Ordering::Release);
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// What a value of the attribute says; none: nothing of its own.
fn parse(value: &[u8]) -> Result<Option<Redundancy>, Errno> {
    if value == INHERIT {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_end_matches(['\n', '\0']);
    text.parse().map(Some).map_err(|_| Errno::EINVAL)
}

/// What a program that sets the attribute has written down: the text of a redundancy, or none if it is to be taken away.
pub(super) fn value_to_set(kind: FileType, value: &[u8]) -> Result<Option<Bytes>, Errno> {
    if !matches!(kind, FileType::Directory | FileType::Regular) {
        return Err(Errno::EPERM);
    }
    let redundancy = parse(value)?;
    Ok(redundancy.map(|redundancy| redundancy.to_string().into()))
}

/// The name of the attribute in rows.
pub(super) fn xattr_name() -> Step<Name> {
    Name::xattr(REDUNDANCY_XATTR).map_err(|_| Errno::EIO.into())
}

/// The redundancy that the content below a file's changes has, if any of it stays.
fn kept(state: &FileState) -> Option<EcProfile> {
    match &state.base {
        Base::Stored(profile, _) if state.head.base_end > 0 => Some(*profile),
        _ => None,
    }
}

impl Inner {
    /// What was set before this opening.
    pub(super) fn recall_policies(&self) -> Result<(), crate::store::VolumeError> {
        let mut first = pages(&self.volume, POLICIES, &[], 1);
        let any = first
            .next()
            .transpose()?
            .is_some_and(|page| !page.is_empty());
        self.policies.any.store(any, Ordering::Release);
        let is_owed = self.volume.get(OWN, RECODE)?.is_some();
        self.policies.set_owed(is_owed);
        Ok(())
    }

    /// The redundancy that is set nearest to a file or directory, and how many levels above it. The caller holds the
    /// lock of the core.
    pub(super) fn policy_at(&self, ino: Ino) -> Step<(Option<Redundancy>, usize)> {
        if !self.policies.any() {
            return Ok((None, 0));
        }
        let name = xattr_name()?;
        self.view(|view| nearest(view, ino, &name))
    }

    /// In what new data is stored where this is wanted.
    pub(super) fn profile_of(&self, wanted: Option<Redundancy>) -> EcProfile {
        match wanted {
            Some(redundancy) => redundancy.resolve(self.options.auto.get()),
            None => self.identity.profile,
        }
    }

    /// Whether what is stored so may stay so.
    pub(super) fn is_as_wanted(&self, wanted: Option<Redundancy>, stored: EcProfile) -> bool {
        match wanted {
            Some(Redundancy::Auto) => self.options.auto.keeps(stored),
            Some(Redundancy::Fixed(profile)) => profile == stored,
            None => stored == self.identity.profile,
        }
    }

    /// What a program reads of the attribute where it is not set: what is wanted all the same.
    pub(super) fn inherited_policy(&self, ino: Option<Ino>) -> Step<Bytes> {
        let found = ino.map_or(Ok((None, 0)), |ino| self.policy_at(ino))?;
        let wanted = found.0.unwrap_or(self.identity.profile.into());
        Ok(wanted.to_string().into())
    }

    /// Decides in what redundancy the changes of a file are stored, if that is not decided yet; of one without changes it
    /// says in what they would be. None if it cannot be found out now. The caller holds neither the core nor the file.
    pub(super) fn decide_profile(&self, file: &FileCell) -> Option<EcProfile> {
        let decided = {
            let state = self.lock(file);
            match state.is_changed {
                true => state.profile,
                false => kept(&state),
            }
        };
        if decided.is_some() {
            return decided;
        }
        let wanted = match self.policies.any() {
            true => {
                let _core = self.core();
                self.policy_at(file.ino).ok()?.0
            }
            false => None,
        };
        let mut state = self.lock(file);
        let profile = kept(&state).unwrap_or_else(|| self.profile_of(wanted));
        Some(match state.is_changed {
            true => *state.profile.get_or_insert(profile),
            false => profile,
        })
    }

    /// The redundancy of a file's blocks as decided, or as it is; none if neither is.
    pub(super) fn profile_kept(&self, state: &FileState) -> Option<EcProfile> {
        state.profile.or_else(|| kept(state))
    }

    /// The redundancy of a file's blocks: as decided, or as it is.
    pub(super) fn profile_of_file(&self, state: &FileState) -> EcProfile {
        self.profile_kept(state).unwrap_or(self.identity.profile)
    }

    fn set_policy(&self, ino: Ino, wanted: Option<Redundancy>) -> Step<()> {
        self.check_writer()?;
        let name = xattr_name()?;
        let mut core = self.core();
        let has = self.view(|view| view.xattr(ino, &name))?.is_some();
        match wanted {
            Some(wanted) => {
                let value = Bytes::from(wanted.to_string());
                self.change(&mut core, |edit| edit.set_xattr(ino, &name, value))?;
            }
            None if has => {
                self.change(&mut core, |edit| edit.remove_xattr(ino, &name))?;
            }
            None => {}
        }
        core.changed(&[ino]);
        Ok(())
    }
}

/// The nearest policy, from a file or directory up. What cannot be read as one counts as none: another version may have
/// written it.
fn nearest(
    view: &View<'_>,
    ino: Ino,
    name: &Name,
) -> Result<(Option<Redundancy>, usize), StateError> {
    let mut at = ino;
    for level in 0..LEVELS_MAX {
        if let Some(value) = view.xattr(at, name)?
            && let Ok(Some(found)) = parse(&value)
        {
            return Ok((Some(found), level));
        }
        if at == Ino::ROOT {
            break;
        }
        match view.home_of(at)? {
            Some((dir, _)) => at = dir,
            None if level == 0 => return Ok((None, 0)),
            None => at = Ino::ROOT,
        }
    }
    Ok((None, 0))
}

impl Vfs {
    /// Which redundancy is wanted at a path, which goes from the top directory and has `/` between names. Reads tables.
    ///
    /// # Errors
    /// If there is nothing, or rows cannot be read.
    pub fn policy(&self, path: &[u8]) -> Result<Policy, FootingError> {
        let _core = self.0.core();
        let ino = self.0.ino_at(path)?;
        let (redundancy, levels_up) = self.0.policy_at(ino)?;
        Ok(Policy {
            redundancy,
            levels_up,
            profile: self.0.profile_of(redundancy),
        })
    }

    /// Sets which redundancy is wanted at a path and below; none: what is wanted above it. What is stored otherwise is
    /// stored anew [by and by](Vfs::recode).
    ///
    /// # Errors
    /// If there is nothing, or the volume takes no changes from this device.
    pub async fn set_policy(
        &self,
        path: &[u8],
        wanted: Option<Redundancy>,
    ) -> Result<(), FootingError> {
        loop {
            let set = {
                let (inner, path) = (self.0.clone(), path.to_vec());
                let set = move || -> Step<()> {
                    let ino = {
                        let _core = inner.core();
                        inner.ino_at(&path)?
                    };
                    inner.set_policy(ino, wanted)
                };
                self.0.blocks.pools().disk.run(set).await
            };
            match set {
                Err(Stop::Busy) => self.0.room().await.map_err(Stop::from)?,
                set => return Ok(set?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_redundancy_is_written_down() {
        let of = |value: &[u8]| value_to_set(FileType::Directory, value);
        assert_eq!(of(b"8+3").unwrap().unwrap(), "8+3");
        assert_eq!(of(b" 8 + 3\n").unwrap().unwrap(), "8+3");
        assert_eq!(of(b"auto").unwrap().unwrap(), "auto");
        assert_eq!(of(b"inherit"), Ok(None));
        for wrong in [
            b"".as_slice(),
            b"8",
            b"0+3",
            b"60+60",
            b"8+3+1",
            b"\xff",
            b"Auto",
        ] {
            assert_eq!(of(wrong), Err(Errno::EINVAL), "{wrong:?}");
        }
        assert_eq!(value_to_set(FileType::Symlink, b"4+2"), Err(Errno::EPERM));
    }
}
