//! The proof of membership on a libp2p connection, and the agreement to begin.
//!
//! After the proof each side lets the other's streams in, says so with one byte, and speaks only
//! when it has heard the same: neither side's first stream is refused.

use std::time::Duration;

use bytes::Bytes;
use libp2p::swarm::{ConnectionId, Stream};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::base::{Entropy, PeerId};
use crate::crypto::Side;
use crate::net::admission::{AdmissionError, Ends, Gate, Greeted, admit};
use crate::net::codec::{Header, Kind};

/// What takes the place of a channel binding: the transport (Noise or TLS 1.3) has authenticated
/// both peer ids, which every proof covers.
const BINDING: &[u8] = b"cairn libp2p control plane 1";
/// How long a goodbye may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
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

/// Says goodbye on a stream for requests at once, so that the peer knows that nothing is wrong:
/// there is no room.
pub(super) async fn turn_away<S: AsyncWrite>(stream: S) {
    let mut stream = std::pin::pin!(stream);
    let goodbye = Header::bare(Kind::Goodbye, 0).encode();
    let farewell = async {
        stream.write_all(&goodbye).await?;
        stream.shutdown().await
    };
    // Whoever does not listen learns it by the end of the stream.
    let _ = tokio::time::timeout(FAREWELL_LIMIT, farewell).await;
}
