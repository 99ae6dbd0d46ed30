//! `mount`: by the running peer, or by one that this command starts, behind it or in its place.

mod background;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::background::Reporter;
use super::args::MountArgs;
use super::failure::{Failure, file_error};
use super::launch::Launch;
use super::logging;
use super::mount_options::MountOption;
use super::output::Output;
use super::session::{Found, OwnPeer, find, load_config};
use super::signals::Interrupt;
use crate::admin::types::{HexPath, MountRequest, Mounted, UmountRequest};
use crate::admin::{AdminError, Backend, Client, ConnectError, DirLock, Exit};
use crate::config::{LogLevel, Paths};

type Done = Result<(), Failure>;

/// How often a command that only watches looks whether its mount is still there.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(
    paths: &Paths,
    launcher: &dyn Launch,
    output: &Output,
    args: &MountArgs,
    interrupt: &Interrupt,
) -> Done {
    let command = Command {
        paths,
        launcher,
        output,
        args,
        interrupt,
        request: request_of(args)?,
    };
    if !args.report {
        return command.mount(None).await;
    }
    let reporter = Reporter::begin(paths)?;
    let outcome = command.mount(Some(&reporter)).await;
    if let Err(failure) = &outcome {
        reporter.failed(failure);
    }
    outcome
}

/// What the command line asks for.
fn request_of(args: &MountArgs) -> Result<MountRequest, AdminError> {
    let has = |option| args.options.contains(&option);
    Ok(MountRequest {
        volume: args.volume.clone(),
        dir_hex: HexPath::new(&absolute(&args.dir)?),
        read_only: args.read_only || has(MountOption::ReadOnly),
        allow_other: args.allow_other || has(MountOption::AllowOther),
        suid: has(MountOption::Suid),
        dev: has(MountOption::Dev),
        no_exec: has(MountOption::NoExec),
        over_non_empty: has(MountOption::NonEmpty),
    })
}

/// The path from the root: the peer has another working directory. Asks nothing of what is there, which
/// may be a dead mount.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, AdminError> {
    std::path::absolute(path).map_err(|error| file_error("use", path, &error))
}

/// One `mount`, with everything that it needs.
struct Command<'c> {
    paths: &'c Paths,
    launcher: &'c dyn Launch,
    output: &'c Output,
    args: &'c MountArgs,
    interrupt: &'c Interrupt,
    request: MountRequest,
}

impl Command<'_> {
    async fn mount(&self, reporter: Option<&Reporter>) -> Done {
        loop {
            let found = tokio::select! {
                biased;
                () = self.interrupt.wait() => return Err(Failure::Interrupted),
                found = find(self.paths, true) => found?,
            };
            let client = match found {
                Found::Running(client) => client,
                Found::Free(lock) if self.args.foreground => {
                    return self.serve(lock, reporter).await;
                }
                Found::Free(lock) => {
                    drop(lock);
                    logging::start(self.output, LogLevel::Warn)?;
                    let begun = background::start(self.paths, self.output, self.args);
                    let mounted = begun?.mounted(self.output, self.interrupt).await?;
                    return self.tell(&mounted);
                }
            };
            if reporter.is_none() {
                logging::start(self.output, LogLevel::Warn)?;
            }
            let Some(mounted) = self.ask(&client).await? else {
                continue;
            };
            drop(client);
            // Of a parent that ends.
            if let Some(reporter) = reporter {
                reporter.mounted(&mounted, false);
                return Ok(());
            }
            self.tell(&mounted)?;
            return match self.args.foreground {
                true => self.watch(&mounted).await,
                false => Ok(()),
            };
        }
    }

    /// Has the running peer mount it. `None` if that peer was just about to end.
    async fn ask(&self, client: &Client) -> Result<Option<Mounted>, Failure> {
        let asked = tokio::select! {
            biased;
            () = self.interrupt.wait() => return Err(Failure::Interrupted),
            asked = client.mount(self.request.clone()) => asked,
        };
        match asked {
            Ok(mounted) => Ok(Some(mounted)),
            Err(error) if error.class == Exit::Failed => match client.status().await {
                Ok(status) if status.serves_mounts => Err(error.into()),
                Ok(_) => Ok(None),
                Err(_) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn tell(&self, mounted: &Mounted) -> Done {
        if self.output.json {
            self.output.document(mounted)?;
        }
        let made = if mounted.created {
            ", which is new,"
        } else {
            ""
        };
        self.output.say(&format!(
            "The volume `{}`{made} is mounted on {}. To end that: cairn umount {1}",
            mounted.volume, mounted.dir
        ));
        if mounted.read_only && !self.request.read_only {
            self.output.note(
                "this peer may only read that volume: no changes are allowed there; a member who writes can make \
                 another ticket",
            );
        }
        Ok(())
    }

    /// Stays while the running peer serves the mount, which ends with this command.
    async fn watch(&self, mounted: &Mounted) -> Done {
        loop {
            tokio::select! {
                biased;
                () = self.interrupt.wait() => return self.end(mounted).await,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            let volumes = match Client::connect(&self.paths.data_dir).await {
                Ok(client) => client.volumes().await?,
                Err(ConnectError::NoPeer) => return Ok(()),
                Err(error) => return Err(AdminError::failed(error.to_string()).into()),
            };
            let is_there = volumes.iter().any(|volume| {
                volume.name == mounted.volume && volume.mounted_on.as_ref() == Some(&mounted.dir)
            });
            if !is_there {
                return Ok(());
            }
        }
    }

    async fn end(&self, mounted: &Mounted) -> Done {
        let client = match Client::connect(&self.paths.data_dir).await {
            Ok(client) => client,
            Err(ConnectError::NoPeer) => return Ok(()),
            Err(error) => return Err(AdminError::failed(error.to_string()).into()),
        };
        let request = UmountRequest {
            dir_hex: mounted.dir_hex.clone(),
            lazy: false,
        };
        match client.umount(request).await {
            Err(error) if error.class != Exit::Missing => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Runs a peer here until its last mount is gone.
    async fn serve(&self, lock: DirLock, reporter: Option<&Reporter>) -> Done {
        let level = load_config(self.paths)?.log.level;
        match reporter {
            Some(reporter) => logging::start_in(self.output, level, reporter.log())?,
            None => logging::start(self.output, level)?,
        }
        let peer = tokio::select! {
            biased;
            () = self.interrupt.wait() => return Err(Failure::Interrupted),
            peer = OwnPeer::start(self.paths, self.launcher, self.output, lock, false) => peer?,
        };
        let backend = peer.running().backend();
        let mounted = tokio::select! {
            biased;
            () = self.interrupt.wait() => Err(Failure::Interrupted),
            mounted = backend.mount(self.request.clone()) => mounted.map_err(Failure::from),
        };
        drop(backend);
        let told = mounted.and_then(|mounted| match reporter {
            Some(reporter) => {
                reporter.mounted(&mounted, peer.running().has_new_identity());
                Ok(())
            }
            None => self.tell(&mounted),
        });
        if let Err(failure) = told {
            peer.stop().await;
            return Err(failure);
        }
        tokio::select! {
            biased;
            () = self.interrupt.wait() => {}
            () = peer.server().shutdown_requested() => {}
            () = peer.running().mounts_ended() => {
                // Other commands that use this peer meanwhile come to their end.
                peer.finish_or(self.interrupt.wait()).await;
                return Ok(());
            }
            error = peer.running().failed() => {
                peer.stop().await;
                return Err(error.into());
            }
        }
        peer.stop().await;
        Ok(())
    }
}
