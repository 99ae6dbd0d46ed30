//! The `cairn` binary: see `cairnfs::cli`.

use std::process::ExitCode;
use std::sync::Arc;

use cairnfs::admin::types::KeyImported;
use cairnfs::admin::{AdminError, Answer};
use cairnfs::cli::{Launch, LaunchOptions, Running};

struct NoPeer;

impl Launch for NoPeer {
    fn launch(&self, _: LaunchOptions) -> Answer<'_, Box<dyn Running>> {
        Box::pin(async { Err(AdminError::failed("this program has no peer to start")) })
    }

    fn import_key(&self, _: LaunchOptions, _: String, _: String) -> Answer<'_, KeyImported> {
        Box::pin(async { Err(AdminError::failed("this program has no peer to start")) })
    }
}

fn main() -> ExitCode {
    cairnfs::cli::run(Arc::new(NoPeer))
}
