//! The client's side: a running peer, reached over its socket, as a [`Backend`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot};

use super::attach;
use super::backend::{Answer, Backend, ByteStream, Download, ItemStream};
use super::error::AdminError;
use super::query::to_query;
use super::server::HEAD_HEADER;
use super::socket::Door;
use super::types::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictsRequest, DrainChange, DrainInfo,
    GcReport, GcRequest, GetRequest, Hello, InviteRequest, Invited, JoinRequest, Joined, Kept,
    KeyExportRequest, KeyExported, Line, LinkRequest, Listed, LsEntry, LsRequest, MountRequest,
    Mounted, PathPolicy, PathRequest, PathStat, PeerInfo, PutRequest, PutResult, QuotaInfo,
    RemoveRequest, Removed, RenewRequest, Repairs, RestoreLine, RestoreRequest, Restored, SetQuota,
    SnapshotCreate, SnapshotItem, SnapshotRemove, SnapshotRestore, Snapshots, SnapshotsRequest,
    Stat, Status, SyncProgress, SyncRequest, TrashInfo, UmountRequest, VolumeCreate, VolumeInfo,
    VolumeInvited, VolumeMembers, VolumeMembersRequest, VolumeOpen, VolumeOpened, VolumeRemove,
    VolumeRevoke, VolumeRevoked, VolumeTicketRequest, VolumeVoters, VolumeVotersRequest,
    WorkerChange, WorkerStatus,
};

/// How long a peer may take to greet: it answers that from memory.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read as a whole.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// Longest line of a listing.
const LINE_MAX_BYTES: usize = 1 << 20;

/// Why no peer was reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No process listens there.
    #[error("no peer is running on this data directory")]
    NoPeer,
    /// A process listens and does not answer as a peer does, or is just ending.
    #[error("the running peer does not answer: {0}")]
    Silent(String),
    /// The socket cannot be used.
    #[error("cannot use the control socket: {0}")]
    Io(#[from] io::Error),
}

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A connection to a running peer. One call at a time; a further one waits.
pub struct Client {
    door: Door,
    sender: Mutex<SendRequest<RequestBody>>,
    hello: Hello,
}

impl Client {
    /// Connects to the peer that runs on `data_dir`, and waits for its greeting.
    ///
    /// From then on the peer waits for this client before it ends in good order, as long as the
    /// client asks for something now and then.
    ///
    /// # Errors
    /// If there is none, or it does not answer.
    pub async fn connect(data_dir: &Path) -> Result<Client, ConnectError> {
        let unreached = |error: io::Error| {
            use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
            match error.kind() {
                NotFound | ConnectionRefused | NotADirectory => ConnectError::NoPeer,
                _ => ConnectError::Io(error),
            }
        };
        let door = Door::find(data_dir).map_err(unreached)?;
        let stream = door.connect().await.map_err(unreached)?;
        let silent = |error: &dyn std::fmt::Display| ConnectError::Silent(error.to_string());
        let sender = handshake(stream).await.map_err(|error| silent(&error))?;
        let mut client = Client {
            door,
            sender: Mutex::new(sender),
            hello: Hello {
                version: String::new(),
                pid: 0,
            },
        };
        let hello = client.fetch(Method::GET, "/v1/hello".to_owned(), empty());
        client.hello = tokio::time::timeout(HELLO_TIMEOUT, hello)
            .await
            .map_err(|_| silent(&"it is too busy or stopped"))?
            .map_err(|error| silent(&error))?;
        Ok(client)
    }

    /// What answered.
    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks the process to stop in good order.
    ///
    /// # Errors
    /// If the connection breaks first.
    pub async fn shutdown(&self) -> Result<(), AdminError> {
        let _: serde_json::Value = self
            .fetch(Method::POST, "/v1/shutdown".to_owned(), empty())
            .await?;
        Ok(())
    }

    /// Sends a request; an answer that is an error comes out as one.
    ///
    /// A peer lets go of connections on which nothing was asked for a while. Then the request goes on
    /// a new one, unless some of it may have arrived: it is never carried out twice.
    async fn send(
        &self,
        method: Method,
        path: String,
        body: RequestBody,
    ) -> Result<Response<Incoming>, AdminError> {
        let mut request = request(method, path, body)?;
        let mut may_renew = true;
        loop {
            let mut sender = self.sender.lock().await;
            // Until the answer to the call before was read to its end.
            if let Err(error) = sender.ready().await {
                if !std::mem::take(&mut may_renew) {
                    return Err(broken(&error));
                }
                let stream = self.door.connect().await;
                let stream = stream.map_err(|error| broken(&error))?;
                *sender = handshake(stream).await.map_err(|error| broken(&error))?;
            }
            let sent = sender.try_send_request(request);
            drop(sender);
            let mut failed = match sent.await {
                Ok(response) => return successful(response).await,
                Err(failed) => failed,
            };
            match failed.take_message() {
                Some(unsent) if may_renew => request = unsent,
                _ => return Err(broken(&failed.into_error())),
            }
        }
    }

    /// Sends a request without a body on a connection of its own, with which a file goes.
    async fn send_with(
        &self,
        file: OwnedFd,
        method: Method,
        path: String,
    ) -> Result<Response<Incoming>, AdminError> {
        let request = request(method, path, empty())?;
        let stream = self.door.connect().await;
        let stream = stream.map_err(|error| broken(&error))?;
        let attached = attach::send(&stream, file).await;
        attached.map_err(|error| broken(&error))?;
        let mut sender = handshake(stream).await.map_err(|error| broken(&error))?;
        let sent = sender.send_request(request).await;
        successful(sent.map_err(|error| broken(&error))?).await
    }

    async fn fetch<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: RequestBody,
    ) -> Result<T, AdminError> {
        let response = self.send(method, path, body).await?;
        let body = whole(response.into_body()).await?;
        serde_json::from_slice(&body).map_err(|error| garbled(&error))
    }

    fn ask<T: DeserializeOwned + Send + 'static>(&self, path: impl Into<String>) -> Answer<'_, T> {
        Box::pin(self.fetch(Method::GET, path.into(), empty()))
    }

    fn tell<T: DeserializeOwned + Send + 'static>(
        &self,
        method: Method,
        path: &str,
        value: &impl Serialize,
    ) -> Answer<'_, T> {
        let body = serde_json::to_vec(value);
        let path = path.to_owned();
        Box::pin(async move {
            let body = body.map_err(|error| AdminError::failed(error.to_string()))?;
            let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
            self.fetch(method, path, body.boxed_unsync()).await
        })
    }

    fn items<T: DeserializeOwned + Send + 'static>(
        &self,
        path: String,
    ) -> Answer<'_, ItemStream<T>> {
        Box::pin(async move {
            let response = self.send(Method::GET, path, empty()).await?;
            Ok(lines(response.into_body()))
        })
    }
}

impl Backend for Client {
    fn status(&self) -> Answer<'_, Status> {
        self.ask("/v1/status")
    }

    fn peers(&self) -> Answer<'_, Vec<PeerInfo>> {
        self.ask("/v1/peers")
    }

    fn quota(&self) -> Answer<'_, QuotaInfo> {
        self.ask("/v1/quota")
    }

    fn set_quota(&self, request: SetQuota) -> Answer<'_, QuotaInfo> {
        self.tell(Method::PUT, "/v1/quota", &request)
    }

    fn invite(&self, request: InviteRequest) -> Answer<'_, Invited> {
        self.tell(Method::POST, "/v1/invite", &request)
    }

    fn join(&self, request: JoinRequest) -> Answer<'_, Joined> {
        self.tell(Method::POST, "/v1/join", &request)
    }

    fn put(&self, request: PutRequest, body: ByteStream) -> Answer<'_, PutResult> {
        let path = format!("/v1/put{}", to_query(&request));
        Box::pin(async move {
            let (answered, answer) = oneshot::channel();
            let body = StreamBody::new(until_answered(body, answer).map_ok(Frame::data));
            let body = BodyExt::boxed_unsync(body);
            let response = self.send(Method::POST, path, body).await;
            // The connection would go on sending what nobody wants any more.
            let _ = answered.send(());
            let body = whole(response?.into_body()).await?;
            serde_json::from_slice(&body).map_err(|error| garbled(&error))
        })
    }

    fn put_file(&self, request: PutRequest, file: OwnedFd) -> Answer<'_, PutResult> {
        let path = format!("/v1/put{}", to_query(&request));
        Box::pin(async move {
            let response = self.send_with(file, Method::POST, path).await?;
            let body = whole(response.into_body()).await?;
            serde_json::from_slice(&body).map_err(|error| garbled(&error))
        })
    }

    fn get(&self, request: GetRequest) -> Answer<'_, Download> {
        let path = format!("/v1/get{}", to_query(&request));
        Box::pin(async move { download(self.send(Method::GET, path, empty()).await?) })
    }

    fn get_into(&self, request: GetRequest, file: OwnedFd) -> Answer<'_, Download> {
        let path = format!("/v1/get{}", to_query(&request));
        Box::pin(async move { download(self.send_with(file, Method::GET, path).await?) })
    }

    fn ls(&self, request: LsRequest) -> Answer<'_, ItemStream<LsEntry>> {
        self.items(format!("/v1/ls{}", to_query(&request)))
    }

    fn stat(&self, request: LinkRequest) -> Answer<'_, Stat> {
        self.ask(format!("/v1/stat{}", to_query(&request)))
    }

    fn stat_path(&self, request: PathRequest) -> Answer<'_, PathStat> {
        self.ask(format!("/v1/stat/path{}", to_query(&request)))
    }

    fn path_policy(&self, request: PathRequest) -> Answer<'_, PathPolicy> {
        self.ask(format!("/v1/redundancy{}", to_query(&request)))
    }

    fn list(&self) -> Answer<'_, ItemStream<Listed>> {
        self.items("/v1/list".to_owned())
    }

    fn key_export(&self, request: KeyExportRequest) -> Answer<'_, KeyExported> {
        self.tell(Method::POST, "/v1/key/export", &request)
    }

    fn volumes(&self) -> Answer<'_, Vec<VolumeInfo>> {
        self.ask("/v1/volumes")
    }

    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeInfo> {
        self.tell(Method::POST, "/v1/volumes/create", &request)
    }

    fn volume_remove(&self, request: VolumeRemove) -> Answer<'_, VolumeInfo> {
        self.tell(Method::POST, "/v1/volumes/remove", &request)
    }

    fn volume_ticket(&self, request: VolumeTicketRequest) -> Answer<'_, VolumeInvited> {
        self.tell(Method::POST, "/v1/volumes/ticket", &request)
    }

    fn volume_open(&self, request: VolumeOpen) -> Answer<'_, VolumeOpened> {
        self.tell(Method::POST, "/v1/volumes/open", &request)
    }

    fn volume_members(&self, request: VolumeMembersRequest) -> Answer<'_, VolumeMembers> {
        self.ask(format!("/v1/volumes/members{}", to_query(&request)))
    }

    fn snapshot_create(&self, request: SnapshotCreate) -> Answer<'_, SnapshotItem> {
        self.tell(Method::POST, "/v1/volumes/snapshot", &request)
    }

    fn snapshot_remove(&self, request: SnapshotRemove) -> Answer<'_, SnapshotItem> {
        self.tell(Method::POST, "/v1/volumes/snapshot/remove", &request)
    }

    fn snapshots(&self, request: SnapshotsRequest) -> Answer<'_, Snapshots> {
        self.ask(format!("/v1/volumes/snapshots{}", to_query(&request)))
    }

    fn snapshot_restore(&self, request: SnapshotRestore) -> Answer<'_, ItemStream<RestoreLine>> {
        self.items(format!("/v1/volumes/restore{}", to_query(&request)))
    }

    fn trash(&self) -> Answer<'_, TrashInfo> {
        self.ask("/v1/trash")
    }

    fn remove(&self, request: RemoveRequest) -> Answer<'_, Removed> {
        self.tell(Method::POST, "/v1/remove", &request)
    }

    fn renew(&self, request: RenewRequest) -> Answer<'_, Kept> {
        self.tell(Method::POST, "/v1/renew", &request)
    }

    fn restore_trash(&self, request: RestoreRequest) -> Answer<'_, Restored> {
        self.tell(Method::POST, "/v1/trash/restore", &request)
    }

    fn empty_trash(&self) -> Answer<'_, TrashInfo> {
        self.tell(Method::POST, "/v1/trash/empty", &())
    }

    fn drain(&self) -> Answer<'_, DrainInfo> {
        self.ask("/v1/drain")
    }

    fn set_drain(&self, change: DrainChange) -> Answer<'_, DrainInfo> {
        self.tell(Method::POST, "/v1/drain", &change)
    }

    fn gc(&self, request: GcRequest) -> Answer<'_, GcReport> {
        self.tell(Method::POST, "/v1/volumes/gc", &request)
    }

    fn volume_voters(&self, request: VolumeVotersRequest) -> Answer<'_, VolumeVoters> {
        self.tell(Method::POST, "/v1/volumes/voters", &request)
    }

    fn volume_revoke(&self, request: VolumeRevoke) -> Answer<'_, VolumeRevoked> {
        self.tell(Method::POST, "/v1/volumes/revoke", &request)
    }

    fn mount(&self, request: MountRequest) -> Answer<'_, Mounted> {
        self.tell(Method::POST, "/v1/mount", &request)
    }

    fn umount(&self, request: UmountRequest) -> Answer<'_, Mounted> {
        self.tell(Method::POST, "/v1/umount", &request)
    }

    fn sync(&self, request: SyncRequest) -> Answer<'_, ItemStream<SyncProgress>> {
        self.items(format!("/v1/sync{}", to_query(&request)))
    }

    fn conflicts(&self, request: ConflictsRequest) -> Answer<'_, ItemStream<ConflictInfo>> {
        self.items(format!("/v1/conflicts{}", to_query(&request)))
    }

    fn set_worker(&self, request: WorkerChange) -> Answer<'_, Vec<WorkerStatus>> {
        self.tell(Method::POST, "/v1/workers", &request)
    }

    fn repairs(&self) -> Answer<'_, Repairs> {
        self.ask("/v1/repairs")
    }

    fn conflict_resolve(&self, request: ConflictResolve) -> Answer<'_, ConflictResolved> {
        self.tell(Method::POST, "/v1/conflicts/resolve", &request)
    }
}

/// HTTP on a new connection, which ends when the sender is dropped.
async fn handshake(stream: UnixStream) -> Result<SendRequest<RequestBody>, hyper::Error> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await?;
    // Its errors come out of the calls.
    tokio::spawn(connection.map(drop));
    Ok(sender)
}

fn request(
    method: Method,
    path: String,
    body: RequestBody,
) -> Result<Request<RequestBody>, AdminError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "peer")
        .body(body)
        .map_err(|error| AdminError::failed(format!("bad request: {error}")))
}

/// The response, or the error that it is.
async fn successful(response: Response<Incoming>) -> Result<Response<Incoming>, AdminError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = whole(response.into_body()).await?;
    Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        AdminError::failed(format!("the peer answered {status}: {text}"))
    }))
}

fn download(response: Response<Incoming>) -> Result<Download, AdminError> {
    let head = response
        .headers()
        .get(HEAD_HEADER)
        .ok_or_else(|| garbled(&"no head"))?;
    let head = serde_json::from_slice(head.as_bytes()).map_err(|error| garbled(&error))?;
    let body = response.into_body().into_data_stream();
    Ok(Download {
        head,
        body: Box::pin(body.map_err(io::Error::other)),
    })
}

/// Ends `body` when the answer is there, and breaks it off when nobody waits for the answer.
fn until_answered(
    body: ByteStream,
    answer: oneshot::Receiver<()>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((body, Some(answer)), |(mut body, answer)| async {
        let mut answer = answer?;
        tokio::select! {
            biased;
            answered = &mut answer => match answered {
                Ok(()) => None,
                Err(_) => Some((Err(io::Error::other("the upload was given up")), (body, None))),
            },
            piece = body.next() => piece.map(|piece| (piece, (body, Some(answer)))),
        }
    })
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn broken(error: &dyn std::error::Error) -> AdminError {
    // The outer error only says that something went wrong in HTTP.
    let cause = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    AdminError::failed(format!("the connection to the running peer broke: {cause}"))
        .hint("look at what the peer says, and whether it still runs: cairn status")
}

fn garbled(error: &dyn std::fmt::Display) -> AdminError {
    AdminError::failed(format!("the running peer answered nonsense: {error}"))
        .hint("it may be of another version: restart it with this program")
}

async fn whole(body: Incoming) -> Result<Bytes, AdminError> {
    http_body_util::Limited::new(body, ANSWER_MAX_BYTES)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| broken(error.as_ref()))
}

/// Splits a body into its lines and reads each.
fn lines<T: DeserializeOwned + Send + 'static>(body: Incoming) -> ItemStream<T> {
    struct Reader {
        body: Incoming,
        buffer: BytesMut,
        is_over: bool,
    }
    impl Reader {
        async fn line(&mut self) -> Result<Option<BytesMut>, AdminError> {
            let mut scanned = 0;
            loop {
                let fresh = self.buffer.get(scanned..).unwrap_or_default();
                if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                    return Ok(Some(self.buffer.split_to(scanned + at + 1)));
                }
                scanned = self.buffer.len();
                if scanned > LINE_MAX_BYTES {
                    return Err(garbled(&"a line without an end"));
                }
                match self.body.frame().await {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.buffer.extend_from_slice(&data);
                        }
                    }
                    Some(Err(error)) => return Err(broken(&error)),
                    None if scanned == 0 => return Ok(None),
                    None => return Err(garbled(&"a line without an end")),
                }
            }
        }
    }
    let reader = Reader {
        body,
        buffer: BytesMut::new(),
        is_over: false,
    };
    let items = stream::unfold(reader, |mut reader| async {
        if reader.is_over {
            return None;
        }
        let item = match reader.line().await {
            Ok(None) => return None,
            Ok(Some(line)) => match serde_json::from_slice(&line) {
                Ok(Line::Item(item)) => Ok(item),
                Ok(Line::Failed(error)) => Err(error),
                Err(error) => Err(garbled(&error)),
            },
            Err(error) => Err(error),
        };
        reader.is_over = item.is_err();
        Some((item, reader))
    });
    items.boxed()
}
