//! Making links: on demand, with the bulk plane first, and again when wanted ones are lost.

use std::time::Duration;

use tokio::time::Instant;

use super::table::{Attempt, Start};
use super::{Links, Plane};
use crate::base::PeerId;
use crate::net::command::{NetError, Path};
use crate::net::mux::Link;

/// How long the bulk plane is tried alone.
const HEAD_START: Duration = Duration::from_millis(300);

/// How often it is looked for a link that is no longer in use.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

impl Links {
    /// The best link to `peer`, or a new one.
    pub(super) async fn link_to(&self, peer: PeerId) -> Result<Link, NetError> {
        let mut changes = self.changes();
        if let Some(link) = self.best(&peer) {
            self.upgrade(&link);
            return Ok(link);
        }
        if let Some(error) = self.lock().forbids(&peer) {
            return Err(error);
        }
        self.make_room(&peer).await;
        let mut error = NetError::Unreachable(peer);
        let mut bulk = self.attempt(peer, Plane::Bulk);
        let mut control: Option<Attempt> = None;
        let mut control_tried = false;
        let head_start = tokio::time::sleep(HEAD_START);
        tokio::pin!(head_start);
        loop {
            if let Some(link) = self.best(&peer) {
                return Ok(link);
            }
            if bulk.is_none() && !control_tried {
                control_tried = true;
                control = self.attempt(peer, Plane::Control);
            }
            if bulk.is_none() && control.is_none() {
                let is_full = !self.lock().has_room_to_dial(&peer);
                return Err(if is_full { NetError::Busy(peer) } else { error });
            }
            let failure = tokio::select! {
                biased;
                outcome = outcome_of(&mut bulk) => outcome,
                outcome = outcome_of(&mut control) => outcome,
                _ = changes.changed() => Ok(()),
                () = &mut head_start, if !control_tried => {
                    control_tried = true;
                    control = self.attempt(peer, Plane::Control);
                    Ok(())
                }
            };
            // Being denied says more than being out of reach.
            match failure {
                Err(failed) if !matches!(error, NetError::Denied(_)) => error = failed,
                _ => {}
            }
        }
    }

    /// Waits until one more peer may be connected; closes a link that nobody uses for that. The
    /// caller's deadline ends it.
    async fn make_room(&self, peer: &PeerId) {
        let mut changes = self.changes();
        loop {
            let idle = {
                let table = self.lock();
                if table.is_shut() || table.has_room_to_dial(peer) {
                    return;
                }
                table.least_needed(true, Instant::now())
            };
            for link in idle {
                tracing::debug!(peer = %link.peer(), "closed to make room");
                link.close();
            }
            // Closing takes a message in each direction; a link in use becomes free in silence.
            let _ = tokio::time::timeout(ROOM_PAUSE, changes.changed()).await;
        }
    }

    /// Tries for something better than what serves now, without anybody waiting for it.
    fn upgrade(&self, link: &Link) {
        if matches!(link.path(), Path::Tcp | Path::Quic) {
            self.attempt(link.peer(), Plane::Bulk);
        }
    }

    /// Joins the attempt of this plane or starts one; `None` if none can be made now.
    fn attempt(&self, peer: PeerId, plane: Plane) -> Option<Attempt> {
        let (connector, report, attempt) = match self.lock().start(peer, plane, Instant::now()) {
            Start::Now(connector, report, attempt) => (connector, report, attempt),
            Start::Join(attempt) => return Some(attempt),
            Start::No => return None,
        };
        let links = self.clone();
        self.inner.context.tasks.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = links.inner.stopped.cancelled() => Err(NetError::Closed),
                outcome = connector.connect(peer) => outcome,
            };
            drop(connector);
            tracing::debug!(%peer, ?plane, ?outcome, "connection attempt");
            let jitter = links.inner.entropy.unit();
            let now_ms = links.inner.clock.now_ms();
            let is_news =
                links
                    .lock()
                    .ended(&peer, plane, &outcome, Instant::now(), now_ms, jitter);
            if is_news {
                links.changed();
            }
            links.inner.wanted_changed.notify_one();
            // Nobody may be waiting any more.
            let _ = report.send(Some(outcome));
        });
        Some(attempt)
    }

    /// Keeps the wanted peers connected until shutdown.
    pub(super) async fn keep_connected(self) {
        loop {
            let (due, next) = self.lock().due(Instant::now());
            for (peer, plane) in due {
                self.attempt(peer, plane);
            }
            let pause = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.inner.stopped.cancelled() => return,
                () = self.inner.wanted_changed.notified() => {}
                () = pause => {}
            }
        }
    }
}

/// Waits for the end of an attempt and takes it away. Without one, for ever.
async fn outcome_of(attempt: &mut Option<Attempt>) -> Result<(), NetError> {
    let Some(waiting) = attempt else {
        return std::future::pending().await;
    };
    let outcome = match waiting.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(NetError::Closed)),
        Err(_) => Err(NetError::Closed),
    };
    *attempt = None;
    outcome
}
