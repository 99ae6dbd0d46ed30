//! The index as readers and the writer see it: changes in memory on top of the database.
//!
//! Holds what is durable in the log, never more. Look-ups ask the changes first and the database
//! next; a flush moves changes down before it forgets them, so a look-up at any moment is right.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::disk::Disk;
use super::quota::OTHER_ROW_COST;
use super::record::{KvKey, Position};
use super::rows::{BlockRow, Checkpoint, ClaimRow, KvRow, Rows, SegmentRow};
use super::tables::{IndexError, Tables};
use crate::base::{BlockId, ClaimId, ShardId};

/// The index's file.
pub(super) const INDEX_FILE: &str = "store/index.redb";
/// Damaged shards remembered between two flushes. More are found again when read again.
const DAMAGED_MAX: usize = 1 << 16;

/// Shared between the writer and all readers.
#[derive(Debug)]
pub(super) struct Index {
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` only while the database is being replaced.
    tables: Option<Tables>,
    /// Durable in the log and not yet in the database.
    changes: Rows,
    /// What the small records among them will take in the database.
    kv_bytes: u64,
    /// All segments, with their changes.
    segments: BTreeMap<u32, SegmentRow>,
    /// Shards that a reader found damaged, where they were, until they are taken out.
    damaged: BTreeMap<ShardId, Position>,
    /// Shards whose rows say that they are damaged, and that are not.
    sound: BTreeMap<ShardId, Position>,
    /// Shards that the disk did not give when they were last read.
    unread: BTreeSet<ShardId>,
}

/// What a small record may take in the database: pages are half empty at worst.
fn cost(key: &KvKey, row: &Option<KvRow>) -> u64 {
    let value = row.as_ref().and_then(|row| row.value.as_ref());
    let bytes = key.0.len() + value.map_or(0, bytes::Bytes::len);
    OTHER_ROW_COST + 2 * bytes as u64
}

/// A page of rows, and the key after which to go on (`None`: that was all).
pub(super) struct Page<K, V> {
    pub(super) rows: Vec<(K, V)>,
    pub(super) next: Option<K>,
}

impl Inner {
    fn tables(&self) -> Result<&Tables, IndexError> {
        self.tables
            .as_ref()
            .ok_or_else(|| IndexError::Damaged("it is being replaced".to_owned()))
    }

    fn mark(&self, id: &BlockId, row: &mut BlockRow) {
        if self.damaged.is_empty() && self.sound.is_empty() {
            return;
        }
        for shard in &mut row.shards {
            let name = ShardId {
                block: *id,
                index: shard.index,
            };
            shard.damaged |= self.damaged.get(&name) == Some(&shard.at);
            shard.damaged &= self.sound.get(&name) != Some(&shard.at);
        }
    }
}

impl Index {
    /// An index on an open database, with the segments it knows.
    pub(super) fn new(tables: Tables) -> Result<Self, IndexError> {
        let segments = tables.segments()?;
        Ok(Index {
            inner: RwLock::new(Inner {
                tables: Some(tables),
                changes: Rows::default(),
                kv_bytes: 0,
                segments,
                damaged: BTreeMap::new(),
                sound: BTreeMap::new(),
                unread: BTreeSet::new(),
            }),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Throws the database away and begins an empty one in its place.
    pub(super) fn replace(&self, disk: &dyn Disk, cache_bytes: usize) -> Result<(), IndexError> {
        let mut inner = self.write();
        inner.tables = None;
        inner.changes = Rows::default();
        inner.kv_bytes = 0;
        inner.segments = BTreeMap::new();
        remove_file(disk)?;
        inner.tables = Some(Tables::open(disk, INDEX_FILE, cache_bytes)?);
        Ok(())
    }

    /// Closes the database. Look-ups fail from then on.
    pub(super) fn close(&self) {
        self.write().tables = None;
    }

    pub(super) fn block(&self, id: &BlockId) -> Result<Option<BlockRow>, IndexError> {
        let inner = self.read();
        let mut row = match inner.changes.blocks.get(id) {
            Some(changed) => changed.clone(),
            None => inner.tables()?.block(id)?,
        };
        if let Some(row) = &mut row {
            inner.mark(id, row);
        }
        Ok(row)
    }

    /// The rows of many blocks, in their order.
    pub(super) fn blocks(&self, ids: &[BlockId]) -> Result<Vec<Option<BlockRow>>, IndexError> {
        let inner = self.read();
        let changed = |id: &BlockId| inner.changes.blocks.get(id);
        let unchanged: Vec<&BlockId> = ids.iter().filter(|id| changed(id).is_none()).collect();
        let mut stored = inner.tables()?.blocks(&unchanged)?.into_iter();
        let rows = ids.iter().map(|id| {
            let mut row = match changed(id) {
                Some(row) => row.clone(),
                None => stored.next().flatten(),
            };
            if let Some(row) = &mut row {
                inner.mark(id, row);
            }
            row
        });
        Ok(rows.collect())
    }

    pub(super) fn claim(&self, id: &ClaimId) -> Result<Option<ClaimRow>, IndexError> {
        let inner = self.read();
        match inner.changes.claims.get(id) {
            Some(changed) => Ok(*changed),
            None => inner.tables()?.claim(id),
        }
    }

    pub(super) fn claims(
        &self,
        after: Option<&ClaimId>,
        limit: usize,
    ) -> Result<Page<ClaimId, ClaimRow>, IndexError> {
        let inner = self.read();
        let base = inner.tables()?.claims(after, limit)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let changes = inner.changes.claims.range((from, Bound::Unbounded));
        Ok(overlay(base, limit, changes.map(|(id, row)| (*id, *row))))
    }

    pub(super) fn is_member(&self, short: u64, block: &BlockId) -> Result<bool, IndexError> {
        let inner = self.read();
        match inner.changes.members.get(&(short, *block)) {
            Some(changed) => Ok(*changed),
            None => inner.tables()?.is_member(short, block),
        }
    }

    /// Blocks that claim number `short` names, with `later` changes on top.
    pub(super) fn members(
        &self,
        short: u64,
        after: Option<&BlockId>,
        limit: usize,
        later: &Rows,
    ) -> Result<Page<BlockId, ()>, IndexError> {
        let inner = self.read();
        let base = inner.tables()?.members(short, after, limit)?;
        let range = |rows: &Rows| -> Vec<(BlockId, Option<()>)> {
            let from = after.map_or(Bound::Included((short, BlockId([0; 32]))), |block| {
                Bound::Excluded((short, *block))
            });
            let to = Bound::Included((short, BlockId([0xff; 32])));
            let members = rows.members.range((from, to));
            members
                .map(|((_, block), present)| (*block, present.then_some(())))
                .collect()
        };
        let mut changes: BTreeMap<_, _> = range(&inner.changes).into_iter().collect();
        changes.extend(range(later));
        let base = base.into_iter().map(|block| (block, ())).collect();
        Ok(overlay(base, limit, changes.into_iter()))
    }

    /// Numbers, from `from` on, of claims that the row of `block` does not name, in order.
    pub(super) fn further(
        &self,
        block: &BlockId,
        from: u64,
        limit: usize,
    ) -> Result<Page<u64, ()>, IndexError> {
        let inner = self.read();
        let base = inner.tables()?.further(block, from, limit)?;
        let base = base.into_iter().map(|short| (short, ())).collect();
        let range = (*block, from)..=(*block, u64::MAX);
        let changes = inner.changes.further.range(range);
        let changes = changes.map(|((_, short), present)| (*short, present.then_some(())));
        Ok(overlay(base, limit, changes))
    }

    pub(super) fn kv(&self, key: &KvKey) -> Result<Option<KvRow>, IndexError> {
        let inner = self.read();
        match inner.changes.kv.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => inner.tables()?.kv(key),
        }
    }

    pub(super) fn kv_page(
        &self,
        prefix: &KvKey,
        after: Option<&KvKey>,
        limit: usize,
    ) -> Result<Page<KvKey, KvRow>, IndexError> {
        let inner = self.read();
        let base = inner.tables()?.kv_page(prefix, after, limit)?;
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let changes = inner
            .changes
            .kv
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.0.starts_with(&prefix.0));
        Ok(overlay(
            base,
            limit,
            changes.map(|(key, row)| (key.clone(), row.clone())),
        ))
    }

    /// Rows of blocks of a group, or of all, in order.
    pub(super) fn block_page(
        &self,
        group: Option<u16>,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Page<BlockId, BlockRow>, IndexError> {
        let inner = self.read();
        let base = inner.tables()?.block_page(group, after, limit)?;
        let is_ours = |id: &BlockId| group.is_none_or(|group| id.group().0 == group);
        let first = |group: u16| {
            let mut first = BlockId([0; 32]);
            for (byte, value) in first.0.iter_mut().zip(group.to_be_bytes()) {
                *byte = value;
            }
            Bound::Included(first)
        };
        let from = match after {
            Some(after) => Bound::Excluded(*after),
            None => group.map_or(Bound::Unbounded, first),
        };
        let changes = inner.changes.blocks.range((from, Bound::Unbounded));
        let changes = changes.take_while(|(id, _)| is_ours(id));
        let mut page = overlay(base, limit, changes.map(|(id, row)| (*id, row.clone())));
        for (id, row) in &mut page.rows {
            inner.mark(id, row);
        }
        Ok(page)
    }

    /// The digest of a group.
    pub(super) fn group(&self, group: u16) -> Result<u128, IndexError> {
        let inner = self.read();
        match inner.changes.groups.get(&group) {
            Some(changed) => Ok(*changed),
            None => inner.tables()?.group(group),
        }
    }

    /// The digests of many groups, in their order.
    pub(super) fn groups(&self, groups: &[u16]) -> Result<Vec<u128>, IndexError> {
        let inner = self.read();
        let mut digests = inner.tables()?.groups(groups)?;
        for (digest, group) in digests.iter_mut().zip(groups) {
            if let Some(changed) = inner.changes.groups.get(group) {
                *digest = *changed;
            }
        }
        Ok(digests)
    }

    /// Which claim a short number stands for.
    pub(super) fn short(&self, short: u64) -> Result<Option<ClaimId>, IndexError> {
        let inner = self.read();
        match inner.changes.shorts.get(&short) {
            Some(changed) => Ok(*changed),
            None => inner.tables()?.short(short),
        }
    }

    pub(super) fn segment(&self, id: u32) -> Option<SegmentRow> {
        self.read().segments.get(&id).copied()
    }

    pub(super) fn segments(&self) -> BTreeMap<u32, SegmentRow> {
        self.read().segments.clone()
    }

    /// Whether any segment of the range exists, other than `except`.
    pub(super) fn any_segment(&self, oldest: u32, newest: u32, except: Option<u32>) -> bool {
        if oldest > newest {
            return false;
        }
        let inner = self.read();
        let mut range = inner.segments.range(oldest..=newest);
        range.any(|(id, _)| Some(*id) != except)
    }

    /// To where the database is up to date.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        self.read().tables()?.checkpoint()
    }

    /// Number of changes that are not in the database.
    pub(super) fn pending(&self) -> usize {
        self.read().changes.len()
    }

    /// Adds what has become durable in the log.
    pub(super) fn merge(&self, later: Rows) {
        let mut inner = self.write();
        for (id, row) in &later.segments {
            match row {
                Some(row) => inner.segments.insert(*id, *row),
                None => inner.segments.remove(id),
            };
        }
        for (key, row) in &later.kv {
            let before = inner.changes.kv.get(key).map_or(0, |row| cost(key, row));
            inner.kv_bytes = (inner.kv_bytes + cost(key, row)).saturating_sub(before);
        }
        inner.changes.merge(later);
    }

    /// What the changes will take in the database, but for rows of blocks and members, about.
    pub(super) fn unflushed_bytes(&self) -> u64 {
        let inner = self.read();
        let changes = &inner.changes;
        let rows = changes.claims.len() + changes.shorts.len() + changes.further.len();
        inner.kv_bytes + rows as u64 * OTHER_ROW_COST
    }

    /// Remembers that a reader found a shard damaged. Answers whether that is news.
    pub(super) fn report_damage(&self, shard: ShardId, at: Position) -> bool {
        let mut inner = self.write();
        inner.sound.remove(&shard);
        inner.damaged.len() < DAMAGED_MAX && inner.damaged.insert(shard, at) != Some(at)
    }

    /// Remembers that the disk did not give a shard.
    pub(super) fn report_unread(&self, shard: ShardId) {
        let mut inner = self.write();
        if inner.unread.len() < DAMAGED_MAX {
            inner.unread.insert(shard);
        }
    }

    /// A shard is sound where it is, or is not there any more.
    pub(super) fn clear_trouble(&self, shard: ShardId, at: Option<Position>) {
        let mut inner = self.write();
        let was_known = inner.damaged.remove(&shard).is_some() | inner.unread.remove(&shard);
        if let Some(at) = at.filter(|_| was_known) {
            inner.sound.insert(shard, at);
        }
    }

    /// Shards that readers found damaged or did not get.
    pub(super) fn troubled(&self) -> Vec<ShardId> {
        let inner = self.read();
        inner.damaged.keys().chain(&inner.unread).copied().collect()
    }

    /// Writes all changes to the database, durably.
    pub(super) fn flush(&self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        self.settle_damage()?;
        {
            let inner = self.read();
            inner.tables()?.commit(&inner.changes, checkpoint)?;
        }
        // Only the writer changes rows, and it is here; readers meanwhile saw both.
        let mut inner = self.write();
        inner.changes = Rows::default();
        inner.kv_bytes = 0;
        Ok(())
    }

    /// Turns reports of damage into rows. They stay until the shards are taken out.
    fn settle_damage(&self) -> Result<(), IndexError> {
        let (damaged, sound) = {
            let inner = self.read();
            (inner.damaged.clone(), inner.sound.clone())
        };
        let mut rows = Rows::default();
        let mut gone = Vec::new();
        for (shard, at) in damaged.iter().chain(&sound) {
            let row = self.block(&shard.block)?;
            let now = row.as_ref().and_then(|row| row.shard(shard.index));
            if now.is_none_or(|now| now.at != *at) {
                gone.push(*shard);
            }
            if row.is_some() {
                rows.blocks.insert(shard.block, row);
            }
        }
        let mut inner = self.write();
        inner.changes.merge(rows);
        inner.sound.retain(|shard, _| !sound.contains_key(shard));
        gone.iter().for_each(|shard| {
            inner.damaged.remove(shard);
        });
        Ok(())
    }
}

/// Removes the index's file, if there is one.
pub(super) fn remove_file(disk: &dyn Disk) -> Result<(), IndexError> {
    match disk.remove(INDEX_FILE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(IndexError::Io(error)),
        _ => Ok(()),
    }
}

/// Puts changes on top of a page of at most `limit` stored rows.
fn overlay<K: Ord + Clone, V>(
    base: Vec<(K, V)>,
    limit: usize,
    changes: impl Iterator<Item = (K, Option<V>)>,
) -> Page<K, V> {
    // Beyond the last row of a full page, the database may have rows that are not here.
    let bound = (base.len() >= limit).then(|| base.last().map(|(key, _)| key.clone()));
    let mut next = bound.flatten();
    let mut rows: BTreeMap<K, V> = base.into_iter().collect();
    for (key, change) in changes {
        if next.as_ref().is_some_and(|bound| key > *bound) {
            break;
        }
        match change {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    let mut rows: Vec<(K, V)> = rows.into_iter().collect();
    if rows.len() > limit {
        rows.truncate(limit);
        next = rows.last().map(|(key, _)| key.clone());
    }
    Page { rows, next }
}

/// A shared index.
pub(super) type SharedIndex = Arc<Index>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_with_changes_on_top_miss_nothing() {
        let stored: BTreeMap<u32, u32> = (0..50).map(|n| (n * 2, n)).collect();
        let changes: BTreeMap<u32, Option<u32>> = (0..60)
            .filter(|n| n % 3 == 0)
            .map(|n| (n, (n % 2 == 0).then_some(1000 + n)))
            .chain([(4, None), (6, None), (8, None)])
            .collect();
        let mut expected = stored.clone();
        for (key, change) in &changes {
            match change {
                Some(value) => expected.insert(*key, *value),
                None => expected.remove(key),
            };
        }
        for limit in 1..20 {
            let mut found = BTreeMap::new();
            let mut after: Option<u32> = None;
            loop {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let base = stored.range((from, Bound::Unbounded)).take(limit);
                let later = changes.range((from, Bound::Unbounded));
                let page = overlay(
                    base.map(|(k, v)| (*k, *v)).collect(),
                    limit,
                    later.map(|(k, v)| (*k, *v)),
                );
                assert!(page.rows.len() <= limit);
                found.extend(page.rows);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert_eq!(found, expected, "limit {limit}");
        }
    }
}
