//! What comes from peers and over the control socket.

use bytes::Bytes;
use futures::FutureExt;

use super::split;
use crate::base::{Clock, Entropy, NetworkId, PeerId, VolumeId};
use crate::content::{Frame, FrameDecoder, FrameEncoder};
use crate::crypto::{MembershipChain, NetworkSecrets, Side, SigningKey, VolumeChain};
use crate::net::admission::{Ends, Gate, Lists, admit};
use crate::net::codec::{
    HEADER_BYTES, Header, decode_request, decode_response, encode_request, encode_response,
};
use crate::net::records::Claimed;

/// When all of this happens.
pub(super) const NOW_MS: u64 = 1_767_225_600_000;

/// The head of a frame.
pub(super) fn frame_head(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<HEADER_BYTES>()
        && let Ok(head) = Header::decode(bytes)
    {
        assert_eq!(head.encode(), *bytes);
        assert!(head.inline_len() <= head.payload_len as usize);
    }
}

/// Operation code, control part and payload.
pub(super) fn parts(data: &[u8]) -> (u16, &[u8], Bytes) {
    let (code, rest) = data.split_first_chunk::<2>().unwrap_or((&[0; 2], data));
    let (meta, payload) = split(rest);
    (
        u16::from_be_bytes(*code),
        meta,
        Bytes::copy_from_slice(payload),
    )
}

/// A request: operation code, control part, payload.
pub(super) fn request(data: &[u8]) {
    let (code, meta, payload) = parts(data);
    let Ok(request) = decode_request(code, meta, payload) else {
        return;
    };
    let Ok(sent) = encode_request(7, &request) else {
        panic!("a request that was read cannot be sent: {request:?}");
    };
    let meta = sent.head.get(HEADER_BYTES..).unwrap_or_default();
    assert_eq!(decode_request(code, meta, sent.payload), Ok(request));
}

/// A response: operation code, control part, payload.
pub(super) fn response(data: &[u8]) {
    let (code, meta, payload) = parts(data);
    let Ok(response) = decode_response(code, meta, payload) else {
        return;
    };
    let Ok(sent) = encode_response(7, &response) else {
        panic!("a response that was read cannot be sent: {response:?}");
    };
    let meta = sent.head.get(HEADER_BYTES..).unwrap_or_default();
    assert_eq!(decode_response(code, meta, sent.payload), Ok(response));
}

/// A network, always the same.
pub(super) fn founder() -> (SigningKey, NetworkSecrets, MembershipChain) {
    let device = SigningKey::from_secret(&[1; 32]);
    let (secrets, chain) = MembershipChain::found(&device, &Entropy::seeded(1));
    (device, secrets, chain)
}

/// One end of an admission that is always the same: the same nonces, so that a recorded exchange
/// is valid again.
pub(super) struct AdmissionEnd {
    pub ends: Ends,
    pub gate: Gate,
    pub entropy: Entropy,
}

pub(super) fn admission_end(side: Side) -> AdmissionEnd {
    let (device, secrets, chain) = founder();
    let own = device.peer();
    let gate = Gate::new(secrets, &chain, Lists::default(), Clock::simulated(NOW_MS));
    AdmissionEnd {
        // Founder to founder: the simplest chain that holds.
        ends: Ends {
            own,
            peer: own,
            side,
            binding: b"binding".to_vec(),
        },
        gate,
        entropy: Entropy::seeded(if side == Side::Dialer { 5 } else { 6 }),
    }
}

fn admission(side: Side, data: &[u8]) {
    let AdmissionEnd {
        ends,
        gate,
        entropy,
    } = admission_end(side);
    let mut stream = tokio::io::join(data, tokio::io::sink());
    let admitted = admit(&mut stream, &ends, &gate, &entropy, Bytes::new(), || Ok(()));
    match admitted.now_or_never() {
        Some(Ok((greeted, ()))) => assert!(greeted.record.len() <= data.len()),
        Some(Err(_)) => {}
        None => panic!("an exchange over a slice has nothing to wait for"),
    }
}

/// What a dialer sends to a listener before it is admitted.
pub(super) fn admission_listener(data: &[u8]) {
    admission(Side::Listener, data);
}

/// What a listener sends to a dialer before it is admitted.
pub(super) fn admission_dialer(data: &[u8]) {
    admission(Side::Dialer, data);
}

/// A signed record of a peer.
pub(super) fn peer_record(data: &[u8]) {
    let Ok(claimed) = Claimed::decode(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let gate = admission_end(Side::Listener).gate;
    if let Ok(known) = claimed.verify(&gate, None, NOW_MS) {
        assert_eq!(known.encoded, data);
    }
}

/// A proof of membership.
pub(super) fn membership_chain(data: &[u8]) {
    let Ok(chain) = MembershipChain::decode(data) else {
        return;
    };
    assert_eq!(chain.encode(), data);
    let network: NetworkId = chain.network();
    if let Ok(member) = chain.verify(network, NOW_MS) {
        assert_eq!(member.network, network);
        assert_eq!(member.ancestors.len(), member.invitations.len());
    }
    // It is never the proof of another network.
    let (.., other) = founder();
    if other.network() != network {
        assert!(chain.verify(other.network(), NOW_MS).is_err());
    }
}

/// A proof that somebody is a member of a volume.
pub(super) fn volume_chain(data: &[u8]) {
    let Ok(chain) = VolumeChain::decode(data) else {
        return;
    };
    assert_eq!(chain.encode(), data);
    let (volume, owner) = (chain.volume(), chain.owner());
    let verdict = chain.verify(volume, owner, NOW_MS);
    match (chain.members(volume, owner, NOW_MS), &verdict) {
        (Ok(members), Ok(member)) => {
            assert_eq!(members.last(), Some(member));
            let pairs = members.windows(2);
            let grows =
                pairs.filter(|pair| matches!(pair, [one, two] if one.read_only && !two.read_only));
            assert_eq!(grows.count(), 0, "who only reads let somebody write");
        }
        (one, two) => assert_eq!(one.err().as_ref(), two.as_ref().err()),
    }
    // It is never the proof for another volume, or by another owner.
    let other = VolumeId(volume.0.map(|byte| !byte));
    assert!(chain.verify(other, owner, NOW_MS).is_err());
    assert!(owner == NOBODY || chain.verify(volume, NOBODY, NOW_MS).is_err());
}

/// The frames of a file or tree, in pieces.
pub(super) fn content_frames(data: &[u8]) {
    let frames = frames_of(data, data.len() / 3 + 1);
    // How the bytes were divided means nothing but for the pieces of data.
    assert_eq!(
        merged(&frames),
        merged(&frames_of(data, data.len().max(1))),
        "the division into pieces mattered"
    );
    let mut encoder = FrameEncoder::default();
    for frame in &frames {
        encoder.push(frame);
    }
    encoder.flush();
    let again: Vec<u8> = std::iter::from_fn(|| encoder.pop())
        .flat_map(|piece| piece.to_vec())
        .collect();
    assert_eq!(
        merged(&frames_of(&again, again.len().max(1))),
        merged(&frames)
    );
}

fn frames_of(data: &[u8], piece: usize) -> Vec<Frame> {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for piece in data.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// Neighbouring pieces of data as one.
fn merged(frames: &[Frame]) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::new();
    for frame in frames {
        match (all.last_mut(), frame) {
            (Some(Frame::Data(before)), Frame::Data(more)) => {
                *before = [before.as_ref(), more.as_ref()].concat().into();
            }
            _ => all.push(frame.clone()),
        }
    }
    all
}

/// Somebody who is no member.
pub(super) const NOBODY: PeerId = PeerId([9; 32]);
