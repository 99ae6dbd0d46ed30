//! The control socket: any path length, stale sockets, who may connect, and back-pressure.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::admin::types::{
    GetRequest, Kind, LinkRequest, PutRequest, QuotaInfo, SetQuota, Status,
};
use cairnfs::admin::{
    AdminError, Backend, ByteStream, Client, ConnectError, DirLock, Exit, SOCKET_NAME, serve,
};
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::fake::Fake;
use super::fake_peer::FakePeer;

fn body(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> ByteStream {
    stream::iter(pieces).map(Ok).boxed()
}

#[test]
fn a_path_of_200_characters_works() {
    let peer = FakePeer::start_in(&format!("{}/{}", "a".repeat(100), "b".repeat(100)));
    assert!(peer.data_dir.as_os_str().len() > 200);
    let status = peer.block_on(async {
        let client = Client::connect(&peer.data_dir).await.unwrap();
        client.status().await.unwrap()
    });
    assert_eq!(status.peer, "12D3KooWfake");
    let mode = |name: &str| {
        let meta = peer.data_dir.join(name).symlink_metadata().unwrap();
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode(SOCKET_NAME), 0o600);
    assert_eq!(mode(""), 0o700);
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let connect = || async { Client::connect(dir.path()).await.map(drop) };
    assert!(matches!(connect().await, Err(ConnectError::NoPeer)));
    // A listener that is dropped leaves its file, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
    assert!(dir.path().join(SOCKET_NAME).exists());
    assert!(matches!(connect().await, Err(ConnectError::NoPeer)));
    let lock = DirLock::acquire(dir.path()).unwrap();
    let server = serve(&lock, Arc::new(Fake::default())).unwrap();
    connect().await.unwrap();
    server.stop(Duration::from_secs(5)).await;
    assert!(!dir.path().join(SOCKET_NAME).exists());
    assert!(matches!(connect().await, Err(ConnectError::NoPeer)));
}

#[tokio::test]
async fn a_process_that_never_answers_is_told_from_none() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let closing = tokio::spawn(async move { listener.accept().await.map(drop) });
    let silent = Client::connect(dir.path()).await.map(drop);
    assert!(matches!(silent, Err(ConnectError::Silent(_))), "{silent:?}");
    closing.await.unwrap().unwrap();
}

/// Reads a request on `stream`: its method and path, or none at the end of the stream.
async fn asked(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split_once("content-length: ");
    let length = length.and_then(|(_, rest)| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    let (line, _) = head.split_once(" http/1.1").unwrap();
    Some(line.to_owned())
}

async fn answer(stream: &mut UnixStream, value: &impl serde::Serialize) {
    let body = serde_json::to_string(value).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.unwrap();
}

/// A peer lets go of a connection on which nothing was asked for a while: the next call is made on
/// another. One that may have arrived is not made again.
#[tokio::test]
async fn a_connection_that_the_peer_let_go_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let peer = tokio::spawn(async move {
        let mut lines = Vec::new();
        // How many calls are answered on each connection before it is closed.
        for answered in [1, 2, 1, 0] {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..answered {
                let line = asked(&mut stream).await.unwrap();
                if line.contains("hello") {
                    let hello = serde_json::json!({"version": "1", "pid": 1});
                    answer(&mut stream, &hello).await;
                } else if line.contains("quota") {
                    answer(&mut stream, &QuotaInfo::default()).await;
                } else {
                    answer(&mut stream, &Status::default()).await;
                }
                lines.push(line);
            }
            if answered == 0 {
                lines.extend(asked(&mut stream).await);
            }
        }
        let further = tokio::time::timeout(Duration::from_millis(300), listener.accept());
        assert!(further.await.is_err(), "a call was made twice");
        lines
    });
    // Long enough to see that the connection is gone.
    let rest = || tokio::time::sleep(Duration::from_millis(50));
    let client = Client::connect(dir.path()).await.unwrap();
    rest().await;
    client.status().await.unwrap();
    client.status().await.unwrap();
    rest().await;
    // Also one with a body.
    let quota = SetQuota { quota_bytes: None };
    client.set_quota(quota).await.unwrap();
    rest().await;
    let broken = client.status().await.unwrap_err();
    assert!(broken.error.contains("broke"), "{broken:?}");
    assert_eq!(
        peer.await.unwrap(),
        [
            "get /v1/hello",
            "get /v1/status",
            "get /v1/status",
            "put /v1/quota",
            "get /v1/status"
        ]
    );
}

#[tokio::test]
async fn a_server_that_ends_waits_for_its_clients() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let mut server = serve(&lock, Arc::new(Fake::default())).unwrap();
    let client = Client::connect(dir.path()).await.unwrap();
    let ended = tokio::spawn(async move { server.finish().await });
    while dir.path().join(SOCKET_NAME).exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Greeted before the end began: everything it asks is still answered.
    let put = client
        .put(PutRequest::default(), body(std::iter::once("x".into())))
        .await
        .unwrap();
    client.status().await.unwrap();
    assert!(put.link.starts_with("cairn:"));
    // Also what goes on a connection of its own.
    let file = tempfile::tempfile().unwrap();
    let put = client.put_file(PutRequest::default(), file.into()).await;
    assert!(put.unwrap().link.starts_with("cairn:"));
    assert!(!ended.is_finished());
    drop(client);
    ended.await.unwrap();
}

#[tokio::test]
async fn a_client_can_ask_the_process_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let server = serve(&lock, Arc::new(Fake::default())).unwrap();
    let client = Client::connect(dir.path()).await.unwrap();
    let waiting = server.shutdown_requested();
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    client.shutdown().await.unwrap();
    waiting.await;
}

#[tokio::test]
async fn errors_cross_the_socket_whole() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let fake = Arc::new(Fake::default());
    let _server = serve(&lock, Arc::clone(&fake) as Arc<dyn Backend>).unwrap();
    let client = Client::connect(dir.path()).await.unwrap();
    let request = GetRequest {
        link: "cairn:?&%ä".to_owned(),
        ..GetRequest::default()
    };
    let error = client.get(request).await.err().unwrap();
    assert_eq!(error.error, "`cairn:?&%ä` is nowhere");
    assert_eq!((error.class, error.exit_code), (Exit::Missing, 3));
    assert_eq!(error.hint.as_deref(), Some("look again"));
    // A call is possible after one that failed, on the same connection.
    let stat = LinkRequest {
        link: "cairn:x".to_owned(),
    };
    assert_eq!(client.stat(stat).await.unwrap().blocks, 3);
}

#[tokio::test]
async fn a_refusal_reaches_a_sender_in_the_middle_of_its_upload() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let fake = Arc::new(Fake::default());
    let _server = serve(&lock, Arc::clone(&fake) as Arc<dyn Backend>).unwrap();
    for _ in 0..20 {
        *fake.refusal.lock().unwrap() = Some(AdminError::refused("all peers are full"));
        let client = Client::connect(dir.path()).await.unwrap();
        let endless = body(std::iter::repeat(Bytes::from_static(&[7; 64 << 10])));
        let error = client.put(PutRequest::default(), endless).await;
        assert_eq!(
            error.unwrap_err(),
            AdminError::refused("all peers are full")
        );
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_an_error_for_the_peer() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let fake = Arc::new(Fake::default());
    let _server = serve(&lock, Arc::clone(&fake) as Arc<dyn Backend>).unwrap();
    let client = Client::connect(dir.path()).await.unwrap();
    let pieces = [
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("the file is gone")),
    ];
    let broken = client.put(PutRequest::default(), stream::iter(pieces).boxed());
    broken.await.unwrap_err();
    drop(client);
    // As when the whole command is killed.
    let client = Client::connect(dir.path()).await.unwrap();
    let hanging = stream::iter([Ok("half".into())]).chain(stream::pending());
    let request = client.put(PutRequest::default(), hanging.boxed());
    let cut = tokio::time::timeout(Duration::from_millis(100), request).await;
    assert!(cut.is_err());
    drop(client);
    assert!(fake.stored.lock().unwrap().is_empty());
}

#[tokio::test]
async fn memory_stays_small_when_the_other_end_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let fake = Arc::new(Fake::default());
    let _server = serve(&lock, Arc::clone(&fake) as Arc<dyn Backend>).unwrap();

    // Pieces handed to the connection while nobody takes the download.
    let piece = Bytes::from(vec![1u8; 256 << 10]);
    fake.offer_raw("cairn:big", Kind::File, vec![piece.clone(); 400], false);
    let client = Client::connect(dir.path()).await.unwrap();
    let request = GetRequest {
        link: "cairn:big".to_owned(),
        ..GetRequest::default()
    };
    let mut download = client.get(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut total = 0;
    while let Some(piece) = download.body.next().await {
        total += piece.unwrap().len();
    }
    assert_eq!(total, 400 * piece.len());

    // Pieces taken from the sender while the peer takes none.
    struct Stuck(AtomicUsize);
    let stuck = Arc::new(Stuck(AtomicUsize::new(0)));
    let taken = Arc::clone(&stuck);
    let endless = stream::repeat_with(move || {
        taken.0.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from_static(&[7; 64 << 10]))
    });
    let other = tempfile::tempdir().unwrap();
    let other_lock = DirLock::acquire(other.path()).unwrap();
    let _server = serve(&other_lock, Arc::new(NeverReads)).unwrap();
    let client = Client::connect(other.path()).await.unwrap();
    let put = client.put(PutRequest::default(), endless.boxed());
    let cut = tokio::time::timeout(Duration::from_millis(300), put).await;
    assert!(cut.is_err());
    let taken = stuck.0.load(Ordering::SeqCst);
    assert!(taken * (64 << 10) < 8 << 20, "{taken} pieces were taken");
}

/// A peer that takes an upload and never looks at it.
struct NeverReads;

macro_rules! unreachable_calls {
    ($($name:ident($($request:ty)?) -> $answer:ty;)*) => {
        $(fn $name(&self $(, _: $request)?) -> cairnfs::admin::Answer<'_, $answer> {
            unreachable!("not called by this test")
        })*
    };
}

impl Backend for NeverReads {
    fn put(
        &self,
        _: PutRequest,
        body: ByteStream,
    ) -> cairnfs::admin::Answer<'_, cairnfs::admin::types::PutResult> {
        Box::pin(async move {
            let _kept = body;
            std::future::pending().await
        })
    }
    unreachable_calls! {
        status() -> cairnfs::admin::types::Status;
        peers() -> Vec<cairnfs::admin::types::PeerInfo>;
        quota() -> cairnfs::admin::types::QuotaInfo;
        set_quota(cairnfs::admin::types::SetQuota) -> cairnfs::admin::types::QuotaInfo;
        set_worker(cairnfs::admin::types::WorkerChange) -> Vec<cairnfs::admin::types::WorkerStatus>;
        repairs() -> cairnfs::admin::types::Repairs;
        invite(cairnfs::admin::types::InviteRequest) -> cairnfs::admin::types::Invited;
        join(cairnfs::admin::types::JoinRequest) -> cairnfs::admin::types::Joined;
        get(GetRequest) -> cairnfs::admin::Download;
        ls(cairnfs::admin::types::LsRequest) -> cairnfs::admin::ItemStream<cairnfs::admin::types::LsEntry>;
        stat(LinkRequest) -> cairnfs::admin::types::Stat;
        stat_path(cairnfs::admin::types::PathRequest) -> cairnfs::admin::types::PathStat;
        path_policy(cairnfs::admin::types::PathRequest) -> cairnfs::admin::types::PathPolicy;
        list() -> cairnfs::admin::ItemStream<cairnfs::admin::types::Listed>;
        key_export(cairnfs::admin::types::KeyExportRequest) -> cairnfs::admin::types::KeyExported;
        volumes() -> Vec<cairnfs::admin::types::VolumeInfo>;
        volume_create(cairnfs::admin::types::VolumeCreate) -> cairnfs::admin::types::VolumeInfo;
        volume_remove(cairnfs::admin::types::VolumeRemove) -> cairnfs::admin::types::VolumeInfo;
        volume_ticket(cairnfs::admin::types::VolumeTicketRequest) -> cairnfs::admin::types::VolumeInvited;
        volume_open(cairnfs::admin::types::VolumeOpen) -> cairnfs::admin::types::VolumeOpened;
        volume_members(cairnfs::admin::types::VolumeMembersRequest) -> cairnfs::admin::types::VolumeMembers;
        volume_voters(cairnfs::admin::types::VolumeVotersRequest) -> cairnfs::admin::types::VolumeVoters;
        volume_revoke(cairnfs::admin::types::VolumeRevoke) -> cairnfs::admin::types::VolumeRevoked;
        mount(cairnfs::admin::types::MountRequest) -> cairnfs::admin::types::Mounted;
        umount(cairnfs::admin::types::UmountRequest) -> cairnfs::admin::types::Mounted;
        sync(cairnfs::admin::types::SyncRequest) -> cairnfs::admin::ItemStream<cairnfs::admin::types::SyncProgress>;
        conflicts(cairnfs::admin::types::ConflictsRequest) -> cairnfs::admin::ItemStream<cairnfs::admin::types::ConflictInfo>;
        conflict_resolve(cairnfs::admin::types::ConflictResolve) -> cairnfs::admin::types::ConflictResolved;
    }
}
