//! Upkeep: what is missing is found and made anew, what lies on the own disk is read again now and then.
//!
//! Knows blocks, shards, claims and peers; nothing of keys, files or volumes, so it works while every owner of the data is
//! away. What is to be done is a function of what peers hold ([`plan`]); nothing about it is stored, so nothing can
//! be stale after a restart.

mod message;
mod pattern;
pub mod plan;

pub use message::Tally;
