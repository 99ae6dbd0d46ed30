//! A batch of directory entries, packed to what one request of the kernel can take.

use super::{Entry, FileType, Ino, Name};

/// Bytes the protocol takes for an entry beside its name.
const PLAIN_BYTES: usize = 24;
/// The same for an entry with attributes.
const PLUS_BYTES: usize = 24 + 128;

/// One entry of a batch.
#[derive(Clone, Copy, Debug)]
pub struct DirItem<'a> {
    /// Its name.
    pub name: Name<'a>,
    /// Where a later request goes on after this entry.
    pub next_offset: u64,
    /// The file's number.
    pub ino: Ino,
    /// The file's type.
    pub kind: FileType,
    /// The file, in a batch with attributes; `.` and `..` have none.
    pub entry: Option<Entry>,
}

#[derive(Clone, Debug)]
struct Packed {
    name_end: usize,
    next_offset: u64,
    ino: Ino,
    kind: FileType,
    entry: Option<Entry>,
}

/// Entries collected for one answer. It knows what they take in the protocol and refuses the first
/// that does not fit, so that an entry's lookup is counted only if the kernel will see it.
#[derive(Clone, Debug)]
pub struct DirBatch {
    items: Vec<Packed>,
    names: Vec<u8>,
    room_bytes: usize,
    has_attrs: bool,
    was_refused: bool,
}

impl DirBatch {
    /// For an answer of at most `room_bytes`, with attributes or without.
    pub fn new(room_bytes: usize, has_attrs: bool) -> DirBatch {
        DirBatch {
            items: Vec::new(),
            names: Vec::new(),
            room_bytes,
            has_attrs,
            was_refused: false,
        }
    }

    /// The kernel wants the attributes of each entry and counts a lookup for it.
    pub fn wants_attrs(&self) -> bool {
        self.has_attrs
    }

    /// What an entry of this name takes in this batch.
    pub(crate) fn bytes_of(&self, name: Name<'_>) -> usize {
        let fixed = if self.has_attrs {
            PLUS_BYTES
        } else {
            PLAIN_BYTES
        };
        (fixed + name.len()).next_multiple_of(8)
    }

    /// Whether an entry was refused: there is more than fits.
    pub(crate) fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// Adds an entry without attributes: every entry of a plain batch; `.` and `..` of any, for which
    /// the kernel counts no lookup. False if it does not fit; the batch is then complete.
    pub fn push(&mut self, name: Name<'_>, next_offset: u64, ino: Ino, kind: FileType) -> bool {
        self.add(name, next_offset, ino, kind, None)
    }

    /// Adds an entry with attributes, whose lookup the filesystem counts if this returns true.
    pub fn push_entry(&mut self, name: Name<'_>, next_offset: u64, entry: Entry) -> bool {
        let Entry { attr, .. } = entry;
        let kept = self.has_attrs.then_some(entry);
        self.add(name, next_offset, attr.ino, attr.kind, kept)
    }

    fn add(
        &mut self,
        name: Name<'_>,
        next_offset: u64,
        ino: Ino,
        kind: FileType,
        entry: Option<Entry>,
    ) -> bool {
        let Some(left) = self.room_bytes.checked_sub(self.bytes_of(name)) else {
            self.was_refused = true;
            return false;
        };
        self.room_bytes = left;
        self.names.extend_from_slice(&name);
        self.items.push(Packed {
            name_end: self.names.len(),
            next_offset,
            ino,
            kind,
            entry,
        });
        true
    }

    /// The entries in the order in which they were added.
    pub fn items(&self) -> impl Iterator<Item = DirItem<'_>> {
        let mut start = 0;
        self.items.iter().map(move |item| {
            let name = self.names.get(start..item.name_end).unwrap_or_default();
            start = item.name_end;
            DirItem {
                name: Name::new(name),
                next_offset: item.next_offset,
                ino: item.ino,
                kind: item.kind,
                entry: item.entry,
            }
        })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// No entry: the end of the directory.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_what_fits_and_gives_it_back_in_order() {
        let mut batch = DirBatch::new(64, false);
        assert!(batch.push(Name::from("a"), 3, Ino(7), FileType::Regular));
        assert!(batch.push(Name::from("bcdefghi"), 4, Ino(8), FileType::Directory));
        assert!(!batch.push(Name::from("c"), 5, Ino(9), FileType::Regular));
        let names: Vec<_> = batch.items().map(|i| (i.name.to_vec(), i.ino)).collect();
        assert_eq!(
            names,
            [(b"a".to_vec(), Ino(7)), (b"bcdefghi".to_vec(), Ino(8))]
        );
    }
}
