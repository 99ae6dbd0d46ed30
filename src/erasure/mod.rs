//! Turning a sealed chunk into the shards of a stripe and back.
//!
//! Pure functions over bytes; knows nothing of plaintext, keys, disk or network.

pub mod stripe;

pub use stripe::{CodecId, StripeError, StripeHeader, VerifiedShard};
