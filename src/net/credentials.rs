//! Who this peer is in its network: its key, what only members know, and its proof of membership.

use crate::base::{Clock, NetworkId, PeerId};
use crate::crypto::member::MemberError;
use crate::crypto::{MembershipChain, NetworkSecrets, SigningKey};

use super::admission::{Admitted, Gate, Lists};

/// Everything a peer needs to prove its own membership and to judge that of others.
#[derive(Debug, Clone)]
pub struct Credentials {
    device: SigningKey,
    network: NetworkId,
    tag: String,
    admitted: Admitted,
    gate: Gate,
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
        lists: Lists,
        clock: Clock,
    ) -> Result<Self, MemberError> {
        let member = chain.verify(secrets.network, clock.now_ms())?;
        if member.device != device.peer() {
            return Err(MemberError::Broken {
                link: member.ancestors.len(),
                why: "it is the proof of another device",
            });
        }
        Ok(Credentials {
            device,
            network: secrets.network,
            tag: secrets.membership_tag(),
            admitted: Admitted {
                storage_only: member.storage_only,
                zone: member.zone_name(),
            },
            gate: Gate::new(secrets, chain, lists, clock),
        })
    }

    /// Credentials that others should refuse: the proof is not checked.
    #[cfg(feature = "testkit")]
    pub fn unchecked(
        device: SigningKey,
        secrets: NetworkSecrets,
        chain: &MembershipChain,
        clock: Clock,
    ) -> Self {
        Credentials {
            device,
            network: secrets.network,
            tag: secrets.membership_tag(),
            admitted: Admitted::default(),
            gate: Gate::new(secrets, chain, Lists::default(), clock),
        }
    }

    /// The own peer.
    pub fn own(&self) -> PeerId {
        self.device.peer()
    }

    /// The network.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// The own device key.
    pub const fn device(&self) -> &SigningKey {
        &self.device
    }

    /// A word for protocol names that strangers cannot guess.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// What the own proof says of this peer.
    pub const fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Decides about others.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::base::Entropy;

    /// The founder of a network of its own.
    pub(crate) fn founded(seed: u64, lists: Lists) -> Credentials {
        let entropy = Entropy::seeded(seed);
        let device = SigningKey::generate(&entropy);
        let (secrets, chain) = MembershipChain::found(&device, &entropy);
        Credentials::new(device, secrets, &chain, lists, Clock::system()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::founded;
    use super::*;
    use crate::base::Entropy;

    #[test]
    fn only_the_own_valid_chain_is_accepted() {
        let entropy = Entropy::seeded(3);
        let (device, other) = (
            SigningKey::generate(&entropy),
            SigningKey::generate(&entropy),
        );
        let (secrets, chain) = MembershipChain::found(&device, &entropy);
        let make = |device: &SigningKey, secrets: &NetworkSecrets| {
            let (device, clock) = (device.clone(), Clock::system());
            Credentials::new(device, secrets.clone(), &chain, Lists::default(), clock)
        };
        assert!(make(&device, &secrets).is_ok());
        assert!(make(&other, &secrets).is_err());
        let (elsewhere, _) = MembershipChain::found(&other, &entropy);
        assert!(make(&device, &elsewhere).is_err());
    }

    #[test]
    fn networks_do_not_share_a_tag() {
        let one = founded(1, Lists::default());
        let other = founded(2, Lists::default());
        assert_ne!(one.tag(), other.tag());
        assert_eq!(one.tag(), founded(1, Lists::default()).tag());
    }
}
