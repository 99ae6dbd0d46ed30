//! What holds of any message: it survives the wire, and damage never makes more of it than an error or another one.

use proptest::prelude::*;

use super::*;

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
        (any_claim(), proptest::option::of(any::<u8>())).prop_map(|(claim, fill)| {
            Request::ReleaseClaim {
                claim,
                proof: fill.map(|fill| Signature([fill; 64])),
            }
        }),
        (any::<Option<[u8; 32]>>(), any::<u32>())
            .prop_map(|(near, limit)| Request::Records { near, limit }),
        records().prop_map(|records| Request::Announce { records }),
        any_bytes(999).prop_map(|body| Request::Feed { body }),
        any_bytes(999).prop_map(|record| Request::Publish { record }),
        any_bytes(999).prop_map(|body| Request::Upkeep { body }),
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
        any_bytes(999).prop_map(|body| Response::Upkeep { body }),
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
    fn random_bytes_never_panic(head: [u8; HEADER_BYTES], opcode in 0..18u16, bytes in any_bytes(300)) {
        let _ = Header::decode(&head);
        let _ = decode_request(opcode, &bytes, bytes.clone());
        let _ = decode_response(opcode, &bytes, bytes.clone());
    }
}
