//! Tests of `net::codec`.

use proptest::prelude::*;

use super::*;
use crate::base::{BlockId, ClaimId, IndexSet, OwnerId, PeerId, VolumeId};
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
        ("release-claim", Request::ReleaseClaim { claim: claim() }),
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

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn any_block() -> impl Strategy<Value = BlockId> {
    any::<[u8; 32]>().prop_map(BlockId)
}

fn any_claim() -> impl Strategy<Value = ClaimId> {
    (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<u64>()).prop_map(|(owner, writer, number)| {
        ClaimId {
            owner: OwnerId(owner),
            writer: PeerId(writer),
            number,
        }
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let blocks = || proptest::collection::vec(any_block(), 0..20);
    let records = || proptest::collection::vec(any_bytes(50), 0..20);
    prop_oneof![
        blocks().prop_map(|blocks| Request::Have { blocks }),
        (any_claim(), any::<u64>(), blocks()).prop_map(|(claim, expires_ms, blocks)| {
            Request::Claim {
                claim,
                expires_ms,
                blocks,
            }
        }),
        (
            any_claim(),
            any::<u64>(),
            any_block(),
            0..64u8,
            any_bytes(99),
            any_bytes(999)
        )
            .prop_map(
                |(claim, expires_ms, block, index, header, data)| Request::Store {
                    claim,
                    expires_ms,
                    block,
                    index,
                    header,
                    data,
                }
            ),
        (any_block(), any::<u64>()).prop_map(|(block, wanted)| Request::Fetch {
            block,
            wanted: IndexSet(wanted),
        }),
        (any_block(), 0..64u8, any::<u32>(), any::<u32>()).prop_map(
            |(block, index, start, end)| Request::FetchRange {
                block,
                index,
                start,
                end,
            }
        ),
        any_claim().prop_map(|claim| Request::CloseClaim { claim }),
        any_claim().prop_map(|claim| Request::ReleaseClaim { claim }),
        (any::<Option<[u8; 32]>>(), any::<u32>())
            .prop_map(|(near, limit)| Request::Records { near, limit }),
        records().prop_map(|records| Request::Announce { records }),
        any_bytes(999).prop_map(|body| Request::Feed { body }),
        any_bytes(999).prop_map(|record| Request::Publish { record }),
        any::<[u8; 16]>().prop_map(|volume| Request::Published {
            volume: VolumeId(volume),
        }),
    ]
}

fn any_response() -> impl Strategy<Value = Response> {
    let records = || proptest::collection::vec(any_bytes(50), 0..20);
    let held = proptest::collection::vec(any::<u64>().prop_map(IndexSet), 0..20);
    let reason = prop_oneof![
        Just(Refusal::Full),
        Just(Refusal::NotOffered),
        Just(Refusal::Denied),
        Just(Refusal::Invalid),
        Just(Refusal::Broken),
        Just(Refusal::Stale),
    ];
    prop_oneof![
        held.prop_map(|held| Response::Held { held }),
        Just(Response::Stored),
        (0..64u8, any::<u64>(), any_bytes(99), any_bytes(999)).prop_map(
            |(index, held, header, data)| Response::Shard {
                index,
                held: IndexSet(held),
                header,
                data,
            }
        ),
        (any_bytes(99), any::<u32>(), any_bytes(99), any_bytes(999)).prop_map(
            |(header, start, proof, data)| Response::Range {
                header,
                start,
                proof,
                data,
            }
        ),
        any::<u64>().prop_map(|held| Response::Missing {
            held: IndexSet(held)
        }),
        Just(Response::Done),
        records().prop_map(|records| Response::Records { records }),
        records().prop_map(|records| Response::Published { records }),
        any_bytes(999).prop_map(|body| Response::Feed { body }),
        (reason, any::<u64>())
            .prop_map(|(reason, free_bytes)| Response::Refused { reason, free_bytes }),
        Just(Response::Busy),
        Just(Response::Unsupported),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn messages_survive_the_wire(id: u64, request in any_request(), response in any_response()) {
        let frame = encode_request(id, &request).unwrap();
        let (header, meta, payload) = parse(&[&frame.head[..], &frame.payload].concat());
        prop_assert_eq!((header.kind, header.id), (Kind::Request, id));
        prop_assert!(payload.is_empty() || request_has_payload(header.opcode));
        prop_assert_eq!(decode_request(header.opcode, &meta, payload), Ok(request));

        let frame = encode_response(id, &response).unwrap();
        let (header, meta, payload) = parse(&[&frame.head[..], &frame.payload].concat());
        prop_assert_eq!((header.kind, header.id), (Kind::Response, id));
        prop_assert!(payload.is_empty() || response_has_payload(header.opcode));
        prop_assert_eq!(decode_response(header.opcode, &meta, payload), Ok(response));
    }

    #[test]
    fn a_damaged_message_is_an_error_or_another_message(
        request in any_request(),
        at: prop::sample::Index,
        flip in 1..=255u8,
        keep: prop::sample::Index,
    ) {
        let frame = encode_request(1, &request).unwrap();
        let meta = &frame.head[HEADER_BYTES..];
        prop_assume!(!meta.is_empty());
        let opcode = Header::decode(frame.head[..HEADER_BYTES].try_into().unwrap()).unwrap().opcode;
        let mut damaged = meta.to_vec();
        damaged[at.index(meta.len())] ^= flip;
        let _ = decode_request(opcode, &damaged, frame.payload.clone());
        let cut = &meta[..keep.index(meta.len())];
        prop_assert!(decode_request(opcode, cut, frame.payload.clone()).is_err());
    }

    #[test]
    fn random_bytes_never_panic(head: [u8; HEADER_BYTES], opcode in 0..14u16, bytes in any_bytes(300)) {
        let _ = Header::decode(&head);
        let _ = decode_request(opcode, &bytes, bytes.clone());
        let _ = decode_response(opcode, &bytes, bytes.clone());
    }
}
