//! The directory on which a devnet mounts a volume.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::types::{HexPath, MountRequest, Mounted};
use crate::admin::{AdminError, Backend, Client};
use crate::cli::failure::file_error;
use crate::cli::launch::Launch;
use crate::cli::mount::absolute;
use crate::cli::output::Output;

/// How long what is mounted there may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Where it is mounted.
pub(super) struct Place {
    dir: PathBuf,
    /// Whether it was made for this, and goes with it.
    is_made: bool,
}

impl Place {
    /// Makes the directory if it is missing.
    pub(super) fn prepare(dir: &Path) -> Result<Place, AdminError> {
        let dir = absolute(dir)?;
        // Whatever else is wrong with it, the peer that mounts tells.
        let is_made = is_absent(&dir);
        if is_made {
            std::fs::create_dir_all(&dir).map_err(|error| file_error("make", &dir, &error))?;
        }
        Ok(Place { dir, is_made })
    }

    /// Has a peer mount its default volume there.
    pub(super) async fn mount(&self, client: &Client) -> Result<Mounted, AdminError> {
        let request = MountRequest {
            dir_hex: HexPath::new(&self.dir),
            ..MountRequest::default()
        };
        client.mount(request).await
    }

    /// After all peers have ended, which unmounts what they mounted: takes off what one that was killed left, and
    /// what was made. What else is mounted there by now is not theirs.
    pub(super) async fn leave(self, output: &Output, launcher: &dyn Launch) {
        let unmounted = launcher.umount_dead(self.dir.clone());
        match tokio::time::timeout(ANSWER_MAX, unmounted).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => output.warn(&error.error),
            // Whoever does not answer is not dead.
            Err(_) => {}
        }
        if self.is_made
            && let Err(error) = std::fs::remove_dir(&self.dir)
        {
            output.warn(&format!("{} is left behind: {error}", self.dir.display()));
        }
    }
}

/// Whether nothing is there, by the word of the kernel: what is mounted there may not answer.
fn is_absent(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, path, flags, StatxFlags::TYPE) {
        Err(rustix::io::Errno::NOSYS) => !path.exists(),
        found => matches!(found, Err(rustix::io::Errno::NOENT)),
    }
}
