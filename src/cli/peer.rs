//! Peers as `node` makes them, behind the seam of the commands.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::launch::{Launch, LaunchOptions, Running};
use crate::admin::types::KeyImported;
use crate::admin::{AdminError, Answer, Backend};
use crate::node::{self, Node, NodeOptions};

/// Starts real peers.
#[derive(Debug, Clone, Copy)]
pub struct PeerLauncher;

impl From<LaunchOptions> for NodeOptions {
    fn from(options: LaunchOptions) -> Self {
        NodeOptions {
            data_dir: options.paths.data_dir,
            config_file: options.paths.config_file,
            config: options.config,
            is_embedded: options.is_embedded,
        }
    }
}

impl Launch for PeerLauncher {
    fn launch(&self, options: LaunchOptions) -> Answer<'_, Box<dyn Running>> {
        Box::pin(async {
            let node = node::start(options.into()).await?;
            Ok(Box::new(node) as Box<dyn Running>)
        })
    }

    fn import_key(
        &self,
        options: LaunchOptions,
        sealed: String,
        passphrase: String,
    ) -> Answer<'_, KeyImported> {
        Box::pin(node::import(options.into(), sealed, passphrase))
    }

    fn umount(&self, dir: PathBuf, is_lazy: bool) -> Answer<'_, ()> {
        blocking(move || node::umount_left(&dir, is_lazy))
    }

    fn umount_dead(&self, dir: PathBuf) -> Answer<'_, ()> {
        blocking(move || node::umount_dead(&dir))
    }
}

/// Runs what blocks.
fn blocking(work: impl FnOnce() -> Result<(), AdminError> + Send + 'static) -> Answer<'static, ()> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|panic| AdminError::failed(panic.to_string()))?
    })
}

impl Running for Node {
    fn backend(&self) -> Arc<dyn Backend> {
        Node::backend(self)
    }

    fn has_new_identity(&self) -> bool {
        Node::has_new_identity(self)
    }

    fn mounts_ended(&self) -> BoxFuture<'static, ()> {
        let node = self.clone();
        Box::pin(async move { Node::mounts_ended(&node).await })
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { Node::shutdown(&self).await })
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}
