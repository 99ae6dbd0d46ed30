//! What an answer costs: ready, as a boxed future, and moved to a task, with and without a kernel.
//!
//! `cargo run --release -p cairnfs-fuse --example dispatch -- DIR` (root)

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs_fuse::kernel::{Mount, MountOptions};
use cairnfs_fuse::memfs::{Limits, MemFs};
use cairnfs_fuse::*;

/// The filesystem in memory, whose `statfs` (which the kernel never caches) may be moved to a task.
struct Moved {
    inner: Arc<MemFs>,
    is_moved: bool,
}

macro_rules! pass {
    ($($name:ident($($arg:ident: $of:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $of),*) -> $out { self.inner.$name($($arg),*) })*
    };
}

impl FileSystem for Moved {
    fn statfs(&self, ino: Ino) -> Answer<Statfs> {
        if !self.is_moved {
            return self.inner.statfs(ino);
        }
        let inner = self.inner.clone();
        Answer::later(async move { inner.statfs(ino).wait().await })
    }

    fn forget(&self, ino: Ino, count: u64) {
        self.inner.forget(ino, count);
    }

    pass! {
        lookup(caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<Lookup>;
        getattr(caller: &Caller, ino: Ino, fh: Option<Fh>) -> Answer<AttrReply>;
        setattr(caller: &Caller, ino: Ino, change: &SetAttr) -> Answer<AttrReply>;
        readlink(caller: &Caller, ino: Ino) -> Answer<Bytes>;
        mknod(caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry>;
        mkdir(caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry>;
        symlink(caller: &Caller, parent: Ino, name: Name<'_>, to: &[u8]) -> Answer<Entry>;
        link(caller: &Caller, ino: Ino, parent: Ino, name: Name<'_>) -> Answer<Entry>;
        unlink(caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()>;
        rmdir(caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()>;
        rename(caller: &Caller, rename: &Rename<'_>) -> Answer<()>;
        open(caller: &Caller, ino: Ino, flags: OpenFlags) -> Answer<Opened>;
        create(caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode, flags: OpenFlags)
            -> Answer<(Entry, Opened)>;
        read(ino: Ino, fh: Fh, offset: u64, len: u32, flags: OpenFlags) -> Answer<Data>;
        write(caller: &Caller, ino: Ino, fh: Fh, write: &Write<'_>) -> Answer<u32>;
        flush(ino: Ino, fh: Fh, owner: u64) -> Answer<()>;
        fsync(ino: Ino, fh: Fh, data_only: bool) -> Answer<()>;
        release(ino: Ino, fh: Fh, flags: OpenFlags) -> Answer<()>;
        readdir(ino: Ino, fh: Fh, offset: u64, batch: DirBatch) -> Answer<DirBatch>;
        fsyncdir(ino: Ino, fh: Fh, data_only: bool) -> Answer<()>;
        lseek(ino: Ino, fh: Fh, offset: u64, whence: Whence) -> Answer<u64>;
    }
}

/// The median of some rounds, in nanoseconds a call.
fn measure(what: &str, count: u32, mut call: impl FnMut()) {
    let mut rounds: Vec<u128> = (0..9)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(|_| call());
            start.elapsed().as_nanos() / u128::from(count)
        })
        .collect();
    rounds.sort_unstable();
    eprintln!("{what:42} {:>8} ns", rounds[4]);
}

async fn mounted(dir: &Path, is_moved: bool) -> Result<(), Box<dyn std::error::Error>> {
    let inner = Arc::new(MemFs::new(Limits::default()));
    let fs = Arc::new(Moved { inner, is_moved });
    let options = MountOptions::default();
    let runtime = tokio::runtime::Handle::current();
    let mount = tokio::task::block_in_place(|| Mount::start(fs, dir, &options, runtime))?;
    let what = if is_moved {
        "moved to a task"
    } else {
        "inline"
    };
    tokio::task::block_in_place(|| {
        measure(&format!("statvfs on a mount, {what}"), 10_000, || {
            black_box(rustix::fs::statvfs(dir)).ok();
        });
    });
    mount.unmount(Duration::from_secs(10)).await?;
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: dispatch DIR")?;
    let value = AttrReply {
        attr: MemFs::new(Limits::default())
            .getattr(&Caller::ROOT, Ino::ROOT, None)
            .now()?
            .attr,
        ttl: Duration::from_secs(1),
    };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        measure("an answer that is ready", 1_000_000, || {
            black_box(Answer::ok(black_box(value)).now()).ok();
        });
        measure("an answer in a boxed future", 1_000_000, || {
            let later = Answer::later(async move { Ok(black_box(value)) });
            black_box(futures::executor::block_on(later.wait())).ok();
        });
        measure("an answer by a task, waited for", 20_000, || {
            let later = Answer::later(async move { Ok(black_box(value)) });
            black_box(runtime.block_on(runtime.spawn(later.wait()))).ok();
        });
    });
    for is_moved in [false, true] {
        mounted(Path::new(&dir), is_moved).await?;
    }
    Ok(())
}
