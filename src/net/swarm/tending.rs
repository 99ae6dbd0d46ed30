//! Keeps the member list alive: announces what changed, learns from those who connect, passes on
//! what is new, compares with somebody at random from time to time, and decides with whom to stay
//! connected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::Multiaddr;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::addresses::{announced_bulk, announced_control, ip_of, sockets};
use super::control::{Control, Controller};
use super::inbound::page;
use super::roster::{News, Roster};
use crate::base::limits::RECORDS_PER_MESSAGE;
use crate::base::{Entropy, PeerId};
use crate::net::bulk::BulkPlane;
use crate::net::command::Offer;
use crate::net::links::Links;
use crate::net::message::{Request, Response};
use crate::placement::candidates::{Point, peer_point};

/// News wait so long for more before they are passed on.
const FORWARD_PAUSE: Duration = Duration::from_millis(300);
/// To how many peers news of others are passed on. Each passes it on in turn.
const FORWARD_FANOUT: usize = 4;
/// Mean time between two comparisons with somebody at random.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);
/// With nobody to compare with for so long, the list counts as what there is: others would not
/// answer look-ups either.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Changes of the own addresses or offer are gathered for so long.
const OWN_CHANGE_PAUSE: Duration = Duration::from_millis(200);
/// Small changes of the free space wait this long.
const SMALL_CHANGE_PAUSE: Duration = Duration::from_secs(10);
/// How long an exchange of records may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Exchanges and announcements under way at a time.
const EXCHANGES_MAX: usize = 16;
/// Links are this old before they are closed to make room.
const TRIM_PAUSE: Duration = Duration::from_secs(1);
/// News gathered for passing on.
const FORWARD_MAX: usize = RECORDS_PER_MESSAGE;
/// In networks up to this size everybody stays connected with everybody.
const FULL_MESH: usize = 64;

/// What the tender works with.
pub(super) struct Tender {
    pub(super) own: PeerId,
    pub(super) roster: Roster,
    pub(super) links: Links,
    pub(super) controller: Controller,
    pub(super) plane: BulkPlane,
    pub(super) entropy: Entropy,
    pub(super) tasks: TaskTracker,
    pub(super) bulk_bound: Vec<std::net::SocketAddr>,
    pub(super) max_connections: usize,
    pub(super) exchanges: Arc<Semaphore>,
}

/// What it hears of.
pub(super) struct Ears {
    pub(super) news: mpsc::Receiver<News>,
    pub(super) offers: watch::Receiver<Offer>,
    pub(super) listening: watch::Receiver<BTreeSet<Multiaddr>>,
}

/// What waits to be done.
struct Waiting {
    announced: Offer,
    own_due: Option<Instant>,
    forward: Vec<(Bytes, Option<PeerId>)>,
    forward_due: Option<Instant>,
    compare_due: Instant,
    settle_due: Option<Instant>,
    /// Since when.
    connected: BTreeMap<PeerId, Instant>,
    /// With whom to stay connected.
    wanted: BTreeSet<PeerId>,
    trim_due: Option<Instant>,
}

impl Tender {
    /// A semaphore of the right size for [`Tender::exchanges`].
    pub(super) fn exchange_slots() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(EXCHANGES_MAX))
    }

    /// Runs until the network ends.
    pub(super) async fn run(self, mut ears: Ears) {
        let mut changes = self.links.changes();
        let mut waiting = Waiting {
            announced: ears.offers.borrow().clone(),
            own_due: None,
            forward: Vec::new(),
            forward_due: None,
            compare_due: self.next_comparison(),
            settle_due: Some(Instant::now() + SETTLE_LIMIT),
            connected: BTreeMap::new(),
            wanted: BTreeSet::new(),
            trim_due: None,
        };
        self.choose_peers(&mut waiting);
        loop {
            tokio::select! {
                biased;
                news = ears.news.recv() => match news {
                    Some(news) => self.on_news(&mut waiting, news).await,
                    None => return,
                },
                changed = ears.listening.changed() => match changed {
                    Ok(()) => waiting.hasten(OWN_CHANGE_PAUSE),
                    Err(_) => return,
                },
                changed = ears.offers.changed() => match changed {
                    Ok(()) => {
                        let pause = urgency(&waiting.announced, &ears.offers.borrow());
                        waiting.hasten(pause);
                    }
                    Err(_) => return,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.on_links(&mut waiting),
                    Err(_) => return,
                },
                () = until(waiting.own_due) => {
                    waiting.own_due = None;
                    waiting.announced = ears.offers.borrow_and_update().clone();
                    let listening = ears.listening.borrow_and_update().clone();
                    self.announce_own(&waiting.announced, &listening).await;
                }
                () = until(waiting.settle_due) => {
                    waiting.settle_due = None;
                    self.roster.set_settled(true);
                }
                () = until(waiting.forward_due) => {
                    waiting.forward_due = None;
                    self.forward(std::mem::take(&mut waiting.forward));
                }
                () = until(waiting.trim_due) => {
                    waiting.trim_due = None;
                    self.trim(&mut waiting);
                }
                () = sleep_until(waiting.compare_due) => {
                    waiting.compare_due = self.next_comparison();
                    if let Some(peer) = self.random_connected(1, None).pop() {
                        self.exchange(peer);
                    }
                }
            }
        }
    }

    fn next_comparison(&self) -> Instant {
        Instant::now() + COMPARE_INTERVAL.mul_f64(0.5 + self.entropy.unit())
    }

    async fn on_news(&self, waiting: &mut Waiting, news: News) {
        let peer = news.known.peer();
        let sockets = sockets(&news.known.record.bulk);
        if self.plane.set_addresses(peer, &sockets) {
            self.links.retry_now(&peer);
        }
        // The actor ends only when everything does.
        let _ = self
            .controller
            .send(Control::Learned(Arc::clone(&news.known)))
            .await;
        self.choose_peers(waiting);
        // Of others there is nothing to keep, and each time they are told of they would be new.
        if let Some(source) = news.source.filter(|_| news.is_listed) {
            if waiting.forward.len() < FORWARD_MAX {
                waiting
                    .forward
                    .push((news.known.encoded.clone(), Some(source)));
            }
            let due = Instant::now() + FORWARD_PAUSE;
            waiting.forward_due.get_or_insert(due);
        }
    }

    /// Asks whoever is newly connected for what it knows.
    fn on_links(&self, waiting: &mut Waiting) {
        let connected: BTreeSet<PeerId> = self.connected().into_iter().collect();
        waiting.connected.retain(|peer, _| connected.contains(peer));
        for peer in connected {
            waiting.connected.entry(peer).or_insert_with(|| {
                self.exchange(peer);
                Instant::now()
            });
        }
        if waiting.connected.len() > self.comfortable_links() {
            waiting.trim_due.get_or_insert(Instant::now() + TRIM_PAUSE);
        }
    }

    /// Links up to here leave room for those that are needed next.
    fn comfortable_links(&self) -> usize {
        (self.max_connections * 3 / 4).max(1)
    }

    /// Closes the oldest links that nobody here needs, if there are too many.
    fn trim(&self, waiting: &mut Waiting) {
        let mut surplus = waiting
            .connected
            .len()
            .saturating_sub(self.comfortable_links());
        let mut by_age: Vec<_> = waiting.connected.iter().collect();
        by_age.sort_unstable_by_key(|(_, since)| **since);
        for (peer, since) in by_age {
            let is_settled = since.elapsed() > TRIM_PAUSE;
            if surplus == 0 || !is_settled || waiting.wanted.contains(peer) {
                continue;
            }
            if let Some(link) = self.links.best(peer).filter(|link| link.in_flight() == 0) {
                link.close();
                surplus -= 1;
            }
        }
        if surplus > 0 {
            waiting.trim_due = Some(Instant::now() + TRIM_PAUSE);
        }
    }

    /// Signs the own record anew and tells it to everybody.
    async fn announce_own(&self, offer: &Offer, listening: &BTreeSet<Multiaddr>) {
        let interfaces: BTreeSet<IpAddr> = listening.iter().filter_map(ip_of).collect();
        let bulk = announced_bulk(&self.bulk_bound, &interfaces);
        let record = self
            .roster
            .set_own(offer, announced_control(listening), bulk);
        let serves = offer.capacity_bytes > 0;
        let _ = self.controller.send(Control::Serve(serves)).await;
        for peer in self.connected() {
            self.announce(peer, vec![record.clone()]);
        }
    }

    fn forward(&self, news: Vec<(Bytes, Option<PeerId>)>) {
        for peer in self.random_connected(FORWARD_FANOUT, None) {
            let others = news.iter().filter(|(_, source)| *source != Some(peer));
            let records = page(others.map(|(record, _)| record.clone()));
            if !records.is_empty() {
                self.announce(peer, records);
            }
        }
    }

    fn announce(&self, peer: PeerId, records: Vec<Bytes>) {
        let (links, slots) = (self.links.clone(), Arc::clone(&self.exchanges));
        self.tasks.spawn(async move {
            let Ok(_slot) = slots.acquire().await else {
                return;
            };
            let request = Request::Announce { records };
            let deadline = Instant::now() + EXCHANGE_LIMIT;
            if let Err(error) = links.request(peer, &request, deadline).await {
                // It will ask when it connects again.
                tracing::debug!(%peer, %error, "announcement not delivered");
            }
        });
    }

    /// Learns what a peer knows: around this peer first, and if that fills a message, around the
    /// points where each further bit of the own position differs.
    fn exchange(&self, peer: PeerId) {
        let (links, slots) = (self.links.clone(), Arc::clone(&self.exchanges));
        let roster = self.roster.clone();
        let own_point = peer_point(&self.own);
        self.tasks.spawn(async move {
            let Ok(_slot) = slots.acquire().await else {
                return;
            };
            for near in pages(own_point) {
                let request = Request::Records {
                    near: Some(near),
                    limit: RECORDS_PER_MESSAGE as u32,
                };
                let deadline = Instant::now() + EXCHANGE_LIMIT;
                let records = match links.request(peer, &request, deadline).await {
                    Ok(Response::Records { records }) => records,
                    Ok(_) => return,
                    Err(error) => {
                        tracing::debug!(%peer, %error, "no exchange of records");
                        return;
                    }
                };
                let is_last = records.len() < RECORDS_PER_MESSAGE;
                roster.learn(records, Some(peer)).await;
                if is_last {
                    break;
                }
            }
            roster.set_settled(true);
        });
    }

    fn connected(&self) -> Vec<PeerId> {
        let connected = self.links.connected();
        connected.into_iter().map(|(peer, _)| peer).collect()
    }

    fn random_connected(&self, count: usize, except: Option<PeerId>) -> Vec<PeerId> {
        let mut peers = self.connected();
        peers.retain(|peer| Some(*peer) != except);
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count && !peers.is_empty() {
            let at = self.entropy.below(peers.len() as u64) as usize;
            chosen.push(peers.swap_remove(at));
        }
        chosen
    }

    /// Everybody, in a small network. In a large one those nearest to this peer, so that each
    /// neighbourhood hangs together, and as many that a hash chooses, so that all of it does.
    fn choose_peers(&self, waiting: &mut Waiting) {
        let mut nearest = self.roster.listed();
        nearest.retain(|peer| *peer != self.own);
        // As many others want this peer as it wants itself, and as much room again is for those that
        // are needed for a moment.
        let most = match self.comfortable_links() {
            enough if nearest.len() <= enough.min(FULL_MESH) => enough,
            _ => FULL_MESH.min(self.max_connections / 4).max(1),
        };
        let mut chosen: BTreeSet<PeerId> = nearest.iter().copied().take(most / 2).collect();
        let mut others: Vec<_> = nearest.split_off(chosen.len());
        others.sort_by_cached_key(|peer| {
            let pair = [self.own.as_bytes().as_slice(), peer.as_bytes().as_slice()].concat();
            *blake3::hash(&pair).as_bytes()
        });
        let room = most - chosen.len();
        chosen.extend(others.into_iter().take(room));
        if chosen != waiting.wanted {
            self.links.keep(chosen.clone());
            waiting.wanted = chosen;
        }
    }
}

impl Waiting {
    /// The own record is due after `pause`, if not sooner.
    fn hasten(&mut self, pause: Duration) {
        let due = Instant::now() + pause;
        self.own_due = Some(self.own_due.map_or(due, |earlier| earlier.min(due)));
    }
}

/// How soon a change of the offer should be told.
fn urgency(announced: &Offer, now: &Offer) -> Duration {
    let moved = announced.free_bytes.abs_diff(now.free_bytes);
    let is_small = moved.saturating_mul(20) < now.capacity_bytes;
    let is_same = announced.capacity_bytes == now.capacity_bytes
        && announced.zone == now.zone
        && announced.stay == now.stay;
    // Whether anything is free at all decides whether a peer is asked to store.
    let same_state = (announced.free_bytes == 0) == (now.free_bytes == 0);
    if is_same && is_small && same_state {
        SMALL_CHANGE_PAUSE
    } else {
        OWN_CHANGE_PAUSE
    }
}

/// The points around which records are asked for, in turn.
fn pages(own: Point) -> impl Iterator<Item = Point> {
    let flipped = (0..8).map(move |bit| {
        let mut point = own;
        point[0] ^= 0x80 >> bit;
        point
    });
    std::iter::once(own).chain(flipped)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::command::Stay;

    #[test]
    fn only_changes_that_matter_hurry() {
        let offer = |free_bytes| Offer {
            capacity_bytes: 1000,
            free_bytes,
            zone: String::new(),
            stay: Stay::Stays,
        };
        assert_eq!(urgency(&offer(500), &offer(460)), SMALL_CHANGE_PAUSE);
        assert_eq!(urgency(&offer(500), &offer(450)), OWN_CHANGE_PAUSE);
        assert_eq!(urgency(&offer(10), &offer(0)), OWN_CHANGE_PAUSE);
        let moved = Offer {
            zone: "attic".to_owned(),
            ..offer(500)
        };
        assert_eq!(urgency(&offer(500), &moved), OWN_CHANGE_PAUSE);
        let left = Offer {
            stay: Stay::Left,
            ..offer(500)
        };
        assert_eq!(urgency(&offer(500), &left), OWN_CHANGE_PAUSE);
    }

    #[test]
    fn pages_cover_each_half_of_the_key_space() {
        let own = [0x55; 32];
        let all: Vec<Point> = pages(own).collect();
        assert_eq!(all.len(), 9);
        assert!(all.iter().any(|point| point[0] & 0x80 != own[0] & 0x80));
    }
}
