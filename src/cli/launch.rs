//! The seam between commands and the peer that they start when none is running.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::admin::types::KeyImported;
use crate::admin::{AdminError, Answer, Backend};
use crate::config::{Config, Paths};

/// What a peer is started with. The caller holds the lock of the data directory.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// Data directory and config file.
    pub paths: Paths,
    /// What the config file says.
    pub config: Config,
    /// Whether it lives only as long as one command, so that it serves no mounts.
    pub is_embedded: bool,
}

/// Starts peers.
pub trait Launch: Send + Sync + 'static {
    /// Starts a peer; identity and secrets are made on demand.
    fn launch(&self, options: LaunchOptions) -> Answer<'_, Box<dyn Running>>;

    /// Restores a backup into a data directory without an identity.
    fn import_key(
        &self,
        options: LaunchOptions,
        sealed: String,
        passphrase: String,
    ) -> Answer<'_, KeyImported>;

    /// Unmounts a volume whose peer does not answer.
    fn umount(&self, dir: PathBuf, is_lazy: bool) -> Answer<'_, ()>;

    /// Unmounts a volume whose peer has died, and nothing else.
    fn umount_dead(&self, dir: PathBuf) -> Answer<'_, ()>;
}

/// A peer that runs in this process.
pub trait Running: Send + 'static {
    /// How it is controlled.
    fn backend(&self) -> Arc<dyn Backend>;

    /// Whether its identity was made just now.
    fn has_new_identity(&self) -> bool;

    /// Resolves when it cannot go on, with the reason.
    fn failed(&self) -> BoxFuture<'static, AdminError> {
        Box::pin(std::future::pending())
    }

    /// Resolves when nothing is mounted by it; from then on it takes no more mounts.
    fn mounts_ended(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    /// Stops it in good order.
    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()>;
}
