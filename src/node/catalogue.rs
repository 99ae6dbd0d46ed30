//! The list of what this peer has put, and of what it removed from that a short while ago, as rows of its store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::admin::types::{Kind, Listed};
use crate::base::{PeerId, wire};
use crate::store::KvChange;

/// Key-value space of the list.
pub(super) const PUTS: &str = "puts";
/// Key-value space of the peers that may know of the claim of each put, under the same keys: 32 bytes each.
pub(super) const TOLD: &str = "puts-told";
/// Key-value space of what was removed and can be restored.
pub(super) const REMOVED: &str = "puts-removed";
/// Longest row that is read: a name and a link.
const ROW_MAX_BYTES: usize = 64 << 10;
/// Most peers that are noted.
pub(super) const TOLD_MAX: usize = 400;

/// One put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub link: String,
    pub name: String,
    pub is_tree: bool,
    pub size_bytes: u64,
    pub put_ms: u64,
    /// Number of the claim that keeps it; earlier versions did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<u64>,
    /// When it goes by itself; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// When it was removed, of what is in trash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_ms: Option<u64>,
}

impl Entry {
    /// Its key, so that the list is in order of time. The link keeps apart what one millisecond saw.
    pub fn key(&self) -> Vec<u8> {
        let mut key = self.put_ms.to_be_bytes().to_vec();
        let digest = blake3::hash(self.link.as_bytes());
        key.extend(digest.as_bytes().iter().take(8));
        key
    }

    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        wire::decode(bytes, ROW_MAX_BYTES).ok()
    }

    /// The rows of something that is kept by a claim of which these may know.
    pub fn rows(&self, told: &[PeerId]) -> Vec<KvChange> {
        let told: Vec<u8> = told.iter().take(TOLD_MAX).flat_map(|peer| peer.0).collect();
        vec![
            (PUTS.to_owned(), self.key(), Some(self.encode().into())),
            (TOLD.to_owned(), self.key(), Some(told.into())),
        ]
    }

    /// The changes that take it off the list.
    pub fn off(&self) -> Vec<KvChange> {
        [PUTS, TOLD]
            .map(|space| (space.to_owned(), self.key(), None))
            .to_vec()
    }

    /// Whether its time is over.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms
            .is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

/// Peers of a row of [`TOLD`].
pub(super) fn told_of(row: Option<Bytes>) -> Vec<PeerId> {
    let row = row.unwrap_or_default();
    let (peers, _) = row.as_chunks::<32>();
    peers.iter().map(|peer| PeerId(*peer)).collect()
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Self {
        Listed {
            link: entry.link,
            name: entry.name,
            kind: if entry.is_tree {
                Kind::Tree
            } else {
                Kind::File
            },
            size_bytes: entry.size_bytes,
            put_ms: entry.put_ms,
            expires_ms: entry.expires_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As earlier versions wrote it.
    #[derive(Serialize, Deserialize)]
    struct OldEntry {
        link: String,
        name: String,
        is_tree: bool,
        size_bytes: u64,
        put_ms: u64,
    }

    #[test]
    fn entries_of_earlier_versions_are_read_and_new_ones_by_them() {
        let old = OldEntry {
            link: "cairn:x".to_owned(),
            name: "x".to_owned(),
            is_tree: false,
            size_bytes: 1,
            put_ms: 2,
        };
        let mut entry = Entry::decode(&wire::encode(&old)).unwrap();
        assert_eq!(
            (entry.put_ms, entry.claim, entry.expires_ms),
            (2, None, None)
        );
        assert_eq!(entry.encode(), wire::encode(&old));
        entry.claim = Some(7);
        entry.expires_ms = Some(8);
        let read: OldEntry = wire::decode(&entry.encode(), ROW_MAX_BYTES).unwrap();
        assert_eq!(read.link, old.link);
        assert!(entry.is_over(8) && !entry.is_over(7));
    }

    #[test]
    fn rows_say_who_was_told() {
        let entry = Entry {
            link: "cairn:x".to_owned(),
            name: "x".to_owned(),
            is_tree: false,
            size_bytes: 1,
            put_ms: 2,
            claim: Some(3),
            expires_ms: None,
            removed_ms: None,
        };
        let peers: Vec<PeerId> = (0..500u16).map(|at| PeerId([at as u8; 32])).collect();
        let rows = entry.rows(&peers);
        let told = told_of(rows[1].2.clone());
        assert_eq!(told, peers[..TOLD_MAX]);
        assert!(told_of(None).is_empty());
        let off: Vec<_> = entry
            .off()
            .into_iter()
            .map(|(space, key, _)| (space, key))
            .collect();
        let on: Vec<_> = rows
            .into_iter()
            .map(|(space, key, _)| (space, key))
            .collect();
        assert_eq!(off, on);
    }
}
