//! The store against a model, crashes, faults, damage and quotas.

#[cfg(feature = "testkit")]
mod cached;
#[cfg(feature = "testkit")]
mod crash;
#[cfg(feature = "testkit")]
mod damage;
#[cfg(feature = "testkit")]
mod fault;
#[cfg(feature = "testkit")]
mod fixture;
#[cfg(feature = "testkit")]
mod holdings;
#[cfg(feature = "testkit")]
mod model;
#[cfg(feature = "testkit")]
mod parts;
mod quota;
#[cfg(feature = "testkit")]
mod rescue;
pub(crate) mod support;
#[cfg(feature = "testkit")]
mod trash;
mod volume;
