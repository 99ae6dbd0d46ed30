//! Peers that break the rules, talk nonsense, or take without giving.

use super::*;

async fn expect_end(bytes: &[u8]) -> LinkEnd {
    let (a, mut stream) = against_stream();
    stream.write_all(bytes).await.unwrap();
    drop(stream);
    timeout(Duration::from_secs(1), a.link.ended())
        .await
        .expect("the link ends at once")
}

#[tokio::test(start_paused = true)]
async fn frames_that_break_the_rules_end_the_link() {
    let bare = |kind| Header::bare(kind, 5);
    let oversize = |kind, meta_len, payload_len| {
        Header {
            meta_len,
            payload_len,
            ..bare(kind)
        }
        .encode()
    };
    let store = encode_request(5, &store(100_000)).unwrap();
    let twice = [&store.head[..], &store.head[..]].concat();
    let other_segment = [
        &store.head[..],
        &Header {
            payload_len: 10,
            ..Header::bare(Kind::Data, 6)
        }
        .encode(),
    ]
    .concat();
    for bytes in [
        &oversize(Kind::Request, u32::MAX, 0)[..],
        &oversize(Kind::Request, 0, u32::MAX),
        &oversize(Kind::Response, 0, (5 << 20) as u32),
        &oversize(Kind::Ping, 1, 0),
        &oversize(Kind::Data, 0, 1 << 20),
        &oversize(Kind::Unknown(77), u32::MAX, u32::MAX),
        &oversize(Kind::Data, 0, 10),
        &bare(Kind::Hello).encode(),
        &twice,
        &other_segment,
    ] {
        let end = expect_end(bytes).await;
        assert!(matches!(end, LinkEnd::Protocol(_)), "{end} for {bytes:?}");
    }
    let truncated = expect_end(&store.head[..30]).await;
    assert!(matches!(truncated, LinkEnd::Lost(_)));
}

async fn read_frame(stream: &mut DuplexStream) -> (Header, Vec<u8>) {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await.unwrap();
    let header = Header::decode(&head).unwrap();
    let mut body = vec![0; header.meta_len as usize + header.inline_len()];
    stream.read_exact(&mut body).await.unwrap();
    (header, body)
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_answered_and_the_link_stays() {
    let (_a, mut stream) = against_stream();
    // A frame of an unknown kind is skipped.
    let header = Header {
        meta_len: 3,
        payload_len: 20_000,
        ..Header::bare(Kind::Unknown(99), 1)
    };
    stream.write_all(&header.encode()).await.unwrap();
    stream.write_all(&vec![1; 20_003]).await.unwrap();
    let unknown = encode_request(2, &Request::Unknown { opcode: 4000 }).unwrap();
    stream.write_all(&unknown.head).await.unwrap();
    // An unknown request with a payload in segments.
    let header = Header {
        payload_len: 20_000,
        opcode: 4001,
        ..Header::bare(Kind::Request, 3)
    };
    stream.write_all(&header.encode()).await.unwrap();
    let segment = Header {
        payload_len: 20_000,
        ..Header::bare(Kind::Data, 3)
    };
    stream.write_all(&segment.encode()).await.unwrap();
    stream.write_all(&vec![1; 20_000]).await.unwrap();
    // A known request that is malformed, and one with a payload that it cannot have.
    let header = Header {
        meta_len: 2,
        opcode: 1,
        ..Header::bare(Kind::Request, 4)
    };
    stream.write_all(&header.encode()).await.unwrap();
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    let header = Header {
        payload_len: 2,
        opcode: 1,
        ..Header::bare(Kind::Request, 5)
    };
    stream.write_all(&header.encode()).await.unwrap();
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    let ping = Header::bare(Kind::Ping, 6).encode();
    stream.write_all(&ping).await.unwrap();
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..5 {
        let (header, meta) = read_frame(&mut stream).await;
        let answer = match header.kind {
            Kind::Response => Some(
                crate::net::codec::decode_response(header.opcode, &meta, Bytes::new()).unwrap(),
            ),
            _ => None,
        };
        answers.insert(header.id, answer);
    }
    let invalid = Response::Refused {
        reason: Refusal::Invalid,
        free_bytes: 0,
    };
    let expected = [
        (2, Some(Response::Unsupported)),
        (3, Some(Response::Unsupported)),
        (4, Some(invalid.clone())),
        (5, Some(invalid)),
        (6, None),
    ];
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn nonsense_answers_fail_one_request_only() {
    let (a, mut stream) = against_stream();
    let ask = |request: Request| {
        let link = a.link.clone();
        tokio::spawn(async move { link.request(&request, soon()).await })
    };
    // A payload that was not asked for, with its bytes.
    let first = ask(have());
    let (asked, _) = read_frame(&mut stream).await;
    let unasked = crate::net::codec::encode_response(asked.id, &shard(100)).unwrap();
    stream.write_all(&unasked.head).await.unwrap();
    stream.write_all(&unasked.payload).await.unwrap();
    assert!(matches!(first.await.unwrap(), Err(NetError::Protocol(..))));
    // An unknown response.
    let second = ask(have());
    let (asked, _) = read_frame(&mut stream).await;
    let unknown = Header {
        opcode: 999,
        ..Header::bare(Kind::Response, asked.id)
    };
    stream.write_all(&unknown.encode()).await.unwrap();
    assert!(matches!(second.await.unwrap(), Err(NetError::Protocol(..))));
    // An answer to nothing is ignored.
    let nothing = crate::net::codec::encode_response(12345, &held()).unwrap();
    stream.write_all(&nothing.head).await.unwrap();
    let third = ask(have());
    let (asked, _) = read_frame(&mut stream).await;
    let right = crate::net::codec::encode_response(asked.id, &held()).unwrap();
    stream.write_all(&right.head).await.unwrap();
    assert_eq!(third.await.unwrap(), Ok(held()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_its_answers_is_dropped() {
    let (a, mut stream) = against_stream();
    let ping = Header::bare(Kind::Ping, 6).encode();
    let flood = async { while stream.write_all(&ping).await.is_ok() {} };
    timeout(Duration::from_secs(60), flood).await.unwrap();
    assert!(matches!(a.link.ended().await, LinkEnd::Protocol(_)));
}

#[tokio::test(start_paused = true)]
async fn a_payload_waits_for_memory_and_is_refused_in_time() {
    let (stream_a, stream_b) = tokio::io::duplex(256 << 10);
    let a = end(B, stream_a, Limits::default(), Throttle::unlimited());
    let (mut context, mut inbound) = context(Limits::default(), Throttle::unlimited());
    context.budget = PayloadBudget::new(1 << 20);
    let _b = Link::start(A, Path::Memory, tokio::io::split(stream_b), context);
    let ask = |len| {
        let link = a.link.clone();
        tokio::spawn(async move { link.request(&store(len), soon()).await })
    };
    let first = ask(1 << 20);
    let held_back = inbound.recv().await.unwrap();
    let began = Instant::now();
    assert_eq!(ask(100_000).await.unwrap(), Ok(Response::Busy));
    assert!(began.elapsed() < Duration::from_secs(3));
    // The memory is free when the payload is, not when it is answered.
    let Inbound { request, reply, .. } = held_back;
    reply.send(Response::Stored).unwrap();
    assert_eq!(first.await.unwrap(), Ok(Response::Stored));
    drop(request);
    serve(inbound, |_| Response::Stored);
    assert_eq!(ask(1 << 20).await.unwrap(), Ok(Response::Stored));
}

/// Two peers at one process, whose memory for what they send is `bytes`.
fn two_clients(bytes: usize) -> (LinkContext, mpsc::Receiver<Inbound>, [End; 2]) {
    let (mut context, inbound) = context(Limits::default(), Throttle::unlimited());
    context.budget = PayloadBudget::new(bytes);
    let clients = [A, C].map(|peer| {
        let (near, far) = tokio::io::duplex(256 << 10);
        let link = Link::start(peer, Path::Memory, tokio::io::split(near), context.clone());
        context.tasks.spawn(async move { link.ended().await });
        end(B, far, Limits::default(), Throttle::unlimited())
    });
    (context, inbound, clients)
}

/// One that sends as much as it can does not keep others from being served.
#[tokio::test(start_paused = true)]
async fn a_flood_of_payloads_leaves_room_for_others() {
    let (_context, mut inbound, [flooder, other]) = two_clients(64 << 20);
    let (served, mut of_other) = mpsc::channel(64);
    // The flood is never handled: all that was taken of it stays.
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(request) = inbound.recv().await {
            match request.from == A {
                true => held.push(request),
                false => served.send(request).await.unwrap(),
            }
        }
    });
    let large = store(4 << 20);
    let flood: Vec<_> = (0..64)
        .map(|_| {
            let (link, request) = (flooder.link.clone(), large.clone());
            tokio::spawn(async move { link.request(&request, soon()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    tokio::spawn(async move {
        while let Some(Inbound { reply, .. }) = of_other.recv().await {
            let _ = reply.send(Response::Stored);
        }
    });
    for _ in 0..16 {
        let began = Instant::now();
        let stored = other.link.request(&large, soon()).await;
        assert_eq!(stored, Ok(Response::Stored));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    let mut busy = 0;
    for request in flood {
        busy += u32::from(matches!(request.await.unwrap(), Ok(Response::Busy)));
    }
    assert!(busy > 4, "{busy}");
}

#[tokio::test(start_paused = true)]
async fn large_control_parts_take_room_until_they_are_answered() {
    let (context, mut inbound, [client, _other]) = two_clients(3 << 20);
    let many = Request::Have {
        blocks: vec![BlockId([7; 32]); 1024],
    };
    let ask = || {
        let (link, request) = (client.link.clone(), many.clone());
        tokio::spawn(async move { link.request(&request, soon()).await })
    };
    let first = ask();
    let Inbound { reply, .. } = inbound.recv().await.unwrap();
    assert!(context.budget.free_bytes() <= (3 << 20) - (32 << 10));
    // Small ones take none.
    let free = context.budget.free_bytes();
    let link = client.link.clone();
    let small = tokio::spawn(async move { link.request(&have(), soon()).await });
    let Inbound { reply: other, .. } = inbound.recv().await.unwrap();
    assert_eq!(context.budget.free_bytes(), free);
    other.send(held()).unwrap();
    assert_eq!(small.await.unwrap(), Ok(held()));
    reply.send(held()).unwrap();
    assert_eq!(first.await.unwrap(), Ok(held()));
    assert_eq!(context.budget.free_bytes(), 3 << 20);
    // Where there is none, they are for another time, and the link goes on.
    let all = context.budget.reserve(A, 1 << 20).await;
    assert_eq!(ask().await.unwrap(), Ok(Response::Busy));
    drop(all);
    serve(inbound, |_| held());
    assert_eq!(ask().await.unwrap(), Ok(held()));
}

/// Nobody waits for it, however large it says it is.
#[tokio::test(start_paused = true)]
async fn a_large_answer_to_nothing_is_passed_over() {
    let (a, mut stream) = against_stream();
    let header = Header {
        meta_len: 1 << 20,
        opcode: 1,
        ..Header::bare(Kind::Response, 777)
    };
    stream.write_all(&header.encode()).await.unwrap();
    stream.write_all(&vec![1; 1 << 20]).await.unwrap();
    let link = a.link.clone();
    let asked = tokio::spawn(async move { link.request(&have(), soon()).await });
    let (asked_for, _) = read_frame(&mut stream).await;
    let right = crate::net::codec::encode_response(asked_for.id, &held()).unwrap();
    stream.write_all(&right.head).await.unwrap();
    assert_eq!(asked.await.unwrap(), Ok(held()));
}
