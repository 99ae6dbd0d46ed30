//! One peer of a devnet: a process that ends with its parent.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{ChildStdin, Command};

use crate::admin::{AdminError, Client};

/// How long a peer may take to answer on its socket.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// How long a peer may take to stop in good order.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of a log an error quotes.
const LOG_TAIL_BYTES: usize = 2000;

pub(super) struct Child {
    data_dir: PathBuf,
    log: PathBuf,
    pid: u32,
    process: tokio::process::Child,
    /// The peer ends when this does, however this process ends.
    leash: Option<ChildStdin>,
}

impl Child {
    /// Starts a peer on `data_dir`, with its log beside it.
    pub(super) fn start(data_dir: &Path) -> Result<Child, AdminError> {
        let failed = |what: &str, error: &std::io::Error| {
            AdminError::failed(format!("cannot {what} {}: {error}", data_dir.display()))
        };
        // Outside the data directory, whose quota it would use up.
        let log = data_dir.with_extension("log");
        let log_file = File::create(&log).map_err(|error| failed("make the log of", &error))?;
        let mut process = Command::new(super::program()?)
            .arg("--data-dir")
            .arg(data_dir)
            .args(["node", "--exit-with-stdin"])
            .env_remove("CAIRN_DATA_DIR")
            .env_remove("CAIRN_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log_file)
            // A Ctrl-C on the terminal is for the parent only, which ends them in good order.
            .process_group(0)
            .spawn()
            .map_err(|error| failed("start a peer on", &error))?;
        Ok(Child {
            data_dir: data_dir.to_owned(),
            log,
            pid: process.id().unwrap_or_default(),
            leash: process.stdin.take(),
            process,
        })
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it answers on its socket.
    pub(super) async fn wait_until_up(&mut self) -> Result<Client, AdminError> {
        let give_up = Instant::now() + START_TIMEOUT;
        loop {
            match Client::connect(&self.data_dir).await {
                // Not the one of another process that was there before.
                Ok(client) if client.hello().pid == self.pid => return Ok(client),
                Ok(_) | Err(_) => {}
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(self.failure(&format!("ended at once: {}", how(status))));
            }
            if Instant::now() > give_up {
                return Err(self.failure("does not answer"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn failure(&self, what: &str) -> AdminError {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(LOG_TAIL_BYTES)..);
        let tail = String::from_utf8_lossy(tail.unwrap_or(&log)).into_owned();
        AdminError::failed(format!(
            "the peer on {} {what}\n{}",
            self.data_dir.display(),
            tail.trim_end()
        ))
    }

    /// Waits until it has ended, and tells how.
    pub(super) async fn ended(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => how(status),
            Err(error) => error.to_string(),
        }
    }

    /// Stops it: in good order if it can.
    pub(super) async fn stop(mut self) {
        drop(self.leash.take());
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            // One that hangs before it looks at its input still takes the signal; one that is
            // gone needs neither.
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.process.wait())
            .await
            .is_err()
        {
            // It is stopped, hangs, or is gone: nothing more can be done here.
            let _ = self.process.kill().await;
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}
