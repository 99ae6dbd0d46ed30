//! A volume mounted by a real peer, for tests of what the mount promises.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairnfs::base::ByteSize;
use cairnfs::config::Quota;

use crate::home::{Home, wait_gone};
use crate::support::{edit_config, signal};

/// Long enough for any machine; a test that waits this long has failed.
pub const LONG: Duration = Duration::from_secs(60);

/// A volume mounted for one test, with other users let in.
pub struct Mounted {
    home: Home,
    top: PathBuf,
    pid: u32,
}

impl Mounted {
    /// None where nothing can be mounted, which was said then.
    pub fn new() -> Option<Mounted> {
        Mounted::with_quota(ByteSize::gib(4))
    }

    /// With room for about so many bytes, and not less than a peer needs for itself.
    pub fn small(bytes: u64) -> Option<Mounted> {
        Mounted::with_quota(ByteSize(bytes + (24 << 20)))
    }

    fn with_quota(quota: ByteSize) -> Option<Mounted> {
        let home = Home::new()?;
        edit_config(&home.data, |config| {
            config.storage.quota = Quota::Bytes(quota);
        });
        let top = home.place("mnt");
        // Other users find their way in.
        let open = || std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(home.dir.path(), open()).unwrap();
        let mut mounted = Mounted { home, top, pid: 0 };
        mounted.mount();
        Some(mounted)
    }

    fn mount(&mut self) {
        self.pid = self.home.mount(&["--allow-other"], &self.top);
    }

    /// The top directory.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// A path in the top directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.top().join(name)
    }

    /// Unmounts in good order and mounts again.
    pub fn remount(&mut self) -> bool {
        self.home.umount(&self.top);
        wait_gone(self.pid);
        self.mount();
        true
    }

    /// Ends the serving process without a word, and mounts again.
    pub fn crash(&mut self) -> bool {
        signal(self.pid, "KILL");
        wait_gone(self.pid);
        self.mount();
        true
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.home.umount(&self.top);
            wait_gone(self.pid);
        }
    }
}
