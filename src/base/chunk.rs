//! A chunk of plaintext in the pieces of memory in which it came.

use bytes::Bytes;

/// Consecutive pieces of plaintext that are to become one block. Putting them together would cost a copy.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Chunk {
    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Bytes in all.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in order; none is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// All bytes in one piece.
    pub fn join(&self) -> Bytes {
        match self.pieces.as_slice() {
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(piece: Bytes) -> Chunk {
        let mut chunk = Chunk::default();
        chunk.push(piece);
        chunk
    }
}

impl FromIterator<Bytes> for Chunk {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Chunk {
        let mut chunk = Chunk::default();
        pieces.into_iter().for_each(|piece| chunk.push(piece));
        chunk
    }
}
