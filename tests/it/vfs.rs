//! A volume as a filesystem, without a kernel.

#[cfg(feature = "testkit")]
mod model;
#[cfg(feature = "testkit")]
mod space;
#[cfg(feature = "testkit")]
mod twin;
