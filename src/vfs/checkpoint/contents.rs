//! Contents of files that came or went in a join: what of one's own blocks they use.
//!
//! A block is counted by who placed it, whoever names it. What a content that came uses of own blocks is counted at
//! once where its extents are in its row; if it has a manifest, a row says that it is to be counted, and until
//! that is done nothing is let go. What went is let go as if it had been dropped here.

use super::failure::CheckpointFailure;
use crate::base::Classify;
use crate::dag;
use crate::namespace::state::{Siblings, decode_row};
use crate::namespace::{Body, Changes, Key, Rows, Value, census};
use crate::store::{Group, VolumeError};
use crate::vfs::inner::{Core, Inner};
use crate::vfs::ledger::{Deltas, decode_dropped, encode_dropped};
use crate::vfs::read::ReadError;
use crate::vfs::remove::{Gone, drop_body_as};
use crate::vfs::rows::{BLOCKS, CHECKPOINTS, OWN, pages};
use crate::vfs::xattr::{HAS_ACLS, is_acl};

/// First byte of the keys of contents that came and are to be counted.
pub(in crate::vfs) const CAME: u8 = 3;
/// Rows read at once.
const PAGE: usize = 64;

/// What came and went with the rows of one group.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// How many more files there are.
    pub(super) files: i64,
    /// Contents that went.
    gone: u64,
    /// Whether some file has an access control list now.
    has_acls: bool,
}

/// The contents in blocks that a row names.
pub(in crate::vfs) fn bodies(row: &Siblings) -> Vec<Gone> {
    let mut found: Vec<Gone> = Vec::new();
    for sibling in row.iter() {
        if let Value::Content(content) = &sibling.value
            && let Body::Stored(profile, body) = &content.body
        {
            let body = (*profile, body.clone());
            if !found.contains(&body) {
                found.push(body);
            }
        }
    }
    found
}

fn came_key(number: u64) -> Vec<u8> {
    [&[CAME], &number.to_be_bytes()[..]].concat()
}

impl Inner {
    /// Looks through changes of rows, and adds to their group what is to become of blocks.
    pub(super) fn contents(
        &self,
        core: &Core,
        changes: &Changes,
        group: &mut Group,
        deltas: &mut Deltas,
    ) -> Result<Contents, CheckpointFailure> {
        let rows = self.rows();
        let mut found = Contents {
            files: census::more_shown(&rows, changes)?,
            ..Contents::default()
        };
        // Whoever placed nothing has nothing to count.
        let mut has_books = false;
        for page in pages(&self.volume, BLOCKS, &[], 1) {
            // A page may be empty although more follow.
            has_books = !page?.is_empty();
            if has_books {
                break;
            }
        }
        let mut next_came = None;
        for (bytes, value) in changes {
            match Key::decode(bytes) {
                Ok(Key::Xattr(_, name)) if value.is_some() && is_acl(&name) => {
                    found.has_acls = true;
                }
                Ok(key @ Key::Content(_)) if has_books => {
                    let before = bodies(&rows.siblings(&key)?);
                    let after = match value {
                        Some(value) => bodies(&decode_row(&key, value)?),
                        None => Vec::new(),
                    };
                    for gone in before.iter().filter(|body| !after.contains(body)) {
                        drop_body_as(core.next_dropped + found.gone, gone, group);
                        found.gone += 1;
                    }
                    for body in after.iter().filter(|body| !before.contains(body)) {
                        if !self.count_at_once(body, deltas)? {
                            let number = match next_came {
                                Some(number) => number,
                                None => self.next_came()?,
                            };
                            let (profile, body) = body;
                            let row = encode_dropped(*profile, body, 0);
                            group.put(CHECKPOINTS, &came_key(number), &row);
                            next_came = Some(number + 1);
                        }
                    }
                }
                _ => {}
            }
        }
        if found.has_acls && !self.has_acls() {
            group.put(OWN, HAS_ACLS, &[]);
        }
        Ok(found)
    }

    /// Counts what a content uses of own blocks, if its row says all of it and it is not too much for one group.
    pub(in crate::vfs) fn count_at_once(
        &self,
        (_, body): &Gone,
        deltas: &mut Deltas,
    ) -> Result<bool, VolumeError> {
        let dag::Body::Inline(extents) = body else {
            return Ok(false);
        };
        if deltas.0.len() + extents.len() > self.blocks_per_group() {
            return Ok(false);
        }
        for extent in extents {
            if self.tenant(extent.block.id)?.is_some() {
                deltas.extents(std::slice::from_ref(extent), 1);
            }
        }
        Ok(true)
    }

    fn next_came(&self) -> Result<u64, VolumeError> {
        let mut last = 0;
        for page in pages(&self.volume, CHECKPOINTS, &[CAME], PAGE) {
            for (key, _) in page? {
                let number = key.get(1..).and_then(|bytes| bytes.try_into().ok());
                last = number.map_or(last, u64::from_be_bytes);
            }
        }
        Ok(last + 1)
    }

    /// The group was applied.
    pub(super) fn are_counted(&self, core: &mut Core, contents: &Contents) {
        if contents.has_acls {
            self.acls.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        core.next_dropped += contents.gone;
        if contents.gone > 0 {
            self.dropping.notify_one();
        }
    }

    /// Adds to a group that a content came which uses own blocks, and is to be counted later. The caller holds the core.
    pub(in crate::vfs) fn comes(
        &self,
        (profile, body): &Gone,
        group: &mut Group,
    ) -> Result<(), VolumeError> {
        let number = self.next_came()?;
        group.put(
            CHECKPOINTS,
            &came_key(number),
            &encode_dropped(*profile, body, 0),
        );
        Ok(())
    }

    /// Counts contents with manifests that joins brought, or that were brought back. To be done before anything is let
    /// go.
    pub(in crate::vfs) async fn count_what_came(&self) -> Result<(), ReadError> {
        let _turn = self.checkpoints.counting.lock().await;
        let failed = |error: VolumeError| ReadError::Journal(error.to_string(), error.class());
        for page in pages(&self.volume, CHECKPOINTS, &[CAME], PAGE) {
            for (key, row) in page.map_err(failed)? {
                let Some((Body::Stored(profile, body), mut from)) = decode_dropped(&row) else {
                    continue;
                };
                loop {
                    let (uses, next) = match &body {
                        dag::Body::Manifest(root) => self.uses_from(profile, *root, from).await?,
                        dag::Body::Inline(extents) => {
                            let mut uses = Deltas::default();
                            uses.extents(extents, 1);
                            (uses, None)
                        }
                    };
                    let mut known = Deltas::default();
                    for (block, bytes) in uses.0 {
                        if self.tenant(block).map_err(failed)?.is_some() {
                            known.add(block, bytes);
                        }
                    }
                    let mut group = Group::new();
                    group.cleanup();
                    match next {
                        Some(next) => {
                            let row = encode_dropped(profile, &body, next);
                            group.put(CHECKPOINTS, &key, &row);
                        }
                        None => {
                            group.remove(CHECKPOINTS, &key);
                        }
                    }
                    self.apply_counted(&mut group, &known, &[])
                        .map_err(failed)?;
                    match next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
            }
        }
        Ok(())
    }
}
