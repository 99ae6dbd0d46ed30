//! The control API of a running peer: HTTP and JSON over a Unix socket in its data directory.
//!
//! Owns the socket, the lock of the data directory, and the JSON types. What the calls do is
//! behind [`Backend`]; the bytes of `put` and `get` pass through unread.

pub mod backend;
pub mod client;
mod error;
mod lock;
mod query;
pub mod server;
mod socket;
pub mod types;

pub use backend::{Answer, Backend, ByteStream, Download, ItemStream};
pub use client::{Client, ConnectError};
pub use error::{AdminError, Exit};
pub use lock::{DirLock, LockError};
pub use server::{AdminServer, serve};
pub use socket::SOCKET_NAME;
