//! Opening a volume: what the last run left unfinished is taken up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::claim_row::{self, CLAIMS};
use super::feed::{Shared, decode_base, feed_ends};
use super::file::{FileCell, FileState, Noted, NotedPlace, Notes};
use super::inner::Inner;
use super::notes::{decode_head, decode_piece};
use super::rows::{BASES, DROPPED, FILES, HEADS, OWN, PIECES, pages};
use super::xattr::HAS_ACLS;
use super::{Durability, VfsError, VfsParts};
use crate::content::overlay::{KeptId, Piece, Source};
use crate::namespace::{Hlc, Ino, Key, Rows, census};
use crate::store::{DirtyId, Group, Space, Volume, VolumeOptions};

/// The row with a moment that is later than all that were used.
const MOMENT: &[u8] = b"moment";
/// How far ahead that moment is, so that it is seldom written: ten seconds.
const MOMENT_AHEAD: u64 = 10_000 << 16;
/// Rows read at once.
const PAGE: usize = 1024;
/// The row with the number of this life of the device as a writer.
pub(super) const INCARNATION: &[u8] = b"incarnation";
/// Mode of a new volume's top directory.
const ROOT_MODE: u16 = 0o755;

/// Which of its lives as a writer this is. Where a volume that others made is opened anew, this device may
/// have written to it in an earlier life, of which nothing is left here: so it begins another one.
fn incarnation(volume: &Volume, is_guest: bool, now_ms: u64) -> Result<u64, VfsError> {
    if let Some(row) = volume.get(OWN, INCARNATION)? {
        let bytes = row[..].try_into();
        let number = bytes.map_err(|_| unready("which life of this device it is is damaged"))?;
        return Ok(u64::from_be_bytes(number));
    }
    let is_empty = volume.get(OWN, MOMENT)?.is_none();
    let number = if is_guest && is_empty { now_ms } else { 0 };
    let mut group = Group::new();
    group.put(OWN, INCARNATION, &number.to_be_bytes());
    volume.apply(&group)?;
    Ok(number)
}

fn unready(why: &str) -> VfsError {
    VfsError::Unready(why.to_owned())
}

/// All rows of a space whose keys begin with `prefix`.
fn all_rows(
    volume: &Volume,
    space: Space,
    prefix: &[u8],
) -> Result<Vec<(Bytes, Bytes)>, crate::store::VolumeError> {
    let mut found = Vec::new();
    for page in pages(volume, space, prefix, PAGE) {
        found.extend(page?);
    }
    Ok(found)
}

impl Inner {
    /// Opens the volume and takes up what was left.
    pub(super) async fn begin_volume(
        parts: VfsParts,
        root_owner: (u32, u32),
        is_to_join: bool,
    ) -> Result<Arc<Inner>, VfsError> {
        let VfsParts {
            identity,
            share,
            blocks,
            clock,
            entropy,
            options,
        } = parts;
        if options.durability == Durability::Network && share.is_none() {
            // Nobody else has its names: no promise is better than a false one.
            return Err(VfsError::Unsupported(
                "durability = \"network\" needs other members who keep the names as well, and this volume is this machine's alone: share it (`cairn volume ticket`), or set durability to \"local\"",
            ));
        }
        let blocks = blocks.with_timeout(options.read_timeout);
        let quota = blocks.store().usage().quota;
        let engine = VolumeOptions {
            commit_interval: options.commit_interval / 2,
            // What is dead in the segment that is being written stays until the next one is begun, so a
            // small quota needs small ones.
            segment_bytes: (quota / 32).clamp(1 << 20, 32 << 20) as u32,
            flush_tail_bytes: (quota / 16).clamp(2 << 20, 64 << 20),
            ..VolumeOptions::default()
        };
        let (volume, report) = blocks.store().open_volume(identity.id, engine).await?;
        tracing::info!(?report, volume = %identity.id, "the volume is open");
        let kept = kept_ids(&volume);
        let next_kept = kept.last().map_or(1, |id| id.0 + 1);
        let dropped = all_rows(&volume, DROPPED, &[])?;
        let last_dropped = dropped
            .last()
            .and_then(|(key, _)| key.as_ref().try_into().ok());
        let next_dropped = last_dropped.map_or(1, |key| u64::from_be_bytes(key) + 1);
        let is_guest = share.as_ref().is_some_and(|share| share.is_guest);
        let incarnation = incarnation(&volume, is_guest, clock.now_ms())?;
        let shared = match share {
            Some(share) => Some(Shared::new(share, &identity, feed_ends(&volume)?)),
            None => None,
        };
        let inner = Inner::new(
            identity,
            incarnation,
            shared,
            blocks,
            volume,
            options,
            clock,
            entropy,
            next_kept,
            next_dropped,
            root_owner,
        )?;
        let inner = Arc::new(inner);
        inner.recall()?;
        if crate::namespace::join::unfinished(&inner.rows())?.is_some() {
            tracing::warn!(
                "the merging of a checkpoint was interrupted: nothing else is done before it is finished"
            );
            inner.checkpoints.gate.open(true);
        } else if is_to_join && !inner.has_root()? {
            inner.checkpoints.gate.open(true);
        } else {
            // Signatures of members are checked.
            let introduced = Arc::clone(&inner);
            let disk = &inner.blocks.pools().disk;
            let began = disk.run(move || introduced.introduce()).await;
            began.map_err(|_| unready("its feed cannot be begun"))?;
            inner.make_root(root_owner)?;
            inner.recover_files(kept)?;
        }
        inner.recover_claims().await?;
        Ok(inner)
    }

    /// What the row of its own says.
    fn recall(&self) -> Result<(), VfsError> {
        if let Some(moment) = self.volume.get(OWN, MOMENT)?
            && let Ok(bytes) = moment.as_ref().try_into()
        {
            self.observe(Hlc(u64::from_be_bytes(bytes)));
        }
        let files = match self.volume.get(OWN, FILES)?.map(|row| row[..].try_into()) {
            Some(Ok(bytes)) => u64::from_be_bytes(bytes),
            // It is new, or of a version that did not count.
            _ => census::count_shown(&self.rows())?,
        };
        self.files.store(files, Ordering::Relaxed);
        let has_acls = self.volume.get(OWN, HAS_ACLS)?.is_some();
        self.acls.store(has_acls, Ordering::Relaxed);
        self.recall_policies()?;
        match self.promise_moments() {
            // A full disk is no reason not to read what is there. It is tried again all the time.
            Err(error) if crate::base::Classify::class(&error) == crate::base::Class::Full => {
                tracing::warn!("the clock's promise is renewed later: {error}");
                Ok(())
            }
            promised => promised,
        }
    }

    /// Writes down a moment that is later than those used until this is called again.
    pub(super) fn promise_moments(&self) -> Result<(), VfsError> {
        let last = self.now().hlc.0;
        let promised = self.promised.load(Ordering::Relaxed);
        if last.saturating_add(MOMENT_AHEAD / 2) > promised {
            let ahead = last.saturating_add(MOMENT_AHEAD);
            let mut group = Group::new();
            group.cleanup();
            group.put(OWN, MOMENT, &ahead.to_be_bytes());
            self.volume.apply(&group)?;
            self.promised.store(ahead, Ordering::Relaxed);
        }
        Ok(())
    }

    fn has_root(&self) -> Result<bool, VfsError> {
        let root = self.rows().get(&Key::Attrs(Ino::ROOT).encode())?;
        Ok(root.is_some())
    }

    pub(super) fn make_root(&self, (uid, gid): (u32, u32)) -> Result<(), VfsError> {
        let is_guest = |shared: &Shared| shared.share.is_guest;
        let others_make_it = self.shared().is_some_and(is_guest);
        if others_make_it || self.has_root()? {
            return Ok(());
        }
        let mut core = self.core();
        let edited = self.prepare(&core, self.now(), |edit| {
            edit.create_root(ROOT_MODE, uid, gid)
        });
        let made = edited.and_then(|edited| self.commit(&mut core, edited));
        made.map(drop)
            .map_err(|_| VfsError::Unready("its top directory cannot be made".to_owned()))
    }

    /// Files with changes that are in the journal only.
    pub(super) fn recover_files(&self, kept: BTreeSet<KeptId>) -> Result<(), VfsError> {
        let mut used = BTreeSet::new();
        self.forget_bases()?;
        for (key, row) in all_rows(&self.volume, HEADS, &[])? {
            let (Ok(ino), Some(head)) = (key.as_ref().try_into().map(Ino), decode_head(&row))
            else {
                return Err(VfsError::Unready(
                    "a row of a changed file is damaged".to_owned(),
                ));
            };
            let mut pieces = BTreeMap::new();
            for (key, row) in all_rows(&self.volume, PIECES, &ino.0)? {
                let offset = key.get(16..).and_then(|bytes| bytes.try_into().ok());
                let (Some(offset), Some(noted)) =
                    (offset.map(u64::from_be_bytes), decode_piece(&row))
                else {
                    return Err(VfsError::Unready(
                        "a row of a changed file is damaged".to_owned(),
                    ));
                };
                pieces.insert(offset, noted);
            }
            let stat = self.look(|view| view.stat_ino(ino));
            let stat =
                stat.map_err(|_| VfsError::Unready("the namespace cannot be read".to_owned()))?;
            let base = self.volume.get(BASES, &ino.0)?;
            let base = base.and_then(|row| decode_base(ino, &row));
            let has_base_row = base.is_some();
            let content = stat.and_then(|stat| stat.content);
            let content = base.as_ref().or(content.as_ref());
            let Some(content) = content else {
                // It was removed while it was open.
                let mut notes = Notes {
                    pieces,
                    ..Notes::default()
                };
                self.forget_file(ino, &mut notes)?;
                continue;
            };
            let mut state = FileState::of(content, head.mtime);
            state.head = head;
            state.has_base_row = has_base_row;
            state.is_changed = true;
            state.dirty_since = Some(state.changed_at);
            state.notes.head = Some(head);
            let placed = pieces.values().find_map(|noted| match &noted.place {
                NotedPlace::Block(block, _) => Some(block.id),
                _ => None,
            });
            if let Some(id) = placed
                && let Some(tenant) = self.tenant(id)?
            {
                // What is placed already decides for the rest.
                state.profile = Some(self.profile_of_block(&tenant));
            }
            for (offset, noted) in &pieces {
                if let NotedPlace::Kept(id, _) = noted.place {
                    used.insert(id);
                    // Of what was lost no other data may take the number.
                    self.next_kept
                        .fetch_max(id.0.saturating_add(1), Ordering::Relaxed);
                    if kept.contains(&id) {
                        *state.notes.users.entry(id).or_insert(0) += 1;
                    }
                }
                state.overlay.put(piece_of(*offset, noted));
            }
            state.notes.pieces = pieces;
            // A change replaces a content in its row as a whole.
            state.lift();
            // What was cut off may not be forgotten yet: it must not come back when the file grows.
            state.overlay.clear(head.size, u64::MAX);
            state.stale(head.size, u64::MAX);
            self.observe(head.edited);
            if state.origin.edits.get(&self.writer()) >= head.edited.0 {
                // It came back after the last change, and its description is later than that.
                state.head.edited = self.now().hlc;
            }
            // From here on it is counted what becomes more or less.
            self.totals.begin_with(&state);
            let mut core = self.core();
            let (number, node) = core.inodes.node(ino);
            let cell = Arc::new(FileCell::new(number, ino, state));
            node.file = Some(Arc::clone(&cell));
            drop(core);
            self.queue(&cell, &mut self.lock(&cell));
        }
        // What no piece uses any more.
        let unused: Vec<KeptId> = kept.difference(&used).copied().collect();
        for part in unused.chunks(PAGE) {
            let mut group = Group::new();
            group.cleanup();
            for id in part {
                group.release(DirtyId(id.0));
            }
            self.volume.apply(&group)?;
        }
        Ok(())
    }

    /// What files were made from of which no change is in the journal: nothing is made from it any more.
    fn forget_bases(&self) -> Result<(), VfsError> {
        let mut stale = Vec::new();
        for (key, _) in all_rows(&self.volume, BASES, &[])? {
            if self.volume.get(HEADS, &key)?.is_none() {
                stale.push(key);
            }
        }
        for keys in stale.chunks(PAGE) {
            let mut group = Group::new();
            group.cleanup();
            for key in keys {
                group.remove(BASES, key);
            }
            self.volume.apply(&group)?;
        }
        Ok(())
    }

    /// Uploads that were finished just before a crash: the volume may not know of them.
    async fn recover_claims(&self) -> Result<(), VfsError> {
        let store = self.blocks.store();
        let rows = store.kv_scan(CLAIMS, &self.identity.id.0).await;
        let rows = rows.map_err(|error| VfsError::Unready(error.to_string()))?;
        for (key, value) in rows {
            let number = key.get(16..).and_then(|bytes| bytes.try_into().ok());
            let noted = claim_row::decode(&value);
            let Some((number, (block, noted))) = number.map(u64::from_be_bytes).zip(noted) else {
                continue;
            };
            let tenant = self.tenant(block)?;
            let is_known = tenant
                .is_some_and(|tenant| tenant.keepers.iter().any(|keeper| keeper.number == number));
            if !is_known {
                let told = claim_row::told(&self.blocks, noted);
                let released = self.blocks.release(self.identity.owner, number, told);
                released
                    .await
                    .map_err(|error| VfsError::Unready(error.to_string()))?;
            }
            let gone = store.kv_put(vec![(CLAIMS.to_owned(), key, None)]).await;
            gone.map_err(|error| VfsError::Unready(error.to_string()))?;
        }
        Ok(())
    }
}

pub(super) fn kept_ids(volume: &Volume) -> BTreeSet<KeptId> {
    let mut all = BTreeSet::new();
    let mut from = DirtyId(0);
    loop {
        let page = volume.dirty(from, PAGE);
        let Some((last, _)) = page.last() else {
            return all;
        };
        from = DirtyId(last.0 + 1);
        all.extend(page.iter().map(|(id, _)| KeptId(id.0)));
    }
}

fn piece_of(offset: u64, noted: &Noted) -> Piece {
    let source = match noted.place {
        NotedPlace::Kept(id, at) => Source::Journal { id, at },
        NotedPlace::Block(block, at) => Source::Block { block, at },
        NotedPlace::Hole => Source::Hole,
    };
    Piece {
        offset,
        len: noted.len,
        source,
    }
}
