//! A peer to talk to: the running one, or one inside this command.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::launch::{Launch, LaunchOptions, Running};
use super::output::Output;
use crate::admin::{
    AdminError, AdminServer, Backend, Client, ConnectError, DirLock, LockError, serve,
};
use crate::config::{Config, ConfigError, Paths, create_if_absent};

/// How long another process may hold the data directory without answering: it may be starting.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);
/// How long clients of a stopping peer may take to finish.
const GRACE: Duration = Duration::from_secs(5);

/// What to tell about an identity that was just made.
pub(super) const NEW_IDENTITY: &str = "this peer got a new identity; `cairn key export FILE` makes its backup, without which a lost \
     disk takes identity and links with it";

/// A peer for the time of one command.
pub struct Session {
    backend: Arc<dyn Backend>,
    own: Option<OwnPeer>,
}

/// A peer that runs in this process and answers on the socket.
pub struct OwnPeer {
    running: Box<dyn Running>,
    server: AdminServer,
    // Given back last.
    lock: DirLock,
}

impl Session {
    /// Connects to the peer that runs on the data directory, or starts one.
    ///
    /// # Errors
    /// If the directory is held by a process that does not answer, or no peer can be started.
    pub async fn open(
        paths: &Paths,
        launcher: &dyn Launch,
        output: &Output,
    ) -> Result<Session, AdminError> {
        match find(paths, false).await? {
            Found::Running(client) => Ok(Session {
                backend: Arc::new(client),
                own: None,
            }),
            Found::Free(lock) => Self::embedded(paths, launcher, output, lock).await,
        }
    }

    async fn embedded(
        paths: &Paths,
        launcher: &dyn Launch,
        output: &Output,
        lock: DirLock,
    ) -> Result<Session, AdminError> {
        let own = OwnPeer::start(paths, launcher, output, lock, true).await?;
        Ok(Session {
            backend: own.running.backend(),
            own: Some(own),
        })
    }

    /// How the peer is controlled.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Whether the peer ends with this command.
    pub const fn is_embedded(&self) -> bool {
        self.own.is_some()
    }

    /// Ends the session. A peer of its own first waits for other commands that use it.
    pub async fn close(self) {
        // Other holders would keep it alive beyond its shutdown.
        drop(self.backend);
        if let Some(own) = self.own {
            own.finish().await;
        }
    }
}

/// What there is on a data directory.
pub enum Found {
    /// A peer runs.
    Running(Client),
    /// Nobody, and now it is ours.
    Free(DirLock),
}

/// Finds the peer that runs on the data directory, or locks it. With `for_mounts`, a peer that serves
/// none, because it ends with a command or is about to end, is waited for.
///
/// # Errors
/// If the directory is held for long by a process that does not answer, or cannot be used.
pub async fn find(paths: &Paths, for_mounts: bool) -> Result<Found, AdminError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let held = match Client::connect(&paths.data_dir).await {
            Ok(client) if !for_mounts => return Ok(Found::Running(client)),
            Ok(client) => match client.status().await {
                Ok(status) if status.serves_mounts => return Ok(Found::Running(client)),
                Ok(status) => format!(
                    "process {} works for another command on {}, and serves no mounts",
                    status.pid,
                    paths.data_dir.display()
                ),
                Err(error) => error.to_string(),
            },
            Err(ConnectError::NoPeer) => match DirLock::acquire(&paths.data_dir) {
                Ok(lock) => return Ok(Found::Free(lock)),
                Err(error @ LockError::Held { .. }) => {
                    format!("{error}, which does not answer")
                }
                Err(error) => return Err(AdminError::of(&error)),
            },
            Err(error @ ConnectError::Silent(_)) => error.to_string(),
            Err(error) => return Err(AdminError::failed(error.to_string())),
        };
        if Instant::now() > give_up {
            return Err(AdminError::failed(held).hint("wait for it to end, or stop it"));
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl OwnPeer {
    /// Starts a peer and serves its control API.
    ///
    /// # Errors
    /// If the config has problems, or the peer or its socket cannot be started.
    pub async fn start(
        paths: &Paths,
        launcher: &dyn Launch,
        output: &Output,
        lock: DirLock,
        is_embedded: bool,
    ) -> Result<OwnPeer, AdminError> {
        let config = load_config(paths)?;
        let options = LaunchOptions {
            paths: paths.clone(),
            config,
            is_embedded,
        };
        let running = launcher.launch(options).await?;
        if running.has_new_identity() {
            output.note(NEW_IDENTITY);
        }
        let server = match serve(&lock, running.backend()) {
            Ok(server) => server,
            Err(error) => {
                running.shutdown().await;
                return Err(AdminError::failed(format!(
                    "cannot open the control socket in {}: {error}",
                    paths.data_dir.display()
                )));
            }
        };
        Ok(OwnPeer {
            running,
            server,
            lock,
        })
    }

    /// The peer.
    pub fn running(&self) -> &dyn Running {
        self.running.as_ref()
    }

    /// Its control API.
    pub const fn server(&self) -> &AdminServer {
        &self.server
    }

    /// Waits for its clients, then stops it.
    pub async fn finish(mut self) {
        self.server.finish().await;
        self.running.shutdown().await;
        drop(self.lock);
    }

    /// Waits for its clients, but not beyond `stop`, then stops it.
    pub async fn finish_or(mut self, stop: impl Future<Output = ()>) {
        let is_finished = tokio::select! {
            biased;
            () = self.server.finish() => true,
            () = stop => false,
        };
        if is_finished {
            self.running.shutdown().await;
            drop(self.lock);
        } else {
            self.stop().await;
        }
    }

    /// Stops it; its clients have a few seconds.
    pub async fn stop(self) {
        self.server.stop(GRACE).await;
        self.running.shutdown().await;
        drop(self.lock);
    }
}

/// Reads the config file; one that nobody named is made on demand.
///
/// # Errors
/// If it cannot be made or read, or has problems.
pub fn load_config(paths: &Paths) -> Result<Config, AdminError> {
    if !paths.config_is_named {
        create_if_absent(&paths.config_file).map_err(|error| AdminError::of(&error))?;
    }
    Config::load(&paths.config_file).map_err(|error| config_error(&error))
}

/// A config problem, as commands report it.
pub fn config_error(error: &ConfigError) -> AdminError {
    match error {
        ConfigError::Invalid { file, .. } => AdminError::usage(error.to_string()).hint(format!(
            "correct {} and look again: cairn config check",
            file.display()
        )),
        ConfigError::Unreadable { .. } => AdminError::failed(error.to_string()),
        ConfigError::NoDataDir => AdminError::usage(error.to_string()),
    }
}
