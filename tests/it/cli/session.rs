//! A peer inside a command: started on demand, shared meanwhile, gone afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairnfs::admin::types::KeyImported;
use cairnfs::admin::{AdminError, Answer, Backend, DirLock, SOCKET_NAME};
use cairnfs::cli::output::Output;
use cairnfs::cli::session::Session;
use cairnfs::cli::{Launch, LaunchOptions, Running};
use cairnfs::config::{Environment, Paths};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::fake::Fake;

/// Counts how many peers it started and stopped.
#[derive(Default)]
struct Counter {
    started: AtomicUsize,
    stopped: AtomicUsize,
}

struct FakeLaunch(Arc<Counter>);

struct FakeRunning(Arc<Counter>);

impl Launch for FakeLaunch {
    fn launch(&self, options: LaunchOptions) -> Answer<'_, Box<dyn Running>> {
        assert!(options.is_embedded);
        self.0.started.fetch_add(1, Ordering::SeqCst);
        let running: Box<dyn Running> = Box::new(FakeRunning(Arc::clone(&self.0)));
        async {
            // Long enough for others to come while it starts.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(running)
        }
        .boxed()
    }

    fn import_key(&self, _: LaunchOptions, _: String, _: String) -> Answer<'_, KeyImported> {
        async { Err(AdminError::failed("not here")) }.boxed()
    }

    fn umount(&self, _: PathBuf, _: bool) -> Answer<'_, ()> {
        async { Err(AdminError::failed("not here")) }.boxed()
    }

    fn umount_dead(&self, _: PathBuf) -> Answer<'_, ()> {
        async { Err(AdminError::failed("not here")) }.boxed()
    }
}

impl Running for FakeRunning {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(Fake::default())
    }

    fn has_new_identity(&self) -> bool {
        false
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.0.stopped.fetch_add(1, Ordering::SeqCst);
        async {}.boxed()
    }
}

fn paths(dir: &Path) -> Paths {
    Paths::resolve(Some(dir), None, &Environment::default()).unwrap()
}

async fn open(dir: &Path, counter: &Arc<Counter>) -> Result<Session, AdminError> {
    let launch = FakeLaunch(Arc::clone(counter));
    Session::open(&paths(dir), &launch, &Output::new(false, true, 0)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_at_the_same_time_share_one_peer() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("new");
    let counter = Arc::new(Counter::default());
    let sessions = (0..8).map(|_| open(&dir, &counter));
    let sessions = futures::future::join_all(sessions).await;
    let sessions: Vec<Session> = sessions.into_iter().map(Result::unwrap).collect();
    assert_eq!(counter.started.load(Ordering::SeqCst), 1);
    let (own, others): (Vec<Session>, Vec<Session>) =
        sessions.into_iter().partition(Session::is_embedded);
    assert_eq!((own.len(), others.len()), (1, 7));
    assert!(dir.join("config.toml").exists());
    // The command that started it ends first, and waits for the others.
    let ending = tokio::spawn(async move {
        for session in own {
            session.close().await;
        }
    });
    for session in others {
        session.backend().status().await.unwrap();
        assert_eq!(counter.stopped.load(Ordering::SeqCst), 0);
        session.close().await;
    }
    ending.await.unwrap();
    assert_eq!(counter.stopped.load(Ordering::SeqCst), 1);
    assert!(!dir.join(SOCKET_NAME).exists());
    DirLock::acquire(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_commands_never_miss_each_other() {
    let home = tempfile::tempdir().unwrap();
    let counter = Arc::new(Counter::default());
    let commands = (0..6).map(|_| {
        let (dir, counter) = (home.path().to_owned(), Arc::clone(&counter));
        tokio::spawn(async move {
            for _ in 0..4 {
                let session = open(&dir, &counter).await.unwrap();
                session.backend().status().await.unwrap();
                session.close().await;
            }
        })
    });
    for command in commands.collect::<Vec<_>>() {
        command.await.unwrap();
    }
    let started = counter.started.load(Ordering::SeqCst);
    assert_eq!(counter.stopped.load(Ordering::SeqCst), started);
}

#[tokio::test]
async fn a_bad_config_starts_nothing() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.toml"), "a = 1\n").unwrap();
    let counter = Arc::new(Counter::default());
    let error = open(home.path(), &counter).await.err().unwrap();
    assert_eq!(error.exit_code, 2);
    assert!(error.error.contains("config.toml:1: a: unknown key"));
    assert_eq!(counter.started.load(Ordering::SeqCst), 0);
    DirLock::acquire(home.path()).unwrap();
}
