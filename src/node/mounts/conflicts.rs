//! What the members of mounted volumes disagreed about: listed, and ended.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairnfs_fuse::kernel::absolute;
use futures::{StreamExt, stream};

use super::{OpenVolume, blocking, path_of, vfs_error};
use crate::admin::types::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictSideInfo, ConflictsRequest, HexPath,
};
use crate::admin::{AdminError, ItemStream};
use crate::base::limits::CONFLICTS_MAX;
use crate::node::{Node, NodeError};
use crate::vfs::{Conflict, Keep, ResolveError};

/// What of a volume a path names, as the mount shows it.
fn shown(open: &OpenVolume, path: &[u8]) -> PathBuf {
    open.dir.join(OsStr::from_bytes(path))
}

fn info(open: &OpenVolume, conflict: Conflict) -> ConflictInfo {
    let sides = conflict.sides.into_iter().map(|side| {
        let path = shown(open, &side.path);
        ConflictSideInfo {
            path: path.display().to_string(),
            path_hex: HexPath::new(&path),
            peer: side.device.map(|device| device.to_string()),
            own: side.is_own,
            at_ms: side.at_ms,
        }
    });
    let sides = sides.collect();
    let path = shown(open, &conflict.path);
    ConflictInfo {
        volume: open.name.clone(),
        kind: conflict.kind.name().to_owned(),
        what: conflict.kind.sentence().to_owned(),
        path: path.display().to_string(),
        path_hex: HexPath::new(&path),
        sides,
    }
}

impl OpenVolume {
    /// How many conflicts there are, up to a bound.
    pub(super) fn count_conflicts(&self) -> u64 {
        match self.vfs.conflicts(CONFLICTS_MAX) {
            Ok(all) => all.len() as u64,
            Err(error) => {
                tracing::warn!("counting conflicts of the volume `{}`: {error}", self.name);
                0
            }
        }
    }
}

/// The path from the root, with links in the directories above resolved; what it names itself need not be there.
pub(super) fn whole(path: &Path) -> std::io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(absolute(parent)?.join(name)),
        _ => absolute(path),
    }
}

impl Node {
    /// The volume in which a path is.
    pub(super) async fn open_at(
        &self,
        path: &HexPath,
        resolve: fn(&Path) -> std::io::Result<PathBuf>,
    ) -> Result<(Arc<OpenVolume>, PathBuf), AdminError> {
        let path = path_of(path)?;
        let told = path.display().to_string();
        let found = blocking(move || resolve(&path)).await?;
        let found = found.map_err(|error| NodeError::Path(told.clone(), error))?;
        let open = self.0.mounts.all();
        // A mount may lie in another one.
        let within = open.into_iter().filter(|open| found.starts_with(&open.dir));
        let open = within.max_by_key(|open| open.dir.components().count());
        match open {
            Some(open) => Ok((open, found)),
            None => {
                let error = AdminError::missing(format!("{told} is in no volume of this peer"));
                Err(error.hint("`cairn status` tells what is mounted where"))
            }
        }
    }

    /// All conflicts of the volume that a directory is in, or of all that are mounted.
    pub(in crate::node) async fn list_conflicts(
        &self,
        request: ConflictsRequest,
    ) -> Result<ItemStream<ConflictInfo>, AdminError> {
        let volumes = match &request.dir_hex {
            Some(dir) => vec![self.open_at(dir, absolute).await?.0],
            None => self.0.mounts.all(),
        };
        if volumes.is_empty() {
            let error = AdminError::missing("no volume is mounted");
            return Err(error.hint("`cairn mount DIR` mounts one"));
        }
        let mut all = Vec::new();
        for open in volumes {
            let found = {
                let open = Arc::clone(&open);
                blocking(move || open.vfs.conflicts(CONFLICTS_MAX)).await?
            };
            let found = found.map_err(|error| vfs_error(&error))?;
            all.extend(found.into_iter().map(|conflict| Ok(info(&open, conflict))));
        }
        Ok(stream::iter(all).boxed())
    }

    /// Ends the conflict that a path belongs to.
    pub(in crate::node) async fn end_conflict(
        &self,
        request: ConflictResolve,
    ) -> Result<ConflictResolved, AdminError> {
        let keep = match request.keep.as_str() {
            "ours" => Keep::Ours,
            "theirs" => Keep::Theirs,
            "this" => Keep::This,
            "both" => Keep::Both,
            other => {
                let error = format!("`{other}` is none of ours, theirs, this and both");
                return Err(AdminError::usage(error));
            }
        };
        let (open, path) = self.open_at(&request.path_hex, whole).await?;
        if open.is_read_only {
            let told = open.dir.display();
            let error = AdminError::refused(format!("{told} is mounted read only"));
            return Err(error.hint("end the conflict on a machine that may write to the volume"));
        }
        let inside = path.strip_prefix(&open.dir).unwrap_or(Path::new(""));
        let inside = inside.as_os_str().as_bytes().to_vec();
        let done = {
            let open = Arc::clone(&open);
            blocking(move || open.vfs.resolve_conflict(&inside, keep)).await?
        };
        let done = done.map_err(|error| resolve_error(&open, &path, &error))?;
        let paths = |paths: &[Vec<u8>]| {
            let paths = paths.iter().map(|path| shown(&open, path));
            paths.map(|path| path.display().to_string()).collect()
        };
        Ok(ConflictResolved {
            kept: paths(&done.kept),
            removed: paths(&done.removed),
            conflict: info(&open, done.conflict),
        })
    }
}

/// What stood in the way, and what to do about it.
fn resolve_error(open: &OpenVolume, path: &Path, error: &ResolveError) -> AdminError {
    let told = AdminError::of(error);
    let message = format!("{}: {}", path.display(), told.error);
    let told = AdminError {
        error: message,
        ..told
    };
    match error {
        ResolveError::NotContested => told.hint(format!(
            "`cairn conflicts {}` lists what is",
            open.dir.display()
        )),
        ResolveError::Ambiguous { among } => {
            let names = among
                .iter()
                .map(|path| shown(open, path).display().to_string());
            let names: Vec<String> = names.collect();
            told.hint(format!(
                "name the one that is to stay, with --keep this: {}",
                names.join(", ")
            ))
        }
        ResolveError::Nobody(_) => told.hint(
            "`cairn conflicts` tells who wrote what; --keep this keeps the one that is named",
        ),
        ResolveError::Alone => told.hint("--keep both leaves it where it is; `rm` takes it away"),
        ResolveError::NotEmpty => {
            told.hint("bring what is in it where it belongs and remove it, or --keep both")
        }
        ResolveError::Taken => told.hint("move that away, or --keep both"),
        ResolveError::IntoItself => {
            told.hint("--keep both leaves it where it is shown; `mv` brings it elsewhere")
        }
        ResolveError::ReadOnly => {
            told.hint("end the conflict on a machine that may write to the volume")
        }
        ResolveError::Busy => told.hint("try again"),
        ResolveError::Failed(_) => told,
    }
}
