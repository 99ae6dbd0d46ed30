//! The server's side: routes, and a listener that ends without losing a client.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::attach;
use super::backend::{Backend, Download};
use super::error::AdminError;
use super::lock::DirLock;
use super::socket;
use super::types::{
    ConflictResolve, ConflictsRequest, DrainChange, GcRequest, GetRequest, Hello, InviteRequest,
    JoinRequest, KeyExportRequest, Line, LinkRequest, LsRequest, MountRequest, PathRequest,
    PutRequest, RemoveRequest, RenewRequest, RestoreRequest, SetQuota, SnapshotCreate,
    SnapshotRemove, SnapshotRestore, SnapshotsRequest, SyncRequest, UmountRequest, VolumeCreate,
    VolumeMembersRequest, VolumeOpen, VolumeRemove, VolumeRevoke, VolumeTicketRequest,
    VolumeVotersRequest, WorkerChange,
};

/// Header with the [`super::types::GetHead`] of a download.
pub(super) const HEAD_HEADER: &str = "cairn-head";

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;
/// Pieces of an upload between the socket and the backend.
const UPLOAD_QUEUE: usize = 4;
/// How long the rest of a refused upload is read and thrown away, so that its sender gets to
/// the answer.
const DISCARD_TIME: Duration = Duration::from_secs(10);
/// How long an ending server takes connections that were made just before its socket went.
const LAST_CALL: Duration = Duration::from_millis(20);
/// Items of a listing that go into one piece of its body.
const LINES_PER_PIECE: usize = 64;
/// How long the head of a request may take, from when the connection or the answer before it was
/// done: one on which nothing is asked is closed after it, and clients make another.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the routes share.
#[derive(Clone)]
struct Shared {
    backend: Arc<dyn Backend>,
    shutdown: watch::Sender<bool>,
}

/// A control API that is being served.
pub struct AdminServer {
    ending: watch::Sender<bool>,
    shutdown: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Serves `backend` in the directory of `lock`.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve(lock: &DirLock, backend: Arc<dyn Backend>) -> io::Result<AdminServer> {
    let dir = lock.dir().to_owned();
    let listener = socket::listen_in(&dir)?;
    let (shutdown_tx, shutdown) = watch::channel(false);
    let (ending, ending_rx) = watch::channel(false);
    let shared = Shared {
        backend,
        shutdown: shutdown_tx,
    };
    let task = tokio::spawn(accept(dir, listener, router(shared), ending_rx));
    Ok(AdminServer {
        ending,
        shutdown,
        task,
    })
}

impl AdminServer {
    /// Waits until a client asks the process to stop.
    pub async fn shutdown_requested(&self) {
        let mut shutdown = self.shutdown.clone();
        // The sender lives as long as the server does; without it nobody can ask any more.
        if shutdown.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes no new clients, and waits until those that are connected have gone.
    ///
    /// Cancel safe: dropping the future leaves the server ending by itself.
    pub async fn finish(&mut self) {
        self.ending.send_replace(true);
        // A panic of the listener ends it as well.
        let _ = (&mut self.task).await;
    }

    /// As [`AdminServer::finish`], but breaks off the clients that are left after `grace`.
    pub async fn stop(mut self, grace: Duration) {
        if tokio::time::timeout(grace, self.finish()).await.is_err() {
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    dir: PathBuf,
    listener: UnixListener,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let own_user = rustix::process::geteuid().as_raw();
    let mut connections = JoinSet::new();
    let mut is_ending = false;
    loop {
        tokio::select! {
            biased;
            is_owned = async { ending.wait_for(|ending| *ending).await.is_ok() }, if !is_ending => {
                is_ending = true;
                if let Err(error) = socket::remove_in(&dir) {
                    tracing::warn!(%error, "the control socket was not removed");
                }
                if !is_owned {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                match accepted {
                    Ok((stream, _)) if is_own(&stream, own_user) => {
                        connections.spawn(connection(stream, router.clone()));
                    }
                    Ok(_) => tracing::warn!("a control connection of another user was refused"),
                    // Out of descriptors, most likely: give others time to close some.
                    Err(error) => {
                        tracing::warn!(%error, "a control connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            () = tokio::time::sleep(LAST_CALL), if is_ending && connections.is_empty() => return,
        }
    }
}

/// Whether the other end belongs to this user or to root.
fn is_own(stream: &UnixStream, own_user: u32) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own_user || peer.uid() == 0)
}

/// The file that came with a connection, until a call takes it.
type Attached = Arc<Mutex<Option<OwnedFd>>>;

async fn connection(stream: UnixStream, router: Router) {
    let attached = tokio::time::timeout(HEAD_TIMEOUT, attach::receive(&stream)).await;
    let attached: Attached = match attached {
        Ok(Ok(file)) => Arc::new(Mutex::new(file)),
        Ok(Err(error)) => return tracing::debug!(%error, "a control connection broke"),
        Err(_) => return,
    };
    let router = router.layer(Extension(attached));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a control connection broke");
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/shutdown", post(shutdown))
        .route(
            "/v1/status",
            get(|State(s): State<Shared>| async move { json(s.backend.status().await) }),
        )
        .route(
            "/v1/peers",
            get(|State(s): State<Shared>| async move { json(s.backend.peers().await) }),
        )
        .route(
            "/v1/quota",
            get(|State(s): State<Shared>| async move { json(s.backend.quota().await) })
                .put(set_quota),
        )
        .route("/v1/workers", post(set_worker))
        .route(
            "/v1/repairs",
            get(|State(s): State<Shared>| async move { json(s.backend.repairs().await) }),
        )
        .route("/v1/invite", post(invite))
        .route("/v1/join", post(join))
        .route("/v1/put", post(put))
        .route("/v1/get", get(download))
        .route("/v1/ls", get(ls))
        .route("/v1/stat", get(stat))
        .route("/v1/stat/path", get(stat_path))
        .route("/v1/redundancy", get(path_policy))
        .route("/v1/list", get(list))
        .route("/v1/key/export", post(key_export))
        .route(
            "/v1/volumes",
            get(|State(s): State<Shared>| async move { json(s.backend.volumes().await) }),
        )
        .route("/v1/volumes/create", post(volume_create))
        .route("/v1/volumes/remove", post(volume_remove))
        .route("/v1/volumes/ticket", post(volume_ticket))
        .route("/v1/volumes/open", post(volume_open))
        .route("/v1/volumes/members", get(volume_members))
        .route("/v1/volumes/snapshot", post(snapshot_create))
        .route("/v1/volumes/snapshot/remove", post(snapshot_remove))
        .route("/v1/volumes/snapshots", get(snapshots))
        .route("/v1/volumes/restore", get(snapshot_restore))
        .route(
            "/v1/trash",
            get(|State(s): State<Shared>| async move { json(s.backend.trash().await) }),
        )
        .route(
            "/v1/trash/empty",
            post(|State(s): State<Shared>| async move { json(s.backend.empty_trash().await) }),
        )
        .route("/v1/drain", get(drain).post(set_drain))
        .route("/v1/trash/restore", post(trash_restore))
        .route("/v1/remove", post(remove))
        .route("/v1/renew", post(renew))
        .route("/v1/volumes/gc", post(gc))
        .route("/v1/volumes/voters", post(volume_voters))
        .route("/v1/volumes/revoke", post(volume_revoke))
        .route("/v1/mount", post(mount))
        .route("/v1/umount", post(umount))
        .route("/v1/sync", get(sync))
        .route("/v1/conflicts", get(conflicts))
        .route("/v1/conflicts/resolve", post(conflict_resolve))
        .fallback(|| async {
            AdminError::usage("no such call: the peer is of another version")
                .hint("restart the running peer with this program")
        })
        .with_state(shared)
}

type Reply = Result<Response, AdminError>;

fn json<T: Serialize>(answer: Result<T, AdminError>) -> Reply {
    answer.map(|value| axum::Json(value).into_response())
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|error| AdminError::usage(format!("bad request: {error}")))
}

fn query<T>(
    query: Result<Query<T>, axum::extract::rejection::QueryRejection>,
) -> Result<T, AdminError> {
    query
        .map(|Query(value)| value)
        .map_err(|error| AdminError::usage(format!("bad request: {error}")))
}

type QueryOf<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn hello() -> Reply {
    json(Ok(Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    }))
}

async fn shutdown(State(shared): State<Shared>) -> Reply {
    shared.shutdown.send_replace(true);
    json(Ok(serde_json::json!({})))
}

async fn set_quota(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(shared.backend.set_quota(parse::<SetQuota>(&body)?).await)
}

async fn set_worker(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(
        shared
            .backend
            .set_worker(parse::<WorkerChange>(&body)?)
            .await,
    )
}

async fn invite(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(shared.backend.invite(parse::<InviteRequest>(&body)?).await)
}

async fn join(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(shared.backend.join(parse::<JoinRequest>(&body)?).await)
}

async fn key_export(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(
        shared
            .backend
            .key_export(parse::<KeyExportRequest>(&body)?)
            .await,
    )
}

async fn volume_create(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<VolumeCreate>(&body)?;
    json(shared.backend.volume_create(request).await)
}

async fn volume_remove(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<VolumeRemove>(&body)?;
    json(shared.backend.volume_remove(request).await)
}

async fn volume_ticket(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<VolumeTicketRequest>(&body)?;
    json(shared.backend.volume_ticket(request).await)
}

async fn volume_open(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(
        shared
            .backend
            .volume_open(parse::<VolumeOpen>(&body)?)
            .await,
    )
}

async fn volume_members(
    State(shared): State<Shared>,
    request: QueryOf<VolumeMembersRequest>,
) -> Reply {
    json(shared.backend.volume_members(query(request)?).await)
}

async fn snapshot_create(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<SnapshotCreate>(&body)?;
    json(shared.backend.snapshot_create(request).await)
}

async fn snapshot_remove(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<SnapshotRemove>(&body)?;
    json(shared.backend.snapshot_remove(request).await)
}

async fn snapshots(State(shared): State<Shared>, request: QueryOf<SnapshotsRequest>) -> Reply {
    json(shared.backend.snapshots(query(request)?).await)
}

async fn snapshot_restore(
    State(shared): State<Shared>,
    request: QueryOf<SnapshotRestore>,
) -> Reply {
    let restored = shared.backend.snapshot_restore(query(request)?).await?;
    Ok(lines(restored))
}

async fn drain(State(shared): State<Shared>) -> Reply {
    json(shared.backend.drain().await)
}

async fn set_drain(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<DrainChange>(&body)?;
    json(shared.backend.set_drain(request).await)
}

async fn remove(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<RemoveRequest>(&body)?;
    json(shared.backend.remove(request).await)
}

async fn renew(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<RenewRequest>(&body)?;
    json(shared.backend.renew(request).await)
}

async fn trash_restore(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<RestoreRequest>(&body)?;
    json(shared.backend.restore_trash(request).await)
}

async fn gc(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<GcRequest>(&body)?;
    json(shared.backend.gc(request).await)
}

async fn volume_voters(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<VolumeVotersRequest>(&body)?;
    json(shared.backend.volume_voters(request).await)
}

async fn volume_revoke(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<VolumeRevoke>(&body)?;
    json(shared.backend.volume_revoke(request).await)
}

async fn mount(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(shared.backend.mount(parse::<MountRequest>(&body)?).await)
}

async fn umount(State(shared): State<Shared>, body: Bytes) -> Reply {
    json(shared.backend.umount(parse::<UmountRequest>(&body)?).await)
}

async fn sync(State(shared): State<Shared>, request: QueryOf<SyncRequest>) -> Reply {
    Ok(lines(shared.backend.sync(query(request)?).await?))
}

async fn conflicts(State(shared): State<Shared>, request: QueryOf<ConflictsRequest>) -> Reply {
    Ok(lines(shared.backend.conflicts(query(request)?).await?))
}

async fn conflict_resolve(State(shared): State<Shared>, body: Bytes) -> Reply {
    let request = parse::<ConflictResolve>(&body)?;
    json(shared.backend.conflict_resolve(request).await)
}

async fn stat_path(State(shared): State<Shared>, request: QueryOf<PathRequest>) -> Reply {
    json(shared.backend.stat_path(query(request)?).await)
}

async fn path_policy(State(shared): State<Shared>, request: QueryOf<PathRequest>) -> Reply {
    json(shared.backend.path_policy(query(request)?).await)
}

async fn stat(State(shared): State<Shared>, request: QueryOf<LinkRequest>) -> Reply {
    json(shared.backend.stat(query(request)?).await)
}

async fn ls(State(shared): State<Shared>, request: QueryOf<LsRequest>) -> Reply {
    let entries = shared.backend.ls(query(request)?).await?;
    Ok(lines(entries))
}

async fn list(State(shared): State<Shared>) -> Reply {
    Ok(lines(shared.backend.list().await?))
}

/// One JSON [`Line`] after the other; an error is the last.
fn lines<T: Serialize + Send + 'static>(
    items: impl Stream<Item = Result<T, AdminError>> + Send + 'static,
) -> Response {
    let lines = items.ready_chunks(LINES_PER_PIECE).map(|items| {
        let mut piece = Vec::new();
        for item in items {
            let line = match item {
                Ok(item) => Line::Item(item),
                Err(error) => Line::Failed(error),
            };
            serde_json::to_writer(&mut piece, &line)?;
            piece.push(b'\n');
        }
        Ok::<_, serde_json::Error>(piece)
    });
    Body::from_stream(lines).into_response()
}

fn take(attached: &Attached) -> Option<OwnedFd> {
    attached
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

async fn put(
    State(shared): State<Shared>,
    Extension(attached): Extension<Attached>,
    request: QueryOf<PutRequest>,
    body: Body,
) -> Reply {
    let request = query(request)?;
    if let Some(file) = take(&attached) {
        return json(shared.backend.put_file(request, file).await);
    }
    let (pieces, received) = mpsc::channel(UPLOAD_QUEUE);
    tokio::spawn(pump(body, pieces));
    let received = futures::stream::unfold(received, |mut received| async {
        received.recv().await.map(|piece| (piece, received))
    });
    json(shared.backend.put(request, Box::pin(received)).await)
}

/// Hands an upload on. When nobody takes it any more, the rest is thrown away for a while: a
/// sender that is cut off in the middle would see a broken pipe instead of the answer.
async fn pump(body: Body, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let mut body = body.into_data_stream();
    while let Some(piece) = body.next().await {
        let is_broken = piece.is_err();
        if pieces.send(piece.map_err(io::Error::other)).await.is_err() {
            break;
        }
        if is_broken {
            return;
        }
    }
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    // Either way there is nothing left to do for it.
    let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
}

async fn download(
    State(shared): State<Shared>,
    Extension(attached): Extension<Attached>,
    request: QueryOf<GetRequest>,
) -> Reply {
    let request = query(request)?;
    let Download { head, body } = match take(&attached) {
        Some(file) => shared.backend.get_into(request, file).await?,
        None => shared.backend.get(request).await?,
    };
    let head = serde_json::to_string(&head)
        .map_err(|error| AdminError::failed(format!("the answer has no form: {error}")))?;
    Ok(([(HEAD_HEADER, head)], Body::from_stream(body)).into_response())
}
