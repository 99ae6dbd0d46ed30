//! Volumes that are open, and where they are mounted: from `mount` to `umount`, whoever unmounts.

mod conflicts;
mod footing;
mod gc;
mod keys;
mod list;
mod redundancy;
mod snapshots;
mod sync;
mod voters;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cairnfs_fuse::kernel::{Mount, MountOptions, UnmountError, absolute};
use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(super) use footing::held;

use super::Node;
use super::mount_point::{ANSWER_MAX, answers, in_time, mount_error, prepare, unmount_error};
use super::volumes::{DEFAULT_NAME, Record, VolumesError, check_name};
use crate::admin::AdminError;
use crate::admin::types::{HexPath, MountRequest, Mounted, UmountRequest, VolumeUsage};
use crate::base::Redundancy;
use crate::config::{self, Config, Durability, KeepWhich};
use crate::crypto::ConvergenceSecret;
use crate::placement::AutoProfile;
use crate::share::Sharer;
use crate::vfs::{self, ConflictRules, Vfs, VfsError, VfsOptions, VfsParts, VolumeIdentity};

/// How much longer than a read a request may take.
const READ_MARGIN: Duration = Duration::from_secs(15);
/// How long the kernel may take to mount.
const MOUNT_MAX: Duration = Duration::from_secs(30);
/// How long an unmount is tried while the mount is in use.
const UMOUNT_PATIENCE: Duration = Duration::from_secs(2);
/// The same when the peer ends.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(4);
/// How long the other members of a volume may take to get what was written last.
const GOODBYE: Duration = Duration::from_millis(1500);
/// How long a detached mount may take to end, and to be closed.
const DETACH_GRACE: Duration = Duration::from_secs(2);

/// All volumes that are open. None is open without being mounted.
pub(super) struct Mounts {
    /// Held by whoever makes, shares, opens, removes, mounts: what was looked up stays true meanwhile.
    pub changing: tokio::sync::Mutex<()>,
    open: Mutex<BTreeMap<String, Arc<OpenVolume>>>,
    count: watch::Sender<usize>,
    is_closed: AtomicBool,
}

/// A volume from its opening to its closing.
pub(super) struct OpenVolume {
    pub(super) name: String,
    dir: PathBuf,
    is_read_only: bool,
    pub(super) vfs: Arc<Vfs>,
    mount: Mount,
    /// What keeps it in step with its other replicas.
    sharer: Mutex<Option<Sharer>>,
    /// It is out of the tree, and what is open keeps it.
    is_detached: AtomicBool,
    is_closing: AtomicBool,
    closing: OnceCell<()>,
    /// It is unmounted and closed.
    gone: CancellationToken,
}

impl OpenVolume {
    /// Closes the volume, once, whoever comes first.
    async fn close(&self) {
        let close = async {
            self.is_closing.store(true, Ordering::Release);
            let sharer = self.sharer().take();
            if let Some(sharer) = sharer {
                self.say_goodbye(&sharer).await;
                sharer.stop().await;
            }
            if let Err(error) = self.vfs.close().await {
                tracing::error!("closing the volume `{}`: {error}", self.name);
            }
        };
        self.closing.get_or_init(|| close).await;
    }

    fn sharer(&self) -> MutexGuard<'_, Option<Sharer>> {
        self.sharer
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The others get what was written last, as far as that is a matter of moments: this machine may be gone for
    /// long.
    async fn say_goodbye(&self, sharer: &Sharer) {
        if self.vfs.is_reader() || sharer.status().connected == 0 {
            return;
        }
        let goodbye = async {
            if let Err(error) = self.vfs.sync().await {
                tracing::debug!("not everything is in the pool: {error}");
            }
            sharer.compare().await
        };
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            tracing::info!(
                "the volume `{}`: others get the rest of what was written when it is mounted again",
                self.name
            );
        }
    }

    /// The volume has become shared, or others may have missed what it is: a checkpoint says all of it.
    pub(super) async fn publish(&self) {
        // What is in no block yet is in no checkpoint.
        if let Err(error) = self.vfs.sync().await {
            tracing::warn!("the volume `{}`: {error}", self.name);
        }
        let sharer = self.sharer().clone();
        if let Some(sharer) = sharer
            && let Err(error) = sharer.publish().await
        {
            tracing::warn!("the volume `{}`: no checkpoint yet: {error}", self.name);
        }
    }

    /// Whether it is kept in step with other replicas.
    pub(super) fn has_sharer(&self) -> bool {
        self.sharer().is_some()
    }

    /// Others take part from now on: the kernel hears of what they change.
    pub(super) async fn share(&self, sharer: Sharer) {
        let notifier = self.mount.notifier().clone();
        self.vfs.on_change(move |notice| notifier.send(notice));
        *self.sharer() = Some(sharer);
        // Whoever closes it meanwhile may have found none.
        let late = match self.is_closing.load(Ordering::Acquire) {
            true => self.sharer().take(),
            false => None,
        };
        if let Some(sharer) = late {
            sharer.stop().await;
        }
    }

    fn is_detached(&self) -> bool {
        self.is_detached.load(Ordering::Acquire)
    }

    fn usage(&self) -> VolumeUsage {
        let usage = self.vfs.usage();
        VolumeUsage {
            dirty_bytes: usage.dirty_bytes,
            queued_bytes: usage.queued_bytes,
            under_redundant_bytes: usage.under_redundant_bytes,
            stored_bytes: usage.stored_bytes,
        }
    }

    fn shown(&self, created: bool) -> Mounted {
        Mounted {
            volume: self.name.clone(),
            dir: self.dir.display().to_string(),
            dir_hex: HexPath::new(&self.dir),
            created,
            read_only: self.is_read_only,
            pid: std::process::id(),
        }
    }
}

impl Mounts {
    pub fn new() -> Self {
        Mounts {
            changing: tokio::sync::Mutex::new(()),
            open: Mutex::new(BTreeMap::new()),
            count: watch::channel(0).0,
            is_closed: AtomicBool::new(false),
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Arc<OpenVolume>>> {
        self.open
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn all(&self) -> Vec<Arc<OpenVolume>> {
        self.open().values().cloned().collect()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<OpenVolume>> {
        self.open().get(name).cloned()
    }

    fn insert(&self, volume: &Arc<OpenVolume>) {
        let mut open = self.open();
        open.insert(volume.name.clone(), Arc::clone(volume));
        self.count.send_replace(open.len());
    }

    fn remove(&self, name: &str) {
        let mut open = self.open();
        open.remove(name);
        self.count.send_replace(open.len());
    }
}

/// A volume that was opened for nothing.
async fn close_again(name: &str, vfs: &Vfs) {
    if let Err(error) = vfs.close().await {
        tracing::warn!("closing the volume `{name}`: {error}");
    }
}

fn vfs_error(error: &VfsError) -> AdminError {
    AdminError::of(error)
}

/// The path that a request names.
fn path_of(dir: &HexPath) -> Result<PathBuf, AdminError> {
    dir.path()
        .filter(|path| path.is_absolute())
        .ok_or_else(|| AdminError::usage("the directory must be an absolute path"))
}

/// Runs what blocks: looking at directories, mounting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AdminError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| AdminError::failed(panic.to_string()))
}

fn vfs_options(name: &str, config: &Config, auto: &AutoProfile) -> VfsOptions {
    let mount = &config.mount;
    let rules = mount.conflict.iter();
    let rules = rules.map(|rule| (rule.glob.clone(), rule.keep == KeepWhich::Newest));
    VfsOptions {
        name: name.to_owned(),
        conflicts: ConflictRules::new(rules.collect()),
        durability: match mount.durability {
            Durability::Local => vfs::Durability::Local,
            Durability::Network => vfs::Durability::Network,
        },
        consistency: match mount.consistency {
            config::Consistency::Prompt => vfs::Consistency::Prompt,
            config::Consistency::CloseToOpen => vfs::Consistency::CloseToOpen,
        },
        locks: match mount.locks {
            config::Locks::Local => vfs::Locks::Local,
            config::Locks::Cluster => vfs::Locks::Cluster,
        },
        commit_interval: mount.commit_interval,
        dirty_max_bytes: mount.dirty_max.0,
        read_timeout: mount.read_timeout,
        auto: auto.clone(),
    }
}

fn mount_options(name: &str, request: &MountRequest, read_timeout: Duration) -> MountOptions {
    let usual = MountOptions::default();
    MountOptions {
        // Whoever reads is told by the volume that it takes too long, not by the mount before.
        deadline: usual.deadline.max(read_timeout.saturating_add(READ_MARGIN)),
        // As /etc/fstab has it, so that `mount -a` sees what is mounted already.
        fs_name: name.to_owned(),
        read_only: request.read_only,
        allow_other: request.allow_other,
        suid: request.suid,
        dev: request.dev,
        exec: !request.no_exec,
        over_non_empty: request.over_non_empty,
        ..usual
    }
}

impl Node {
    /// Whether a mount would be served: not by a peer that ends with a command, or is about to end.
    pub(super) fn serves_mounts(&self) -> bool {
        !self.0.options.is_embedded && !self.0.mounts.is_closed.load(Ordering::Acquire)
    }

    /// Resolves when nothing is mounted; from then on nothing more is.
    pub async fn mounts_ended(&self) {
        let mounts = &self.0.mounts;
        let mut count = mounts.count.subscribe();
        // Its sender lives as long as this peer.
        while count.wait_for(|count| *count == 0).await.is_ok() {
            let _changing = mounts.changing.lock().await;
            if mounts.open().is_empty() {
                mounts.is_closed.store(true, Ordering::Release);
                return;
            }
        }
    }

    /// Makes an empty volume. One whose redundancy is chosen by the peers there are says so in its tree.
    async fn new_volume(&self, name: &str, redundancy: Redundancy) -> Result<Record, AdminError> {
        let inner = &self.0;
        let profile = redundancy.resolve(inner.auto.get());
        let made = inner
            .volumes
            .create(name, profile, &inner.clock, &inner.entropy);
        let record = made.await?;
        if redundancy == Redundancy::Auto {
            let vfs = self.open_volume(name, &record).await?;
            let set = vfs.set_policy(b"", Some(redundancy)).await;
            close_again(name, &vfs).await;
            if let Err(error) = set {
                inner.volumes.remove(name).await?;
                return Err(AdminError::of(&error));
            }
        }
        Ok(record)
    }

    /// Waits for a volume that is being closed; refuses one that is mounted.
    async fn free(&self, name: &str, remedy: &str) -> Result<(), AdminError> {
        let Some(open) = self.0.mounts.find(name) else {
            return Ok(());
        };
        if open.mount.has_ended() {
            open.gone.cancelled().await;
            return Ok(());
        }
        let dir = open.dir.display();
        if open.is_detached() {
            let error = format!("the volume `{name}` is still in use where it was, on {dir}");
            return Err(AdminError::refused(error).hint("close what is open there"));
        }
        let error = AdminError::refused(format!("the volume `{name}` is mounted on {dir}"));
        Err(error.hint(format!("{remedy}: cairn umount {dir}")))
    }

    /// Mounts a volume. Given up, it is unmounted again.
    pub(super) async fn mount_volume(&self, request: MountRequest) -> Result<Mounted, AdminError> {
        let node = self.clone();
        let (answer, answered) = oneshot::channel();
        // A task of its own: a volume that is half open cannot be left lying about.
        self.0.tasks.spawn(async move {
            let mounted = node.begin_mount(&request).await;
            if let Err(Ok((open, _))) = answer.send(mounted) {
                node.end(&open).await;
            }
        });
        match answered.await {
            Ok(mounted) => mounted.map(|(open, created)| open.shown(created)),
            Err(_) => Err(AdminError::failed("mounting broke off")),
        }
    }

    async fn begin_mount(
        &self,
        request: &MountRequest,
    ) -> Result<(Arc<OpenVolume>, bool), AdminError> {
        let ending = || {
            let error = AdminError::failed("this peer is about to end and mounts nothing");
            error.hint("try again")
        };
        let name = request.volume.as_deref().unwrap_or(DEFAULT_NAME);
        check_name(name)?;
        let read_timeout = self.0.options.config.mount.read_timeout;
        let options = mount_options(name, request, read_timeout);
        options.check().map_err(|error| mount_error(&error))?;
        let dir = path_of(&request.dir_hex)?;
        // Before anybody else has to wait: a directory that hangs is only its own mount's business.
        tokio::select! {
            biased;
            () = self.0.stop.cancelled() => return Err(ending()),
            answers = answers(&dir) => answers?,
        }
        let mounts = &self.0.mounts;
        let _changing = mounts.changing.lock().await;
        if !self.serves_mounts() {
            return Err(ending());
        }
        self.free(
            name,
            "a volume is mounted once on a machine; unmount it first",
        )
        .await?;
        let (over_non_empty, asked) = (request.over_non_empty, dir.clone());
        let dir = in_time(&dir, ANSWER_MAX, move || prepare(&asked, over_non_empty)).await??;
        let (record, created) = match self.0.volumes.find(name).await? {
            Some(record) => (record, false),
            None if name == DEFAULT_NAME => {
                let redundancy = self.0.options.config.put.redundancy;
                (self.new_volume(name, redundancy).await?, true)
            }
            None => return Err(VolumesError::NotFound(name.to_owned()).into()),
        };
        if !self.0.volumes.local().await?.contains(&record.id) {
            let error = AdminError::missing(format!(
                "the tree of the volume `{name}` is not on this machine"
            ));
            let hint = match record.share {
                Some(_) => {
                    "it came with a key backup, which has no trees; have another member make a ticket \
                     (cairn volume ticket NAME) and open it here: cairn volume open TICKET"
                }
                None => {
                    "it came with a key backup, which has no trees; mount another volume, for \
                     instance one that `cairn volume create NAME` makes"
                }
            };
            return Err(error.hint(hint));
        }
        let vfs = self.open_volume(name, &record).await?;
        let mut sharer = match vfs.is_shared() {
            true => Some(self.begin_sharing(&vfs, &record)),
            false => None,
        };
        if let Some(begun) = sharer.as_ref().filter(|_| !vfs.has_tree())
            && let Err(error) = self.first_state(name, &vfs, begun).await
        {
            begun.stop().await;
            close_again(name, &vfs).await;
            return Err(error);
        }
        if vfs.is_shared()
            && let Err(error) = self.0.volumes.arrived(name).await
        {
            // It is said again when it is mounted the next time.
            tracing::warn!("the record of the volume `{name}`: {error}");
        }
        // Whatever was asked: no other member would take what is written here.
        let ended = Arc::clone(&vfs);
        let ended = blocking(move || ended.own_end()).await.ok().flatten();
        let is_reader = record.is_read_only() || ended.is_some();
        let is_read_only = request.read_only || is_reader;
        let options = MountOptions {
            read_only: is_read_only,
            ..options
        };
        let started = {
            let (vfs, at, runtime) = (Arc::clone(&vfs), dir.clone(), Handle::current());
            let start = move || Mount::start(vfs, &at, &options, runtime);
            in_time(&dir, MOUNT_MAX, start).await
        };
        let started = started.and_then(|mount| mount.map_err(|error| mount_error(&error)));
        let mount = match started {
            Ok(mount) => mount,
            Err(error) => {
                if let Some(sharer) = sharer.take() {
                    sharer.stop().await;
                }
                close_again(name, &vfs).await;
                return Err(error);
            }
        };
        let open = Arc::new(OpenVolume {
            name: name.to_owned(),
            dir: mount.dir().to_owned(),
            is_read_only,
            vfs,
            mount,
            sharer: Mutex::new(None),
            is_detached: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            closing: OnceCell::new(),
            gone: CancellationToken::new(),
        });
        if let Some(sharer) = sharer {
            open.share(sharer).await;
            let keeping = self.clone().keep_keys(Arc::clone(&open), record.id);
            self.0.tasks.spawn(keeping);
        }
        open.look_after_snapshots(self.0.options.config.snapshots.keep);
        mounts.insert(&open);
        self.0.tasks.spawn(self.clone().attend(Arc::clone(&open)));
        tracing::info!("the volume `{name}` is mounted on {}", open.dir.display());
        Ok((open, created))
    }

    async fn open_volume(&self, name: &str, record: &Record) -> Result<Arc<Vfs>, AdminError> {
        let inner = &self.0;
        let parts = VfsParts {
            identity: VolumeIdentity {
                id: record.id,
                peer: self.own(),
                owner: record.owner,
                // Without one nothing is written: what could be sealed shall be equal to nothing.
                secret: record
                    .secret
                    .clone()
                    .unwrap_or_else(|| ConvergenceSecret::random(&inner.entropy)),
                profile: record.profile,
            },
            share: self.share_of(record),
            blocks: inner.blocks.clone(),
            clock: inner.clock.clone(),
            entropy: inner.entropy.fork(),
            options: vfs_options(name, &inner.options.config, &inner.auto),
        };
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let opened = Vfs::open(parts, owner).await;
        opened.map_err(|error| vfs_error(&error))
    }

    /// Waits for the end of a mount, whoever unmounts it, and closes its volume.
    async fn attend(self, open: Arc<OpenVolume>) {
        if let Err(error) = open.mount.ended().await {
            tracing::error!("the mount on {} broke off: {error}", open.dir.display());
        }
        open.close().await;
        self.0.mounts.remove(&open.name);
        open.gone.cancel();
        tracing::info!("the volume `{}` is unmounted", open.name);
    }

    /// Unmounts what is mounted on a directory.
    pub(super) async fn umount_volume(
        &self,
        request: UmountRequest,
    ) -> Result<Mounted, AdminError> {
        let asked = path_of(&request.dir_hex)?;
        let shown = asked.display().to_string();
        let dir = blocking(move || absolute(&asked)).await?;
        let open = self.0.mounts.all().into_iter().find(|open| {
            let is_named = dir.as_ref().is_ok_and(|dir| *dir == open.dir);
            is_named && !open.mount.has_ended() && !open.is_detached()
        });
        let Some(open) = open else {
            let error = AdminError::missing(format!("this peer has nothing mounted on {shown}"));
            return Err(error.hint("`cairn status` tells what is mounted where"));
        };
        if request.lazy {
            open.mount.detach().map_err(|error| unmount_error(&error))?;
            open.is_detached.store(true, Ordering::Release);
            // What is in use stays open behind it for as long as that takes.
            let _ = tokio::time::timeout(DETACH_GRACE, open.gone.cancelled()).await;
        } else {
            open.mount.unmount(UMOUNT_PATIENCE).await.map_err(|error| {
                let is_held = matches!(error, UnmountError::Held(_));
                open.is_detached.store(is_held, Ordering::Release);
                unmount_error(&error)
            })?;
            open.gone.cancelled().await;
        }
        Ok(open.shown(false))
    }

    /// Unmounts everything and closes its volumes: in good order, or else by force.
    pub(super) async fn end_mounts(&self) {
        let mounts = &self.0.mounts;
        mounts.is_closed.store(true, Ordering::Release);
        // A mount that is being made is there when this is had.
        let _changing = mounts.changing.lock().await;
        let open = mounts.all();
        join_all(open.iter().map(|open| self.end(open))).await;
    }

    async fn end(&self, open: &OpenVolume) {
        if let Err(error) = open.mount.unmount(SHUTDOWN_PATIENCE).await {
            tracing::warn!("{error}; it is taken out of the tree, and what is open there breaks");
            if let Err(error) = open.mount.detach() {
                tracing::warn!("{error}");
            }
        }
        let gone = || tokio::time::timeout(DETACH_GRACE, open.gone.cancelled());
        if gone().await.is_ok() {
            return;
        }
        // Only root can; others leave that to the end of the process.
        if let Err(error) = open.mount.abort() {
            tracing::debug!("{error}");
        }
        if gone().await.is_err() {
            open.close().await;
        }
    }
}
