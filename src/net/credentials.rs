//! Who this peer is in its network, and whom it lets in: keys, secrets, chain and lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::admission::{Admitted, Denied, Membership, Proof, Role, Session};
use crate::base::{Clock, NetworkId, PeerId};
use crate::crypto::member::MemberError;
use crate::crypto::{MembershipChain, NetworkSecrets, Side, SigningKey, Statement};

/// Checked chains that are remembered.
const CHECKED_MAX: usize = 2048;

/// Everything a peer needs to prove its own membership and to judge that of others.
pub struct Credentials {
    device: SigningKey,
    secrets: NetworkSecrets,
    chain: Bytes,
    storage_only: bool,
    zone: String,
    allowed: BTreeSet<PeerId>,
    denied: BTreeSet<PeerId>,
    clock: Clock,
    checked: Mutex<BTreeMap<[u8; 32], (PeerId, Admitted)>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("own", &self.own())
            .field("network", &self.secrets.network)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The credentials of `device`, whose own proof of membership is checked first.
    ///
    /// # Errors
    /// If `chain` is not a valid proof for this device in the network of `secrets`.
    pub fn new(
        device: SigningKey,
        secrets: NetworkSecrets,
        chain: &MembershipChain,
        clock: Clock,
    ) -> Result<Self, MemberError> {
        let member = chain.verify(secrets.network, clock.now_ms())?;
        if member.device != device.peer() {
            return Err(MemberError::Broken {
                link: 0,
                why: "it is the proof of another device",
            });
        }
        Ok(Credentials {
            device,
            secrets,
            chain: chain.encode().into(),
            storage_only: member.storage_only,
            zone: member.zone_name(),
            allowed: BTreeSet::new(),
            denied: BTreeSet::new(),
            clock,
            checked: Mutex::new(BTreeMap::new()),
        })
    }

    /// Lets in only `allowed` (everybody, if empty), and never `denied`.
    #[must_use]
    pub fn with_lists(mut self, allowed: BTreeSet<PeerId>, denied: BTreeSet<PeerId>) -> Self {
        self.allowed = allowed;
        self.denied = denied;
        self
    }

    /// The own peer.
    pub fn own(&self) -> PeerId {
        self.device.peer()
    }

    /// The network.
    pub const fn network(&self) -> NetworkId {
        self.secrets.network
    }

    /// The own device key.
    pub const fn device(&self) -> &SigningKey {
        &self.device
    }

    /// What only members know.
    pub const fn secrets(&self) -> &NetworkSecrets {
        &self.secrets
    }

    /// The own encoded proof of membership.
    pub const fn chain(&self) -> &Bytes {
        &self.chain
    }

    /// What the own proof says of this peer.
    pub fn own_admission(&self) -> Admitted {
        Admitted {
            storage_only: self.storage_only,
            zone: self.zone.clone(),
        }
    }
}

fn statement(session: &Session, role: Role) -> Statement<'_> {
    let dialer = (session.dialer, session.dialer_nonce);
    let listener = (session.listener, session.listener_nonce);
    let (side, prover, verifier) = match role {
        Role::Dialer => (Side::Dialer, dialer, listener),
        Role::Listener => (Side::Listener, listener, dialer),
    };
    Statement {
        side,
        binding: &session.binding,
        prover: prover.0,
        verifier: verifier.0,
        prover_nonce: prover.1,
        verifier_nonce: verifier.1,
    }
}

impl Membership for Credentials {
    fn prove(&self, session: &Session, role: Role) -> Proof {
        Proof {
            epoch: self.secrets.epoch,
            mac: self.secrets.prove(&statement(session, role)),
        }
    }

    fn verify(&self, session: &Session, role: Role, proof: &Proof) -> bool {
        let holds = self
            .secrets
            .check_proof(&statement(session, role), &proof.mac);
        holds && proof.epoch == self.secrets.epoch
    }

    fn chain(&self) -> Bytes {
        self.chain.clone()
    }

    fn check_chain(&self, peer: &PeerId, chain: &[u8]) -> Result<Admitted, Denied> {
        let digest = *blake3::hash(chain).as_bytes();
        let checked = || {
            self.checked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((device, admitted)) = checked().get(&digest) {
            return if device == peer {
                Ok(admitted.clone())
            } else {
                Err(Denied::Chain)
            };
        }
        let member = MembershipChain::decode(chain)
            .and_then(|chain| chain.verify(self.secrets.network, self.clock.now_ms()))
            .map_err(|error| {
                tracing::debug!(%peer, %error, "a membership does not hold");
                Denied::Chain
            })?;
        // An ancestor that is denied here takes nobody in.
        if member.ancestors.iter().any(|id| self.denied.contains(id)) {
            return Err(Denied::Listed);
        }
        let admitted = Admitted {
            storage_only: member.storage_only,
            zone: member.zone_name(),
        };
        let mut checked = checked();
        if checked.len() >= CHECKED_MAX {
            checked.pop_first();
        }
        checked.insert(digest, (member.device, admitted.clone()));
        if member.device == *peer {
            Ok(admitted)
        } else {
            Err(Denied::Chain)
        }
    }

    fn may_enter(&self, peer: &PeerId) -> bool {
        !self.denied.contains(peer) && (self.allowed.is_empty() || self.allowed.contains(peer))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::base::Entropy;
    use crate::crypto::MembershipChain;

    /// The founder of a network of its own.
    pub(crate) fn founded(seed: u64, _now_ms: u64) -> Credentials {
        let entropy = Entropy::seeded(seed);
        let device = SigningKey::generate(&entropy);
        let (secrets, chain) = MembershipChain::found(&device, &entropy);
        Credentials::new(device, secrets, &chain, Clock::system()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::founded;
    use super::*;
    use crate::base::Entropy;
    use crate::crypto::Terms;

    fn invited(founder: &Credentials, expires_ms: u64) -> (SigningKey, MembershipChain) {
        let entropy = Entropy::seeded(9);
        let device = SigningKey::generate(&entropy);
        let chain = MembershipChain::decode(founder.chain()).unwrap();
        let terms = Terms {
            storage_only: true,
            independent: false,
            expires_ms,
        };
        let now = expires_ms - 1;
        let (invitation, key) = chain
            .invite(founder.device(), 0, terms, now, &entropy)
            .unwrap();
        let chain = chain.admit(&invitation, &key, device.peer(), now).unwrap();
        (device, chain)
    }

    #[test]
    fn members_are_judged_by_their_chain_and_the_lists() {
        let founder = founded(1, 0);
        let (device, chain) = invited(&founder, 1_000_000);
        let encoded = chain.encode();
        let admitted = founder.check_chain(&device.peer(), &encoded).unwrap();
        assert!(admitted.storage_only && !admitted.zone.is_empty());
        // The second time comes from memory, and is no less strict.
        assert_eq!(founder.check_chain(&device.peer(), &encoded), Ok(admitted));
        let other = PeerId([3; 32]);
        assert_eq!(founder.check_chain(&other, &encoded), Err(Denied::Chain));
        let stranger = founded(2, 0);
        assert!(stranger.check_chain(&device.peer(), &encoded).is_err());
        let listed = founded(1, 0).with_lists(BTreeSet::new(), [device.peer()].into());
        assert!(!listed.may_enter(&device.peer()) && listed.may_enter(&other));
        let chosen = founded(1, 0).with_lists([other].into(), BTreeSet::new());
        assert!(!chosen.may_enter(&device.peer()) && chosen.may_enter(&other));
    }

    #[test]
    fn a_proof_needs_the_secret_and_its_epoch() {
        let founder = founded(1, 0);
        let session = Session {
            dialer: PeerId([1; 32]),
            listener: PeerId([2; 32]),
            dialer_nonce: [3; 32],
            listener_nonce: [4; 32],
            binding: b"x".to_vec(),
        };
        let proof = founder.prove(&session, Role::Dialer);
        assert!(founder.verify(&session, Role::Dialer, &proof));
        assert!(!founder.verify(&session, Role::Listener, &proof));
        assert!(!founded(2, 0).verify(&session, Role::Dialer, &proof));
        let late = Proof {
            epoch: proof.epoch + 1,
            ..proof
        };
        assert!(!founder.verify(&session, Role::Dialer, &late));
    }
}
