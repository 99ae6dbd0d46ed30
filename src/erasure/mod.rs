//! Turning a sealed chunk into the shards of a stripe and back.
//!
//! Pure functions over bytes; knows nothing of plaintext, keys, disk or network.

pub mod codec;
pub mod encode;
pub mod join;
pub mod part;
mod reed_solomon;
mod simd;
pub mod stripe;
pub mod tree;

pub use codec::ErasureCodec;
pub use encode::{EncodedStripe, encode_stripe, encode_stripe_in, stripe_capacity};
pub use join::{join, join_with, rebuild, rebuild_with};
pub use part::{Piece, Stripe, VerifiedPart};
pub use stripe::{CodecId, StripeError, StripeHeader, VerifiedShard};
pub use tree::Outboard;

#[cfg(test)]
mod laws;
