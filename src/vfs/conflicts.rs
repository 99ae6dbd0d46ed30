//! What writers disagreed about: found, told, counted, and ended as somebody decides.
//!
//! What no writer has settled yet the namespace tells; what was settled by making a file of each content is found by
//! the mark that such a file has, of which the local engine keeps an index.

use std::collections::BTreeSet;
use std::fmt;

use cairnfs_fuse::Errno;
use cairnfs_fuse::kernel::Notice;

use super::Vfs;
use super::errno::{Step, Stop};
use super::inner::{Core, Inner};
use super::rows::{CONFLICTS, pages};
use crate::base::limits::CONFLICTS_MAX;
use crate::base::{Class, Classify, Glob, PeerId};
use crate::namespace::{
    Changes, Dispute, DisputeKind, Disputes, Edit, Ino, Name, OpError, Party, Removed, View, view,
};

/// Rows of the index read at once.
const PAGE: usize = 256;
/// Conflicts that one change of the rows may make a line in the log of.
const LOGGED_MAX: usize = 16;

/// What kind of conflict it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Several files were given one name.
    Names,
    /// One file was given several contents.
    Content,
    /// What one member removed and another changed has come back.
    Returned,
    /// A directory was moved to several places.
    Moved,
    /// What came back has no directory any more, and is in `lost+found`.
    Lost,
}

impl ConflictKind {
    /// Its name, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            ConflictKind::Names => "names",
            ConflictKind::Content => "content",
            ConflictKind::Returned => "returned",
            ConflictKind::Moved => "moved",
            ConflictKind::Lost => "lost",
        }
    }

    /// What happened, for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            ConflictKind::Names => "two files of one name",
            ConflictKind::Content => "another content of the same file",
            ConflictKind::Returned => "removed, and changed elsewhere: it came back",
            ConflictKind::Moved => "a directory moved to two places",
            ConflictKind::Lost => "removed, and changed elsewhere: its directory is gone",
        }
    }
}

impl From<DisputeKind> for ConflictKind {
    fn from(kind: DisputeKind) -> Self {
        match kind {
            DisputeKind::Names => ConflictKind::Names,
            DisputeKind::Content => ConflictKind::Content,
            DisputeKind::Returned => ConflictKind::Returned,
            DisputeKind::Moved => ConflictKind::Moved,
            DisputeKind::Lost => ConflictKind::Lost,
        }
    }
}

/// One of what competes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictSide {
    /// Where it is shown, from the top directory, with `/` between names. Of a directory that was moved to several
    /// places: where it would be.
    pub path: Vec<u8>,
    /// The device that wrote it; none if nothing says so any more.
    pub device: Option<PeerId>,
    /// Whether that is this device.
    pub is_own: bool,
    /// When that was, in ms since 1970.
    pub at_ms: Option<u64>,
}

/// One conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What kind.
    pub kind: ConflictKind,
    /// What it is about, from the top directory, with `/` between names.
    pub path: Vec<u8>,
    /// What competes, the one that has the name first. Never empty.
    pub sides: Vec<ConflictSide>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.escape_ascii();
        write!(f, "`{path}`: {}; by", self.kind.sentence())?;
        let devices: BTreeSet<Option<PeerId>> = self.sides.iter().map(|side| side.device).collect();
        for (at, device) in devices.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match device {
                Some(device) => write!(f, "{comma} {}", device.short())?,
                None => write!(f, "{comma} nobody known")?,
            }
        }
        Ok(())
    }
}

/// What is to stay of what competes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What this device wrote.
    Ours,
    /// What another device wrote.
    Theirs,
    /// What the path names.
    This,
    /// Everything, under the names by which it is shown.
    Both,
}

/// What became of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// What it was.
    pub conflict: Conflict,
    /// Where is what stayed.
    pub kept: Vec<Vec<u8>>,
    /// What went.
    pub removed: Vec<Vec<u8>>,
}

/// Why a conflict was not ended.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none there.
    #[error("nothing is contested there")]
    NotContested,
    /// Several are meant.
    #[error("there are {} of them", among.len())]
    Ambiguous {
        /// Which.
        among: Vec<Vec<u8>>,
    },
    /// None is meant.
    #[error("nothing of what competes there was written by {0}")]
    Nobody(&'static str),
    /// It came back and competes with nothing.
    #[error("it came back, and nothing competes with it")]
    Alone,
    /// A directory with something in it would go.
    #[error("a directory that is not empty would go")]
    NotEmpty,
    /// Something else has the place.
    #[error("something else is in its place by now")]
    Taken,
    /// A directory would come to lie in itself.
    #[error("the directory would lie in itself there")]
    IntoItself,
    /// This device only reads the volume.
    #[error("this device may only read the volume")]
    ReadOnly,
    /// Too much waits to be written.
    #[error("too much waits to be written at the moment")]
    Busy,
    /// It could not be carried out.
    #[error("it could not be carried out: {0}")]
    Failed(Errno),
}

impl Classify for ResolveError {
    fn class(&self) -> Class {
        match self {
            ResolveError::NotContested | ResolveError::Nobody(_) => Class::Missing,
            ResolveError::Busy => Class::Retry,
            ResolveError::Failed(errno) if *errno == Errno::ENOSPC => Class::Full,
            ResolveError::Failed(errno) if *errno == Errno::EIO => Class::Corrupt,
            _ => Class::Denied,
        }
    }
}

impl From<Stop> for ResolveError {
    fn from(stop: Stop) -> ResolveError {
        match stop {
            Stop::Busy => ResolveError::Busy,
            Stop::Errno(Errno::ENOTEMPTY) => ResolveError::NotEmpty,
            Stop::Errno(Errno::EEXIST) => ResolveError::Taken,
            Stop::Errno(Errno::EINVAL) => ResolveError::IntoItself,
            Stop::Errno(Errno::EROFS) => ResolveError::ReadOnly,
            Stop::Errno(errno) => ResolveError::Failed(errno),
        }
    }
}

/// Files of which only the newest content stays, where several were written at a time.
#[derive(Debug, Clone, Default)]
pub struct ConflictRules(Vec<(Glob, bool)>);

impl ConflictRules {
    /// From rules in order, each with whether only the newest stays; the first that matches counts.
    pub fn new(rules: Vec<(Glob, bool)>) -> ConflictRules {
        ConflictRules(rules)
    }

    /// Whether only the newest content of a file stays. Without a rule that matches all do.
    pub fn keeps_newest(&self, path: &[u8]) -> bool {
        let found = self.0.iter().find(|(glob, _)| glob.matches(path));
        found.is_some_and(|(_, is_newest)| *is_newest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, is_newest)| !is_newest)
    }
}

/// What changes of the rows say about conflicts.
#[derive(Debug, Default)]
pub(super) struct News {
    names: Vec<(Ino, Name)>,
    marked: Vec<Ino>,
}

fn joined(way: &[Name]) -> Vec<u8> {
    let names: Vec<&[u8]> = way.iter().map(Name::bytes).collect();
    names.join(&b'/')
}

fn path_of(view: &View<'_>, dir: Ino, name: &Name) -> Step<Option<Vec<u8>>> {
    let Some(mut way) = view.path(dir)? else {
        return Ok(None);
    };
    way.push(name.clone());
    Ok(Some(joined(&way)))
}

impl Inner {
    /// All conflicts, as rows and as told. The caller holds the lock of the core.
    fn disputes(&self, limit: usize) -> Step<Vec<(Dispute, Conflict)>> {
        let rows = self.rows();
        let view = View::new(&rows)?;
        let mut found = view.disputes(limit)?;
        for page in pages(&self.volume, CONFLICTS, &[], PAGE) {
            for (key, _) in page? {
                // The last one may be about a name that is there already.
                if found.len() < limit
                    && let Ok(ino) = <[u8; 16]>::try_from(key.as_ref())
                {
                    view.add_marked(Ino(ino), &mut found)?;
                }
            }
        }
        self.told(&view, found)
    }

    fn told(&self, view: &View<'_>, found: Disputes) -> Step<Vec<(Dispute, Conflict)>> {
        let mut all = Vec::with_capacity(found.len());
        for dispute in found.into_values() {
            if let Some(conflict) = self.tell_dispute(view, &dispute)? {
                all.push((dispute, conflict));
            }
        }
        all.sort_by(|(_, one), (_, two)| one.path.cmp(&two.path));
        Ok(all)
    }

    /// A conflict as it is told. None if it is in a directory that nobody sees.
    fn tell_dispute(&self, view: &View<'_>, dispute: &Dispute) -> Step<Option<Conflict>> {
        let Some(path) = path_of(view, dispute.dir, &dispute.base)? else {
            return Ok(None);
        };
        let mut sides = Vec::with_capacity(dispute.parties.len());
        for party in &dispute.parties {
            let Some(path) = path_of(view, party.dir, &party.name)? else {
                return Ok(None);
            };
            let device = party.stamp.map(|stamp| stamp.writer.peer);
            sides.push(ConflictSide {
                path,
                device,
                is_own: device == Some(self.identity.peer),
                at_ms: party.stamp.map(|stamp| stamp.hlc.ms()),
            });
        }
        Ok(Some(Conflict {
            kind: dispute.kind.into(),
            path,
            sides,
        }))
    }

    /// What changes that are about to be made say about conflicts.
    pub(super) fn news_of(&self, changes: &Changes) -> Step<News> {
        let mut news = News::default();
        if self.shared().is_none() {
            return Ok(news);
        }
        let mut has_settled = false;
        for (key, value) in changes {
            if let Some(at) = view::odd_name(key) {
                match value {
                    Some(_) if news.names.len() < LOGGED_MAX => news.names.push(at),
                    Some(_) => {}
                    None => has_settled = true,
                }
            } else if let (Some(ino), Some(_)) = (super::rows::marked_file(key), value)
                && news.marked.len() < LOGGED_MAX
                && self.volume.get(CONFLICTS, &ino.0)?.is_none()
            {
                news.marked.push(ino);
            }
        }
        // What was told of when it came about.
        if has_settled && !self.view(|view| Ok(view.is_plain()))? {
            news.marked.clear();
        }
        Ok(news)
    }

    /// Says in the log what conflicts came about. The caller holds the lock of the core.
    pub(super) fn log_news(&self, news: &News) {
        let told = || -> Step<Vec<Conflict>> {
            let rows = self.rows();
            let view = View::new(&rows)?;
            let mut found = Disputes::new();
            for (dir, name) in &news.names {
                if let Some(dispute) = view.dispute(*dir, name)? {
                    found.insert((dispute.dir, dispute.base.clone()), dispute);
                }
            }
            for ino in &news.marked {
                view.add_marked(*ino, &mut found)?;
            }
            let told = self.told(&view, found)?;
            Ok(told.into_iter().map(|(_, conflict)| conflict).collect())
        };
        if news.names.is_empty() && news.marked.is_empty() {
            return;
        }
        // Whoever asks for them finds them all the same.
        for conflict in told().unwrap_or_default() {
            let volume = &self.options.name;
            tracing::info!("a conflict in the volume `{volume}`: {conflict}");
        }
    }

    fn resolve(&self, path: &[u8], keep: Keep) -> Result<Resolution, ResolveError> {
        if self.is_reader() {
            return Err(ResolveError::ReadOnly);
        }
        let mut notices = Vec::new();
        let done = {
            let mut core = self.core();
            self.resolve_in(&mut core, path, keep, &mut notices)
        };
        if let Some(shared) = self.shared() {
            shared.tell(notices);
        }
        done
    }

    fn resolve_in(
        &self,
        core: &mut Core,
        path: &[u8],
        keep: Keep,
        notices: &mut Vec<Notice>,
    ) -> Result<Resolution, ResolveError> {
        let (mut dispute, mut conflict) = self.contested_at(path)?;
        if dispute.parties.iter().any(|party| party.copy.is_some()) {
            // Each content is a file before one of them goes; that alone shows nothing new.
            let (dir, base) = (dispute.dir, dispute.base.clone());
            self.carry_out(core, &[], notices, |edit| {
                edit.settle_name(dir, &base)?;
                Ok(Vec::new())
            })?;
            (dispute, conflict) = self.contested_at(path)?;
        }
        let base = &dispute.base;
        let chosen = self.chosen(&conflict, path, keep)?;
        let shown = dispute.parties.first().ok_or(ResolveError::NotContested)?;
        let Some(at) = chosen else {
            self.carry_out(core, &[], notices, |edit| {
                match dispute.kind {
                    DisputeKind::Moved => {
                        let place = (shown.dir, &shown.name);
                        edit.keep_place(shown.ino, place, place)?;
                    }
                    _ => {
                        let names = dispute.parties.iter().map(|party| party.name.clone());
                        let names: Vec<Name> = names.collect();
                        edit.keep_all(dispute.dir, base, &names)?;
                    }
                }
                Ok(Vec::new())
            })?;
            let (kept, removed) = match dispute.kind {
                DisputeKind::Moved => (vec![conflict.path.clone()], Vec::new()),
                _ => (
                    conflict
                        .sides
                        .iter()
                        .map(|side| side.path.clone())
                        .collect(),
                    Vec::new(),
                ),
            };
            return Ok(Resolution {
                conflict,
                kept,
                removed,
            });
        };
        let winner = dispute.parties.get(at).ok_or(ResolveError::NotContested)?;
        if dispute.kind == DisputeKind::Moved {
            self.carry_out(core, &[], notices, |edit| {
                let (from, to) = ((shown.dir, &shown.name), (winner.dir, &winner.name));
                edit.keep_place(shown.ino, from, to)?;
                Ok(Vec::new())
            })?;
            let kept = conflict.sides.get(at).map(|side| side.path.clone());
            return Ok(Resolution {
                kept: kept.into_iter().collect(),
                conflict,
                removed: Vec::new(),
            });
        }
        self.make_sure_of(core, winner)?;
        let losers: Vec<&Party> = dispute
            .parties
            .iter()
            .filter(|party| party.ino != winner.ino)
            .collect();
        let names: Vec<Name> = losers.iter().map(|party| party.name.clone()).collect();
        let inos: Vec<Ino> = losers.iter().map(|party| party.ino).collect();
        self.carry_out(core, &inos, notices, |edit| {
            edit.keep_one(dispute.dir, base, &winner.name, &names)
        })?;
        let others = conflict.sides.iter().enumerate();
        let others = others.filter(|(other, _)| *other != at);
        Ok(Resolution {
            kept: vec![conflict.path.clone()],
            removed: others.map(|(_, side)| side.path.clone()).collect(),
            conflict,
        })
    }

    /// The conflict that a path belongs to.
    fn contested_at(&self, path: &[u8]) -> Result<(Dispute, Conflict), ResolveError> {
        let all = self.disputes(CONFLICTS_MAX)?;
        let is_meant = |conflict: &Conflict| {
            conflict.path == path || conflict.sides.iter().any(|side| side.path == path)
        };
        let found = all.into_iter().find(|(_, conflict)| is_meant(conflict));
        found.ok_or(ResolveError::NotContested)
    }

    /// Which of the sides stays; none: all.
    fn chosen(
        &self,
        conflict: &Conflict,
        path: &[u8],
        keep: Keep,
    ) -> Result<Option<usize>, ResolveError> {
        if keep == Keep::Both {
            return Ok(None);
        }
        if conflict.sides.len() < 2 {
            return Err(ResolveError::Alone);
        }
        let is_meant = |side: &ConflictSide| match keep {
            Keep::Ours => side.is_own,
            Keep::Theirs => !side.is_own && side.device.is_some(),
            Keep::This => side.path == path,
            Keep::Both => true,
        };
        let sides = conflict.sides.iter().enumerate();
        let meant: Vec<(usize, &ConflictSide)> = sides.filter(|(_, side)| is_meant(side)).collect();
        match (meant.as_slice(), keep) {
            ([(at, _)], _) => Ok(Some(*at)),
            // The path of what it is about is that of what has its name.
            ([], Keep::This) => Ok(Some(0)),
            ([], Keep::Ours) => Err(ResolveError::Nobody("this device")),
            ([], _) => Err(ResolveError::Nobody("another device")),
            (all, _) => Err(ResolveError::Ambiguous {
                among: all.iter().map(|(_, side)| side.path.clone()).collect(),
            }),
        }
    }

    /// A changed file that is about to be renamed: others see it complete under its new name, and so does whoever
    /// loses power.
    fn make_sure_of(&self, core: &mut Core, party: &Party) -> Step<()> {
        let number = core.inodes.number(party.ino);
        let file = core.inodes.get(number).and_then(|node| node.file.clone());
        if let Some(file) = file {
            self.hand_over(core, &file);
            self.note(&file, &mut self.lock(&file))?;
        }
        Ok(())
    }

    /// One operation in which files may go, of which the kernel did not ask for it.
    fn carry_out(
        &self,
        core: &mut Core,
        going: &[Ino],
        notices: &mut Vec<Notice>,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<Vec<Removed>, OpError>,
    ) -> Step<()> {
        let mut doomed = Vec::with_capacity(going.len());
        for ino in going {
            doomed.push(self.doomed(core, *ino)?);
        }
        let now = self.now();
        let mut edited = self.edit(core, now, operation)?;
        let removed = std::mem::take(&mut edited.value);
        let mut dropped = Vec::with_capacity(doomed.len());
        for (removed, doomed) in removed.iter().zip(&doomed) {
            let number = self.drop_content(core, removed, doomed, &mut edited.group);
            // Each has a number of its own.
            core.next_dropped += u64::from(number.is_some());
            dropped.push(number);
        }
        let affected = self.affected(edited.changes())?;
        self.count_edited(&mut edited, affected.more_files);
        self.commit(core, edited)?;
        let changed: Vec<Ino> = affected.files.iter().copied().collect();
        core.changed(&changed);
        for ((removed, doomed), dropped) in removed.iter().zip(doomed).zip(dropped) {
            self.lost_name(core, removed, doomed, dropped, now);
        }
        notices.push(Notice::Everything);
        self.tell_of(core, &affected, notices);
        Ok(())
    }
}

impl Vfs {
    /// Conflicts of the volume by path, at most `limit`.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, super::VfsError> {
        let inner = &self.0;
        let _core = inner.core();
        let found = inner.disputes(limit.min(CONFLICTS_MAX));
        let found = found.map_err(|stop| {
            super::VfsError::Conflicts(match stop {
                Stop::Errno(errno) => errno,
                Stop::Busy => Errno::EAGAIN,
            })
        })?;
        Ok(found.into_iter().map(|(_, conflict)| conflict).collect())
    }

    /// Ends the conflict that `path` (from the top directory, names with `/` between them) belongs to: `keep` says what
    /// stays. Where one of several stays, it gets the name that they competed for, and the others go; all in one
    /// operation.
    ///
    /// # Errors
    /// If there is none there, or it is not clear what is to stay.
    pub fn resolve_conflict(&self, path: &[u8], keep: Keep) -> Result<Resolution, ResolveError> {
        self.0.resolve(path, keep)
    }
}
