//! The keeper of a link: runs its two tasks, notices a peer that fell silent, and ends it once.
//!
//! Silence is counted in ticks, not in time: when this process itself was stopped for minutes,
//! the peer gets its ticks to be heard again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::LinkEnd;
use super::reader::read_loop;
use super::state::Shared;
use super::writer::write_loop;

/// Length of one tick.
const TICK: Duration = Duration::from_secs(1);
/// Quiet ticks after which a peer is pinged: with requests under way, and without.
const QUIET_TICKS: (u32, u32) = (2, 15);
/// Ticks a ping may stay unanswered: with requests under way, and without.
const SILENT_TICKS: (u32, u32) = (6, 10);
/// Id of a pong that answers no ping.
const UNASKED: u64 = 0;
/// How long a link that is closing may take to finish what is under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last bytes may take.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a link to its end.
pub(super) async fn supervise<R, W>(shared: Arc<Shared>, reader: R, writer: W)
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let tasks = &shared.context.tasks;
    let mut reading = Task(tasks.spawn(read_loop(Arc::clone(&shared), reader)));
    let mut writing = Task(tasks.spawn(write_loop(Arc::clone(&shared), writer)));
    let reason = tokio::select! {
        biased;
        () = shared.aborted.cancelled() => LinkEnd::Closed,
        end = reading.join() => end_of_reading(&shared, end),
        end = writing.join() => match end {
            // The peer's last word, or its absence, changes nothing any more.
            Ok(()) => {
                let _ = tokio::time::timeout(FAREWELL_PATIENCE, reading.join()).await;
                LinkEnd::Closed
            }
            Err(end) => end,
        },
        end = keep(&shared) => end,
    };
    tracing::debug!(peer = %shared.peer, path = ?shared.path, %reason, "link ended");
    shared.end(reason);
}

fn end_of_reading(shared: &Shared, end: Result<(), LinkEnd>) -> LinkEnd {
    match end {
        Ok(()) if shared.is_leaving() => LinkEnd::Closed,
        Ok(()) => LinkEnd::Lost("closed by the peer".to_owned()),
        Err(end) => end,
    }
}

/// Watches over a link until it should end.
async fn keep(shared: &Shared) -> LinkEnd {
    tokio::select! {
        biased;
        end = listen_for_silence(shared) => end,
        () = patience_for_closing(shared) => LinkEnd::Closed,
    }
}

async fn patience_for_closing(shared: &Shared) {
    shared.leaving.cancelled().await;
    tokio::time::sleep(CLOSE_PATIENCE).await;
}

async fn listen_for_silence(shared: &Shared) -> LinkEnd {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = shared.reads.load(Ordering::Relaxed);
    let mut quiet_ticks: u32 = 0;
    let mut pinged_ticks: Option<u32> = None;
    let mut said = shared.writes.load(Ordering::Relaxed);
    let mut mute_ticks: u32 = 0;
    loop {
        tick.tick().await;
        shared.context.budget.trim();
        let reads = shared.reads.load(Ordering::Relaxed);
        let writes = shared.writes.load(Ordering::Relaxed);
        mute_ticks = if writes == said { mute_ticks + 1 } else { 0 };
        said = writes;
        if reads != heard || shared.holding_back.load(Ordering::Relaxed) {
            // Its ping may be stuck behind what its system has taken for a slow line.
            let receiving = shared.receiving.load(Ordering::Relaxed);
            if receiving && mute_ticks >= QUIET_TICKS.0 {
                shared.push_pong(UNASKED);
            }
            heard = reads;
            quiet_ticks = 0;
            pinged_ticks = None;
            continue;
        }
        let busy = shared.in_flight() > 0;
        let choose =
            |(busy_ticks, idle_ticks): (u32, u32)| if busy { busy_ticks } else { idle_ticks };
        quiet_ticks += 1;
        pinged_ticks = match pinged_ticks {
            Some(ticks) if ticks + 1 >= choose(SILENT_TICKS) => return LinkEnd::Silent,
            Some(ticks) => Some(ticks + 1),
            None if quiet_ticks >= choose(QUIET_TICKS) => {
                shared.send_ping();
                Some(0)
            }
            None => None,
        };
    }
}

/// A task that ends with its owner.
struct Task(JoinHandle<Result<(), LinkEnd>>);

impl Task {
    async fn join(&mut self) -> Result<(), LinkEnd> {
        match (&mut self.0).await {
            Ok(end) => end,
            Err(error) => Err(LinkEnd::Lost(error.to_string())),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
