//! The filesystem in memory with operations that hang, come late or panic on demand.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairnfs_fuse::memfs::{Limits, MemFs};
use cairnfs_fuse::*;
use tokio::sync::Semaphore;

/// What becomes of reads and of lookups of the name `trick`.
#[derive(Clone, Default)]
pub enum Mode {
    /// What they are.
    #[default]
    Pass,
    /// Answered from a task.
    Task,
    /// Answered when the gate has a permit.
    Gate(Arc<Semaphore>),
    /// A panic on the thread that reads requests.
    Panic,
    /// A panic in a task.
    PanicInTask,
}

pub struct Trick {
    pub inner: Arc<MemFs>,
    pub mode: Mutex<Mode>,
    /// Lookups taken back, handles given back, ends seen.
    pub forgotten: AtomicUsize,
    pub released: AtomicUsize,
    pub ended: AtomicUsize,
}

impl Trick {
    pub fn new() -> Trick {
        Trick {
            inner: Arc::new(MemFs::new(Limits::default())),
            mode: Mutex::default(),
            forgotten: AtomicUsize::new(0),
            released: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
        }
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn play<T: Send + 'static>(
        &self,
        act: impl FnOnce(&MemFs) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let inner = self.inner.clone();
        // Out of the lock before anything panics.
        let mode = self.mode.lock().unwrap().clone();
        match mode {
            Mode::Pass => act(&inner),
            Mode::Task => Answer::later(async move { act(&inner).wait().await }),
            Mode::Gate(gate) => Answer::later(async move {
                let permit = gate.acquire_owned().await.map_err(|_| Errno::EIO)?;
                permit.forget();
                act(&inner).wait().await
            }),
            Mode::Panic => panic!("on demand"),
            Mode::PanicInTask => Answer::later(async { panic!("on demand, later") }),
        }
    }
}

macro_rules! pass {
    ($($name:ident($($arg:ident: $of:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $of),*) -> $out { self.inner.$name($($arg),*) })*
    };
}

impl FileSystem for Trick {
    fn lookup(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<Lookup> {
        if name.bytes() != b"trick" {
            return self.inner.lookup(caller, parent, name);
        }
        let caller = *caller;
        self.play(move |fs| fs.lookup(&caller, parent, "trick".into()))
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        self.inner.open(caller, ino, flags)
    }

    fn read(&self, ino: Ino, fh: Fh, offset: u64, len: u32, flags: OpenFlags) -> Answer<Data> {
        self.play(move |fs| fs.read(ino, fh, offset, len, flags))
    }

    fn forget(&self, ino: Ino, count: u64) {
        self.forgotten.fetch_add(1, SeqCst);
        self.inner.forget(ino, count);
    }

    fn release(&self, ino: Ino, fh: Fh, flags: OpenFlags) -> Answer<()> {
        self.released.fetch_add(1, SeqCst);
        self.inner.release(ino, fh, flags)
    }

    fn ended(&self) {
        self.ended.fetch_add(1, SeqCst);
    }

    pass! {
        features() -> Features;
        known() -> Vec<Ino>;
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
        create(caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode, flags: OpenFlags)
            -> Answer<(Entry, Opened)>;
        write(caller: &Caller, ino: Ino, fh: Fh, write: &Write<'_>) -> Answer<u32>;
        flush(ino: Ino, fh: Fh, owner: u64) -> Answer<()>;
        fsync(ino: Ino, fh: Fh, data_only: bool) -> Answer<()>;
        readdir(ino: Ino, fh: Fh, offset: u64, batch: DirBatch) -> Answer<DirBatch>;
        fsyncdir(ino: Ino, fh: Fh, data_only: bool) -> Answer<()>;
        statfs(ino: Ino) -> Answer<Statfs>;
        lseek(ino: Ino, fh: Fh, offset: u64, whence: Whence) -> Answer<u64>;
    }
}
