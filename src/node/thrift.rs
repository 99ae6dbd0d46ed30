//! Keeps the memory of a peer small that has nothing to do.

use std::time::Duration;

use crate::base::ByteSize;
use crate::base::memory::{give_back, resident_bytes};
use crate::base::worker::{Next, Worker};
use crate::blocks::Blocks;

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// Changes up to here within that time are those of a peer at rest.
const REST_BYTES: u64 = 1 << 20;
/// Times that memory is given back in one rest: buffers that are kept for a while go later than others.
const TIMES: u8 = 4;
/// After so many looks, each minute, what was read is forgotten if nothing was read since the minute before.
const LOOKS: u8 = 6;

/// Forgets what nobody reads any more, and gives freed memory back to the system when the peer has come to rest.
pub(super) struct Thrift {
    blocks: Blocks,
    seen: u64,
    /// Times left in this rest.
    times: u8,
    /// Looks since it was last seen whether anything was read.
    looks: u8,
}

impl Thrift {
    pub const fn new(blocks: Blocks) -> Self {
        Thrift {
            blocks,
            seen: 0,
            times: TIMES,
            looks: 0,
        }
    }

    /// Whether there was something to forget.
    fn forgets(&mut self) -> bool {
        self.looks = (self.looks + 1) % LOOKS;
        self.looks == 0 && self.blocks.forget_unused()
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
        if self.forgets() || !is_at_rest {
            self.times = TIMES;
        } else if let Some(left) = self.times.checked_sub(1) {
            self.times = left;
            self.blocks.pools().cpu.run(give_back).await;
            self.seen = resident_bytes().unwrap_or(now);
        }
        Next::Idle(INTERVAL)
    }

    fn status(&self) -> String {
        format!("{} in use", ByteSize(self.seen))
    }
}
