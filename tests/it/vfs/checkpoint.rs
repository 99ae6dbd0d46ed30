//! Checkpoints of volumes through the pool: made on one peer, merged on another.

mod books;
mod format;
mod interrupted;
mod opened;
pub mod support;
mod whole_way;
