//! Segments that somebody forged: sound checksums over any content (feature `testkit`).

use super::frame::{ALIGN, CHECKSUM_AT, ChecksumKey, HEADER_LEN, Position, place};
use super::segment::{Log, SEGMENT_HEADER_LEN, ShardLog, header_of};
use super::volume::{JournalLog, checksum_key};

/// Gives a segment the header of segment `id` of the store `store_id`, and each record in it the
/// checksum that its bytes should have. Returns how many records there were.
pub fn mend(segment: &mut [u8], store_id: &[u8; 16], id: u32) -> usize {
    mend_log::<ShardLog>(segment, &ChecksumKey::new(store_id), store_id, id)
}

/// Likewise for a segment of the journal of a volume with this identity.
pub fn mend_journal(segment: &mut [u8], identity: &[u8; 16], id: u32) -> usize {
    mend_log::<JournalLog>(segment, &checksum_key(identity), identity, id)
}

fn mend_log<L: Log>(segment: &mut [u8], key: &ChecksumKey, identity: &[u8; 16], id: u32) -> usize {
    if let Some(header) = segment.get_mut(..SEGMENT_HEADER_LEN) {
        header.copy_from_slice(&header_of::<L>(key, identity, id, 1));
    }
    let mut mended = 0;
    for at in (SEGMENT_HEADER_LEN..segment.len()).step_by(ALIGN) {
        let position = Position {
            segment: id,
            offset: at as u32,
        };
        if let Some(record) = segment.get_mut(at..)
            && mend_record::<L>(record, key, position).is_some()
        {
            mended += 1;
        }
    }
    mended
}

fn mend_record<L: Log>(record: &mut [u8], key: &ChecksumKey, at: Position) -> Option<()> {
    if !record.starts_with(&L::RECORD_MAGIC) {
        return None;
    }
    let meta_len: [u8; 4] = record.get(20..24)?.try_into().ok()?;
    let meta_end = HEADER_LEN.checked_add(u32::from_le_bytes(meta_len) as usize)?;
    let meta = record.get(HEADER_LEN..meta_end)?;
    let checksum = key.checksum(&[&place(at), record.get(..CHECKSUM_AT)?, meta]);
    record
        .get_mut(CHECKSUM_AT..HEADER_LEN)?
        .copy_from_slice(&checksum);
    Some(())
}
