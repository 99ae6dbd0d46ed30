//! Puts a network together, and takes it apart again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::{Actor, CONTROL_QUEUE, Shared};
use super::addresses::{announced_bulk, announced_control, ip_of, tcp_socket};
use super::behaviour::{self, Behaviour, DhtSettings, Names};
use super::build::{self, BuildError};
use super::contacts::Greeter;
use super::control::Controller;
use super::door::DoorPolicy;
use super::front::Machinery;
use super::inbound;
use super::lookup::Finder;
use super::options::{NetInfo, NetOptions, StartError, StartFailure};
use super::roster::{News, Roster};
use super::tending::{Ears, Tender};
use crate::base::{Clock, Entropy, Limits, PeerId, Pools};
use crate::net::admission::Greeted;
use crate::net::budget::PayloadBudget;
use crate::net::bulk::{BulkConfig, BulkPlane, is_taken};
use crate::net::command::{Command, Inbound, LookupCounter, Members, NetActorEnds, Offer};
use crate::net::links::{Links, Plane};
use crate::net::mux::LinkContext;
use crate::net::throttle::Throttle;
use crate::placement::candidates::peer_point;

/// How long the listeners may take to name their addresses.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
/// Connections that may wait for admission.
const STRANGERS_MAX: usize = 32;
/// News of members that may wait.
const NEWS_QUEUE: usize = 1024;
/// Admissions on the bulk plane that may wait to be learned from.
const GREETED_QUEUE: usize = 64;

/// A running network. Dropping it ends it at once; [`Network::stop`] does it in good order.
#[derive(Debug)]
pub struct Network {
    info: NetInfo,
    records: watch::Receiver<Arc<Vec<Bytes>>>,
    throttle: Throttle,
    stop: CancellationToken,
    front: JoinHandle<mpsc::Receiver<Command>>,
    publisher: JoinHandle<watch::Sender<Arc<Members>>>,
    router: JoinHandle<mpsc::Sender<Inbound>>,
    lookups: Arc<LookupCounter>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Network {
    /// Where it listens.
    pub const fn info(&self) -> &NetInfo {
        &self.info
    }

    /// The signed records to hand to the next start, whenever they change.
    pub fn records(&self) -> watch::Receiver<Arc<Vec<Bytes>>> {
        self.records.clone()
    }

    /// Changes the bandwidth limits, in bytes per second; 0: none.
    pub fn set_bandwidth(&self, upload_limit: u64, download_limit: u64) {
        self.throttle.set(upload_limit, download_limit);
    }

    /// Closes everything in good order and hands the seam over to what serves it next. `None`
    /// after a [`Command::Shutdown`](crate::net::Command::Shutdown).
    pub async fn stop(mut self) -> Option<NetActorEnds> {
        self.stop.cancel();
        let commands = (&mut self.front).await.ok()?;
        let members = (&mut self.publisher).await.ok()?;
        let inbound = (&mut self.router).await.ok()?;
        (!commands.is_closed()).then_some(NetActorEnds {
            commands,
            members,
            inbound,
            lookups: Arc::clone(&self.lookups),
        })
    }
}

/// Starts a network that serves the seam behind `ends`. Must be called within a tokio runtime.
///
/// # Errors
/// The error, and the seam for another try. Nothing is left open then.
pub async fn start(
    options: NetOptions,
    ends: NetActorEnds,
    clock: Clock,
    entropy: Entropy,
    pools: Pools,
) -> Result<Network, Box<StartFailure>> {
    let swarm = match listen_control(&options).await {
        Ok(swarm) => swarm,
        Err(error) => return Err(Box::new(StartFailure { error, ends })),
    };
    let parts = Parts::new(&options, clock, &entropy, pools);
    let opened = async {
        let plane = parts.bulk_plane(&options, &entropy)?;
        let bound = listen_bulk(&plane, &options.bulk_listen).await?;
        Ok((plane, bound))
    };
    match opened.await {
        Ok((plane, bulk)) => {
            let listening = Listening { swarm, plane, bulk };
            Ok(run(options, ends, parts, listening, entropy).await)
        }
        Err(error) => {
            parts.stop.cancel();
            Err(Box::new(StartFailure { error, ends }))
        }
    }
}

/// Sockets that are open and not yet served.
struct Listening {
    swarm: OpenSwarm,
    plane: BulkPlane,
    bulk: Vec<SocketAddr>,
}

struct OpenSwarm {
    swarm: Swarm<Behaviour>,
    addresses: BTreeSet<Multiaddr>,
}

/// What both planes share.
struct Parts {
    limits: Arc<Limits>,
    tasks: TaskTracker,
    stop: CancellationToken,
    throttle: Throttle,
    links: Links,
    roster: Roster,
    news: mpsc::Receiver<News>,
    arriving: mpsc::Receiver<Inbound>,
    greeted_tx: mpsc::Sender<(PeerId, Greeted)>,
    greeted: mpsc::Receiver<(PeerId, Greeted)>,
}

impl Parts {
    fn new(options: &NetOptions, clock: Clock, entropy: &Entropy, pools: Pools) -> Parts {
        let own = options.credentials.own();
        let limits = Arc::new(options.limits.clone());
        let tasks = TaskTracker::new();
        let (news_tx, news) = mpsc::channel(NEWS_QUEUE);
        let (greeted_tx, greeted) = mpsc::channel(GREETED_QUEUE);
        let (arriving_tx, arriving) = mpsc::channel(limits.queue);
        let throttle = Throttle::new(options.upload_limit, options.download_limit);
        let context = LinkContext {
            inbound: arriving_tx,
            throttle: throttle.clone(),
            budget: PayloadBudget::new(options.max_memory),
            limits: Arc::clone(&limits),
            tasks: tasks.clone(),
        };
        let max_peers = options.max_connections;
        let roster = Roster::new(
            options.credentials.clone(),
            clock.clone(),
            pools,
            options.max_members,
            options.max_spare_records,
            news_tx,
        );
        Parts {
            links: Links::new(own, context, clock, entropy.fork(), max_peers),
            limits,
            tasks,
            stop: CancellationToken::new(),
            throttle,
            roster,
            news,
            arriving,
            greeted_tx,
            greeted,
        }
    }

    fn bulk_plane(&self, options: &NetOptions, entropy: &Entropy) -> Result<BulkPlane, StartError> {
        let own = options.credentials.own();
        let roster = self.roster.clone();
        let own_record = move || {
            let record = roster.get(&own);
            record.map_or_else(Bytes::new, |known| known.encoded.clone())
        };
        let config = BulkConfig {
            device: options.credentials.device().clone(),
            gate: options.credentials.gate().clone(),
            links: self.links.clone(),
            limits: Arc::clone(&self.limits),
            entropy: entropy.fork(),
            tasks: self.tasks.clone(),
            own_record: Arc::new(own_record),
            greeted: self.greeted_tx.clone(),
        };
        BulkPlane::new(config).map_err(|error| StartError::Transport(error.to_string()))
    }
}

const BULK_LISTEN_KEY: &str = "network.bulk_listen";

/// Listens on all addresses; answers where.
async fn listen_bulk(
    plane: &BulkPlane,
    addresses: &[SocketAddr],
) -> Result<Vec<SocketAddr>, StartError> {
    let mut bound = Vec::new();
    let mut first_error = None;
    for address in addresses.iter().copied() {
        let key = BULK_LISTEN_KEY;
        match plane.listen(address).await {
            Ok(at) => bound.push(at),
            Err(error) if is_in_use(&error) => {
                plane.stop();
                let address = address.to_string();
                return Err(StartError::InUse { key, address });
            }
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen");
                first_error.get_or_insert(StartError::Address {
                    key,
                    address: address.to_string(),
                    why: error.to_string(),
                });
            }
        }
    }
    match first_error.filter(|_| bound.is_empty()) {
        Some(error) => Err(error),
        None => Ok(bound),
    }
}

async fn listen_control(options: &NetOptions) -> Result<OpenSwarm, StartError> {
    let credentials = &options.credentials;
    let failed = |error: BuildError| StartError::Transport(error.to_string());
    let keypair = build::keypair(&credentials.device().secret()).map_err(failed)?;
    let names = Names::new(credentials.tag());
    let policy = DoorPolicy {
        gate: credentials.gate().clone(),
        admission: names.admission.clone(),
        requests: names.requests.clone(),
        timeout: options.limits.admission_timeout,
        strangers_max: STRANGERS_MAX,
        // Those beyond the limit that are admitted replace the longest unused.
        connections_max: options.max_connections + STRANGERS_MAX,
    };
    let dht = DhtSettings {
        bucket_size: options.dht_bucket,
        refresh: options.dht_refresh,
        serves: options.offer.capacity_bytes > 0,
    };
    let behaviour =
        behaviour::build(&keypair, &names, policy, dht, options.mdns).map_err(StartError::Mdns)?;
    let mut swarm =
        build::swarm(keypair, behaviour, options.limits.dial_timeout).map_err(failed)?;
    let addresses = open_listeners(&mut swarm, &options.listen).await?;
    Ok(OpenSwarm { swarm, addresses })
}

const LISTEN_KEY: &str = "network.listen";

async fn open_listeners(
    swarm: &mut Swarm<Behaviour>,
    texts: &[String],
) -> Result<BTreeSet<Multiaddr>, StartError> {
    let mut waiting = Vec::new();
    let mut first_error = None;
    for text in texts {
        let fail = |why: &str| StartError::Address {
            key: LISTEN_KEY,
            address: text.clone(),
            why: why.to_owned(),
        };
        let address: Multiaddr = text.parse().map_err(|_| fail("it is not a multiaddr"))?;
        let is_ip = matches!(
            address.iter().next(),
            Some(Protocol::Ip4(_) | Protocol::Ip6(_))
        );
        if !is_ip {
            return Err(fail("it must begin with /ip4/ or /ip6/"));
        }
        if tcp_socket(&address).is_some_and(is_taken) {
            return Err(StartError::InUse {
                key: LISTEN_KEY,
                address: text.clone(),
            });
        }
        match swarm.listen_on(address) {
            Ok(listener) => {
                waiting.push(listener);
            }
            Err(TransportError::MultiaddrNotSupported(_)) => {
                return Err(fail("write /ip4/IP/tcp/PORT or /ip4/IP/udp/PORT/quic-v1"));
            }
            Err(TransportError::Other(error)) if is_in_use(&error) => {
                return Err(StartError::InUse {
                    key: LISTEN_KEY,
                    address: text.clone(),
                });
            }
            // A machine without IPv6 is no reason to give up, if there is something else.
            Err(TransportError::Other(error)) => {
                tracing::warn!(address = text, %error, "cannot listen");
                first_error.get_or_insert(fail(&error.to_string()));
            }
        }
    }
    if let Some(error) = first_error.filter(|_| waiting.is_empty()) {
        return Err(error);
    }
    let mut addresses = BTreeSet::new();
    let named = async {
        while !waiting.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr {
                    listener_id,
                    address,
                } => {
                    waiting.retain(|id| *id != listener_id);
                    addresses.insert(address);
                }
                SwarmEvent::ListenerClosed { listener_id, .. } => {
                    waiting.retain(|id| *id != listener_id);
                }
                _ => {}
            }
        }
    };
    // An interface may have no address yet; it is announced when it has one.
    let _ = tokio::time::timeout(LISTEN_LIMIT, named).await;
    Ok(addresses)
}

fn is_in_use(error: &std::io::Error) -> bool {
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = current {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse) {
            return true;
        }
        current = error.source();
    }
    error.to_string().contains("in use")
}

async fn run(
    options: NetOptions,
    ends: NetActorEnds,
    parts: Parts,
    listening: Listening,
    entropy: Entropy,
) -> Network {
    let own = options.credentials.own();
    let NetActorEnds {
        commands,
        members,
        inbound,
        lookups,
    } = ends;
    let Listening { swarm, plane, bulk } = listening;
    let Parts {
        limits,
        tasks,
        stop,
        throttle,
        links,
        roster,
        news,
        arriving,
        greeted,
        ..
    } = parts;
    let (control_tx, controls) = mpsc::channel(CONTROL_QUEUE);
    let controller = Controller(control_tx);
    links.set_connector(Plane::Control, Arc::new(controller.clone()));
    links.set_connector(Plane::Bulk, Arc::new(plane.clone()));

    let (listening_tx, listening_rx) = watch::channel(swarm.addresses);
    let (offers_tx, offers) = watch::channel(options.offer.clone());
    let info = announce(&roster, &options.offer, &listening_rx.borrow(), &bulk);
    let shared = Shared {
        own,
        credentials: options.credentials,
        entropy: entropy.fork(),
        limits: Arc::clone(&limits),
        links: links.clone(),
        plane: plane.clone(),
        roster: roster.clone(),
        tasks: tasks.clone(),
        max_connections: options.max_connections,
    };
    let actor = Actor::new(swarm.swarm, shared, listening_tx);
    tasks.spawn(actor.run(controls));

    let tender = Tender {
        own,
        roster: roster.clone(),
        links: links.clone(),
        controller: controller.clone(),
        plane: plane.clone(),
        entropy: entropy.fork(),
        tasks: tasks.clone(),
        bulk_bound: bulk,
        max_connections: options.max_connections,
        exchanges: Tender::exchange_slots(),
    };
    let ears = Ears {
        news,
        offers,
        listening: listening_rx,
    };
    until_stopped(&tasks, &stop, tender.run(ears));
    until_stopped(&tasks, &stop, greet(greeted, roster.clone()));
    if roster.may_be_partial(options.known_records.len()) {
        roster.set_incomplete();
    }
    let knows_nobody = options.known_records.is_empty()
        && options.contacts.is_empty()
        && options.bootstrap.is_empty();
    roster.set_settled(knows_nobody);
    roster.learn_all(options.known_records, None).await;
    let greeter = Greeter {
        own,
        contacts: options.contacts,
        bootstrap: options.bootstrap,
        links: links.clone(),
        roster: roster.clone(),
        controller: controller.clone(),
        plane: plane.clone(),
        entropy,
    };
    until_stopped(&tasks, &stop, greeter.run());

    let (persist, records) = watch::channel(Arc::new(Vec::new()));
    roster.publish_once(&links, &members, &persist);
    let publishing = roster
        .clone()
        .publish(links.clone(), members, persist, stop.clone());
    let publisher = tokio::spawn(publishing);
    let routing = inbound::route(
        arriving,
        inbound,
        roster.clone(),
        peer_point(&own),
        tasks.clone(),
        stop.clone(),
    );
    let router = tokio::spawn(routing);
    let machinery = Machinery {
        finder: Finder {
            own,
            controller: controller.clone(),
            links: links.clone(),
            roster,
            counter: Arc::clone(&lookups),
        },
        links,
        controller,
        plane,
        offers: offers_tx,
        dial_limit: limits.dial_timeout + limits.admission_timeout,
        tasks,
        stop: stop.clone(),
    };
    let front = tokio::spawn(machinery.run(commands));
    Network {
        info,
        records,
        throttle,
        stop,
        front,
        publisher,
        router,
        lookups,
    }
}

fn announce(
    roster: &Roster,
    offer: &Offer,
    control: &BTreeSet<Multiaddr>,
    bulk: &[SocketAddr],
) -> NetInfo {
    let interfaces = control.iter().filter_map(ip_of).collect();
    let info = NetInfo {
        control: announced_control(control),
        bulk: announced_bulk(bulk, &interfaces),
    };
    roster.set_own(offer, info.control.clone(), info.bulk.clone());
    info
}

/// Learns the records of those who were admitted on the bulk plane.
async fn greet(mut greeted: mpsc::Receiver<(PeerId, Greeted)>, roster: Roster) {
    while let Some((peer, greeted)) = greeted.recv().await {
        roster.learn_all(vec![greeted.record], Some(peer)).await;
    }
}

/// Runs a task of the network that has no end of its own.
fn until_stopped(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}
