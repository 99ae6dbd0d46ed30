//! A mount from its beginning to its end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::error::{MountError, UnmountError, check_dir, name_error};
use super::flight::Flight;
use super::notifier::{self, Device, Notifier};
use super::options::MountOptions;
use super::system::{self, Listed};
use crate::FileSystem;

/// How often a busy mount is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// How a session ended: nothing yet, well, or with an error.
type End = Option<Result<(), String>>;

/// A mounted filesystem. Dropping it detaches the mount and waits for nothing.
pub struct Mount {
    dir: PathBuf,
    listed: Option<Listed>,
    notifier: Notifier,
    ended: watch::Receiver<End>,
    in_flight: Box<dyn Fn() -> usize + Send + Sync>,
}

impl Mount {
    /// Mounts `fs` on `dir`. What has to be waited for runs on `runtime`, which needs timers.
    ///
    /// Blocks for as long as the kernel takes to greet; not for use on an async thread.
    pub fn start<F: FileSystem>(
        fs: Arc<F>,
        dir: &Path,
        options: &MountOptions,
        runtime: Handle,
    ) -> Result<Mount, MountError> {
        options.check()?;
        check_dir(dir, options.over_non_empty)?;
        let other = |source| MountError::Other {
            dir: dir.into(),
            source,
        };
        let dir = system::absolute(dir).map_err(other)?;
        let flight = Flight::new(fs.clone(), runtime, options.deadline, options.in_flight_max);
        let flight = Arc::new(flight);
        let adapter = Adapter::new(flight.clone(), options);
        let session = fuser::Session::new(adapter, &dir, &options.config())
            .map_err(|source| name_error(&dir, source))?;
        let device = File::from(session.as_fd().try_clone_to_owned().map_err(other)?);
        let known = {
            let fs = Arc::downgrade(&fs);
            move || fs.upgrade().map(|fs| fs.known()).unwrap_or_default()
        };
        let kernel = Device {
            notifier: session.notifier(),
            device,
            known,
        };
        let notifier = notifier::start(kernel, options.notices_max).map_err(other)?;
        let listed = system::find_mount(&dir).map_err(other)?;
        if let Some(listed) = &listed
            && let Err(error) = system::set_read_ahead(listed, options.read_ahead_bytes)
        {
            tracing::debug!(%error, "the kernel's own read-ahead stays");
        }
        let (ending, ended) = watch::channel(None);
        let thread = std::thread::Builder::new().name("fuse-session".into());
        let own_notifier = notifier.clone();
        let spawned = thread.spawn(move || {
            let result = match session.run() {
                // How a mount that was taken out of the tree ends when its last user goes.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
                result => result.map_err(|error| error.to_string()),
            };
            if let Err(error) = &result {
                tracing::error!(%error, "the mount ended");
            }
            own_notifier.close();
            fs.ended();
            ending.send_replace(Some(result));
        });
        spawned.map_err(other)?;
        Ok(Mount {
            dir,
            listed,
            notifier,
            ended,
            in_flight: Box::new(move || flight.count()),
        })
    }

    /// Where it is mounted, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The way to tell the kernel of changes it did not make.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// How many requests are being waited for.
    pub fn in_flight(&self) -> usize {
        (self.in_flight)()
    }

    /// Whether the kernel has gone, by whatever unmount.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until the mount has ended, also by an `umount` from outside. The error says why the
    /// session broke off. Cancel safe.
    pub async fn ended(&self) -> io::Result<()> {
        let mut ended = self.ended.clone();
        let end = match ended.wait_for(Option::is_some).await {
            Ok(end) => (*end).clone(),
            Err(_) => Some(Err("the session's thread panicked".to_owned())),
        };
        end.unwrap_or(Ok(())).map_err(io::Error::other)
    }

    /// Unmounts, trying again while the mount is in use, and waits for the session to end: both
    /// together for at most `limit`. A mount that is still in use stays as it is.
    pub async fn unmount(&self, limit: Duration) -> Result<(), UnmountError> {
        let end = Instant::now() + limit;
        let mut was_busy = false;
        while !self.has_ended() {
            let dir = self.dir.clone();
            // On a thread of its own: the kernel may wait for requests that are being answered.
            let tried = tokio::task::spawn_blocking(move || system::unmount(&dir, false));
            let left = end.saturating_duration_since(Instant::now());
            let Ok(tried) = tokio::time::timeout(left, tried).await else {
                // The last try of many had no time to tell the same again.
                return Err(match was_busy {
                    true => UnmountError::Busy(self.dir.clone()),
                    false => UnmountError::Held(self.dir.clone()),
                });
            };
            match tried.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Ok(()) => break,
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if Instant::now() + RETRY >= end {
                        return Err(UnmountError::Busy(self.dir.clone()));
                    }
                    was_busy = true;
                    tokio::time::sleep(RETRY).await;
                }
                Err(source) => {
                    let dir = self.dir.clone();
                    return Err(UnmountError::Other { dir, source });
                }
            }
        }
        let left = end.saturating_duration_since(Instant::now()).max(RETRY);
        match tokio::time::timeout(left, self.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(UnmountError::Held(self.dir.clone())),
        }
    }

    /// Takes the mount out of the tree at once, even if it is in use: what is open goes on working
    /// until it is closed.
    pub fn detach(&self) -> Result<(), UnmountError> {
        if self.has_ended() {
            return Ok(());
        }
        system::unmount(&self.dir, true).map_err(|source| UnmountError::Other {
            dir: self.dir.clone(),
            source,
        })
    }

    /// Ends the connection (root only): everything that waits for this filesystem gets an error,
    /// everything open is broken. For a mount that cannot be ended otherwise.
    pub fn abort(&self) -> io::Result<()> {
        match &self.listed {
            Some(listed) if !self.has_ended() => system::abort(listed),
            _ => Ok(()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.notifier.close();
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "left mounted");
        }
    }
}
