//! What an open volume does about who is a member: it follows what its rows say, says its own word about whoever was
//! revoked, and sees to it that those who remain have keys that nobody else has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::book::Book;
use super::{Feeds, Rights, Shared};
use crate::base::PeerId;
use crate::base::limits::RULING_NAMES_MAX;
use crate::crypto::wrap::epoch_name;
use crate::crypto::{ConvergenceSecret, EpochSecrets, Wrapping};
use crate::feeds::{
    Cut, Feed, FeedError, Heirs, Part, Rotation, Ruling, RulingKind, Signed, Subject,
};
use crate::namespace::{Delta, Key, Value, VersionVector, WriterId, state};
use crate::vfs::errno::{Step, Stop};
use crate::vfs::inner::{Core, Inner};

/// How long it is left to others to hand out keys.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at most whether anything is to be said.
const TURN: Duration = Duration::from_secs(1);
/// Tickets that are to become rows.
const PENDING_RULINGS_MAX: usize = 1024;

impl Shared {
    /// Who is a member and the keys; none where nothing is known of how members came.
    pub(super) fn book(&self) -> Option<MutexGuard<'_, Book>> {
        let book = self.book.as_ref()?;
        Some(book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Documents that are to become rows. Those that are rows by now are let go.
    pub(super) fn pending(&self, book: &Book) -> Vec<Ruling> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|ruling| !book.has_row(ruling));
        pending.clone()
    }

    pub(super) fn add_pending(&self, ruling: Ruling) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !pending.contains(&ruling) && pending.len() < PENDING_RULINGS_MAX {
            pending.push(ruling);
        }
        self.outgoing.notify_one();
    }

    /// Whether this device was revoked.
    pub(in crate::vfs) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Acquire)
    }
}

/// Keys of epochs that a delta hands out.
pub(super) fn brings(delta: &Delta) -> BTreeSet<u32> {
    rotations_in(delta).map(|rotation| rotation.epoch).collect()
}

/// Documents in a delta that hand out keys.
pub(super) fn rotations_in(delta: &Delta) -> impl Iterator<Item = Signed<Rotation>> {
    let writes = delta.draft.writes.iter();
    let of_kind = writes.filter(
        |write| matches!(write.key, Key::Ruling(kind, _) if kind == RulingKind::Rotation as u8),
    );
    let values = of_kind.flat_map(|write| write.values.iter());
    values.filter_map(|value| match value {
        Value::Ruling(bytes) => Signed::decode(bytes).ok(),
        _ => None,
    })
}

/// Whether a change of rows is one of who is a member.
pub(super) fn is_about_members(key: &Key) -> bool {
    matches!(key, Key::Member(_) | Key::Ruling(..))
}

impl Inner {
    /// Looks at all rows about members and keys that were not looked at before.
    pub(in crate::vfs) fn look_at_rules(&self) -> Step<()> {
        let Some(shared) = self.shared() else {
            return Ok(());
        };
        let mut feeds = shared.feeds();
        let core = self.core();
        self.look_at_rules_with(&mut feeds, &core)
    }

    pub(super) fn look_at_rules_with(&self, feeds: &mut Feeds, _core: &Core) -> Step<()> {
        let Some(shared) = self.shared() else {
            return Ok(());
        };
        let Some(mut book) = shared.book() else {
            return Ok(());
        };
        let (members, rulings) = self.look(|view| Ok((view.members()?, view.rulings()?)))?;
        let now_ms = self.now_ms();
        let mut has_changed = false;
        for (device, proofs) in members {
            for proof in proofs {
                has_changed |= book.add_proof(device, &proof, now_ms);
            }
        }
        for (kind, bytes, authors) in rulings {
            has_changed |= book.add_row(self.identity.id, (kind, &bytes), &authors, now_ms);
        }
        if has_changed {
            self.follow_rules(shared, feeds, &mut book);
        }
        Ok(())
    }

    /// Feeds end where the rules say, and new data is sealed under keys that they allow.
    fn follow_rules(&self, shared: &Shared, feeds: &mut Feeds, book: &mut Book) {
        feeds.members.clear();
        let Feeds { known, inbox, .. } = feeds;
        for (writer, feed) in known.iter_mut() {
            if *writer != self.writer() {
                apply_end(book, writer, feed);
                // If the end moves on, what is inside then is asked for again.
                if let Some(end) = feed.revoked_at() {
                    inbox.forget_after(*writer, end);
                }
            }
        }
        book.choose();
        let own = book.standing.part(&self.identity.peer);
        let is_out = matches!(own, Part::Revoked { .. } | Part::Late { .. });
        if is_out != shared.is_out.swap(is_out, Ordering::AcqRel) {
            let name = &self.options.name;
            match own {
                Part::Revoked { by, .. } | Part::Late { by } => tracing::error!(
                    "this peer has no part in the volume `{name}` any more: {by} revoked it. \
                     Nothing can be changed from now on; what was changed here and not taken by others stays on this machine"
                ),
                _ => tracing::info!("this peer is a member of the volume `{name}` again"),
            }
        }
        shared.learned.send_modify(|times| *times += 1);
        // There may be something to say, or to seal now.
        shared.outgoing.notify_one();
    }

    /// What a device that writes may do, by the rules.
    pub(super) fn standing_of(&self, device: PeerId, proofs: &[Bytes]) -> Option<Part> {
        let book = self.shared()?.book()?;
        Some(book.part(device, proofs, self.now_ms()))
    }

    /// The feed of a writer of whom nothing was known.
    pub(super) fn new_feed(&self, writer: WriterId) -> Feed {
        let mut feed = Feed::new(self.identity.id, writer);
        if let Some(book) = self.shared().and_then(Shared::book) {
            apply_end(&book, &writer, &mut feed);
        }
        feed
    }

    /// A delta of somebody who writes names others: what a member that remains merged of them counts.
    pub(super) fn vouch(&self, feeds: &mut Feeds, context: &VersionVector) {
        let Some(mut book) = self.shared().and_then(Shared::book) else {
            return;
        };
        if !book.standing.is_disputed() {
            return;
        }
        for (other, seen) in context.iter() {
            if let Part::Late { .. } = book.standing.part(&other.peer) {
                book.standing.vouch(other.peer);
                feeds.members.remove(&other.peer);
                if let Some(feed) = feeds.known.get_mut(other) {
                    feed.readmit();
                }
            }
            if let Some(feed) = feeds.known.get_mut(other) {
                feed.vouch(seen);
            } else if matches!(book.standing.part(&other.peer), Part::Revoked { .. }) {
                let mut feed = Feed::new(self.identity.id, *other);
                feed.revoke_at(book.standing.end(other).max(seen));
                feeds.known.insert(*other, feed);
            }
        }
    }

    /// A feed is cut where this is: said once. Whether it was said now.
    pub(super) fn name_cut(&self, writer: WriterId) -> bool {
        let book = self.shared().and_then(Shared::book);
        book.is_none_or(|mut book| book.named.insert(writer))
    }

    /// Says what has to be said about members and keys. To be called now and then.
    pub(super) fn keep_rules(&self) -> Step<()> {
        let Some(shared) = self.shared() else {
            return Ok(());
        };
        if shared.share.read_only || shared.is_out() || self.checkpoints.gate.check().is_err() {
            return Ok(());
        }
        let mut feeds = shared.feeds();
        let mut core = self.core();
        let rulings = {
            let Some(mut book) = shared.book() else {
                return Ok(());
            };
            // This is called whenever something was written.
            let learned = *shared.learned.borrow();
            let is_early = |(known, at): (u64, Instant)| known == learned && at.elapsed() < TURN;
            if book.kept.is_some_and(is_early) {
                return Ok(());
            }
            book.kept = Some((learned, Instant::now()));
            let mut rulings = self.own_words(shared, &feeds, &mut book).map_err(failed)?;
            rulings.extend(self.missing_keys(shared, &mut book).map_err(failed)?);
            rulings.extend(shared.pending(&book));
            rulings
        };
        self.write_down(&mut feeds, &mut core, rulings)
    }

    /// Makes documents rows, all at once.
    pub(super) fn write_down(
        &self,
        feeds: &mut Feeds,
        core: &mut Core,
        rulings: Vec<Ruling>,
    ) -> Step<()> {
        if rulings.is_empty() {
            return Ok(());
        }
        let rows: BTreeMap<Key, (u8, Bytes)> = rulings
            .iter()
            .map(|ruling| (ruling.key(), (ruling.kind() as u8, ruling.encode())))
            .collect();
        self.change(core, |edit| {
            for (kind, bytes) in rows.into_values() {
                edit.add_ruling(kind, bytes)?;
            }
            Ok(())
        })?;
        self.look_at_rules_with(feeds, core)
    }

    /// This member's words about those who were revoked, as far as they are not said: how much of their feeds it has,
    /// and who had come through them.
    pub(super) fn own_words(
        &self,
        shared: &Shared,
        feeds: &Feeds,
        book: &mut Book,
    ) -> Result<Vec<Ruling>, FeedError> {
        let revoked = book.standing.revoked().to_vec();
        if revoked.is_empty() {
            return Ok(Vec::new());
        }
        let version = state::version(&self.rows()).unwrap_or_default();
        let own = self.identity.peer;
        let device = &shared.share.device;
        let mut words = Vec::new();
        for subject in revoked {
            if subject == Subject::Device(own) {
                continue;
            }
            let is_first = !book.standing.has_said(&own, &subject);
            if let Subject::Device(revoked) = subject {
                let positions = positions(feeds, &version, &revoked, |writer, last| {
                    is_first || last > book.standing.end(writer)
                });
                for positions in positions.chunks(RULING_NAMES_MAX) {
                    let cut = Cut {
                        volume: self.identity.id,
                        device: revoked,
                        by: own,
                        positions: positions.to_vec(),
                    };
                    words.push(Ruling::Cut(Signed::sign(cut, device)?));
                }
            }
            let is_said = |comer: &PeerId| {
                let has_merged = version.iter().any(|(writer, _)| writer.peer == *comer);
                is_first || has_merged && !book.standing.is_heir_by_rows(&subject, comer)
            };
            let comers = book.standing.comers(&subject).into_iter();
            let comers: Vec<PeerId> = comers.filter(is_said).collect();
            let mut parts: Vec<Vec<PeerId>> = comers
                .chunks(RULING_NAMES_MAX)
                .map(<[PeerId]>::to_vec)
                .collect();
            if parts.is_empty() && is_first {
                // That nobody came is a word as well.
                parts.push(Vec::new());
            }
            for devices in parts {
                let heirs = Heirs {
                    volume: self.identity.id,
                    by: own,
                    subject,
                    devices,
                };
                words.push(Ruling::Heirs(Signed::sign(heirs, device)?));
            }
        }
        Ok(words)
    }

    /// Keys that somebody lacks who shall have them: of a new epoch, if nothing that was handed out can be used, or
    /// else of the present one.
    fn missing_keys(&self, shared: &Shared, book: &mut Book) -> Result<Vec<Ruling>, FeedError> {
        let own = self.identity.peer;
        let rotations = book.standing.rotations();
        let Some((epoch, secrets)) = book.current.clone() else {
            let is_revoker = book.standing.revoked().iter().any(|subject| {
                let by = book.standing.revoked_by(subject);
                by.contains(&own)
            });
            let is_any_safe = rotations
                .iter()
                .any(|rotation| book.standing.is_safe(rotation));
            let is_late = book
                .stuck_since
                .is_some_and(|since| since.elapsed() >= PATIENCE);
            return match is_late || is_revoker && !is_any_safe {
                true => Ok(self.rotation(shared, book)?.1),
                false => Ok(Vec::new()),
            };
        };
        let handed: Vec<&Signed<Rotation>> = rotations
            .iter()
            .filter(|rotation| rotation.epoch == epoch)
            .collect();
        let Some(maker) = handed.first().map(|rotation| rotation.by) else {
            return Ok(Vec::new());
        };
        let recipients = book.standing.recipients(self.now_ms());
        let lacking: Vec<_> = recipients
            .into_iter()
            .filter(|(key, _)| !handed.iter().any(|rotation| rotation.is_for(key)))
            .collect();
        if lacking.is_empty() || secrets.secret.is_none() {
            book.lacking_since = None;
            return Ok(Vec::new());
        }
        let since = *book.lacking_since.get_or_insert_with(Instant::now);
        if maker != own && since.elapsed() < PATIENCE {
            return Ok(Vec::new());
        }
        book.lacking_since = None;
        let revoked = book.standing.revoked();
        self.hand_keys_out(shared, (epoch, &secrets), revoked, &lacking)
    }

    fn hand_keys_out(
        &self,
        shared: &Shared,
        epoch: (u32, &EpochSecrets),
        without: &[Subject],
        recipients: &[(crate::crypto::sign::PublicKey, bool)],
    ) -> Result<Vec<Ruling>, FeedError> {
        let wrapping = Wrapping::new(&self.entropy);
        let of = (self.identity.id, self.identity.peer);
        let rotations = Rotation::hand_out(of, epoch, without, recipients, &wrapping);
        let signed = rotations.into_iter().map(|rotation| {
            let signed = Signed::sign(rotation, &shared.share.device)?;
            Ok(Ruling::Rotation(signed))
        });
        signed.collect()
    }

    /// New keys, for all who remain. Name of the epoch, the documents, and for how many.
    pub(super) fn rotation(
        &self,
        shared: &Shared,
        book: &mut Book,
    ) -> Result<(u32, Vec<Ruling>, usize), FeedError> {
        let secrets = EpochSecrets::generate(&self.entropy);
        let epoch = epoch_name(book.next_number(), &secrets.key);
        let mut recipients = book.standing.recipients(self.now_ms());
        let own = shared.share.device.public();
        if !recipients.iter().any(|(key, _)| *key == own) {
            recipients.push((own, false));
        }
        let revoked = book.standing.revoked();
        let rulings = self.hand_keys_out(shared, (epoch, &secrets), revoked, &recipients)?;
        Ok((epoch, rulings, recipients.len()))
    }

    /// What blocks are sealed under.
    pub(in crate::vfs) fn block_secret(&self) -> ConvergenceSecret {
        let book = self.shared().and_then(Shared::book);
        let current = book.and_then(|book| book.current.clone());
        let secret = current.and_then(|(_, secrets)| secrets.secret);
        secret.unwrap_or_else(|| self.identity.secret.clone())
    }
}

/// The positions of the feeds of a device in rows, those that are `wanted`.
fn positions(
    feeds: &Feeds,
    version: &VersionVector,
    device: &PeerId,
    wanted: impl Fn(&WriterId, u64) -> bool,
) -> Vec<(u64, u64, crate::feeds::sealed::LinkHash)> {
    let own = version.iter().filter(|(writer, _)| writer.peer == *device);
    let found = own.filter_map(|(writer, last)| {
        let head = feeds.known.get(writer)?.head()?;
        let is_end = head.last == last && wanted(writer, last);
        is_end.then(|| (writer.incarnation, last, head.hash()))
    });
    found.collect()
}

fn apply_end(book: &Book, writer: &WriterId, feed: &mut Feed) {
    match book.standing.part(&writer.peer) {
        Part::Revoked { .. } | Part::Late { .. } => {
            // What is merged is inside: this member says so itself.
            let end = book.standing.end(writer).max(feed.last());
            match feed.revoked_at().is_some() {
                true => feed.vouch(end),
                false => feed.revoke_at(end),
            }
        }
        Part::None | Part::Reader | Part::Writer => feed.readmit(),
    }
}

fn failed(error: FeedError) -> Stop {
    tracing::error!("what is to be said about members: {error}");
    Stop::Errno(cairnfs_fuse::Errno::EIO)
}

/// What a device may do that has a part.
pub(super) const fn rights_of(part: Part) -> Option<Rights> {
    match part {
        Part::Writer => Some(Rights::Write),
        // Up to where it was revoked: its feed is cut there.
        Part::Revoked {
            was_reader: false, ..
        } => Some(Rights::Write),
        Part::Reader
        | Part::Revoked {
            was_reader: true, ..
        } => Some(Rights::Read),
        Part::None | Part::Late { .. } => None,
    }
}
