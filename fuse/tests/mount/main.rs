//! Real mounts: needs `/dev/fuse` and root. Where either is missing each test says so and passes.

#![allow(clippy::unwrap_used)]

mod adapter;
mod notices;
mod posix;
mod trick;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairnfs_fuse::FileSystem;
use cairnfs_fuse::kernel::{Mount, MountOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Long enough for any machine; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(60);

/// Whether mounts can be made here.
fn can_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let has_device = Path::new("/dev/fuse").exists();
    if !is_root || !has_device {
        eprintln!("SKIPPED: mounting needs root ({is_root}) and /dev/fuse ({has_device})");
    }
    is_root && has_device
}

/// A filesystem mounted for one test.
struct Mounted<F> {
    fs: Arc<F>,
    mount: Mount,
    runtime: Runtime,
    dir: TempDir,
}

impl<F: FileSystem> Mounted<F> {
    fn new(fs: F) -> Mounted<F> {
        Mounted::with(fs, MountOptions::default())
    }

    fn with(fs: F, options: MountOptions) -> Mounted<F> {
        let mut building = tokio::runtime::Builder::new_multi_thread();
        let runtime = building.worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fs = Arc::new(fs);
        let handle = runtime.handle().clone();
        let mount = Mount::start(fs.clone(), dir.path(), &options, handle).unwrap();
        Mounted {
            fs,
            mount,
            runtime,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl<F> Drop for Mounted<F> {
    fn drop(&mut self) {
        // Nothing is to be left behind, also by a test that failed in the middle.
        let unmounted = self.runtime.block_on(self.mount.unmount(LONG / 12));
        if unmounted.is_err() {
            self.mount.abort().ok();
            self.mount.detach().ok();
        }
    }
}
