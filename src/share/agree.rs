//! What the volume asks of the other members: that they have what was closed, or synced, here, and that what they
//! have is here. `locks` has what is about locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::Inner;
use crate::base::PeerId;
use crate::feeds::{Accord, LockMode, LockName, plan};
use crate::net::{Request, Response};
use crate::vfs::{Agreement, LockError};

/// One that is connected and does not answer for so long counts as away.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one that did not answer is not waited for, unless it says something.
const SILENCE: Duration = Duration::from_secs(30);
/// How long enough machines may take to have something on their disks.
const KEEP: Duration = Duration::from_secs(8);
/// The first pause before a member is asked again, and the longest.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What is known of the others' having what was written here, and of those who say nothing.
#[derive(Default)]
pub(super) struct Agreed {
    /// How far each was told that others have the own feed: merged, and on their disks.
    reached: Mutex<BTreeMap<PeerId, (u64, u64)>>,
    silent: Mutex<BTreeMap<PeerId, Instant>>,
    /// Held by who hears from everybody.
    hearing: tokio::sync::Mutex<()>,
    /// How many wanted that, and for how many it was done.
    wanted: AtomicU64,
    heard: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agreed {
    fn upto(&self, peer: &PeerId, on_disk: bool) -> u64 {
        let (merged, durable) = lock(&self.reached).get(peer).copied().unwrap_or_default();
        if on_disk { durable } else { merged }
    }

    fn note(&self, peer: PeerId, upto: u64, on_disk: bool) {
        let mut reached = lock(&self.reached);
        let (merged, durable) = reached.entry(peer).or_default();
        *merged = upto.max(*merged);
        if on_disk {
            *durable = upto.max(*durable);
        }
    }

    /// They are not connected any more: what they had may be lost when they come back.
    pub(super) fn went(&self, gone: &[PeerId]) {
        let mut reached = lock(&self.reached);
        for peer in gone {
            reached.remove(peer);
        }
    }

    /// It says something.
    pub(super) fn spoke(&self, peer: &PeerId) {
        lock(&self.silent).remove(peer);
    }

    fn is_silent(&self, peer: &PeerId) -> bool {
        let mut silent = lock(&self.silent);
        silent.retain(|_, since| since.elapsed() < SILENCE);
        silent.contains_key(peer)
    }
}

impl Inner {
    /// Connected peers that have part in the volume and answer.
    fn answering(&self) -> Vec<PeerId> {
        let mut peers = self.connected();
        peers.retain(|peer| self.peers.has_part(peer) && !self.agreed.is_silent(peer));
        peers
    }

    fn is_connected(&self, peer: &PeerId) -> bool {
        self.connected().contains(peer)
    }

    /// One did not answer.
    fn falls_silent(&self, peer: PeerId) {
        tracing::warn!(
            volume = %self.volume,
            peer = %peer.short(),
            "a member is connected and does not answer: it is not waited for until it does"
        );
        lock(&self.agreed.silent).insert(peer, Instant::now());
    }

    /// Waits until members have the own feed.
    pub(super) async fn show(self: &Arc<Self>, upto: u64) {
        let peers = self.answering().into_iter();
        let behind = peers.filter(|peer| self.agreed.upto(peer, false) < upto);
        let told = behind.map(|peer| async move {
            let reached = timeout(ANSWER, self.bring(peer, upto, false)).await;
            if reached.is_err() && self.is_connected(&peer) {
                self.falls_silent(peer);
            }
        });
        futures::future::join_all(told).await;
    }

    /// Waits until so many others have the own feed on their disks. How many have.
    async fn keep(self: &Arc<Self>, upto: u64, enough: usize) -> usize {
        let mut peers = self.connected();
        peers.retain(|peer| self.peers.has_part(peer));
        let told = peers.into_iter().map(|peer| async move {
            let is_there = self.agreed.upto(&peer, true) >= upto;
            is_there || matches!(timeout(KEEP, self.bring(peer, upto, true)).await, Ok(true))
        });
        let mut told: FuturesUnordered<_> = told.collect();
        let mut count = 0;
        while count < enough {
            match told.next().await {
                Some(has) => count += usize::from(has),
                None => break,
            }
        }
        count
    }

    /// Brings the own feed to a member, and asks until it says that it has it. False if it has gone, or has no part.
    async fn bring(self: &Arc<Self>, peer: PeerId, upto: u64, on_disk: bool) -> bool {
        let own = self.vfs.writer();
        let message = Accord::Reach {
            volume: self.volume,
            writer: own,
            on_disk,
        };
        let body = message.to_bytes();
        let mut pause = PAUSE;
        loop {
            if !self.is_connected(&peer) || !self.peers.has_part(&peer) {
                return false;
            }
            let is_told = self
                .peers
                .known(&peer, own)
                .is_some_and(|known| known >= upto);
            if is_told {
                match self.reached(peer, body.clone()).await {
                    Some(last) if last >= upto => {
                        self.agreed.note(peer, last, on_disk);
                        return true;
                    }
                    Some(last) => {
                        // It lacks what this builds on, or never got it.
                        self.peers.has_only(&peer, own, last);
                        self.soon.notify_one();
                    }
                    None => {}
                }
            } else if self.peers.begin_push(&peer, own, upto) {
                // It ends in good order also if nobody waits for it any more.
                self.spawn(Arc::clone(self).push(peer));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// How far a member says that it has the own feed.
    async fn reached(&self, peer: PeerId, body: Bytes) -> Option<u64> {
        let response = self.net.request(peer, Request::Feed { body }, ANSWER).await;
        let Ok(Response::Feed { body }) = response else {
            return None;
        };
        match self.pools.cpu.run(move || Accord::decode(&body)).await {
            Ok(Accord::Reached {
                volume,
                writer,
                last,
                ..
            }) if volume == self.volume && writer == self.vfs.writer() => Some(last),
            _ => None,
        }
    }

    /// Waits until what connected members have is here. Those who want it while it is being done share the next turn.
    pub(super) async fn gather(self: &Arc<Self>) {
        let ticket = self.agreed.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        let _turn = self.agreed.hearing.lock().await;
        if self.agreed.heard.load(Ordering::Acquire) >= ticket {
            return;
        }
        let all = self.agreed.wanted.load(Ordering::Acquire);
        let peers = self.answering().into_iter();
        let heard = peers.map(|peer| async move {
            let (done, heard) = oneshot::channel();
            let inner = Arc::clone(self);
            // It ends in good order also if nobody waits for it any more.
            self.spawn(async move {
                inner.hear_from(peer).await;
                let _ = done.send(());
            });
            let heard = timeout(ANSWER, heard).await;
            if heard.is_err() && self.is_connected(&peer) {
                self.falls_silent(peer);
            }
        });
        futures::future::join_all(heard).await;
        self.agreed.heard.store(all, Ordering::Release);
    }

    /// Takes what a member has and this replica has not.
    async fn hear_from(self: &Arc<Self>, peer: PeerId) {
        let mut pause = PAUSE;
        loop {
            let (theirs, has_pulled) = match self.take_from(peer).await {
                Ok(heard) => heard,
                Err(error) => {
                    tracing::debug!(peer = %peer.short(), "not heard from: {error}");
                    return;
                }
            };
            let is_here = plan(&self.vfs.claims(), None, true, &theirs).ask.is_empty();
            // What does not come although it was asked for is in a checkpoint, or waits for its time.
            if is_here || has_pulled {
                return;
            }
            // Somebody else takes it from there just now.
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Answers how far a feed was merged here.
    pub(super) async fn answer_reach(&self, asked: &Accord) -> Option<Accord> {
        let Accord::Reach {
            volume,
            writer,
            on_disk,
        } = *asked
        else {
            return None;
        };
        match self.vfs.merged_upto(writer, on_disk).await {
            Ok(last) => Some(Accord::Reached {
                volume,
                writer,
                last,
                on_disk,
            }),
            Err(error) => {
                tracing::warn!("what was merged cannot be brought to the disk: {error}");
                None
            }
        }
    }

    /// Answers a message that is not about what feeds say.
    pub(super) async fn answer_accord(&self, from: PeerId, body: Bytes) -> Response {
        let read = self.pools.cpu.run(move || Accord::decode(&body)).await;
        let asked = match read {
            Ok(asked) if asked.volume() == self.volume => asked,
            Ok(_) => return Response::Unsupported,
            Err(error) => {
                tracing::warn!(from = %from.short(), "a message about feeds was refused: {error}");
                return Response::Unsupported;
            }
        };
        let answer = match &asked {
            Accord::Reach { .. } => self.answer_reach(&asked).await,
            // Locks are for members: others could only stand in their way.
            _ => {
                let vfs = Arc::clone(&self.vfs);
                match self.pools.disk.run(move || vfs.is_member(from)).await {
                    true => self.answer_about_locks(from, asked).await,
                    false => None,
                }
            }
        };
        match answer {
            Some(answer) => Response::Feed {
                body: answer.to_bytes(),
            },
            None => Response::Busy,
        }
    }
}

/// The other members, for as long as the volume is shared.
pub(super) struct Bond(pub(super) Weak<Inner>);

impl Agreement for Bond {
    fn shown(&self, upto: u64) -> BoxFuture<'static, ()> {
        let inner = self.0.upgrade();
        async move {
            if let Some(inner) = inner {
                inner.show(upto).await;
            }
        }
        .boxed()
    }

    fn gathered(&self) -> BoxFuture<'static, ()> {
        let inner = self.0.upgrade();
        async move {
            if let Some(inner) = inner {
                inner.gather().await;
            }
        }
        .boxed()
    }

    fn kept(&self, upto: u64, enough: usize) -> BoxFuture<'static, usize> {
        let inner = self.0.upgrade();
        async move {
            match inner {
                Some(inner) => inner.keep(upto, enough).await,
                None => 0,
            }
        }
        .boxed()
    }

    fn lock(
        &self,
        name: LockName,
        mode: LockMode,
        waited: Option<Duration>,
    ) -> BoxFuture<'static, Result<u64, LockError>> {
        let inner = self.0.upgrade();
        async move {
            match inner {
                Some(inner) => inner.try_lock(name, mode, waited).await,
                None => Err(LockError::NoMajority),
            }
        }
        .boxed()
    }

    fn holds(&self, name: LockName, grant: u64) -> bool {
        let inner = self.0.upgrade();
        inner.is_some_and(|inner| inner.holds(name, grant))
    }

    fn unlock(&self, name: LockName) -> BoxFuture<'static, bool> {
        let inner = self.0.upgrade();
        async move {
            match inner {
                Some(inner) => inner.leave_lock(name).await,
                None => false,
            }
        }
        .boxed()
    }
}
