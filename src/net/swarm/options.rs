//! What a network is started with, and why it may not start.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{Class, Classify, Limits};
use crate::crypto::Contact;
use crate::net::command::{NetActorEnds, Offer};
use crate::net::credentials::Credentials;

/// What a network is started with.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Who this peer is, and whom it lets in.
    pub credentials: Credentials,
    /// Where the control plane listens (multiaddrs: TCP and QUIC); may be empty.
    pub listen: Vec<String>,
    /// Where the bulk plane listens; may be empty.
    pub bulk_listen: Vec<SocketAddr>,
    /// First contacts: those of the ticket.
    pub contacts: Vec<Contact>,
    /// First contacts by address only (multiaddrs, with or without a peer id).
    pub bootstrap: Vec<String>,
    /// Whether neighbours are found by multicast DNS.
    pub mdns: bool,
    /// What this peer offers at first.
    pub offer: Offer,
    /// Longest member list.
    pub max_members: usize,
    /// Records kept beyond the list, for dialling and for look-ups of others.
    pub max_spare_records: usize,
    /// Most peers connected at a time, and most libp2p connections.
    pub max_connections: usize,
    /// Peers that the DHT keeps for each distance.
    pub dht_bucket: NonZeroUsize,
    /// How often the DHT's routing table is refreshed.
    pub dht_refresh: Duration,
    /// Bytes sent in a second; 0: no limit.
    pub upload_limit: u64,
    /// Bytes received in a second; 0: no limit.
    pub download_limit: u64,
    /// Memory for payloads that others send.
    pub max_memory: usize,
    /// Signed records of the peers known before, as [`Network::records`](super::Network::records)
    /// showed them.
    pub known_records: Vec<Bytes>,
    /// Bounds.
    pub limits: Limits,
}

impl NetOptions {
    /// The defaults of the configuration: default ports on all interfaces.
    pub fn new(credentials: Credentials) -> Self {
        NetOptions {
            credentials,
            listen: super::addresses::default_listen(),
            bulk_listen: vec![
                SocketAddr::from(([0, 0, 0, 0], super::BULK_PORT)),
                SocketAddr::from(([0u16; 8], super::BULK_PORT)),
            ],
            contacts: Vec::new(),
            bootstrap: Vec::new(),
            mdns: true,
            offer: Offer::default(),
            max_members: 1024,
            max_spare_records: 1024,
            max_connections: 256,
            dht_bucket: NonZeroUsize::new(20).unwrap_or(NonZeroUsize::MIN),
            dht_refresh: Duration::from_secs(600),
            upload_limit: 0,
            download_limit: 0,
            max_memory: 64 << 20,
            known_records: Vec::new(),
            limits: Limits::default(),
        }
    }

    /// On free ports of loopback, and without multicast.
    #[must_use]
    pub fn on_loopback(mut self) -> Self {
        self.listen = vec![
            "/ip4/127.0.0.1/tcp/0".to_owned(),
            "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
        ];
        self.bulk_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        self.mdns = false;
        self
    }
}

/// Where a network listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetInfo {
    /// Of the control plane, as announced (multiaddrs without peer id).
    pub control: Vec<String>,
    /// Of the bulk plane, as announced (`ip:port`).
    pub bulk: Vec<String>,
}

/// Why a network could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address of the configuration cannot be used at all.
    #[error("`{address}` in {key} cannot be listened on: {why}")]
    Address {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another program, or another peer on this machine, uses the port.
    #[error(
        "`{address}` in {key} is in use by another program, perhaps by another peer on this machine: \
         name other ports in network.listen and network.bulk_listen of this peer's config file \
         (port 0: any that is free)"
    )]
    InUse {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
    },
    /// The key or the encrypted transports cannot be used.
    #[error("{0}")]
    Transport(String),
    /// The group for multicast DNS cannot be joined.
    #[error("multicast DNS cannot be used: {0}; set network.mdns = false")]
    Mdns(std::io::Error),
}

impl Classify for StartError {
    fn class(&self) -> Class {
        match self {
            StartError::InUse { .. } => Class::Retry,
            StartError::Address { .. } | StartError::Mdns(_) => Class::Denied,
            StartError::Transport(_) => Class::Bug,
        }
    }
}

/// A start that failed, with the seam for another try.
#[derive(Debug)]
pub struct StartFailure {
    /// Why.
    pub error: StartError,
    /// What was handed to the network.
    pub ends: NetActorEnds,
}
