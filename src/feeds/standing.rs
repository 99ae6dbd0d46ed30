//! Who has part in a volume, up to where, and which keys count: a function of the proofs and documents that are rows of
//! it, in whatever order they came.
//!
//! A revocation by somebody counts for those chains on which they stand before what they revoke, as a member who may
//! write; and by the owner always. So nobody takes more than they gave: a device that several members invited is
//! revoked by all of them, or by somebody above them all. What is said about a revoked device counts from those who are
//! members without their own word. Everything here only grows, so the order does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use super::revoke::Subject;
use super::rotate::{Rotation, hash_of_all};
use super::ruling::{Issued, Ruling};
use super::signed::Signed;
use super::words::Words;
use crate::base::{PeerId, VolumeId, wire};
use crate::crypto::member::{InvitationId, MemberError};
use crate::crypto::sign::PublicKey;
use crate::crypto::volume_member::VolumeInvitation;
use crate::crypto::{VolumeChain, VolumeMember};
use crate::namespace::WriterId;

/// A device on the way from the owner to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub device: PeerId,
    /// Whether it may only read.
    pub read_only: bool,
    /// By which invitation it came; none for the owner.
    pub invitation: Option<InvitationId>,
}

/// The way from the owner to a member: both ends included.
pub type Lineage = Vec<Step>;

/// The way that a checked chain shows.
pub fn lineage_of(members: &[VolumeMember]) -> Lineage {
    let step = |member: &VolumeMember| Step {
        device: member.device,
        read_only: member.read_only,
        invitation: member.invitations.last().copied(),
    };
    members.iter().map(step).collect()
}

/// What part a device has in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// None: nothing proves that it is a member.
    None,
    /// None: it came through somebody, or an invitation, that was revoked, and nobody knew it by then.
    Late {
        /// Who revoked that.
        by: PeerId,
    },
    /// It had part until it was revoked.
    Revoked {
        /// By whom.
        by: PeerId,
        /// When (ms since 1970), by their clock.
        at_ms: u64,
        /// Whether it might only read.
        was_reader: bool,
    },
    /// It reads.
    Reader,
    /// It reads and writes.
    Writer,
}

impl Part {
    /// Whether it is a member now.
    pub const fn is_member(self) -> bool {
        matches!(self, Part::Reader | Part::Writer)
    }
}

/// A ticket that a member made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTicket {
    /// The invitation in it.
    pub invitation: VolumeInvitation,
    /// The ways to who made it.
    pub lineages: Vec<Lineage>,
}

/// Who had come through what was revoked, by words that count.
type HeirsOf = BTreeMap<Subject, BTreeSet<PeerId>>;

/// What follows from all that is known, until something is added to it.
#[derive(Clone, Debug)]
struct Derived {
    /// Heirs by what the rows say alone, and with those whom members vouched for here.
    by_rows: HeirsOf,
    heirs: HeirsOf,
    /// Ascending.
    revoked: Vec<Subject>,
    revoked_hash: [u8; 32],
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Standing {
    volume: VolumeId,
    owner: PeerId,
    lineages: BTreeMap<PeerId, Vec<Lineage>>,
    revocations: BTreeMap<Subject, BTreeMap<PeerId, u64>>,
    words: Words,
    rotations: Vec<Signed<Rotation>>,
    /// By id, which is their makers' choice, and hash.
    tickets: BTreeMap<(InvitationId, [u8; 32]), OpenTicket>,
    vouched: BTreeSet<PeerId>,
    derived: OnceLock<Derived>,
}

/// The way that the proof of a device shows, if it holds and ends with that. Signatures: not for the reactor.
///
/// # Errors
/// What is wrong with it.
pub fn read_proof(
    (volume, owner): (VolumeId, PeerId),
    device: PeerId,
    proof: &[u8],
    now_ms: u64,
) -> Result<Lineage, MemberError> {
    let chain = VolumeChain::decode(proof)?;
    let members = chain.members(volume, owner, now_ms)?;
    match members.last().is_some_and(|last| last.device == device) {
        true => Ok(lineage_of(&members)),
        false => Err(MemberError::Broken {
            link: members.len(),
            why: "it is another device's",
        }),
    }
}

impl Standing {
    /// Of a volume of which nothing is known but its owner.
    pub fn new(volume: VolumeId, owner: PeerId) -> Standing {
        let founder = Step {
            device: owner,
            read_only: false,
            invitation: None,
        };
        Standing {
            volume,
            owner,
            lineages: BTreeMap::from([(owner, vec![vec![founder]])]),
            revocations: BTreeMap::new(),
            words: Words::default(),
            rotations: Vec::new(),
            tickets: BTreeMap::new(),
            vouched: BTreeSet::new(),
            derived: OnceLock::new(),
        }
    }

    /// The device that made the volume.
    pub const fn owner(&self) -> PeerId {
        self.owner
    }

    /// The way that a chain shows, if it holds and ends with `device`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_proof(
        &self,
        device: PeerId,
        proof: &[u8],
        now_ms: u64,
    ) -> Result<Lineage, MemberError> {
        read_proof((self.volume, self.owner), device, proof, now_ms)
    }

    /// A device proved how it came. Those on the way are known by that as well.
    pub fn add_lineage(&mut self, lineage: &[Step]) {
        for end in 1..=lineage.len() {
            let Some(way) = lineage.get(..end) else {
                continue;
            };
            let Some(last) = way.last() else { continue };
            let known = self.lineages.entry(last.device).or_default();
            if !known.iter().any(|known| known == way) {
                known.push(way.to_vec());
                self.derived.take();
            }
        }
    }

    /// A document came, in the feeds of `authors`. Whether anything may follow from it.
    pub fn add(&mut self, authors: &[PeerId], ruling: &Ruling, now_ms: u64) -> bool {
        self.derived.take();
        match ruling {
            Ruling::Revocation(signed) => {
                // Its word counts as far as its feed does: somebody else's feed does not carry it further.
                let may_be = authors.contains(&signed.by) && self.may_revoke(&signed.subject);
                if may_be {
                    let known = self.revocations.entry(signed.subject).or_default();
                    let at_ms = known.entry(signed.by).or_insert(signed.at_ms);
                    *at_ms = signed.at_ms.min(*at_ms);
                }
                may_be
            }
            Ruling::Cut(signed) => {
                self.words.add_cut(signed);
                true
            }
            Ruling::Heirs(signed) => {
                self.words.add_heirs(signed, authors.contains(&signed.by));
                true
            }
            Ruling::Rotation(signed) => {
                let counts = authors.contains(&signed.by) && !self.rotations.contains(signed);
                if counts {
                    self.rotations.push(signed.clone());
                }
                counts
            }
            Ruling::Issued(issued) => self.add_ticket(issued, now_ms),
        }
    }

    fn may_revoke(&self, subject: &Subject) -> bool {
        *subject != Subject::Device(self.owner)
    }

    fn add_ticket(&mut self, issued: &Issued, now_ms: u64) -> bool {
        let Ok((invitation, members)) = issued.verify(self.volume, self.owner, now_ms) else {
            return false;
        };
        let lineage = lineage_of(&members);
        self.add_lineage(&lineage);
        let hash = *blake3::hash(&wire::encode(&issued.invitation)).as_bytes();
        let known = self.tickets.entry((invitation.id, hash));
        let known = known.or_insert_with(|| OpenTicket {
            invitation,
            lineages: Vec::new(),
        });
        if !known.lineages.contains(&lineage) {
            known.lineages.push(lineage);
        }
        true
    }

    /// A member that remains merged what a device wrote.
    pub fn vouch(&mut self, device: PeerId) {
        self.derived.take();
        self.vouched.insert(device);
    }

    /// Whether anything proves that a device is, or was, a member.
    pub fn is_known(&self, device: &PeerId) -> bool {
        self.lineages.contains_key(device)
    }

    /// All devices that are proved to be members, or to have been.
    pub fn devices(&self) -> impl Iterator<Item = &PeerId> {
        self.lineages.keys()
    }

    /// Ways to a device.
    pub fn lineages(&self, device: &PeerId) -> &[Lineage] {
        self.lineages.get(device).map_or(&[], Vec::as_slice)
    }

    /// Tickets that members made.
    pub fn tickets(&self) -> impl Iterator<Item = &OpenTicket> {
        self.tickets.values()
    }

    /// Tickets of an id: several only if somebody gave theirs one that was taken.
    pub fn tickets_of(&self, id: InvitationId) -> impl Iterator<Item = &OpenTicket> {
        let range = (id, [0; 32])..=(id, [0xff; 32]);
        self.tickets.range(range).map(|(_, ticket)| ticket)
    }

    /// Whoever of `before` may and does revoke a subject that stands behind them.
    fn ruled(&self, subject: &Subject, before: &[Step]) -> Option<(PeerId, u64)> {
        let known = self.revocations.get(subject)?;
        let all = before.iter().filter(|step| !step.read_only);
        let mut all = all.filter_map(|step| Some((step.device, *known.get(&step.device)?)));
        all.next().or_else(|| {
            // The owner stands before everybody.
            known.get(&self.owner).map(|at_ms| (self.owner, *at_ms))
        })
    }

    fn derived(&self) -> &Derived {
        self.derived.get_or_init(|| {
            let counts = |subject: &&Subject| self.find_revoked(subject);
            let revoked: Vec<_> = self.revocations.keys().filter(counts).copied().collect();
            Derived {
                by_rows: self.spread(&BTreeSet::new()),
                heirs: self.spread(&self.vouched),
                revoked_hash: hash_of_all(&revoked),
                revoked,
            }
        })
    }

    /// Those whom words that count name: words of members, beginning with those who are that without any word; and
    /// what a member that was revoked since had said in its own feed.
    fn spread(&self, vouched: &BTreeSet<PeerId>) -> HeirsOf {
        let mut found = HeirsOf::new();
        loop {
            let mut next = found.clone();
            let mut parts: BTreeMap<PeerId, Part> = BTreeMap::new();
            let mut has_grown = false;
            for named in self.words.named() {
                let is_heir = |subject: &Subject, device: &PeerId| {
                    vouched.contains(device) || is_named(&found, subject, device)
                };
                let part = parts.entry(*named.by).or_insert_with(|| {
                    let ways = self.lineages(named.by).iter();
                    let parts = ways.map(|way| self.judge_with(way, &is_heir));
                    parts.max().unwrap_or(Part::None)
                });
                let was_member = matches!(part, Part::Revoked { .. });
                if part.is_member() || was_member && named.is_in_own_feed {
                    let known = next.entry(*named.subject).or_default();
                    let before = known.len();
                    known.extend(named.devices);
                    has_grown |= known.len() > before;
                }
            }
            if !has_grown {
                return next;
            }
            found = next;
        }
    }

    /// Whether the rows themselves say, by words that count, that a device was there when a subject was revoked.
    pub fn is_heir_by_rows(&self, subject: &Subject, device: &PeerId) -> bool {
        is_named(&self.derived().by_rows, subject, device)
    }

    fn judge(&self, way: &[Step]) -> Part {
        let heirs = &self.derived().heirs;
        self.judge_with(way, &|subject, device| {
            self.vouched.contains(device) || is_named(heirs, subject, device)
        })
    }

    fn judge_with(&self, way: &[Step], is_heir: &dyn Fn(&Subject, &PeerId) -> bool) -> Part {
        for (at, step) in way.iter().enumerate().skip(1) {
            let Some(before) = way.get(..at) else { break };
            if let Some(id) = step.invitation {
                let subject = Subject::Invitation(id);
                if let Some((by, _)) = self.ruled(&subject, before)
                    && !is_heir(&subject, &step.device)
                {
                    return Part::Late { by };
                }
            }
            let subject = Subject::Device(step.device);
            if let Some((by, at_ms)) = self.ruled(&subject, before) {
                match way.get(at + 1) {
                    None => {
                        return Part::Revoked {
                            by,
                            at_ms,
                            was_reader: step.read_only,
                        };
                    }
                    Some(next) if !is_heir(&subject, &next.device) => {
                        return Part::Late { by };
                    }
                    Some(_) => {}
                }
            }
        }
        match way.last() {
            Some(last) if last.read_only => Part::Reader,
            Some(_) => Part::Writer,
            None => Part::None,
        }
    }

    /// What part a device has, by what is known, and by ways that it shows besides.
    pub fn part_with(&self, device: &PeerId, more: &[Lineage]) -> Part {
        let known = self.lineages(device).iter().chain(more);
        let parts = known.map(|way| self.judge(way));
        parts.max().unwrap_or(Part::None)
    }

    /// What part a device has.
    pub fn part(&self, device: &PeerId) -> Part {
        self.part_with(device, &[])
    }

    /// What part whoever came by a ticket now would have.
    pub fn part_by_ticket(&self, ticket: &OpenTicket) -> Part {
        let ways = ticket.lineages.iter();
        let parts = ways.map(|way| self.part_by_ticket_on(ticket, way));
        parts.max().unwrap_or(Part::None)
    }

    fn part_by_ticket_on(&self, ticket: &OpenTicket, way: &Lineage) -> Part {
        match self.judge(way) {
            Part::Reader | Part::Writer => {}
            // Nobody knows yet who comes.
            Part::Revoked { by, .. } => return Part::Late { by },
            other => return other,
        }
        let subject = Subject::Invitation(ticket.invitation.id);
        if let Some((by, _)) = self.ruled(&subject, way) {
            return Part::Late { by };
        }
        match ticket.invitation.terms.read_only {
            true => Part::Reader,
            false => Part::Writer,
        }
    }

    /// Up to which dot the feed of a revoked device goes, by what those said so far who are members now: 0 if nobody
    /// had any of it.
    pub fn end(&self, writer: &WriterId) -> u64 {
        let ends = self.words.ends(writer);
        let ends = ends.filter(|(by, _)| self.part(by).is_member());
        ends.map(|(_, last)| last).max().unwrap_or(0)
    }

    /// A subject, and if that is a device, the invitations by which it came: whoever is revoked has them, and could come
    /// again.
    pub fn with_invitations(&self, subject: Subject) -> BTreeSet<Subject> {
        let mut all = BTreeSet::from([subject]);
        if let Subject::Device(device) = &subject {
            let ways = self.lineages(device).iter();
            let invitations = ways.filter_map(|way| way.last()?.invitation);
            all.extend(invitations.map(Subject::Invitation));
        }
        all
    }

    /// Whether a member said who had come, and how far, when a subject was revoked.
    pub fn has_said(&self, member: &PeerId, subject: &Subject) -> bool {
        self.words.has_said(member, subject)
    }

    /// All devices that come next after a subject on any way.
    pub fn comers(&self, subject: &Subject) -> BTreeSet<PeerId> {
        let ways = self.lineages.values().flatten();
        let mut found = BTreeSet::new();
        for way in ways {
            for pair in way.windows(2) {
                let [one, next] = pair else { continue };
                let comes = match subject {
                    Subject::Device(device) => one.device == *device,
                    Subject::Invitation(id) => next.invitation == Some(*id),
                };
                if comes {
                    found.insert(next.device);
                }
            }
        }
        found
    }

    /// Whether anybody said that anything is revoked.
    pub fn is_disputed(&self) -> bool {
        !self.revocations.is_empty()
    }

    /// What is revoked by somebody who may: ascending.
    pub fn revoked(&self) -> &[Subject] {
        &self.derived().revoked
    }

    /// Whether a subject is revoked by somebody who may: a device on all ways, an invitation on any.
    pub fn is_revoked(&self, subject: &Subject) -> bool {
        self.revoked().binary_search(subject).is_ok()
    }

    /// Whether a subject is revoked by somebody who may, on all ways.
    pub fn is_over(&self, subject: &Subject) -> bool {
        let ways = self.places(subject);
        !ways.is_empty()
            && ways
                .iter()
                .all(|before| self.ruled(subject, before).is_some())
    }

    fn find_revoked(&self, subject: &Subject) -> bool {
        let Some(known) = self.revocations.get(subject) else {
            return false;
        };
        if known.contains_key(&self.owner) {
            return true;
        }
        match subject {
            // Others may have invited it besides.
            Subject::Device(_) => self.is_over(subject),
            Subject::Invitation(_) => {
                let mut ways = self.places(subject).into_iter();
                ways.any(|before| self.ruled(subject, before).is_some())
            }
        }
    }

    /// Those before a subject, on each way.
    fn places<'a>(&'a self, subject: &Subject) -> Vec<&'a [Step]> {
        let before = |way: &'a Lineage| {
            let at = way.iter().position(|step| match subject {
                Subject::Device(device) => step.device == *device,
                Subject::Invitation(id) => step.invitation == Some(*id),
            });
            way.get(..at?)
        };
        match subject {
            Subject::Device(device) => self.lineages(device).iter().filter_map(before).collect(),
            Subject::Invitation(id) => {
                let tickets = self.tickets_of(*id).flat_map(|ticket| &ticket.lineages);
                let used = self.lineages.values().flatten().filter_map(before);
                tickets.map(Vec::as_slice).chain(used).collect()
            }
        }
    }

    /// Whether somebody's revocation of a subject counts, on any way.
    pub fn counts(&self, by: &PeerId, subject: &Subject) -> bool {
        let known = self.revocations.get(subject);
        let is_said = known.is_some_and(|known| known.contains_key(by));
        let may = |before: &&[Step]| {
            let mut above = before.iter().filter(|step| !step.read_only);
            above.any(|step| step.device == *by)
        };
        is_said && (*by == self.owner || self.places(subject).iter().any(may))
    }

    /// Who revoked a subject, among those who may.
    pub fn revoked_by(&self, subject: &Subject) -> Vec<PeerId> {
        let known = self.revocations.get(subject);
        known.into_iter().flatten().map(|(by, _)| *by).collect()
    }

    /// Those who are to have new keys, with whether they only read: members, and holders of tickets that are open.
    pub fn recipients(&self, now_ms: u64) -> Vec<(PublicKey, bool)> {
        let members = self.devices().filter_map(|device| match self.part(device) {
            Part::Reader => Some((PublicKey::from(*device), true)),
            Part::Writer => Some((PublicKey::from(*device), false)),
            _ => None,
        });
        // Whoever is both writes.
        let mut all: BTreeMap<PublicKey, bool> = members.collect();
        for ticket in self.tickets() {
            let is_open = ticket.invitation.terms.expires_ms >= now_ms;
            let part = self.part_by_ticket(ticket);
            if is_open && part.is_member() {
                let only_reads = all.entry(ticket.invitation.key).or_insert(true);
                *only_reads &= part == Part::Reader;
            }
        }
        all.into_iter().collect()
    }

    /// All documents that hand out keys.
    pub fn rotations(&self) -> &[Signed<Rotation>] {
        &self.rotations
    }

    /// Whether new data may be sealed under the keys that a document hands out: by a member who writes, and to nobody
    /// who was revoked.
    pub fn is_safe(&self, rotation: &Rotation) -> bool {
        let derived = self.derived();
        let (revoked, hash) = (&derived.revoked, &derived.revoked_hash);
        self.part(&rotation.by) == Part::Writer && rotation.without.covers(revoked, hash)
    }
}

fn is_named(heirs: &HeirsOf, subject: &Subject, device: &PeerId) -> bool {
    let named = heirs.get(subject);
    named.is_some_and(|named| named.contains(device))
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
