//! How the keys of a new epoch are handed out: sealed for each member that remains and each ticket that is open, under
//! what its key and a key that is used once have in common.
//!
//! Who has many recipients says it in several documents of one epoch; and who finds that a member lacks a key says one
//! more, for it alone.

use super::error::FeedError;
use super::revoke::{Subject, SubjectWire};
use super::sealed::{FEED_VERSION, check_version};
use super::signed::Record;
use crate::base::limits::{ROTATION_WRAPS_MAX, RULING_NAMES_MAX};
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::sign::{PublicKey, Purpose, SignError, SigningKey};
use crate::crypto::wrap::{self, WRAP_MAX_BYTES, Wrap};
use crate::crypto::{EpochSecrets, Wrapping};

/// Context of the hash of everything that was revoked.
const WITHOUT_CONTEXT: &str = "cairn v1 rotation: all that was revoked";
/// Stands in a list of subjects for all of them.
const HASHED: u8 = 2;

/// The hash by which many subjects, which ascend, are named at once.
pub(super) fn hash_of_all(subjects: &[Subject]) -> [u8; 32] {
    let subjects = subjects.iter().map(|subject| (*subject).into());
    let subjects: Vec<SubjectWire> = subjects.collect();
    blake3::derive_key(WITHOUT_CONTEXT, &wire::encode(&subjects))
}

/// Those who are known to be left out when keys are handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// Each of these; ascending.
    Listed(Vec<Subject>),
    /// Exactly those of whom this is the hash: more than fit into a document. Anybody could revoke so many
    /// tickets of their own.
    Hashed([u8; 32]),
}

impl Without {
    /// Those who are left out, ascending.
    pub fn of(subjects: &[Subject]) -> Without {
        match subjects.len() > RULING_NAMES_MAX {
            true => Without::Hashed(hash_of_all(subjects)),
            false => Without::Listed(subjects.to_vec()),
        }
    }

    /// Whether all of `revoked` are left out; `hash` is that of all of them.
    pub fn covers(&self, revoked: &[Subject], hash: &[u8; 32]) -> bool {
        match self {
            Without::Listed(all) => revoked.iter().all(|one| all.binary_search(one).is_ok()),
            Without::Hashed(all) => all == hash,
        }
    }

    fn to_wire(&self) -> Vec<SubjectWire> {
        match self {
            Without::Listed(all) => all.iter().map(|subject| (*subject).into()).collect(),
            Without::Hashed(hash) => vec![(HASHED, hash.to_vec().into())],
        }
    }

    fn from_wire(wire: Vec<SubjectWire>) -> Result<Without, FeedError> {
        if let [(HASHED, hash)] = wire.as_slice() {
            let wrong = |_| FeedError::Impossible("a hash of revocations of another length");
            return Ok(Without::Hashed(hash[..].try_into().map_err(wrong)?));
        }
        let all = wire.into_iter().map(Subject::try_from);
        let all = all.collect::<Result<Vec<_>, _>>()?;
        if all.len() > RULING_NAMES_MAX || !all.is_sorted_by(|one, two| one < two) {
            return Err("too many revocations, or revocations out of order".into());
        }
        Ok(Without::Listed(all))
    }
}

/// The keys of an epoch for some of those who shall have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Of which volume.
    pub volume: VolumeId,
    /// Who hands them out.
    pub by: PeerId,
    /// Name of the epoch: see [`wrap::epoch_name`].
    pub epoch: u32,
    /// What was revoked: none of it was given the keys.
    pub without: Without,
    /// The one-time key.
    pub once: PublicKey,
    /// What each recipient gets.
    pub wraps: Vec<Wrap>,
}

type RotationWire = (
    u8,
    VolumeId,
    PeerId,
    u32,
    Vec<SubjectWire>,
    PublicKey,
    Vec<Wrap>,
);

/// What keys are sealed together with.
fn header(volume: VolumeId, epoch: u32) -> Vec<u8> {
    wire::encode(&(FEED_VERSION, volume, epoch))
}

impl Rotation {
    /// Documents that hand `secrets` to all `recipients`; to those who only read (`true`) without the convergence
    /// secret. Who has no sound key is left out.
    pub fn hand_out(
        (volume, by): (VolumeId, PeerId),
        (epoch, secrets): (u32, &EpochSecrets),
        without: &[Subject],
        recipients: &[(PublicKey, bool)],
        wrapping: &Wrapping,
    ) -> Vec<Rotation> {
        let header = header(volume, epoch);
        let readers = secrets.for_reading();
        let wrap = |(key, is_reader): &(PublicKey, bool)| {
            let secrets = if *is_reader { &readers } else { secrets };
            let wrapped: Result<Wrap, SignError> = wrapping.wrap(key, &header, secrets);
            wrapped.ok()
        };
        let wraps: Vec<Wrap> = recipients.iter().filter_map(wrap).collect();
        let parts = wraps.chunks(ROTATION_WRAPS_MAX);
        let parts = parts.map(|wraps| Rotation {
            volume,
            by,
            epoch,
            without: Without::of(without),
            once: wrapping.public(),
            wraps: wraps.to_vec(),
        });
        parts.collect()
    }

    /// What is meant for the holder of `own`; none if nothing is.
    pub fn open(&self, own: &SigningKey) -> Option<EpochSecrets> {
        let header = header(self.volume, self.epoch);
        let mut wraps = self.wraps.iter();
        let secrets = wraps.find_map(|wrap| wrap::unwrap(own, &self.once, &header, wrap))?;
        let number = wrap::epoch_number(self.epoch);
        // Whoever gives two keys one name means to part those who have one from those who have the other.
        (wrap::epoch_name(number, &secrets.key) == self.epoch).then_some(secrets)
    }

    /// Whether it has anything for the holder of a key.
    pub fn is_for(&self, recipient: &PublicKey) -> bool {
        let name = wrap::recipient_name(&self.once, recipient);
        self.wraps.iter().any(|(of, ..)| **of == name)
    }
}

impl Record for Rotation {
    const PURPOSE: Purpose = Purpose::VolumeRotation;
    const MAX_BYTES: usize = 16 << 10;

    fn signer(&self) -> PeerId {
        self.by
    }

    fn encode(&self) -> Vec<u8> {
        wire::encode::<RotationWire>(&(
            FEED_VERSION,
            self.volume,
            self.by,
            self.epoch,
            self.without.to_wire(),
            self.once,
            self.wraps.clone(),
        ))
    }

    fn decode(bytes: &[u8]) -> Result<Rotation, FeedError> {
        let (version, volume, by, epoch, without, once, wraps) =
            wire::decode_canonical::<RotationWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let without = Without::from_wire(without)?;
        let own = Subject::Device(by);
        if matches!(&without, Without::Listed(all) if all.contains(&own)) {
            return Err("keys by a device that was revoked, by its own word".into());
        }
        let is_sound = |(_, _, text): &Wrap| text.len() <= WRAP_MAX_BYTES;
        if wraps.len() > ROTATION_WRAPS_MAX || !wraps.iter().all(is_sound) {
            return Err("too many keys, or impossible ones".into());
        }
        Ok(Rotation {
            volume,
            by,
            epoch,
            without,
            once,
            wraps,
        })
    }
}
