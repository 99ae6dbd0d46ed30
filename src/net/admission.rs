//! How two peers prove to each other, on a connection that has authenticated both, that they are
//! members of the same network.
//!
//! The listener shows nothing before the dialer's proof has been verified; the dialer shows only
//! its proof. Whoever does not know the membership secret learns that somebody listens, no more.
//! Does not know how proofs and chains are made: [`Membership`] does.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::codec::{CodecError, HEADER_BYTES, HELLO_META_MAX_BYTES, Header, Kind, Outgoing};
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify, Entropy, PeerId};

/// Version of this exchange.
pub const ADMISSION_VERSION: u8 = 1;

/// What a proof of membership says of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admitted {
    /// It was invited to store, serve and repair only.
    pub storage_only: bool,
    /// Failure domain that its invitation implies; empty: none.
    pub zone: String,
}

/// Why a peer is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum Denied {
    /// It does not know the membership secret: another network, or an epoch that is over.
    #[error("no member of this network")]
    Stranger,
    /// Its chain of invitations does not hold.
    #[error("its invitation does not hold")]
    Chain,
    /// The configuration here denies it.
    #[error("denied by configuration")]
    Listed,
    /// Too many connections.
    #[error("too many connections")]
    Full,
}

/// Everything a proof is bound to, so that it is of no use anywhere else or again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who opened the connection.
    pub dialer: PeerId,
    /// Who accepted it.
    pub listener: PeerId,
    /// Random bytes of the dialer.
    pub dialer_nonce: [u8; 32],
    /// Random bytes of the listener.
    pub listener_nonce: [u8; 32],
    /// Something only the two ends of this very connection can know (a TLS exporter), or a
    /// constant where the transport has nothing of the kind.
    pub binding: Vec<u8>,
}

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that opened the connection.
    Dialer,
    /// The side that accepted it.
    Listener,
}

/// A message authentication code under the membership secret of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Which secret.
    pub epoch: u32,
    /// The code.
    #[serde(with = "serde_bytes")]
    pub mac: [u8; 32],
}

/// What admission needs to know of the network. Implemented above the cryptography.
pub trait Membership: Send + Sync + 'static {
    /// The own proof for this session.
    fn prove(&self, session: &Session, role: Role) -> Proof;
    /// Whether a proof of the other side is right (compared in constant time).
    fn verify(&self, session: &Session, role: Role, proof: &Proof) -> bool;
    /// The own chain of invitations, encoded.
    fn chain(&self) -> Bytes;
    /// Checks the chain of `peer`: signatures, expiry, revocations.
    fn check_chain(&self, peer: &PeerId, chain: &[u8]) -> Result<Admitted, Denied>;
    /// Whether the lists of the configuration let `peer` in at all.
    fn may_enter(&self, peer: &PeerId) -> bool;
}

/// Why an admission failed.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The connection broke; from a listener this is also how a stranger is refused.
    #[error("closed during admission (another network, an older key, or no member): {0}")]
    Io(#[from] std::io::Error),
    /// What came is no admission message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Another version.
    #[error("admission version {0}; this program speaks {ADMISSION_VERSION}")]
    Version(u8),
    /// We do not let the peer in.
    #[error("not admitted: {0}")]
    Denied(Denied),
    /// The peer does not let us in.
    #[error("the peer refused us: {0}")]
    Refused(Denied),
}

impl Classify for AdmissionError {
    fn class(&self) -> Class {
        match self {
            AdmissionError::Io(_)
            | AdmissionError::Refused(Denied::Full)
            | AdmissionError::Denied(Denied::Full) => Class::Retry,
            AdmissionError::Codec(_) | AdmissionError::Version(_) => Class::Corrupt,
            AdmissionError::Denied(_) | AdmissionError::Refused(_) => Class::Denied,
        }
    }
}

/// The two ends of a connection whose transport has authenticated them.
#[derive(Debug, Clone)]
pub struct Ends {
    /// This process.
    pub own: PeerId,
    /// The other side.
    pub peer: PeerId,
    /// Which side this process is.
    pub role: Role,
    /// See [`Session::binding`].
    pub binding: Vec<u8>,
}

/// What came of an admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeted {
    /// What the peer's chain says.
    pub admitted: Admitted,
    /// The peer's signed record (not checked here); empty if it sent none.
    pub record: Bytes,
}

const STEP_NONCE: u16 = 1;
const STEP_PROOF: u16 = 2;
const STEP_CHAIN: u16 = 3;
const STEP_VERDICT: u16 = 4;

#[derive(Serialize, Deserialize)]
struct Nonce {
    version: u8,
    #[serde(with = "serde_bytes")]
    nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Chain {
    chain: Bytes,
    record: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Verdict {
    /// None: welcome.
    denied: Option<Denied>,
}

/// Runs the exchange on a fresh connection. Reads not one byte more than belongs to it, so the
/// stream can carry a link afterwards. The caller bounds its time.
///
/// `record` is the own signed record. `room` is asked last, with the peer proved: what it
/// returns (a place among the connections) is handed back.
///
/// # Errors
/// Nothing of the network was shown to a peer that failed before its proof was verified.
pub async fn admit<S, T, R>(
    stream: &mut S,
    ends: &Ends,
    membership: &dyn Membership,
    entropy: &Entropy,
    record: Bytes,
    room: R,
) -> Result<(Greeted, T), AdmissionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: FnOnce() -> Result<T, Denied>,
{
    if !membership.may_enter(&ends.peer) {
        return Err(AdmissionError::Denied(Denied::Listed));
    }
    let mut exchange = Exchange { stream };
    let own_chain = Chain {
        chain: membership.chain(),
        record,
    };
    let nonce: [u8; 32] = entropy.array();
    let own_nonce = Nonce {
        version: ADMISSION_VERSION,
        nonce,
    };
    match ends.role {
        Role::Dialer => {
            exchange.send(STEP_NONCE, &own_nonce).await?;
            let theirs = exchange.nonce().await?;
            let session = ends.session(nonce, theirs);
            let proof = membership.prove(&session, Role::Dialer);
            exchange.send(STEP_PROOF, &proof).await?;
            let proof = exchange.receive(STEP_PROOF).await?;
            if !membership.verify(&session, Role::Listener, &proof) {
                return Err(AdmissionError::Denied(Denied::Stranger));
            }
            let chain: Chain = exchange.receive(STEP_CHAIN).await?;
            let judged = judge(membership, ends, &chain, room);
            exchange.verdict(&judged).await?;
            let (admitted, place) = judged?;
            exchange.send(STEP_CHAIN, &own_chain).await?;
            exchange.welcome().await?;
            Ok((
                Greeted {
                    admitted,
                    record: chain.record,
                },
                place,
            ))
        }
        Role::Listener => {
            let theirs = exchange.nonce().await?;
            exchange.send(STEP_NONCE, &own_nonce).await?;
            let session = ends.session(theirs, nonce);
            let proof = exchange.receive(STEP_PROOF).await?;
            if !membership.verify(&session, Role::Dialer, &proof) {
                return Err(AdmissionError::Denied(Denied::Stranger));
            }
            let proof = membership.prove(&session, Role::Listener);
            exchange.send(STEP_PROOF, &proof).await?;
            exchange.send(STEP_CHAIN, &own_chain).await?;
            exchange.welcome().await?;
            let chain: Chain = exchange.receive(STEP_CHAIN).await?;
            let judged = judge(membership, ends, &chain, room);
            exchange.verdict(&judged).await?;
            let (admitted, place) = judged?;
            Ok((
                Greeted {
                    admitted,
                    record: chain.record,
                },
                place,
            ))
        }
    }
}

fn judge<T>(
    membership: &dyn Membership,
    ends: &Ends,
    chain: &Chain,
    room: impl FnOnce() -> Result<T, Denied>,
) -> Result<(Admitted, T), AdmissionError> {
    let admitted = membership.check_chain(&ends.peer, &chain.chain);
    let judged = admitted.and_then(|admitted| Ok((admitted, room()?)));
    judged.map_err(AdmissionError::Denied)
}

impl Ends {
    /// The session, from the own nonce and that of the peer.
    fn session(&self, own_nonce: [u8; 32], peer_nonce: [u8; 32]) -> Session {
        let binding = self.binding.clone();
        match self.role {
            Role::Dialer => Session {
                dialer: self.own,
                listener: self.peer,
                dialer_nonce: own_nonce,
                listener_nonce: peer_nonce,
                binding,
            },
            Role::Listener => Session {
                dialer: self.peer,
                listener: self.own,
                dialer_nonce: peer_nonce,
                listener_nonce: own_nonce,
                binding,
            },
        }
    }
}

struct Exchange<'a, S> {
    stream: &'a mut S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<'_, S> {
    async fn send<T: Serialize>(&mut self, step: u16, value: &T) -> Result<(), AdmissionError> {
        let meta = wire::encode(value);
        if meta.len() > HELLO_META_MAX_BYTES {
            return Err(AdmissionError::Codec(CodecError::TooLarge {
                what: "own chain and record",
                size: meta.len(),
                limit: HELLO_META_MAX_BYTES,
            }));
        }
        let frame = Outgoing::assemble(Kind::Hello, step, 0, &meta, Bytes::new());
        self.stream.write_all(&frame.head).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn receive<T: DeserializeOwned>(&mut self, step: u16) -> Result<T, AdmissionError> {
        let mut head = [0u8; HEADER_BYTES];
        self.stream.read_exact(&mut head).await?;
        let header = Header::decode(&head)?;
        let fits = header.kind == Kind::Hello && header.opcode == step;
        if !fits {
            return Err(AdmissionError::Codec(CodecError::Invalid {
                opcode: header.opcode,
                why: "not the next step of an admission",
            }));
        }
        let mut meta = vec![0u8; header.meta_len as usize];
        self.stream.read_exact(&mut meta).await?;
        wire::decode(&meta, HELLO_META_MAX_BYTES).map_err(|source| malformed(step, source))
    }

    async fn nonce(&mut self) -> Result<[u8; 32], AdmissionError> {
        let Nonce { version, nonce } = self.receive(STEP_NONCE).await?;
        if version == ADMISSION_VERSION {
            Ok(nonce)
        } else {
            Err(AdmissionError::Version(version))
        }
    }

    async fn verdict<T>(
        &mut self,
        judged: &Result<T, AdmissionError>,
    ) -> Result<(), AdmissionError> {
        let denied = match judged {
            Err(AdmissionError::Denied(reason)) => Some(*reason),
            _ => None,
        };
        self.send(STEP_VERDICT, &Verdict { denied }).await
    }

    async fn welcome(&mut self) -> Result<(), AdmissionError> {
        let verdict: Verdict = self.receive(STEP_VERDICT).await?;
        verdict
            .denied
            .map_or(Ok(()), |why| Err(AdmissionError::Refused(why)))
    }
}

const fn malformed(opcode: u16, source: WireError) -> AdmissionError {
    AdmissionError::Codec(CodecError::Malformed { opcode, source })
}

#[cfg(test)]
mod tests;
