//! What the tasks of one link share: what is asked, what is being answered, what is to be written.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures::future::{AbortHandle, Abortable, Aborted};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rtt::Smoothed;
use super::{LinkContext, LinkEnd};
use crate::base::PeerId;
use crate::net::budget::Reservation;
use crate::net::codec::{self, Header, INLINE_MAX_BYTES, Kind, Outgoing};
use crate::net::command::{NetError, Path};
use crate::net::message::{Request, Response};

/// Bare frames (cancellations, pongs, refusals) that may wait for a peer that does not read.
const CONTROL_FRAMES_MAX: usize = 4096;
/// Small messages that are written before the next segment of a payload has its turn.
const SMALL_BATCH_BYTES: usize = 64 << 10;
/// Callers that may wait for a slot, as a multiple of the slots.
const WAITERS_PER_SLOT: usize = 8;

/// The state of one link.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer: PeerId,
    pub(super) path: Path,
    pub(super) context: LinkContext,
    /// Wakes the writer.
    pub(super) work: Notify,
    /// The link is over; set once, after the reason.
    pub(super) ended: CancellationToken,
    /// The owner wants it broken.
    pub(super) aborted: CancellationToken,
    /// One side said goodbye.
    pub(super) leaving: CancellationToken,
    pub(super) rtt: Smoothed,
    /// Grows whenever something was read.
    pub(super) reads: AtomicU64,
    /// Grows whenever something was written.
    pub(super) writes: AtomicU64,
    /// A payload is under way to us.
    pub(super) receiving: AtomicBool,
    /// The reader has stopped on purpose (bandwidth, memory).
    pub(super) holding_back: AtomicBool,
    slots: Semaphore,
    bulk_slots: Semaphore,
    waiters: AtomicUsize,
    next_id: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    inbound: BTreeMap<u64, AbortHandle>,
    new_answers: Vec<Answer>,
    control: VecDeque<Header>,
    small: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
    ping: Option<(u64, Instant)>,
    closing: bool,
    goodbye_said: bool,
    goodbye_heard: bool,
    end: Option<LinkEnd>,
}

#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Result<Response, NetError>>,
    expects_payload: bool,
}

/// A request of the peer that is being answered; resolves to its id and the answer.
#[derive(Debug)]
pub(super) struct Answer {
    id: u64,
    answer: Abortable<oneshot::Receiver<Response>>,
    /// For what is held of the request until then.
    pub(super) room: Option<Reservation>,
}

impl Future for Answer {
    type Output = (u64, Answered);
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        Pin::new(&mut self.answer).poll(cx).map(|outcome| {
            let answered = match outcome {
                Ok(Ok(response)) => Answered::With(response),
                Ok(Err(_)) => Answered::With(Response::Busy),
                Err(Aborted) => Answered::NotWanted,
            };
            (id, answered)
        })
    }
}

/// How an inbound request came out.
#[derive(Debug)]
pub(super) enum Answered {
    With(Response),
    NotWanted,
}

/// A request of the peer, taken charge of: where its answer comes from, and goes to.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) reply: oneshot::Sender<Response>,
    pub(super) answer: Answer,
}

/// Why a request of the peer is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServeError {
    TooMany,
    Duplicate,
}

/// What the writer finds when it has nothing at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtRest {
    /// Something came meanwhile.
    More,
    /// Nothing to do.
    Wait,
    /// Everything is said and answered, by both sides.
    Finished,
}

type PendingAnswer = oneshot::Receiver<Result<Response, NetError>>;

/// A request under way; dropping it cancels what has no answer yet.
struct Asked<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}

/// Counts a caller that waits for a slot.
struct Waiting<'a> {
    counter: &'a AtomicUsize,
    count: usize,
}

impl<'a> Waiting<'a> {
    fn enter(counter: &'a AtomicUsize) -> Self {
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        Waiting { counter, count }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(peer: PeerId, path: Path, context: LinkContext) -> Self {
        let slots = context.limits.requests_per_peer.max(1);
        Shared {
            peer,
            path,
            work: Notify::new(),
            ended: CancellationToken::new(),
            aborted: CancellationToken::new(),
            leaving: CancellationToken::new(),
            rtt: Smoothed::default(),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            receiving: AtomicBool::new(false),
            holding_back: AtomicBool::new(false),
            slots: Semaphore::new(slots),
            // Some slots are kept for small requests.
            bulk_slots: Semaphore::new((slots - slots / 4).max(1)),
            waiters: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
            context,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    // Asking.

    /// Sends a request and waits for the answer, however long it takes.
    pub(super) async fn ask(&self, request: &Request) -> Result<Response, NetError> {
        let is_bulk = is_bulk(request);
        let waiting = Waiting::enter(&self.waiters);
        if waiting.count > self.context.limits.requests_per_peer * WAITERS_PER_SLOT {
            return Err(NetError::Busy(self.peer));
        }
        let gone = |_| NetError::Lost(self.peer);
        let _bulk_slot = match is_bulk {
            true => Some(self.bulk_slots.acquire().await.map_err(gone)?),
            false => None,
        };
        let _slot = self.slots.acquire().await.map_err(gone)?;
        drop(waiting);
        let began = Instant::now();
        let (asked, answer) = self.begin(request)?;
        let outcome = answer.await;
        drop(asked);
        let response = outcome.map_err(|_| NetError::Lost(self.peer))??;
        // Whoever serves feeds or upkeep takes its time, which says nothing of the way.
        if !is_bulk && !matches!(request, Request::Feed { .. } | Request::Upkeep { .. }) {
            self.rtt.sample(began.elapsed());
        }
        Ok(response)
    }

    fn begin(&self, request: &Request) -> Result<(Asked<'_>, PendingAnswer), NetError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = codec::encode_request(id, request)
            .map_err(|error| NetError::Protocol(self.peer, error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            reply,
            expects_payload: brings_payload(request),
        };
        {
            let mut state = self.lock();
            if !state.is_open() {
                return Err(NetError::Lost(self.peer));
            }
            state.pending.insert(id, pending);
            state.queue(frame);
        }
        self.work.notify_one();
        Ok((Asked { shared: self, id }, answer))
    }

    /// The asker went away.
    fn forget(&self, id: u64) {
        let mut state = self.lock();
        if state.pending.remove(&id).is_none() {
            return;
        }
        if state.unqueue(Kind::Request, id) || state.end.is_some() {
            return;
        }
        state.push_control(Header::bare(Kind::Cancel, id));
        drop(state);
        self.work.notify_one();
    }

    /// Whether a response is awaited.
    pub(super) fn is_awaited(&self, id: u64) -> bool {
        self.lock().pending.contains_key(&id)
    }

    /// Whether the payload of this response is awaited.
    pub(super) fn expects_payload(&self, id: u64) -> bool {
        let state = self.lock();
        state.pending.get(&id).is_some_and(|p| p.expects_payload)
    }

    /// The answer to a request of ours came. Answers to forgotten requests are dropped.
    pub(super) fn answered(&self, id: u64, outcome: Result<Response, NetError>) {
        let pending = self.lock().pending.remove(&id);
        if let Some(pending) = pending {
            // The asker may have gone in this moment.
            let _ = pending.reply.send(outcome);
        }
        self.wake_if_leaving();
    }

    // Answering.

    /// Takes charge of a request of the peer. `Err` if too many are being answered.
    pub(super) fn serve(&self, id: u64) -> Result<Served, ServeError> {
        let mut state = self.lock();
        if state.inbound.contains_key(&id) {
            return Err(ServeError::Duplicate);
        }
        if state.inbound.len() >= self.context.limits.inbound_per_peer.max(1) {
            return Err(ServeError::TooMany);
        }
        let (reply, answer) = oneshot::channel();
        let (handle, registration) = AbortHandle::new_pair();
        state.inbound.insert(id, handle);
        let answer = Abortable::new(answer, registration);
        Ok(Served {
            reply,
            answer: Answer {
                id,
                answer,
                room: None,
            },
        })
    }

    /// From now on the writer waits for the answer of this request.
    pub(super) fn await_answer(&self, answer: Answer) {
        self.lock().new_answers.push(answer);
        self.work.notify_one();
    }

    /// Answers at once with something that has no payload.
    pub(super) fn answer_now(&self, id: u64, response: &Response) {
        if let Ok(frame) = codec::encode_response(id, response) {
            let mut state = self.lock();
            state.inbound.remove(&id);
            // Bounded like the bare frames: the peer sends requests and does not read answers.
            if state.small.len() >= CONTROL_FRAMES_MAX {
                drop(state);
                return self.break_off();
            } else {
                state.small.push_back(frame);
            }
        }
        self.work.notify_one();
    }

    /// The peer asks and asks, and does not read the answers.
    fn break_off(&self) {
        let reason = "it asks and does not read the answers";
        let end = LinkEnd::Protocol(reason.to_owned());
        self.lock().end.get_or_insert(end);
        self.aborted.cancel();
    }

    /// The peer no longer wants the answer to its request.
    pub(super) fn cancelled(&self, id: u64) {
        let mut state = self.lock();
        if let Some(handle) = state.inbound.remove(&id) {
            handle.abort();
            state.unqueue(Kind::Response, id);
        }
    }

    /// An answer is there: queues it.
    pub(super) fn queue_answer(&self, id: u64, answered: Answered) {
        let mut state = self.lock();
        let response = match answered {
            Answered::With(response) if state.inbound.contains_key(&id) => response,
            _ => {
                state.inbound.remove(&id);
                return;
            }
        };
        let frame = codec::encode_response(id, &response)
            // The handler made something that cannot be sent.
            .or_else(|_| codec::encode_response(id, &Response::Busy));
        match frame {
            Ok(frame) => state.queue(frame),
            Err(_) => {
                state.inbound.remove(&id);
            }
        }
    }

    // For the writer.

    /// Moves small messages into `buffer`; returns the ids of the answers among them.
    pub(super) fn take_small(&self, buffer: &mut BytesMut, finished: &mut Vec<u64>) {
        let mut state = self.lock();
        while buffer.len() < SMALL_BATCH_BYTES {
            if let Some(header) = state.control.pop_front() {
                buffer.extend_from_slice(&header.encode());
            } else if let Some(frame) = state.small.pop_front() {
                buffer.extend_from_slice(&frame.head);
                buffer.extend_from_slice(&frame.payload);
                if frame.kind == Kind::Response {
                    finished.push(frame.id);
                }
            } else {
                return;
            }
        }
    }

    /// The next message with a payload.
    pub(super) fn next_bulk(&self) -> Option<Outgoing> {
        self.lock().bulk.pop_front()
    }

    /// Answers the writer shall wait for.
    pub(super) fn new_answers(&self) -> Vec<Answer> {
        std::mem::take(&mut self.lock().new_answers)
    }

    /// These answers are written.
    pub(super) fn written(&self, finished: &mut Vec<u64>) {
        if finished.is_empty() {
            return;
        }
        let mut state = self.lock();
        for id in finished.drain(..) {
            state.inbound.remove(&id);
        }
    }

    /// What the writer does when it has nothing to write.
    pub(super) fn at_rest(&self) -> AtRest {
        let mut state = self.lock();
        let has_work = !(state.control.is_empty()
            && state.small.is_empty()
            && state.bulk.is_empty()
            && state.new_answers.is_empty());
        if has_work {
            return AtRest::More;
        }
        // Behind all requests that were accepted, so that the peer sees them before it leaves.
        if (state.closing || state.goodbye_heard) && !state.goodbye_said {
            state.goodbye_said = true;
            state.push_control(Header::bare(Kind::Goodbye, 0));
            return AtRest::More;
        }
        let all_done = state.pending.is_empty() && state.inbound.is_empty();
        if state.goodbye_said && state.goodbye_heard && all_done {
            AtRest::Finished
        } else {
            AtRest::Wait
        }
    }

    // Life and death.

    pub(super) fn push_pong(&self, id: u64) {
        let fits = self.lock().push_control(Header::bare(Kind::Pong, id));
        if fits {
            self.work.notify_one();
        } else {
            self.break_off();
        }
    }

    pub(super) fn send_ping(&self) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = self.lock();
            state.ping = Some((id, Instant::now()));
            state.push_control(Header::bare(Kind::Ping, id));
        }
        self.work.notify_one();
    }

    pub(super) fn pong(&self, id: u64) {
        let sent = {
            let mut state = self.lock();
            state.ping.take_if(|(ping, _)| *ping == id)
        };
        if let Some((_, at)) = sent {
            self.rtt.sample(at.elapsed());
        }
    }

    pub(super) fn say_goodbye(&self) {
        self.lock().closing = true;
        self.leaving.cancel();
        self.work.notify_one();
    }

    pub(super) fn hear_goodbye(&self) {
        self.lock().goodbye_heard = true;
        self.leaving.cancel();
        self.work.notify_one();
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    fn wake_if_leaving(&self) {
        if self.is_leaving() {
            self.work.notify_one();
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().is_open()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().pending.len()
    }

    /// Ends the link: everybody who waits learns it. Only the first reason counts.
    pub(super) fn end(&self, reason: LinkEnd) {
        let (pending, inbound) = {
            let mut state = self.lock();
            state.end.get_or_insert(reason);
            state.control.clear();
            state.small.clear();
            state.bulk.clear();
            state.new_answers.clear();
            (
                std::mem::take(&mut state.pending),
                std::mem::take(&mut state.inbound),
            )
        };
        for handle in inbound.into_values() {
            handle.abort();
        }
        for pending in pending.into_values() {
            let _ = pending.reply.send(Err(NetError::Lost(self.peer)));
        }
        self.slots.close();
        self.bulk_slots.close();
        self.ended.cancel();
    }

    pub(super) fn end_reason(&self) -> LinkEnd {
        self.lock().end.clone().unwrap_or(LinkEnd::Closed)
    }
}

impl State {
    fn is_open(&self) -> bool {
        self.end.is_none() && !self.closing && !self.goodbye_heard
    }

    fn queue(&mut self, frame: Outgoing) {
        if frame.wire_bytes() <= INLINE_MAX_BYTES {
            self.small.push_back(frame);
        } else {
            self.bulk.push_back(frame);
        }
    }

    /// Takes a frame back that was not begun; whether it was there.
    fn unqueue(&mut self, kind: Kind, id: u64) -> bool {
        for queue in [&mut self.small, &mut self.bulk] {
            let found = queue.iter().position(|f| f.kind == kind && f.id == id);
            if let Some(at) = found {
                queue.remove(at);
                return true;
            }
        }
        false
    }

    /// Whether there was room.
    fn push_control(&mut self, header: Header) -> bool {
        let fits = self.control.len() < CONTROL_FRAMES_MAX;
        if fits {
            self.control.push_back(header);
        }
        fits
    }
}

/// Whether it waits until fewer large ones are under way. A feed's news do not: few bytes that somebody waits for.
const fn is_bulk(request: &Request) -> bool {
    match request {
        Request::Store { .. } | Request::Fetch { .. } | Request::FetchRange { .. } => true,
        Request::Feed { body } | Request::Upkeep { body } => body.len() > INLINE_MAX_BYTES,
        _ => false,
    }
}

/// Whether the answer may have a payload.
const fn brings_payload(request: &Request) -> bool {
    matches!(
        request,
        Request::Fetch { .. }
            | Request::FetchRange { .. }
            | Request::Feed { .. }
            | Request::Upkeep { .. }
    )
}
