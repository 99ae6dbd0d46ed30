//! The file that says what a data directory is: its format and the store's identity.

use super::disk::{Disk, read_small, write_atomic};
use super::error::OpenError;
use super::segment::{SEGMENT_HEADER_LEN, segment_name, store_of_header};
use crate::base::Entropy;

/// Name of the marker in the data directory.
pub const VERSION_FILE: &str = "VERSION";
/// Format written by this program.
pub const DATA_FORMAT: u64 = 1;
const LIMIT: usize = 4096;

fn text(store_id: &[u8; 16]) -> String {
    let hex = data_encoding::HEXLOWER.encode(store_id);
    format!("cairn-data {DATA_FORMAT}\nstore {hex}\n")
}

fn parse(bytes: &[u8]) -> Result<[u8; 16], OpenError> {
    let unusable = |why: &str| OpenError::Unusable(format!("{VERSION_FILE}: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|_| unusable("not text"))?;
    let mut lines = text.lines();
    let format = lines
        .next()
        .and_then(|line| line.strip_prefix("cairn-data "));
    let found: u64 = format
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| unusable("not the marker of a cairn data directory"))?;
    if found > DATA_FORMAT {
        return Err(OpenError::Newer {
            found,
            known: DATA_FORMAT,
        });
    }
    let hex = lines.next().and_then(|line| line.strip_prefix("store "));
    let id = hex.and_then(|hex| data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).ok());
    id.and_then(|id| id.try_into().ok())
        .ok_or_else(|| unusable("the store's identity is not readable"))
}

/// The identity of the store in this data directory. A new directory gets one; a lost marker is
/// written again from what the segments say.
pub(super) fn identify(
    disk: &dyn Disk,
    segments: &[u32],
    entropy: &Entropy,
) -> Result<[u8; 16], OpenError> {
    let read = read_small(disk, VERSION_FILE, LIMIT);
    let known = match read.map_err(OpenError::io(format!("reading {VERSION_FILE}")))? {
        Some(bytes) => match parse(&bytes) {
            Ok(id) => return Ok(id),
            Err(OpenError::Unusable(why)) => from_segments(disk, segments)
                .ok_or(OpenError::Unusable(why))
                .map(Some)?,
            Err(error) => return Err(error),
        },
        None => from_segments(disk, segments),
    };
    if known.is_none() && !segments.is_empty() {
        return Err(OpenError::Unusable(format!(
            "{VERSION_FILE} is missing and no segment says to which store it belongs"
        )));
    }
    let id = known.unwrap_or_else(|| entropy.array());
    write_atomic(disk, VERSION_FILE, text(&id).as_bytes())
        .map_err(OpenError::io(format!("writing {VERSION_FILE}")))?;
    Ok(id)
}

fn from_segments(disk: &dyn Disk, segments: &[u32]) -> Option<[u8; 16]> {
    segments.iter().find_map(|id| {
        let file = disk.open(&segment_name(*id)).ok()?;
        let header = file.read_vec(0, SEGMENT_HEADER_LEN).ok()?;
        store_of_header(&header, *id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem_disk::MemDisk;

    #[test]
    fn new_known_newer_and_foreign_directories() {
        let disk = MemDisk::new(1 << 20);
        let entropy = Entropy::seeded(1);
        let id = identify(&disk, &[], &entropy).unwrap();
        assert_eq!(identify(&disk, &[], &entropy).unwrap(), id);
        write_atomic(&disk, VERSION_FILE, b"cairn-data 2\nwhatever").unwrap();
        let newer = identify(&disk, &[], &entropy).unwrap_err();
        assert!(matches!(newer, OpenError::Newer { found: 2, known: 1 }));
        for bad in [
            "",
            "git",
            "cairn-data x",
            "cairn-data 1\n",
            "cairn-data 1\nstore 00",
        ] {
            write_atomic(&disk, VERSION_FILE, bad.as_bytes()).unwrap();
            let error = identify(&disk, &[], &entropy).unwrap_err();
            assert!(matches!(error, OpenError::Unusable(_)), "{bad}");
        }
    }
}
