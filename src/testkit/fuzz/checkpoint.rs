//! Where pages of checkpoints are, which checkpoints are kept, and snapshots.

use crate::base::{BlockId, BlockKey, BlockRef, EcProfile, VolumeId};
use crate::feeds::checkpoint::{PageHash, PageRef, SnapshotRoot, Tree};
use crate::namespace::Hlc;
use crate::vfs::{KeptCheckpoint, PagePart, PagePlace, SnapshotRecord};

/// The place of a page or root: what is accepted can be read from blocks.
pub(super) fn page_place(data: &[u8]) {
    if let Some(place) = PagePlace::decode(data) {
        assert_eq!(place.encode(), data);
        assert!(place.len_bytes() > 0);
        for part in &place.parts {
            assert!(part.len > 0 && part.offset + part.len <= part.block.plain_len);
        }
    }
    if let Some(again) = crate::vfs::rewritten_place(data) {
        assert_eq!(again, data);
    }
}

/// A row that says which checkpoint is kept.
pub(super) fn kept_checkpoint(data: &[u8]) {
    if let Some(kept) = KeptCheckpoint::decode(3, data) {
        assert_eq!(kept.encode(), data);
        assert!(PagePlace::decode(&kept.place).is_some());
    }
}

/// What the map says of a snapshot: its name is one that can stand in a directory.
pub(super) fn snapshot_record(data: &[u8]) {
    if let Some(record) = SnapshotRecord::decode(data) {
        assert_eq!(record.encode(), data);
        assert!(PagePlace::decode(&record.place).is_some());
        assert!(record.name().len() < 128 && !record.name().contains('/'));
    }
}

/// The root of a snapshot.
pub(super) fn snapshot_root(data: &[u8]) {
    if let Ok(root) = SnapshotRoot::decode(data) {
        assert_eq!(root.encode(), data);
    }
}

fn a_place(parts: u8) -> PagePlace {
    let part = |tag: u8| PagePart {
        block: BlockRef {
            id: BlockId([tag; 32]),
            key: BlockKey([9; 32]),
            plain_len: 4 << 20,
        },
        offset: 70_000,
        len: 65_000,
    };
    PagePlace {
        profile: EcProfile::DEFAULT,
        parts: (0..parts).map(part).collect(),
    }
}

pub(super) fn places() -> Vec<Vec<u8>> {
    let places = [a_place(1), a_place(2)];
    let places = places.iter().map(|place| place.encode().to_vec());
    let mut all: Vec<Vec<u8>> = places.collect();
    // As in records: the place of the root sealed, with and without that of keys.
    let text = serde_bytes::ByteBuf::from(vec![4; 120]);
    let tag = crate::crypto::MessageTag([3; 32]);
    all.push(crate::base::wire::encode(&(9u32, tag, &text)));
    all.push(crate::base::wire::encode(&(1u32 << 16, tag, &text, &text)));
    all
}

pub(super) fn kept() -> Vec<Vec<u8>> {
    let kept = KeptCheckpoint {
        number: 3,
        hlc: Hlc(9),
        made_ms: 1_767_225_600_000,
        rows: 4,
        root: PageHash([1; 32]),
        root_bytes: 65_000,
        place: a_place(1).encode(),
    };
    vec![kept.encode()]
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let record = SnapshotRecord {
        made_ms: 1_767_225_600_000,
        label: "label".to_owned(),
        files: 4,
        bytes: 5000,
        root: PageHash([1; 32]),
        root_bytes: 650,
        place: {
            let mut place = a_place(1);
            place.parts.iter_mut().for_each(|part| part.len = 650);
            place.encode()
        },
    };
    let unnamed = SnapshotRecord {
        label: String::new(),
        ..record.clone()
    };
    vec![record.encode(), unnamed.encode()]
}

pub(super) fn snapshot_roots() -> Vec<Vec<u8>> {
    let tree = |tag: u8| Tree {
        level: tag,
        top: PageRef {
            first: vec![tag, 2, 3],
            hash: PageHash([tag; 32]),
            len_bytes: 70_000,
            rows: 300,
            place: a_place(1).encode(),
        },
    };
    let root = SnapshotRoot {
        volume: VolumeId([7; 16]),
        made_ms: 1_767_225_600_000,
        rows: Some(tree(1)),
        derived: Some(tree(2)),
    };
    let empty = SnapshotRoot {
        rows: None,
        derived: None,
        ..root
    };
    vec![root.encode(), empty.encode()]
}
