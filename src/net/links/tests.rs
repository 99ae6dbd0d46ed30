//! Tests of the links to peers: which is used, which replaces which, and how many there may be.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::*;
use crate::base::{BlockId, Limits};
use crate::net::budget::PayloadBudget;
use crate::net::command::Inbound;
use crate::net::throttle::Throttle;

const OWN: PeerId = PeerId([5; 32]);
const PEER: PeerId = PeerId([6; 32]);
const SMALLER: PeerId = PeerId([4; 32]);

fn bulk() -> Path {
    Path::Bulk(([127, 0, 0, 1], 1).into())
}

fn have() -> Request {
    Request::Have {
        blocks: vec![BlockId([1; 32])],
    }
}

fn context() -> (LinkContext, mpsc::Receiver<Inbound>) {
    let (inbound, requests) = mpsc::channel(64);
    let context = LinkContext {
        inbound,
        throttle: Throttle::unlimited(),
        budget: PayloadBudget::new(1 << 20),
        limits: Arc::new(Limits::default()),
        tasks: TaskTracker::new(),
    };
    (context, requests)
}

fn links(max_peers: usize) -> Links {
    let clock = Clock::simulated(1_000);
    Links::new(OWN, context().0, clock, Entropy::seeded(1), max_peers)
}

/// The far end of a link to `peer`: answers everything with `answer`.
fn far_end(answer: Response) -> (tokio::io::DuplexStream, Link) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (context, mut inbound) = context();
    let link = Link::start(OWN, Path::Memory, tokio::io::split(far), context);
    tokio::spawn(async move {
        while let Some(Inbound { reply, .. }) = inbound.recv().await {
            let _ = reply.send(answer.clone());
        }
    });
    (near, link)
}

fn attach(links: &Links, peer: PeerId, path: Path, dialer: PeerId) -> Result<Link, AttachError> {
    links.attach(
        peer,
        path,
        dialer,
        tokio::io::split(far_end(Response::Done).0),
    )
}

/// A plane that takes its time, and then succeeds or not.
struct Plan {
    links: Links,
    path: Path,
    takes: Duration,
    works: bool,
    attempts: Arc<AtomicUsize>,
}

impl Connector for Plan {
    fn connect(&self, peer: PeerId) -> BoxFuture<'static, Result<(), NetError>> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let (links, path, takes, works) = (self.links.clone(), self.path, self.takes, self.works);
        Box::pin(async move {
            sleep(takes).await;
            if !works {
                return Err(NetError::Unreachable(peer));
            }
            attach(&links, peer, path, OWN).map_err(|_| NetError::Closed)?;
            Ok(())
        })
    }
}

fn plan(links: &Links, plane: Plane, takes_ms: u64, works: bool) -> Arc<AtomicUsize> {
    let attempts = Arc::new(AtomicUsize::new(0));
    let path = match plane {
        Plane::Bulk => bulk(),
        Plane::Control => Path::Quic,
    };
    let plan = Plan {
        links: links.clone(),
        path,
        takes: Duration::from_millis(takes_ms),
        works,
        attempts: Arc::clone(&attempts),
    };
    links.set_connector(plane, Arc::new(plan));
    attempts
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn ask(links: &Links) -> (Result<Response, NetError>, Duration) {
    let began = Instant::now();
    let outcome = links.request(PEER, &have(), soon()).await;
    (outcome, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_bulk_plane_has_a_head_start() {
    let links = links(8);
    let (bulk_attempts, control_attempts) = (
        plan(&links, Plane::Bulk, 100, true),
        plan(&links, Plane::Control, 0, true),
    );
    let (first, second) = (links.clone(), links.clone());
    let (first, second) = tokio::join!(ask(&first), ask(&second));
    assert_eq!(
        (first.0, second.0),
        (Ok(Response::Done), Ok(Response::Done))
    );
    assert_eq!(links.reach(&PEER), Reach::Connected(bulk()));
    // Both shared one attempt.
    assert_eq!(bulk_attempts.load(Ordering::SeqCst), 1);
    assert_eq!(control_attempts.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn where_the_bulk_plane_is_blocked_the_other_serves_soon() {
    let links = links(8);
    plan(&links, Plane::Bulk, 8_000, false);
    plan(&links, Plane::Control, 50, true);
    let (outcome, took) = ask(&links).await;
    assert_eq!(outcome, Ok(Response::Done));
    assert!(took < Duration::from_millis(400), "{took:?}");
    assert_eq!(links.reach(&PEER), Reach::Connected(Path::Quic));
    let (outcome, took) = ask(&links).await;
    assert_eq!(outcome, Ok(Response::Done));
    assert!(took < Duration::from_millis(50), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_better_link_replaces_the_fallback_when_it_comes() {
    let links = links(8);
    plan(&links, Plane::Bulk, 2_000, true);
    plan(&links, Plane::Control, 0, true);
    assert_eq!(ask(&links).await.0, Ok(Response::Done));
    let fallback = links.best(&PEER).unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(links.reach(&PEER), Reach::Connected(bulk()));
    assert!(!fallback.is_open());
    // And when that is lost, the fallback serves again.
    links.best(&PEER).unwrap().abort();
    plan(&links, Plane::Bulk, 0, false);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(ask(&links).await.0, Ok(Response::Done));
    assert_eq!(links.reach(&PEER), Reach::Connected(Path::Quic));
}

#[tokio::test(start_paused = true)]
async fn a_peer_out_of_reach_costs_one_attempt_in_a_while() {
    let links = links(8);
    let attempts = plan(&links, Plane::Bulk, 1_000, false);
    let (outcome, took) = ask(&links).await;
    assert_eq!(outcome, Err(NetError::Unreachable(PEER)));
    assert!(took >= Duration::from_secs(1));
    assert_eq!(links.reach(&PEER), Reach::Away { since_ms: 2_000 });
    // Until its pause is over nobody waits again.
    assert_eq!(
        ask(&links).await,
        (Err(NetError::Unreachable(PEER)), Duration::ZERO)
    );
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(300) {
        let _ = ask(&links).await;
        sleep(Duration::from_millis(50)).await;
    }
    let count = attempts.load(Ordering::SeqCst);
    assert!((15..=40).contains(&count), "{count} attempts in 5 minutes");
    // A sign of life ends the pause.
    links.retry_now(&PEER);
    plan(&links, Plane::Bulk, 0, true);
    assert_eq!(ask(&links).await.0, Ok(Response::Done));
}

#[tokio::test(start_paused = true)]
async fn a_connection_from_the_peer_serves_who_waits_for_one() {
    let links = links(8);
    plan(&links, Plane::Bulk, 8_000, false);
    let asking = tokio::spawn({
        let links = links.clone();
        async move { ask(&links).await }
    });
    sleep(Duration::from_secs(1)).await;
    attach(&links, PEER, Path::Tcp, PEER).unwrap();
    let (outcome, took) = asking.await.unwrap();
    assert_eq!(outcome, Ok(Response::Done));
    assert!(took < Duration::from_millis(1_100));
}

#[tokio::test(start_paused = true)]
async fn wanted_peers_are_connected_again_within_a_quarter_of_a_minute() {
    let links = links(8);
    let attempts = plan(&links, Plane::Bulk, 0, false);
    links.keep(BTreeSet::from([PEER]));
    sleep(Duration::from_secs(300)).await;
    assert!(attempts.load(Ordering::SeqCst) < 40);
    plan(&links, Plane::Bulk, 0, true);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(links.reach(&PEER), Reach::Connected(bulk()));
    links.best(&PEER).unwrap().abort();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(links.reach(&PEER), Reach::Connected(bulk()));
    // Who is no longer wanted stays away.
    links.keep(BTreeSet::new());
    links.best(&PEER).unwrap().abort();
    sleep(Duration::from_secs(60)).await;
    assert!(links.best(&PEER).is_none());
}

#[tokio::test(start_paused = true)]
async fn of_two_simultaneous_connections_that_of_the_smaller_id_stays() {
    // Ours is the smaller id: what PEER dialled at the same time is not taken.
    let links = links(8);
    let ours = attach(&links, PEER, bulk(), OWN).unwrap();
    let theirs = attach(&links, PEER, bulk(), PEER);
    assert!(matches!(theirs, Err(AttachError::Superseded)));
    assert!(links.best(&PEER).unwrap().is_same(&ours));
    // Much later it is no coincidence: the peer has lost the old one.
    sleep(Duration::from_secs(60)).await;
    let newer = attach(&links, PEER, bulk(), PEER).unwrap();
    assert!(links.best(&PEER).unwrap().is_same(&newer));
    assert!(!ours.is_open());
    // Theirs is the smaller id: whatever the order, theirs stays.
    let ours = attach(&links, SMALLER, bulk(), OWN).unwrap();
    let theirs = attach(&links, SMALLER, bulk(), SMALLER).unwrap();
    assert!(!ours.is_open());
    let again = attach(&links, SMALLER, bulk(), OWN);
    assert!(matches!(again, Err(AttachError::Superseded)));
    assert!(links.best(&SMALLER).unwrap().is_same(&theirs));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_peers_is_bounded() {
    let links = links(2);
    attach(&links, PEER, bulk(), OWN).unwrap();
    attach(&links, SMALLER, bulk(), OWN).unwrap();
    let third = PeerId([9; 32]);
    assert!(!links.has_room_for(&third));
    let refused = attach(&links, third, bulk(), third);
    assert!(matches!(refused, Err(AttachError::Full(2))));
    // A second path to a connected peer takes no room; a lost one makes some.
    attach(&links, PEER, Path::Tcp, PEER).unwrap();
    links.ban(&SMALLER);
    sleep(Duration::from_millis(10)).await;
    assert!(links.has_room_for(&third));
    let banned = attach(&links, SMALLER, bulk(), SMALLER);
    assert!(matches!(banned, Err(AttachError::Closed)));
    links.unban(&SMALLER);
    attach(&links, SMALLER, bulk(), SMALLER).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_moves_on_when_its_link_is_replaced() {
    let links = links(8);
    // Takes requests and never answers.
    let (near, _far) = tokio::io::duplex(64 << 10);
    let mute = links
        .attach(PEER, bulk(), OWN, tokio::io::split(near))
        .unwrap();
    let asking = tokio::spawn({
        let links = links.clone();
        async move { ask(&links).await }
    });
    sleep(Duration::from_secs(1)).await;
    sleep(Duration::from_secs(6)).await;
    attach(&links, PEER, bulk(), OWN).unwrap();
    let (outcome, took) = asking.await.unwrap();
    assert_eq!(outcome, Ok(Response::Done));
    assert!(took < Duration::from_secs(14), "{took:?}");
    assert!(!mute.is_open());
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_and_shutdown_ends_everything() {
    let links = links(8);
    let mut changes = links.changes();
    let mut changed = async || {
        timeout(Duration::from_secs(60), changes.changed())
            .await
            .expect("a change")
            .unwrap();
    };
    attach(&links, PEER, bulk(), OWN).unwrap();
    changed().await;
    assert_eq!(links.connected(), [(PEER, bulk())]);
    links.best(&PEER).unwrap().abort();
    changed().await;
    assert!(links.connected().is_empty());
    attach(&links, PEER, bulk(), OWN).unwrap();
    timeout(Duration::from_secs(10), links.shutdown())
        .await
        .expect("it ends");
    assert_eq!(ask(&links).await.0, Err(NetError::Closed));
    links.inner.context.tasks.close();
    timeout(Duration::from_secs(10), links.inner.context.tasks.wait())
        .await
        .expect("no task is left behind");
    assert_eq!(links.reach(&OWN), Reach::Own);
}

#[tokio::test(start_paused = true)]
async fn a_request_makes_room_by_the_link_that_is_needed_least() {
    let links = links(2);
    plan(&links, Plane::Bulk, 0, true);
    let third = PeerId([9; 32]);
    attach(&links, SMALLER, bulk(), OWN).unwrap();
    links.keep(BTreeSet::from([SMALLER]));
    attach(&links, third, bulk(), OWN).unwrap();
    sleep(Duration::from_secs(2)).await;
    let (outcome, took) = ask(&links).await;
    assert_eq!(outcome, Ok(Response::Done));
    assert!(took < Duration::from_secs(1), "{took:?}");
    // The older one is wanted, so it is the other that went.
    let connected: Vec<PeerId> = links.connected().iter().map(|(peer, _)| *peer).collect();
    assert_eq!(connected, [SMALLER, PEER]);
    // Closed in good order: nothing speaks against asking it again.
    assert_eq!(links.reach(&third), Reach::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_room_while_all_links_are_in_use() {
    let links = links(1);
    plan(&links, Plane::Bulk, 0, true);
    // Takes requests and never answers.
    let (near, _far) = tokio::io::duplex(64 << 10);
    links
        .attach(SMALLER, bulk(), OWN, tokio::io::split(near))
        .unwrap();
    let other = links.clone();
    let busy = tokio::spawn(async move { other.request(SMALLER, &have(), soon()).await });
    sleep(Duration::from_secs(1)).await;
    let (outcome, took) = ask(&links).await;
    assert_eq!(outcome, Ok(Response::Done));
    assert!(took > Duration::from_secs(4), "{took:?}");
    assert_eq!(busy.await.unwrap(), Err(NetError::Lost(SMALLER)));
}

#[tokio::test(start_paused = true)]
async fn an_old_failure_says_nothing_of_a_peer_that_nobody_tries_to_reach() {
    let links = links(8);
    plan(&links, Plane::Bulk, 0, false);
    assert!(ask(&links).await.0.is_err());
    assert_eq!(links.reach(&PEER), Reach::Away { since_ms: 1_000 });
    sleep(Duration::from_secs(70)).await;
    assert_eq!(links.reach(&PEER), Reach::Idle);
    // Of one that is tried again and again it is no old failure.
    links.keep(BTreeSet::from([PEER]));
    sleep(Duration::from_secs(300)).await;
    assert!(matches!(links.reach(&PEER), Reach::Away { .. }));
}
