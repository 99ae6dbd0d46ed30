//! Makes the libp2p Swarm: transports, their buffers, and the identity.

use std::time::Duration;

use libp2p::identity::{self, Keypair};
use libp2p::{Swarm, SwarmBuilder, noise, quic, tcp, tls, yamux};

use super::behaviour::Behaviour;
use super::later::Later;

/// Streams that one connection may hold: requests, admission, and the DHT's short ones.
const STREAMS_PER_CONNECTION: usize = 64;
/// Receive window of one QUIC stream and of one connection.
const QUIC_STREAM_WINDOW_BYTES: u32 = 1 << 20;
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A QUIC connection that hears nothing for so long is dead.
const QUIC_IDLE: Duration = Duration::from_secs(20);
/// How long TCP is tried alone.
const QUIC_PAUSE: Duration = Duration::from_secs(1);
/// Less often than pings, which keep connections alive by themselves.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Why no Swarm could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error("the peer's key is not an Ed25519 key: {0}")]
    Identity(#[from] identity::DecodingError),
    #[error("the encrypted transports cannot be set up: {0}")]
    Transport(String),
}

/// The libp2p form of the peer's key.
pub(super) fn keypair(secret: &[u8; 32]) -> Result<Keypair, BuildError> {
    Ok(Keypair::ed25519_from_bytes(*secret)?)
}

pub(super) fn swarm(
    keypair: Keypair,
    behaviour: Behaviour,
    handshake_timeout: Duration,
) -> Result<Swarm<Behaviour>, BuildError> {
    let failed = |error: &dyn std::fmt::Display| BuildError::Transport(error.to_string());
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            (noise::Config::new, tls::Config::new),
            || {
                let mut config = yamux::Config::default();
                config.set_max_num_streams(STREAMS_PER_CONNECTION);
                config
            },
        )
        .map_err(|error| failed(&error))?
        .with_other_transport(|keypair| {
            let mut config = quic::Config::new(keypair);
            config.handshake_timeout = handshake_timeout;
            config.max_idle_timeout = QUIC_IDLE.as_millis() as u32;
            config.keep_alive_interval = QUIC_KEEP_ALIVE;
            config.max_concurrent_stream_limit = STREAMS_PER_CONNECTION as u32;
            config.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
            config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
            Later::new(quic::tokio::Transport::new(config), QUIC_PAUSE)
        })
        .map_err(|error| failed(&error))?
        .with_behaviour(|_| behaviour)
        .map_err(|error| failed(&error))?
        .with_swarm_config(|config| {
            config
                // Only connections that no door holds are ever idle.
                .with_idle_connection_timeout(handshake_timeout)
                .with_max_negotiating_inbound_streams(16)
                .with_per_connection_event_buffer_size(8)
        })
        .with_connection_timeout(handshake_timeout)
        .build();
    Ok(swarm)
}
