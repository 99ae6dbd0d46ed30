//! Whole peers in this process, without sockets.

mod volumes;
