//! The member list of a running peer: shared, verified off the reactor, published when it changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::base::{Clock, PeerId, Pools};
use crate::net::command::{Members, Offer};
use crate::net::credentials::Credentials;
use crate::net::links::Links;
use crate::net::members::{Known, Learned, MemberTable};
use crate::net::message::PeerRecord;
use crate::net::records::{self, Claimed, RECORD_VERSION, RecordError};
use crate::placement::candidates::Point;

/// The list is published at most this often.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);

/// It is looked over this often although nothing seems to have changed.
const REVIEW_INTERVAL: Duration = Duration::from_secs(30);

/// A record that is new here, and who told it.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) known: Arc<Known>,
    /// Whether the peer is on the list now.
    pub(super) is_listed: bool,
    /// The peer that passed it on; none: it came from this peer's own disk.
    pub(super) source: Option<PeerId>,
}

/// The shared list. Cheap to clone.
#[derive(Clone)]
pub(super) struct Roster {
    inner: Arc<Inner>,
}

struct Inner {
    credentials: Credentials,
    clock: Clock,
    pools: Pools,
    table: Mutex<MemberTable>,
    changed: Notify,
    news: mpsc::Sender<News>,
}

impl Roster {
    /// An empty list. `news` hears of every record that is taken in; while it is full,
    /// [`Roster::learn`] waits.
    pub(super) fn new(
        credentials: Credentials,
        clock: Clock,
        pools: Pools,
        max_members: usize,
        max_spare: usize,
        news: mpsc::Sender<News>,
    ) -> Self {
        let table = MemberTable::new(credentials.own(), max_members, max_spare);
        Roster {
            inner: Arc::new(Inner {
                credentials,
                clock,
                pools,
                table: Mutex::new(table),
                changed: Notify::new(),
                news,
            }),
        }
    }

    /// Verifies the signed records that belong on the list or update known ones, and takes them in.
    /// What does not verify is dropped.
    pub(super) async fn learn(&self, encoded: Vec<Bytes>, source: Option<PeerId>) {
        let mut claims = Vec::new();
        for bytes in &encoded {
            match Claimed::decode(bytes) {
                Ok(claim) if self.wants(&claim.record) => claims.push(claim),
                Ok(_) => {}
                Err(error) => self.refuse(source, &error),
            }
        }
        self.believe(claims, source).await;
    }

    /// Verifies and takes in all records that are new, of whomever. Answers those of all members
    /// that were named, whether or not they were new.
    pub(super) async fn learn_all(
        &self,
        encoded: Vec<Bytes>,
        source: Option<PeerId>,
    ) -> Vec<Arc<Known>> {
        let mut claims = Vec::new();
        let mut all = Vec::new();
        for bytes in &encoded {
            match Claimed::decode(bytes) {
                Ok(claim) if self.is_news(&claim.record) => claims.push(claim),
                Ok(claim) => all.extend(self.get(&claim.record.peer)),
                Err(error) => self.refuse(source, &error),
            }
        }
        all.extend(self.believe(claims, source).await);
        all
    }

    async fn believe(&self, claims: Vec<Claimed>, source: Option<PeerId>) -> Vec<Arc<Known>> {
        if claims.is_empty() {
            return Vec::new();
        }
        let gate = self.inner.credentials.gate().clone();
        let now_ms = self.inner.clock.now_ms();
        let with_before = claims.into_iter().map(|claim| {
            let before = self.get(&claim.record.peer);
            (claim, before)
        });
        let claims: Vec<_> = with_before.collect();
        let judge = move || -> Vec<Result<Known, RecordError>> {
            let verify = |(claim, before): (Claimed, Option<Arc<Known>>)| {
                claim.verify(&gate, before.as_deref(), now_ms)
            };
            claims.into_iter().map(verify).collect()
        };
        let mut believed = Vec::new();
        for outcome in self.inner.pools.cpu.run(judge).await {
            match outcome {
                Ok(known) => {
                    let known = Arc::new(known);
                    if let Some(is_listed) = self.take(&known) {
                        let news = News {
                            known: Arc::clone(&known),
                            is_listed,
                            source,
                        };
                        // The receiver ends only with the whole network.
                        let _ = self.inner.news.send(news).await;
                    }
                    believed.push(known);
                }
                Err(error) => self.refuse(source, &error),
            }
        }
        believed
    }

    fn wants(&self, record: &PeerRecord) -> bool {
        record.peer != self.inner.credentials.own() && self.lock().wants(&record.peer, record.seq)
    }

    fn is_news(&self, record: &PeerRecord) -> bool {
        // Nobody else tells this peer about itself.
        record.peer != self.inner.credentials.own() && self.lock().is_news(&record.peer, record.seq)
    }

    fn refuse(&self, source: Option<PeerId>, error: &RecordError) {
        let source = source.map(|peer| peer.short());
        tracing::debug!(source, %error, "peer record refused");
    }

    /// Whether the peer is listed now, if the record was new.
    fn take(&self, known: &Arc<Known>) -> Option<bool> {
        let mut table = self.lock();
        if table.learn(Arc::clone(known)) == Learned::Nothing {
            return None;
        }
        self.inner.changed.notify_one();
        Some(table.is_listed(&known.peer()))
    }

    /// Signs what this peer says of itself and takes it in. Answers the signed form.
    pub(super) fn set_own(
        &self,
        offer: &Offer,
        addresses: Vec<String>,
        bulk: Vec<String>,
    ) -> Bytes {
        let credentials = &self.inner.credentials;
        let own = credentials.own();
        let before = self.get(&own).map_or(0, |known| known.record.seq);
        let record = PeerRecord {
            version: RECORD_VERSION,
            peer: own,
            seq: self.inner.clock.now_ms().max(before.saturating_add(1)),
            addresses,
            bulk,
            capacity_bytes: offer.capacity_bytes,
            free_bytes: offer.free_bytes,
            zone: offer.zone.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            membership: credentials.gate().chain().to_vec(),
            leaving: offer.stay.to_wire(),
        };
        let encoded = records::sign(&record, credentials.device());
        let known = Known::new(record, encoded.clone(), credentials.admitted().clone());
        self.lock().learn(Arc::new(known));
        self.inner.changed.notify_one();
        encoded
    }

    /// Whether the list was compared with that of another member.
    pub(super) fn set_settled(&self, settled: bool) {
        if self.lock().set_settled(settled) {
            self.inner.changed.notify_one();
        }
    }

    /// Remembers that members were left out before.
    pub(super) fn set_incomplete(&self) {
        self.lock().set_incomplete();
    }

    /// Whether a list of so many persisted records may have left some out.
    pub(super) fn may_be_partial(&self, persisted: usize) -> bool {
        self.lock().may_be_partial(persisted)
    }

    /// The record of a peer, if it is known.
    pub(super) fn get(&self, peer: &PeerId) -> Option<Arc<Known>> {
        self.lock().get(peer).cloned()
    }

    /// The known records closest to `point`.
    pub(super) fn closest(&self, point: &Point, count: usize) -> Vec<Arc<Known>> {
        self.lock().closest(point, count)
    }

    /// The members of the list, closest to this peer first, itself among them.
    pub(super) fn listed(&self) -> Vec<PeerId> {
        self.lock().listed().map(|known| known.peer()).collect()
    }

    /// Publishes the list, and what is to be kept for the next start, until `stop`.
    pub(super) async fn publish(
        self,
        links: Links,
        members: watch::Sender<Arc<Members>>,
        persist: watch::Sender<Arc<Vec<Bytes>>>,
        stop: CancellationToken,
    ) -> watch::Sender<Arc<Members>> {
        let mut reach_changes = links.changes();
        loop {
            self.publish_once(&links, &members, &persist);
            let next = async {
                tokio::time::sleep(PUBLISH_INTERVAL).await;
                tokio::select! {
                    biased;
                    () = self.inner.changed.notified() => {}
                    // Its sender lives as long as `links`.
                    _ = reach_changes.changed() => {}
                    // Failures that nobody repeats count no more after a while.
                    () = tokio::time::sleep(REVIEW_INTERVAL) => {}
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return members,
                () = next => {}
            }
        }
    }

    /// Publishes what changed since the last time.
    pub(super) fn publish_once(
        &self,
        links: &Links,
        members: &watch::Sender<Arc<Members>>,
        persist: &watch::Sender<Arc<Vec<Bytes>>>,
    ) {
        let (list, records) = {
            let table = self.lock();
            let list = table.members(|peer| (links.reach(peer), links.rtt(peer)));
            (list, table.to_persist())
        };
        members.send_if_modified(|shown| replace(shown, list));
        persist.send_if_modified(|shown| replace(shown, records));
    }

    fn lock(&self) -> MutexGuard<'_, MemberTable> {
        self.inner
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn replace<T: PartialEq>(shown: &mut Arc<T>, value: T) -> bool {
    let changed = **shown != value;
    if changed {
        *shown = Arc::new(value);
    }
    changed
}
