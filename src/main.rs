//! The `cairn` binary: see `cairnfs::cli`.

use std::process::ExitCode;
use std::sync::Arc;

use cairnfs::cli::PeerLauncher;

fn main() -> ExitCode {
    cairnfs::cli::run(Arc::new(PeerLauncher))
}
