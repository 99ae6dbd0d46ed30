//! Who has part in a volume, up to where, and which keys count: a function of the proofs and documents that are rows of
//! it, in whatever order they came.
//!
//! A revocation by somebody counts for those chains on which they stand before what they revoke, as a member who may
//! write; and by the owner always. So nobody takes more than they gave: a device that several members invited is
//! revoked by all of them, or by somebody above them all. Everything here only grows, so the order does not matter.

use std::collections::{BTreeMap, BTreeSet};

use super::revoke::{Cut, Heirs, Subject};
use super::rotate::Rotation;
use super::ruling::Ruling;
use super::sealed::LinkHash;
use super::signed::Signed;
use crate::base::{PeerId, VolumeId};
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
    /// The way to who made it.
    pub lineage: Lineage,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Standing {
    volume: VolumeId,
    owner: PeerId,
    lineages: BTreeMap<PeerId, Vec<Lineage>>,
    revocations: BTreeMap<Subject, BTreeMap<PeerId, u64>>,
    cuts: BTreeMap<PeerId, BTreeMap<(PeerId, u64), (u64, LinkHash)>>,
    heirs: BTreeMap<Subject, BTreeMap<PeerId, BTreeSet<PeerId>>>,
    rotations: Vec<Signed<Rotation>>,
    tickets: BTreeMap<InvitationId, OpenTicket>,
    vouched: BTreeSet<PeerId>,
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
            cuts: BTreeMap::new(),
            heirs: BTreeMap::new(),
            rotations: Vec::new(),
            tickets: BTreeMap::new(),
            vouched: BTreeSet::new(),
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
        let chain = VolumeChain::decode(proof)?;
        let members = chain.members(self.volume, self.owner, now_ms)?;
        match members.last().is_some_and(|last| last.device == device) {
            true => Ok(lineage_of(&members)),
            false => Err(MemberError::Broken {
                link: members.len(),
                why: "it is another device's",
            }),
        }
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
            }
        }
    }

    /// A document came, in the feeds of `authors`. Whether anything may follow from it.
    pub fn add(&mut self, authors: &[PeerId], ruling: &Ruling, now_ms: u64) -> bool {
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
            Ruling::Cut(signed) => self.add_cut(signed),
            Ruling::Heirs(signed) => self.add_heirs(signed),
            Ruling::Rotation(signed) => {
                let counts = authors.contains(&signed.by) && !self.rotations.contains(signed);
                if counts {
                    self.rotations.push(signed.clone());
                }
                counts
            }
            Ruling::Issued(issued) => {
                let Ok((invitation, members)) = issued.verify(self.volume, self.owner, now_ms)
                else {
                    return false;
                };
                let lineage = lineage_of(&members);
                self.add_lineage(&lineage);
                let ticket = OpenTicket {
                    lineage,
                    invitation,
                };
                self.tickets.insert(ticket.invitation.id, ticket);
                true
            }
        }
    }

    fn may_revoke(&self, subject: &Subject) -> bool {
        *subject != Subject::Device(self.owner)
    }

    fn add_cut(&mut self, cut: &Signed<Cut>) -> bool {
        let known = self.cuts.entry(cut.device).or_default();
        for (incarnation, last, hash) in &cut.positions {
            let end = known
                .entry((cut.by, *incarnation))
                .or_insert((*last, *hash));
            *end = (*last, *hash).max(*end);
        }
        true
    }

    fn add_heirs(&mut self, heirs: &Signed<Heirs>) -> bool {
        let known = self.heirs.entry(heirs.subject).or_default();
        known.entry(heirs.by).or_default().extend(&heirs.devices);
        true
    }

    /// A member that remains merged what a device wrote.
    pub fn vouch(&mut self, device: PeerId) {
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

    /// Tickets that members made, by the ids of their invitations.
    pub const fn tickets(&self) -> &BTreeMap<InvitationId, OpenTicket> {
        &self.tickets
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

    /// Whether somebody whose word counts says that a device was there when a subject was revoked.
    fn is_heir(&self, subject: &Subject, device: &PeerId) -> bool {
        self.vouched.contains(device) || self.is_heir_by_rows(subject, device)
    }

    /// Whether the rows themselves say so.
    pub fn is_heir_by_rows(&self, subject: &Subject, device: &PeerId) -> bool {
        let said = self.heirs.get(subject).into_iter().flatten();
        let mut said = said.filter(|(by, _)| self.is_known(by));
        said.any(|(_, heirs)| heirs.contains(device))
    }

    fn judge(&self, way: &[Step]) -> Part {
        for (at, step) in way.iter().enumerate().skip(1) {
            let Some(before) = way.get(..at) else { break };
            if let Some(id) = step.invitation {
                let subject = Subject::Invitation(id);
                if let Some((by, _)) = self.ruled(&subject, before)
                    && !self.is_heir(&subject, &step.device)
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
                    Some(next) if !self.is_heir(&subject, &next.device) => {
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
        let inviter = self.judge(&ticket.lineage);
        match inviter {
            Part::Reader | Part::Writer => {}
            // Nobody knows yet who comes.
            Part::Revoked { by, .. } => return Part::Late { by },
            other => return other,
        }
        let subject = Subject::Invitation(ticket.invitation.id);
        if let Some((by, _)) = self.ruled(&subject, &ticket.lineage) {
            return Part::Late { by };
        }
        match ticket.invitation.terms.read_only {
            true => Part::Reader,
            false => Part::Writer,
        }
    }

    /// Up to which dot the feed of a revoked device goes, by what members said so far: 0 if nobody had any of it.
    pub fn end(&self, writer: &WriterId) -> u64 {
        let cuts = self.cuts.get(&writer.peer);
        let cuts = cuts.into_iter().flatten();
        let own = cuts.filter(|((by, incarnation), _)| {
            *incarnation == writer.incarnation && self.is_known(by)
        });
        own.map(|(_, (last, _))| *last).max().unwrap_or(0)
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
        let said = self.heirs.get(subject);
        said.is_some_and(|said| said.contains_key(member))
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
    pub fn revoked(&self) -> Vec<Subject> {
        let counts = |subject: &&Subject| self.is_revoked(subject);
        self.revocations.keys().filter(counts).copied().collect()
    }

    /// Whether a subject is revoked by somebody who may, on any way.
    pub fn is_revoked(&self, subject: &Subject) -> bool {
        let Some(known) = self.revocations.get(subject) else {
            return false;
        };
        if known.contains_key(&self.owner) {
            return true;
        }
        let on = |way: &Lineage| {
            let at = way.iter().position(|step| match subject {
                Subject::Device(device) => step.device == *device,
                Subject::Invitation(id) => step.invitation == Some(*id),
            });
            let before = at.and_then(|at| way.get(..at));
            before.is_some_and(|before| self.ruled(subject, before).is_some())
        };
        match subject {
            Subject::Device(device) => {
                let ways = self.lineages(device);
                // Others may have invited it besides.
                !ways.is_empty() && ways.iter().all(on)
            }
            Subject::Invitation(id) => {
                let ticket = self.tickets.get(id);
                let by_ticket =
                    ticket.is_some_and(|ticket| self.ruled(subject, &ticket.lineage).is_some());
                by_ticket || self.lineages.values().flatten().any(on)
            }
        }
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
        let mut all: Vec<(PublicKey, bool)> = members.collect();
        for ticket in self.tickets.values() {
            let is_open = ticket.invitation.terms.expires_ms >= now_ms;
            let part = self.part_by_ticket(ticket);
            if is_open && part.is_member() {
                all.push((ticket.invitation.key, part == Part::Reader));
            }
        }
        all
    }

    /// All documents that hand out keys.
    pub fn rotations(&self) -> &[Signed<Rotation>] {
        &self.rotations
    }

    /// Whether new data may be sealed under the keys that a document hands out: by a member who writes, and to nobody
    /// who was revoked.
    pub fn is_safe(&self, rotation: &Rotation) -> bool {
        let revoked = self.revoked();
        self.part(&rotation.by) == Part::Writer
            && revoked
                .iter()
                .all(|subject| rotation.without.contains(subject))
    }
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
