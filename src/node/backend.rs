//! What a running peer can be asked, carried out.

use futures::StreamExt;
use futures::stream;

use super::catalogue::{Entry, PUTS};
use super::mounts::held;
use super::{Node, quota, show};
use crate::admin::types::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictsRequest, DrainChange, DrainInfo,
    GcReport, GcRequest, GetHead, GetRequest, InviteRequest, Invited, JoinRequest, Joined, Kept,
    KeyExportRequest, KeyExported, Kind, LinkRequest, Listed, LsEntry, LsRequest, MountRequest,
    Mounted, PathPolicy, PathRequest, PathStat, PeerInfo, PutRequest, PutResult, QuotaInfo,
    RemoveRequest, Removed, RenewRequest, Repairs, RestoreLine, RestoreRequest, Restored, SetQuota,
    SnapshotCreate, SnapshotItem, SnapshotRemove, SnapshotRestore, Snapshots, SnapshotsRequest,
    Stat, Status, SyncProgress, SyncRequest, TrashInfo, UmountRequest, VolumeCreate, VolumeInfo,
    VolumeInvited, VolumeMembers, VolumeMembersRequest, VolumeOpen, VolumeOpened, VolumeRemove,
    VolumeRevoke, VolumeRevoked, VolumeTicketRequest, VolumeVoters, VolumeVotersRequest,
    WorkerChange, WorkerStatus,
};
use crate::admin::{AdminError, Answer, Backend, ByteStream, Download, ItemStream};
use crate::base::{ByteSize, Class, EcProfile, Redundancy};
use crate::blocks::{PutError, Upload, UploadOptions};
use crate::config::{Quota, set_quota};
use crate::content::{
    BlobReader, BlockSource, ContentError, Found, Ingest, Reading, TreeReader, TreeView,
    blob_frames, blob_pieces, decode_frames, encode_frames, ingest_blob, ingest_tree, survey,
};
use crate::crypto::ConvergenceSecret;
use crate::dag::{Link, Root};

impl Backend for Node {
    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async { Ok(self.show_status().await) })
    }

    fn peers(&self) -> Answer<'_, Vec<PeerInfo>> {
        Box::pin(async { Ok(self.show_peers()) })
    }

    fn quota(&self) -> Answer<'_, QuotaInfo> {
        Box::pin(async { Ok(self.show_quota()) })
    }

    fn set_quota(&self, request: SetQuota) -> Answer<'_, QuotaInfo> {
        Box::pin(self.change_quota(request))
    }

    fn set_worker(&self, request: WorkerChange) -> Answer<'_, Vec<WorkerStatus>> {
        Box::pin(async move { self.change_worker(&request) })
    }

    fn repairs(&self) -> Answer<'_, Repairs> {
        Box::pin(async { Ok(self.show_repairs()) })
    }

    fn invite(&self, request: InviteRequest) -> Answer<'_, Invited> {
        Box::pin(async move { self.invite_peer(&request).await })
    }

    fn join(&self, request: JoinRequest) -> Answer<'_, Joined> {
        Box::pin(async move { self.join_network(&request).await })
    }

    fn put(&self, request: PutRequest, body: ByteStream) -> Answer<'_, PutResult> {
        Box::pin(self.take_in(request, body))
    }

    fn get(&self, request: GetRequest) -> Answer<'_, Download> {
        Box::pin(async move { self.give_out(&request).await })
    }

    fn ls(&self, request: LsRequest) -> Answer<'_, ItemStream<LsEntry>> {
        Box::pin(async move { self.list_tree(&request).await })
    }

    fn stat(&self, request: LinkRequest) -> Answer<'_, Stat> {
        Box::pin(async move { self.examine(&request).await })
    }

    fn stat_path(&self, request: PathRequest) -> Answer<'_, PathStat> {
        Box::pin(self.examine_path(request))
    }

    fn path_policy(&self, request: PathRequest) -> Answer<'_, PathPolicy> {
        Box::pin(self.tell_policy(request))
    }

    fn list(&self) -> Answer<'_, ItemStream<Listed>> {
        Box::pin(async {
            let puts = self.listed().await?;
            let items = puts.into_iter().map(|put| Ok(Listed::from(put)));
            Ok(Box::pin(stream::iter(items)) as ItemStream<Listed>)
        })
    }

    fn key_export(&self, request: KeyExportRequest) -> Answer<'_, KeyExported> {
        Box::pin(self.export(request))
    }

    fn volumes(&self) -> Answer<'_, Vec<VolumeInfo>> {
        Box::pin(self.show_volumes())
    }

    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeInfo> {
        Box::pin(self.make_volume(request))
    }

    fn volume_remove(&self, request: VolumeRemove) -> Answer<'_, VolumeInfo> {
        Box::pin(self.drop_volume(request))
    }

    fn volume_ticket(&self, request: VolumeTicketRequest) -> Answer<'_, VolumeInvited> {
        Box::pin(self.invite_to_volume(request))
    }

    fn volume_open(&self, request: VolumeOpen) -> Answer<'_, VolumeOpened> {
        Box::pin(self.open_ticket(request))
    }

    fn volume_members(&self, request: VolumeMembersRequest) -> Answer<'_, VolumeMembers> {
        Box::pin(self.show_members(request))
    }

    fn snapshot_create(&self, request: SnapshotCreate) -> Answer<'_, SnapshotItem> {
        Box::pin(self.make_snapshot(request))
    }

    fn snapshot_remove(&self, request: SnapshotRemove) -> Answer<'_, SnapshotItem> {
        Box::pin(self.drop_snapshot(request))
    }

    fn snapshots(&self, request: SnapshotsRequest) -> Answer<'_, Snapshots> {
        Box::pin(self.list_snapshots(request))
    }

    fn snapshot_restore(&self, request: SnapshotRestore) -> Answer<'_, ItemStream<RestoreLine>> {
        Box::pin(self.restore_snapshot(request))
    }

    fn drain(&self) -> Answer<'_, DrainInfo> {
        Box::pin(async move { Ok(self.show_drain().await) })
    }

    fn set_drain(&self, change: DrainChange) -> Answer<'_, DrainInfo> {
        Box::pin(self.change_drain(change))
    }

    fn trash(&self) -> Answer<'_, TrashInfo> {
        Box::pin(self.show_trash())
    }

    fn remove(&self, request: RemoveRequest) -> Answer<'_, Removed> {
        Box::pin(self.remove_puts(request))
    }

    fn renew(&self, request: RenewRequest) -> Answer<'_, Kept> {
        Box::pin(self.renew_put(request))
    }

    fn restore_trash(&self, request: RestoreRequest) -> Answer<'_, Restored> {
        Box::pin(self.restore_puts(request))
    }

    fn empty_trash(&self) -> Answer<'_, TrashInfo> {
        Box::pin(self.clear_trash())
    }

    fn gc(&self, request: GcRequest) -> Answer<'_, GcReport> {
        Box::pin(self.collect_garbage(request))
    }

    fn volume_voters(&self, request: VolumeVotersRequest) -> Answer<'_, VolumeVoters> {
        Box::pin(self.volume_voters_of(request))
    }

    fn volume_revoke(&self, request: VolumeRevoke) -> Answer<'_, VolumeRevoked> {
        Box::pin(self.revoke(request))
    }

    fn mount(&self, request: MountRequest) -> Answer<'_, Mounted> {
        Box::pin(self.mount_volume(request))
    }

    fn umount(&self, request: UmountRequest) -> Answer<'_, Mounted> {
        Box::pin(self.umount_volume(request))
    }

    fn sync(&self, request: SyncRequest) -> Answer<'_, ItemStream<SyncProgress>> {
        Box::pin(self.sync_volumes(request))
    }

    fn conflicts(&self, request: ConflictsRequest) -> Answer<'_, ItemStream<ConflictInfo>> {
        Box::pin(self.list_conflicts(request))
    }

    fn conflict_resolve(&self, request: ConflictResolve) -> Answer<'_, ConflictResolved> {
        Box::pin(self.end_conflict(request))
    }
}

/// An error of `content`, with what to do next.
pub(super) fn content_error(error: &ContentError) -> AdminError {
    let shown = AdminError::of(error);
    match error {
        ContentError::Put(PutError::Full { .. }) => shown.hint(
            "raise the quota of full peers (`cairn quota SIZE`), add peers, or accept less with --survive",
        ),
        ContentError::Put(PutError::TooFewPeers { .. } | PutError::Unconfirmed { .. }) => {
            shown.hint("start more peers, or accept less with --survive")
        }
        ContentError::Put(PutError::Store(_, Class::Full)) => {
            shown.hint("give this peer more room: raise its quota (`cairn quota SIZE`), or free some of its disk")
        }
        ContentError::Sender { class, .. } => AdminError {
            class: (*class).into(),
            ..shown
        },
        _ => shown,
    }
}

pub(super) fn parse_link(text: &str) -> Result<Link, AdminError> {
    text.trim()
        .parse()
        .map_err(|error: crate::dag::LinkError| AdminError::usage(error.to_string()))
}

impl Node {
    pub(super) fn reading(&self) -> Reading {
        Reading {
            pools: self.0.blocks.pools().clone(),
            window_blocks: self.0.blocks.limits().download_window_blocks,
        }
    }

    pub(super) fn source(&self, profile: EcProfile) -> BlockSource {
        BlockSource {
            blocks: self.0.blocks.clone(),
            profile,
        }
    }

    /// All puts, oldest first.
    pub(super) async fn catalogue(&self) -> Result<Vec<Entry>, AdminError> {
        let rows = self
            .0
            .store
            .kv_scan(PUTS, &[])
            .await
            .map_err(|error| AdminError::of(&error))?;
        Ok(rows
            .iter()
            .filter_map(|(_, row)| Entry::decode(row))
            .collect())
    }

    async fn change_quota(&self, request: SetQuota) -> Result<QuotaInfo, AdminError> {
        let inner = &self.0;
        let (bytes, setting) = match request.quota_bytes {
            Some(bytes) => {
                let setting = Quota::bytes(ByteSize(bytes)).map_err(AdminError::refused)?;
                (bytes, setting)
            }
            None => {
                let usage = inner.store.usage();
                (quota::half(usage.disk_free, usage.allocated), Quota::Auto)
            }
        };
        // What can fail comes first: what holds now is what holds after the next start.
        let file = inner.options.config_file.clone();
        inner
            .blocks
            .pools()
            .disk
            .run(move || set_quota(&file, setting))
            .await
            .map_err(|error| AdminError::of(&error))?;
        inner
            .store
            .set_quota(bytes)
            .map_err(|error| AdminError::of(&error))?;
        inner.quota.set(bytes, setting == Quota::Auto);
        self.announce_offer().await;
        Ok(self.show_quota())
    }

    async fn take_in(
        &self,
        request: PutRequest,
        body: ByteStream,
    ) -> Result<PutResult, AdminError> {
        let begun = tokio::time::Instant::now();
        let inner = &self.0;
        let redundancy = match &request.redundancy {
            None => inner.options.config.put.redundancy,
            Some(text) => text
                .parse::<Redundancy>()
                .map_err(|error| AdminError::usage(error.to_string()))?,
        };
        let profile = redundancy.resolve(inner.auto.get());
        let secret = self.sealing_secret(request.private)?;
        let owner = self.identity().owner;
        let upload = inner
            .blocks
            .upload(UploadOptions {
                profile,
                secret,
                survive: request.survive.map(|count| count as usize),
                owner,
            })
            .await
            .map_err(|error| content_error(&error.into()))?;
        let root = match self.ingest(request.kind, body, &upload).await {
            Ok(root) => root,
            Err(error) => {
                upload.abort().await;
                return Err(content_error(&error));
            }
        };
        let link = Link { profile, root }.to_string();
        let told = upload.placed().await;
        let put_ms = self.next_put_ms();
        let number = upload.claim().number;
        let entry = Entry {
            link: link.clone(),
            name: request.name,
            is_tree: root.is_tree(),
            size_bytes: root.size(),
            put_ms,
            claim: Some(number),
            expires_ms: request
                .expires_after_ms
                .map(|after_ms| put_ms.saturating_add(after_ms)),
            removed_ms: None,
        };
        let report = upload
            .finish(entry.rows(&told))
            .await
            .map_err(|error| content_error(&error.into()))?;
        self.foretell(&entry, number, &told).await;
        Ok(PutResult {
            link,
            kind: request.kind,
            size_bytes: root.size(),
            stored_bytes: report.stored_bytes,
            new_bytes: report.new_bytes,
            blocks: report.blocks,
            survives: report.survives as u32,
            peers: report.peers as u32,
            promised: profile.parity_shards() as u32,
            duration_ms: begun.elapsed().as_millis() as u64,
        })
    }

    /// What chunks are sealed under.
    fn sealing_secret(&self, is_private: bool) -> Result<ConvergenceSecret, AdminError> {
        if is_private {
            return Ok(ConvergenceSecret::random(&self.0.entropy));
        }
        self.identity().secrets.convergence().ok_or_else(|| {
            AdminError::refused(
                "this peer was invited for storage only: it has no secret to seal with",
            )
            .hint(
                "put with --private; to put without it, join with a full ticket and a data directory of \
                 its own: cairn --data-dir DIR join TICKET",
            )
        })
    }

    async fn ingest(
        &self,
        kind: Kind,
        body: ByteStream,
        upload: &Upload,
    ) -> Result<Root, ContentError> {
        let how = Ingest {
            limits: self.0.blocks.limits().clone(),
            pools: self.0.blocks.pools().clone(),
        };
        let frames = decode_frames(body);
        match kind {
            Kind::File => {
                let pieces = blob_pieces(Box::pin(frames));
                ingest_blob(pieces, upload, &how).await
            }
            Kind::Tree => Ok(ingest_tree(frames, upload, &how).await?.0),
        }
    }

    async fn give_out(&self, request: &GetRequest) -> Result<Download, AdminError> {
        let link = parse_link(&request.link)?;
        let (source, how) = (self.source(link.profile), self.reading());
        let size = link.root.size();
        let is_range = request.start.is_some() || request.end.is_some();
        if link.root.is_tree() {
            if is_range {
                return Err(AdminError::usage(
                    "a byte range of a directory makes no sense",
                ));
            }
            let reader = TreeReader::open(&link.root, source, &how)
                .map_err(|error| content_error(&error))?;
            return Ok(Download {
                head: GetHead {
                    kind: Kind::Tree,
                    size_bytes: size,
                },
                body: Box::pin(encode_frames(reader.into_stream())),
            });
        }
        let start = request.start.unwrap_or(0);
        // The last byte asked for is included.
        let end = request
            .end
            .map_or(size, |last| last.saturating_add(1).min(size));
        if is_range && (start >= size || start >= end) {
            return Err(AdminError::usage(format!(
                "the range is outside of the {size} bytes of this file"
            )));
        }
        let reader = BlobReader::open(&link.root, start..end, source, &how)
            .map_err(|error| content_error(&error))?;
        Ok(Download {
            head: GetHead {
                kind: Kind::File,
                size_bytes: end - start,
            },
            body: Box::pin(encode_frames(blob_frames(reader.into_stream()))),
        })
    }

    async fn list_tree(&self, request: &LsRequest) -> Result<ItemStream<LsEntry>, AdminError> {
        let link = parse_link(&request.link)?;
        let path = request
            .path()
            .ok_or_else(|| AdminError::usage("the path is not hexadecimal"))?;
        if !link.root.is_tree() {
            return Err(AdminError::usage("the link names a file, not a directory")
                .hint("`cairn stat LINK` tells about a file"));
        }
        let mut view = TreeView::open(&link.root, self.source(link.profile), &self.reading())
            .await
            .map_err(|error| content_error(&error))?;
        let failed = |error: ContentError| content_error(&error);
        let listing = match view.resolve(&path).await.map_err(failed)? {
            Found::Directory { entries, .. } => view.list(entries),
            _ => {
                let entry = view.entry(&path).await.map_err(failed)?;
                let shown = entry.map(|entry| Ok(show::entry(&entry)));
                return Ok(Box::pin(stream::iter(shown)));
            }
        };
        let pages = stream::try_unfold((view, listing), |(mut view, mut listing)| async move {
            let page = view.next_page(&mut listing).await;
            let page = page.map_err(|error| content_error(&error))?;
            Ok::<_, AdminError>(page.map(|page| (page, (view, listing))))
        });
        let entries = pages.flat_map(|page| {
            let items: Vec<Result<LsEntry, AdminError>> = match page {
                Ok(entries) => entries.iter().map(|entry| Ok(show::entry(entry))).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(items)
        });
        Ok(Box::pin(entries))
    }

    async fn examine(&self, request: &LinkRequest) -> Result<Stat, AdminError> {
        let link = parse_link(&request.link)?;
        let profile = link.profile;
        let found = survey(&link.root, self.source(profile), &self.reading())
            .await
            .map_err(|error| content_error(&error))?;
        let blocks: Vec<_> = found.blocks.iter().map(|block| block.id).collect();
        let held = held(&self.0.blocks, &blocks, profile).await;
        // Without blocks there is nothing to lose.
        let nothing = blocks.is_empty().then_some(0);
        Ok(Stat {
            link: link.to_string(),
            kind: if link.root.is_tree() {
                Kind::Tree
            } else {
                Kind::File
            },
            size_bytes: link.root.size(),
            blocks: blocks.len() as u64,
            redundancy: profile.to_string(),
            shards: held.shards,
            shards_present: held.present,
            unreadable_blocks: held.unreadable,
            survives: held.survives.or(nothing),
            peers: held.peers,
        })
    }
}
