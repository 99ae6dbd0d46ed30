//! Requests of other peers: those about members are answered here, the rest goes up.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::roster::Roster;
use crate::base::limits::RECORDS_PER_MESSAGE;
use crate::net::command::Inbound;
use crate::net::message::{Refusal, Request, Response};
use crate::placement::candidates::Point;

/// Bytes of records in one message, well below the bound of its control part.
pub(super) const RECORD_BYTES_PER_MESSAGE: usize = 512 << 10;
/// Announcements that are verified at a time.
const ANNOUNCEMENTS_MAX: usize = 4;

/// As many records as fit one message, the first ones first.
pub(super) fn page(records: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut bytes = 0;
    let fits = |record: &Bytes| {
        bytes += record.len();
        bytes <= RECORD_BYTES_PER_MESSAGE
    };
    let records = records.into_iter().take(RECORDS_PER_MESSAGE);
    records.take_while(fits).collect()
}

/// Answers and passes on until `stop`, and gives back the way up.
pub(super) async fn route(
    mut arriving: mpsc::Receiver<Inbound>,
    upward: mpsc::Sender<Inbound>,
    roster: Roster,
    own_point: Point,
    tasks: TaskTracker,
    stop: CancellationToken,
) -> mpsc::Sender<Inbound> {
    let verifying = Arc::new(Semaphore::new(ANNOUNCEMENTS_MAX));
    loop {
        let inbound = tokio::select! {
            biased;
            () = stop.cancelled() => return upward,
            inbound = arriving.recv() => inbound,
        };
        let Some(inbound) = inbound else {
            return upward;
        };
        // An asker that no longer waits needs no answer.
        match inbound.request {
            Request::Records { near, limit } => {
                let limit = RECORDS_PER_MESSAGE.min(limit as usize);
                let known = roster.closest(&near.unwrap_or(own_point), limit);
                let records = page(known.iter().map(|known| known.encoded.clone()));
                let _ = inbound.reply.send(Response::Records { records });
            }
            Request::Announce { records } if records.len() > RECORDS_PER_MESSAGE => {
                let refused = Response::Refused {
                    reason: Refusal::Invalid,
                    free_bytes: 0,
                };
                let _ = inbound.reply.send(refused);
            }
            Request::Announce { records } => {
                // Without a permit the reply is dropped, which is answered `Busy`.
                if let Ok(permit) = Arc::clone(&verifying).try_acquire_owned() {
                    let roster = roster.clone();
                    tasks.spawn(async move {
                        roster.learn(records, Some(inbound.from)).await;
                        let _ = inbound.reply.send(Response::Done);
                        drop(permit);
                    });
                }
            }
            // Full: dropped, which is answered `Busy`.
            _ => drop(upward.try_send(inbound)),
        }
    }
}
