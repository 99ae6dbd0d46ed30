//! Commands as users run them, against a peer whose answers the tests decide.

mod answers;
mod commands;
mod devnet;
mod environment;
mod fake;
mod fake_peer;
mod get;
mod mount;
mod put;
mod session;
mod socket;
mod terminal;
mod unit;
