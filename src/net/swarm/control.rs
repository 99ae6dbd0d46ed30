//! What the rest of the network layer asks of the task that owns the Swarm.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::base::PeerId;
use crate::net::command::NetError;
use crate::net::links::Connector;
use crate::net::members::Known;

/// One such request.
pub(super) enum Control {
    /// Attach a link to this peer, over an existing connection or a new one.
    Connect {
        peer: PeerId,
        reply: oneshot::Sender<Result<(), NetError>>,
    },
    /// Connect to whatever member answers at an address.
    Dial {
        address: Multiaddr,
        reply: oneshot::Sender<Result<PeerId, NetError>>,
    },
    /// Run a Kademlia look-up.
    Closest {
        key: Vec<u8>,
        reply: oneshot::Sender<Found>,
    },
    /// The record of a peer is new or changed.
    Learned(Arc<Known>),
    /// Whether this peer serves the DHT.
    Serve(bool),
    /// Close everything.
    Stop(oneshot::Sender<()>),
}

/// What a Kademlia look-up found.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Peers that answered, closest first.
    pub(super) peers: Vec<PeerId>,
    /// Questions asked.
    pub(super) requests: u32,
    /// Rounds, if as many questions as allowed were always under way.
    pub(super) rounds: u32,
}

/// Sends requests to that task. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Controller(pub(super) mpsc::Sender<Control>);

impl Controller {
    pub(super) async fn send(&self, control: Control) -> Result<(), NetError> {
        self.0.send(control).await.map_err(|_| NetError::Closed)
    }

    pub(super) async fn dial(&self, address: Multiaddr) -> Result<PeerId, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Control::Dial { address, reply }).await?;
        answer.await.map_err(|_| NetError::Closed)?
    }

    pub(super) async fn closest(&self, key: Vec<u8>) -> Result<Found, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Control::Closest { key, reply }).await?;
        answer.await.map_err(|_| NetError::Closed)
    }
}

impl Connector for Controller {
    fn connect(&self, peer: PeerId) -> BoxFuture<'static, Result<(), NetError>> {
        let control = self.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            control.send(Control::Connect { peer, reply }).await?;
            answer.await.map_err(|_| NetError::Closed)?
        }
        .boxed()
    }
}
