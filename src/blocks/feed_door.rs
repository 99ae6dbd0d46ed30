//! Where messages about feeds go: to whoever serves feeds in this process.
//!
//! Knows nothing of what they say.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::base::PeerId;
use crate::base::limits::FEED_QUEUE;
use crate::net::Response;

/// How long one who serves feeds may take for an answer, before the asker is told that it is busy.
const PATIENCE: Duration = Duration::from_secs(15);

/// A message about feeds from another peer, with the place for what is said to it.
#[derive(Debug)]
pub struct FeedInbound {
    /// Who asks (authenticated and admitted).
    pub from: PeerId,
    /// One encoded message, as it came.
    pub body: Bytes,
    /// For [`Response::Feed`], or for a refusal. [`Response::Unsupported`] says that the volume is not served here:
    /// whoever else serves feeds is asked as well. Dropping it unanswered is answered `Busy`.
    pub reply: oneshot::Sender<Response>,
}

/// Those who serve feeds, all of whom are asked at once. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct FeedDoor(Arc<Mutex<Vec<mpsc::Sender<FeedInbound>>>>);

impl FeedDoor {
    /// One more that serves feeds. It is asked no longer when its receiver is dropped;
    /// what it has no room for is answered `Busy`.
    pub fn open(&self) -> mpsc::Receiver<FeedInbound> {
        let (sender, receiver) = mpsc::channel(FEED_QUEUE);
        self.lock().push(sender);
        receiver
    }

    /// What those who serve feeds say to a message.
    pub(super) async fn answer(&self, from: PeerId, body: Bytes) -> Response {
        let mut answer = Response::Unsupported;
        let mut asked = FuturesUnordered::new();
        let senders = self.lock().clone();
        for sender in senders {
            let (reply, said) = oneshot::channel();
            let message = FeedInbound {
                from,
                body: body.clone(),
                reply,
            };
            match sender.try_send(message) {
                Ok(()) => asked.push(tokio::time::timeout(PATIENCE, said)),
                // That one may be the one who would have known.
                Err(TrySendError::Full(_)) => answer = Response::Busy,
                Err(TrySendError::Closed(_)) => {
                    self.lock().retain(|sender| !sender.is_closed());
                }
            }
        }
        // One serves a volume; the others say at once that they do not.
        while let Some(said) = asked.next().await {
            match said {
                Ok(Ok(Response::Unsupported)) => {}
                Ok(Ok(response)) => return response,
                Ok(Err(_)) | Err(_) => answer = Response::Busy,
            }
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Vec<mpsc::Sender<FeedInbound>>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: PeerId = PeerId([1; 32]);

    fn body() -> Bytes {
        Bytes::from_static(b"message")
    }

    /// Answers everything so.
    fn serve(mut inbound: mpsc::Receiver<FeedInbound>, response: Response) {
        tokio::spawn(async move {
            while let Some(asked) = inbound.recv().await {
                assert_eq!((asked.from, asked.body), (ASKER, body()));
                asked.reply.send(response.clone()).unwrap();
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn who_knows_answers() {
        let door = FeedDoor::default();
        assert_eq!(door.answer(ASKER, body()).await, Response::Unsupported);
        serve(door.open(), Response::Unsupported);
        assert_eq!(door.answer(ASKER, body()).await, Response::Unsupported);
        serve(door.open(), Response::Done);
        serve(door.open(), Response::Unsupported);
        assert_eq!(door.answer(ASKER, body()).await, Response::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_one_who_says_nothing_where_another_knows() {
        let door = FeedDoor::default();
        let _silent = door.open();
        serve(door.open(), Response::Unsupported);
        serve(door.open(), Response::Done);
        let began = tokio::time::Instant::now();
        assert_eq!(door.answer(ASKER, body()).await, Response::Done);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_has_no_room_or_says_nothing_is_busy_and_one_who_is_gone_is_not_asked() {
        let door = FeedDoor::default();
        let mut silent = door.open();
        assert_eq!(door.answer(ASKER, body()).await, Response::Busy);
        for _ in 1..FEED_QUEUE {
            assert_eq!(door.answer(ASKER, body()).await, Response::Busy);
        }
        // No more than its queue waits, and nobody waits for one who is full.
        let began = tokio::time::Instant::now();
        assert_eq!(door.answer(ASKER, body()).await, Response::Busy);
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(silent.recv().await);
        drop(silent);
        assert_eq!(door.answer(ASKER, body()).await, Response::Unsupported);
        assert!(door.lock().is_empty());
    }
}
