//! Our records against those of rustls, in both roles and directions.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, Connection, ServerConnection};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::session::{Session, establish};
use super::*;

fn tls(secret: u8) -> (PeerTls, PeerId) {
    let key = SigningKey::from_secret(&[secret; 32]);
    (PeerTls::new(&key, BULK_PROTOCOL).unwrap(), key.peer())
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// We dial, rustls listens; or the other way round.
async fn mixed_pair(we_dial: bool) -> (Session, TlsStream<TcpStream>) {
    let ((client, client_peer), (server, server_peer)) = (tls(1), tls(2));
    let (dialled, accepted) = sockets().await;
    let client = Arc::new(client.client(server_peer).unwrap());
    let server = Arc::new(server.server().unwrap());
    if we_dial {
        let connection = ClientConnection::new(client, name()).unwrap();
        let (ours, theirs) = tokio::join!(
            establish(dialled, Connection::Client(connection)),
            TlsAcceptor::from(server).accept(accepted),
        );
        let ours = ours.unwrap();
        assert_eq!(ours.peer, server_peer);
        (ours, TlsStream::Server(theirs.unwrap()))
    } else {
        let connection = ServerConnection::new(server).unwrap();
        let (ours, theirs) = tokio::join!(
            establish(accepted, Connection::Server(connection)),
            TlsConnector::from(client).connect(name(), dialled),
        );
        let ours = ours.unwrap();
        assert_eq!(ours.peer, client_peer);
        (ours, TlsStream::Client(theirs.unwrap()))
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn rustls_reads_what_we_write_and_we_read_what_it_writes() {
    for we_dial in [true, false] {
        let (ours, theirs) = mixed_pair(we_dial).await;
        let Session {
            mut opening,
            mut sealing,
            ..
        } = ours;
        let (mut their_reader, mut their_writer) = tokio::io::split(theirs);
        let lengths = [1, 16_383, 16_384, 16_385, 131_072, 3_000_000];
        let we_write = async {
            for len in lengths {
                sealing.write_all(&content(len)).await.unwrap();
                sealing.flush().await.unwrap();
            }
            sealing.shutdown().await.unwrap();
        };
        let they_write = async {
            for len in lengths {
                their_writer.write_all(&content(len)).await.unwrap();
                their_writer.flush().await.unwrap();
            }
            their_writer.shutdown().await.unwrap();
        };
        let all: Vec<u8> = lengths.into_iter().flat_map(content).collect();
        let (mut we_got, mut they_got) = (Vec::new(), Vec::new());
        let we_read = async {
            // In portions of all sizes, and then to the end that the peer announced.
            for len in [1usize, 7, 16_384, 20_000, 500_000] {
                let mut portion = vec![0; len];
                opening.read_exact(&mut portion).await.unwrap();
                we_got.extend_from_slice(&portion);
            }
            opening.read_to_end(&mut we_got).await.unwrap();
        };
        let they_read = their_reader.read_to_end(&mut they_got);
        let ((), (), (), they_read) = tokio::join!(we_write, they_write, we_read, they_read);
        they_read.unwrap();
        assert!(we_got == all && they_got == all);
    }
}

#[tokio::test]
async fn parts_of_any_size_arrive_in_their_order() {
    let (ours, mut theirs) = mixed_pair(true).await;
    let mut sealing = ours.sealing;
    let parts: Vec<Vec<u8>> = [19, 0, 5, 131_072, 19, 4_096, 16_384, 1, 40_000]
        .into_iter()
        .map(content)
        .collect();
    let writing = async {
        let mut rest: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        while !rest.is_empty() {
            let slices: Vec<_> = rest
                .iter()
                .map(|part| std::io::IoSlice::new(part))
                .collect();
            let mut taken = sealing.write_vectored(&slices).await.unwrap();
            while let Some(first) = rest.first_mut() {
                let now = taken.min(first.len());
                *first = &first[now..];
                taken -= now;
                if !first.is_empty() {
                    break;
                }
                rest.remove(0);
            }
        }
        sealing.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(theirs.read_to_end(&mut got), writing);
    read.unwrap();
    assert!(got == parts.concat());
}

#[tokio::test]
async fn an_end_without_farewell_is_an_error() {
    let (ours, theirs) = mixed_pair(true).await;
    let mut opening = ours.opening;
    match theirs {
        TlsStream::Client(stream) => drop(stream.into_inner()),
        TlsStream::Server(stream) => drop(stream.into_inner()),
    }
    let error = opening.read_u8().await.unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::Other);
}

#[tokio::test]
async fn both_ends_export_the_same_and_other_sessions_do_not() {
    let ((client, _), (server, server_peer)) = (tls(1), tls(2));
    let mut bindings = Vec::new();
    for _ in 0..2 {
        let (dialled, accepted) = sockets().await;
        let config = Arc::new(client.client(server_peer).unwrap());
        let dialling = ClientConnection::new(config, name()).unwrap();
        let accepting = ServerConnection::new(Arc::new(server.server().unwrap())).unwrap();
        let (dialled, accepted) = tokio::join!(
            establish(dialled, Connection::Client(dialling)),
            establish(accepted, Connection::Server(accepting)),
        );
        let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(dialled.binding, accepted.binding);
        bindings.push(dialled.binding);
    }
    assert_ne!(bindings[0], bindings[1]);
}
