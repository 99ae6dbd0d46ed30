//! Golden vectors of the sealed, coded, signed and textual formats.
//!
//! What an older version wrote must stay readable, byte for byte. `CAIRN_WRITE_GOLDEN=1` writes
//! the files anew; that is right only together with a new format version.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use bytes::Bytes;
use cairnfs::base::{
    BlockId, BlockKey, EcProfile, Entropy, IndexSet, NetworkId, OwnerId, PeerId, VolumeId,
};
use cairnfs::chunk::{ChunkSizes, Cutter, Packer, pack_mark};
use cairnfs::crypto::keys::network_id;
use cairnfs::crypto::passphrase::{Cost, open_container, seal_container};
use cairnfs::crypto::{
    ConvergenceSecret, EpochKey, MembershipChain, NetworkSecrets, Purpose, SharedVolume, Side,
    SigningKey, Statement, Terms, Ticket, VolumeChain, VolumeTerms, VolumeTicket, open, seal, sign,
};
use cairnfs::erasure::{VerifiedShard, codec, encode_stripe, encode_stripe_in, join, rebuild};
use data_encoding::HEXLOWER;

const NOW: u64 = 1_700_000_000_000;

/// A text file of `name = value` lines.
type Golden = BTreeMap<String, String>;

fn golden(file: &str, make: impl FnOnce() -> Golden) -> Golden {
    let path: PathBuf = crate::support::root()
        .join("tests/fixtures/pure")
        .join(file);
    if std::env::var_os("CAIRN_WRITE_GOLDEN").is_some() {
        let mut text = String::new();
        for (name, value) in make() {
            writeln!(text, "{name} = {value}").unwrap();
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| line.split_once(" = ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

fn unhex(golden: &Golden, name: &str) -> Vec<u8> {
    HEXLOWER.decode(golden[name].as_bytes()).unwrap()
}

fn array<const N: usize>(golden: &Golden, name: &str) -> [u8; N] {
    unhex(golden, name).try_into().unwrap()
}

/// The BLAKE3 output stream of `label`: any tool can make the same bytes.
fn noise(label: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(label.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn plaintexts() -> Vec<(&'static str, Vec<u8>)> {
    let mixed = [vec![0; 64 << 10], noise("mixed", 100)].concat();
    vec![
        ("empty", Vec::new()),
        ("hello", b"hello, cairn".to_vec()),
        ("noise", noise("noise", 1000)),
        ("text", b"one stone upon another\n".repeat(9000)),
        ("mixed", mixed),
    ]
}

#[test]
fn sealed_chunks_of_version_1_open() {
    let secret = ConvergenceSecret::from_bytes([7; 32]);
    let golden = golden("sealed.txt", || {
        let mut golden = Golden::new();
        for (name, plain) in plaintexts() {
            let sealed = seal(&secret, &[&plain], Vec::new()).unwrap();
            golden.insert(format!("{name}.key"), hex(sealed.key.as_bytes()));
            golden.insert(format!("{name}.sealed"), hex(sealed.bytes()));
        }
        golden
    });
    for (name, plain) in plaintexts() {
        let key = BlockKey(array(&golden, &format!("{name}.key")));
        let sealed = unhex(&golden, &format!("{name}.sealed"));
        assert_eq!(open(&key, &[&sealed]).unwrap(), plain, "{name}");
        // Equal content gives an equal link, also across builds.
        let again = seal(&secret, &[&plain], Vec::new()).unwrap();
        assert_eq!((again.key, again.bytes()), (key, &sealed[..]), "{name}");
    }
}

#[test]
fn stripes_of_version_1_are_verified_and_joined() {
    let sealed = noise("sealed", 250);
    let profiles = ["4+2", "3+7", "1+1", "5+0"];
    let golden = golden("stripe.txt", || {
        let mut golden = Golden::new();
        for profile in profiles {
            let stripe = encode_stripe(sealed[..].into(), profile.parse().unwrap()).unwrap();
            golden.insert(format!("{profile}.block"), stripe.id.to_string());
            golden.insert(format!("{profile}.header"), hex(&stripe.header));
            for shard in &stripe.shards {
                let index = shard.id().index;
                golden.insert(format!("{profile}.shard.{index}"), hex(shard.data()));
            }
        }
        golden
    });
    for text in profiles {
        let profile: EcProfile = text.parse().unwrap();
        let block: BlockId = golden[&format!("{text}.block")].parse().unwrap();
        let header = Bytes::from(unhex(&golden, &format!("{text}.header")));
        let shards: Vec<_> = (0..profile.total_shards() as u8)
            .map(|index| {
                let data = unhex(&golden, &format!("{text}.shard.{index}"));
                VerifiedShard::verify(block, index, header.clone(), data.into()).unwrap()
            })
            .collect();
        let last = &shards[profile.parity_shards()..];
        assert_eq!(join(last).unwrap().concat(), sealed, "{text}");
        assert_eq!(
            rebuild(last, IndexSet::first(64)).unwrap(),
            shards,
            "{text}"
        );
        for codec in [codec::default(), codec::portable()] {
            let again = encode_stripe_in(codec, sealed.clone(), sealed.len(), profile).unwrap();
            assert_eq!(again.shards, shards, "{text} by {}", codec.name());
        }
    }
}

fn founder() -> (SigningKey, NetworkSecrets, MembershipChain) {
    let device = SigningKey::from_secret(&[1; 32]);
    let (secrets, chain) = MembershipChain::found(&device, &Entropy::seeded(1));
    (device, secrets, chain)
}

fn ticket() -> Ticket {
    let (device, secrets, chain) = founder();
    let contact = cairnfs::crypto::Contact {
        peer: device.peer(),
        control: vec!["/ip4/192.0.2.1/udp/4242/quic-v1".to_owned()],
        bulk: vec!["192.0.2.1:4243".to_owned()],
    };
    let terms = Terms {
        storage_only: false,
        independent: true,
        expires_ms: NOW + 1000,
    };
    let entropy = Entropy::seeded(2);
    Ticket::issue(
        &chain,
        &device,
        &secrets,
        vec![contact],
        terms,
        NOW,
        &entropy,
    )
    .unwrap()
}

fn statement() -> Statement<'static> {
    Statement {
        side: Side::Dialer,
        binding: b"channel binding",
        prover: PeerId([3; 32]),
        verifier: PeerId([4; 32]),
        prover_nonce: [5; 32],
        verifier_nonce: [6; 32],
    }
}

#[test]
fn memberships_of_version_1_hold() {
    let guest = PeerId([9; 32]);
    let golden = golden("member.txt", || {
        let ticket = ticket();
        let (secrets, chain) = ticket.accept(guest, NOW).unwrap();
        let (device, ..) = founder();
        let signature = device.sign(Purpose::PeerRecord, b"a record");
        [
            ("chain", hex(chain.encode())),
            ("network", chain.network().to_string()),
            (
                "network id of 1..1 and 2..2",
                network_id(&[1; 32], &[2; 16]).to_string(),
            ),
            ("proof", hex(secrets.prove(&statement()))),
            ("secrets", hex(cairnfs::base::wire::encode(&secrets))),
            ("signature", hex(signature.0)),
            ("tag", secrets.membership_tag()),
            ("ticket", ticket.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    });
    let chain = MembershipChain::decode(&unhex(&golden, "chain")).unwrap();
    assert_eq!(hex(chain.encode()), golden["chain"]);
    let network: [u8; 16] = array(&golden, "network");
    let member = chain.verify(NetworkId(network), NOW).unwrap();
    assert_eq!(member.device, guest);
    assert_eq!(member.zone, None);
    assert!(!member.storage_only && !member.is_founder());
    assert_eq!(
        network_id(&[1; 32], &[2; 16]).to_string(),
        golden["network id of 1..1 and 2..2"]
    );

    let secrets: NetworkSecrets =
        cairnfs::base::wire::decode_canonical(&unhex(&golden, "secrets"), 1 << 10).unwrap();
    assert_eq!(secrets.network, NetworkId(network));
    assert!(secrets.check_proof(&statement(), &array(&golden, "proof")));
    assert_eq!(secrets.membership_tag(), golden["tag"]);

    let ticket: Ticket = golden["ticket"].parse().unwrap();
    let (joined, again) = ticket.accept(guest, NOW).unwrap();
    assert_eq!((joined, again), (secrets, chain));
    assert!(ticket.accept(guest, NOW + 1001).is_err());

    let signature = sign::Signature(array(&golden, "signature"));
    let peer = SigningKey::from_secret(&[1; 32]).peer();
    sign::verify(peer, Purpose::PeerRecord, b"a record", &signature).unwrap();
}

/// A reader, invited by a writer, invited by the owner.
fn volume_chain() -> (SigningKey, VolumeChain) {
    let entropy = Entropy::seeded(4);
    let mut device = SigningKey::from_secret(&[1; 32]);
    let mut chain = VolumeChain::found(VolumeId([6; 16]), &device);
    for (byte, read_only) in [(2, false), (3, true)] {
        let terms = VolumeTerms {
            read_only,
            expires_ms: NOW + 1000,
        };
        let (invitation, key) = chain.invite(&device, terms, NOW, &entropy).unwrap();
        device = SigningKey::from_secret(&[byte; 32]);
        chain = chain.admit(&invitation, &key, device.peer(), NOW).unwrap();
    }
    (device, chain)
}

fn volume_ticket(read_only: bool) -> VolumeTicket {
    let device = SigningKey::from_secret(&[1; 32]);
    let volume = SharedVolume {
        id: VolumeId([6; 16]),
        owner: device.peer(),
        name: "photos".to_owned(),
        claims: OwnerId([7; 16]),
        profile: EcProfile::DEFAULT,
        secret: Some(ConvergenceSecret::from_bytes([8; 32])),
        keys: vec![
            (1, EpochKey::from_bytes([9; 32])),
            (2, EpochKey::from_bytes([10; 32])),
        ],
    };
    let terms = VolumeTerms {
        read_only,
        expires_ms: NOW + 1000,
    };
    let chain = VolumeChain::found(volume.id, &device);
    let entropy = Entropy::seeded(5);
    VolumeTicket::issue(volume, &chain, &device, terms, ticket(), NOW, &entropy).unwrap()
}

#[test]
fn members_of_volumes_of_version_1_hold() {
    let golden = golden("volume.txt", || {
        [
            ("chain", hex(volume_chain().1.encode())),
            ("ticket", volume_ticket(false).to_string()),
            ("ticket for reading", volume_ticket(true).to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    });
    let owner = SigningKey::from_secret(&[1; 32]).peer();
    let (device, chain) = volume_chain();
    let read = VolumeChain::decode(&unhex(&golden, "chain")).unwrap();
    assert_eq!(read, chain);
    let member = read.verify(VolumeId([6; 16]), owner, NOW).unwrap();
    assert_eq!((member.device, member.read_only), (device.peer(), true));
    assert_eq!(member.ancestors.len(), 2);
    for (name, read_only) in [("ticket", false), ("ticket for reading", true)] {
        let ticket: VolumeTicket = golden[name].parse().unwrap();
        assert_eq!(ticket, volume_ticket(read_only), "{name}");
        assert_eq!(ticket.to_string(), golden[name]);
        assert_eq!(ticket.volume().secret.is_none(), read_only);
        let chain = ticket.accept(PeerId([9; 32]), NOW).unwrap();
        let member = chain.verify(VolumeId([6; 16]), owner, NOW).unwrap();
        assert_eq!(member.read_only, read_only);
        assert!(ticket.accept(PeerId([9; 32]), NOW + 1001).is_err());
        assert!(ticket.network().accept(PeerId([9; 32]), NOW).is_ok());
    }
}

#[test]
fn containers_of_version_1_open() {
    let golden = golden("container.txt", || {
        let cost = Cost {
            memory_kib: 64,
            passes: 2,
            lanes: 2,
        };
        let sealed = seal_container(b"backup", "passphrase", cost, &Entropy::seeded(3)).unwrap();
        [("container".to_owned(), hex(sealed))].into()
    });
    let sealed = unhex(&golden, "container");
    assert_eq!(open_container(&sealed, "passphrase").unwrap(), b"backup");
}

/// Where chunks and packs end is no part of any stored format, but sharing depends on it.
#[test]
fn cuts_stay_where_they_are() {
    let files: Vec<_> = (0..4000u32)
        .map(|index| noise(&format!("file {index}"), (index as usize * 37) % 9000))
        .collect();
    let cut = || {
        let mut cutter = Cutter::new(ChunkSizes::default());
        cutter.push(noise("stream", 24 << 20).into());
        cutter.finish();
        let lengths: Vec<_> = std::iter::from_fn(|| cutter.next_chunk())
            .map(|chunk| chunk.len().to_string())
            .collect();
        let mut packer = Packer::new(ChunkSizes::default());
        let last_of_packs: Vec<_> = files
            .iter()
            .enumerate()
            .filter(|(_, file)| packer.place(file.len(), pack_mark(file)).ends_pack)
            .map(|(index, _)| index.to_string())
            .collect();
        Golden::from([
            ("chunk lengths".to_owned(), lengths.join(" ")),
            ("last files of packs".to_owned(), last_of_packs.join(" ")),
        ])
    };
    assert_eq!(cut(), golden("cuts.txt", cut));
}
