//! Values to begin with: real ones, and some that are known to be nasty. Always the same.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{KEY, place};
use super::store::{SEGMENT, version_text};
use super::wire::{AdmissionEnd, NOBODY, NOW_MS, admission_end, founder};
use super::{joined, split};
use crate::admin::types::{
    GetRequest, InviteRequest, JoinRequest, LsEntry, LsRequest, PeerInfo, PutRequest, SetQuota,
    Status,
};
use crate::base::wire;
use crate::base::{
    BlockId, BlockRef, ClaimId, Class, Clock, EcProfile, Entropy, IndexSet, OwnerId, Pools,
};
use crate::config::Config;
use crate::content::{Frame, FrameEncoder, Head, HeadKind, Remark};
use crate::crypto::passphrase::{Cost, seal_container};
use crate::crypto::{Contact, MembershipChain, Side, SigningKey, Terms, Ticket};
use crate::dag::directory::Entries;
use crate::dag::{
    Entry, EntryKind, Extent, Extents, FileContent, Link, Meta, NodeAt, NodePacker, NodeRef, Root,
    Shape, Span, Timestamp, TreeRoot, TreeTotals,
};
use crate::erasure::encode_stripe;
use crate::net::admission::admit;
use crate::net::codec::{HEADER_BYTES, Outgoing, encode_request, encode_response};
use crate::net::{PeerRecord, Refusal, Request, Response, records};
use crate::node::identity::Identity;
use crate::store::{Disk, MemDisk, Store, StoreOptions, VERSION_FILE};

/// What a decoder begins with; empty for a name that none has.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frame_head" => messages().iter().map(|m| head(&m.head)).collect(),
        "request" => requests().iter().map(operation).collect(),
        "response" => responses().iter().map(operation).collect(),
        "admission_listener" => vec![exchange().0],
        "admission_dialer" => vec![exchange().1],
        "peer_record" => vec![record().to_vec()],
        "membership_chain" => chains().iter().map(MembershipChain::encode).collect(),
        "content_frames" => vec![frames()],
        "sealed_chunk" => sealed(),
        "stripe_header" => stripes()
            .iter()
            .map(|data| split(data).0.to_vec())
            .collect(),
        "stripe_shards" => stripes(),
        "extent_node" => extents(),
        "directory_node" => directories(),
        "tree_root" => vec![tree()],
        "identity" => vec![Identity::generate(&Entropy::seeded(3)).encode()],
        "key_container" => containers(),
        "segment" => segments(),
        "version_file" => vec![version_text(), b"cairn-data 2\nstore of later".to_vec()],
        "link" => links().iter().flat_map(text_and_payload).collect(),
        "ticket" => tickets(),
        "config" => configs(),
        "units" => [
            "1.5 GiB",
            "30s",
            "10+4",
            "/ip6/::1/udp/4747/quic-v1",
            "200GB",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "control_request" => controls(),
        _ => Vec::new(),
    }
}

fn claim() -> ClaimId {
    ClaimId {
        owner: OwnerId([1; 16]),
        writer: NOBODY,
        number: 3,
    }
}

fn sent<E: std::fmt::Debug>(message: Result<Outgoing, E>) -> Outgoing {
    match message {
        Ok(message) => message,
        Err(error) => panic!("a message of our own: {error:?}"),
    }
}

fn requests() -> Vec<Outgoing> {
    let block = BlockId([2; 32]);
    let requests = [
        Request::Have {
            blocks: vec![block, BlockId([3; 32])],
        },
        Request::Claim {
            claim: claim(),
            expires_ms: NOW_MS,
            blocks: vec![block],
        },
        Request::Store {
            claim: claim(),
            expires_ms: NOW_MS,
            block,
            index: 4,
            header: Bytes::from_static(b"header"),
            data: Bytes::from_static(b"data of the shard"),
        },
        Request::Fetch {
            block,
            wanted: IndexSet::first(5),
        },
        Request::CloseClaim { claim: claim() },
        Request::ReleaseClaim { claim: claim() },
        Request::Records {
            near: Some([5; 32]),
            limit: 20,
        },
        Request::Announce {
            records: vec![record()],
        },
        Request::Unknown { opcode: 999 },
    ];
    let encoded = requests.iter().map(|request| encode_request(7, request));
    encoded.map(sent).collect()
}

fn responses() -> Vec<Outgoing> {
    let responses = [
        Response::Held {
            held: vec![IndexSet::EMPTY, IndexSet::first(6)],
        },
        Response::Stored,
        Response::Shard {
            index: 1,
            held: IndexSet::one(1),
            header: Bytes::from_static(b"header"),
            data: Bytes::from_static(b"data of the shard"),
        },
        Response::Missing {
            held: IndexSet::EMPTY,
        },
        Response::Done,
        Response::Records {
            records: vec![record()],
        },
        Response::Refused {
            reason: Refusal::Full,
            free_bytes: 9,
        },
        Response::Busy,
        Response::Unsupported,
    ];
    let encoded = responses
        .iter()
        .map(|response| encode_response(7, response));
    encoded.map(sent).collect()
}

fn messages() -> Vec<Outgoing> {
    let mut all = requests();
    all.extend(responses());
    all
}

fn head(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().take(HEADER_BYTES).copied().collect()
}

/// Operation code, control part, payload, as the entry points take them.
fn operation(message: &Outgoing) -> Vec<u8> {
    let code = message.head.get(17..19).unwrap_or_default();
    let meta = message.head.get(HEADER_BYTES..).unwrap_or_default();
    [code, &joined(meta, &message.payload)].concat()
}

/// What dialer and listener say to each other.
fn exchange() -> (Vec<u8>, Vec<u8>) {
    let (mut dialer, mut listener) = (Vec::new(), Vec::new());
    // Each step answers what the one before said.
    for _ in 0..6 {
        dialer = said(Side::Dialer, &listener);
        listener = said(Side::Listener, &dialer);
    }
    (dialer, listener)
}

fn said(side: Side, heard: &[u8]) -> Vec<u8> {
    let AdmissionEnd {
        ends,
        gate,
        entropy,
    } = admission_end(side);
    let mut told = Vec::new();
    let mut stream = tokio::io::join(heard, &mut told);
    let admitted = admit(&mut stream, &ends, &gate, &entropy, record(), || Ok(()));
    // Ends early in all steps but the last.
    let _ = futures::FutureExt::now_or_never(admitted);
    told
}

fn record() -> Bytes {
    let (device, _, chain) = founder();
    let record = PeerRecord {
        version: records::RECORD_VERSION,
        peer: device.peer(),
        seq: NOW_MS,
        addresses: vec!["/ip4/127.0.0.1/tcp/4747".to_owned()],
        bulk: vec!["127.0.0.1:4748".to_owned()],
        capacity_bytes: 1 << 30,
        free_bytes: 1 << 29,
        zone: "attic".to_owned(),
        program: "0.1.0".to_owned(),
        membership: chain.encode(),
    };
    records::sign(&record, &device)
}

fn terms(number: u64) -> Terms {
    Terms {
        storage_only: number == 2,
        independent: number == 1,
        expires_ms: NOW_MS + 1000,
    }
}

fn chains() -> Vec<MembershipChain> {
    let (mut device, _, mut chain) = founder();
    let entropy = Entropy::seeded(4);
    let mut all = vec![chain.clone()];
    for number in 1..=3 {
        let next = SigningKey::from_secret(&[10 + number as u8; 32]);
        let admitted = chain
            .invite(&device, 0, terms(number), NOW_MS, &entropy)
            .and_then(|(invitation, key)| chain.admit(&invitation, &key, next.peer(), NOW_MS));
        match admitted {
            Ok(longer) => chain = longer,
            Err(error) => panic!("an invitation of our own: {error}"),
        }
        device = next;
        all.push(chain.clone());
    }
    all
}

fn tickets() -> Vec<Vec<u8>> {
    let (device, secrets, chain) = founder();
    let contact = Contact {
        peer: device.peer(),
        control: vec!["/ip4/192.0.2.1/udp/4242/quic-v1".to_owned()],
        bulk: vec!["192.0.2.1:4243".to_owned()],
    };
    let texts = (0..3u64).map(|number| {
        let contacts = vec![contact.clone(); number as usize];
        let terms = terms(number);
        let entropy = Entropy::seeded(number);
        match Ticket::issue(&chain, &device, &secrets, contacts, terms, NOW_MS, &entropy) {
            Ok(ticket) => ticket.to_string(),
            Err(error) => panic!("a ticket of our own: {error}"),
        }
    });
    texts.flat_map(|text| text_and_payload(&text)).collect()
}

/// The text, and the bytes in it without prefix, length and checksum.
fn text_and_payload(text: &String) -> Vec<Vec<u8>> {
    let digits = text.strip_prefix("cairn-ticket:").and_then(|t| t.get(3..));
    let digits = digits.or(text.strip_prefix("cairn:")).unwrap_or_default();
    let bytes = bs58::decode(digits).into_vec().unwrap_or_default();
    let payload = bytes.get(..bytes.len().saturating_sub(4));
    vec![
        text.as_bytes().to_vec(),
        payload.unwrap_or_default().to_vec(),
    ]
}

fn block(tag: u8) -> BlockRef {
    BlockRef {
        id: BlockId([tag; 32]),
        key: KEY,
        plain_len: 3 << 20,
    }
}

fn links() -> Vec<String> {
    let node = NodeAt {
        block: block(1),
        offset: 100,
        len: 900,
    };
    let roots = [
        Root::Empty,
        Root::Block(block(2)),
        Root::Manifest {
            node,
            size: 10 << 30,
        },
        Root::Tree { node, size: 7 },
    ];
    let link = |root| Link {
        profile: EcProfile::DEFAULT,
        root,
    };
    roots.map(|root| link(root).to_string()).into()
}

fn frames() -> Vec<u8> {
    let meta = Meta {
        mode: 0o644,
        mtime: Timestamp {
            seconds: 1_000_000_000,
            nanos: 5,
        },
    };
    let entry = |name: &str, kind| {
        Frame::Entry(Head {
            name: name.into(),
            kind,
        })
    };
    let mut encoder = FrameEncoder::default();
    for frame in [
        entry("", HeadKind::Directory { meta }),
        entry("file", HeadKind::File { meta, size: 9 }),
        Frame::Data(Bytes::from_static(b"123456789")),
        Frame::Hole(1 << 20),
        Frame::End,
        entry(
            "link",
            HeadKind::Symlink {
                mtime: meta.mtime,
                target: b"file".to_vec(),
            },
        ),
        entry(
            "other",
            HeadKind::HardLink {
                first: b"file".to_vec(),
            },
        ),
        Frame::Error(Remark {
            class: Class::Missing,
            message: "3 of 4 shards".to_owned(),
        }),
        Frame::End,
    ] {
        encoder.push(&frame);
    }
    encoder.flush();
    std::iter::from_fn(|| encoder.pop())
        .flat_map(|piece| piece.to_vec())
        .collect()
}

/// Headers in clear with their payloads.
fn sealed() -> Vec<Vec<u8>> {
    let header = |plain_len: u32, words: &[u32]| {
        let mut header = vec![1, 1];
        header.extend_from_slice(&(words.len() as u16).to_le_bytes());
        header.extend_from_slice(&plain_len.to_le_bytes());
        for word in words {
            header.extend_from_slice(&word.to_le_bytes());
        }
        header
    };
    // One zstd frame of one block: 65,536 times the letter a.
    let run = [
        0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff, 0x03, 0x00, 0x08, b'a',
    ];
    let packed = 1 << 31 | run.len() as u32;
    vec![
        joined(&header(0, &[]), b""),
        joined(&header(5, &[5]), b"hello"),
        joined(&header(65_536, &[packed]), &run),
        joined(&header(65_540, &[packed, 4]), &[&run[..], b"tail"].concat()),
    ]
}

/// Headers with the data shards.
fn stripes() -> Vec<Vec<u8>> {
    let profiles = [(1, 0), (4, 2), (2, 3)];
    let stripes = profiles.map(|(data, parity)| {
        let profile = EcProfile::new(data, parity).unwrap_or(EcProfile::DEFAULT);
        let mut sealed = vec![0; 301];
        Entropy::seeded(u64::from(data)).fill(&mut sealed);
        match encode_stripe(sealed.as_slice().into(), profile) {
            Ok(stripe) => {
                let shards: Vec<u8> = stripe
                    .shards
                    .iter()
                    .flat_map(|shard| shard.data().to_vec())
                    .collect();
                let header = stripe.shards.first().map(|shard| shard.header().to_vec());
                joined(&header.unwrap_or_default(), &shards)
            }
            Err(error) => panic!("a stripe of our own: {error}"),
        }
    });
    stripes.into()
}

fn extents() -> Vec<Vec<u8>> {
    let rows: Vec<Extent> = (0..9u8)
        .map(|number| Extent {
            offset: u64::from(number) * 5000,
            len: 4000,
            block: block(number / 2),
            block_offset: 7,
        })
        .collect();
    let child = |start: u64, block| {
        let node = NodeRef {
            block,
            offset: 64,
            len: 256,
        };
        let end = start + 4000;
        (Span { start, end }, node)
    };
    vec![
        Extents::encode_leaf(&rows, &|_| child(0, None).1),
        Extents::encode_index(1, &[child(0, None), child(5000, Some(block(3)))]),
    ]
}

fn directories() -> Vec<Vec<u8>> {
    let meta = Meta {
        mode: 0o4755,
        mtime: Timestamp {
            seconds: -1,
            nanos: 999_999_999,
        },
    };
    let file = |body| EntryKind::File {
        meta,
        content: FileContent { size: 4000, body },
    };
    let below = NodePacker::new(1 << 20).push(b"node");
    let extent = Extent {
        offset: 0,
        len: 4000,
        block: block(1),
        block_offset: 0,
    };
    let kinds = [
        file(crate::dag::Body::Inline(vec![extent])),
        file(crate::dag::Body::Inline(Vec::new())),
        file(crate::dag::Body::Manifest(below)),
        EntryKind::Directory {
            meta,
            entries: Some(below),
        },
        EntryKind::Directory {
            meta,
            entries: None,
        },
        EntryKind::Symlink {
            mtime: meta.mtime,
            target: b"../elsewhere".to_vec(),
        },
        EntryKind::HardLink {
            first: b"a/b".to_vec(),
        },
    ];
    let entries: Vec<_> = (b'a'..)
        .zip(kinds)
        .map(|(letter, kind)| Entry {
            name: vec![letter, 0xff],
            kind,
        })
        .collect();
    let node = NodeRef {
        block: None,
        offset: 64,
        len: 256,
    };
    let span = |first: &[u8], last: &[u8], count| crate::dag::NameSpan {
        first: first.to_vec(),
        last: last.to_vec(),
        count,
    };
    let children = [
        (span(b"a", b"f", 6), node),
        (
            span(b"g", b"g", 1),
            NodeRef {
                block: Some(block(2)),
                ..node
            },
        ),
    ];
    vec![
        Entries::encode_leaf(&entries, &|_| node),
        Entries::encode_index(2, &children),
    ]
}

fn tree() -> Vec<u8> {
    let at = place(0);
    TreeRoot {
        meta: Meta {
            mode: 0o755,
            mtime: Timestamp {
                seconds: 1,
                nanos: 0,
            },
        },
        entries: Some(NodeRef {
            block: Some(at.block),
            offset: 0,
            len: 100,
        }),
        totals: TreeTotals {
            files: 3,
            bytes: 12_000,
            ..TreeTotals::default()
        },
    }
    .encode()
}

fn containers() -> Vec<Vec<u8>> {
    let cost = Cost {
        memory_kib: 32,
        passes: 1,
        lanes: 2,
    };
    match seal_container(b"backup", "passphrase", cost, &Entropy::seeded(3)) {
        Ok(sealed) => vec![sealed],
        Err(error) => panic!("a backup of our own: {error}"),
    }
}

fn segments() -> Vec<Vec<u8>> {
    let written = async {
        let disk = MemDisk::new(1 << 30);
        disk.create(VERSION_FILE)?
            .write_at(0, &mut [std::io::IoSlice::new(&version_text())])?;
        let options = StoreOptions::new(32 << 20, Entropy::seeded(7));
        let clock = Clock::simulated(NOW_MS);
        let opened = Store::open(Arc::new(disk.clone()), options, Pools::inline(), clock).await;
        let (store, _) = opened.map_err(std::io::Error::other)?;
        fill(&store).await.map_err(std::io::Error::other)?;
        store.close().await.map_err(std::io::Error::other)?;
        disk.open(SEGMENT)?.read_vec(0, 1 << 20)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    match runtime.and_then(|runtime| runtime.block_on(written)) {
        Ok(segment) => vec![segment],
        Err(error) => panic!("a store of our own: {error}"),
    }
}

/// A record of every kind.
async fn fill(store: &Store) -> Result<(), crate::store::StoreError> {
    let expires_ms = NOW_MS + 3_600_000;
    let profile = EcProfile::new(2, 1).unwrap_or(EcProfile::DEFAULT);
    let other = |number| ClaimId { number, ..claim() };
    if let Ok(stripe) = encode_stripe(b"a stripe of few bytes".as_slice().into(), profile) {
        for shard in stripe.shards {
            let block = shard.id().block;
            store.put(shard, claim(), expires_ms).await?;
            store.claim(other(4), expires_ms, vec![block]).await?;
        }
    }
    store.close_claim(claim()).await?;
    store.release_claim(other(4)).await?;
    let row = |key: &[u8], value| ("space".to_owned(), key.to_vec(), value);
    let value = Some(Bytes::from_static(b"value"));
    store
        .kv_put(vec![row(b"a", value.clone()), row(b"b", value)])
        .await?;
    store.kv_put(vec![row(b"a", None)]).await
}

fn configs() -> Vec<Vec<u8>> {
    let mut all = vec![Config::default().to_toml().into_bytes()];
    all.push(
        b"[storage]\nquota = 1e9\n[network]\nlisten = [1, \"/ip4\"]\n[x]\ny = {z = 1}".to_vec(),
    );
    // Nesting without end, and a file cut in the middle of a string.
    all.push([b"a = ".as_slice(), &[b'['; 4000]].concat());
    all.push(b"[network]\nzone = \"\"\"\\u{00".to_vec());
    all
}

fn controls() -> Vec<Vec<u8>> {
    fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
        serde_json::to_vec(value).unwrap_or_default()
    }
    let link = "cairn:link".to_owned();
    let mut odd = LsEntry::default();
    odd.set_name(b"odd\xff");
    let mut all = vec![
        json(&InviteRequest {
            expires_ms: Some(5),
            ..InviteRequest::default()
        }),
        json(&JoinRequest {
            ticket: "cairn-ticket:".to_owned(),
        }),
        json(&SetQuota {
            quota_bytes: Some(1 << 30),
        }),
        json(&PutRequest {
            redundancy: Some("4+2".to_owned()),
            survive: Some(2),
            ..PutRequest::default()
        }),
        json(&GetRequest {
            link: link.clone(),
            start: Some(1),
            end: Some(2),
        }),
        json(&LsRequest::new(link, b"a/\xff")),
        json(&Status::default()),
        json(&PeerInfo::default()),
        json(&crate::admin::types::Line::Item(odd)),
    ];
    // Nesting without end.
    all.push([b'['; 4000].into());
    // The same for the encoding of peers, where no JSON is expected.
    all.push(wire::encode(&vec![vec![vec![1u8]]]));
    all
}
