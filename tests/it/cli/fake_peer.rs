//! A data directory that a [`Fake`] serves, as a peer does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cairnfs::admin::{AdminServer, Backend, DirLock, serve};

use super::fake::Fake;
use crate::support;

/// A data directory on which a [`Fake`] runs.
pub struct FakePeer {
    pub home: tempfile::TempDir,
    pub data_dir: PathBuf,
    pub fake: Arc<Fake>,
    server: Option<AdminServer>,
    _lock: DirLock,
    runtime: tokio::runtime::Runtime,
}

impl FakePeer {
    pub fn start() -> FakePeer {
        FakePeer::start_in("data")
    }

    /// With its data directory at `below` a temporary directory.
    pub fn start_in(below: &str) -> FakePeer {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().join(below);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let lock = DirLock::acquire(&data_dir).unwrap();
        let fake = Arc::new(Fake::default());
        let guard = runtime.enter();
        let server = serve(&lock, Arc::clone(&fake) as Arc<dyn Backend>).unwrap();
        drop(guard);
        FakePeer {
            home,
            data_dir,
            fake,
            server: Some(server),
            _lock: lock,
            runtime,
        }
    }

    /// A command to this peer.
    pub fn cairn(&self) -> Command {
        support::cairn(&self.data_dir)
    }

    /// A path beside the data directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Puts `path`; the link.
    pub fn put(&self, path: &Path) -> String {
        support::line(&support::run(self.cairn().args(["-q", "put"]).arg(path), 0))
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop(Duration::from_secs(5)));
        }
    }
}
