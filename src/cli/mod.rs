//! The commands.
//!
//! Knows peers only through `admin::Backend`, and how to start one only through [`Launch`].

mod args;
mod conflicts;
mod devnet;
mod drain;
mod failure;
mod fstab;
mod gc;
mod get;
mod key;
mod launch;
mod logging;
mod materialise;
mod mount;
mod mount_options;
mod network;
mod node;
pub mod output;
mod peer;
mod progress;
mod put;
mod puts;
mod redundancy;
mod revoke;
pub mod session;
mod show;
mod signals;
mod snapshots;
mod survey;
mod time;
mod trash;
mod umount;
mod upkeep;
mod volume;
mod walk;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde::Serialize;
use tokio::runtime::Builder;

use self::args::{Cli, Command, ConfigCommand, KeyCommand};
use self::failure::{Failure, INTERRUPTED};
use self::output::Output;
use self::session::Session;
use self::signals::Interrupt;
use crate::admin::{self, AdminError};
use crate::config::{Config, ConfigError, Environment, LogLevel, Paths, Problem};

pub use launch::{Launch, LaunchOptions, Running};
pub use peer::PeerLauncher;

/// How long threads that wait for a disk or a terminal hold up the end of the process.
const THREADS_GRACE: Duration = Duration::from_millis(200);

/// Runs the command of this process's arguments, with `launcher` to start peers.
pub fn run(launcher: Arc<dyn Launch>) -> ExitCode {
    let cli = match fstab::translated(std::env::args_os()) {
        Ok(fstab::Called::Plainly) => Cli::parse(),
        Ok(fstab::Called::ByMount(arguments)) => Cli::parse_from(arguments),
        Ok(fstab::Called::ForShow) => return ExitCode::SUCCESS,
        Err(error) => {
            Output::new(false, false, 0).error(&error);
            return ExitCode::from(error.class.code());
        }
    };
    let output = Output::new(cli.global.json, cli.global.quiet, cli.global.verbose);
    let stdout_is_content = matches!(&cli.command, Command::Get(args) if args.is_to_stdout());
    match execute(cli, &output, launcher) {
        Ok(()) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => {
            output.error(&AdminError::failed("interrupted"));
            ExitCode::from(INTERRUPTED)
        }
        Err(Failure::Error(error)) => {
            output.error(&error);
            if output.json && !stdout_is_content && !output.has_document() {
                // The exit code still tells if nobody reads this.
                let _ = output.document(&error);
            }
            ExitCode::from(error.class.code())
        }
    }
}

fn execute(cli: Cli, output: &Output, launcher: Arc<dyn Launch>) -> Result<(), Failure> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "cairn", &mut script);
        return Ok(output.write(&script)?);
    }
    raise_descriptor_limit();
    crate::base::memory::share_arena();
    let runtime = runtime_for(&cli)
        .enable_all()
        .build()
        .map_err(|error| AdminError::failed(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(dispatch(cli, output, launcher));
    runtime.shutdown_timeout(THREADS_GRACE);
    outcome
}

/// A command that a running peer carries out needs one thread: starting and waking more would be
/// most of the time that a small `get` takes.
fn runtime_for(cli: &Cli) -> Builder {
    let is_client = match &cli.command {
        Command::Node(_) | Command::Devnet(_) => false,
        // It may turn out that it has to serve the mount itself.
        Command::Mount(args) if args.foreground => false,
        _ => paths(cli).is_ok_and(|paths| admin::is_served(&paths.data_dir)),
    };
    if is_client {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    }
}

fn paths(cli: &Cli) -> Result<Paths, ConfigError> {
    Paths::resolve(
        cli.global.data_dir.as_deref(),
        cli.global.config.as_deref(),
        &Environment::of_process(),
    )
}

/// A tree takes a descriptor for each level, a network one for each connection.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The old limit does for most things.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn dispatch(cli: Cli, output: &Output, launcher: Arc<dyn Launch>) -> Result<(), Failure> {
    let interrupt = Interrupt::install()
        .map_err(|error| AdminError::failed(format!("cannot watch for signals: {error}")))?;
    if let Command::Devnet(args) = &cli.command {
        logging::start(output, LogLevel::Warn)?;
        return devnet::run(output, args, launcher.as_ref(), &interrupt).await;
    }
    let paths = paths(&cli).map_err(|error| session::config_error(&error))?;
    match &cli.command {
        Command::Node(args) => {
            let config = session::load_config(&paths)?;
            logging::start(output, config.log.level)?;
            node::run(&paths, launcher.as_ref(), output, args, &interrupt).await
        }
        Command::Mount(args) => {
            mount::run(&paths, launcher.as_ref(), output, args, &interrupt).await
        }
        Command::Umount(args) => {
            logging::start(output, LogLevel::Warn)?;
            tokio::select! {
                biased;
                () = interrupt.wait() => Err(Failure::Interrupted),
                outcome = umount::run(&paths, launcher.as_ref(), output, args) => outcome,
            }
        }
        Command::Sync(args) => {
            logging::start(output, LogLevel::Warn)?;
            tokio::select! {
                biased;
                () = interrupt.wait() => Err(Failure::Interrupted),
                outcome = umount::sync(&paths, output, args) => outcome,
            }
        }
        Command::Conflicts(args) => {
            logging::start(output, LogLevel::Warn)?;
            tokio::select! {
                biased;
                () = interrupt.wait() => Err(Failure::Interrupted),
                outcome = conflicts::run(&paths, output, args) => outcome,
            }
        }
        Command::Redundancy(args) => {
            logging::start(output, LogLevel::Warn)?;
            tokio::select! {
                biased;
                () = interrupt.wait() => Err(Failure::Interrupted),
                outcome = redundancy::run(&paths, output, args) => outcome,
            }
        }
        Command::Config(args) => match args.command {
            ConfigCommand::Check => check_config(&paths, output),
        },
        Command::Key(args) if matches!(args.command, KeyCommand::Import(_)) => {
            logging::start(output, LogLevel::Warn)?;
            let KeyCommand::Import(args) = &args.command else {
                return Ok(());
            };
            key::import(&paths, launcher.as_ref(), output, args, &interrupt).await
        }
        _ => {
            logging::start(output, LogLevel::Warn)?;
            with_peer(cli.command, &paths, launcher.as_ref(), output, &interrupt).await
        }
    }
}

/// Commands that talk to a peer, which is started if none is running.
async fn with_peer(
    command: Command,
    paths: &Paths,
    launcher: &dyn Launch,
    output: &Output,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let session = tokio::select! {
        biased;
        () = interrupt.wait() => return Err(Failure::Interrupted),
        session = Session::open(paths, launcher, output) => session?,
    };
    let outcome = match command {
        // Cleans up by itself when interrupted.
        Command::Get(args) => get::run(&session, output, args, interrupt).await,
        // Says that it goes on.
        Command::Drain(args) => drain::run(&session, output, &args, interrupt).await,
        command => tokio::select! {
            biased;
            () = interrupt.wait() => Err(Failure::Interrupted),
            outcome = ask(command, &session, output, paths) => outcome,
        },
    };
    session.close().await;
    outcome
}

async fn ask(
    command: Command,
    session: &Session,
    output: &Output,
    paths: &Paths,
) -> Result<(), Failure> {
    match command {
        Command::Invite(args) => network::invite(session, output, &args).await,
        Command::Join(args) => network::join(session, output, args).await,
        Command::Put(args) => put::run(session, output, &args, &paths.data_dir).await,
        Command::Ls(args) => show::ls(session, output, &args).await,
        Command::Stat(args) => show::stat(session, output, &args.what).await,
        Command::List => show::list(session, output).await,
        Command::Rm(args) => puts::remove(session, output, args).await,
        Command::Renew(args) => puts::renew(session, output, args).await,
        Command::Status(args) => show::status(session, output, &args).await,
        Command::Repair(args) => upkeep::repair(session, output, &args).await,
        Command::Trash(args) => trash::run(session, output, args).await,
        Command::Gc(args) => gc::run(session, output, &args).await,
        Command::Workers(args) => upkeep::workers(session, output, &args).await,
        Command::Peers => show::peers(session, output).await,
        Command::Quota(args) => show::quota(session, output, &args).await,
        Command::Volume(args) => volume::run(session, output, &args.command).await,
        Command::Key(args) => match args.command {
            KeyCommand::Export(args) => key::export(session, output, &args).await,
            KeyCommand::Import(_) => Ok(()),
        },
        // Carried out before there is a session.
        Command::Get(_)
        | Command::Drain(_)
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Sync(_)
        | Command::Conflicts(_)
        | Command::Redundancy(_)
        | Command::Node(_)
        | Command::Devnet(_)
        | Command::Config(_)
        | Command::Completions { .. } => Ok(()),
    }
}

/// What `config check --json` prints.
#[derive(Serialize)]
struct Checked<'c> {
    file: String,
    exists: bool,
    problems: Vec<CheckedProblem<'c>>,
    /// How the command ends, if there are any.
    #[serde(flatten)]
    error: Option<&'c AdminError>,
}

#[derive(Serialize)]
struct CheckedProblem<'c> {
    line: usize,
    key: Option<&'c str>,
    message: &'c str,
}

impl<'c> Checked<'c> {
    fn new(file: &Path, exists: bool, problems: &'c [Problem]) -> Self {
        let problems = problems.iter().map(|problem| CheckedProblem {
            line: problem.line,
            key: problem.key.as_deref(),
            message: &problem.message,
        });
        Checked {
            file: file.to_string_lossy().into_owned(),
            exists,
            problems: problems.collect(),
            error: None,
        }
    }
}

fn check_config(paths: &Paths, output: &Output) -> Result<(), Failure> {
    let file = &paths.config_file;
    let is_absent = !paths.config_is_named
        && matches!(file.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let checked = match is_absent {
        true => Ok(()),
        false => Config::load(file).map(drop),
    };
    if let Err(error) = checked {
        let failure = session::config_error(&error);
        if let (true, ConfigError::Invalid { problems, .. }) = (output.json, &error) {
            output.document(&Checked {
                error: Some(&failure),
                ..Checked::new(file, true, &problems.0)
            })?;
        }
        return Err(failure.into());
    }
    if output.json {
        output.document(&Checked::new(file, !is_absent, &[]))?;
    } else if is_absent {
        output.line(&format!(
            "{}: no such file yet; the defaults apply",
            file.display()
        ))?;
    } else {
        output.line(&format!("{}: no problems", file.display()))?;
    }
    Ok(())
}
