//! The engine of a volume against a map in memory, crashes, faults, damage and quotas.

#[cfg(feature = "testkit")]
mod crash;
#[cfg(feature = "testkit")]
mod damage;
#[cfg(feature = "testkit")]
mod fault;
#[cfg(feature = "testkit")]
mod fixture;
#[cfg(feature = "testkit")]
mod model;
mod rows;
#[cfg(feature = "testkit")]
mod snapshot;
#[cfg(feature = "testkit")]
mod support;
