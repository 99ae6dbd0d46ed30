//! The laws of sealing, for random and for compressible chunks.

use proptest::prelude::*;

use super::*;
use crate::base::Entropy;
use crate::crypto::testing::cases;

fn secret(byte: u8) -> ConvergenceSecret {
    ConvergenceSecret::from_bytes([byte; 32])
}

/// Random where `seed` is odd, else text that compresses; mixed frame by frame for multiples of 3.
fn chunk(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Entropy::seeded(seed).fill(&mut bytes);
    for (index, frame) in bytes.chunks_mut(FRAME_BYTES).enumerate() {
        let compressible = if seed.is_multiple_of(3) {
            index.is_multiple_of(2)
        } else {
            seed.is_multiple_of(2)
        };
        if compressible {
            for byte in frame {
                *byte = b"cairn "[usize::from(*byte) % 6];
            }
        }
    }
    bytes
}

fn seal_one(secret: &ConvergenceSecret, plain: &[u8]) -> Result<Sealed, SealError> {
    seal(secret, &[plain], Vec::new())
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0usize),
        1usize..300,
        FRAME_BYTES - 2..FRAME_BYTES + 3,
        2 * FRAME_BYTES - 2..2 * FRAME_BYTES + 3,
        1usize..6 * FRAME_BYTES,
    ]
}

fn split(bytes: &[u8], pieces: usize) -> Vec<&[u8]> {
    bytes.chunks(bytes.len().div_ceil(pieces).max(1)).collect()
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn what_was_sealed_opens(len in lengths(), seed: u64, pieces in 1usize..9) {
        let plain = chunk(len, seed);
        let sealed = seal_one(&secret(1), &plain).unwrap();
        prop_assert!(sealed.bytes().len() <= sealed_len_max(len));
        prop_assert_eq!(sealed.plain_len as usize, len);
        let opened = open(&sealed.key, &split(sealed.bytes(), pieces)).unwrap();
        prop_assert_eq!(&opened[..], &plain[..]);
        let in_parts = seal(&secret(1), &split(&plain, pieces), Vec::new()).unwrap();
        prop_assert_eq!((in_parts.key, in_parts.bytes()), (sealed.key, sealed.bytes()));
        prop_assert!(open(&BlockKey([0; 32]), &[sealed.bytes()]).is_err());
    }

    #[test]
    fn equal_input_gives_equal_bytes_and_no_other_does(len in lengths(), seed: u64) {
        let plain = chunk(len, seed);
        let first = seal_one(&secret(1), &plain).unwrap();
        let again = seal(&secret(1), &[&plain], vec![7; 9_000_000]).unwrap();
        prop_assert_eq!(again.memory.len(), 9_000_000);
        prop_assert_eq!(first.key, again.key);
        prop_assert_eq!(first.bytes(), again.bytes());

        let other = seal_one(&secret(2), &plain).unwrap();
        prop_assert_ne!(first.key, other.key);
        prop_assert_ne!(first.bytes(), other.bytes());

        let mut longer = plain;
        longer.push(0);
        prop_assert_ne!(first.key, seal_one(&secret(1), &longer).unwrap().key);
    }

    #[test]
    fn any_part_opens_alone(len in 1usize..6 * FRAME_BYTES, seed: u64, from: u32, to: u32) {
        let plain = chunk(len, seed);
        let sealed = seal_one(&secret(1), &plain).unwrap();
        let prefix = *sealed.bytes().first_chunk().unwrap();
        let header_len = Layout::sealed_header_len(prefix).unwrap();
        prop_assert_eq!(header_len, sealed_header_len(len));
        let layout = Layout::open(&sealed.key, &sealed.bytes()[..header_len]).unwrap();
        let range = from % len as u32..(to % len as u32) + 1;
        let frames = layout.frames_of(range.clone());
        let bytes = layout.sealed_range(frames.clone()).unwrap();
        let part = &sealed.bytes()[bytes.start as usize..bytes.end as usize];
        let opened = open_frames(&sealed.key, &layout, frames.clone(), &split(part, 3)).unwrap();
        let held = layout.plain_range(frames.clone()).unwrap();
        prop_assert_eq!(&opened[..], &plain[held.start as usize..held.end as usize]);
        if !range.is_empty() {
            prop_assert!(held.start <= range.start && range.end <= held.end);
        }
        let beyond = frames.start..layout.frame_count() + 1;
        prop_assert!(open_frames(&sealed.key, &layout, beyond, &[part]).is_err());
    }

    #[test]
    fn any_damage_is_noticed(len in lengths(), seed: u64, at: usize, extra in 1usize..100) {
        let plain = chunk(len, seed);
        let sealed = seal_one(&secret(1), &plain).unwrap();
        let (bytes, key) = (sealed.bytes().to_vec(), sealed.key);
        let mut flipped = bytes.clone();
        let bit = at % (flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(open(&key, &[&flipped]).is_err());

        prop_assert!(open(&key, &[&bytes[..at % bytes.len()]]).is_err());
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + extra, 0);
        prop_assert_eq!(open(&key, &[&longer]).unwrap_err(), SealError::Trailing);
    }

    #[test]
    fn any_bytes_are_an_error_and_no_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        valid_prefix: bool,
        frames in 0u16..70,
    ) {
        if let (true, Some(prefix)) = (valid_prefix, bytes.first_chunk_mut::<4>()) {
            *prefix = [1, 1, frames.to_le_bytes()[0], frames.to_le_bytes()[1]];
        }
        prop_assert!(open(&BlockKey([3; 32]), &[&bytes]).is_err());
        prop_assert!(Layout::open(&BlockKey([3; 32]), &bytes).is_err());
    }
}

#[test]
fn swapped_frames_do_not_open() {
    let plain = chunk(3 * FRAME_BYTES, 1);
    let sealed = seal_one(&secret(1), &plain).unwrap();
    let layout = Layout::open(&sealed.key, sealed.bytes()).unwrap();
    let at = |frame: usize| {
        let range = layout.sealed_range(frame..frame + 1).unwrap();
        range.start as usize..range.end as usize
    };
    let mut swapped = sealed.bytes().to_vec();
    swapped[at(0)].copy_from_slice(&sealed.bytes()[at(1)]);
    swapped[at(1)].copy_from_slice(&sealed.bytes()[at(0)]);
    assert_eq!(
        open(&sealed.key, &[&swapped]).unwrap_err(),
        SealError::Authentication
    );
}

#[test]
fn the_largest_chunk_fits_and_a_larger_one_is_refused() {
    let plain = chunk(CHUNK_MAX_BYTES, 1);
    let sealed = seal_one(&secret(1), &plain).unwrap();
    assert!(sealed.bytes().len() <= crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES);
    assert_eq!(sealed.bytes().len(), sealed_len_max(CHUNK_MAX_BYTES));
    assert_eq!(open(&sealed.key, &[sealed.bytes()]).unwrap(), plain);
    let larger = vec![0; CHUNK_MAX_BYTES + 1];
    assert!(matches!(
        seal_one(&secret(1), &larger),
        Err(SealError::TooLarge(_))
    ));
}

#[test]
fn compressible_data_shrinks_and_other_data_costs_little() {
    let text = seal_one(&secret(1), &chunk(1 << 20, 2)).unwrap();
    assert!(text.bytes().len() < (1 << 20) / 2);
    let noise = seal_one(&secret(1), &chunk(1 << 20, 1)).unwrap();
    assert_eq!(noise.bytes().len(), sealed_len_max(1 << 20));
    let empty = seal_one(&secret(1), &[]).unwrap();
    assert_eq!(empty.bytes().len(), 24);
    assert!(open(&empty.key, &[empty.bytes()]).unwrap().is_empty());
}

#[test]
fn a_later_version_is_named() {
    let mut sealed = seal_one(&secret(1), b"x").unwrap();
    sealed.memory[0] = 2;
    let error = open(&sealed.key, &[sealed.bytes()]).unwrap_err();
    assert_eq!(error, SealError::Version { found: 2, known: 1 });
    sealed.memory[0] = 1;
    sealed.memory[1] = 9;
    assert!(matches!(
        open(&sealed.key, &[sealed.bytes()]),
        Err(SealError::Header(_))
    ));
}

#[test]
fn a_frame_that_lies_about_its_length_is_stopped() {
    // A writer with the key can authenticate anything, also a compressed frame that is a bomb.
    let bomb = zstd::bulk::compress(&vec![0u8; 1 << 20], 1).unwrap();
    let layout = Layout::new(
        FRAME_BYTES as u32,
        vec![Frame {
            compressed: true,
            payload_len: bomb.len() as u32,
        }],
    );
    let key = BlockKey([5; 32]);
    let mut bytes = vec![0; layout.sealed_len() as usize];
    encrypt::<&[u8]>(&key, &layout, &[], &bomb, &mut bytes).unwrap();
    assert_eq!(
        open(&key, &[bytes]).unwrap_err(),
        SealError::Decompression(0)
    );
}
