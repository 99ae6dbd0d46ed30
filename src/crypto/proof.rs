//! The mutual proof of membership on a live connection: pure functions of what both sides see.
//!
//! A MAC under the membership secret shows that the prover knows it now; the binding ties it to
//! this very connection, so that it cannot be relayed; roles and nonces keep a proof from being
//! reflected or replayed. That the prover is the device of its [chain](super::member) is proven by
//! the connection's own handshake.

use crate::base::PeerId;

use super::keys::NetworkSecrets;

const LIVE_PROOF_CONTEXT: &str = "cairn v1 membership: live proof";

/// Bytes of a nonce and of a proof.
pub const PROOF_BYTES: usize = 32;

/// Which end of a connection proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that connected.
    Dialer,
    /// The one that was connected to.
    Listener,
}

impl Side {
    /// The side at the other end.
    pub const fn other(self) -> Self {
        match self {
            Side::Dialer => Side::Listener,
            Side::Listener => Side::Dialer,
        }
    }
}

/// What a proof is about, the same for prover and verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The side that proves.
    pub side: Side,
    /// What only the two ends of this connection know, and no other connection shares (the TLS
    /// exporter; for a libp2p stream, what the authenticated transport gives).
    pub binding: &'a [u8],
    /// Who proves.
    pub prover: PeerId,
    /// To whom.
    pub verifier: PeerId,
    /// Random, chosen by the prover for this connection.
    pub prover_nonce: [u8; PROOF_BYTES],
    /// Random, chosen by the verifier for this connection.
    pub verifier_nonce: [u8; PROOF_BYTES],
}

impl NetworkSecrets {
    /// Proves knowledge of these secrets.
    pub fn prove(&self, statement: &Statement<'_>) -> [u8; PROOF_BYTES] {
        *self.mac(statement).as_bytes()
    }

    /// Checks a proof, in constant time.
    pub fn check_proof(&self, statement: &Statement<'_>, proof: &[u8; PROOF_BYTES]) -> bool {
        self.mac(statement) == *proof
    }

    fn mac(&self, statement: &Statement<'_>) -> blake3::Hash {
        self.membership_mac(LIVE_PROOF_CONTEXT, |hasher| {
            let side = match statement.side {
                Side::Dialer => 0u8,
                Side::Listener => 1,
            };
            // All of fixed length but the binding, which comes last.
            hasher
                .update(self.network.as_bytes())
                .update(&self.epoch.to_le_bytes())
                .update(&[side])
                .update(statement.prover.as_bytes())
                .update(statement.verifier.as_bytes())
                .update(&statement.prover_nonce)
                .update(&statement.verifier_nonce)
                .update(statement.binding);
        })
        .finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Entropy, NetworkId};

    #[test]
    fn a_proof_holds_for_its_statement_only() {
        let entropy = Entropy::seeded(1);
        let secrets = NetworkSecrets::generate(NetworkId([1; 16]), &entropy);
        let statement = Statement {
            side: Side::Dialer,
            binding: b"exporter",
            prover: PeerId([1; 32]),
            verifier: PeerId([2; 32]),
            prover_nonce: [3; 32],
            verifier_nonce: [4; 32],
        };
        let proof = secrets.prove(&statement);
        assert!(secrets.check_proof(&statement, &proof));
        // A storage-only member proves just as well.
        assert!(
            secrets
                .without_convergence()
                .check_proof(&statement, &proof)
        );

        let reflected = Statement {
            side: statement.side.other(),
            prover: statement.verifier,
            verifier: statement.prover,
            prover_nonce: statement.verifier_nonce,
            verifier_nonce: statement.prover_nonce,
            ..statement
        };
        for other in [
            reflected,
            Statement {
                side: Side::Listener,
                ..statement
            },
            Statement {
                binding: b"another",
                ..statement
            },
            Statement {
                binding: b"",
                ..statement
            },
            Statement {
                prover: PeerId([9; 32]),
                ..statement
            },
            Statement {
                verifier: PeerId([9; 32]),
                ..statement
            },
            Statement {
                prover_nonce: [9; 32],
                ..statement
            },
            Statement {
                verifier_nonce: [9; 32],
                ..statement
            },
        ] {
            assert!(!secrets.check_proof(&other, &proof), "{other:?}");
        }
        let mut next_epoch = secrets;
        next_epoch.epoch += 1;
        assert!(!next_epoch.check_proof(&statement, &proof));
        let stranger = NetworkSecrets::generate(NetworkId([1; 16]), &entropy);
        assert!(!stranger.check_proof(&statement, &proof));
    }
}
