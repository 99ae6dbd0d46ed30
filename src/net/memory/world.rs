//! The state of a simulated network, and what happens next in it.

use std::collections::BTreeMap;
use std::time::Duration;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::faults::{damage_request, damage_response};
use super::trace::{answer_kind, kind};
use super::{LinkFaults, MemoryOptions, MemoryPeer, Trace, view};
use crate::base::{Clock, Entropy, PeerId};
use crate::net::codec::{encode_request, encode_response};
use crate::net::command::{Command, Inbound, Members, NetError};
use crate::net::message::{Request, Response};
use crate::placement::candidates::{Point, peer_point, point};

/// A peer as the network sees it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) profile: MemoryPeer,
    pub(super) position: Point,
    pub(super) texts: view::Texts,
    /// Of the partition; peers of different groups do not hear each other.
    pub(super) group: usize,
    /// When it last came, went or changed sides (ms since 1970).
    pub(super) changed_ms: u64,
    /// A short name for the trace: the order of joining.
    number: usize,
    /// Counts its starts.
    life: u64,
    ends: Option<Ends>,
    paused: bool,
    /// What a paused peer should have received or sent.
    held: Vec<Event>,
    slow: Duration,
    corrupt: f64,
}

impl Peer {
    pub(super) const fn id(&self) -> PeerId {
        self.profile.peer
    }

    pub(super) const fn is_up(&self) -> bool {
        self.ends.is_some()
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }
}

#[derive(Debug)]
struct Ends {
    members: watch::Sender<Arc<Members>>,
    inbound: mpsc::Sender<Inbound>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
enum Event {
    Arrive {
        id: u64,
        from: PeerId,
        to: PeerId,
        request: Request,
    },
    Answer {
        id: u64,
        from: PeerId,
        to: PeerId,
        response: Response,
    },
    Fail {
        id: u64,
        error: NetError,
    },
    Found {
        by: PeerId,
        life: u64,
        target: Point,
        count: usize,
        reply: Replies,
    },
    Refresh,
}

type Replies = oneshot::Sender<Result<crate::net::command::Lookup, NetError>>;

/// A request that was delivered: whoever drives the world waits for its answer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) id: u64,
    /// Who answers, in which of its lives.
    pub(super) by: (PeerId, u64),
    pub(super) answer: oneshot::Receiver<Response>,
}

#[derive(Debug)]
struct Pending {
    from: PeerId,
    to: PeerId,
    reply: oneshot::Sender<Result<Response, NetError>>,
}

#[derive(Debug)]
pub(super) struct World {
    options: MemoryOptions,
    entropy: Entropy,
    clock: Clock,
    started: Instant,
    peers: BTreeMap<PeerId, Peer>,
    links: BTreeMap<(PeerId, PeerId), LinkFaults>,
    pending: BTreeMap<u64, Pending>,
    queue: BTreeMap<(Instant, u64), Event>,
    next: u64,
    trace: Trace,
}

impl World {
    pub(super) fn new(options: MemoryOptions, entropy: Entropy, clock: Clock) -> Self {
        World {
            trace: Trace::new(options.keep_trace),
            options,
            entropy,
            clock,
            started: Instant::now(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            pending: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) const fn queue(&self) -> usize {
        self.options.queue
    }

    pub(super) const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((due, _), _)| *due)
    }

    // ---- peers -------------------------------------------------------------------------------

    pub(super) fn join(
        &mut self,
        profile: MemoryPeer,
        members: watch::Sender<Arc<Members>>,
        inbound: mpsc::Sender<Inbound>,
    ) -> u64 {
        let id = profile.peer;
        self.crash(id);
        let ends = Ends {
            members,
            inbound,
            task: None,
        };
        let number = self.peers.len();
        let position = peer_point(&id);
        let now_ms = self.clock.now_ms();
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            profile: profile.clone(),
            position,
            texts: view::Texts::of(&id),
            group: 0,
            changed_ms: now_ms,
            number,
            life: 0,
            ends: None,
            paused: false,
            held: Vec::new(),
            slow: Duration::ZERO,
            corrupt: 0.0,
        });
        peer.profile = profile;
        peer.life += 1;
        peer.ends = Some(ends);
        peer.paused = false;
        peer.changed_ms = now_ms;
        let life = peer.life;
        self.note("join", id, id, life, "");
        self.refresh();
        self.publish_to(id);
        life
    }

    pub(super) fn supervise(&mut self, id: PeerId, life: u64, task: AbortHandle) {
        let ends = self.peers.get_mut(&id).filter(|peer| peer.life == life);
        match ends.and_then(|peer| peer.ends.as_mut()) {
            Some(ends) => ends.task = Some(task),
            None => task.abort(),
        }
    }

    pub(super) fn crash(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            self.leave(id, peer.life);
        }
    }

    pub(super) fn leave(&mut self, id: PeerId, life: u64) {
        let now_ms = self.clock.now_ms();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.life == life) else {
            return;
        };
        let Some(ends) = peer.ends.take() else { return };
        peer.changed_ms = now_ms;
        peer.held.clear();
        peer.paused = false;
        if let Some(task) = ends.task {
            task.abort();
        }
        self.note("leave", id, id, life, "");
        // Its own requests end with it; those to it learn of the broken connection.
        self.pending.retain(|_, pending| pending.from != id);
        let lost: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.to == id)
            .map(|(id, _)| *id)
            .collect();
        for request in lost {
            let error = NetError::Lost(id);
            self.after(
                self.options.faults.delay,
                Event::Fail { id: request, error },
            );
        }
        self.refresh();
    }

    pub(super) fn pause(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.paused = true;
            peer.changed_ms = self.clock.now_ms();
            self.note("pause", id, id, 0, "");
            self.refresh();
        }
    }

    pub(super) fn resume(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.paused = false;
            peer.changed_ms = self.clock.now_ms();
            let held = std::mem::take(&mut peer.held);
            for event in held {
                self.after(Duration::ZERO, event);
            }
            self.note("resume", id, id, 0, "");
            self.refresh();
        }
    }

    pub(super) fn slow(&mut self, id: PeerId, by: Duration) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.slow = by;
        }
    }

    pub(super) fn corrupt(&mut self, id: PeerId, share: f64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.corrupt = share;
        }
    }

    // ---- links -------------------------------------------------------------------------------

    pub(super) fn set_link(&mut self, a: PeerId, b: PeerId, faults: LinkFaults) {
        self.links.insert((a, b), faults);
        self.links.insert((b, a), faults);
    }

    pub(super) fn partition(&mut self, groups: &[Vec<PeerId>]) {
        let now_ms = self.clock.now_ms();
        for peer in self.peers.values_mut() {
            let named = groups.iter().position(|group| group.contains(&peer.id()));
            let group = named.map_or(0, |group| group + 1);
            if group != peer.group {
                peer.group = group;
                peer.changed_ms = now_ms;
            }
        }
        self.trace
            .add(&format_args!("partition {} groups", groups.len()));
        self.refresh();
    }

    fn faults(&self, from: PeerId, to: PeerId) -> LinkFaults {
        let own = self.links.get(&(from, to));
        own.copied().unwrap_or(self.options.faults)
    }

    /// When a message sent now arrives; `None`: never.
    fn travel(&self, from: PeerId, to: PeerId) -> Option<Duration> {
        let drawn = self.faults(from, to).draw(&self.entropy);
        let (from, to) = (self.peers.get(&from)?, self.peers.get(&to)?);
        drawn.filter(|_| from.group == to.group)
    }

    // ---- commands ----------------------------------------------------------------------------

    /// Carries out a command of `own`; answers whether it was the last.
    pub(super) fn command(&mut self, own: PeerId, life: u64, command: Command) -> bool {
        let alive = self.peers.get(&own).is_some_and(|peer| peer.life == life);
        if !alive {
            return true;
        }
        match command {
            Command::Request {
                to,
                request,
                deadline,
                reply,
            } => self.send(own, to, request, deadline, reply),
            Command::Closest { key, count, reply } => {
                let target = point(&key);
                let delay = self.faults(own, own).delay * 4;
                let event = Event::Found {
                    by: own,
                    life,
                    target,
                    count,
                    reply,
                };
                self.after(delay, event);
            }
            Command::Dial { address, reply } => {
                let id = address
                    .strip_prefix("memory:")
                    .and_then(|id| id.parse().ok());
                let live = id.filter(|id| self.peers.get(id).is_some_and(Peer::is_up));
                // A receiver that is gone no longer wants to know.
                let _ = reply.send(live.ok_or(NetError::Unreachable(own)));
            }
            Command::Offer { offer } => {
                if let Some(peer) = self.peers.get_mut(&own) {
                    peer.profile.offer = offer;
                }
                self.refresh();
            }
            Command::Shutdown { reply } => {
                self.leave(own, life);
                let _ = reply.send(());
                return true;
            }
        }
        false
    }

    fn send(
        &mut self,
        from: PeerId,
        to: PeerId,
        mut request: Request,
        deadline: Instant,
        reply: oneshot::Sender<Result<Response, NetError>>,
    ) {
        let id = self.number();
        self.note("send", from, to, id, kind(&request));
        if matches!(request, Request::Upkeep { .. }) {
            self.trace.add_upkeep(encode_request(id, &request));
        }
        self.pending.insert(id, Pending { from, to, reply });
        let timeout = Event::Fail {
            id,
            error: NetError::Timeout(to),
        };
        self.at(deadline, timeout);
        if self.strikes(from) {
            damage_request(&mut request, &self.entropy);
        }
        if !self.peers.get(&to).is_some_and(Peer::is_up) {
            let error = NetError::Unreachable(to);
            self.after(self.options.faults.delay, Event::Fail { id, error });
        } else if let Some(delay) = self.travel(from, to) {
            let event = Event::Arrive {
                id,
                from,
                to,
                request,
            };
            self.after(delay, event);
        } else {
            self.note("drop", from, to, id, "");
        }
    }

    /// Whether the next message of this peer is to be damaged.
    fn strikes(&self, from: PeerId) -> bool {
        let share = self.peers.get(&from).map_or(0.0, |peer| peer.corrupt);
        share > 0.0 && self.entropy.unit() < share
    }

    // ---- time --------------------------------------------------------------------------------

    /// Does everything due by `now`; hands out the requests that now await an answer.
    pub(super) fn step(&mut self, now: Instant) -> Vec<Question> {
        let mut asked = Vec::new();
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some((_, event)) = self.queue.pop_first() {
                self.happen(event, &mut asked);
            }
        }
        asked
    }

    fn happen(&mut self, event: Event, asked: &mut Vec<Question>) {
        match event {
            Event::Refresh => self.publish(),
            Event::Fail { id, error } => {
                if let Some(pending) = self.pending.remove(&id) {
                    self.note("fail", pending.from, pending.to, id, &error.to_string());
                    let _ = pending.reply.send(Err(error));
                }
            }
            Event::Found {
                by,
                life,
                target,
                count,
                reply,
            } => {
                let viewer = self.peers.get(&by).filter(|peer| peer.life == life);
                let found = viewer.map(|viewer| view::lookup(&self.peers, viewer, &target, count));
                let _ = reply.send(found.ok_or(NetError::Closed));
            }
            Event::Arrive { ref to, .. } | Event::Answer { ref to, .. } if self.holds(*to) => {
                let to = *to;
                if let Some(peer) = self.peers.get_mut(&to) {
                    peer.held.push(event);
                }
            }
            Event::Arrive {
                id,
                from,
                to,
                request,
            } => self.arrive(id, (from, to), request, asked),
            Event::Answer {
                id,
                from,
                to,
                response,
            } => {
                if let Some(pending) = self.pending.remove(&id) {
                    self.note("answer", from, to, id, answer_kind(&response));
                    if matches!(response, Response::Upkeep { .. }) {
                        self.trace.add_upkeep(encode_response(id, &response));
                    }
                    let _ = pending.reply.send(Ok(response));
                }
            }
        }
    }

    fn holds(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(Peer::is_paused)
    }

    fn arrive(
        &mut self,
        id: u64,
        (from, to): (PeerId, PeerId),
        request: Request,
        asked: &mut Vec<Question>,
    ) {
        let withdrawn = self
            .pending
            .get(&id)
            .is_none_or(|pending| pending.reply.is_closed());
        let Some(peer) = self.peers.get(&to) else {
            return;
        };
        let Some(ends) = peer.ends.as_ref().filter(|_| !withdrawn) else {
            self.note("cancelled", from, to, id, "");
            self.pending.remove(&id);
            return;
        };
        let (reply, answer) = oneshot::channel();
        let inbound = Inbound {
            from,
            request,
            reply,
        };
        let taken = ends.inbound.try_send(inbound).is_ok();
        let by = (to, peer.life);
        self.note("arrive", from, to, id, if taken { "" } else { "busy" });
        // When it was not taken its reply is gone, which reads as busy.
        asked.push(Question { id, by, answer });
    }

    /// An answer (none: dropped unanswered) sets out on its way back.
    pub(super) fn answered(&mut self, id: u64, by: (PeerId, u64), answer: Option<Response>) {
        let mut response = answer.unwrap_or(Response::Busy);
        let Some(peer) = self.peers.get(&by.0).filter(|peer| peer.life == by.1) else {
            return;
        };
        let slow = peer.slow;
        let Some(to) = self.pending.get(&id).map(|pending| pending.from) else {
            return;
        };
        if self.strikes(by.0) {
            damage_response(&mut response, &self.entropy);
        }
        match self.travel(by.0, to) {
            Some(delay) => {
                let event = Event::Answer {
                    id,
                    from: by.0,
                    to,
                    response,
                };
                // A paused peer's answer leaves when it goes on.
                match self.peers.get_mut(&by.0).filter(|peer| peer.paused) {
                    Some(peer) => peer.held.push(event),
                    None => self.after(delay + slow, event),
                }
            }
            None => self.note("drop", by.0, to, id, ""),
        }
    }

    fn refresh(&mut self) {
        self.after(self.options.detection, Event::Refresh);
    }

    fn publish(&self) {
        for id in self.peers.keys() {
            self.publish_to(*id);
        }
    }

    fn publish_to(&self, id: PeerId) {
        let Some(viewer) = self.peers.get(&id) else {
            return;
        };
        if let Some(ends) = &viewer.ends {
            let members = view::members(&self.peers, viewer);
            ends.members.send_if_modified(|shown| {
                let changed = **shown != *members;
                if changed {
                    *shown = members;
                }
                changed
            });
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(Instant::now() + delay, event);
    }

    fn at(&mut self, due: Instant, event: Event) {
        let age = self.number();
        self.queue.insert((due, age), event);
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn note(&mut self, what: &str, from: PeerId, to: PeerId, id: u64, detail: &str) {
        let number = |id: &PeerId| self.peers.get(id).map_or(usize::MAX, |peer| peer.number);
        let (from, to) = (number(&from), number(&to));
        let at = self.started.elapsed().as_micros();
        self.trace
            .add(&format_args!("{at} {what} {from}>{to} #{id} {detail}"));
    }
}
