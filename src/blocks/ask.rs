//! Asking one peer, patiently: who is busy now answers in a moment.

use std::time::Duration;

use tokio::time::Instant;

use super::Blocks;
use crate::base::PeerId;
use crate::net::{NetError, Request, Response};

/// First and longest pause before a busy peer is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections that may be lost under a request: where each peer has few, they are closed for others all the time.
const LOST_MAX: u32 = 3;

impl Blocks {
    /// Sends a request and repeats it, with growing pauses, while the peer or the way to it is busy, or if the way is lost.
    /// Answers within `timeout`; dropping the future cancels.
    pub(super) async fn ask(
        &self,
        to: PeerId,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, NetError> {
        let deadline = Instant::now() + timeout;
        let mut pause = PAUSE_MIN;
        let mut lost = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.net.request(to, request.clone(), left).await;
            let is_worth_it = match answer {
                Ok(Response::Busy) | Err(NetError::Busy(_)) => true,
                Err(NetError::Lost(_)) => {
                    lost += 1;
                    lost <= LOST_MAX
                }
                _ => false,
            };
            if !is_worth_it || Instant::now() + pause >= deadline {
                return answer;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
