//! Tells the kernel what changed behind its back.
//!
//! A notice can block in the kernel for as long as a request on the same file or directory is being
//! answered, and for ever if it is sent by what that answer waits for. So one thread sends them, holds
//! no lock meanwhile, and nobody waits for it: [`Notifier::send`] only queues.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::INodeNo;

use crate::Ino;

/// `FUSE_NOTIFY_INC_EPOCH`: every name is looked up again before it is used (Linux 6.16).
const NOTIFY_INC_EPOCH: i32 = 8;

/// One change the kernel should know of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// Attributes and all cached content of a file, or the cached listing of a directory.
    Inode(Ino),
    /// Attributes, and the cached content of a range: offset and length in bytes.
    Range(Ino, u64, u64),
    /// What a name in a directory means, be it a file or nothing.
    Entry(Ino, Bytes),
    /// A name (of the directory, first) was removed that meant the file (second): also tells
    /// watchers (inotify).
    Delete(Ino, Ino, Bytes),
    /// Content to put into the kernel's cache: file, offset, bytes.
    Store(Ino, u64, Bytes),
    /// All names.
    Everything,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Notice>,
    /// What waits already and need not be said twice.
    known: HashSet<Notice>,
    overflowed: bool,
    is_sending: bool,
    is_closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    waiting_max: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to the thread that tells the kernel of changes. Cheap to clone; works from anywhere,
/// from within a request too.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

impl Notifier {
    /// Queues a notice and never waits. What is queued already is not queued again. Beyond the
    /// limit all single notices are dropped for one that covers everything: all names are
    /// revalidated and every file the kernel knows is invalidated.
    pub fn send(&self, notice: Notice) {
        let mut queue = self.shared.lock();
        if queue.is_closed || queue.overflowed {
            return;
        }
        if queue.waiting.len() >= self.shared.waiting_max {
            queue.waiting.clear();
            queue.known.clear();
            queue.overflowed = true;
        } else if let Notice::Store(ino, ..) = notice {
            // An invalidation that comes later must not be merged into one from before.
            let is_other = |known: &Notice| match known {
                Notice::Inode(of) | Notice::Range(of, ..) => *of != ino,
                _ => true,
            };
            queue.known.retain(is_other);
            queue.waiting.push_back(notice);
        } else {
            let is_covered = match &notice {
                Notice::Range(ino, ..) => queue.known.contains(&Notice::Inode(*ino)),
                _ => false,
            };
            if is_covered || !queue.known.insert(notice.clone()) {
                return;
            }
            queue.waiting.push_back(notice);
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until the kernel has been told of all that was queued before; false if that takes
    /// longer than `limit`. Blocks: never to be called where a request is answered.
    pub fn drain(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut queue = self.shared.lock();
        loop {
            let is_busy = queue.is_sending || queue.overflowed || !queue.waiting.is_empty();
            if !is_busy || queue.is_closed {
                return !is_busy;
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the thread once it has nothing in hand.
    pub(super) fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

/// Where notices go.
pub(super) trait Kernel: Send + 'static {
    fn tell(&self, notice: &Notice) -> io::Result<()>;
    /// All files the kernel was told of.
    fn known(&self) -> Vec<Ino>;
}

/// The kernel itself.
pub(super) struct Device<K> {
    pub(super) notifier: fuser::Notifier,
    /// A duplicate of the device, for the notices the crate does not have.
    pub(super) device: File,
    pub(super) known: K,
}

impl<K: Fn() -> Vec<Ino> + Send + 'static> Kernel for Device<K> {
    fn tell(&self, notice: &Notice) -> io::Result<()> {
        let to = &self.notifier;
        match notice {
            Notice::Inode(ino) => to.inval_inode(INodeNo(ino.0), 0, 0),
            Notice::Range(ino, offset, len) => {
                let at = i64::try_from(*offset).unwrap_or(i64::MAX);
                let len = i64::try_from(*len).unwrap_or(0);
                to.inval_inode(INodeNo(ino.0), at, len)
            }
            Notice::Entry(dir, name) => to.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)),
            Notice::Delete(dir, ino, name) => {
                let name = OsStr::from_bytes(name);
                let told = to.delete(INodeNo(dir.0), INodeNo(ino.0), name);
                // A directory that the kernel believes to be full, or one that is mounted on: then
                // it at least looks the name up again.
                told.or_else(|_| to.inval_entry(INodeNo(dir.0), name))
            }
            Notice::Store(ino, offset, bytes) => to.store(INodeNo(ino.0), *offset, bytes),
            Notice::Everything => {
                let mut message = [0u8; 16];
                message[..4].copy_from_slice(&16u32.to_ne_bytes());
                message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
                (&self.device).write_all(&message)
            }
        }
    }

    fn known(&self) -> Vec<Ino> {
        (self.known)()
    }
}

/// Starts the thread.
pub(super) fn start(kernel: impl Kernel, waiting_max: usize) -> io::Result<Notifier> {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        changed: Condvar::new(),
        waiting_max: waiting_max.max(1),
    });
    let own = shared.clone();
    let thread = std::thread::Builder::new().name("fuse-notify".into());
    thread.spawn(move || run(&own, &kernel))?;
    Ok(Notifier { shared })
}

fn run(shared: &Shared, kernel: &impl Kernel) {
    loop {
        let mut queue = shared.lock();
        queue.is_sending = false;
        shared.changed.notify_all();
        let overflowed = loop {
            if queue.is_closed {
                return;
            }
            if queue.overflowed || !queue.waiting.is_empty() {
                break std::mem::take(&mut queue.overflowed);
            }
            let waited = shared.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        };
        queue.is_sending = true;
        let next = queue.waiting.pop_front();
        if let Some(next) = &next {
            queue.known.remove(next);
        }
        drop(queue);
        let result = match next {
            _ if overflowed => tell_everything(kernel),
            Some(notice) => kernel.tell(&notice),
            None => Ok(()),
        };
        let Err(error) = result else { continue };
        match error.raw_os_error() {
            // The mount has ended.
            Some(libc::ENODEV | libc::ENOTCONN | libc::EBADF | libc::EPERM) => {
                let mut queue = shared.lock();
                queue.is_closed = true;
                queue.is_sending = false;
                queue.waiting.clear();
                drop(queue);
                shared.changed.notify_all();
                return;
            }
            _ => tracing::debug!(%error, "the kernel did not take a notice"),
        }
    }
}

/// Names by one notice (an older kernel has none: they then hold until their time to live ends), files
/// one by one: an open file is not looked up again, so that names alone would not do.
fn tell_everything(kernel: &impl Kernel) -> io::Result<()> {
    match kernel.tell(&Notice::Everything) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!("this kernel cannot revalidate all names; old ones end with their time");
        }
        other => other?,
    }
    for ino in kernel.known() {
        kernel.tell(&Notice::Inode(ino))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes notices only while its gate is open.
    struct Gated {
        told: Arc<Mutex<Vec<Notice>>>,
        gate: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Kernel for Gated {
        fn tell(&self, notice: &Notice) -> io::Result<()> {
            let (open, changed) = &*self.gate;
            let guard = open.lock().unwrap();
            drop(changed.wait_while(guard, |open| !*open).unwrap());
            self.told.lock().unwrap().push(notice.clone());
            Ok(())
        }

        fn known(&self) -> Vec<Ino> {
            vec![Ino(70), Ino(71)]
        }
    }

    type Gate = Arc<(Mutex<bool>, Condvar)>;

    fn gated(waiting_max: usize) -> (Notifier, Arc<Mutex<Vec<Notice>>>, Gate) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let gate: Gate = Arc::default();
        let kernel = Gated {
            told: told.clone(),
            gate: gate.clone(),
        };
        (start(kernel, waiting_max).unwrap(), told, gate)
    }

    fn open(gate: &Gate) {
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    }

    /// The first notice is taken out of the queue at once, so that the rest waits behind it.
    fn plug(notifier: &Notifier) {
        notifier.send(Notice::Inode(Ino(1)));
        while !notifier.shared.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_waits_already_is_not_said_twice() {
        let (notifier, told, gate) = gated(100);
        plug(&notifier);
        notifier.send(Notice::Inode(Ino(2)));
        notifier.send(Notice::Inode(Ino(2)));
        notifier.send(Notice::Range(Ino(2), 5, 5));
        let store = Notice::Store(Ino(2), 0, Bytes::from_static(b"x"));
        notifier.send(store.clone());
        notifier.send(Notice::Inode(Ino(2)));
        assert!(!notifier.drain(Duration::ZERO));
        open(&gate);
        assert!(notifier.drain(Duration::from_secs(60)));
        let inode = |ino| Notice::Inode(Ino(ino));
        let expected = [inode(1), inode(2), store, inode(2)];
        assert_eq!(*told.lock().unwrap(), expected);
        notifier.close();
    }

    #[test]
    fn a_full_queue_becomes_one_notice_for_everything() {
        let (notifier, told, gate) = gated(4);
        plug(&notifier);
        for ino in 2..50 {
            notifier.send(Notice::Inode(Ino(ino)));
        }
        open(&gate);
        assert!(notifier.drain(Duration::from_secs(60)));
        let inode = |ino| Notice::Inode(Ino(ino));
        let expected = [inode(1), Notice::Everything, inode(70), inode(71)];
        assert_eq!(*told.lock().unwrap(), expected);
        notifier.send(Notice::Inode(Ino(9)));
        assert!(notifier.drain(Duration::from_secs(60)));
        assert_eq!(told.lock().unwrap().last(), Some(&inode(9)));
        notifier.close();
    }
}
