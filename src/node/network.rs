//! Alone or in a network: opening sockets at the first invite or join, tickets, known peers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::identity::Identity;
use super::{Node, NodeError};
use crate::admin::AdminError;
use crate::admin::types::{InviteRequest, Invited, JoinRequest, Joined};
use crate::base::{Class, Classify, PeerId};
use crate::config::Config;
use crate::crypto::{Contact, Terms, Ticket};
use crate::net::admission::Lists;
use crate::net::credentials::Credentials;
use crate::net::lone::Lone;
use crate::net::swarm::{self, NetOptions};
use crate::net::{NetActorEnds, Offer};
use crate::store::KvChange;

/// Key-value space of the signed records of known peers.
const PEERS: &str = "peers";
/// How long a ticket is good unless said otherwise.
const TICKET_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Peers named in a ticket besides the own.
const TICKET_CONTACTS: usize = 4;
/// How long a join waits for a member to answer.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// How often the records of known peers are written down, unless one came or went.
const PERSIST_INTERVAL: Duration = Duration::from_secs(60);

/// Room for the records of members beyond the list, however short that is: those that one look-up
/// finds must not displace one another.
const SPARE_RECORDS_MIN: usize = 256;

/// What serves the seam.
pub(super) enum Network {
    /// Nobody but this peer; no socket.
    Lone(Lone),
    /// Sockets, members, requests.
    Online(swarm::Network),
    /// Between two, or after the end.
    Gone,
}

impl Network {
    pub fn lone(own: PeerId, offer: Offer, ends: NetActorEnds) -> Self {
        Network::Lone(Lone::start(own, offer, ends))
    }

    async fn stop(self) -> Option<NetActorEnds> {
        match self {
            Network::Lone(lone) => lone.stop().await,
            Network::Online(online) => online.stop().await,
            Network::Gone => None,
        }
    }
}

fn options_of(
    config: &Config,
    credentials: Credentials,
    contacts: Vec<Contact>,
    known_records: Vec<Bytes>,
    offer: Offer,
) -> NetOptions {
    let network = &config.network;
    let mut options = NetOptions::new(credentials);
    options.listen = network.listen.iter().map(ToString::to_string).collect();
    options.bulk_listen.clone_from(&network.bulk_listen);
    options.contacts = contacts;
    options.bootstrap = network.bootstrap.iter().map(ToString::to_string).collect();
    options.mdns = network.mdns;
    options.offer = offer;
    options.max_members = network.max_members as usize;
    options.max_spare_records = options.max_members.max(SPARE_RECORDS_MIN);
    options.max_connections = network.max_connections as usize;
    options.upload_limit = network.upload_limit.0;
    options.download_limit = network.download_limit.0;
    options.max_memory = usize::try_from(network.max_memory.0).unwrap_or(usize::MAX);
    options.known_records = known_records;
    options
}

impl Node {
    /// Opens the sockets and serves the network of the identity; does nothing if it does already.
    pub(super) async fn go_online(&self, contacts: &[Contact]) -> Result<(), NodeError> {
        let mut network = self.0.network.lock().await;
        if matches!(*network, Network::Online(_)) {
            return Ok(());
        }
        self.serve_network(&mut network, contacts).await
    }

    /// Replaces what serves the seam by the network of the identity; alone again if that fails.
    async fn serve_network(
        &self,
        network: &mut Network,
        contacts: &[Contact],
    ) -> Result<(), NodeError> {
        let inner = &self.0;
        let config = &inner.options.config;
        let lists = Lists {
            allowed: config.network.allow.iter().copied().collect(),
            denied: config.network.deny.iter().copied().collect(),
        };
        let identity = self.identity().clone();
        let credentials = Credentials::new(
            identity.device,
            identity.secrets,
            &identity.chain,
            lists,
            inner.clock.clone(),
        )
        .map_err(|error| NodeError::Network(error.to_string(), error.class()))?;
        let known = inner.store.kv_scan(PEERS, &[]).await?;
        let known = known.into_iter().map(|(_, record)| record).collect();
        let offer = self.current_offer();
        let options = options_of(config, credentials, contacts.to_vec(), known, offer.clone());
        let stopped = || NodeError::Network("the peer is stopping".to_owned(), Class::Closed);
        let ends = std::mem::replace(network, Network::Gone)
            .stop()
            .await
            .ok_or_else(stopped)?;
        let started = swarm::start(
            options,
            ends,
            inner.clock.clone(),
            inner.entropy.fork(),
            inner.blocks.pools().clone(),
        )
        .await;
        match started {
            Ok(online) => {
                let keeper = self.clone().keep_records(online.records());
                let stop = inner.stop.clone().cancelled_owned();
                inner.tasks.spawn(async move {
                    tokio::select! {
                        biased;
                        () = stop => {}
                        () = keeper => {}
                    }
                });
                *network = Network::Online(online);
                Ok(())
            }
            Err(failure) => {
                *network = Network::lone(self.own(), offer, failure.ends);
                let class = failure.error.class();
                Err(NodeError::Network(failure.error.to_string(), class))
            }
        }
    }

    /// Writes down the signed records of known peers, so that the next start finds them.
    async fn keep_records(self, mut records: watch::Receiver<Arc<Vec<Bytes>>>) {
        let mut written: Vec<Bytes> = Vec::new();
        loop {
            let now = Arc::clone(&records.borrow_and_update());
            let changes = changed_rows(&written, &now);
            for batch in changes.chunks(64) {
                if let Err(error) = self.0.store.kv_put(batch.to_vec()).await {
                    tracing::debug!("the list of known peers is not written down: {error}");
                }
            }
            written = now.to_vec();
            // Peers tell their free space every few seconds; that is not worth a write each.
            let pause = tokio::time::sleep(PERSIST_INTERVAL);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    changed = records.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if records.borrow_and_update().len() != written.len() {
                            break;
                        }
                    }
                    () = &mut pause => break,
                }
            }
        }
    }

    /// Makes a ticket; the first one opens the network.
    pub(super) async fn invite_peer(&self, request: &InviteRequest) -> Result<Invited, AdminError> {
        let identity = self.identity().clone();
        let now_ms = self.0.clock.now_ms();
        if request.separate_zones && !may_vouch(&identity, now_ms)? {
            return Err(AdminError::refused(
                "this peer was admitted without --separate-zones itself: whoever it invites counts \
                 to its own zone",
            )
            .hint("invite on a peer that was vouched for, or leave --separate-zones out"));
        }
        let terms = Terms {
            storage_only: request.storage_only,
            independent: request.separate_zones,
            expires_ms: self.ticket_end(now_ms, request.expires_ms),
        };
        let ticket = self.issue_ticket(terms, now_ms).await?;
        Ok(Invited {
            ticket: ticket.to_string(),
            expires_ms: terms.expires_ms,
            storage_only: ticket.terms().storage_only,
            separate_zones: request.separate_zones,
        })
    }

    /// When a ticket made now ceases to be good, if it is for `ttl_ms`, or the default.
    pub(super) fn ticket_end(&self, now_ms: u64, ttl_ms: Option<u64>) -> u64 {
        now_ms.saturating_add(ttl_ms.unwrap_or(TICKET_TTL.as_millis() as u64))
    }

    /// Opens the network if it is not, and makes a ticket of it.
    pub(super) async fn issue_ticket(
        &self,
        terms: Terms,
        now_ms: u64,
    ) -> Result<Ticket, NodeError> {
        self.go_online(&[]).await?;
        self.mark_networked()?;
        self.announce_offer().await;
        let contacts = self.contacts();
        let identity = self.identity().clone();
        Ok(Ticket::issue(
            &identity.chain,
            &identity.device,
            &identity.secrets,
            contacts,
            terms,
            now_ms,
            &self.0.entropy,
        )?)
    }

    /// Where this peer and some others can be reached.
    fn contacts(&self) -> Vec<Contact> {
        let members = self.0.net.members();
        let own = self.own();
        let others = members.list.iter().filter(|m| m.peer != own);
        members
            .get(&own)
            .into_iter()
            .chain(others.filter(|m| m.state.is_live()).take(TICKET_CONTACTS))
            .map(|member| {
                let (control, bulk) = member
                    .addresses
                    .iter()
                    .cloned()
                    .partition(|address| address.starts_with('/'));
                Contact {
                    peer: member.peer,
                    control,
                    bulk,
                }
            })
            .collect()
    }

    fn mark_networked(&self) -> Result<(), NodeError> {
        let mut identity = self.identity();
        if !identity.is_networked {
            identity.is_networked = true;
            identity.save(&self.0.options.data_dir)?;
        }
        Ok(())
    }

    /// Joins the network of a ticket.
    pub(super) async fn join_network(&self, request: &JoinRequest) -> Result<Joined, AdminError> {
        let ticket: Ticket = request.ticket.trim().parse().map_err(
            |error: crate::crypto::ticket::TicketError| AdminError::usage(error.to_string()),
        )?;
        self.enter(&ticket, "join").await
    }

    /// Joins the network of a ticket, for `command`. The identity changes only when a member has answered.
    pub(super) async fn enter(&self, ticket: &Ticket, command: &str) -> Result<Joined, AdminError> {
        let before = self.identity().clone();
        if before.secrets.network == ticket.network() {
            return Err(AdminError::refused("this peer is in that network already"));
        }
        let others = self.0.net.members().list.len() > 1;
        if before.is_networked && others {
            return Err(AdminError::refused(format!(
                "this peer belongs to network {} already",
                before.secrets.network
            ))
            .hint(format!(
                "join with a data directory of its own: cairn --data-dir DIR {command} TICKET"
            )));
        }
        let now_ms = self.0.clock.now_ms();
        let (secrets, chain) = ticket.accept(self.own(), now_ms).map_err(NodeError::from)?;
        let after = Identity {
            secrets,
            chain,
            is_networked: true,
            ..before.clone()
        };
        let mut network = self.0.network.lock().await;
        *self.identity() = after.clone();
        let joined = self.meet(&mut network, ticket).await;
        if let Err(error) = joined {
            *self.identity() = before.clone();
            self.return_to(&mut network, &before).await;
            return Err(error);
        }
        after
            .save(&self.0.options.data_dir)
            .map_err(NodeError::from)?;
        drop(network);
        self.announce_offer().await;
        Ok(Joined {
            network: ticket.network().to_string(),
            members: self.0.net.members().list.len() as u32,
            storage_only: ticket.terms().storage_only,
        })
    }

    /// Starts the network of the ticket and waits until a member is connected.
    async fn meet(&self, network: &mut Network, ticket: &Ticket) -> Result<(), AdminError> {
        self.serve_network(network, ticket.contacts()).await?;
        let own = self.own();
        let mut members = self.0.net.watch_members();
        let met = members.wait_for(|members| {
            let mut others = members.list.iter().filter(|m| m.peer != own);
            others.any(|member| member.state.is_live())
        });
        match tokio::time::timeout(JOIN_PATIENCE, met).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let tried: BTreeSet<&str> = ticket
                    .contacts()
                    .iter()
                    .flat_map(|contact| contact.control.iter().chain(&contact.bulk))
                    .map(String::as_str)
                    .collect();
                let tried: Vec<&str> = tried.into_iter().collect();
                Err(AdminError::failed(format!(
                    "no member of the network answered; tried {}",
                    tried.join(", ")
                ))
                .hint("is `cairn node` running on the machine that made the ticket, and are its ports open?"))
            }
        }
    }

    /// After a join that failed: the network as it was.
    async fn return_to(&self, network: &mut Network, before: &Identity) {
        if before.is_networked {
            if let Err(error) = self.serve_network(network, &[]).await {
                tracing::warn!("the former network does not start: {error}");
            }
        } else if let Some(ends) = std::mem::replace(network, Network::Gone).stop().await {
            *network = Network::lone(self.own(), self.current_offer(), ends);
        }
    }
}

/// Whether this peer can vouch that others fail independently: nobody on the way from the founder
/// left that out.
fn may_vouch(identity: &Identity, now_ms: u64) -> Result<bool, NodeError> {
    let chain = &identity.chain;
    let member = chain
        .verify(chain.network(), now_ms)
        .map_err(|error| NodeError::Network(error.to_string(), error.class()))?;
    Ok(member.zone.is_none())
}

/// Rows that differ between two lists of records.
fn changed_rows(before: &[Bytes], now: &[Bytes]) -> Vec<KvChange> {
    (0..before.len().max(now.len()))
        .filter(|at| before.get(*at) != now.get(*at))
        .map(|at| {
            let key = (at as u32).to_be_bytes().to_vec();
            (PEERS.to_owned(), key, now.get(at).cloned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_that_changed_are_written_each_at_its_place() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Bytes::from_static(name.as_bytes()));
        let row = |at: u8, record: Option<&Bytes>| {
            ("peers".to_owned(), vec![0, 0, 0, at], record.cloned())
        };
        let before = [a.clone(), b.clone()];
        let now = [a, c.clone(), b.clone()];
        assert_eq!(
            changed_rows(&before, &now),
            [row(1, Some(&c)), row(2, Some(&b))]
        );
        assert_eq!(
            changed_rows(&now, &before[..1]),
            [row(1, None), row(2, None)]
        );
        assert!(changed_rows(&now, &now).is_empty());
    }
}
