//! What people type, paste and edit, and what commands ask of a running peer.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::AdminError;
use crate::admin::types::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictsRequest, GetHead, GetRequest, Hello,
    HexPath, InviteRequest, JoinRequest, KeyExportRequest, Line, LinkRequest, LsEntry, LsRequest,
    MountRequest, Mounted, PeerInfo, PutRequest, PutResult, SetQuota, Stat, Status, SyncProgress,
    SyncRequest, UmountRequest, VolumeCreate, VolumeInfo, VolumeInvited, VolumeMembers,
    VolumeMembersRequest, VolumeOpen, VolumeOpened, VolumeRemove, VolumeRevoke, VolumeRevoked,
    VolumeTicketRequest,
};
use crate::base::units::{format_duration, parse_duration};
use crate::base::{ByteSize, EcProfile, PeerId, Redundancy};
use crate::config::{Address, Config, Quota};
use crate::crypto::{Ticket, VolumeTicket};
use crate::dag::Link;

/// The first four bytes of a hash, which links and tickets carry.
fn checksummed(payload: &[u8]) -> String {
    let hash = blake3::hash(payload);
    let check = hash.as_bytes().get(..4).unwrap_or_default();
    bs58::encode([payload, check].concat()).into_string()
}

/// A link: as text, and as the bytes behind a sound checksum.
pub(super) fn link(data: &[u8]) {
    let read = |text: &str| {
        if let Ok(link) = text.parse::<Link>() {
            assert_eq!(link.to_string(), text.trim());
        }
    };
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    read(&format!("cairn:{}", checksummed(data)));
}

/// A ticket: as text, and as the bytes behind a sound checksum and length.
pub(super) fn ticket(data: &[u8]) {
    let read = |text: &str| {
        if let Ok(ticket) = text.parse::<Ticket>() {
            assert_eq!(ticket.to_string().parse::<Ticket>(), Ok(ticket.clone()));
            // Whoever joins gets a proof that holds, or an error.
            if let Ok((secrets, chain)) = ticket.accept(super::wire::NOBODY, super::wire::NOW_MS) {
                assert!(chain.verify(secrets.network, super::wire::NOW_MS).is_ok());
            }
        }
    };
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    read(&enveloped("cairn-ticket:", data));
}

/// A ticket of a volume, likewise.
pub(super) fn volume_ticket(data: &[u8]) {
    let read = |text: &str| {
        if let Ok(ticket) = text.parse::<VolumeTicket>() {
            assert_eq!(
                ticket.to_string().parse::<VolumeTicket>(),
                Ok(ticket.clone())
            );
            let volume = ticket.volume();
            assert_eq!(volume.secret.is_none(), ticket.terms().read_only);
            if let Ok(chain) = ticket.accept(super::wire::NOBODY, super::wire::NOW_MS) {
                let member = chain.verify(volume.id, volume.owner, super::wire::NOW_MS);
                assert!(member.is_ok_and(|member| member.read_only == ticket.terms().read_only));
            }
        }
    };
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    read(&enveloped("cairn-volume:", data));
}

/// The text of a ticket whose checksum and length are sound.
fn enveloped(prefix: &str, data: &[u8]) -> String {
    let digits = checksummed(data);
    let alphabet = bs58::Alphabet::BITCOIN;
    let length: String = [58 * 58, 58, 1]
        .iter()
        .map(|weight| bs58::encode([(digits.len() / weight % 58) as u8]).with_alphabet(alphabet))
        .filter_map(|digit| digit.into_string().chars().last())
        .collect();
    format!("{prefix}{length}{digits}")
}

/// A config file.
pub(super) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(&text) {
        Ok(config) => assert_eq!(Config::parse(&config.to_toml()), Ok(config)),
        Err(problems) => {
            assert!(!problems.0.is_empty());
            let lines = text.matches('\n').count() + 1;
            assert!(problems.0.iter().all(|p| (1..=lines).contains(&p.line)));
        }
    }
}

/// Sizes, durations, redundancies, peers and addresses.
pub(super) fn units(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(time) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(time)), Ok(time));
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        // Shown with few digits, but as a size again.
        assert!(size.to_string().parse::<ByteSize>().is_ok());
    }
    if let Ok(profile) = text.parse::<EcProfile>() {
        assert_eq!(profile.to_string().parse(), Ok(profile));
    }
    if let Ok(redundancy) = text.parse::<Redundancy>() {
        assert_eq!(redundancy.to_string().parse(), Ok(redundancy));
    }
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.to_string().parse(), Ok(peer));
    }
    if let Ok(Quota::Bytes(size)) = text.parse::<Quota>() {
        assert!(size.0 >= crate::base::limits::QUOTA_MIN_BYTES);
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string(), text);
    }
}

fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let Ok(text) = serde_json::to_vec(&value) else {
            panic!("a value that was read cannot be written: {value:?}");
        };
        match serde_json::from_slice::<T>(&text) {
            Ok(again) => assert_eq!(again, value),
            Err(error) => panic!("{value:?}: {error}"),
        }
    }
}

/// The JSON of the control API, in both directions.
pub(super) fn control_request(data: &[u8]) {
    json::<InviteRequest>(data);
    json::<JoinRequest>(data);
    json::<SetQuota>(data);
    // It holds a passphrase and is never shown.
    drop(serde_json::from_slice::<KeyExportRequest>(data));
    json::<PutRequest>(data);
    json::<GetRequest>(data);
    json::<LinkRequest>(data);
    json::<LsRequest>(data);
    json::<Hello>(data);
    json::<Status>(data);
    json::<PeerInfo>(data);
    json::<PutResult>(data);
    json::<GetHead>(data);
    json::<Stat>(data);
    json::<Line<LsEntry>>(data);
    json::<VolumeCreate>(data);
    json::<VolumeRemove>(data);
    json::<VolumeInfo>(data);
    json::<VolumeTicketRequest>(data);
    json::<VolumeInvited>(data);
    json::<VolumeOpen>(data);
    json::<VolumeOpened>(data);
    json::<VolumeMembersRequest>(data);
    json::<VolumeMembers>(data);
    json::<VolumeRevoke>(data);
    json::<VolumeRevoked>(data);
    json::<MountRequest>(data);
    json::<UmountRequest>(data);
    json::<Mounted>(data);
    json::<SyncRequest>(data);
    json::<Line<SyncProgress>>(data);
    json::<ConflictsRequest>(data);
    json::<Line<ConflictInfo>>(data);
    json::<ConflictResolve>(data);
    json::<ConflictResolved>(data);
    json::<AdminError>(data);
    if let Ok(request) = serde_json::from_slice::<LsRequest>(data)
        && let Some(path) = request.path()
    {
        assert_eq!(LsRequest::new(request.link, &path).path(), Some(path));
    }
    if let Ok(request) = serde_json::from_slice::<MountRequest>(data)
        && let Some(path) = request.dir_hex.path()
    {
        assert_eq!(HexPath::new(&path).path(), Some(path));
    }
}
