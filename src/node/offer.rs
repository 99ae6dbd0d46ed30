//! Keeps the network informed of what this peer offers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use crate::base::worker::{Next, Worker};
use crate::net::{Offer, Stay};

/// How often free space is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

impl Node {
    /// What this peer offers now. A peer that stores for nobody else offers nothing to the network;
    /// alone, it still stores its own data.
    pub(super) fn current_offer(&self) -> Offer {
        let inner = &self.0;
        let alone = !self.identity().is_networked;
        let stay = inner.drain.stay();
        // Whoever leaves offers nothing, so that nobody counts on it.
        let offers = stay == Stay::Stays && (alone || inner.serving.offer.load(Ordering::Relaxed));
        Offer {
            capacity_bytes: if offers { inner.quota.bytes() } else { 0 },
            free_bytes: if offers {
                inner.store.usage().intake_left
            } else {
                0
            },
            zone: inner.options.config.network.zone.clone(),
            stay,
        }
    }

    /// Tells the network.
    pub(super) async fn announce_offer(&self) {
        // A network that is shut down needs no offers.
        let _ = self.0.net.offer(self.current_offer()).await;
    }
}

/// Announces changes of the offer.
pub(super) struct OfferKeeper {
    node: Node,
    last: Option<Offer>,
}

impl OfferKeeper {
    pub const fn new(node: Node) -> Self {
        OfferKeeper { node, last: None }
    }
}

impl Worker for OfferKeeper {
    fn name(&self) -> &'static str {
        "offer"
    }

    async fn step(&mut self) -> Next {
        self.node.settle_drain().await;
        let offer = self.node.current_offer();
        if self.last.as_ref() != Some(&offer) {
            self.node.announce_offer().await;
            self.last = Some(offer);
        }
        Next::Idle(INTERVAL)
    }

    fn status(&self) -> String {
        match &self.last {
            None => "nothing announced yet".to_owned(),
            Some(offer) => format!(
                "offers {}, {} free",
                crate::base::ByteSize(offer.capacity_bytes),
                crate::base::ByteSize(offer.free_bytes)
            ),
        }
    }
}
