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

/// The keys of an epoch for some of those who shall have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Of which volume.
    pub volume: VolumeId,
    /// Who hands them out.
    pub by: PeerId,
    /// Name of the epoch: see [`wrap::epoch_name`].
    pub epoch: u32,
    /// What was revoked: none of these was given the keys. Ascending.
    pub without: Vec<Subject>,
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
            without: without.to_vec(),
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
        let without = self.without.iter().map(|subject| (*subject).into());
        wire::encode::<RotationWire>(&(
            FEED_VERSION,
            self.volume,
            self.by,
            self.epoch,
            without.collect(),
            self.once,
            self.wraps.clone(),
        ))
    }

    fn decode(bytes: &[u8]) -> Result<Rotation, FeedError> {
        let (version, volume, by, epoch, without, once, wraps) =
            wire::decode_canonical::<RotationWire>(bytes, Self::MAX_BYTES)?;
        check_version(version)?;
        let without = without
            .into_iter()
            .map(Subject::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        if without.len() > RULING_NAMES_MAX || !without.is_sorted_by(|one, two| one < two) {
            return Err("too many revocations, or revocations out of order".into());
        }
        if without.contains(&Subject::Device(by)) {
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
