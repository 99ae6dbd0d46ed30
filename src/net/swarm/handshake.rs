//! The proof of membership on a libp2p connection, and the agreement to begin.
//!
//! After the proof each side lets the other's streams in, says so with one byte, and speaks only
//! when it has heard the same: neither side's first stream is refused.

use std::time::Duration;

use bytes::Bytes;
use libp2p::swarm::{ConnectionId, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::base::{Entropy, PeerId};
use crate::crypto::Side;
use crate::net::admission::{AdmissionError, Ends, Gate, Greeted, admit};

/// What takes the place of a channel binding: the transport (Noise or TLS 1.3) has authenticated
/// both peer ids, which every proof covers.
const BINDING: &[u8] = b"cairn libp2p control plane 1";
/// Said when the own gate listens.
const READY: u8 = 1;

/// A libp2p stream as tokio sees it.
pub(super) type ControlStream = Compat<Stream>;

/// Which connection, with whom, as which side.
#[derive(Debug, Clone)]
pub(super) struct Knock {
    pub(super) connection: ConnectionId,
    pub(super) own: PeerId,
    pub(super) peer: PeerId,
    pub(super) side: Side,
}

/// Where a handshake stands.
#[expect(clippy::large_enum_variant, reason = "few exist, and none for long")]
pub(super) enum Step {
    /// The peer proved its membership, and we ours.
    Proved(Knock, Result<(Greeted, ControlStream), AdmissionError>),
    /// Both sides are ready.
    Agreed(Knock, std::io::Result<()>),
}

/// Proves and asks for proof.
pub(super) async fn prove(
    knock: Knock,
    stream: Stream,
    gate: Gate,
    entropy: Entropy,
    record: Bytes,
    limit: Duration,
) -> Step {
    let ends = Ends {
        own: knock.own,
        peer: knock.peer,
        side: knock.side,
        binding: BINDING.to_vec(),
    };
    let mut stream = stream.compat();
    let exchange = admit(&mut stream, &ends, &gate, &entropy, record, || Ok(()));
    let outcome = match tokio::time::timeout(limit, exchange).await {
        Ok(outcome) => outcome.map(|(greeted, ())| (greeted, stream)),
        Err(_) => Err(AdmissionError::Io(std::io::ErrorKind::TimedOut.into())),
    };
    Step::Proved(knock, outcome)
}

/// Says that the own gate listens, and waits to hear the same.
pub(super) async fn agree(knock: Knock, mut stream: ControlStream, limit: Duration) -> Step {
    let exchange = async {
        stream.write_all(&[READY]).await?;
        stream.flush().await?;
        match stream.read_u8().await? {
            READY => Ok(()),
            _ => Err(std::io::ErrorKind::InvalidData.into()),
        }
    };
    let outcome = tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    Step::Agreed(knock, outcome)
}
