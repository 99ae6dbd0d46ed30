//! Which parts of a file are holes: every aligned 4 KiB of zeros, however the sender stored it.
//!
//! File systems differ in what they keep sparse, so the sender's holes say nothing: the same bytes must
//! give the same link everywhere.

use bytes::Bytes;

use super::pieces::Piece;

/// Holes begin and end at multiples of this, or at the end of the file.
pub(super) const GRAIN: usize = 4096;

static ZEROS: [u8; GRAIN] = [0; GRAIN];

fn is_zero(bytes: &[u8]) -> bool {
    ZEROS.get(..bytes.len()) == Some(bytes)
}

/// Divides a file's bytes into data and holes.
#[derive(Debug, Default)]
pub(super) struct HoleFinder {
    /// The beginning of a grain, less than a whole one.
    partial: Vec<u8>,
}

impl HoleFinder {
    pub const fn new() -> Self {
        HoleFinder {
            partial: Vec::new(),
        }
    }

    /// Takes a piece; `emit` gets runs of data and holes in order. The division of runs into
    /// calls depends on the pieces, that into data and holes does not.
    pub fn push(&mut self, piece: Piece, emit: &mut impl FnMut(Piece)) {
        match piece {
            Piece::Data(bytes) => self.push_data(bytes, emit),
            Piece::Hole(len) => self.push_hole(len, emit),
        }
    }

    /// The file is at its end.
    pub fn finish(&mut self, emit: &mut impl FnMut(Piece)) {
        if !self.partial.is_empty() {
            emit_run(Bytes::from(std::mem::take(&mut self.partial)), emit);
        }
    }

    fn push_data(&mut self, mut bytes: Bytes, emit: &mut impl FnMut(Piece)) {
        if !self.partial.is_empty() {
            let head = bytes.split_to(bytes.len().min(GRAIN - self.partial.len()));
            self.partial.extend_from_slice(&head);
            if self.partial.len() < GRAIN {
                return;
            }
            emit_run(Bytes::from(std::mem::take(&mut self.partial)), emit);
        }
        let rest = bytes.split_off(bytes.len() - bytes.len() % GRAIN);
        self.partial.extend_from_slice(&rest);
        while !bytes.is_empty() {
            let zero = bytes
                .chunks(GRAIN)
                .take_while(|grain| is_zero(grain))
                .count();
            if zero > 0 {
                emit(Piece::Hole((zero * GRAIN) as u64));
                let _ = bytes.split_to(zero * GRAIN);
            }
            let full = bytes
                .chunks(GRAIN)
                .take_while(|grain| !is_zero(grain))
                .count();
            if full > 0 {
                emit(Piece::Data(bytes.split_to(full * GRAIN)));
            }
        }
    }

    fn push_hole(&mut self, mut len: u64, emit: &mut impl FnMut(Piece)) {
        if !self.partial.is_empty() {
            let room = (GRAIN - self.partial.len()) as u64;
            let filled = len.min(room);
            self.partial.resize(self.partial.len() + filled as usize, 0);
            len -= filled;
            if self.partial.len() < GRAIN {
                return;
            }
            emit_run(Bytes::from(std::mem::take(&mut self.partial)), emit);
        }
        let rest = len % GRAIN as u64;
        if len > rest {
            emit(Piece::Hole(len - rest));
        }
        self.partial.resize(rest as usize, 0);
    }
}

/// One grain or less, which is either all hole or all data.
fn emit_run(grain: Bytes, emit: &mut impl FnMut(Piece)) {
    if is_zero(&grain) {
        emit(Piece::Hole(grain.len() as u64));
    } else {
        emit(Piece::Data(grain));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Maximal runs, data as bytes and holes as lengths.
    fn runs(pieces: Vec<Piece>) -> Vec<Result<Vec<u8>, u64>> {
        let mut runs: Vec<Result<Vec<u8>, u64>> = Vec::new();
        let mut finder = HoleFinder::new();
        let mut emit = |piece: Piece| match (runs.last_mut(), piece) {
            (Some(Ok(data)), Piece::Data(more)) => data.extend_from_slice(&more),
            (Some(Err(hole)), Piece::Hole(more)) => *hole += more,
            (_, Piece::Data(bytes)) => runs.push(Ok(bytes.to_vec())),
            (_, Piece::Hole(len)) => runs.push(Err(len)),
        };
        for piece in pieces {
            finder.push(piece, &mut emit);
        }
        finder.finish(&mut emit);
        runs
    }

    proptest! {
        #[test]
        fn holes_depend_on_the_bytes_alone(
            segments in prop::collection::vec((any::<bool>(), 1usize..20_000), 0..8),
            cuts in prop::collection::vec(1usize..9000, 1..20),
        ) {
            let mut file = Vec::new();
            let mut sparse = Vec::new();
            for (data, len) in &segments {
                file.extend(std::iter::repeat_n(u8::from(*data), *len));
                sparse.push(if *data {
                    Piece::Data(vec![1; *len].into())
                } else {
                    Piece::Hole(*len as u64)
                });
            }
            let mut pieces = Vec::new();
            let mut rest = Bytes::from(file.clone());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                pieces.push(Piece::Data(rest.split_to((*cut).min(rest.len()))));
            }
            let whole = runs(vec![Piece::Data(file.clone().into())]);
            prop_assert_eq!(&whole, &runs(pieces));
            prop_assert_eq!(&whole, &runs(sparse));
            let back: Vec<u8> = whole
                .into_iter()
                .flat_map(|run| run.unwrap_or_else(|len| vec![0; len as usize]))
                .collect();
            prop_assert_eq!(back, file);
        }
    }
}
