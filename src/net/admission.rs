//! How two peers prove to each other, on a connection that has authenticated both, that they are
//! members of the same network.
//!
//! The listener shows nothing before the dialer's proof has been verified; the dialer shows only
//! its proof. Whoever does not know the membership secret learns that somebody listens, no more.
//! Who is a member is decided by the [`Gate`]; what carries the exchange is somebody else's matter.

mod gate;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::codec::{CodecError, HEADER_BYTES, HELLO_META_MAX_BYTES, Header, Kind, Outgoing};
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify, Entropy, PeerId};
use crate::crypto::proof::PROOF_BYTES;
use crate::crypto::{Side, Statement};

pub use gate::{Gate, Lists};

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
    pub side: Side,
    /// What only the two ends of this very connection can know (a TLS exporter), or a constant
    /// where the transport offers nothing of the kind.
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
    nonce: [u8; PROOF_BYTES],
}

#[derive(Serialize, Deserialize)]
struct Proof {
    /// Of the membership secret.
    epoch: u32,
    #[serde(with = "serde_bytes")]
    mac: [u8; PROOF_BYTES],
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
    gate: &Gate,
    entropy: &Entropy,
    record: Bytes,
    room: R,
) -> Result<(Greeted, T), AdmissionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: FnOnce() -> Result<T, Denied>,
{
    gate.may_enter(&ends.peer).map_err(AdmissionError::Denied)?;
    let mut exchange = Exchange {
        stream,
        ends,
        gate,
        own_nonce: entropy.array(),
        peer_nonce: [0; PROOF_BYTES],
    };
    let own_chain = Chain {
        chain: gate.chain(),
        record,
    };
    let chain: Chain;
    let judged;
    match ends.side {
        Side::Dialer => {
            exchange.send_nonce().await?;
            exchange.receive_nonce().await?;
            exchange.send_proof().await?;
            exchange.receive_proof().await?;
            chain = exchange.receive(STEP_CHAIN).await?;
            judged = exchange.judge(&chain, room);
            exchange.send_verdict(&judged).await?;
            if judged.is_ok() {
                exchange.send(STEP_CHAIN, &own_chain).await?;
                exchange.receive_verdict().await?;
            }
        }
        Side::Listener => {
            exchange.receive_nonce().await?;
            exchange.send_nonce().await?;
            exchange.receive_proof().await?;
            exchange.send_proof().await?;
            exchange.send(STEP_CHAIN, &own_chain).await?;
            exchange.receive_verdict().await?;
            chain = exchange.receive(STEP_CHAIN).await?;
            judged = exchange.judge(&chain, room);
            exchange.send_verdict(&judged).await?;
        }
    }
    let (admitted, place) = judged.map_err(AdmissionError::Denied)?;
    let record = chain.record;
    Ok((Greeted { admitted, record }, place))
}

struct Exchange<'a, S> {
    stream: &'a mut S,
    ends: &'a Ends,
    gate: &'a Gate,
    own_nonce: [u8; PROOF_BYTES],
    peer_nonce: [u8; PROOF_BYTES],
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

    async fn send_nonce(&mut self) -> Result<(), AdmissionError> {
        let nonce = Nonce {
            version: ADMISSION_VERSION,
            nonce: self.own_nonce,
        };
        self.send(STEP_NONCE, &nonce).await
    }

    async fn receive_nonce(&mut self) -> Result<(), AdmissionError> {
        let Nonce { version, nonce } = self.receive(STEP_NONCE).await?;
        self.peer_nonce = nonce;
        if version == ADMISSION_VERSION {
            Ok(())
        } else {
            Err(AdmissionError::Version(version))
        }
    }

    async fn send_proof(&mut self) -> Result<(), AdmissionError> {
        let (epoch, mac) = self.gate.prove(&Statement {
            side: self.ends.side,
            binding: &self.ends.binding,
            prover: self.ends.own,
            verifier: self.ends.peer,
            prover_nonce: self.own_nonce,
            verifier_nonce: self.peer_nonce,
        });
        self.send(STEP_PROOF, &Proof { epoch, mac }).await
    }

    async fn receive_proof(&mut self) -> Result<(), AdmissionError> {
        let Proof { epoch, mac } = self.receive(STEP_PROOF).await?;
        let statement = Statement {
            side: self.ends.side.other(),
            binding: &self.ends.binding,
            prover: self.ends.peer,
            verifier: self.ends.own,
            prover_nonce: self.peer_nonce,
            verifier_nonce: self.own_nonce,
        };
        self.gate
            .check_proof(epoch, &statement, &mac)
            .map_err(AdmissionError::Denied)
    }

    fn judge<T>(
        &self,
        chain: &Chain,
        room: impl FnOnce() -> Result<T, Denied>,
    ) -> Result<(Admitted, T), Denied> {
        let admitted = self.gate.check_chain(&self.ends.peer, &chain.chain)?;
        Ok((admitted, room()?))
    }

    async fn send_verdict<T>(&mut self, judged: &Result<T, Denied>) -> Result<(), AdmissionError> {
        let denied = judged.as_ref().err().copied();
        self.send(STEP_VERDICT, &Verdict { denied }).await
    }

    async fn receive_verdict(&mut self) -> Result<(), AdmissionError> {
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
