//! Pages: where they end, and their bytes.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::ByteBuf;

use super::PageFault;
use crate::base::ids::byte_id;
use crate::base::limits::{
    DELTA_MAX_BYTES, PAGE_MAX_BYTES, PAGE_PLACE_MAX_BYTES, PAGE_TARGET_BYTES, ROW_KEY_MAX_BYTES,
};
use crate::base::wire;
use crate::feeds::sealed::{FEED_VERSION, check_version};

/// Most levels of pages above those of rows. Each has some four hundred times fewer than the one below.
pub const LEVELS_MAX: u8 = 12;
/// Largest page: one row that is longer than a page should be.
pub const PAGE_LIMIT_BYTES: usize = DELTA_MAX_BYTES + PAGE_MAX_BYTES;
/// What an item takes besides its key and value.
const ITEM_BYTES: usize = 8;

byte_id!(
    /// Names a page: BLAKE3-256 of its bytes.
    PageHash,
    32
);

impl fmt::Display for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(self.0.first_chunk::<6>().unwrap_or(&[0; 6])))
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PageHash {
    /// Of a page's bytes.
    pub fn of(bytes: &[u8]) -> PageHash {
        PageHash(*blake3::hash(bytes).as_bytes())
    }
}

/// A page as the page above names it: `[first key, hash, length, rows, place]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// Key of its first row, or of the first row below it.
    pub first: Vec<u8>,
    /// Its bytes' hash.
    pub hash: PageHash,
    /// Its bytes.
    pub len_bytes: u32,
    /// Rows in it and below it.
    pub rows: u64,
    /// Where it is: what the layer above needs to fetch it.
    pub place: Bytes,
}

/// The top of the tree of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Levels of pages below the top; 0 if it has rows itself.
    pub level: u8,
    /// The top page.
    pub top: PageRef,
}

/// What a page has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    /// Rows: keys and values.
    Rows(Vec<(Vec<u8>, Bytes)>),
    /// Pages below.
    Pages(Vec<PageRef>),
}

pub(super) type RefWire = (ByteBuf, PageHash, u32, u64, ByteBuf);
type RowsWire = (u8, u8, Vec<(ByteBuf, ByteBuf)>);
type PagesWire = (u8, u8, Vec<RefWire>);

impl From<&PageRef> for RefWire {
    fn from(page: &PageRef) -> RefWire {
        (
            ByteBuf::from(page.first.clone()),
            page.hash,
            page.len_bytes,
            page.rows,
            ByteBuf::from(page.place.to_vec()),
        )
    }
}

pub(super) fn read_ref(wire: RefWire) -> Result<PageRef, PageFault> {
    let (first, hash, len_bytes, rows, place) = wire;
    if rows == 0 || len_bytes == 0 || len_bytes as usize > PAGE_LIMIT_BYTES {
        return Err("a page of impossible size is named".into());
    }
    if first.is_empty() || first.len() > ROW_KEY_MAX_BYTES || place.len() > PAGE_PLACE_MAX_BYTES {
        return Err("an impossible key or place of a page".into());
    }
    Ok(PageRef {
        first: first.into_vec(),
        hash,
        len_bytes,
        rows,
        place: place.into_vec().into(),
    })
}

/// The bytes of a page of rows.
pub fn encode_rows(rows: &[(Vec<u8>, Bytes)]) -> Vec<u8> {
    let rows = rows.iter();
    let rows = rows.map(|(key, value)| (ByteBuf::from(key.clone()), ByteBuf::from(value.to_vec())));
    wire::encode::<RowsWire>(&(FEED_VERSION, 0, rows.collect()))
}

/// The bytes of a page of pages, `level` above those of rows.
pub fn encode_pages(level: u8, pages: &[PageRef]) -> Vec<u8> {
    let pages = pages.iter().map(RefWire::from);
    wire::encode::<PagesWire>(&(FEED_VERSION, level, pages.collect()))
}

/// Reads the page of a level, in canonical form only: items ascend by key, and there is at least one.
///
/// # Errors
/// What is wrong with it.
pub fn decode(level: u8, bytes: &[u8]) -> Result<Items, PageFault> {
    let items = if level == 0 {
        let (version, found, rows) = wire::decode_canonical::<RowsWire>(bytes, PAGE_LIMIT_BYTES)?;
        check_version(version)?;
        check_level(level, found)?;
        let rows = rows.into_iter();
        Items::Rows(
            rows.map(|(key, value)| (key.into_vec(), value.into_vec().into()))
                .collect(),
        )
    } else {
        let (version, found, pages) = wire::decode_canonical::<PagesWire>(bytes, PAGE_LIMIT_BYTES)?;
        check_version(version)?;
        check_level(level, found)?;
        let pages = pages.into_iter().map(read_ref);
        Items::Pages(pages.collect::<Result<_, _>>()?)
    };
    let keys: Vec<&[u8]> = match &items {
        Items::Rows(rows) => rows.iter().map(|(key, _)| key.as_slice()).collect(),
        Items::Pages(pages) => pages.iter().map(|page| page.first.as_slice()).collect(),
    };
    let ascend = keys.windows(2).all(|pair| match pair {
        [one, two] => one < two,
        _ => true,
    });
    if keys.is_empty() || !ascend {
        return Err("a page that is empty or out of order".into());
    }
    Ok(items)
}

fn check_level(wanted: u8, found: u8) -> Result<(), PageFault> {
    match wanted == found {
        true => Ok(()),
        false => Err("a page of another level".into()),
    }
}

/// Decides where the pages of a level end, item by item.
#[derive(Debug)]
pub struct Cutter {
    level: u8,
    bytes: usize,
    count: usize,
}

impl Cutter {
    /// For the pages of a level.
    pub const fn new(level: u8) -> Cutter {
        Cutter {
            level,
            bytes: 0,
            count: 0,
        }
    }

    /// Whether an item has to begin a new page, for want of room in this one.
    pub const fn is_full(&self, key: &[u8], value_bytes: usize) -> bool {
        self.count > 0 && self.bytes + key.len() + value_bytes + ITEM_BYTES > PAGE_MAX_BYTES
    }

    /// Takes an item into the page. Whether the page ends with it: with a chance in proportion to its
    /// length, which the hash of its key decides, whatever stands before it. A page of pages has two
    /// at least, so that levels come to an end.
    pub fn push(&mut self, key: &[u8], value_bytes: usize) -> bool {
        let bytes = key.len() + value_bytes + ITEM_BYTES;
        self.bytes += bytes;
        self.count += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.level]).update(key);
        let hash = hasher.finalize();
        let first = hash.as_bytes().first_chunk::<4>();
        let drawn = first.map_or(0, |four| u32::from_be_bytes(*four));
        let is_drawn = u64::from(drawn) * (PAGE_TARGET_BYTES as u64) < (bytes as u64) << 32;
        is_drawn && (self.level == 0 || self.count > 1)
    }

    /// Begins the next page.
    pub const fn end(&mut self) {
        self.bytes = 0;
        self.count = 0;
    }
}

/// Bytes that each item of a page of pages is counted as, beside its key, when it is cut: nothing of it
/// may matter that changes with the rows, or with where pages lie.
pub const REF_BYTES: usize = 128;
