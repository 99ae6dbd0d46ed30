//! Feeds: sealed deltas and their chains, what arrives in any order, gossip, and checkpoints.

mod accord;
mod arrive;
mod chain;
mod checkpoint;
mod clearing;
mod format;
mod gossip;
mod inbox;
mod rulings;
mod sealed;
mod steps;
mod support;
mod tail;
