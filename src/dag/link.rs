//! Links: the text that `put` prints and `get` reads. Whoever has it can read what it names.
//!
//! `cairn:` and base58 of: version, kind, profile, root, checksum. See `docs/FORMAT.md`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::node::NodeAt;
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, BlockKey, BlockRef, Class, Classify, EcProfile};

/// What every link begins with.
pub const PREFIX: &str = "cairn:";
/// Version written by this program.
pub const LINK_VERSION: u8 = 1;

const EMPTY: u8 = 0;
const BLOCK: u8 = 1;
const MANIFEST: u8 = 2;
const TREE: u8 = 3;

const HEAD_BYTES: usize = 4;
const BLOCK_BYTES: usize = 32 + 32 + 4;
const NODE_BYTES: usize = BLOCK_BYTES + 4 + 4 + 8;
const CHECKSUM_BYTES: usize = 4;
/// Longest text that is looked at; a link of this version has at most 131 characters.
const TEXT_MAX: usize = 512;

/// What a link names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Root {
    /// A blob without bytes.
    Empty,
    /// A blob that is the plaintext of one block.
    Block(BlockRef),
    /// A blob of `size` bytes, whose extents are below this node.
    Manifest {
        /// Root of the extents.
        node: NodeAt,
        /// Bytes of the blob.
        size: u64,
    },
    /// A tree whose files have `size` bytes in all.
    Tree {
        /// The tree's root node.
        node: NodeAt,
        /// Bytes of all files.
        size: u64,
    },
}

impl Root {
    /// Bytes of the blob, or of all files of the tree.
    pub const fn size(&self) -> u64 {
        match self {
            Root::Empty => 0,
            Root::Block(block) => block.plain_len as u64,
            Root::Manifest { size, .. } | Root::Tree { size, .. } => *size,
        }
    }

    /// Whether it names a tree.
    pub const fn is_tree(&self) -> bool {
        matches!(self, Root::Tree { .. })
    }

    /// The block to read first.
    pub const fn block(&self) -> Option<&BlockRef> {
        match self {
            Root::Empty => None,
            Root::Block(block) => Some(block),
            Root::Manifest { node, .. } | Root::Tree { node, .. } => Some(&node.block),
        }
    }
}

/// A read capability: where something is, what opens it, and how it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// Redundancy of its blocks.
    pub profile: EcProfile,
    /// What it names.
    pub root: Root,
}

/// Why a text is not a usable link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Something else altogether.
    #[error("`{0}` is not a link: links begin with `cairn:`")]
    NotALink(String),
    /// A character that no link has.
    #[error("the link has a mistyped character: `{0}` occurs in no link")]
    Character(char),
    /// The checksum fails and so does the length.
    #[error(
        "the link is incomplete: a part of its {0} characters is missing, or too much was copied"
    )]
    Length(usize),
    /// The checksum fails.
    #[error("the link has a typing error: its checksum does not match")]
    Checksum,
    /// Whole, and from a later version.
    #[error(
        "the link has format version {0}, this program reads version {LINK_VERSION}: update it"
    )]
    NewerVersion(u8),
    /// Whole, and says something impossible.
    #[error("the link makes no sense: {0}")]
    Inconsistent(&'static str),
}

impl Classify for LinkError {
    fn class(&self) -> Class {
        Class::Denied
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = *blake3::hash(payload).as_bytes();
    [a, b, c, d]
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.root {
            Root::Empty => EMPTY,
            Root::Block(_) => BLOCK,
            Root::Manifest { .. } => MANIFEST,
            Root::Tree { .. } => TREE,
        };
        let mut bytes = vec![
            LINK_VERSION,
            kind,
            self.profile.data_shards() as u8,
            self.profile.parity_shards() as u8,
        ];
        if let Some(block) = self.root.block() {
            bytes.extend_from_slice(block.id.as_bytes());
            bytes.extend_from_slice(block.key.as_bytes());
            bytes.extend_from_slice(&block.plain_len.to_be_bytes());
        }
        if let Root::Manifest { node, size } | Root::Tree { node, size } = &self.root {
            bytes.extend_from_slice(&node.offset.to_be_bytes());
            bytes.extend_from_slice(&node.len.to_be_bytes());
            bytes.extend_from_slice(&size.to_be_bytes());
        }
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        write!(f, "{PREFIX}{}", bs58::encode(bytes).into_string())
    }
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| LinkError::NotALink(text.chars().take(40).collect()))?;
        if body.len() > TEXT_MAX {
            return Err(LinkError::Length(body.len()));
        }
        let bytes = bs58::decode(body).into_vec().map_err(|error| match error {
            bs58::decode::Error::InvalidCharacter { character, .. } => {
                LinkError::Character(character)
            }
            bs58::decode::Error::NonAsciiCharacter { index } => LinkError::Character(
                body.get(index..)
                    .and_then(|s| s.chars().next())
                    .unwrap_or('?'),
            ),
            _ => LinkError::Length(body.len()),
        })?;
        let Some((payload, check)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(LinkError::Length(body.len()));
        };
        if checksum(payload) != *check {
            // Base58 spreads a missing character over all bytes, so only the length and the first
            // two of them tell a link with a wrong character from a part of one.
            let whole = match payload {
                [LINK_VERSION, EMPTY, ..] => payload.len() == HEAD_BYTES,
                [LINK_VERSION, BLOCK, ..] => payload.len() == HEAD_BYTES + BLOCK_BYTES,
                [LINK_VERSION, ..] => payload.len() == HEAD_BYTES + NODE_BYTES,
                _ => false,
            };
            return Err(if whole {
                LinkError::Checksum
            } else {
                LinkError::Length(body.len())
            });
        }
        decode(payload)
    }
}

/// Reads big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], LinkError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(LinkError::Inconsistent("it is too short for its kind"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn block(&mut self) -> Result<BlockRef, LinkError> {
        let block = BlockRef {
            id: BlockId(self.take()?),
            key: BlockKey(self.take()?),
            plain_len: u32::from_be_bytes(self.take()?),
        };
        if !(1..=CHUNK_MAX_BYTES).contains(&(block.plain_len as usize)) {
            return Err(LinkError::Inconsistent(
                "its block has an impossible length",
            ));
        }
        Ok(block)
    }

    fn node(&mut self) -> Result<(NodeAt, u64), LinkError> {
        let node = NodeAt {
            block: self.block()?,
            offset: u32::from_be_bytes(self.take()?),
            len: u32::from_be_bytes(self.take()?),
        };
        let node = node
            .check()
            .map_err(|_| LinkError::Inconsistent("its root lies outside its block"))?;
        Ok((node, u64::from_be_bytes(self.take()?)))
    }
}

fn decode(payload: &[u8]) -> Result<Link, LinkError> {
    let mut fields = Fields(payload);
    let [version] = fields.take()?;
    if version > LINK_VERSION {
        return Err(LinkError::NewerVersion(version));
    }
    if version == 0 {
        return Err(LinkError::Inconsistent("there is no version 0"));
    }
    let [kind, data, parity] = fields.take()?;
    let profile = EcProfile::new(data, parity)
        .map_err(|_| LinkError::Inconsistent("its redundancy is impossible"))?;
    let root = match kind {
        EMPTY => Root::Empty,
        BLOCK => Root::Block(fields.block()?),
        MANIFEST => {
            let (node, size) = fields.node()?;
            Root::Manifest { node, size }
        }
        TREE => {
            let (node, size) = fields.node()?;
            Root::Tree { node, size }
        }
        _ => return Err(LinkError::Inconsistent("it names an unknown kind of thing")),
    };
    if !fields.0.is_empty() {
        return Err(LinkError::Inconsistent("it is too long for its kind"));
    }
    Ok(Link { profile, root })
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
