//! Compression of one frame: the only door to the crate `zstd`.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

/// Fast, and above this the ratio grows slower than the cost.
const LEVEL: i32 = 1;
/// What a frame must shrink to. The compressor gives up as soon as its output would be longer,
/// which makes it cheap on data that does not compress.
const WORTH_PERCENT: usize = 95;

thread_local! {
    // Contexts are large and slow to make; none is made on a thread that never seals or opens.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Most bytes that a compressed frame of `plain_len` bytes may have. Part of the format.
pub(super) const fn compressed_max(plain_len: usize) -> usize {
    plain_len * WORTH_PERCENT / 100
}

/// Compresses `plain` into the front of `out`, if that makes it at most [`compressed_max`] long.
/// That is also the room that `out` must have.
///
/// A function of `plain` alone: the room given to the compressor is always the same, since it
/// may influence the output.
pub(super) fn compress<'a>(plain: &[u8], out: &'a mut [u8]) -> Option<&'a [u8]> {
    let room = out.get_mut(..compressed_max(plain.len()))?;
    let written = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Compressor::new(LEVEL).ok();
        }
        slot.as_mut()?.compress_to_buffer(plain, room).ok()
    })?;
    room.get(..written).filter(|packed| !packed.is_empty())
}

/// Decompresses `packed`, which must fill `plain` exactly. Never allocates by what `packed` says.
pub(super) fn decompress(packed: &[u8], plain: &mut [u8]) -> bool {
    let expected = plain.len();
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        let written = slot
            .as_mut()
            .and_then(|context| context.decompress_to_buffer(packed, plain).ok());
        written == Some(expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_context_did_before_does_not_show() {
        let text = b"the quick brown fox jumps over the lazy dog. ".repeat(1000);
        let mut first = vec![0; text.len()];
        let first = compress(&text, &mut first).unwrap();
        for round in 0..20u8 {
            let other: Vec<u8> = (0..50_000u32).map(|i| (i % 97) as u8 ^ round).collect();
            let mut out = vec![0; other.len()];
            let _ = compress(&other, &mut out);
            let mut again = vec![0; text.len() + usize::from(round)];
            assert_eq!(compress(&text, &mut again).unwrap(), first);
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_frame() {
        let zeros = vec![0u8; 1 << 20];
        let packed = zstd::bulk::compress(&zeros, 1).unwrap();
        let mut plain = vec![0; 64 << 10];
        assert!(!decompress(&packed, &mut plain));
        let mut longer = vec![0; (1 << 20) + 1];
        assert!(!decompress(&packed, &mut longer));
        assert!(!decompress(b"not zstd", &mut plain));
        assert!(!decompress(b"", &mut plain));
    }
}
