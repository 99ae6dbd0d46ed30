//! A peer without a network: it keeps the frames of each put and gives them back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use cairnfs::admin::types::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictsRequest, GetHead, GetRequest,
    InviteRequest, Invited, JoinRequest, Joined, KeyExportRequest, KeyExported, Kind, LinkRequest,
    Listed, LsEntry, LsRequest, MountRequest, Mounted, PathPolicy, PathRequest, PathStat, PeerInfo,
    PutRequest, PutResult, QuotaInfo, Repairs, SetQuota, Stat, Status, SyncProgress, SyncRequest,
    UmountRequest, VolumeCreate, VolumeInfo, VolumeInvited, VolumeMembers, VolumeMembersRequest,
    VolumeOpen, VolumeOpened, VolumeRemove, VolumeRevoke, VolumeRevoked, VolumeShare,
    VolumeTicketRequest, VolumeUsage, WorkerChange, WorkerStatus,
};
use cairnfs::admin::{AdminError, Answer, Backend, ByteStream, Download, ItemStream};
use cairnfs::content::{Frame, FrameDecoder, FrameEncoder};
use futures::{FutureExt, StreamExt, stream};

use super::answers;

/// What was put, or is to be got.
#[derive(Clone, Default)]
pub struct Stored {
    pub request: PutRequest,
    pub body: Vec<Bytes>,
    /// Whether the body stays open after its last piece, as if the rest were slow.
    pub hangs: bool,
}

/// A peer that answers from memory.
#[derive(Default)]
pub struct Fake {
    pub stored: Mutex<BTreeMap<String, Stored>>,
    /// Uploads that broke off.
    pub broken: AtomicUsize,
    /// What the next `put` answers without taking anything in.
    pub refusal: Mutex<Option<AdminError>>,
    pub quota: Mutex<QuotaInfo>,
    pub volumes: Mutex<Vec<VolumeInfo>>,
    /// What was asked to be mounted.
    pub mounts: Mutex<Vec<MountRequest>>,
    /// What was asked to be unmounted.
    pub umounts: Mutex<Vec<UmountRequest>>,
    /// Whether it ends with another command, so that it serves no mounts.
    pub is_embedded: AtomicBool,
}

impl Fake {
    /// Makes `link` name these frames.
    pub fn offer(&self, link: &str, kind: Kind, frames: &[Frame]) {
        let mut encoder = FrameEncoder::default();
        for frame in frames {
            encoder.push(frame);
        }
        encoder.flush();
        let body = std::iter::from_fn(|| encoder.pop()).collect();
        self.offer_raw(link, kind, body, false);
    }

    /// Makes `link` name these bytes.
    pub fn offer_raw(&self, link: &str, kind: Kind, body: Vec<Bytes>, hangs: bool) {
        let request = PutRequest {
            kind,
            ..PutRequest::default()
        };
        let stored = Stored {
            request,
            body,
            hangs,
        };
        self.stored.lock().unwrap().insert(link.to_owned(), stored);
    }

    pub fn find(&self, link: &str) -> Result<Stored, AdminError> {
        let stored = self.stored.lock().unwrap().get(link).cloned();
        stored.ok_or_else(|| AdminError::missing(format!("`{link}` is nowhere")).hint("look again"))
    }

    /// The frames of what was put.
    pub fn frames(&self, link: &str) -> Vec<Frame> {
        let mut decoder = FrameDecoder::default();
        for piece in self.find(link).unwrap().body {
            decoder.push(piece);
        }
        let frames = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
        decoder.finish().unwrap();
        frames
    }
}

fn ready<T: Send + 'static>(value: T) -> Answer<'static, T> {
    async { Ok(value) }.boxed()
}

fn items<T: Send + 'static>(items: Vec<Result<T, AdminError>>) -> Answer<'static, ItemStream<T>> {
    ready(stream::iter(items).boxed())
}

impl Backend for Fake {
    fn status(&self) -> Answer<'_, Status> {
        ready(Status {
            peer: "12D3KooWfake".to_owned(),
            pid: std::process::id(),
            volumes: self.volumes.lock().unwrap().clone(),
            serves_mounts: !self.is_embedded.load(Ordering::SeqCst),
            ..Status::default()
        })
    }

    fn peers(&self) -> Answer<'_, Vec<PeerInfo>> {
        ready(answers::peers())
    }

    fn quota(&self) -> Answer<'_, QuotaInfo> {
        ready(self.quota.lock().unwrap().clone())
    }

    fn set_quota(&self, request: SetQuota) -> Answer<'_, QuotaInfo> {
        let mut quota = self.quota.lock().unwrap();
        quota.auto = request.quota_bytes.is_none();
        quota.quota_bytes = request.quota_bytes.unwrap_or(7);
        ready(quota.clone())
    }

    fn invite(&self, request: InviteRequest) -> Answer<'_, Invited> {
        ready(Invited {
            ticket: format!("cairn-ticket:{:?}", request.expires_ms),
            expires_ms: 0,
            storage_only: request.storage_only,
            separate_zones: request.separate_zones,
        })
    }

    fn join(&self, request: JoinRequest) -> Answer<'_, Joined> {
        if !request.ticket.starts_with("cairn-ticket:") {
            let error = AdminError::usage("this is not a ticket");
            return async { Err(error) }.boxed();
        }
        ready(Joined {
            network: "n".to_owned(),
            members: 2,
            storage_only: false,
        })
    }

    fn put(&self, request: PutRequest, mut body: ByteStream) -> Answer<'_, PutResult> {
        async move {
            if let Some(refusal) = self.refusal.lock().unwrap().take() {
                return Err(refusal);
            }
            let mut stored = Stored {
                request,
                ..Stored::default()
            };
            let mut hasher = blake3::Hasher::new();
            while let Some(piece) = body.next().await {
                let Ok(piece) = piece else {
                    self.broken.fetch_add(1, Ordering::SeqCst);
                    return Err(AdminError::failed("the upload broke off"));
                };
                hasher.update(&piece);
                stored.body.push(piece);
            }
            let link = format!("cairn:{}", hasher.finalize().to_hex());
            let size_bytes = stored.body.iter().map(|piece| piece.len() as u64).sum();
            let kind = stored.request.kind;
            self.stored.lock().unwrap().insert(link.clone(), stored);
            Ok(PutResult {
                link,
                kind,
                size_bytes,
                survives: 1,
                promised: 2,
                peers: 5,
                ..PutResult::default()
            })
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> Answer<'_, Download> {
        async move {
            let stored = self.find(&request.link)?;
            let pieces = stream::iter(stored.body).map(Ok);
            let rest = match stored.hangs {
                true => stream::pending().boxed(),
                false => stream::empty().boxed(),
            };
            // Most of what never ends is still to come.
            let all = if stored.hangs { 1 << 30 } else { 0 };
            Ok(Download {
                head: GetHead {
                    kind: stored.request.kind,
                    size_bytes: request.end.unwrap_or(all) - request.start.unwrap_or(0),
                },
                body: pieces.chain(rest).boxed(),
            })
        }
        .boxed()
    }

    fn ls(&self, request: LsRequest) -> Answer<'_, ItemStream<LsEntry>> {
        let mut odd = LsEntry::default();
        odd.set_name(b"odd\xff");
        let named = LsEntry {
            name: String::from_utf8_lossy(&request.path().unwrap()).into_owned(),
            kind: "directory".to_owned(),
            mode: 0o755,
            ..LsEntry::default()
        };
        match request.link.as_str() {
            "cairn:empty" => items(Vec::new()),
            "cairn:torn" => items(vec![Ok(named), Err(AdminError::missing("2 of 4 shards"))]),
            _ => items(vec![Ok(named), Ok(odd)]),
        }
    }

    fn stat(&self, request: LinkRequest) -> Answer<'_, Stat> {
        let unreadable_blocks = u64::from(request.link == "cairn:torn");
        ready(Stat {
            link: request.link,
            blocks: 3,
            unreadable_blocks,
            ..Stat::default()
        })
    }

    fn list(&self) -> Answer<'_, ItemStream<Listed>> {
        let stored = self.stored.lock().unwrap();
        let listed = stored.iter().map(|(link, stored)| {
            Ok(Listed {
                link: link.clone(),
                name: stored.request.name.clone(),
                ..Listed::default()
            })
        });
        items(listed.collect())
    }

    fn key_export(&self, request: KeyExportRequest) -> Answer<'_, KeyExported> {
        ready(KeyExported {
            sealed: format!("sealed with {}", request.passphrase),
            peer: "12D3KooWfake".to_owned(),
        })
    }

    fn volumes(&self) -> Answer<'_, Vec<VolumeInfo>> {
        ready(self.volumes.lock().unwrap().clone())
    }

    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeInfo> {
        let mut volumes = self.volumes.lock().unwrap();
        if volumes.iter().any(|volume| volume.name == request.name) {
            let error = AdminError::refused("there is one already");
            return async { Err(error) }.boxed();
        }
        let volume = VolumeInfo {
            name: request.name,
            redundancy: request.redundancy.unwrap_or_else(|| "4+2".to_owned()),
            local: true,
            ..VolumeInfo::default()
        };
        volumes.push(volume.clone());
        ready(volume)
    }

    fn volume_remove(&self, request: VolumeRemove) -> Answer<'_, VolumeInfo> {
        let mut volumes = self.volumes.lock().unwrap();
        let at = volumes
            .iter()
            .position(|volume| volume.name == request.name);
        match at {
            Some(at) => ready(volumes.remove(at)),
            None => {
                let error = AdminError::missing("there is no such volume");
                async { Err(error) }.boxed()
            }
        }
    }

    fn volume_ticket(&self, request: VolumeTicketRequest) -> Answer<'_, VolumeInvited> {
        ready(VolumeInvited {
            ticket: format!("cairn-volume:{:?}", request.expires_ms),
            name: request.name,
            read_only: request.read_only,
            expires_ms: 0,
        })
    }

    /// A ticket that ends with `r` is for reading; one that was opened before is known.
    fn volume_open(&self, request: VolumeOpen) -> Answer<'_, VolumeOpened> {
        if !request.ticket.starts_with("cairn-volume:") {
            let error = AdminError::usage("this is not a ticket of a volume");
            return async { Err(error) }.boxed();
        }
        let mut volumes = self.volumes.lock().unwrap();
        let name = request.name.unwrap_or_else(|| "photos".to_owned());
        let known = volumes.iter().any(|volume| volume.name == name);
        let role = if request.ticket.ends_with('r') {
            "reader"
        } else {
            "writer"
        };
        let volume = VolumeInfo {
            name,
            local: true,
            share: Some(VolumeShare {
                role: role.to_owned(),
                owner: "12D3KooWother".to_owned(),
                awaited: true,
                revoked: None,
            }),
            ..VolumeInfo::default()
        };
        volumes.retain(|other| other.name != volume.name);
        volumes.push(volume.clone());
        let joined = (!known).then(|| Joined {
            network: "n".to_owned(),
            members: 2,
            storage_only: false,
        });
        ready(VolumeOpened {
            volume,
            known,
            improved: false,
            joined,
        })
    }

    fn volume_voters(
        &self,
        request: cairnfs::admin::types::VolumeVotersRequest,
    ) -> Answer<'_, cairnfs::admin::types::VolumeVoters> {
        Box::pin(async move {
            Ok(cairnfs::admin::types::VolumeVoters {
                name: request.name,
                voters: request.voters.unwrap_or_else(|| vec!["a-peer".to_owned()]),
                needed: 1,
            })
        })
    }

    fn volume_members(&self, request: VolumeMembersRequest) -> Answer<'_, VolumeMembers> {
        ready(answers::members(request.name))
    }

    fn volume_revoke(&self, request: VolumeRevoke) -> Answer<'_, VolumeRevoked> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return async { Err(refusal) }.boxed();
        }
        ready(VolumeRevoked {
            is_ticket: !request.member.starts_with("12D3"),
            name: request.name,
            member: request.member,
            stay: vec!["12D3KooWthird".to_owned()],
            handed: 2,
        })
    }

    fn mount(&self, request: MountRequest) -> Answer<'_, Mounted> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return async { Err(refusal) }.boxed();
        }
        let dir = request.dir_hex.path().unwrap().display().to_string();
        let name = request.volume.clone();
        let created = name.is_none();
        let name = name.unwrap_or_else(|| "default".to_owned());
        let mut volumes = self.volumes.lock().unwrap();
        let before = volumes.iter().find(|volume| volume.name == name);
        let share = before.and_then(|volume| volume.share.as_ref());
        let read_only = request.read_only || share.is_some_and(|share| share.role == "reader");
        volumes.retain(|volume| volume.name != name);
        volumes.push(VolumeInfo {
            name: name.clone(),
            mounted_on: Some(dir.clone()),
            read_only,
            usage: Some(VolumeUsage {
                dirty_bytes: 2 << 20,
                queued_bytes: 1 << 20,
                under_redundant_bytes: 3 << 20,
                ..VolumeUsage::default()
            }),
            ..VolumeInfo::default()
        });
        let mounted = Mounted {
            volume: name,
            dir,
            dir_hex: request.dir_hex.clone(),
            created,
            read_only,
            pid: std::process::id(),
        };
        self.mounts.lock().unwrap().push(request);
        ready(mounted)
    }

    fn conflicts(&self, request: ConflictsRequest) -> Answer<'_, ItemStream<ConflictInfo>> {
        items(answers::conflicts(request))
    }

    fn path_policy(&self, request: PathRequest) -> Answer<'_, PathPolicy> {
        ready(PathPolicy {
            path: format!("{:?}", request.path_hex),
            redundancy: "auto".to_owned(),
            stored_as: "4+2".to_owned(),
            ..PathPolicy::default()
        })
    }

    fn stat_path(&self, request: PathRequest) -> Answer<'_, PathStat> {
        ready(answers::path_stat(&request.path_hex.path().unwrap()))
    }

    fn conflict_resolve(&self, request: ConflictResolve) -> Answer<'_, ConflictResolved> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return async { Err(refusal) }.boxed();
        }
        let path = request.path_hex.path().unwrap().display().to_string();
        let removed = match request.keep.as_str() {
            "both" => Vec::new(),
            keep => vec![format!("what is not {keep}")],
        };
        ready(ConflictResolved {
            kept: vec![path],
            removed,
            ..ConflictResolved::default()
        })
    }

    fn set_worker(&self, request: WorkerChange) -> Answer<'_, Vec<WorkerStatus>> {
        ready(vec![WorkerStatus {
            name: request.name,
            status: "looks".to_owned(),
            paused: request.paused,
        }])
    }

    fn repairs(&self) -> Answer<'_, Repairs> {
        ready(Repairs::default())
    }

    fn umount(&self, request: UmountRequest) -> Answer<'_, Mounted> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return async { Err(refusal) }.boxed();
        }
        let dir = request.dir_hex.path().unwrap().display().to_string();
        self.umounts.lock().unwrap().push(request);
        for volume in self.volumes.lock().unwrap().iter_mut() {
            if volume.mounted_on.as_ref() == Some(&dir) {
                volume.mounted_on = None;
            }
        }
        ready(Mounted {
            dir,
            ..Mounted::default()
        })
    }

    fn sync(&self, request: SyncRequest) -> Answer<'_, ItemStream<SyncProgress>> {
        let dir = request.dir_hex.and_then(|dir| dir.path());
        let is_slow = dir.as_ref().is_some_and(|dir| dir.ends_with("slow"));
        let is_odd = dir.is_some();
        if dir.is_some_and(|dir| dir.ends_with("frail")) {
            let done = SyncProgress {
                volumes: vec!["a".to_owned()],
                under_redundant_bytes: 300 << 20,
                done: true,
                ..SyncProgress::default()
            };
            return items(vec![Ok(done)]);
        }
        let line = |dirty_bytes, done| {
            Ok(SyncProgress {
                volumes: vec!["a".to_owned(), "b".to_owned()],
                dirty_bytes,
                under_redundant_bytes: dirty_bytes,
                done,
            })
        };
        if is_slow {
            let lines = [(5 << 20, false), (2 << 20, false), (0, true)];
            let slowly = stream::iter(lines).then(move |(dirty_bytes, done)| async move {
                tokio::time::sleep(std::time::Duration::from_millis(400)).await;
                line(dirty_bytes, done)
            });
            return ready(slowly.boxed());
        }
        match is_odd {
            // As by a peer that ends.
            true => items(vec![line(5, false)]),
            false => items(vec![
                line(5 << 20, false),
                line(1 << 20, false),
                line(0, true),
            ]),
        }
    }
}
