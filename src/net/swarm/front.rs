//! Carries out the commands that come over the seam.

use std::time::Duration;

use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contacts::dial;
use super::control::{Control, Controller};
use super::lookup::Finder;
use crate::base::PeerId;
use crate::net::bulk::BulkPlane;
use crate::net::command::{Command, NetError, Offer};
use crate::net::links::Links;
use crate::net::message::{Request, Response};

/// How long an orderly end may take before what is left is cut off.
const END_LIMIT: Duration = Duration::from_secs(8);

/// The running parts of a network. Cheap to clone.
#[derive(Clone)]
pub(super) struct Machinery {
    pub(super) links: Links,
    pub(super) controller: Controller,
    pub(super) finder: Finder,
    pub(super) plane: BulkPlane,
    pub(super) offers: watch::Sender<Offer>,
    pub(super) dial_limit: Duration,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Machinery {
    /// Carries out commands until told to stop, or [`Command::Shutdown`] comes; the rest of the
    /// machinery has ended then as well.
    pub(super) async fn run(
        self,
        mut commands: mpsc::Receiver<Command>,
    ) -> mpsc::Receiver<Command> {
        loop {
            let command = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                command = commands.recv() => command,
            };
            match command {
                Some(Command::Shutdown { reply }) => {
                    commands.close();
                    self.end().await;
                    // Whoever asked may have lost patience.
                    let _ = reply.send(());
                    return commands;
                }
                Some(command) => self.carry_out(command),
                None => {
                    self.end().await;
                    return commands;
                }
            }
        }
    }

    fn carry_out(&self, command: Command) {
        let machinery = self.clone();
        match command {
            Command::Request {
                to,
                request,
                deadline,
                mut reply,
            } => {
                self.tasks.spawn(async move {
                    let answer = tokio::select! {
                        biased;
                        () = reply.closed() => return,
                        answer = machinery.request(to, &request, deadline) => answer,
                    };
                    let _ = reply.send(answer);
                });
            }
            Command::Closest { key, count, reply } => {
                self.tasks.spawn(async move {
                    let found = machinery.finder.closest(key, count).await;
                    let _ = reply.send(found);
                });
            }
            Command::Dial { address, reply } => {
                self.tasks.spawn(async move {
                    let _ = reply.send(machinery.dial(address).await);
                });
            }
            Command::Offer { offer } => {
                self.offers.send_if_modified(|shown| {
                    let is_news = *shown != offer;
                    *shown = offer;
                    is_news
                });
            }
            Command::Shutdown { .. } => {}
        }
    }

    /// Sends a request, also to a member of whom nothing is known but its id: the list has room for
    /// a part of the network only, and what look-ups found is forgotten in time.
    async fn request(
        &self,
        to: PeerId,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, NetError> {
        let outcome = self.links.request(to, request, deadline).await;
        let is_unknown = || self.finder.roster.get(&to).is_none();
        if !matches!(outcome, Err(NetError::Unreachable(_))) || !is_unknown() {
            return outcome;
        }
        let found = self.finder.closest(to.to_multihash().to_vec(), 1);
        match tokio::time::timeout_at(deadline, found).await {
            Ok(_) if is_unknown() => outcome,
            Ok(_) => {
                self.links.retry_now(&to);
                self.links.request(to, request, deadline).await
            }
            Err(_) => Err(NetError::Timeout(to)),
        }
    }

    async fn dial(&self, address: String) -> Result<PeerId, NetError> {
        let nobody = || NetError::NoAnswer(address.clone());
        let parsed: Multiaddr = address.parse().map_err(|_| nobody())?;
        let peer = tokio::time::timeout(self.dial_limit, dial(&self.controller, &parsed))
            .await
            .unwrap_or_else(|_| Err(nobody()))?;
        // Whoever dials wants to use the peer: have a link to it before this is answered.
        let request = Request::Records {
            near: None,
            limit: 0,
        };
        let deadline = Instant::now() + self.dial_limit;
        self.links.request(peer, &request, deadline).await?;
        Ok(peer)
    }

    /// Closes links, connections and listeners in good order.
    async fn end(&self) {
        let orderly = async {
            self.stop.cancel();
            self.plane.stop();
            self.links.shutdown().await;
            let (reply, stopped) = oneshot::channel();
            if self.controller.send(Control::Stop(reply)).await.is_ok() {
                // The actor ends even if it cannot say so.
                let _ = stopped.await;
            }
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(END_LIMIT, orderly).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut off");
        }
    }
}
