//! Who has part in a volume, and its keys, as an open volume knows them: what its rows say, what other members' deltas
//! show besides, and what this device could open of the keys that were handed out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::time::Instant;

use super::VolumeShare;
use super::heard::Heard;
use super::ring::{Ring, Source};
use crate::base::PeerId;
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
    /// Keys that open something: also such as anybody may have handed to this device.
    pub(super) ring: Ring,
    /// Keys with which this device came, or that a document hands to it that is a row: those that count, ascending; by
    /// key too, since two may have one name.
    known: BTreeMap<(u32, [u8; 32]), EpochSecrets>,
    /// What a document that is a row hands to this device.
    opened: BTreeMap<[u8; 32], (u32, EpochSecrets)>,
    /// Documents that somebody said of members and that are rows.
    said: BTreeMap<PeerId, usize>,
    /// When it was last looked what is to be said, and how much had been learned by then.
    pub(super) kept: Option<(u64, Instant)>,
    /// What new data is sealed under.
    pub(super) current: Option<(u32, EpochSecrets)>,
    /// Epochs that were handed out in what has left for others.
    pub(super) said_epochs: BTreeSet<u32>,
    /// Since when there has been nothing to seal under, or somebody lacks it.
    pub(super) stuck_since: Option<Instant>,
    pub(super) lacking_since: Option<Instant>,
    /// What was found beside checkpoints, before it is a row here.
    pub(super) heard: Heard,
    /// Feeds of which it was said that they are cut.
    pub(super) named: BTreeSet<WriterId>,
    opener: Opener,
}

/// Opens keys that were handed to this device.
#[derive(Clone)]
pub(super) struct Opener {
    device: SigningKey,
    ticket: Option<SigningKey>,
}

impl Opener {
    pub(super) fn open(&self, rotation: &Rotation) -> Option<EpochSecrets> {
        let by_ticket = || self.ticket.as_ref().and_then(|own| rotation.open(own));
        let opened = rotation.open(&self.device);
        match &opened {
            // As a member it may be told more than by its ticket, or less.
            Some(EpochSecrets {
                secret: Some(_), ..
            }) => opened,
            _ => by_ticket().or(opened),
        }
    }
}

impl Book {
    pub(super) fn new(
        share: &VolumeShare,
        rules: &ShareRules,
        volume: crate::base::VolumeId,
        secret: &ConvergenceSecret,
    ) -> Book {
        let last = share.epochs.last_key_value().map(|(epoch, _)| *epoch);
        let mut ring = Ring::default();
        let mut known = BTreeMap::new();
        for (epoch, key) in &share.epochs {
            ring.keep(Source::Own, *epoch, key);
            let knows = Some(*epoch) == last && !share.read_only;
            let secrets = EpochSecrets {
                key: key.clone(),
                secret: knows.then(|| secret.clone()),
            };
            known.insert((*epoch, *key.secret()), secrets);
        }
        let mut book = Book {
            standing: Standing::new(volume, rules.owner),
            seen: BTreeMap::new(),
            proofs: BTreeSet::new(),
            ring,
            known,
            opened: BTreeMap::new(),
            said: BTreeMap::new(),
            kept: None,
            current: None,
            said_epochs: BTreeSet::new(),
            stuck_since: None,
            lacking_since: None,
            heard: Heard::default(),
            named: BTreeSet::new(),
            opener: Opener {
                device: share.device.clone(),
                ticket: rules.ticket.clone(),
            },
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
        let by = match ruling {
            Ruling::Cut(cut) => Some(cut.by),
            Ruling::Heirs(heirs) => Some(heirs.by),
            Ruling::Issued(issued) => issued.invitation.read().ok().map(|made| made.inviter),
            // In the feed of whoever signed it: so by somebody who may write.
            Ruling::Rotation(rotation) if authors.contains(&rotation.by) => {
                self.open_row(rotation);
                None
            }
            Ruling::Rotation(_) | Ruling::Revocation(_) => None,
        };
        if let Some(by) = by {
            *self.said.entry(by).or_insert(0) += 1;
        }
        self.standing.add(authors, ruling, now_ms)
    }

    /// How many documents somebody said that are rows.
    pub(super) fn said_by(&self, device: &PeerId) -> usize {
        self.said.get(device).copied().unwrap_or(0)
    }

    /// For whoever opens keys without holding the book.
    pub(super) fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// Keeps what a document that is a row hands to this device.
    fn open_row(&mut self, rotation: &Signed<Rotation>) {
        let Some(secrets) = self.opener.open(rotation) else {
            return;
        };
        let source = Source::Row(rotation.by);
        self.ring.keep(source, rotation.epoch, &secrets.key);
        let name = *blake3::hash(rotation.body()).as_bytes();
        let place = (rotation.epoch, *secrets.key.secret());
        let known = self.known.entry(place).or_insert_with(|| secrets.clone());
        if known.secret.is_none() {
            known.secret.clone_from(&secrets.secret);
        }
        self.opened.insert(name, (rotation.epoch, secrets));
    }

    /// Keeps a key that a device handed to this one: it opens, and nothing is sealed under it before that is a row.
    /// `unknown`: from where it is if nothing is known of the device. Whether it is new.
    pub(super) fn keep_from(
        &mut self,
        by: PeerId,
        unknown: Source,
        epoch: u32,
        key: &EpochKey,
    ) -> bool {
        let source = match self.standing.part(&by) {
            Part::Writer
            | Part::Revoked {
                was_reader: false, ..
            } => Source::Known(by),
            _ => unknown,
        };
        self.ring.keep(source, epoch, key)
    }

    /// Chooses what new data is sealed under: of what was handed out by members to nobody who was revoked the greatest;
    /// where nobody was revoked, of all. Whether that is another one than before.
    pub(super) fn choose(&mut self) -> bool {
        let counting = self.counting();
        let mut known = self.known.iter().rev();
        let chosen = known.find(|(place, _)| counting.contains(place));
        let chosen = chosen.map(|((epoch, _), secrets)| (*epoch, secrets.clone()));
        let is_another = chosen != self.current;
        if chosen.is_some() {
            self.stuck_since = None;
        } else {
            self.stuck_since.get_or_insert_with(Instant::now);
        }
        self.current = chosen;
        is_another
    }

    /// The known keys that new data may be sealed under: nobody has them who was revoked.
    fn counting(&self) -> BTreeSet<(u32, [u8; 32])> {
        let rotations = self.standing.rotations().iter();
        let safe = rotations.filter(|rotation| self.standing.is_safe(rotation));
        let mut names = BTreeSet::new();
        let mut places = BTreeSet::new();
        for rotation in safe {
            names.insert(rotation.epoch);
            let opened = self.opened.get(blake3::hash(rotation.body()).as_bytes());
            places.extend(opened.map(|(epoch, secrets)| (*epoch, *secrets.key.secret())));
        }
        let is_anybody_out = !self.standing.revoked().is_empty();
        let from_rows: BTreeSet<_> = self
            .opened
            .values()
            .map(|(epoch, secrets)| (*epoch, *secrets.key.secret()))
            .collect();
        let counts = |place: &(u32, [u8; 32])| {
            // With what it came it came from a member whom it trusts.
            let came_with = !from_rows.contains(place);
            places.contains(place) || came_with && (!is_anybody_out || names.contains(&place.0))
        };
        self.known.keys().copied().filter(counts).collect()
    }

    /// A key that new data may be sealed under, of none of some epochs; best that of the epoch `wished`.
    pub(super) fn safe_besides(
        &self,
        barred: &BTreeSet<u32>,
        wished: Option<u32>,
    ) -> Option<(u32, EpochKey)> {
        let counting = self.counting();
        let safe = self
            .known
            .iter()
            .rev()
            .filter(|(place, _)| counting.contains(place) && !barred.contains(&place.0));
        let mut safe = safe.map(|((epoch, _), secrets)| (*epoch, secrets.key.clone()));
        let same = safe.clone().find(|(epoch, _)| Some(*epoch) == wished);
        same.or_else(|| safe.next())
    }

    /// What a delta is sealed under that hands out the keys `brings`: those that get them cannot have them yet.
    /// `before`: what the delta before it was sealed under.
    pub(super) fn before(
        &self,
        brings: &BTreeSet<u32>,
        before: Option<u32>,
    ) -> Option<(u32, EpochKey)> {
        let others = self.known.iter().rev();
        let mut others = others.filter(|((epoch, _), _)| !brings.contains(epoch));
        let same = others
            .clone()
            .find(|((epoch, _), _)| Some(*epoch) == before);
        let ((epoch, _), secrets) = same.or_else(|| others.next())?;
        Some((*epoch, secrets.key.clone()))
    }

    /// A number for the next epoch. Those of whoever has no part any more do not count: it may have taken the last.
    pub(super) fn next_number(&self) -> u16 {
        let rotations = self.standing.rotations();
        let is_handed = |epoch: &u32| rotations.iter().any(|rotation| rotation.epoch == *epoch);
        let names = self.known.keys().map(|(epoch, _)| *epoch);
        let came_with = names.filter(|epoch| !is_handed(epoch));
        let counting = rotations
            .iter()
            .filter(|rotation| self.standing.part(&rotation.by) == Part::Writer);
        let names = came_with.chain(counting.map(|rotation| rotation.epoch));
        names.map(epoch_number).max().unwrap_or(0).saturating_add(1)
    }

    /// For whoever keeps them.
    pub(super) fn volume_keys(&self) -> VolumeKeys {
        let all = self.known.iter();
        let all = all.map(|((epoch, _), secrets)| (*epoch, secrets.key.clone()));
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

    /// Documents were found beside the checkpoint of a writer, in a page of this name: revocations are remembered, and
    /// keys that were opened are kept. Whether a key is new.
    pub(super) fn hear(
        &mut self,
        page: (WriterId, [u8; 32]),
        revocations: &[Revocation],
        keys: &[(PeerId, u32, EpochKey)],
    ) -> bool {
        let owner = self.standing.owner();
        self.heard.read(page, revocations, owner);
        let mut found = false;
        for (by, epoch, key) in keys {
            found |= self.keep_from(*by, Source::Beside(page.0), *epoch, key);
        }
        found
    }

    /// Documents that whoever was away needs, those first without which it gets nowhere: the keys that count, and who
    /// was revoked. What does not count is left out, and of each device as much comes before the rest as of others: so
    /// nobody can fill the page.
    pub(super) fn page(&self, rulings: Vec<Ruling>) -> Vec<Ruling> {
        let current = self.current.as_ref().map(|(epoch, _)| *epoch);
        let class = |ruling: &Ruling| match ruling {
            Ruling::Rotation(rotation) => {
                let is_current = Some(rotation.epoch) == current;
                let by_member = self.standing.part(&rotation.by) == Part::Writer;
                let order = u64::from(u32::MAX - rotation.epoch);
                match is_current && by_member {
                    true => Some((0, order)),
                    false => self.standing.is_safe(rotation).then_some((3, order)),
                }
            }
            Ruling::Revocation(revocation) => {
                let counts = self.standing.counts(&revocation.by, &revocation.subject);
                let class = match revocation.subject {
                    Subject::Device(_) => 1,
                    Subject::Invitation(_) => 2,
                };
                counts.then_some((class, u64::MAX - revocation.at_ms))
            }
            _ => None,
        };
        let sorted = rulings.into_iter().filter_map(|ruling| {
            let by = match &ruling {
                Ruling::Rotation(rotation) => rotation.by,
                Ruling::Revocation(revocation) => revocation.by,
                _ => return None,
            };
            let (class, order) = class(&ruling)?;
            Some((class, by, order, ruling))
        });
        let mut sorted: Vec<_> = sorted.collect();
        sorted.sort_by_key(|(class, by, order, _)| (*class, *by, *order));
        let mut turns: BTreeMap<(u8, PeerId), usize> = BTreeMap::new();
        let turn = |(class, by, _, ruling): (u8, PeerId, u64, Ruling)| {
            let turn = turns.entry((class, by)).or_insert(0);
            *turn += 1;
            ((class, *turn), ruling)
        };
        let mut ordered: Vec<_> = sorted.into_iter().map(turn).collect();
        ordered.sort_by_key(|(place, _)| *place);
        ordered.into_iter().map(|(_, ruling)| ruling).collect()
    }
}

/// Whether a kind of documents is wanted beside a checkpoint.
pub(super) const fn is_for_page(kind: u8) -> bool {
    kind == RulingKind::Revocation as u8 || kind == RulingKind::Rotation as u8
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
