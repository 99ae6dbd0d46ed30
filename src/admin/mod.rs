//! The control API of a running peer: HTTP and JSON over a Unix socket.
