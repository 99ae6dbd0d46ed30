//! The adapter between a [`FileSystem`](crate::FileSystem) and the kernel's FUSE.
//!
//! Only this folder names `fuser`. It knows nothing of what a filesystem does.
//!
//! * Nothing here waits on a thread that reads requests. An answer that is ready is sent by that
//!   thread; any other is driven by the runtime given at mount.
//! * Every request that is waited for has a deadline, because the protocol crate does not deliver
//!   interrupts: a process stuck in a request could not even be killed.
//! * The kernel is told of changes by a thread of its own ([`Notifier`]), because telling it from
//!   within a request, or while holding a lock a request needs, hangs for good.

mod adapter;
mod convert;
mod dirs;
mod error;
mod flight;
mod locks;
mod mount;
mod notifier;
mod options;
mod request;
mod system;

pub use error::{MountError, UnmountError, ask_dir, check_dir};
pub use flight::is_late;
pub use mount::Mount;
pub use notifier::{Notice, Notifier};
pub use options::MountOptions;
pub use system::{absolute, mounted_type, unmount_dir};
