//! Cairn pools the spare disks of a group of machines into one encrypted, self-healing,
//! erasure-coded store without a server.
//!
//! Each folder is a layer and imports earlier layers only, in the order of the list below;
//! `docs/ARCHITECTURE.md` has the map.

pub mod base;

pub mod chunk;
pub mod crypto;
pub mod dag;
pub mod erasure;
pub mod placement;

pub mod namespace;

pub mod feeds;

pub mod net;
pub mod store;

pub mod blocks;

pub mod content;
pub mod repair;

pub mod vfs;

pub mod share;

pub mod admin;

pub mod config;

pub mod node;

#[cfg(feature = "testkit")]
pub mod testkit;

pub mod cli;
