//! The control API of a running peer: HTTP and JSON over a Unix socket in its data directory.
//!
//! Owns the socket, the lock of the data directory, and the JSON types. What the calls do is
//! behind [`Backend`]. Files that are put or got come with the connection as descriptors; other
//! bytes of `put` and `get` pass through unread.

mod attach;
pub mod backend;
pub mod client;
pub mod emit;
mod error;
mod lock;
mod query;
pub mod server;
mod socket;
pub mod transfer;
pub mod types;

pub use backend::{Answer, Backend, ByteStream, Download, ItemStream};
pub use client::{Client, ConnectError};
pub use error::{AdminError, Exit};
pub use lock::{DirLock, LockError};
pub use server::{AdminServer, serve};
pub use socket::{SOCKET_NAME, is_served};
