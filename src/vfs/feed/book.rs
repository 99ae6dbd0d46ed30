//! Who has part in a volume, and its keys, as an open volume knows them: what its rows say, what other members' deltas
//! show besides, and what this device could open of the keys that were handed out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::time::Instant;

use super::VolumeShare;
use crate::base::PeerId;
use crate::base::limits::RULINGS_HEARD_MAX;
use crate::crypto::sign::SigningKey;
use crate::crypto::wrap::epoch_number;
use crate::crypto::{ConvergenceSecret, EpochKey, EpochSecrets};
use crate::feeds::{
    Lineage, Part, Revocation, Rotation, Ruling, RulingKind, Signed, Standing, Subject,
};
use crate::namespace::WriterId;

/// What follows from the rules of a volume of which revocations are known.
#[derive(Debug, Clone)]
pub struct ShareRules {
    /// The device that made the volume.
    pub owner: PeerId,
    /// The one-time key of the ticket by which this device came: keys may be handed out to its holder.
    pub ticket: Option<SigningKey>,
}

/// The keys of a volume, for whoever keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeKeys {
    /// All keys with the names of their epochs, ascending.
    pub epochs: Vec<(u32, EpochKey)>,
    /// What new blocks are sealed under; none if this device is not told.
    pub secret: Option<ConvergenceSecret>,
}

/// See the module.
pub(super) struct Book {
    pub(super) standing: Standing,
    /// Rows that were looked at, with in whose feeds they came.
    seen: BTreeMap<(u8, [u8; 32]), usize>,
    /// Proofs that were looked at.
    proofs: BTreeSet<[u8; 32]>,
    /// Keys that open. Two may have one name.
    ring: BTreeMap<u32, Vec<EpochSecrets>>,
    /// What new data is sealed under.
    pub(super) current: Option<(u32, EpochSecrets)>,
    /// Since when there has been nothing to seal under, or somebody lacks it.
    pub(super) stuck_since: Option<Instant>,
    pub(super) lacking_since: Option<Instant>,
    /// What was found beside checkpoints, before it is a row here.
    heard: Vec<Revocation>,
    pub(super) pages: BTreeSet<[u8; 32]>,
    /// Feeds of which it was said that they are cut.
    pub(super) named: BTreeSet<WriterId>,
    device: SigningKey,
    ticket: Option<SigningKey>,
}

impl Book {
    pub(super) fn new(
        share: &VolumeShare,
        rules: &ShareRules,
        volume: crate::base::VolumeId,
        secret: &ConvergenceSecret,
    ) -> Book {
        let last = share.epochs.last_key_value().map(|(epoch, _)| *epoch);
        let mut ring: BTreeMap<u32, Vec<EpochSecrets>> = BTreeMap::new();
        for (epoch, key) in &share.epochs {
            let knows = Some(*epoch) == last && !share.read_only;
            ring.entry(*epoch).or_default().push(EpochSecrets {
                key: key.clone(),
                secret: knows.then(|| secret.clone()),
            });
        }
        let mut book = Book {
            standing: Standing::new(volume, rules.owner),
            seen: BTreeMap::new(),
            proofs: BTreeSet::new(),
            ring,
            current: None,
            stuck_since: None,
            lacking_since: None,
            heard: Vec::new(),
            pages: BTreeSet::new(),
            named: BTreeSet::new(),
            device: share.device.clone(),
            ticket: rules.ticket.clone(),
        };
        // What it is itself it knows, also before that is a row.
        if let Ok(way) = book
            .standing
            .read_proof(share.device.peer(), &share.proof, u64::MAX)
        {
            book.standing.add_lineage(&way);
        }
        book.choose();
        book
    }

    /// A proof that is a row. Whether it is one that was not known.
    pub(super) fn add_proof(&mut self, device: PeerId, proof: &[u8], now_ms: u64) -> bool {
        if !self.proofs.insert(*blake3::hash(proof).as_bytes()) {
            return false;
        }
        match self.standing.read_proof(device, proof, now_ms) {
            Ok(lineage) => {
                self.standing.add_lineage(&lineage);
                true
            }
            Err(why) => {
                tracing::warn!(device = %device.short(), "no proof of membership: {why}");
                false
            }
        }
    }

    /// A document that is a row, which came in the feeds of `authors`. Whether anything may follow from it that did
    /// not before.
    pub(super) fn add_row(
        &mut self,
        volume: crate::base::VolumeId,
        (kind, bytes): (u8, &Bytes),
        authors: &[PeerId],
        now_ms: u64,
    ) -> bool {
        let name = crate::namespace::key::ruling_name(bytes);
        let before = self.seen.insert((kind, name), authors.len());
        if before.is_some_and(|before| before >= authors.len()) {
            return false;
        }
        match Ruling::decode(volume, kind, bytes) {
            Ok(ruling) => self.add(authors, &ruling, now_ms),
            Err(why) => {
                tracing::warn!("a document about members was passed over: {why}");
                false
            }
        }
    }

    /// Whether a proof is a row.
    pub(super) fn has_proof(&self, proof: &[u8]) -> bool {
        self.proofs.contains(blake3::hash(proof).as_bytes())
    }

    /// Whether a document is a row.
    pub(super) fn has_row(&self, ruling: &Ruling) -> bool {
        let name = crate::namespace::key::ruling_name(&ruling.encode());
        self.seen.contains_key(&(ruling.kind() as u8, name))
    }

    pub(super) fn add(&mut self, authors: &[PeerId], ruling: &Ruling, now_ms: u64) -> bool {
        if let Ruling::Rotation(rotation) = ruling {
            self.open(rotation);
        }
        self.standing.add(authors, ruling, now_ms)
    }

    /// Keeps what a document hands to this device. Whether that was anything new.
    pub(super) fn open(&mut self, rotation: &Rotation) -> bool {
        let keys = [Some(self.device.clone()), self.ticket.clone()];
        let mut found = false;
        for own in keys.into_iter().flatten() {
            if let Some(secrets) = rotation.open(&own) {
                found |= self.keep(rotation.epoch, secrets);
            }
        }
        found
    }

    /// Whether that was new.
    pub(super) fn keep(&mut self, epoch: u32, secrets: EpochSecrets) -> bool {
        let known = self.ring.entry(epoch).or_default();
        let same = known.iter_mut().find(|known| known.key == secrets.key);
        match same {
            Some(known) if known.secret.is_none() && secrets.secret.is_some() => {
                known.secret = secrets.secret;
                true
            }
            Some(_) => false,
            None => {
                known.push(secrets);
                known.sort_by(|one, two| one.key.secret().cmp(two.key.secret()));
                true
            }
        }
    }

    /// Keys of a name.
    pub(super) fn keys(&self, epoch: u32) -> impl Iterator<Item = &EpochKey> {
        let keys = self.ring.get(&epoch).into_iter().flatten();
        keys.map(|secrets| &secrets.key)
    }

    /// Chooses what new data is sealed under: of what was handed out by members to nobody who was revoked the greatest;
    /// where nobody was revoked, of all. Whether that is another one than before.
    pub(super) fn choose(&mut self) -> bool {
        let is_safe = |epoch: &u32| {
            let mut rotations = self.standing.rotations().iter();
            rotations.any(|rotation| rotation.epoch == *epoch && self.standing.is_safe(rotation))
        };
        let is_anybody_out = !self.standing.revoked().is_empty();
        let mut names = self.ring.keys().rev();
        let epoch = names.find(|epoch| !is_anybody_out || is_safe(epoch));
        let chosen = epoch.and_then(|epoch| {
            let secrets = self.ring.get(epoch)?.last()?;
            Some((*epoch, secrets.clone()))
        });
        let is_another = chosen != self.current;
        if chosen.is_some() {
            self.stuck_since = None;
        } else {
            self.stuck_since.get_or_insert_with(Instant::now);
        }
        self.current = chosen;
        is_another
    }

    /// What a delta is sealed under that hands out the keys `brings`: those that get them cannot have them yet.
    /// `before`: what the delta before it was sealed under.
    pub(super) fn before(
        &self,
        brings: &BTreeSet<u32>,
        before: Option<u32>,
    ) -> Option<(u32, EpochKey)> {
        let before =
            before.filter(|epoch| !brings.contains(epoch) && self.ring.contains_key(epoch));
        let mut others = self.ring.keys().rev();
        let epoch = before.or_else(|| others.find(|epoch| !brings.contains(epoch)).copied())?;
        Some((epoch, self.ring.get(&epoch)?.first()?.key.clone()))
    }

    /// A number for the next epoch.
    pub(super) fn next_number(&self) -> u16 {
        let names = self.ring.keys().copied();
        let handed = self.standing.rotations().iter();
        let names = names.chain(handed.map(|rotation| rotation.epoch));
        names.map(epoch_number).max().unwrap_or(0).saturating_add(1)
    }

    /// For whoever keeps them.
    pub(super) fn volume_keys(&self) -> VolumeKeys {
        let all = self.ring.iter();
        let all = all.flat_map(|(epoch, keys)| keys.iter().map(|s| (*epoch, s.key.clone())));
        let current = self.current.as_ref();
        VolumeKeys {
            epochs: all.collect(),
            secret: current.and_then(|(_, secrets)| secrets.secret.clone()),
        }
    }

    /// What part a device has, also by proofs that it brings itself.
    pub(super) fn part(&self, device: PeerId, proofs: &[Bytes], now_ms: u64) -> Part {
        let known = self.standing.part(&device);
        if known == Part::Writer {
            return known;
        }
        let read = |proof: &Bytes| self.standing.read_proof(device, proof, now_ms).ok();
        let more: Vec<Lineage> = proofs.iter().filter_map(read).collect();
        self.standing.part_with(&device, &more)
    }

    /// Documents were found beside a checkpoint: keys are kept, revocations remembered. Whether a key is new.
    pub(super) fn hear(&mut self, rulings: Vec<Ruling>) -> bool {
        let mut found = false;
        for ruling in rulings {
            match ruling {
                Ruling::Rotation(rotation) => found |= self.open(&rotation),
                Ruling::Revocation(revocation) => self.hear_revocation(revocation),
                _ => {}
            }
        }
        found
    }

    fn hear_revocation(&mut self, revocation: Signed<Revocation>) {
        let is_known = self.heard.iter().any(|heard| heard == revocation.record());
        if !is_known && self.heard.len() < RULINGS_HEARD_MAX {
            self.heard.push(revocation.record().clone());
        }
    }

    /// Whether somebody who may says that a device is revoked, though that is no row here yet: somebody who stands above
    /// it on all of these ways, and of whom nobody says the same.
    pub(super) fn is_said_to_be_out(&self, device: &PeerId, ways: &[Lineage]) -> bool {
        let owner = self.standing.owner();
        let is_above = |by: &PeerId, way: &Lineage| {
            let before = way.iter().take_while(|step| step.device != *device);
            let mut before = before.filter(|step| !step.read_only);
            before.any(|step| step.device == *by)
        };
        let mut about = self.heard_about(device);
        about.any(|by| {
            let is_doubtful = matches!(
                self.standing.part(&by),
                Part::Late { .. } | Part::Revoked { .. }
            ) || self.heard_about(&by).next().is_some();
            let all_above = !ways.is_empty() && ways.iter().all(|way| is_above(&by, way));
            by == owner || !is_doubtful && all_above
        })
    }

    fn heard_about(&self, device: &PeerId) -> impl Iterator<Item = PeerId> {
        let subject = Subject::Device(*device);
        let is_owner = *device == self.standing.owner();
        let heard = self.heard.iter();
        let about = heard.filter(move |heard| heard.subject == subject && !is_owner);
        about.map(|heard| heard.by)
    }

    /// Documents that whoever was away needs: revocations, and keys, the newest first.
    pub(super) fn page(
        &self,
        rows: Vec<(u8, Bytes)>,
        volume: crate::base::VolumeId,
    ) -> Vec<Ruling> {
        let wanted = [RulingKind::Revocation as u8, RulingKind::Rotation as u8];
        let rows = rows.into_iter().filter(|(kind, _)| wanted.contains(kind));
        let read = rows.filter_map(|(kind, bytes)| Ruling::decode(volume, kind, &bytes).ok());
        let mut rulings: Vec<Ruling> = read.collect();
        rulings.sort_by_key(|ruling| match ruling {
            Ruling::Rotation(rotation) => (1, u32::MAX - rotation.epoch),
            _ => (0, 0),
        });
        rulings
    }
}
