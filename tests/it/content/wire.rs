//! Frames as bytes.

use bytes::Bytes;
use cairnfs::base::{Class, Classify};
use cairnfs::content::{
    ContentError, Frame, FrameDecoder, FrameEncoder, FrameError, Remark, decode_frames,
    encode_frames,
};
use futures::stream::{self, StreamExt, TryStreamExt};
use proptest::prelude::*;

use super::trees::{any_tree, frames, items};
use super::{config, run};

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = FrameEncoder::default();
    for frame in frames {
        encoder.push(frame);
    }
    encoder.flush();
    std::iter::from_fn(|| encoder.pop()).flatten().collect()
}

fn decode(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
        if rest.is_empty() {
            break;
        }
        let (part, more) = rest.split_at((*cut).clamp(1, rest.len()));
        decoder.push(Bytes::copy_from_slice(part));
        rest = more;
    }
    decoder.finish()?;
    Ok(frames)
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn frames_survive_any_division_of_their_bytes(
        tree in any_tree(),
        cuts in prop::collection::vec(1usize..3000, 1..10),
    ) {
        let model = tree.items();
        let bytes = encode(&frames(&model, &[5000], true, false));
        prop_assert_eq!(items(decode(&bytes, &cuts).unwrap()), &model[..]);
        prop_assert_eq!(items(decode(&bytes, &[usize::MAX]).unwrap()), model);
    }

    #[test]
    fn a_stream_that_is_cut_off_is_noticed(tree in any_tree(), at in any::<prop::sample::Index>()) {
        let whole = frames(&tree.items(), &[5000], true, false);
        let bytes = encode(&whole);
        let cut = &bytes[..at.index(bytes.len())];
        match decode(cut, &[1000]) {
            Err(FrameError::Truncated) => {}
            Ok(frames) => prop_assert!(frames.iter().filter(|f| **f == Frame::End).count()
                < whole.iter().filter(|f| **f == Frame::End).count()),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..7) {
        let _ = decode(&bytes, &[7]);
        let mut framed = vec![kind, 0, 0, 0, bytes.len().min(255) as u8];
        framed.extend(&bytes);
        let _ = decode(&framed, &[7]);
    }
}

#[test]
fn impossible_frames_are_refused() {
    let refused: [&[u8]; 9] = [
        &[0, 0, 0, 0, 0],
        &[6, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0],
        &[1, 0xff, 0xff, 0xff, 0xff],
        &[2, 0, 0, 0, 0],
        &[2, 0, 0x20, 0, 0],
        &[3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        &[4, 0, 0, 0, 1, 0],
        &[5, 0, 0, 0, 2, 0x82, 0x09],
    ];
    for bytes in refused {
        let error = decode(bytes, &[usize::MAX]).unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{bytes:?}: {error}");
    }
    assert_eq!(decode(&[4, 0, 0, 0], &[1]), Err(FrameError::Truncated));
    assert_eq!(
        decode(&[2, 0, 0, 0, 9, 1], &[1]),
        Err(FrameError::Truncated)
    );
}

#[test]
fn errors_travel_as_the_last_frame() {
    run(async {
        let failure = ContentError::NotFound("x".to_owned());
        let frames = stream::iter([Ok(Frame::End), Err(failure), Ok(Frame::End)]);
        let body: Vec<Bytes> = encode_frames(frames).try_collect().await.unwrap();
        let body = stream::iter(body.into_iter().map(Ok));
        let decoded: Vec<_> = decode_frames(body).collect().await;
        assert_eq!(decoded.len(), 2);
        let error = decoded[1].as_ref().unwrap_err();
        assert_eq!(error.class(), Class::Missing);
        assert_eq!(error.to_string(), "`x` is not in this tree");
    });
    for class in [
        Class::Retry,
        Class::Missing,
        Class::Corrupt,
        Class::Full,
        Class::Denied,
        Class::Closed,
        Class::Bug,
    ] {
        let remark = Frame::Error(Remark {
            class,
            message: "é".repeat(5000),
        });
        let back = decode(&encode(&[remark]), &[100]).unwrap();
        assert!(
            matches!(&back[..], [Frame::Error(r)] if r.class == class && r.message.len() == 4000)
        );
    }
}

#[test]
fn what_is_at_hand_is_sent_before_waiting() {
    run(async {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let mut body = Box::pin(encode_frames(receiver));
        sender.unbounded_send(Ok(Frame::End)).unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), &[4, 0, 0, 0, 0][..]);
        sender.unbounded_send(Ok(Frame::Data("x".into()))).unwrap();
        assert_eq!(
            body.next().await.unwrap().unwrap(),
            &[2, 0, 0, 0, 1, b'x'][..]
        );
        drop(sender);
        assert!(body.next().await.is_none());
    });
}
