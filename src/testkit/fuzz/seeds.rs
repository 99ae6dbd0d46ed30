//! Values to begin with: real ones, and some that are known to be nasty. Always the same.

use bytes::Bytes;

use super::checkpoint;
use super::feeds;
use super::format::KEY;
use super::names;
use super::store::version_text;
use super::stored;
use super::upkeep;
use super::wire::{AdmissionEnd, NOBODY, NOW_MS, admission_end, founder};
use super::{joined, split};
use crate::admin::types::{
    GetRequest, HexPath, InviteRequest, JoinRequest, Joined, Line, LsEntry, LsRequest,
    MountRequest, PeerInfo, PutRequest, SetQuota, Status, SyncProgress, VolumeInfo,
    VolumeMemberInfo, VolumeMembers, VolumeOpened, VolumeRevoke, VolumeRevoked, VolumeShare,
    VolumeTicketInfo, VolumeTicketRequest, VolumeUsage,
};
use crate::base::wire;
use crate::base::{
    BlockId, BlockRef, ClaimId, Class, EcProfile, Entropy, IndexSet, OwnerId, VolumeId,
};
use crate::content::{Frame, FrameEncoder, Head, HeadKind, Remark};
use crate::crypto::{
    Contact, ConvergenceSecret, EpochKey, MembershipChain, SharedVolume, Side, SigningKey, Terms,
    Ticket, VolumeChain, VolumeTerms, VolumeTicket,
};
use crate::dag::{Link, Meta, NodeAt, Root, Timestamp};
use crate::net::admission::admit;
use crate::net::codec::{HEADER_BYTES, Outgoing, encode_request, encode_response};
use crate::net::{PeerRecord, Refusal, Request, Response, records};
use crate::node::identity::Identity;

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
        "volume_chain" => volume_chains().iter().map(VolumeChain::encode).collect(),
        "content_frames" => vec![frames()],
        "sealed_chunk" => stored::sealed(),
        "stripe_header" => stored::stripes()
            .iter()
            .map(|data| split(data).0.to_vec())
            .collect(),
        "stripe_shards" => stored::stripes(),
        "shard_proof" => stored::proofs(),
        "extent_node" => stored::extents(),
        "directory_node" => stored::directories(),
        "tree_root" => vec![stored::tree()],
        "identity" => vec![Identity::generate(&Entropy::seeded(3)).encode()],
        "key_container" => stored::containers(),
        "volume_record" => volume_records(),
        "namespace_delta" => names::deltas(),
        "namespace_row" => names::rows(),
        "upkeep_ask" => upkeep::asks(),
        "upkeep_say" => upkeep::says(),
        "sealed_delta" => feeds::sealed(),
        "feed_record" => feeds::records(),
        "feed_message" => feeds::messages(),
        "feed_answer" => feeds::answers(),
        "accord_message" => feeds::accords(),
        "clearing_message" => feeds::clearings(),
        "pointer_row" => feeds::pointers(),
        "keeping_message" => super::tails::messages(),
        "tail_row" => super::tails::rows(),
        "checkpoint_root" => feeds::roots(),
        "checkpoint_page" => feeds::pages(),
        "page_place" => checkpoint::places(),
        "kept_checkpoint" => checkpoint::kept(),
        "snapshot_record" => checkpoint::records(),
        "snapshot_root" => checkpoint::snapshot_roots(),
        "segment" => stored::segments(),
        "version_file" => vec![version_text(), b"cairn-data 2\nstore of later".to_vec()],
        "journal" => super::volume::journals(),
        "volume_tables" => super::volume::tables(),
        "vfs_operations" => super::mounted::operations(),
        "link" => links().iter().flat_map(text_and_payload).collect(),
        "ticket" => tickets(),
        "volume_ticket" => volume_tickets(),
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

pub(super) fn claim() -> ClaimId {
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
        Request::FetchRange {
            block,
            index: 2,
            start: 20_000,
            end: 100_000,
        },
        Request::CloseClaim { claim: claim() },
        Request::ReleaseClaim {
            claim: claim(),
            proof: Some(crate::crypto::Signature([7; 64])),
        },
        Request::Records {
            near: Some([5; 32]),
            limit: 20,
        },
        Request::Announce {
            records: vec![record()],
        },
        Request::Unknown { opcode: 999 },
        Request::Feed {
            body: Bytes::from_static(b"message"),
        },
        Request::Publish {
            record: Bytes::from_static(b"record"),
        },
        Request::Published {
            volume: VolumeId([4; 16]),
        },
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
        Response::Range {
            header: Bytes::from_static(b"header"),
            start: 16_384,
            proof: Bytes::from_static(&[6; 64]),
            data: Bytes::from_static(b"part of the shard"),
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
        Response::Feed {
            body: Bytes::from_static(b"messages"),
        },
        Response::Published {
            records: vec![Bytes::from_static(b"record"), Bytes::new()],
        },
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
        leaving: 0,
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

const VOLUME: VolumeId = VolumeId([6; 16]);

fn volume_terms(read_only: bool) -> VolumeTerms {
    VolumeTerms {
        read_only,
        expires_ms: NOW_MS + 1000,
    }
}

/// The owner's, a writer's, and that of a reader whom the writer invited.
fn volume_chains() -> Vec<VolumeChain> {
    let (mut device, ..) = founder();
    let entropy = Entropy::seeded(5);
    let mut chain = VolumeChain::found(VOLUME, &device);
    let mut all = vec![chain.clone()];
    for (byte, read_only) in [(11, false), (12, true)] {
        let next = SigningKey::from_secret(&[byte; 32]);
        let admitted = chain
            .invite(&device, volume_terms(read_only), NOW_MS, &entropy)
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

fn volume_tickets() -> Vec<Vec<u8>> {
    let (device, secrets, chain) = founder();
    let texts = [false, true].map(|read_only| {
        let entropy = Entropy::seeded(6);
        let network = Ticket::issue(
            &chain,
            &device,
            &secrets,
            vec![],
            terms(0),
            NOW_MS,
            &entropy,
        );
        let volume = SharedVolume {
            id: VOLUME,
            owner: device.peer(),
            name: "photos".to_owned(),
            claims: OwnerId([2; 16]),
            profile: EcProfile::DEFAULT,
            secret: Some(ConvergenceSecret::from_bytes([3; 32])),
            keys: vec![(1, EpochKey::from_bytes([4; 32]))],
        };
        let own = VolumeChain::found(VOLUME, &device);
        let issued = network.and_then(|network| {
            let terms = volume_terms(read_only);
            VolumeTicket::issue(volume, &own, &device, terms, network, NOW_MS, &entropy)
        });
        match issued {
            Ok(ticket) => ticket.to_string(),
            Err(error) => panic!("a ticket of our own: {error}"),
        }
    });
    texts.iter().flat_map(text_and_payload).collect()
}

/// One of before volumes were shared, one that nobody shares, and a reader's.
fn volume_records() -> Vec<Vec<u8>> {
    let (id, owner) = (VOLUME, OwnerId([2; 16]));
    let secret = serde_bytes::ByteArray::new([3u8; 32]);
    let profile = EcProfile::DEFAULT;
    let alone: Option<()> = None;
    let mut all = vec![
        wire::encode(&(1u8, id, owner, secret, profile, NOW_MS, true)),
        wire::encode(&(2u8, id, owner, Some(secret), profile, NOW_MS, true, alone)),
    ];
    if let Some(chain) = volume_chains().last() {
        let bytes = serde_bytes::ByteBuf::from(chain.encode());
        let keys = vec![(1u32, secret), (7, secret)];
        let share = (bytes, chain.owner(), keys, true, true);
        let none: Option<serde_bytes::ByteArray<32>> = None;
        all.push(wire::encode(&(
            2u8,
            id,
            owner,
            none,
            profile,
            NOW_MS,
            false,
            Some(share),
        )));
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
    let ticket = text.strip_prefix("cairn-ticket:");
    let ticket = ticket.or(text.strip_prefix("cairn-volume:"));
    let digits = ticket.and_then(|t| t.get(3..));
    let digits = digits.or(text.strip_prefix("cairn:")).unwrap_or_default();
    let bytes = bs58::decode(digits).into_vec().unwrap_or_default();
    let payload = bytes.get(..bytes.len().saturating_sub(4));
    vec![
        text.as_bytes().to_vec(),
        payload.unwrap_or_default().to_vec(),
    ]
}

pub(super) fn block(tag: u8) -> BlockRef {
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

/// Every kind of value. (Not the defaults: their text changes with every word on a key.)
const CONFIG: &str = "# a comment\n[storage]\nquota = \"200 GiB\"\nreserve_free = 1_000_000\n\
    offer = false\n[network]\nlisten = [\n    \"/ip4/0.0.0.0/tcp/4747\", # another\n    \
    \"/ip6/::/udp/4747/quic-v1\",\n]\nbulk_listen = ['[::]:4748']\nzone = \"the \\\"attic\\\"\"\n\
    max_members = 0x10\n[put]\nredundancy = \"10+4\"\n[fetch]\ntimeout = \"1500ms\"\n\
    [log]\nlevel = \"warn\"\n";

fn configs() -> Vec<Vec<u8>> {
    let mut all = vec![CONFIG.as_bytes().to_vec()];
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
        json(&Line::Item(odd)),
    ];
    // Nesting without end.
    all.push([b'['; 4000].into());
    // The same for the encoding of peers, where no JSON is expected.
    all.push(wire::encode(&vec![vec![vec![1u8]]]));
    all.push(json(&MountRequest {
        volume: Some("photos".to_owned()),
        dir_hex: HexPath::new("/a b".as_ref()),
        ..MountRequest::default()
    }));
    all.push(json(&Line::Item(SyncProgress::default())));
    all.push(json(&VolumeInfo {
        mounted_on: Some("/a b".to_owned()),
        usage: Some(VolumeUsage::default()),
        ..VolumeInfo::default()
    }));
    all.push(json(&VolumeTicketRequest {
        name: "photos".to_owned(),
        read_only: true,
        expires_ms: Some(5),
    }));
    all.push(json(&VolumeOpened {
        volume: VolumeInfo {
            share: Some(VolumeShare::default()),
            ..VolumeInfo::default()
        },
        joined: Some(Joined::default()),
        ..VolumeOpened::default()
    }));
    all.push(json(&VolumeMembers {
        name: "photos".to_owned(),
        members: vec![VolumeMemberInfo::default()],
        tickets: vec![VolumeTicketInfo::default()],
    }));
    all.push(json(&VolumeRevoke {
        name: "photos".to_owned(),
        member: "12D3".to_owned(),
    }));
    all.push(json(&VolumeRevoked::default()));
    all
}
