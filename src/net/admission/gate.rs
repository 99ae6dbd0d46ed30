//! Who is let in: whoever knows the membership secret, has a chain of invitations that holds, and
//! is not kept out by the configuration.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::{Admitted, Denied};
use crate::base::{Clock, PeerId};
use crate::crypto::proof::PROOF_BYTES;
use crate::crypto::{MembershipChain, NetworkSecrets, Statement};

/// Peers that the configuration lets in or keeps out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// If not empty, only these.
    pub allowed: BTreeSet<PeerId>,
    /// Never these.
    pub denied: BTreeSet<PeerId>,
}

impl Lists {
    /// Whether `peer` may connect.
    pub fn let_in(&self, peer: &PeerId) -> bool {
        !self.denied.contains(peer) && (self.allowed.is_empty() || self.allowed.contains(peer))
    }
}

/// Decides about peers. Cheap to clone; clones decide alike.
#[derive(Debug, Clone)]
pub struct Gate {
    keys: Arc<RwLock<Keys>>,
    lists: Arc<RwLock<Lists>>,
    clock: Clock,
}

#[derive(Debug)]
struct Keys {
    secrets: NetworkSecrets,
    chain: Bytes,
}

impl Gate {
    /// Of a member with these secrets and this proof of membership.
    pub fn new(
        secrets: NetworkSecrets,
        chain: &MembershipChain,
        lists: Lists,
        clock: Clock,
    ) -> Gate {
        let chain = chain.encode().into();
        Gate {
            keys: Arc::new(RwLock::new(Keys { secrets, chain })),
            lists: Arc::new(RwLock::new(lists)),
            clock,
        }
    }

    /// Other lists count from now on, for new connections.
    pub fn set_lists(&self, lists: Lists) {
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
    }

    /// The own chain of invitations, encoded.
    pub fn chain(&self) -> Bytes {
        self.keys().chain.clone()
    }

    /// Whether the lists let `peer` in at all.
    pub fn may_enter(&self, peer: &PeerId) -> Result<(), Denied> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        if lists.let_in(peer) {
            Ok(())
        } else {
            Err(Denied::Listed)
        }
    }

    /// Proves knowledge of the secret of the present epoch.
    pub fn prove(&self, statement: &Statement<'_>) -> (u32, [u8; PROOF_BYTES]) {
        let keys = self.keys();
        (keys.secrets.epoch, keys.secrets.prove(statement))
    }

    /// Checks such a proof of a peer.
    pub fn check_proof(
        &self,
        epoch: u32,
        statement: &Statement<'_>,
        proof: &[u8; PROOF_BYTES],
    ) -> Result<(), Denied> {
        let keys = self.keys();
        if epoch == keys.secrets.epoch && keys.secrets.check_proof(statement, proof) {
            Ok(())
        } else {
            Err(Denied::Stranger)
        }
    }

    /// Checks the chain of `peer`, whose identity the connection has proved.
    pub fn check_chain(&self, peer: &PeerId, chain: &[u8]) -> Result<Admitted, Denied> {
        let network = self.keys().secrets.network;
        let member = MembershipChain::decode(chain)
            .and_then(|chain| chain.verify(network, self.clock.now_ms()))
            .map_err(|error| {
                tracing::debug!(%peer, %error, "chain of invitations refused");
                Denied::Chain
            })?;
        if member.device != *peer {
            return Err(Denied::Chain);
        }
        Ok(Admitted {
            storage_only: member.storage_only,
            zone: member.zone_name(),
        })
    }

    fn keys(&self) -> std::sync::RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}
