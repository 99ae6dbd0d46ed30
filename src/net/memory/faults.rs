//! What a link does to the messages on it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::base::Entropy;
use crate::net::message::{Request, Response};

/// The faults of one link, in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkFaults {
    /// Every message takes so long.
    pub delay: Duration,
    /// And at most so much longer, uniformly.
    pub jitter: Duration,
    /// Share of the messages that never arrive (0 to 1).
    pub loss: f64,
}

impl Default for LinkFaults {
    fn default() -> Self {
        LinkFaults {
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
        }
    }
}

impl LinkFaults {
    /// How long the next message takes; `None`: it is lost.
    pub(super) fn draw(&self, entropy: &Entropy) -> Option<Duration> {
        // Both are drawn always, so that changing one does not shift the other's stream.
        let lost = entropy.unit() < self.loss;
        let jitter = self.jitter.mul_f64(entropy.unit());
        (!lost).then_some(self.delay + jitter)
    }
}

fn damage(bytes: &Bytes, entropy: &Entropy) -> Bytes {
    let mut copy = BytesMut::from(bytes.as_ref());
    let at = entropy.below(copy.len() as u64) as usize;
    let bit = 1u8 << entropy.below(8);
    if let Some(byte) = copy.get_mut(at) {
        *byte ^= bit;
    }
    copy.freeze()
}

/// Flips one bit of the payload or the checkpoint record, if there is one.
pub(super) fn damage_request(request: &mut Request, entropy: &Entropy) {
    if let Request::Store { data, .. }
    | Request::Feed { body: data }
    | Request::Upkeep { body: data }
    | Request::Publish { record: data } = request
    {
        *data = damage(data, entropy);
    }
}

/// Flips one bit of the payload, or of each checkpoint record, if there is one.
pub(super) fn damage_response(response: &mut Response, entropy: &Entropy) {
    match response {
        Response::Shard { data, .. }
        | Response::Range { data, .. }
        | Response::Feed { body: data }
        | Response::Upkeep { body: data } => *data = damage(data, entropy),
        Response::Published { records } => {
            for record in records {
                *record = damage(record, entropy);
            }
        }
        _ => {}
    }
}
