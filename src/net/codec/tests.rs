//! Frames as they are written down, and what is refused.

mod laws;

use super::*;
use crate::base::{BlockId, ClaimId, IndexSet, OwnerId, PeerId, VolumeId};
use crate::crypto::Signature;
use crate::net::message::Refusal;
use crate::net::testing::{cases, golden, lines};

fn claim() -> ClaimId {
    ClaimId {
        owner: OwnerId([0x0a; 16]),
        writer: PeerId([0x0b; 32]),
        number: 7,
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    let block = BlockId([0x11; 32]);
    let blocks = vec![block, BlockId([0x22; 32])];
    vec![
        (
            "have",
            Request::Have {
                blocks: blocks.clone(),
            },
        ),
        (
            "claim",
            Request::Claim {
                claim: claim(),
                expires_ms: 1_700_000_000_000,
                blocks,
            },
        ),
        (
            "store",
            Request::Store {
                claim: claim(),
                expires_ms: 1_700_000_000_000,
                block,
                index: 5,
                header: Bytes::from_static(b"stripe header"),
                data: Bytes::from_static(b"shard"),
            },
        ),
        (
            "fetch",
            Request::Fetch {
                block,
                wanted: IndexSet(0x8000_0000_0000_0003),
            },
        ),
        ("close-claim", Request::CloseClaim { claim: claim() }),
        (
            "release-claim",
            Request::ReleaseClaim {
                claim: claim(),
                proof: None,
            },
        ),
        (
            "release-claim-signed",
            Request::ReleaseClaim {
                claim: claim(),
                proof: Some(Signature([0x55; 64])),
            },
        ),
        (
            "records-near",
            Request::Records {
                near: Some([0x33; 32]),
                limit: 16,
            },
        ),
        (
            "records-any",
            Request::Records {
                near: None,
                limit: 16,
            },
        ),
        (
            "announce",
            Request::Announce {
                records: vec![Bytes::from_static(b"record")],
            },
        ),
        (
            "fetch-range",
            Request::FetchRange {
                block,
                index: 3,
                start: 65_536,
                end: 70_000,
            },
        ),
        ("unknown", Request::Unknown { opcode: 999 }),
        (
            "feed",
            Request::Feed {
                body: Bytes::from_static(b"message"),
            },
        ),
        (
            "publish",
            Request::Publish {
                record: Bytes::from_static(b"record"),
            },
        ),
        (
            "published",
            Request::Published {
                volume: VolumeId([0x44; 16]),
            },
        ),
        (
            "upkeep",
            Request::Upkeep {
                body: Bytes::from_static(b"message"),
            },
        ),
    ]
}

fn responses() -> Vec<(&'static str, Response)> {
    vec![
        (
            "held",
            Response::Held {
                held: vec![IndexSet(5), IndexSet::EMPTY],
            },
        ),
        ("stored", Response::Stored),
        (
            "shard",
            Response::Shard {
                index: 63,
                held: IndexSet(u64::MAX),
                header: Bytes::from_static(b"stripe header"),
                data: Bytes::from_static(b"shard"),
            },
        ),
        ("missing", Response::Missing { held: IndexSet(6) }),
        ("done", Response::Done),
        (
            "records",
            Response::Records {
                records: vec![Bytes::from_static(b"record"), Bytes::new()],
            },
        ),
        (
            "refused",
            Response::Refused {
                reason: Refusal::Full,
                free_bytes: 1 << 20,
            },
        ),
        ("busy", Response::Busy),
        ("unsupported", Response::Unsupported),
        (
            "range",
            Response::Range {
                header: Bytes::from_static(b"stripe header"),
                start: 65_536,
                proof: Bytes::from_static(b"proof"),
                data: Bytes::from_static(b"part of a shard"),
            },
        ),
        (
            "feed",
            Response::Feed {
                body: Bytes::from_static(b"messages"),
            },
        ),
        (
            "published",
            Response::Published {
                records: vec![Bytes::from_static(b"record"), Bytes::new()],
            },
        ),
        (
            "refused-stale",
            Response::Refused {
                reason: Refusal::Stale,
                free_bytes: 0,
            },
        ),
        (
            "upkeep",
            Response::Upkeep {
                body: Bytes::from_static(b"message"),
            },
        ),
    ]
}

fn parse(frame: &[u8]) -> (Header, Bytes, Bytes) {
    let (head, rest) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::decode(head).unwrap();
    let (meta, payload) = rest.split_at(header.meta_len as usize);
    assert_eq!(payload.len(), header.payload_len as usize);
    (
        header,
        Bytes::copy_from_slice(meta),
        Bytes::copy_from_slice(payload),
    )
}

const ID: u64 = 0x0102_0304_0506_0708;

fn bytes_of(frame: &Outgoing) -> Vec<u8> {
    [&frame.head[..], &frame.payload[..]].concat()
}

#[test]
fn every_message_has_the_form_that_is_written_down() {
    let asked: Vec<_> = requests()
        .iter()
        .map(|(name, request)| {
            let frame = encode_request(ID, request).unwrap();
            ((*name).to_owned(), bytes_of(&frame))
        })
        .collect();
    assert_eq!(golden("request"), asked, "\n{}", lines("request", &asked));
    let answered: Vec<_> = responses()
        .iter()
        .map(|(name, response)| {
            let frame = encode_response(ID, response).unwrap();
            ((*name).to_owned(), bytes_of(&frame))
        })
        .collect();
    let shown = lines("response", &answered);
    assert_eq!(golden("response"), answered, "\n{shown}");
}

#[test]
fn the_golden_frames_are_read() {
    for ((name, frame), (expected, request)) in golden("request").iter().zip(requests()) {
        let (header, meta, payload) = parse(frame);
        assert_eq!((header.id, header.kind), (ID, Kind::Request));
        assert_eq!(name, expected);
        assert_eq!(decode_request(header.opcode, &meta, payload), Ok(request));
    }
    for ((name, frame), (expected, response)) in golden("response").iter().zip(responses()) {
        let (header, meta, payload) = parse(frame);
        assert_eq!((header.id, header.kind), (ID, Kind::Response));
        assert_eq!(name, expected);
        assert_eq!(decode_response(header.opcode, &meta, payload), Ok(response));
    }
}

/// The frames that are no messages, and the head of a message whose payload comes in segments.
#[test]
fn every_other_frame_has_the_form_that_is_written_down() {
    let bare = |kind| (Header::bare(kind, ID), &b""[..]);
    let segment = Header {
        payload_len: 5,
        ..Header::bare(Kind::Data, ID)
    };
    let later = Header {
        meta_len: 2,
        payload_len: 3,
        opcode: 1,
        ..Header::bare(Kind::Unknown(9), ID)
    };
    let announced = Header {
        meta_len: 0,
        payload_len: INLINE_MAX_BYTES as u32 + 1,
        opcode: 3,
        ..Header::bare(Kind::Response, ID)
    };
    let frames = [
        ("data", (segment, &b"shard"[..])),
        ("cancel", bare(Kind::Cancel)),
        ("ping", bare(Kind::Ping)),
        ("pong", bare(Kind::Pong)),
        ("goodbye", (Header::bare(Kind::Goodbye, 0), &b""[..])),
        ("of-a-later-kind", (later, &[1, 2, 3, 4, 5][..])),
        ("head-before-segments", (announced, &b""[..])),
    ];
    let bytes = |(header, rest): &(Header, &[u8])| [&header.encode()[..], rest].concat();
    let written: Vec<_> = frames
        .iter()
        .map(|(name, frame)| ((*name).to_owned(), bytes(frame)))
        .collect();
    assert_eq!(golden("frame"), written, "\n{}", lines("frame", &written));
    for ((_, bytes), (name, (header, rest))) in golden("frame").iter().zip(frames) {
        let (head, behind) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        assert_eq!(Header::decode(head), Ok(header), "{name}");
        assert_eq!(behind, rest, "{name}");
        assert_eq!(behind.len(), header.meta_len as usize + header.inline_len());
    }
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let limits = [
        (
            Kind::Request,
            MESSAGE_META_MAX_BYTES,
            MESSAGE_PAYLOAD_MAX_BYTES,
        ),
        (
            Kind::Response,
            MESSAGE_META_MAX_BYTES,
            MESSAGE_PAYLOAD_MAX_BYTES,
        ),
        (Kind::Data, 0, SEGMENT_MAX_BYTES),
        (Kind::Cancel, 0, 0),
        (Kind::Ping, 0, 0),
        (Kind::Pong, 0, 0),
        (Kind::Goodbye, 0, 0),
        (Kind::Hello, HELLO_META_MAX_BYTES, 0),
        (
            Kind::Unknown(200),
            MESSAGE_META_MAX_BYTES,
            MESSAGE_PAYLOAD_MAX_BYTES,
        ),
    ];
    for (kind, meta_max, payload_max) in limits {
        let head = |meta_len: usize, payload_len: usize| Header {
            meta_len: meta_len as u32,
            payload_len: payload_len as u32,
            id: 9,
            kind,
            opcode: 3,
        };
        let largest = head(meta_max, payload_max);
        assert_eq!(Header::decode(&largest.encode()), Ok(largest));
        for (meta_len, payload_len) in [(meta_max + 1, 0), (0, payload_max + 1)] {
            let error = Header::decode(&head(meta_len, payload_len).encode());
            assert!(
                matches!(error, Err(CodecError::TooLarge { .. })),
                "{kind:?}"
            );
        }
    }
}

#[test]
fn what_the_other_side_would_refuse_is_not_sent() {
    let block = BlockId([1; 32]);
    let store = |index, header: usize, data: usize| Request::Store {
        claim: claim(),
        expires_ms: 0,
        block,
        index,
        header: vec![0; header].into(),
        data: vec![0; data].into(),
    };
    for request in [
        Request::Have {
            blocks: vec![block; BATCH_BLOCKS_MAX + 1],
        },
        Request::Announce {
            records: vec![Bytes::new(); RECORDS_PER_MESSAGE + 1],
        },
        Request::Announce {
            records: vec![vec![0; MESSAGE_META_MAX_BYTES].into()],
        },
        Request::FetchRange {
            block,
            index: 64,
            start: 0,
            end: 1,
        },
        store(64, 0, 0),
        store(0, STRIPE_HEADER_MAX_BYTES + 1, 0),
        store(0, 0, MESSAGE_PAYLOAD_MAX_BYTES + 1),
        Request::Feed {
            body: vec![0; MESSAGE_PAYLOAD_MAX_BYTES + 1].into(),
        },
        Request::Publish {
            record: vec![0; POINTER_MAX_BYTES + 1].into(),
        },
    ] {
        assert!(encode_request(1, &request).is_err());
    }
    for records in [
        vec![vec![0; POINTER_MAX_BYTES + 1].into()],
        vec![Bytes::new(); POINTERS_PER_VOLUME_MAX + 1],
    ] {
        assert!(encode_response(1, &Response::Published { records }).is_err());
    }
    let records = vec![vec![0; POINTER_MAX_BYTES].into(); POINTERS_PER_VOLUME_MAX];
    assert!(encode_response(1, &Response::Published { records }).is_ok());
    let range = |header: usize, proof: usize| Response::Range {
        header: vec![0; header].into(),
        start: 0,
        proof: vec![0; proof].into(),
        data: Bytes::new(),
    };
    assert!(encode_response(1, &range(STRIPE_HEADER_MAX_BYTES, RANGE_PROOF_MAX_BYTES)).is_ok());
    assert!(encode_response(1, &range(STRIPE_HEADER_MAX_BYTES + 1, 0)).is_err());
    assert!(encode_response(1, &range(0, RANGE_PROOF_MAX_BYTES + 1)).is_err());
    assert!(
        encode_request(
            1,
            &store(63, STRIPE_HEADER_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES)
        )
        .is_ok()
    );
}

#[test]
fn control_parts_beyond_the_limits_are_refused() {
    let blocks = vec![BlockId([1; 32]); BATCH_BLOCKS_MAX + 1];
    let meta = wire::encode(&meta::HaveOut { blocks: &blocks });
    assert!(decode_request(1, &meta, Bytes::new()).is_err());
    assert!(decode_response(2, &[], Bytes::from_static(b"x")).is_err());
    for code in [1, 9, 11, 12] {
        assert!(decode_request(code, &[], Bytes::from_static(b"x")).is_err());
    }
    let long = meta::Range {
        header: Bytes::new(),
        start: 0,
        proof: vec![0; RANGE_PROOF_MAX_BYTES + 1].into(),
    };
    assert!(decode_response(10, &wire::encode(&long), Bytes::new()).is_err());
    let long = meta::Publish {
        record: vec![0; POINTER_MAX_BYTES + 1].into(),
    };
    assert!(decode_request(11, &wire::encode(&long), Bytes::new()).is_err());
    for records in [
        vec![Bytes::from(vec![0; POINTER_MAX_BYTES + 1])],
        vec![Bytes::new(); POINTERS_PER_VOLUME_MAX + 1],
    ] {
        let meta = wire::encode(&meta::RecordsOut { records: &records });
        assert!(decode_response(12, &meta, Bytes::new()).is_err());
    }
    // An announced array far longer than the bytes that follow.
    let liar = [
        0xa1, 0x66, b'b', b'l', b'o', b'c', b'k', b's', 0x9b, 255, 255, 255, 255, 255, 255, 255,
        255,
    ];
    assert!(decode_request(1, &liar, Bytes::new()).is_err());
    // Nested deeper than any stack, under a key that is ignored.
    let mut nested = vec![0xa1, 0x61, b'x'];
    nested.resize(1 << 20, 0x81);
    assert!(decode_request(1, &nested, Bytes::new()).is_err());
    // An unknown operation is not even looked at.
    let unknown = decode_request(999, &nested, Bytes::from_static(b"x"));
    assert_eq!(unknown, Ok(Request::Unknown { opcode: 999 }));
    assert_eq!(
        decode_response(999, &[], Bytes::new()),
        Err(CodecError::UnknownResponse(999))
    );
}

#[test]
fn keys_of_a_later_version_are_ignored() {
    #[derive(serde::Serialize)]
    struct Later {
        block: BlockId,
        wanted: IndexSet,
        urgency: u8,
    }
    let meta = wire::encode(&Later {
        block: BlockId([4; 32]),
        wanted: IndexSet(3),
        urgency: 9,
    });
    let request = decode_request(4, &meta, Bytes::new());
    assert!(matches!(request, Ok(Request::Fetch { .. })));
}
