//! Keeps the memory of a peer small that has nothing to do.

use std::time::Duration;

use crate::base::memory::{give_back, resident_bytes};
use crate::base::worker::{Next, Worker};
use crate::base::{ByteSize, Pools};

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// Changes up to here within that time are those of a peer at rest.
const REST_BYTES: u64 = 1 << 20;
/// Times that memory is given back in one rest: buffers that are kept for a while go later than others.
const TIMES: u8 = 4;

/// Gives freed memory back to the system when the peer has come to rest.
pub(super) struct Thrift {
    pools: Pools,
    seen: u64,
    /// Times left in this rest.
    times: u8,
}

impl Thrift {
    pub const fn new(pools: Pools) -> Self {
        Thrift {
            pools,
            seen: 0,
            times: TIMES,
        }
    }
}

impl Worker for Thrift {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn step(&mut self) -> Next {
        let Some(now) = resident_bytes() else {
            return Next::Done;
        };
        let is_at_rest = now.abs_diff(self.seen) <= REST_BYTES;
        self.seen = now;
        if !is_at_rest {
            self.times = TIMES;
        } else if let Some(left) = self.times.checked_sub(1) {
            self.times = left;
            self.pools.cpu.run(give_back).await;
            self.seen = resident_bytes().unwrap_or(now);
        }
        Next::Idle(INTERVAL)
    }

    fn status(&self) -> String {
        format!("{} in use", ByteSize(self.seen))
    }
}
