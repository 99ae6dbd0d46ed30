//! The directory on which a devnet mounts a volume.

use std::path::{Path, PathBuf};

use crate::admin::types::{HexPath, MountRequest, Mounted};
use crate::admin::{AdminError, Backend, Client, Exit};
use crate::cli::failure::file_error;
use crate::cli::launch::Launch;
use crate::cli::mount::absolute;
use crate::cli::output::Output;

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
        let is_made = match dir.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            // Whatever is wrong with it, the peer that mounts tells.
            _ => false,
        };
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

    /// After its peer has ended, which unmounts: takes off what is left, and what was made.
    pub(super) async fn leave(self, output: &Output, launcher: &dyn Launch) {
        match launcher.umount(self.dir.clone(), true).await {
            Err(error) if error.class != Exit::Missing => output.warn(&error.error),
            _ => {}
        }
        if self.is_made
            && let Err(error) = std::fs::remove_dir(&self.dir)
        {
            output.warn(&format!("{} is left behind: {error}", self.dir.display()));
        }
    }
}
