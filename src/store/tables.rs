//! The index database: the tables of a store and their rows.
//!
//! What does not verify is answered by [`IndexError::Damaged`], and the answer to that is always the same:
//! the index is rebuilt from the log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use super::database::{Batch, Database, How, Medium, RawRow, Snapshot, Table};
use super::disk::Disk;
use super::record::KvKey;
use super::rows::{
    BlockRow, Checkpoint, ClaimRow, KvRow, Rows, SegmentRow, Stored, claim_key, claim_of_key,
    digest_at, further_key, further_short, member_block, member_key,
};
use crate::base::{BlockId, ClaimId};

pub(super) use super::database::DatabaseError as IndexError;

/// Version of the tables. Another one found is answered by a rebuild.
const INDEX_VERSION: u8 = 3;
/// The only key of the table of totals.
const CHECKPOINT_KEY: &[u8] = &[INDEX_VERSION];

const fn table(number: u8, name: &'static str) -> Table {
    Table { number, name }
}

const BLOCKS: Table = table(1, "blocks");
const CLAIMS: Table = table(2, "claims");
const MEMBERS: Table = table(3, "members");
const KV: Table = table(4, "kv");
const SEGMENTS: Table = table(5, "segments");
const META: Table = table(6, "meta");
const GROUPS: Table = table(7, "groups");
const SHORTS: Table = table(8, "shorts");
const FURTHER: Table = table(9, "further");
const ALL: [Table; 9] = [
    BLOCKS, CLAIMS, MEMBERS, KV, SEGMENTS, META, GROUPS, SHORTS, FURTHER,
];

/// The open index database.
#[derive(Debug)]
pub(super) struct Tables(Database);

fn get<T: Stored>(snapshot: &Snapshot, key: &[u8]) -> Result<Option<T>, IndexError> {
    snapshot.get(key, T::decode)
}

fn unpack<T: Stored>(snapshot: &Snapshot, value: &[u8]) -> Result<T, IndexError> {
    T::decode(value).ok_or_else(|| snapshot.damaged())
}

impl Tables {
    /// Opens the database in file `name`, creating it if there is none, and checks all its pages.
    pub(super) fn open(
        disk: &dyn Disk,
        name: &str,
        cache_bytes: usize,
    ) -> Result<Self, IndexError> {
        let file = match disk.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(name),
            other => other,
        };
        let medium = Medium::Plain(file.map_err(IndexError::Io)?);
        let how = How {
            cache_bytes,
            is_checked: true,
            is_quick: false,
        };
        let tables = Database::open(medium, how, &ALL).map(Tables)?;
        // The rows of another version would be misread.
        let snapshot = tables.0.snapshot(META)?;
        let mut is_other = false;
        snapshot.range(Bound::Unbounded, Bound::Unbounded, false, |key, _| {
            is_other |= key != CHECKPOINT_KEY;
            Ok(true)
        })?;
        if is_other {
            return Err(IndexError::Damaged("it is of another version".to_owned()));
        }
        Ok(tables)
    }

    /// At most `limit` blocks of a group, or of all, after `after`, in order.
    pub(super) fn block_page(
        &self,
        group: Option<u16>,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockRow)>, IndexError> {
        let prefix = group.map(u16::to_be_bytes);
        // The prefix itself comes before all that begin with it.
        let from = match (after, &prefix) {
            (Some(after), _) => Some(after.0.as_slice()),
            (None, Some(prefix)) => Some(prefix.as_slice()),
            (None, None) => None,
        };
        self.page(BLOCKS, from, limit, |rows, key, value| {
            if prefix.is_some_and(|prefix| !key.starts_with(&prefix)) {
                return Ok(None);
            }
            let id = key.try_into().map_err(|_| rows.damaged())?;
            Ok(Some((BlockId(id), unpack(rows, value)?)))
        })
    }

    /// The digest of a group; 0 if there is no row.
    pub(super) fn group(&self, group: u16) -> Result<u128, IndexError> {
        let digests = self.groups(&[group])?;
        Ok(digests.first().copied().unwrap_or(0))
    }

    /// The digests of many groups, in their order.
    pub(super) fn groups(&self, groups: &[u16]) -> Result<Vec<u128>, IndexError> {
        let snapshot = self.0.snapshot(GROUPS)?;
        let digest = |group: &u16| {
            let found = snapshot.get(&group.to_be_bytes(), |value| digest_at(value, 0))?;
            Ok(found.unwrap_or(0))
        };
        groups.iter().map(digest).collect()
    }

    /// Which claim a short number stands for.
    pub(super) fn short(&self, short: u64) -> Result<Option<ClaimId>, IndexError> {
        let snapshot = self.0.snapshot(SHORTS)?;
        snapshot.get(&short.to_be_bytes(), claim_of_key)
    }

    fn get<T: Stored>(&self, table: Table, key: &[u8]) -> Result<Option<T>, IndexError> {
        get(&self.0.snapshot(table)?, key)
    }

    /// The row of one block.
    pub(super) fn block(&self, id: &BlockId) -> Result<Option<BlockRow>, IndexError> {
        self.get(BLOCKS, &id.0)
    }

    /// The rows of many blocks, in their order.
    pub(super) fn blocks(&self, ids: &[&BlockId]) -> Result<Vec<Option<BlockRow>>, IndexError> {
        let snapshot = self.0.snapshot(BLOCKS)?;
        ids.iter().map(|id| get(&snapshot, &id.0)).collect()
    }

    /// The row of one claim.
    pub(super) fn claim(&self, id: &ClaimId) -> Result<Option<ClaimRow>, IndexError> {
        self.get(CLAIMS, &claim_key(id))
    }

    /// At most `limit` claims after `after`, in order.
    pub(super) fn claims(
        &self,
        after: Option<&ClaimId>,
        limit: usize,
    ) -> Result<Vec<(ClaimId, ClaimRow)>, IndexError> {
        let from = after.map(claim_key);
        self.page(
            CLAIMS,
            from.as_ref().map(<[u8; 56]>::as_slice),
            limit,
            |rows, key, value| {
                let id = claim_of_key(key).ok_or_else(|| rows.damaged())?;
                Ok(Some((id, unpack(rows, value)?)))
            },
        )
    }

    /// Whether claim number `short` names `block`.
    pub(super) fn is_member(&self, short: u64, block: &BlockId) -> Result<bool, IndexError> {
        let key = member_key(short, block);
        let found = self.0.snapshot(MEMBERS)?.get(&key, |_| Some(()))?;
        Ok(found.is_some())
    }

    /// At most `limit` blocks after `after` that claim number `short` names, in order.
    pub(super) fn members(
        &self,
        short: u64,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, IndexError> {
        // The key before the first of this claim is the greatest of the claim before it.
        let from = match after {
            Some(block) => Some(member_key(short, block)),
            None => short
                .checked_sub(1)
                .map(|previous| member_key(previous, &BlockId([0xff; 32]))),
        };
        self.page(
            MEMBERS,
            from.as_ref().map(<[u8; 40]>::as_slice),
            limit,
            |rows, key, _| {
                if !key.starts_with(&short.to_be_bytes()) {
                    return Ok(None);
                }
                member_block(key).map(Some).ok_or_else(|| rows.damaged())
            },
        )
    }

    /// At most `limit` numbers, from `from` on, of claims that the row of `block` does not name, in order.
    pub(super) fn further(
        &self,
        block: &BlockId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, IndexError> {
        // The block itself comes before all keys that begin with it.
        let before = from.checked_sub(1).map(|before| further_key(block, before));
        let after = before.as_ref().map(<[u8; 40]>::as_slice);
        let after = after.unwrap_or(&block.0);
        self.page(FURTHER, Some(after), limit, |rows, key, _| {
            if !key.starts_with(&block.0) {
                return Ok(None);
            }
            further_short(key).map(Some).ok_or_else(|| rows.damaged())
        })
    }

    /// One small record.
    pub(super) fn kv(&self, key: &KvKey) -> Result<Option<KvRow>, IndexError> {
        self.get(KV, &key.0)
    }

    /// At most `limit` small records whose keys begin with `prefix` and come after `after`.
    pub(super) fn kv_page(
        &self,
        prefix: &KvKey,
        after: Option<&KvKey>,
        limit: usize,
    ) -> Result<Vec<(KvKey, KvRow)>, IndexError> {
        let take = |rows: &Snapshot, key: &[u8], value: &[u8]| {
            if !key.starts_with(&prefix.0) {
                return Ok(None);
            }
            let row = unpack(rows, value)?;
            Ok(Some((KvKey(key.to_vec()), row)))
        };
        if let Some(after) = after {
            return self.page(KV, Some(&after.0), limit, take);
        }
        let mut found = Vec::new();
        if let Some(row) = self.kv(prefix)? {
            found.push((prefix.clone(), row));
        }
        let rest = limit.saturating_sub(found.len());
        found.extend(self.page(KV, Some(&prefix.0), rest, take)?);
        Ok(found)
    }

    /// All segments.
    pub(super) fn segments(&self) -> Result<BTreeMap<u32, SegmentRow>, IndexError> {
        let rows = self.page(SEGMENTS, None, usize::MAX, |rows, key, value| {
            let id = key.try_into().map_err(|_| rows.damaged())?;
            let row = unpack(rows, value)?;
            Ok(Some((u32::from_be_bytes(id), row)))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// To where the index is up to date; `None` if it is new.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        self.get(META, CHECKPOINT_KEY)
    }

    /// Rows after the key `after` in order, as long as `take` answers some.
    fn page<T>(
        &self,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
        take: impl Fn(&Snapshot, &[u8], &[u8]) -> Result<Option<T>, IndexError>,
    ) -> Result<Vec<T>, IndexError> {
        let snapshot = self.0.snapshot(table)?;
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        snapshot.range(from, Bound::Unbounded, false, |key, value| {
            let Some(item) = take(&snapshot, key, value)? else {
                return Ok(false);
            };
            found.push(item);
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// Writes changed rows and the checkpoint to which they belong, durably and all or nothing.
    pub(super) fn commit(&self, rows: &Rows, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        self.0.commit(|batch: &mut Batch<'_>| {
            batch.put(BLOCKS, rows.blocks.iter().map(|(id, row)| raw(&id.0, row)))?;
            batch.put(
                CLAIMS,
                rows.claims.iter().map(|(id, row)| raw(&claim_key(id), row)),
            )?;
            let members = rows.members.iter().map(|((short, block), present)| {
                let key = member_key(*short, block).to_vec();
                (Cow::Owned(key), present.then(Cow::default))
            });
            batch.put(MEMBERS, members)?;
            let further = rows.further.iter().map(|((block, short), present)| {
                let key = further_key(block, *short).to_vec();
                (Cow::Owned(key), present.then(Cow::default))
            });
            batch.put(FURTHER, further)?;
            batch.put(KV, rows.kv.iter().map(|(key, row)| raw(&key.0, row)))?;
            let segments = rows.segments.iter();
            batch.put(
                SEGMENTS,
                segments.map(|(id, row)| raw(&id.to_be_bytes(), row)),
            )?;
            let groups = rows.groups.iter().map(|(group, digest)| {
                let value = (*digest != 0).then(|| Cow::Owned(digest.to_le_bytes().to_vec()));
                (Cow::Owned(group.to_be_bytes().to_vec()), value)
            });
            batch.put(GROUPS, groups)?;
            let shorts = rows.shorts.iter().map(|(short, claim)| {
                let value = claim.map(|claim| Cow::Owned(claim_key(&claim).to_vec()));
                (Cow::Owned(short.to_be_bytes().to_vec()), value)
            });
            batch.put(SHORTS, shorts)?;
            let value = Cow::Owned(checkpoint.encode());
            let meta = (Cow::Borrowed(CHECKPOINT_KEY), Some(value));
            batch.put(META, std::iter::once(meta))
        })
    }
}

fn raw<T: Stored>(key: &[u8], row: &Option<T>) -> RawRow<'static> {
    let value = row.as_ref().map(|row| Cow::Owned(row.encode()));
    (Cow::Owned(key.to_vec()), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemDisk;

    #[test]
    fn tables_of_another_version_are_not_read() {
        let disk = MemDisk::new(1 << 24);
        let tables = Tables::open(&disk, "tables", 1 << 20).unwrap();
        let old = (Cow::Borrowed(&[1u8][..]), Some(Cow::Owned(vec![0; 20])));
        let written = tables
            .0
            .commit(|batch| batch.put(META, std::iter::once(old)));
        written.unwrap();
        drop(tables);
        match Tables::open(&disk, "tables", 1 << 20) {
            Err(IndexError::Damaged(why)) => assert!(why.contains("another version")),
            other => panic!("{other:?}"),
        }
    }
}
