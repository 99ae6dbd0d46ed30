//! Laws of direct reads and writes, on a real file: the bytes are those of a plain file.

use std::io::IoSlice;

use bytes::Bytes;
use proptest::prelude::*;

use super::UNIT;
use crate::store::disk::Disk;
use crate::store::real_disk::RealDisk;

/// Bytes that begin `skew` behind a multiple of the unit.
fn placed(len: usize, skew: usize, seed: u8) -> Bytes {
    let mut memory = vec![0; len + 2 * UNIT];
    let start = memory.as_ptr().align_offset(UNIT) + skew;
    for (at, byte) in memory[start..start + len].iter_mut().enumerate() {
        *byte = (at / 251 + at) as u8 ^ seed;
    }
    Bytes::from(memory).slice(start..start + len)
}

fn part() -> impl Strategy<Value = (usize, usize, u8)> {
    let len = prop_oneof![
        1usize..600,
        Just(UNIT),
        1usize..(3 * UNIT),
        (100usize << 10)..(400 << 10),
        (1usize << 20)..(3 << 20),
    ];
    (
        len,
        prop_oneof![2 => Just(0usize), 1 => 0..UNIT],
        any::<u8>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_is_read(
        batches in prop::collection::vec(
            (prop::collection::vec(part(), 1..8), any::<bool>()),
            1..6,
        ),
        reads in prop::collection::vec((any::<u32>(), 1usize..(2 << 20)), 8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("log").unwrap();
        let mut model: Vec<u8> = Vec::new();
        for (parts, aligned) in batches {
            if aligned {
                // As the log places large data.
                model.resize(model.len().next_multiple_of(UNIT), 0);
            }
            let parts: Vec<Bytes> = parts.into_iter().map(|(l, s, b)| placed(l, s, b)).collect();
            let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
            file.write_at(model.len() as u64, &mut slices).unwrap();
            model.extend(parts.concat());
            file.sync_data().unwrap();
        }
        prop_assert_eq!(file.len().unwrap(), model.len() as u64);
        prop_assert!(file.read_vec(0, model.len()).unwrap() == model);
        for (at, len) in reads {
            let at = at as usize % (model.len() + 1000);
            let expected = model.get(at..).unwrap_or_default();
            let expected = &expected[..len.min(expected.len())];
            // Directly, then through the cache, which the first has not spoiled.
            for _ in 0..2 {
                prop_assert!(file.read_bytes(at as u64, len).unwrap() == expected);
            }
        }
    }
}
