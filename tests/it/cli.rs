//! Commands as users run them, against a peer whose answers the tests decide.

mod commands;
mod fake;
mod get;
mod put;
mod session;
mod socket;
