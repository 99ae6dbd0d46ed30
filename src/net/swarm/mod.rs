//! The one door to libp2p.
