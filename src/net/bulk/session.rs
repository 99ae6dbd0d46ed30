//! The TLS handshake, record by record, so that not one byte behind it is read too early.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::Connection;

use super::record::{HEAD_BYTES, RECORD_MAX_BYTES, keys_of};
use super::stream::{Opening, Sealing};
use super::{BulkError, peer_of};
use crate::base::PeerId;

/// Label of the exporter that a membership proof is bound to.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-cairn-bulk-1";
/// Bytes exported.
const BINDING_BYTES: usize = 32;

/// A connection whose two ends have proved who they are.
pub(super) struct Session {
    pub(super) peer: PeerId,
    /// Bytes that only the two ends of this session know.
    pub(super) binding: Vec<u8>,
    pub(super) opening: Opening,
    pub(super) sealing: Sealing,
}

/// Runs the handshake of `connection` over `stream`.
pub(super) async fn establish(
    mut stream: TcpStream,
    mut connection: Connection,
) -> Result<Session, BulkError> {
    let outcome = shake_hands(&mut stream, &mut connection).await;
    if outcome.is_err() {
        // The alert tells the peer why; it may be gone already.
        let _ = flush(&mut stream, &mut connection).await;
    }
    outcome?;
    let peer = peer_of(connection.peer_certificates()).ok_or(BulkError::NoPeer)?;
    let binding = vec![0u8; BINDING_BYTES];
    let binding = connection.export_keying_material(binding, EXPORTER_LABEL, None)?;
    let (sending, receiving) = keys_of(connection.dangerous_extract_secrets()?)?;
    let (read_half, write_half) = stream.into_split();
    Ok(Session {
        peer,
        binding,
        opening: Opening::new(read_half, receiving),
        sealing: Sealing::new(write_half, sending),
    })
}

async fn shake_hands(stream: &mut TcpStream, connection: &mut Connection) -> Result<(), BulkError> {
    let mut record = Vec::new();
    loop {
        flush(stream, connection).await?;
        if !connection.is_handshaking() {
            return Ok(());
        }
        let mut head = [0u8; HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        let [_, _, _, high, low] = head;
        let len = HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if len > RECORD_MAX_BYTES {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        record.clear();
        record.extend_from_slice(&head);
        record.resize(len, 0);
        stream.read_exact(&mut record[HEAD_BYTES..]).await?;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            connection.read_tls(&mut rest)?;
            connection.process_new_packets()?;
        }
    }
}

async fn flush(stream: &mut TcpStream, connection: &mut Connection) -> io::Result<()> {
    let mut out = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut out)?;
    }
    stream.write_all(&out).await
}
