//! The record of a volume: what is known of it besides its name, and, once it is shared, what its members
//! know.

use serde_bytes::{ByteArray, ByteBuf};

use crate::base::limits::VOLUME_KEYS_MAX;
use crate::base::wire::{self, WireError};
use crate::base::{Clock, EcProfile, Entropy, OwnerId, PeerId, VolumeId};
use crate::crypto::volume_ticket::{EpochKeys, are_in_order};
use crate::crypto::wrap::{epoch_name, epoch_number};
use crate::crypto::{ConvergenceSecret, EpochKey, SharedVolume, SigningKey, VolumeChain};

/// Version written by this program.
const RECORD_VERSION: u8 = 3;
/// Version of a record without the key of a ticket.
const SHARED_VERSION: u8 = 2;
/// Version of before volumes were shared; still read.
const LOCAL_VERSION: u8 = 1;
/// Longest row that is read: a chain and keys at their largest, and the rest.
const RECORD_MAX_BYTES: usize = 12 << 10;

/// What is known of a volume besides its name.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::node) struct Record {
    pub id: VolumeId,
    /// For whom its blocks are kept.
    pub owner: OwnerId,
    /// What its blocks are sealed under. Who only reads has none.
    pub secret: Option<ConvergenceSecret>,
    pub profile: EcProfile,
    pub created_ms: u64,
    pub is_settled: bool,
    /// None while it belongs to this machine alone.
    pub share: Option<Share>,
}

/// How this machine has part in a volume of several.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::node) struct Share {
    pub keys: ShareKeys,
    /// It came by a ticket or a backup, and nothing of its tree is here yet.
    pub is_awaited: bool,
}

/// What a member needs to take part in a shared volume.
#[derive(Debug, Clone)]
pub(in crate::node) struct ShareKeys {
    /// This device's proof that it is a member.
    pub chain: VolumeChain,
    /// The device that made the volume.
    pub owner: PeerId,
    /// The keys of its epochs: at least one, ascending by epoch.
    pub keys: EpochKeys,
    /// Whether this device may write nothing.
    pub read_only: bool,
    /// The one-time key of the ticket by which it came: keys may be handed out to its holder. None of the owner, and
    /// of who came before anybody could be revoked.
    pub ticket: Option<SigningKey>,
}

impl PartialEq for ShareKeys {
    fn eq(&self, other: &Self) -> bool {
        let secret = |keys: &Self| keys.ticket.as_ref().map(SigningKey::secret);
        self.chain == other.chain
            && self.owner == other.owner
            && self.keys == other.keys
            && self.read_only == other.read_only
            && secret(self) == secret(other)
    }
}

impl Eq for ShareKeys {}

impl ShareKeys {
    /// Takes over what a newer ticket knows more. Whether that was anything.
    ///
    /// A key that is here stays: a ticket adds epochs, and changes none.
    pub fn learn(&mut self, keys: &[(u32, EpochKey)]) -> bool {
        let before = self.keys.clone();
        for (epoch, key) in keys {
            // Two that were begun at the same time may have one name, if it is really that of both.
            let mut known = self.keys.iter();
            let is_taken = known.any(|(other, known)| other == epoch && known != key);
            if is_taken && epoch_name(epoch_number(*epoch), key) != *epoch {
                continue;
            }
            let place = |(other, known): &(u32, EpochKey)| {
                (*other, known.secret()).cmp(&(*epoch, key.secret()))
            };
            if let Err(at) = self.keys.binary_search_by(place) {
                self.keys.insert(at, (*epoch, key.clone()));
            }
        }
        // The latest are what is written under.
        let spare = self.keys.len().saturating_sub(VOLUME_KEYS_MAX);
        self.keys.drain(..spare);
        self.keys != before
    }
}

/// `[version, id, owner, secret, redundancy, created ms, settled]`.
type LocalRow = (u8, VolumeId, OwnerId, ByteArray<32>, EcProfile, u64, bool);

/// `[version, id, owner, secret or null, redundancy, created ms, settled, share or null]`.
type RowOf<Share> = (
    u8,
    VolumeId,
    OwnerId,
    Option<ByteArray<32>>,
    EcProfile,
    u64,
    bool,
    Option<Share>,
);
type Row = RowOf<GuestRow>;

/// `[own chain, owner device, [[epoch, key], ..], read_only, awaited]`.
type ShareRow = (ByteBuf, PeerId, Vec<(u32, ByteArray<32>)>, bool, bool);

/// `[own chain, owner device, [[epoch, key], ..], read_only, awaited, one-time key]`.
type GuestRow = (
    ByteBuf,
    PeerId,
    Vec<(u32, ByteArray<32>)>,
    bool,
    bool,
    ByteArray<32>,
);

impl Record {
    pub fn new(profile: EcProfile, clock: &Clock, entropy: &Entropy) -> Self {
        Record {
            id: VolumeId(entropy.array()),
            owner: OwnerId(entropy.array()),
            secret: Some(ConvergenceSecret::random(entropy)),
            profile,
            created_ms: clock.now_ms(),
            is_settled: false,
            share: None,
        }
    }

    /// Of a volume that others made, of which nothing is here yet.
    pub fn adopted(
        volume: &SharedVolume,
        chain: VolumeChain,
        (read_only, ticket): (bool, Option<SigningKey>),
        now_ms: u64,
    ) -> Self {
        let keys = ShareKeys {
            chain,
            owner: volume.owner,
            keys: volume.keys.clone(),
            read_only,
            ticket,
        };
        Record {
            id: volume.id,
            owner: volume.claims,
            secret: volume.secret.clone(),
            profile: volume.profile,
            created_ms: now_ms,
            is_settled: false,
            share: Some(Share {
                keys,
                is_awaited: true,
            }),
        }
    }

    /// What this device needs to take part in the volume, if it is shared.
    pub fn share_keys(&self) -> Option<&ShareKeys> {
        self.share.as_ref().map(|share| &share.keys)
    }

    /// Whether this device may write nothing.
    pub fn is_read_only(&self) -> bool {
        self.share_keys().is_some_and(|keys| keys.read_only)
    }

    pub fn encode(&self) -> Vec<u8> {
        match self.share.as_ref().and_then(Share::guest_row) {
            Some(share) => wire::encode(&self.row(RECORD_VERSION, Some(share))),
            None => {
                let share = self.share.as_ref().map(Share::row);
                wire::encode(&self.row(SHARED_VERSION, share))
            }
        }
    }

    fn row<S>(&self, version: u8, share: Option<S>) -> RowOf<S> {
        let secret = self.secret.as_ref();
        (
            version,
            self.id,
            self.owner,
            secret.map(|secret| ByteArray::new(*secret.secret())),
            self.profile,
            self.created_ms,
            self.is_settled,
            share,
        )
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if version(bytes) == Some(LOCAL_VERSION) {
            return Self::decode_local(bytes);
        }
        match version(bytes) {
            Some(RECORD_VERSION) => {
                let row: Result<Row, WireError> = wire::decode_canonical(bytes, RECORD_MAX_BYTES);
                let (.., share) = row.as_ref().map_err(Clone::clone)?;
                let of_guest = share
                    .as_ref()
                    .map(|(.., ticket)| SigningKey::from_secret(ticket));
                // Without it, it is a record of the version before.
                let ticket = of_guest.ok_or_else(|| malformed("a record without a ticket"))?;
                let without = |(a, b, c, d, e, _): GuestRow| (a, b, c, d, e);
                let (version, id, owner, secret, profile, made, settled, share) = row?;
                let share = share.map(without);
                let row = (version, id, owner, secret, profile, made, settled, share);
                Self::of(row, Some(ticket))
            }
            _ => {
                let row: Result<RowOf<ShareRow>, WireError> =
                    wire::decode_canonical(bytes, RECORD_MAX_BYTES);
                let row = row.map_err(|error| newer(bytes).unwrap_or(error))?;
                match row.0 {
                    SHARED_VERSION => Self::of(row, None),
                    other => Err(unknown(other)),
                }
            }
        }
    }

    fn of(row: RowOf<ShareRow>, ticket: Option<SigningKey>) -> Result<Self, WireError> {
        let (_, id, owner, secret, profile, created_ms, is_settled, share) = row;
        let share = share.map(|row| Share::of(id, row, ticket)).transpose()?;
        let is_reader = share.as_ref().is_some_and(|share| share.keys.read_only);
        if secret.is_none() && !is_reader {
            return Err(malformed("a volume to be written to, without its secret"));
        }
        Ok(Record {
            id,
            owner,
            secret: secret.map(|bytes| ConvergenceSecret::from_bytes(bytes.into_array())),
            profile,
            created_ms,
            is_settled,
            share,
        })
    }

    fn decode_local(bytes: &[u8]) -> Result<Self, WireError> {
        let (_, id, owner, secret, profile, created_ms, is_settled): LocalRow =
            wire::decode_canonical(bytes, RECORD_MAX_BYTES)?;
        Ok(Record {
            id,
            owner,
            secret: Some(ConvergenceSecret::from_bytes(secret.into_array())),
            profile,
            created_ms,
            is_settled,
            share: None,
        })
    }
}

impl Share {
    fn row(&self) -> ShareRow {
        let keys = self.keys.keys.iter();
        (
            self.keys.chain.encode().into(),
            self.keys.owner,
            keys.map(|(epoch, key)| (*epoch, ByteArray::new(*key.secret())))
                .collect(),
            self.keys.read_only,
            self.is_awaited,
        )
    }

    fn guest_row(&self) -> Option<GuestRow> {
        let ticket = self.keys.ticket.as_ref()?;
        let (chain, owner, keys, read_only, is_awaited) = self.row();
        let ticket = ByteArray::new(ticket.secret());
        Some((chain, owner, keys, read_only, is_awaited, ticket))
    }

    fn of(id: VolumeId, row: ShareRow, ticket: Option<SigningKey>) -> Result<Self, WireError> {
        let (chain, owner, keys, read_only, is_awaited) = row;
        let chain = VolumeChain::decode(&chain).map_err(|error| malformed(error.to_string()))?;
        if chain.volume() != id || chain.owner() != owner {
            return Err(malformed("a proof of membership for something else"));
        }
        let keys = keys.into_iter();
        let keys: EpochKeys = keys
            .map(|(epoch, key)| (epoch, EpochKey::from_bytes(key.into_array())))
            .collect();
        if !are_in_order(&keys) {
            return Err(malformed("keys that are none, too many, or out of order"));
        }
        Ok(Share {
            keys: ShareKeys {
                chain,
                owner,
                keys,
                read_only,
                ticket,
            },
            is_awaited,
        })
    }
}

fn malformed(why: impl Into<String>) -> WireError {
    WireError::Malformed(why.into())
}

fn unknown(found: u8) -> WireError {
    WireError::Version {
        found: found.into(),
        known: RECORD_VERSION.into(),
    }
}

/// The version is the first item of a short array: one byte of head, then a small number.
fn version(row: &[u8]) -> Option<u8> {
    row.get(1).copied()
}

/// If a row does not decode because a later version wrote it, that error.
fn newer(row: &[u8]) -> Option<WireError> {
    let found = version(row)?;
    (RECORD_VERSION < found && found < 24).then(|| unknown(found))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
