//! Checkpoints as others find them: made when the feeds stand still for a moment, announced by a signed record, and
//! merged by whoever cannot have the deltas any more.
//!
//! Where a checkpoint is says how to decrypt it, so in a record, which anybody may see, that is sealed under
//! the key of an epoch.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cairnfs_fuse::kernel::Notice;
use futures::FutureExt;
use tokio::time::Duration;

use super::book::Book;
use super::heard::Rumour;
use super::keys::SealedPlace;
use super::{Rights, Shared, store};
use crate::base::limits::PAGE_PLACE_MAX_BYTES;
use crate::base::{Class, Classify, PeerId};
use crate::crypto::EpochKey;
use crate::feeds::checkpoint::{Record, Root};
use crate::feeds::{Covered, Feed, FeedError, Link, Part, Signed};
use crate::namespace::state::decode_row;
use crate::namespace::{Hlc, Key, Value, VersionVector, WriterId, state};
use crate::store::{Group, VolumeError, VolumeSnapshot};
use crate::vfs::checkpoint::{CheckpointFailure, OpenedCheckpoint};
use crate::vfs::inner::Inner;

/// Turns after which the own feed is found to run away: somebody writes faster than is sealed.
const TURNS_MAX: usize = 1000;
/// Between them.
const TURN: Duration = Duration::from_millis(15);

/// Why a checkpoint was not published or merged.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// Making or merging it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFailure),
    /// Its record, or the feeds that it names.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The local engine.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// It is sealed under a key that this device has not got, or by somebody who has none.
    #[error("the checkpoint of {0:?} does not open with a key of this volume")]
    Sealed(WriterId),
    /// Whoever made it was revoked.
    #[error("the checkpoint of {0:?}, who was revoked, is not merged")]
    Revoked(WriterId),
    /// Whoever made it may have been revoked.
    #[error("the checkpoint of {0:?} waits until it is known whether it was revoked")]
    Unheard(WriterId),
    /// It names a writer who is none.
    #[error(
        "the checkpoint of {of:?} has changes of {writer:?}, who is not known to be allowed to write"
    )]
    Writer {
        /// Whose checkpoint.
        of: WriterId,
        /// Who has no proof.
        writer: WriterId,
    },
    /// The feeds never stood still.
    #[error("so much is being written that no checkpoint could be made")]
    Restless,
    /// This volume or device has none.
    #[error("this device makes no checkpoints of the volume")]
    None,
}

impl Classify for PointError {
    fn class(&self) -> Class {
        match self {
            PointError::Checkpoint(error) => error.class(),
            PointError::Feed(error) => error.class(),
            PointError::Volume(error) => error.class(),
            PointError::Sealed(_)
            | PointError::Revoked(_)
            | PointError::Writer { .. }
            | PointError::None => Class::Denied,
            PointError::Unheard(_) | PointError::Restless => Class::Retry,
        }
    }
}

/// A checkpoint that was made, for others to find.
#[derive(Debug, Clone)]
pub struct Point {
    /// Its number among the checkpoints of this device.
    pub(in crate::vfs) number: u64,
    /// Where it is, signed by this device: to be published.
    pub record: Signed<Record>,
    /// How far it has each feed, ascending by writer.
    pub upto: Vec<(WriterId, u64)>,
    /// This device's word that it makes up for what is before in its feed: for whoever keeps that, once the record is
    /// where others find it. None if nothing of its own is in it.
    pub covered: Option<Signed<Covered>>,
}

/// What a place is sealed together with.
fn header(writer: WriterId, root: &[u8; 32]) -> Vec<u8> {
    [
        &writer.peer.0[..],
        &writer.incarnation.to_be_bytes(),
        &root[..],
    ]
    .concat()
}

fn seal_place(
    (epoch, key): (u32, &EpochKey),
    writer: WriterId,
    root: &[u8; 32],
    place: &[u8],
    keys: Option<Bytes>,
) -> Result<Vec<u8>, FeedError> {
    let (tag, text) = key.seal(&header(writer, root), place)?;
    let place = SealedPlace {
        epoch,
        tag,
        text,
        keys,
    };
    Ok(place.encode())
}

impl Inner {
    /// The feeds' ends and the rows at a moment at which they say the same.
    async fn stand_still(
        self: &Arc<Self>,
    ) -> Result<(VolumeSnapshot, Vec<Signed<Link>>, Hlc), PointError> {
        for turn in 0..TURNS_MAX {
            let inner = Arc::clone(self);
            let sealed = self
                .blocks
                .pools()
                .disk
                .run(move || inner.seal_rest())
                .await;
            sealed?;
            if turn > 0 {
                tokio::time::sleep(TURN).await;
            }
            let inner = Arc::clone(self);
            let still = move || inner.still();
            if let Some(found) = self.blocks.pools().disk.run(still).await? {
                return Ok(found);
            }
        }
        Err(PointError::Restless)
    }

    /// The feeds' ends and the rows, if they say the same just now.
    fn still(&self) -> Result<Option<(VolumeSnapshot, Vec<Signed<Link>>, Hlc)>, PointError> {
        let shared = self.shared().ok_or(PointError::None)?;
        let feeds = shared.feeds();
        let _core = self.core();
        let version = state::version(&self.rows()).map_err(CheckpointFailure::from)?;
        let heads: Vec<Signed<Link>> = version
            .iter()
            .filter_map(|(writer, last)| {
                let head = feeds.known.get(writer).and_then(Feed::head)?;
                (head.last == last).then(|| head.clone())
            })
            .collect();
        let is_still = heads.len() == version.iter().count();
        Ok(is_still.then(|| (self.volume.snapshot(), heads, self.now().hlc)))
    }

    pub(super) async fn make_point(self: &Arc<Self>) -> Result<Point, PointError> {
        let Some(shared) = self.shared().filter(|_| !self.is_reader()) else {
            return Err(PointError::None);
        };
        let (snapshot, heads, hlc) = self.stand_still().await?;
        let upto = heads.iter().map(|link| (link.writer, link.last)).collect();
        let own = heads.iter().find(|link| link.writer == self.writer());
        let covered = own.map(|link| Covered {
            volume: self.identity.id,
            writer: link.writer,
            upto: link.last,
            hash: link.hash(),
            hlc,
        });
        let covered = covered.map(|word| Signed::sign(word, &shared.share.device));
        let covered = covered.transpose()?;
        // Boxed here and below, so that the compiler sees that they can go from thread to thread.
        let made = self.make_checkpoint(snapshot, heads, hlc, None);
        let made = made.boxed().await?;
        let inner = Arc::clone(self);
        let keys = self.blocks.pools().disk.run(move || inner.keys_page());
        let keys = keys.await.map_err(|_| PointError::Restless)?;
        let keys = match keys {
            None => None,
            Some(page) => {
                let stored = self.store_pages(made.number, &[page]).boxed().await?;
                stored.into_iter().next()
            }
        };
        let Some((epoch, key)) = self.place_key(shared) else {
            return Err(PointError::Restless);
        };
        let place = seal_place(
            (epoch, &key),
            self.writer(),
            &made.root_hash.0,
            &made.record_place,
            keys,
        );
        let record = Record {
            volume: self.identity.id,
            writer: self.writer(),
            hlc,
            root: made.root_hash,
            root_bytes: made.root_bytes,
            place: place?.into(),
        };
        let record = Signed::sign(record, &shared.share.device)?;
        Ok(Point {
            number: made.number,
            record,
            upto,
            covered,
        })
    }

    /// Merges the checkpoint that a record names, if there is anything new in it.
    pub(super) async fn join_point(
        self: &Arc<Self>,
        record: &Signed<Record>,
    ) -> Result<bool, PointError> {
        let Some(shared) = self.shared() else {
            return Err(PointError::None);
        };
        if record.volume != self.identity.id {
            return Err(FeedError::OtherVolume.into());
        }
        if self.has_to_wait(shared, record) {
            return Err(PointError::Unheard(record.writer));
        }
        let place = match self.open_place(record) {
            Err(PointError::Sealed(_)) if self.look_beside(record, true).boxed().await? => {
                self.open_place(record)?
            }
            place => place?,
        };
        let root = self
            .fetch_root(&place, record.root, record.root_bytes)
            .await?;
        let disk = &self.blocks.pools().disk;
        let (inner, of) = (Arc::clone(self), root.clone());
        let (is_known, is_behind) = disk
            .run(move || {
                let is_known = inner.merged_version().includes(&of.version());
                (is_known, inner.has_feeds_behind(&of))
            })
            .await;
        if is_known {
            // After a crash feeds may end before what was merged.
            if is_behind {
                self.check_writers(shared, record, &root).boxed().await?;
                let inner = Arc::clone(self);
                disk.run(move || inner.skip_to(&root)).await?;
            }
            return Ok(false);
        }
        self.check_writers(shared, record, &root).boxed().await?;
        self.join_checkpoint(&root).boxed().await?;
        let inner = Arc::clone(self);
        disk.run(move || inner.has_joined(&root)).await?;
        Ok(true)
    }

    /// What follows when a checkpoint was merged.
    fn has_joined(&self, root: &Root) -> Result<(), PointError> {
        let Some(shared) = self.shared() else {
            return Err(PointError::None);
        };
        self.skip_to(root)?;
        self.look_at_rules().map_err(|_| PointError::Restless)?;
        shared.outgoing.notify_one();
        let everything = {
            let core = self.core();
            core.inodes.known().into_iter().map(Notice::Inode)
        };
        shared.tell(std::iter::once(Notice::Everything).chain(everything));
        self.settle_all();
        Ok(())
    }

    /// Whether somebody else may say that the maker of a checkpoint is revoked, and it cannot be read at present.
    fn has_to_wait(&self, shared: &Shared, record: &Record) -> bool {
        let maker = record.writer.peer;
        let Some(mut book) = shared.book().filter(|_| maker != self.identity.peer) else {
            return false;
        };
        let book = &mut *book;
        book.heard.has_to_wait(maker, &book.standing)
    }

    /// Whoever made the checkpoint, and whoever wrote anything in it, has to be a member who may write.
    async fn check_writers(
        self: &Arc<Self>,
        shared: &Shared,
        record: &Signed<Record>,
        root: &Root,
    ) -> Result<(), PointError> {
        let opened = OpenedCheckpoint::new(Arc::clone(self), root.clone());
        let writers = root.heads.iter().map(|link| link.writer);
        if shared.book().is_some() {
            return self.check_parts(shared, record, root, &opened).await;
        }
        let writers: BTreeSet<WriterId> = writers.chain([record.writer]).collect();
        for writer in writers {
            let device = writer.peer;
            let is_known = device == self.identity.peer
                || shared.feeds().members.get(&device) == Some(&Rights::Write);
            if is_known {
                continue;
            }
            let key = Key::Member(device);
            let row = opened
                .look(|rows| rows.get(&key.encode()))
                .await?
                .map(|bytes| decode_row(&key, &bytes));
            let row = row.transpose().map_err(CheckpointFailure::from)?;
            let proofs = row.iter().flat_map(|row| row.iter());
            let proofs = proofs.filter_map(|sibling| match &sibling.value {
                Value::Member(proof) => Some(proof),
                _ => None,
            });
            let mut allowed = proofs.map(|proof| (shared.share.admit)(device, proof));
            if !allowed.any(|rights| rights == Ok(Rights::Write)) {
                let of = record.writer;
                return Err(PointError::Writer { of, writer });
            }
            shared.feeds().members.insert(device, Rights::Write);
        }
        Ok(())
    }

    /// Whether any feed ends here before a checkpoint does.
    fn has_feeds_behind(&self, root: &Root) -> bool {
        let Some(shared) = self.shared() else {
            return false;
        };
        let feeds = shared.feeds();
        let last = |writer| feeds.known.get(writer).map_or(0, Feed::last);
        let mut heads = root.heads.iter();
        heads.any(|link| link.writer != self.writer() && link.last > last(&link.writer))
    }

    /// Feeds go on where a checkpoint that was merged ended.
    fn skip_to(&self, root: &Root) -> Result<(), PointError> {
        let Some(shared) = self.shared() else {
            return Err(PointError::None);
        };
        let mut feeds = shared.feeds();
        let mut group = Group::new();
        group.cleanup();
        let mut known = Vec::new();
        for link in &root.heads {
            let empty = || self.new_feed(link.writer);
            let mut feed = feeds.known.get(&link.writer).cloned().unwrap_or_else(empty);
            if link.last > feed.last() {
                feed.skip_to(link.clone())?;
                store::put_head(&mut group, link);
                known.push((link.writer, feed));
            }
        }
        if !group.is_empty() {
            self.volume.apply(&group)?;
            feeds.known.extend(known);
        }
        Ok(())
    }
}

impl Inner {
    fn open_place(&self, record: &Signed<Record>) -> Result<Bytes, PointError> {
        let refused = || PointError::Sealed(record.writer);
        let place = SealedPlace::decode(&record.place, PAGE_PLACE_MAX_BYTES).ok_or_else(refused)?;
        let header = header(record.writer, &record.root.0);
        let keys = self.keys_of_places(place.epoch);
        let mut opened = keys
            .iter()
            .filter_map(|key| key.open(&header, &place.tag, &place.text).ok());
        Ok(opened.next().ok_or_else(refused)?.into())
    }

    /// What the place of a checkpoint is sealed under.
    fn place_key(&self, shared: &Shared) -> Option<(u32, EpochKey)> {
        match shared.book() {
            Some(book) => {
                let (epoch, secrets) = book.current.as_ref()?;
                Some((*epoch, secrets.key.clone()))
            }
            None => {
                let (epoch, key) = shared.share.epochs.last_key_value()?;
                Some((*epoch, key.clone()))
            }
        }
    }

    /// The same as [`Inner::check_writers`] where revocations are known: whoever made the checkpoint has to be a member
    /// who may write now; what it merged of others who were revoked since counts.
    async fn check_parts(
        self: &Arc<Self>,
        shared: &Shared,
        record: &Signed<Record>,
        root: &Root,
        opened: &OpenedCheckpoint,
    ) -> Result<(), PointError> {
        let writers = root.heads.iter().map(|link| link.writer);
        let writers: BTreeSet<WriterId> = writers.chain([record.writer]).collect();
        let mut devices: BTreeSet<PeerId> = writers.iter().map(|writer| writer.peer).collect();
        devices.remove(&self.identity.peer);
        let mut late = Vec::new();
        for device in devices {
            let is_maker = device == record.writer.peer;
            let of = record.writer;
            let writer = writers.iter().find(|writer| writer.peer == device);
            let writer = *writer.unwrap_or(&of);
            let mut proofs = Vec::new();
            let known = self.standing_of(device, &[]).unwrap_or(Part::None);
            if known != Part::Writer {
                let key = Key::Member(device);
                let row = opened
                    .look(|rows| rows.get(&key.encode()))
                    .await?
                    .map(|bytes| decode_row(&key, &bytes));
                let row = row.transpose().map_err(CheckpointFailure::from)?;
                let row = row.iter().flat_map(|row| row.iter());
                proofs.extend(row.filter_map(|sibling| match &sibling.value {
                    Value::Member(proof) => Some(proof.clone()),
                    _ => None,
                }));
            }
            let inner = Arc::clone(self);
            let judge = move || inner.judge(device, &proofs, is_maker);
            let (part, rumour) = self.blocks.pools().cpu.run(judge).await;
            match part {
                Part::Writer if rumour == Rumour::Out => return Err(PointError::Revoked(of)),
                Part::Writer if rumour == Rumour::Doubt => {
                    let mut book = shared.book();
                    let waits = |book: &mut Book| book.heard.is_in_doubt(device);
                    if book.as_deref_mut().is_some_and(waits) {
                        return Err(PointError::Unheard(of));
                    }
                }
                Part::Writer => {}
                Part::Revoked { .. } | Part::Late { .. } if is_maker => {
                    return Err(PointError::Revoked(of));
                }
                Part::Revoked { .. } => {}
                Part::Late { .. } => late.push(device),
                Part::None | Part::Reader => return Err(PointError::Writer { of, writer }),
            }
        }
        if let Some(mut book) = shared.book() {
            for device in late {
                book.standing.vouch(device);
            }
        }
        Ok(())
    }
}

impl Inner {
    /// What part a device has, also by these proofs, and what is said of it if that matters. Signatures: not for the
    /// reactor.
    fn judge(&self, device: PeerId, proofs: &[Bytes], is_maker: bool) -> (Part, Rumour) {
        let part = self.standing_of(device, proofs).unwrap_or(Part::None);
        let book = self.shared().and_then(Shared::book);
        let Some(book) = book.filter(|_| is_maker && part == Part::Writer) else {
            return (part, Rumour::None);
        };
        let (standing, now_ms) = (&book.standing, self.now_ms());
        let read = |proof: &Bytes| standing.read_proof(device, proof, now_ms).ok();
        let shown = proofs.iter().filter_map(read);
        let ways: Vec<_> = shown.chain(standing.lineages(&device).to_vec()).collect();
        (part, book.heard.rumour(&device, &ways, standing))
    }
}

impl crate::vfs::Vfs {
    /// Makes a checkpoint of everything that was merged, and a record of it, which is to be published. What is not
    /// in blocks yet is not in it.
    ///
    /// # Errors
    /// If it cannot be made, or this device only reads.
    pub async fn make_point(&self) -> Result<Point, PointError> {
        self.0.make_point().await
    }

    /// Looks at what is beside the checkpoints of records, before any is merged: keys that were handed out to this
    /// device, and who was revoked. `records` are all that there are. While what is beside one cannot be read others wait,
    /// for some time.
    pub async fn look_beside(&self, records: &[Signed<Record>]) {
        self.0.look_beside_all(records).boxed().await;
    }

    /// Merges the checkpoint that a record names. False if there is nothing new in it.
    ///
    /// # Errors
    /// If it cannot be fetched, is wrong or from the future, or was made by somebody who may not write.
    pub async fn join_point(&self, record: &Signed<Record>) -> Result<bool, PointError> {
        self.0.join_point(record).await
    }

    /// Whether anything was merged since the last checkpoint that others can find.
    pub async fn has_news(&self) -> bool {
        let Some(shared) = self.0.shared() else {
            return false;
        };
        let inner = Arc::clone(&self.0);
        let disk = &self.0.blocks.pools().disk;
        let version: VersionVector = disk.run(move || inner.merged_version()).await;
        let merged: Vec<(WriterId, u64)> = version.iter().map(|(w, last)| (*w, last)).collect();
        merged != shared.feeds().point
    }

    /// The last dot of what this device did, be it in its feed yet or not; 0 if nothing. Reads tables.
    pub fn own_dots(&self) -> u64 {
        match self.0.shared() {
            Some(_) => self.0.merged_version().get(&self.0.writer()),
            None => 0,
        }
    }

    /// The record of a checkpoint is kept where others find it. How far feeds were in the one before.
    pub fn is_published(&self, point: &Point) -> Vec<(WriterId, u64)> {
        match self.0.shared() {
            Some(shared) => std::mem::replace(&mut shared.feeds().point, point.upto.clone()),
            None => Vec::new(),
        }
    }

    /// Drops deltas up to `upto`, how far each feed was in the last checkpoint but one: whoever lacks them merges the
    /// last one.
    ///
    /// # Errors
    /// If rows cannot be changed.
    pub async fn drop_deltas(&self, upto: Vec<(WriterId, u64)>) -> Result<usize, VolumeError> {
        let inner = Arc::clone(&self.0);
        let drop_all = move || {
            let mut dropped = 0;
            for (writer, last) in upto {
                dropped += store::drop_upto(&inner.volume, writer, last)?;
            }
            Ok(dropped)
        };
        self.0.blocks.pools().disk.run(drop_all).await
    }
}
