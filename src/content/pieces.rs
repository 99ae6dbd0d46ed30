//! A blob as a stream of pieces, and the ways to and from it.

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};

use super::error::ContentError;
use super::frames::Frame;

/// Some bytes of a blob or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These.
    Data(Bytes),
    /// So many zeros.
    Hole(u64),
}

impl From<Piece> for Frame {
    fn from(piece: Piece) -> Frame {
        match piece {
            Piece::Data(bytes) => Frame::Data(bytes),
            Piece::Hole(len) => Frame::Hole(len),
        }
    }
}

/// The pieces of a blob that comes in frames. Fails unless the stream ends with `End`.
pub fn blob_pieces<S>(frames: S) -> impl Stream<Item = Result<Piece, ContentError>> + Send
where
    S: Stream<Item = Result<Frame, ContentError>> + Send + Unpin,
{
    let refuse = |why| ContentError::Refused {
        path: String::new(),
        why,
    };
    stream::try_unfold(frames, move |mut frames| async move {
        match frames.next().await.transpose()? {
            Some(Frame::Data(bytes)) => Ok(Some((Piece::Data(bytes), frames))),
            Some(Frame::Hole(len)) => Ok(Some((Piece::Hole(len), frames))),
            Some(Frame::End) => match frames.next().await.transpose()? {
                None => Ok(None),
                Some(_) => Err(refuse("something follows the end of the blob")),
            },
            Some(Frame::Entry(_)) => Err(refuse("an entry in the middle of a blob")),
            Some(Frame::Error(remark)) => Err(ContentError::Sender {
                class: remark.class,
                message: remark.message,
            }),
            None => Err(ContentError::BrokenOff("the blob has no end".to_owned())),
        }
    })
}

/// The frames of a blob.
pub fn blob_frames<S>(pieces: S) -> impl Stream<Item = Result<Frame, ContentError>> + Send
where
    S: Stream<Item = Result<Piece, ContentError>> + Send,
{
    pieces
        .map(|piece| piece.map(Frame::from))
        .chain(stream::once(async { Ok(Frame::End) }))
}

/// Zeros to copy from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The bytes of a blob, holes filled with zeros.
pub fn flat_bytes<S>(pieces: S) -> impl Stream<Item = Result<Bytes, ContentError>> + Send
where
    S: Stream<Item = Result<Piece, ContentError>> + Send + Unpin,
{
    stream::try_unfold((pieces, 0u64), |(mut pieces, mut zeros)| async move {
        loop {
            if zeros > 0 {
                let len = zeros.min(ZEROS.len() as u64);
                let bytes = Bytes::from_static(ZEROS.get(..len as usize).unwrap_or(&ZEROS));
                return Ok(Some((bytes, (pieces, zeros - len))));
            }
            match pieces.next().await.transpose()? {
                Some(Piece::Data(bytes)) => return Ok(Some((bytes, (pieces, 0)))),
                Some(Piece::Hole(len)) => zeros = len,
                None => return Ok(None),
            }
        }
    })
}
