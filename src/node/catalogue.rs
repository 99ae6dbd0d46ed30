//! The list of what this peer has put, as rows of its store.

use serde::{Deserialize, Serialize};

use crate::admin::types::{Kind, Listed};
use crate::base::wire;

/// Key-value space of the list.
pub(super) const PUTS: &str = "puts";
/// Longest row that is read: a name and a link.
const ROW_MAX_BYTES: usize = 64 << 10;

/// One put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub link: String,
    pub name: String,
    pub is_tree: bool,
    pub size_bytes: u64,
    pub put_ms: u64,
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
        }
    }
}
