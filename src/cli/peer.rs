//! Peers as `node` makes them, behind the seam of the commands.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::launch::{Launch, LaunchOptions, Running};
use crate::admin::types::KeyImported;
use crate::admin::{Answer, Backend};
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
}

impl Running for Node {
    fn backend(&self) -> Arc<dyn Backend> {
        Node::backend(self)
    }

    fn has_new_identity(&self) -> bool {
        Node::has_new_identity(self)
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
