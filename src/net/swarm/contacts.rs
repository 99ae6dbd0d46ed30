//! First contacts: dialled until somebody is connected, and again when nobody is any more.

use std::time::Duration;

use futures::future::join_all;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::time::Instant;

use super::addresses::{sockets, to_libp2p, with_host};
use super::control::Controller;
use super::roster::Roster;
use crate::base::{Entropy, PeerId};
use crate::crypto::Contact;
use crate::net::bulk::BulkPlane;
use crate::net::command::NetError;
use crate::net::links::Links;
use crate::net::message::Request;

/// First and longest pause between two rounds of dialling.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long one round may take.
const ROUND_LIMIT: Duration = Duration::from_secs(15);

/// What dialling first contacts needs.
pub(super) struct Greeter {
    pub(super) own: PeerId,
    pub(super) contacts: Vec<Contact>,
    pub(super) bootstrap: Vec<String>,
    pub(super) links: Links,
    pub(super) roster: Roster,
    pub(super) controller: Controller,
    pub(super) plane: BulkPlane,
    pub(super) entropy: Entropy,
}

impl Greeter {
    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        self.contacts.retain(|contact| contact.peer != self.own);
        if self.contacts.is_empty() && self.bootstrap.is_empty() {
            return;
        }
        let mut pause = PAUSE_MIN;
        let mut is_first = true;
        loop {
            if is_first || self.links.connected().is_empty() {
                is_first = false;
                let round = self.round();
                // What is not done by then goes on in vain.
                let _ = tokio::time::timeout(ROUND_LIMIT, round).await;
            } else {
                pause = PAUSE_MIN;
            }
            let jitter = 0.75 + self.entropy.unit() / 2.0;
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn round(&self) {
        let mut dials = Vec::new();
        for contact in &self.contacts {
            if self.links.best(&contact.peer).is_some() {
                continue;
            }
            if self.roster.get(&contact.peer).is_none() {
                self.plane
                    .set_addresses(contact.peer, &sockets(&contact.bulk));
            }
            let named = contact.control.iter().filter_map(|text| {
                let address: Multiaddr = text.parse().ok()?;
                address.with_p2p(to_libp2p(contact.peer)?).ok()
            });
            dials.extend(named);
        }
        for text in &self.bootstrap {
            match text.parse() {
                Ok(address) => dials.push(address),
                Err(error) => tracing::warn!(address = text, %error, "not an address"),
            }
        }
        let control = join_all(dials.iter().map(|address| async move {
            if let Err(error) = dial(&self.controller, address).await {
                tracing::info!(%address, %error, "first contact failed");
            }
        }));
        // A request makes the bulk plane connect by itself.
        let bulk = join_all(self.contacts.iter().map(|contact| async move {
            let request = Request::Records {
                near: None,
                limit: 0,
            };
            let deadline = Instant::now() + ROUND_LIMIT;
            let answer = self.links.request(contact.peer, &request, deadline).await;
            if let Err(error) = answer {
                tracing::debug!(peer = %contact.peer, %error, "no link to a first contact");
            }
        }));
        futures::future::join(control, bulk).await;
    }
}

/// Dials an address, whose host may be a name.
pub(super) async fn dial(controller: &Controller, address: &Multiaddr) -> Result<PeerId, NetError> {
    let nobody = || NetError::NoAnswer(address.to_string());
    let name = match address.iter().next() {
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            name.into_owned()
        }
        _ => return controller.dial(address.clone()).await,
    };
    let found = tokio::net::lookup_host((name.as_str(), 0))
        .await
        .map_err(|error| {
            tracing::info!(name, %error, "host not found");
            nobody()
        })?;
    let mut outcome = Err(nobody());
    for socket in found.take(8) {
        let Some(address) = with_host(address, socket.ip()) else {
            continue;
        };
        outcome = controller.dial(address).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}
