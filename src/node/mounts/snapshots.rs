//! Snapshots of volumes: made, listed, let go, and brought back; of mounted volumes, and of others, which are opened for
//! it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairnfs_fuse::kernel::Notice;
use futures::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{OpenVolume, VolumesError, blocking, check_name, close_again};
use crate::admin::types::{
    HexPath, RestoreItem, RestoreLine, SnapshotCreate, SnapshotItem, SnapshotRemove,
    SnapshotRestore, Snapshots, SnapshotsRequest,
};
use crate::admin::{AdminError, ItemStream};
use crate::base::KeepRule;
use crate::node::Node;
use crate::vfs::{
    RestoreAction, RestorePlan, RestoreProgress, RestoreRequest, RestoreStep, SnapshotError,
    SnapshotInfo, Vfs,
};

/// How often a restore tells how far it is.
const TICK: Duration = Duration::from_millis(100);
/// Lines that wait to be read.
const LINES_MAX: usize = 1024;
/// The directory of snapshots in a mount.
const DIRECTORY: &str = ".snapshots";

impl From<SnapshotError> for AdminError {
    fn from(error: SnapshotError) -> Self {
        let shown = AdminError::of(&error);
        match error {
            SnapshotError::Label { .. } | SnapshotError::Ambiguous { .. } => {
                AdminError::usage(shown.error)
            }
            SnapshotError::Unknown(_) => {
                shown.hint("`cairn volume snapshots NAME` lists those that there are")
            }
            SnapshotError::TooMany => {
                shown.hint("let some go: cairn volume snapshot NAME --remove SNAPSHOT")
            }
            SnapshotError::Reader => shown.hint("do it on a machine that may write to the volume"),
            SnapshotError::Unsynced(_) => shown.hint("see `cairn status` for what is missing"),
            _ => shown,
        }
    }
}

fn item(info: SnapshotInfo) -> SnapshotItem {
    SnapshotItem {
        name: info.name,
        made_ms: info.made_ms,
        label: info.label,
        files: info.files,
        bytes: info.bytes,
        own: info.is_own,
        alone_bytes: info.alone_bytes,
    }
}

fn restore_item(step: &RestoreStep) -> RestoreItem {
    let action = match step.action {
        RestoreAction::Create => "create",
        RestoreAction::Replace => "replace",
        RestoreAction::Attributes => "attributes",
        RestoreAction::Link => "link",
        RestoreAction::Remove => "remove",
    };
    let path = PathBuf::from(OsString::from_vec(step.path.clone()));
    RestoreItem {
        action: action.to_owned(),
        path: match step.path.is_empty() {
            true => ".".to_owned(),
            false => path.display().to_string(),
        },
        path_hex: HexPath::new(&path),
        bytes: step.bytes,
    }
}

impl OpenVolume {
    /// Snapshots are made and kept by a rule, and the kernel hears of files that come back.
    pub(super) fn look_after_snapshots(&self, rule: KeepRule) {
        let notifier = self.mount.notifier().clone();
        self.vfs
            .on_restore(move |notice: Notice| notifier.send(notice));
        if !self.is_read_only {
            self.vfs.keep_snapshots(rule);
        }
    }

    /// Where its snapshots are shown.
    fn snapshots_dir(&self) -> PathBuf {
        self.dir.join(DIRECTORY)
    }
}

/// A volume that is open: because it is mounted, or for this.
struct AtHand<'a> {
    name: String,
    vfs: Arc<Vfs>,
    open: Option<Arc<OpenVolume>>,
    /// Nobody mounts it meanwhile.
    _changing: Option<tokio::sync::MutexGuard<'a, ()>>,
}

impl AtHand<'_> {
    /// It is needed no longer.
    async fn end(self) {
        if self.open.is_none() {
            close_again(&self.name, &self.vfs).await;
        }
    }

    fn may_write(&self) -> Result<(), AdminError> {
        match &self.open {
            Some(open) if open.is_read_only => {
                let dir = open.dir.display();
                let error = AdminError::refused(format!("{dir} is mounted read only"));
                Err(error.hint("mount it for writing"))
            }
            _ => Ok(()),
        }
    }

    /// A path in the volume: as it is, or as the mount shows it.
    fn inside(&self, path: &HexPath) -> Result<Vec<u8>, AdminError> {
        let path = path.path();
        let path = path.ok_or_else(|| AdminError::usage("a path that cannot be read"))?;
        let within = self
            .open
            .as_ref()
            .and_then(|open| path.strip_prefix(&open.dir).ok());
        let path = within.unwrap_or(&path);
        let path = path.strip_prefix("/").unwrap_or(path);
        // Who looked at it in a snapshot may name it as it is there.
        let mut parts = path.components();
        let is_old = parts
            .next()
            .is_some_and(|part| part.as_os_str() == DIRECTORY);
        let path = match is_old && parts.next().is_some() {
            true => parts.as_path(),
            false => path,
        };
        Ok(path.as_os_str().as_bytes().to_vec())
    }

    async fn find(&self, name: &str) -> Result<SnapshotInfo, AdminError> {
        let (vfs, name) = (Arc::clone(&self.vfs), name.to_owned());
        // As a path that a shell completed.
        let name = Path::new(&name)
            .file_name()
            .map(|last| last.to_string_lossy().into_owned())
            .unwrap_or(name);
        Ok(blocking(move || vfs.find_snapshot(&name)).await??)
    }
}

impl Node {
    /// A volume that is mounted, or is opened for what is to be done.
    async fn at_hand(&self, name: &str) -> Result<AtHand<'_>, AdminError> {
        check_name(name)?;
        let of = |open: Arc<OpenVolume>| AtHand {
            name: name.to_owned(),
            vfs: Arc::clone(&open.vfs),
            open: Some(open),
            _changing: None,
        };
        let changing = self.0.mounts.changing.lock().await;
        if let Some(open) = self.0.mounts.find(name) {
            if !open.mount.has_ended() {
                return Ok(of(open));
            }
            open.gone.cancelled().await;
        }
        let found = self.0.volumes.find(name).await?;
        let record = found.ok_or_else(|| VolumesError::NotFound(name.to_owned()))?;
        if !self.0.volumes.local().await?.contains(&record.id) {
            return Err(AdminError::missing(format!(
                "the tree of the volume `{name}` is not on this machine"
            )));
        }
        let vfs = self.open_volume(name, &record).await?;
        if !vfs.has_tree() {
            close_again(name, &vfs).await;
            let error = format!("nothing of the volume `{name}` is here yet");
            return Err(AdminError::missing(error).hint("mount it first: cairn mount"));
        }
        Ok(AtHand {
            name: name.to_owned(),
            vfs,
            open: None,
            _changing: Some(changing),
        })
    }

    /// Does something in a task of its own: a volume that is half open cannot be left lying about.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AdminError>> + Send + 'static,
    ) -> Result<T, AdminError> {
        let (answer, answered) = oneshot::channel();
        self.0.tasks.spawn(async move {
            let _ = answer.send(work.await);
        });
        match answered.await {
            Ok(done) => done,
            Err(_) => Err(AdminError::failed("this peer is about to end")),
        }
    }

    /// Takes a snapshot of a volume.
    pub(in crate::node) async fn make_snapshot(
        &self,
        request: SnapshotCreate,
    ) -> Result<SnapshotItem, AdminError> {
        let node = self.clone();
        self.whole(async move {
            let at = node.at_hand(&request.volume).await?;
            let made = match at.may_write() {
                Ok(()) => at.vfs.make_snapshot(&request.label).await,
                Err(error) => {
                    at.end().await;
                    return Err(error);
                }
            };
            // So that others find it, also if this machine does not come back.
            let told = match (&at.open, &made) {
                (Some(open), Ok(_)) => open.sync().await,
                _ => Ok(()),
            };
            at.end().await;
            let made = made?;
            if let Err(error) = told {
                tracing::warn!("other machines learn of a snapshot later: {}", error.error);
            }
            Ok(item(made))
        })
        .await
    }

    /// Lets a snapshot of a volume go; tells which.
    pub(in crate::node) async fn drop_snapshot(
        &self,
        request: SnapshotRemove,
    ) -> Result<SnapshotItem, AdminError> {
        let node = self.clone();
        self.whole(async move {
            let at = node.at_hand(&request.volume).await?;
            let gone = async {
                at.may_write()?;
                let info = at.find(&request.snapshot).await?;
                at.vfs.remove_snapshot(info.id).await?;
                Ok(item(info))
            };
            let gone = gone.await;
            at.end().await;
            gone
        })
        .await
    }

    /// The snapshots of a volume.
    pub(in crate::node) async fn list_snapshots(
        &self,
        request: SnapshotsRequest,
    ) -> Result<Snapshots, AdminError> {
        let node = self.clone();
        self.whole(async move {
            let at = node.at_hand(&request.volume).await?;
            let vfs = Arc::clone(&at.vfs);
            let listed = blocking(move || vfs.snapshots()).await;
            let dir = at.open.as_ref().map(|open| open.snapshots_dir());
            at.end().await;
            let snapshots = listed??.into_iter().map(item).collect();
            Ok(Snapshots {
                volume: request.volume,
                snapshots,
                dir: dir.map(|dir| dir.display().to_string()),
            })
        })
        .await
    }

    /// Brings files of a snapshot back, or tells what that would do.
    pub(in crate::node) async fn restore_snapshot(
        &self,
        request: SnapshotRestore,
    ) -> Result<ItemStream<RestoreLine>, AdminError> {
        let node = self.clone();
        let (lines, told) = mpsc::channel(LINES_MAX);
        self.0.tasks.spawn(async move {
            if let Err(error) = node.restore_and_tell(request, &lines).await {
                let _ = lines.send(Err(error)).await;
            }
        });
        let told = stream::unfold(told, |mut told| async move {
            let line = told.recv().await?;
            Some((line, told))
        });
        Ok(told.boxed())
    }

    async fn restore_and_tell(
        &self,
        request: SnapshotRestore,
        lines: &mpsc::Sender<Result<RestoreLine, AdminError>>,
    ) -> Result<(), AdminError> {
        let at = self.at_hand(&request.volume).await?;
        let done = restore(&at, request, lines).await;
        at.end().await;
        done
    }
}

async fn restore(
    at: &AtHand<'_>,
    request: SnapshotRestore,
    lines: &mpsc::Sender<Result<RestoreLine, AdminError>>,
) -> Result<(), AdminError> {
    if !request.dry_run {
        at.may_write()?;
    }
    let info = at.find(&request.snapshot).await?;
    let path = request.path_hex.as_ref().map(|path| at.inside(path));
    let to = request.to_hex.as_ref().map(|path| at.inside(path));
    let wanted = RestoreRequest {
        snapshot: info.id,
        path: path.transpose()?.unwrap_or_default(),
        to: to.transpose()?,
        delete: request.delete,
    };
    // Rows are read all the time: not on the reactor.
    let vfs = Arc::clone(&at.vfs);
    let plan = blocking(move || Handle::current().block_on(vfs.plan_restore(wanted)));
    let plan = plan.await??;
    let bytes = plan.steps.iter().map(|step| step.bytes).sum();
    let line = RestoreLine {
        steps: plan.steps.len() as u64,
        looked_at: plan.looked_at,
        bytes,
        ..RestoreLine::default()
    };
    if request.dry_run {
        return tell_plan(&plan, line, lines).await;
    }
    if lines.send(Ok(line.clone())).await.is_err() {
        return Ok(());
    }
    let (vfs, teller, template) = (Arc::clone(&at.vfs), lines.clone(), line.clone());
    let last = std::sync::Mutex::new(Instant::now());
    let tell = move |progress: RestoreProgress| {
        let mut last = last.lock().unwrap_or_else(|poison| poison.into_inner());
        if last.elapsed() >= TICK {
            *last = Instant::now();
            // Who does not read is told of the next.
            let _ = teller.try_send(Ok(shown(&template, progress)));
        }
    };
    let done = blocking(move || Handle::current().block_on(vfs.restore(plan, tell)));
    let done = done.await??;
    let last = RestoreLine {
        done: true,
        ..shown(&line, done)
    };
    let _ = lines.send(Ok(last)).await;
    Ok(())
}

fn shown(line: &RestoreLine, progress: RestoreProgress) -> RestoreLine {
    RestoreLine {
        steps_done: progress.done,
        bytes_done: progress.bytes,
        ..line.clone()
    }
}

async fn tell_plan(
    plan: &RestorePlan,
    line: RestoreLine,
    lines: &mpsc::Sender<Result<RestoreLine, AdminError>>,
) -> Result<(), AdminError> {
    for step in &plan.steps {
        let item = Some(restore_item(step));
        let line = RestoreLine {
            item,
            ..line.clone()
        };
        if lines.send(Ok(line)).await.is_err() {
            return Ok(());
        }
    }
    let last = RestoreLine { done: true, ..line };
    let _ = lines.send(Ok(last)).await;
    Ok(())
}
