//! What the adapter promises whatever the filesystem does.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use cairnfs_fuse::kernel::{Mount, MountError, MountOptions, UnmountError};
use cairnfs_fuse::memfs::{Limits, MemFs};
use tokio::sync::Semaphore;

use crate::trick::{Mode, Trick};
use crate::{LONG, Mounted, can_mount};

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn impatient() -> MountOptions {
    MountOptions {
        deadline: Duration::from_millis(300),
        ..MountOptions::default()
    }
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[test]
fn answers_of_tasks_arrive() {
    if !can_mount() {
        return;
    }
    let m = Mounted::new(Trick::new());
    fs::write(m.path("trick"), "from a task").unwrap();
    m.mount.notifier().drain(LONG);
    m.fs.set(Mode::Task);
    assert_eq!(fs::read(m.path("trick")).unwrap(), b"from a task");
    // The answer leaves before the count is lowered.
    eventually("none waits", || m.mount.in_flight() == 0);
}

#[test]
fn a_request_that_is_never_answered_ends_at_its_deadline() {
    if !can_mount() {
        return;
    }
    let m = Mounted::with(Trick::new(), impatient());
    m.fs.set(Mode::Gate(Arc::new(Semaphore::new(0))));
    assert_eq!(errno(fs::metadata(m.path("trick")).unwrap_err()), libc::EIO);
    m.fs.set(Mode::Pass);
    fs::write(m.path("trick"), "back").unwrap();
    assert_eq!(fs::read(m.path("trick")).unwrap(), b"back");
    eventually("the request is given up", || m.mount.in_flight() == 0);
}

#[test]
fn what_is_found_too_late_is_taken_back() {
    if !can_mount() {
        return;
    }
    let options = MountOptions {
        deadline: Duration::from_millis(1500),
        ..MountOptions::default()
    };
    let m = Mounted::with(Trick::new(), options);
    // Made behind the kernel's back, so that the kernel must ask.
    let new = cairnfs_fuse::NewNode {
        kind: cairnfs_fuse::FileType::Regular,
        perm: 0o644,
        umask: 0,
        rdev: 0,
    };
    let (root, caller) = (cairnfs_fuse::Ino::ROOT, cairnfs_fuse::Caller::ROOT);
    use cairnfs_fuse::FileSystem as _;
    let made = m.fs.inner.mknod(&caller, root, "trick".into(), &new);
    let ino = made.now().unwrap().attr.ino;
    m.fs.inner.forget(ino, 1);
    let gate = Arc::new(Semaphore::new(0));
    m.fs.set(Mode::Gate(gate.clone()));
    assert_eq!(errno(fs::metadata(m.path("trick")).unwrap_err()), libc::EIO);
    assert_eq!(m.fs.forgotten.load(SeqCst), 0);
    gate.add_permits(1);
    eventually("the lookup is taken back", || {
        m.fs.forgotten.load(SeqCst) == 1
    });
    assert!(!m.fs.inner.known().contains(&ino));
}

#[test]
fn requests_beyond_the_bound_are_refused_not_queued() {
    if !can_mount() {
        return;
    }
    let options = MountOptions {
        in_flight_max: 2,
        ..MountOptions::default()
    };
    let m = Mounted::with(Trick::new(), options);
    for name in ["a", "b", "c"] {
        fs::write(m.path(name), name).unwrap();
    }
    let gate = Arc::new(Semaphore::new(0));
    m.fs.set(Mode::Gate(gate.clone()));
    let direct = |name: &str| {
        let path = m.path(name);
        std::thread::spawn(move || open_direct(&path).read(&mut [0; 4096]))
    };
    let waiting = [direct("a"), direct("b")];
    eventually("two wait", || m.mount.in_flight() == 2);
    let refused = open_direct(&m.path("c")).read(&mut [0; 4096]);
    assert_eq!(errno(refused.unwrap_err()), libc::EAGAIN);
    gate.add_permits(2);
    for thread in waiting {
        assert_eq!(thread.join().unwrap().unwrap(), 1);
    }
}

fn open_direct(path: &std::path::Path) -> File {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_DIRECT);
    options.open(path).unwrap()
}

#[test]
fn a_panic_costs_one_request() {
    if !can_mount() {
        return;
    }
    let m = Mounted::new(Trick::new());
    // More often than there are threads that read requests.
    for mode in [Mode::Panic, Mode::PanicInTask] {
        m.fs.set(mode);
        for _ in 0..5 {
            let failed = fs::metadata(m.path("trick"));
            assert_eq!(errno(failed.unwrap_err()), libc::EIO);
        }
    }
    m.fs.set(Mode::Pass);
    fs::write(m.path("trick"), "still here").unwrap();
    assert_eq!(fs::read(m.path("trick")).unwrap(), b"still here");
}

#[test]
fn a_process_waiting_in_a_read_can_be_killed() {
    if !can_mount() {
        return;
    }
    let m = Mounted::new(Trick::new());
    fs::write(m.path("a"), vec![1; 100_000]).unwrap();
    // Out of the kernel's cache.
    let file = File::open(m.path("a")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    drop(file);
    let gate = Arc::new(Semaphore::new(0));
    m.fs.set(Mode::Gate(gate.clone()));
    let mut child = Command::new("cat")
        .arg(m.path("a"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it reads", || m.mount.in_flight() > 0);
    child.kill().unwrap();
    // The answer never comes, and the deadline is a minute away.
    eventually("it dies", || child.try_wait().unwrap().is_some());
    gate.add_permits(1000);
}

#[test]
fn an_unmount_from_outside_is_noticed() {
    if !can_mount() {
        return;
    }
    let m = Mounted::new(Trick::new());
    fs::write(m.path("a"), "x").unwrap();
    assert!(!m.mount.has_ended());
    let status = Command::new("umount").arg(m.mount.dir()).status().unwrap();
    assert!(status.success());
    let ended = async { tokio::time::timeout(LONG, m.mount.ended()).await };
    m.runtime.block_on(ended).unwrap().unwrap();
    assert!(m.mount.has_ended());
    assert_eq!(m.fs.ended.load(SeqCst), 1);
    // Unmounting what is gone is no error.
    m.runtime.block_on(m.mount.unmount(LONG)).unwrap();
}

#[test]
fn a_mount_in_use_says_so_and_stays() {
    if !can_mount() {
        return;
    }
    let m = Mounted::new(MemFs::new(Limits::default()));
    let mut file = File::create_new(m.path("a")).unwrap();
    let limit = Duration::from_millis(200);
    let busy = m.runtime.block_on(m.mount.unmount(limit)).unwrap_err();
    assert!(matches!(busy, UnmountError::Busy(_)), "{busy}");
    std::io::Write::write_all(&mut file, b"still works").unwrap();
    drop(file);
    m.runtime.block_on(m.mount.unmount(LONG)).unwrap();
    assert!(m.mount.has_ended());
    assert!(!m.path("a").exists(), "the directory below shows again");
}

#[test]
fn a_detached_mount_serves_what_is_open() {
    if !can_mount() {
        return;
    }
    let m = Mounted::new(MemFs::new(Limits::default()));
    fs::write(m.path("a"), "open").unwrap();
    let mut file = File::open(m.path("a")).unwrap();
    m.mount.detach().unwrap();
    assert!(!m.path("a").exists());
    assert!(!m.mount.has_ended());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "open");
    drop(file);
    let ended = async { tokio::time::timeout(LONG, m.mount.ended()).await };
    m.runtime.block_on(ended).unwrap().unwrap();
}

#[test]
fn a_mount_whose_process_died_is_named() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // What a crash leaves: a mount whose device nobody has open.
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let data = std::ffi::CString::new(data).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("dead", dir.path(), "fuse", flags, &*data).unwrap();
    drop(device);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fs = Arc::new(MemFs::new(Limits::default()));
    let options = MountOptions::default();
    let start = || Mount::start(fs.clone(), dir.path(), &options, runtime.handle().clone());
    let stale = start();
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let stale = stale.err().unwrap();
    assert!(matches!(stale, MountError::Stale(_)), "{stale}");
    assert!(stale.to_string().contains("umount"), "{stale}");
    // After the remedy it works.
    let mount = start().unwrap();
    runtime.block_on(mount.unmount(LONG)).unwrap();
}

#[test]
fn a_read_only_mount_refuses_changes() {
    if !can_mount() {
        return;
    }
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let m = Mounted::with(MemFs::new(Limits::default()), options);
    let refused = fs::write(m.path("a"), "x").unwrap_err();
    assert_eq!(errno(refused), libc::EROFS);
}
