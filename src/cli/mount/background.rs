//! A peer behind a `mount` that has returned: started by it, told of by it, logging into the data
//! directory.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::absolute;
use crate::admin::AdminError;
use crate::admin::types::Mounted;
use crate::cli::args::MountArgs;
use crate::cli::failure::{Failure, file_error};
use crate::cli::logging::LogFile;
use crate::cli::output::Output;
use crate::cli::session::NEW_IDENTITY;
use crate::cli::signals::Interrupt;
use crate::config::Paths;

/// How long a peer that is no longer wanted may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest report that is read.
const REPORT_MAX_BYTES: u64 = 1 << 20;
/// How much of the log an error quotes.
const LOG_TAIL_BYTES: u64 = 2000;

/// How it went, from the child to its parent: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    /// It is mounted.
    Mounted {
        mounted: Mounted,
        has_new_identity: bool,
    },
    /// It is not.
    Failed(AdminError),
}

/// A child that was started and has not reported yet.
pub(super) struct Begun {
    child: std::process::Child,
    reports: io::PipeReader,
    log: LogFile,
}

/// Starts this program again, as a peer of its own that mounts.
pub(super) fn start(paths: &Paths, output: &Output, args: &MountArgs) -> Result<Begun, AdminError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| AdminError::failed(format!("cannot {what}: {error}"))
    };
    let log = LogFile::open(&paths.data_dir)
        .map_err(|error| file_error("log into", &paths.data_dir, &error))?;
    let program = std::env::current_exe().map_err(failed("find this program's file"))?;
    let (reports, report) = io::pipe().map_err(failed("make a pipe"))?;
    let stderr = log.file().map_err(failed("log"))?;
    let mut command = Command::new(program);
    // By whatever name this process was called.
    command.arg0("cairn");
    command.arg("--data-dir").arg(absolute(&paths.data_dir)?);
    if paths.config_is_named {
        command.arg("--config").arg(absolute(&paths.config_file)?);
    }
    // Not `--quiet`: that is for whoever waits, while the log is for whoever looks for a reason.
    command.args((0..output.verbose).map(|_| "-v"));
    command.args(["mount", "--foreground", "--report"]);
    for (flag, is_set) in flags(args) {
        if is_set {
            command.arg(flag);
        }
    }
    // Neither begins with a hyphen: a name does not, and the directory is an absolute path.
    command.args(&args.volume);
    command.arg(absolute(&args.dir)?);
    let child = command
        .stdin(Stdio::null())
        .stdout(report)
        .stderr(stderr)
        .spawn()
        .map_err(failed("start a peer in the background"))?;
    Ok(Begun {
        child,
        reports,
        log,
    })
}

/// Flags that say the same as the arguments.
fn flags(args: &MountArgs) -> impl Iterator<Item = (String, bool)> {
    let plain = [
        ("--read-only".to_owned(), args.read_only),
        ("--allow-other".to_owned(), args.allow_other),
    ];
    let options = args.options.iter().filter_map(|option| option.name());
    let options = options.map(|name| (format!("-o{name}"), true));
    plain.into_iter().chain(options.collect::<Vec<_>>())
}

impl Begun {
    /// Waits until the child says that it has mounted.
    ///
    /// # Errors
    /// If it has not, or ended without a word.
    pub(super) async fn mounted(
        mut self,
        output: &Output,
        interrupt: &Interrupt,
    ) -> Result<Mounted, Failure> {
        let mut line = String::new();
        let reports = self.reports;
        // On a thread of its own: Ctrl-C must be heard meanwhile.
        let read = tokio::task::spawn_blocking(move || {
            let read = BufReader::new(reports)
                .take(REPORT_MAX_BYTES)
                .read_line(&mut line);
            read.map(|_| line)
        });
        let line = tokio::select! {
            biased;
            () = interrupt.wait() => {
                stop(self.child).await;
                return Err(Failure::Interrupted);
            }
            line = read => line,
        };
        let line = line.ok().and_then(Result::ok).unwrap_or_default();
        match serde_json::from_str(&line) {
            Ok(Report::Mounted {
                mounted,
                has_new_identity,
            }) => {
                if has_new_identity {
                    output.note(NEW_IDENTITY);
                }
                Ok(mounted)
            }
            Ok(Report::Failed(error)) => {
                // It ends on its own; after that nothing holds the data directory any more.
                stop(self.child).await;
                Err(error.into())
            }
            Err(_) => {
                let status = self.child.wait();
                Err(silent(status, &self.log).into())
            }
        }
    }
}

/// Ends the child, in good order if it can, and waits until it has gone.
async fn stop(mut child: std::process::Child) {
    let begun = tokio::time::Instant::now();
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // One that has ended needs no signal.
        let _ = kill_process(pid, Signal::TERM);
    }
    while matches!(child.try_wait(), Ok(None)) {
        if begun.elapsed() > STOP_TIMEOUT {
            // It hangs: nothing more can be done here.
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A child that ended without a report.
fn silent(status: io::Result<ExitStatus>, log: &LogFile) -> AdminError {
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let tail = log.tail(LOG_TAIL_BYTES);
    AdminError::failed(format!(
        "the peer in the background ended at once: {how}\n{}",
        tail.trim_end()
    ))
    .hint(format!("its log is {}", log.path().display()))
}

/// The child's end: tells its parent once, and nothing after that.
pub(super) struct Reporter {
    is_due: Mutex<bool>,
    log: LogFile,
}

impl Reporter {
    /// Leaves the session of the parent, whose terminal and directory are none of its business.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub(super) fn begin(paths: &Paths) -> Result<Reporter, AdminError> {
        // Fails only where it leads a session already.
        let _ = rustix::process::setsid();
        let log = LogFile::open(&paths.data_dir)
            .map_err(|error| file_error("log into", &paths.data_dir, &error))?;
        // All its paths are absolute. A directory that it stays in could not be unmounted.
        if let Err(error) = std::env::set_current_dir("/") {
            return Err(file_error("enter", Path::new("/"), &error));
        }
        Ok(Reporter {
            is_due: Mutex::new(true),
            log,
        })
    }

    /// Where it logs.
    pub(super) fn log(&self) -> LogFile {
        self.log.clone()
    }

    /// It is mounted.
    pub(super) fn mounted(&self, mounted: &Mounted, has_new_identity: bool) {
        self.tell(&Report::Mounted {
            mounted: mounted.clone(),
            has_new_identity,
        });
    }

    /// It is not mounted; or, later, why it no longer is, of which only the log tells.
    pub(super) fn failed(&self, failure: &Failure) {
        self.tell(&Report::Failed(match failure {
            Failure::Error(error) => error.clone(),
            Failure::Interrupted | Failure::BrokenPipe => AdminError::failed("interrupted"),
        }));
    }

    fn tell(&self, report: &Report) {
        let mut is_due = self
            .is_due
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if !std::mem::take(&mut *is_due) {
            return;
        }
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            let mut out = io::stdout().lock();
            // A parent that has gone needs no report.
            let _ = out.write_all(&line).and_then(|()| out.flush());
        }
        // Whoever waits for the end of the parent's output is not to wait for this process.
        if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(&null);
        }
    }
}
