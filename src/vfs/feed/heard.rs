//! What is found beside checkpoints, before it is a row here: who was revoked, and by whom. And whose page of it could
//! not be read, so that more may be revoked than is known.
//!
//! Anybody can put such a page beside a record. So what each has in it is kept by itself, and while something is in
//! doubt the checkpoints concerned wait: but no longer than some time, since what is lost for good must not keep
//! anybody out for good.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Duration, Instant};

use crate::base::PeerId;
use crate::feeds::{Lineage, Part, Revocation, Standing, Step, Subject};
use crate::namespace::WriterId;

/// How long checkpoints wait for what members have to say, or until it is known whether somebody may say it.
const PATIENCE: Duration = Duration::from_secs(600);
/// And for what those have to say of whom nothing is known: all of them together.
const STRANGERS_PATIENCE: Duration = Duration::from_secs(60);
/// A page that could not be read is asked for again after so long.
const AGAIN: Duration = Duration::from_secs(20);
/// Writers whose pages are remembered: more than have their records kept.
const WRITERS_MAX: usize = 256;
/// Revocations of one page, besides those by the owner.
const SAID_MAX: usize = 1024;
/// Subjects revoked by the owner, and makers of checkpoints that are in doubt.
const SUBJECTS_MAX: usize = 4096;

/// What is said of a device beside checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rumour {
    /// Nothing.
    None,
    /// That it is revoked: by somebody who may have been revoked before.
    Doubt,
    /// That it is revoked.
    Out,
}

/// The page beside the last record of a writer.
#[derive(Debug, Default)]
struct Page {
    name: [u8; 32],
    said: BTreeSet<(Subject, PeerId)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pages: BTreeMap<WriterId, Page>,
    by_owner: BTreeSet<Subject>,
    /// Since when a page could not be read, and when that was last tried.
    unread: BTreeMap<WriterId, (Instant, Instant)>,
    /// Since when there are such of strangers.
    strangers: Option<Instant>,
    /// Makers of checkpoints that wait, and since when.
    doubted: BTreeMap<PeerId, Instant>,
}

impl Heard {
    /// Whether a page need not be read: it was, or was tried a moment ago.
    pub(super) fn is_settled(&self, of: WriterId, name: &[u8; 32]) -> bool {
        self.is_read(of, name) || self.was_tried(of)
    }

    fn is_read(&self, of: WriterId, name: &[u8; 32]) -> bool {
        self.pages.get(&of).is_some_and(|page| page.name == *name)
    }

    fn was_tried(&self, of: WriterId) -> bool {
        let tried = self.unread.get(&of).map(|(_, tried)| *tried);
        tried.is_some_and(|tried| tried.elapsed() < AGAIN)
    }

    /// A page cannot be had at present.
    pub(super) fn missed(&mut self, of: WriterId) {
        let now = Instant::now();
        if self.unread.len() < WRITERS_MAX || self.unread.contains_key(&of) {
            self.unread.entry(of).or_insert((now, now)).1 = now;
        }
    }

    /// A page was read.
    pub(super) fn read(
        &mut self,
        (of, name): (WriterId, [u8; 32]),
        revocations: &[Revocation],
        owner: PeerId,
    ) {
        let (owners, others): (Vec<_>, Vec<_>) =
            revocations.iter().partition(|said| said.by == owner);
        for said in owners {
            if said.subject != Subject::Device(owner) && self.by_owner.len() < SUBJECTS_MAX {
                self.by_owner.insert(said.subject);
            }
        }
        let others = others.into_iter().map(|said| (said.subject, said.by));
        let page = Page {
            name,
            said: others.take(SAID_MAX).collect(),
        };
        self.unread.remove(&of);
        if self.pages.len() >= WRITERS_MAX && !self.pages.contains_key(&of) {
            return;
        }
        self.pages.insert(of, page);
    }

    /// Only records of these are there now: pages of others are missed no longer, and where there are many they are
    /// read again when their records are back.
    pub(super) fn records_of(&mut self, writers: &BTreeSet<WriterId>) {
        self.unread.retain(|writer, _| writers.contains(writer));
        if self.pages.len() > WRITERS_MAX / 2 {
            self.pages.retain(|writer, _| writers.contains(writer));
        }
    }

    /// Whether a checkpoint has to wait, since pages beside others' cannot be read: they may say that its maker is
    /// revoked.
    pub(super) fn has_to_wait(&mut self, maker: PeerId, standing: &Standing) -> bool {
        if maker == standing.owner() {
            return false;
        }
        let mut has_strangers = false;
        let mut has_to_wait = false;
        for (writer, (since, _)) in &self.unread {
            if writer.peer == maker {
                continue;
            }
            match standing.part(&writer.peer) {
                Part::Writer => has_to_wait |= since.elapsed() < PATIENCE,
                Part::None => has_strangers = true,
                // Who only reads makes none, and what comes of whoever is revoked is in the rows.
                Part::Reader | Part::Revoked { .. } | Part::Late { .. } => {}
            }
        }
        match has_strangers {
            true => {
                let since = *self.strangers.get_or_insert_with(Instant::now);
                has_to_wait |= since.elapsed() < STRANGERS_PATIENCE;
            }
            false => self.strangers = None,
        }
        has_to_wait
    }

    /// Whether the checkpoint of somebody in doubt has to wait: others may have been merged meanwhile, that say how it
    /// is.
    pub(super) fn is_in_doubt(&mut self, maker: PeerId) -> bool {
        if self.doubted.len() >= SUBJECTS_MAX && !self.doubted.contains_key(&maker) {
            let oldest = self.doubted.iter().min_by_key(|(_, since)| **since);
            let oldest = oldest.map(|(maker, _)| *maker);
            oldest.and_then(|oldest| self.doubted.remove(&oldest));
        }
        let since = self.doubted.entry(maker).or_insert_with(Instant::now);
        since.elapsed() < PATIENCE
    }

    fn about(&self, subject: Subject) -> impl Iterator<Item = PeerId> {
        let pages = self.pages.values().flat_map(|page| &page.said);
        let about = pages.filter(move |(of, _)| *of == subject);
        about.map(|(_, by)| *by)
    }

    /// What is said of a device that came by these ways, or of what it came through on each: it may have been there
    /// before that was revoked, or not.
    pub(super) fn rumour(&self, device: &PeerId, ways: &[Lineage], standing: &Standing) -> Rumour {
        let rumour = self.said_of(device, ways, standing);
        let is_tainted = |way: &Lineage| {
            let mut steps = (1..way.len()).filter_map(|at| way.get(..at).zip(way.get(at)));
            steps.any(|(before, step)| {
                let by_ticket = step.invitation.is_some_and(|id| {
                    let subject = Subject::Invitation(id);
                    let is_before = |by: PeerId| stands_in(&by, before) && !is_out(&by, standing);
                    let is_said =
                        self.by_owner.contains(&subject) || self.about(subject).any(is_before);
                    is_said && !standing.is_revoked(&subject)
                });
                // Where it is a row, the rows say who was there as well.
                let is_open = step.device != *device && !is_out(&step.device, standing);
                by_ticket
                    || is_open && {
                        let ways = ways_of(&step.device, ways, standing);
                        self.said_of(&step.device, &ways, standing) != Rumour::None
                    }
            })
        };
        match rumour {
            Rumour::None if !ways.is_empty() && ways.iter().all(is_tainted) => Rumour::Doubt,
            rumour => rumour,
        }
    }

    /// What is said of a device itself. It counts from whoever stands above it on all of these ways, and was not
    /// revoked, by what is known: what it said in time is in the rows then.
    fn said_of(&self, device: &PeerId, ways: &[Lineage], standing: &Standing) -> Rumour {
        if self.by_owner.contains(&Subject::Device(*device)) {
            return Rumour::Out;
        }
        let mut rumour = Rumour::None;
        for by in self.about(Subject::Device(*device)) {
            if !is_above(&by, device, ways) || is_out(&by, standing) {
                continue;
            }
            match self.is_doubtful(&by, device, ways, standing) {
                false => return Rumour::Out,
                true => rumour = Rumour::Doubt,
            }
        }
        rumour
    }

    /// Whether somebody who may says that somebody is revoked who says it of a device behind it.
    fn is_doubtful(
        &self,
        by: &PeerId,
        device: &PeerId,
        ways: &[Lineage],
        standing: &Standing,
    ) -> bool {
        let own = ways_of(by, ways, standing);
        let counts = |other: PeerId| {
            other != *device && is_above(&other, by, &own) && !is_out(&other, standing)
        };
        let subject = Subject::Device(*by);
        self.by_owner.contains(&subject) || self.about(subject).any(counts)
    }
}

/// The ways to a device: those that are known, and those that are the beginning of others.
fn ways_of(device: &PeerId, ways: &[Lineage], standing: &Standing) -> Vec<Lineage> {
    let begins = |way: &Lineage| {
        let at = way.iter().position(|step| step.device == *device)?;
        way.get(..=at).map(<[Step]>::to_vec)
    };
    let shown = ways.iter().filter_map(begins);
    shown.chain(standing.lineages(device).to_vec()).collect()
}

fn is_out(device: &PeerId, standing: &Standing) -> bool {
    let part = standing.part(device);
    matches!(part, Part::Late { .. } | Part::Revoked { .. })
}

/// Whether somebody who may write stands above a device on all of these ways.
fn is_above(by: &PeerId, device: &PeerId, ways: &[Lineage]) -> bool {
    let is_above = |way: &Lineage| {
        let at = way.iter().position(|step| step.device == *device);
        way.get(..at.unwrap_or(way.len()))
            .is_some_and(|before| stands_in(by, before))
    };
    !ways.is_empty() && ways.iter().all(is_above)
}

fn stands_in(by: &PeerId, before: &[Step]) -> bool {
    let mut before = before.iter().filter(|step| !step.read_only);
    before.any(|step| step.device == *by)
}
