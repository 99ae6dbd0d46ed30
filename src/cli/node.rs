//! `node`: a peer in the foreground.

use std::io::Read;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;

use super::args::NodeArgs;
use super::failure::Failure;
use super::launch::Launch;
use super::output::Output;
use super::session::OwnPeer;
use super::signals::Interrupt;
use crate::admin::{AdminError, DirLock, LockError};
use crate::config::Paths;

/// How long another process may hold the data directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// What `node --json` prints when the peer is up.
#[derive(Debug, Serialize)]
struct Up {
    peer: String,
    pid: u32,
    data_dir: String,
    addresses: Vec<String>,
}

pub(super) async fn run(
    paths: &Paths,
    launcher: &dyn Launch,
    output: &Output,
    args: &NodeArgs,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let lock = lock(paths, interrupt).await?;
    let peer = tokio::select! {
        biased;
        () = interrupt.wait() => return Ok(()),
        peer = OwnPeer::start(paths, launcher, output, lock, false) => peer?,
    };
    let outcome = serve(&peer, output, args, interrupt).await;
    peer.stop().await;
    outcome
}

/// Locks the data directory. A command that started a peer of its own is done soon, so it is
/// waited for a while.
async fn lock(paths: &Paths, interrupt: &Interrupt) -> Result<DirLock, Failure> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match DirLock::acquire(&paths.data_dir) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { .. }) if Instant::now() < give_up => tokio::select! {
                biased;
                () = interrupt.wait() => return Err(Failure::Interrupted),
                () = tokio::time::sleep(LOCK_RETRY) => {}
            },
            Err(error @ LockError::Held { .. }) => {
                let told = AdminError::of(&error)
                    .hint("only one process can work on a data directory: stop the other first");
                return Err(told.into());
            }
            Err(error) => return Err(AdminError::of(&error).into()),
        }
    }
}

async fn serve(
    peer: &OwnPeer,
    output: &Output,
    args: &NodeArgs,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let status = peer.running().backend().status().await?;
    if output.json {
        output.document(&Up {
            peer: status.peer,
            pid: std::process::id(),
            data_dir: status.data_dir,
            addresses: status.addresses,
        })?;
    } else if status.network.is_some() {
        output.say(&format!(
            "peer {} runs on {}; Ctrl-C stops it",
            status.peer, status.data_dir
        ));
    } else {
        output.say(&format!(
            "peer {} runs on {}; Ctrl-C stops it\n\
             It is alone and opens no network socket: `cairn invite` makes a ticket for another machine.",
            status.peer, status.data_dir
        ));
    }
    let parent_gone = end_of_stdin(args.exit_with_stdin);
    tokio::select! {
        biased;
        () = interrupt.wait() => Ok(()),
        () = parent_gone => Ok(()),
        () = peer.server().shutdown_requested() => Ok(()),
        error = peer.running().failed() => Err(error.into()),
    }
}

/// Resolves when the standard input ends, as it does when its writer dies; never if not wanted.
async fn end_of_stdin(is_wanted: bool) {
    if !is_wanted {
        return std::future::pending().await;
    }
    let (sender, ended) = oneshot::channel();
    // A thread of its own: a blocked read must not hold up the end of the process.
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(count) if count > 0) {}
        // The receiver is gone only when the process is ending anyway.
        let _ = sender.send(());
    });
    // The thread always sends before it ends.
    let _ = ended.await;
}
