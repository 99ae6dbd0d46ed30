//! What taking a connection over from its session must leave as it was, and what ends it.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::crypto::SigningKey;
use crate::net::swarm::tls::PeerTls;

type Session = TlsStream<ByRecord<DuplexStream>>;
type Taken = Records<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

/// Two ends of a connection after the handshake; the client has said `greeting` right behind it.
async fn sessions(room: usize, greeting: &[u8]) -> [Session; 2] {
    let keys = [1, 2].map(|byte| SigningKey::from_secret(&[byte; 32]));
    let [client, server] = keys
        .each_ref()
        .map(|key| PeerTls::new(key, b"test").unwrap());
    let (near, far) = tokio::io::duplex(room);
    let accepting = async {
        let acceptor = TlsAcceptor::from(Arc::new(server.server().unwrap()));
        acceptor.accept(ByRecord::new(far)).await.unwrap()
    };
    let connecting = async {
        let config = client.client(keys[1].peer()).unwrap();
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, ByRecord::new(near)).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let (accepted, connected) = tokio::join!(accepting, connecting);
    [TlsStream::Client(connected), TlsStream::Server(accepted)]
}

fn taken(session: Session) -> Taken {
    take_over(session, tokio::io::split).unwrap()
}

/// Sends these portions from one end to the other, and ends.
async fn carry<R, W>(mut reader: R, mut writer: W, portions: &[usize])
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let text = |number: usize, len: usize| -> Vec<u8> {
        (0..len).map(|at| (at * 31 + number * 7) as u8).collect()
    };
    let portions: Vec<Vec<u8>> = portions
        .iter()
        .enumerate()
        .map(|(n, len)| text(n, *len))
        .collect();
    let sending = async {
        for portion in &portions {
            let (a, b) = portion.split_at(portion.len() / 7);
            let mut both = bytes::Buf::chain(a, b);
            writer.write_all_buf(&mut both).await.unwrap();
            writer.flush().await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        all
    };
    let (received, ()) = tokio::join!(receiving, sending);
    assert!(received == portions.concat());
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(task)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whether both ends or one of them took the connection over, everything comes as it was sent.
    #[test]
    fn all_is_carried(
        portions in proptest::collection::vec(
            prop_oneof![0..40usize, 16_300..16_500usize, 0..700_000usize], 0..6),
        room in prop_oneof![1..50usize, 4_000..300_000usize],
        who in 0..3,
        is_upwards: bool,
    ) {
        let greeting: &[u8] = b"what was said before";
        block_on(async {
            // A tiny room would make the large portions slow.
            let room = room.max(portions.iter().sum::<usize>() / 2_000);
            let [mut client, mut server] = sessions(room.max(8 << 10), greeting).await;
            let mut greeted = vec![0; greeting.len()];
            server.read_exact(&mut greeted).await.unwrap();
            assert_eq!(greeted, greeting);
            if is_upwards {
                std::mem::swap(&mut client, &mut server);
            }
            // From the first to the second.
            match who {
                0 => {
                    let (writer, reader) = (taken(client), taken(server));
                    carry(reader.reader, writer.writer, &portions).await;
                }
                1 => {
                    let writer = taken(client);
                    carry(server, writer.writer, &portions).await;
                }
                _ => {
                    let reader = taken(server);
                    carry(reader.reader, client, &portions).await;
                }
            }
        });
    }
}

#[test]
fn what_was_opened_and_what_was_not_are_both_found() {
    block_on(async {
        let [mut client, mut server] = sessions(1 << 16, b"first, second").await;
        client.write_all(&[5; 40_000]).await.unwrap();
        client.flush().await.unwrap();
        let mut first = [0; 5];
        server.read_exact(&mut first).await.unwrap();
        let mut records = taken(server);
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        records.reader.read_to_end(&mut rest).await.unwrap();
        assert_eq!(&first, b"first");
        assert_eq!(&rest[..8], b", second");
        assert!(rest[8..] == [5; 40_000]);
    });
}

/// A reader of bytes from somebody who has the keys.
async fn told(tell: impl FnOnce(&mut RecordKey, &mut Vec<u8>)) -> io::Result<Vec<u8>> {
    let [client, server] = sessions(1 << 20, b"").await;
    let mut reader = taken(server).reader;
    let RecordWriter {
        mut stream,
        mut key,
        ..
    } = taken(client).writer;
    let mut sealed = Vec::new();
    tell(&mut key, &mut sealed);
    stream.write_all(&sealed).await?;
    drop(stream);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await?;
    Ok(all)
}

fn seal(key: &mut RecordKey, content: ContentType, text: &[u8], to: &mut Vec<u8>) {
    let start = to.len();
    to.resize(start + record_len(text.len()), 0);
    key.seal(content, &[text], &mut to[start..]).unwrap();
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    use ContentType::{Alert, Data, Handshake};
    let kind = |outcome: io::Result<Vec<u8>>| outcome.map_err(|error| error.kind());
    block_on(async {
        let good = told(|key, to| {
            seal(key, Data, b"one", to);
            seal(key, Handshake, &[NEW_SESSION_TICKET, 0, 0, 1, 9], to);
            seal(key, Data, b"", to);
            seal(key, Data, b"two", to);
            seal(key, Alert, &[1, CLOSE_NOTIFY], to);
            seal(key, Data, b"three", to);
        });
        assert_eq!(kind(good.await), Ok(b"onetwo".to_vec()));
        let cut = told(|key, to| seal(key, Data, b"one", to));
        assert_eq!(kind(cut.await), Err(io::ErrorKind::UnexpectedEof));
        let middle = told(|key, to| {
            seal(key, Data, &[1; 9000], to);
            to.truncate(8999);
        });
        assert_eq!(kind(middle.await), Err(io::ErrorKind::UnexpectedEof));
        let alert = told(|key, to| seal(key, Alert, &[2, 40], to));
        assert_eq!(kind(alert.await), Err(io::ErrorKind::ConnectionAborted));
        let update = told(|key, to| seal(key, Handshake, &[24, 0, 0, 1, 0], to));
        assert_eq!(kind(update.await), Err(io::ErrorKind::InvalidData));
        let empty = told(|key, to| (0..=EMPTY_MAX).for_each(|_| seal(key, Data, b"", to)));
        assert_eq!(kind(empty.await), Err(io::ErrorKind::InvalidData));
        let plain = told(|_, to| to.extend_from_slice(&[21, 3, 3, 0, 2, 1, 0]));
        assert_eq!(kind(plain.await), Err(io::ErrorKind::InvalidData));
        let large = told(|_, to| to.extend_from_slice(&[23, 3, 3, 255, 255, 0]));
        assert_eq!(kind(large.await), Err(io::ErrorKind::InvalidData));
        let changed = told(|key, to| {
            seal(key, Data, b"one", to);
            to[6] ^= 1;
        });
        assert_eq!(kind(changed.await), Err(io::ErrorKind::InvalidData));
        let swapped = told(|key, to| {
            seal(key, Data, b"one", to);
            let second = to.len();
            seal(key, Data, b"two", to);
            to.rotate_left(second);
        });
        assert_eq!(kind(swapped.await), Err(io::ErrorKind::InvalidData));
    });
}

#[test]
fn a_connection_whose_keys_are_worn_says_so_in_time() {
    block_on(async {
        let [client, _server] = sessions(1 << 20, b"").await;
        let mut records = taken(client);
        records.writer.write_all(b"x").await.unwrap();
        assert!(records.worn.try_recv().is_err());
        records.writer.key = RecordKey::new(&[1; 32], [0; 12], RECORDS_WORN).unwrap();
        records.writer.write_all(b"x").await.unwrap();
        records.worn.try_recv().unwrap();
    });
}
