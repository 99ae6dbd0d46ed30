//! An open file that comes with a connection.
//!
//! Such a connection begins with one zero byte, which carries the descriptor (`SCM_RIGHTS`); HTTP
//! follows. No HTTP begins with a zero, so other connections need no preface.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

const PREFACE: u8 = 0;

/// Sends `file` as the first thing on a connection.
pub(super) async fn send(stream: &UnixStream, file: impl AsFd) -> io::Result<()> {
    let files = [file.as_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::Error::other("no room for a descriptor"));
            }
            let preface = [IoSlice::new(&[PREFACE])];
            sendmsg(stream, &preface, &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// Takes the file that comes with a new connection, if one does. Waits for its first byte.
pub(super) async fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    stream
        .async_io(Interest::READABLE, || {
            let mut first = [0; 1];
            let (_, count) = recv(stream, &mut first, RecvFlags::PEEK)?;
            if count == 0 || first != [PREFACE] {
                return Ok(None);
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut first)];
            recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let file = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            file.map(Some)
                .ok_or_else(|| io::ErrorKind::InvalidData.into())
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_file_comes_before_the_bytes_and_only_where_one_was_sent() {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        send(&left, &file).await.unwrap();
        left.write_all(b"GET").await.unwrap();
        let received = receive(&right).await.unwrap().unwrap();
        rustix::io::write(&received, b"content").unwrap();
        let mut text = [0; 3];
        right.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"GET");
        // One position for both.
        assert_eq!(file.stream_position().unwrap(), 7);
        file.rewind().unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");

        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(b"GET").await.unwrap();
        assert!(receive(&right).await.unwrap().is_none());
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&[PREFACE]).await.unwrap();
        assert!(receive(&right).await.is_err());
    }
}
