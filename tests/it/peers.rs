//! Peers of one network in this process, connected by the real planes over loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Clock, Entropy, Limits, PeerId};
use cairnfs::crypto::{MembershipChain, NetworkSecrets, SigningKey, Terms};
use cairnfs::net::admission::{Gate, Greeted, Lists};
use cairnfs::net::bulk::{BulkConfig, BulkPlane};
use cairnfs::net::links::{Links, Plane};
use cairnfs::net::mux::LinkContext;
use cairnfs::net::throttle::{PayloadBudget, Throttle};
use cairnfs::net::{Inbound, Request, Response};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// A network that can admit peers.
pub struct Network {
    pub secrets: NetworkSecrets,
    pub chain: MembershipChain,
    founder: SigningKey,
    entropy: Entropy,
    clock: Clock,
}

/// Who a peer is.
#[derive(Clone)]
pub struct Identity {
    pub device: SigningKey,
    pub gate: Gate,
}

/// A running peer.
pub struct Peer {
    pub id: PeerId,
    pub links: Links,
    pub plane: BulkPlane,
    pub address: SocketAddr,
    pub inbound: mpsc::Receiver<Inbound>,
    #[allow(dead_code, reason = "benches do not look at it")]
    pub greeted: mpsc::Receiver<(PeerId, Greeted)>,
    pub tasks: TaskTracker,
}

/// Bounds under which tests end soon.
pub fn limits() -> Limits {
    Limits {
        admission_timeout: Duration::from_millis(700),
        dial_timeout: Duration::from_secs(2),
        ..Limits::default()
    }
}

impl Network {
    pub fn found(seed: u64) -> Network {
        let entropy = Entropy::seeded(seed);
        let founder = SigningKey::generate(&entropy);
        let (secrets, chain) = MembershipChain::found(&founder, &entropy);
        Network {
            secrets,
            chain,
            founder,
            entropy,
            clock: Clock::system(),
        }
    }

    pub fn identity(&self) -> Identity {
        let device = SigningKey::generate(&self.entropy);
        let now_ms = self.clock.now_ms();
        let terms = Terms {
            storage_only: false,
            independent: true,
            expires_ms: now_ms + 60_000,
        };
        let (invitation, key) = self
            .chain
            .invite(&self.founder, 0, terms, now_ms, &self.entropy)
            .expect("the founder may invite");
        let chain = self
            .chain
            .admit(&invitation, &key, device.peer(), now_ms)
            .expect("the invitation is fresh");
        self.identity_of(device, &chain)
    }

    pub fn identity_of(&self, device: SigningKey, chain: &MembershipChain) -> Identity {
        let secrets = self.secrets.clone();
        let gate = Gate::new(secrets, chain, Lists::default(), self.clock.clone());
        Identity { device, gate }
    }

    pub async fn peer(&self) -> Peer {
        Peer::start(&self.identity(), limits(), 64, "127.0.0.1:0").await
    }
}

impl Peer {
    pub async fn start(
        identity: &Identity,
        limits: Limits,
        max_peers: usize,
        listen: &str,
    ) -> Peer {
        let (inbound_sender, inbound) = mpsc::channel(limits.queue);
        let limits = Arc::new(limits);
        let tasks = TaskTracker::new();
        let context = LinkContext {
            inbound: inbound_sender,
            throttle: Throttle::unlimited(),
            budget: PayloadBudget::new(64 << 20),
            limits: Arc::clone(&limits),
            tasks: tasks.clone(),
        };
        let id = identity.device.peer();
        let entropy = Entropy::os().expect("entropy");
        let links = Links::new(id, context, Clock::system(), entropy.fork(), max_peers);
        let (greeted_sender, greeted) = mpsc::channel(64);
        let plane = BulkPlane::new(BulkConfig {
            device: identity.device.clone(),
            gate: identity.gate.clone(),
            links: links.clone(),
            limits,
            entropy,
            tasks: tasks.clone(),
            own_record: Arc::new(move || Bytes::from(format!("record of {id}"))),
            greeted: greeted_sender,
        })
        .expect("a certificate");
        let address: SocketAddr = listen.parse().expect("an address");
        let address = plane.listen(address).await.expect("loopback");
        links.set_connector(Plane::Bulk, Arc::new(plane.clone()));
        Peer {
            id,
            links,
            plane,
            address,
            inbound,
            greeted,
            tasks,
        }
    }

    /// Tells this peer where the other listens.
    pub fn knows(&self, other: &Peer) {
        self.plane.set_addresses(other.id, &[other.address]);
    }

    /// Takes the requests of others away and answers each with what `answer` says.
    pub fn serve(&mut self, answer: impl Fn(&Request) -> Response + Send + 'static) {
        let (_, empty) = mpsc::channel(1);
        let mut inbound = std::mem::replace(&mut self.inbound, empty);
        tokio::spawn(async move {
            while let Some(Inbound { request, reply, .. }) = inbound.recv().await {
                let _ = reply.send(answer(&request));
            }
        });
    }

    /// Ends everything; no task is left behind.
    pub async fn stop(&self) {
        self.plane.stop();
        self.links.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}
