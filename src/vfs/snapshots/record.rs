//! What the map of a volume says of a snapshot: how it is called, what it counts, and where its root is.

use bytes::Bytes;
use serde_bytes::ByteBuf;

use crate::base::calendar::utc_stamp;
use crate::base::limits::{SNAPSHOT_LABEL_MAX_BYTES, SNAPSHOT_MAX_BYTES};
use crate::base::wire;
use crate::feeds::checkpoint::PageHash;
use crate::feeds::checkpoint::snapshot::SNAPSHOT_ROOT_MAX_BYTES;
use crate::vfs::PagePlace;

/// Version of the encoding.
const VERSION: u8 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// When it was made (milliseconds since 1970).
    pub made_ms: u64,
    /// What it was called, besides; may be empty.
    pub label: String,
    /// Files of all kinds in it.
    pub files: u64,
    /// Bytes of their contents, holes included.
    pub bytes: u64,
    /// Hash of its root.
    pub root: PageHash,
    /// Bytes of that.
    pub root_bytes: u32,
    /// Where that is.
    pub place: Bytes,
}

/// `[version, made, label, files, bytes, hash of the root, its length, its place]`.
type RecordWire = (u8, u64, ByteBuf, u64, u64, PageHash, u32, ByteBuf);

/// What is wrong with a label; none if nothing is.
pub(super) fn label_fault(label: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if label.len() > SNAPSHOT_LABEL_MAX_BYTES {
        return Some(format!(
            "it is longer than {SNAPSHOT_LABEL_MAX_BYTES} characters"
        ));
    }
    let other = label.chars().find(|c| !is_allowed(*c))?;
    Some(format!(
        "it has {other:?}; only the letters a to z, digits, `.`, `_` and `-` will do"
    ))
}

impl SnapshotRecord {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode::<RecordWire>(&(
            VERSION,
            self.made_ms,
            ByteBuf::from(self.label.as_bytes()),
            self.files,
            self.bytes,
            self.root,
            self.root_bytes,
            ByteBuf::from(self.place.to_vec()),
        ))
    }

    /// Reads a record that any member wrote; none if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<SnapshotRecord> {
        let (version, made_ms, label, files, size, root, root_bytes, place) =
            wire::decode_canonical::<RecordWire>(bytes, SNAPSHOT_MAX_BYTES).ok()?;
        let label = String::from_utf8(label.into_vec()).ok()?;
        let is_sound = version == VERSION
            && label_fault(&label).is_none()
            && (1..=SNAPSHOT_ROOT_MAX_BYTES).contains(&(root_bytes as usize))
            && PagePlace::decode(&place)?.len_bytes() == u64::from(root_bytes);
        is_sound.then_some(SnapshotRecord {
            made_ms,
            label,
            files,
            bytes: size,
            root,
            root_bytes,
            place: place.into_vec().into(),
        })
    }

    /// What it is called: its time, to the second, and its label.
    pub fn name(&self) -> String {
        let time = utc_stamp(self.made_ms);
        match self.label.is_empty() {
            true => time,
            false => format!("{time}-{}", self.label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockId, BlockKey, BlockRef, EcProfile};
    use crate::vfs::PagePart;

    fn record() -> SnapshotRecord {
        let block = BlockRef {
            id: BlockId([7; 32]),
            key: BlockKey([8; 32]),
            plain_len: 1 << 20,
        };
        let part = PagePart {
            block,
            offset: 4096,
            len: 300,
        };
        let place = PagePlace {
            profile: EcProfile::DEFAULT,
            parts: vec![part],
        };
        SnapshotRecord {
            made_ms: 1_795_386_901_234,
            label: "before-upgrade".to_owned(),
            files: 12,
            bytes: 1 << 40,
            root: PageHash([9; 32]),
            root_bytes: 300,
            place: place.encode(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_impossible_ones_are_refused() {
        let good = record();
        assert_eq!(SnapshotRecord::decode(&good.encode()), Some(good.clone()));
        assert_eq!(good.name(), "2026-11-22T22:35:01Z-before-upgrade");
        let unnamed = SnapshotRecord {
            label: String::new(),
            ..good.clone()
        };
        assert_eq!(unnamed.name(), "2026-11-22T22:35:01Z");
        for wrong in [
            SnapshotRecord {
                label: "a/b".to_owned(),
                ..good.clone()
            },
            SnapshotRecord {
                label: "a".repeat(65),
                ..good.clone()
            },
            SnapshotRecord {
                root_bytes: 301,
                ..good.clone()
            },
            SnapshotRecord {
                place: Bytes::from_static(b"nowhere"),
                ..good
            },
        ] {
            assert_eq!(SnapshotRecord::decode(&wrong.encode()), None);
        }
        assert_eq!(SnapshotRecord::decode(b""), None);
    }
}
