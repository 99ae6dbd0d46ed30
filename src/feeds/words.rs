//! What is said of those who were revoked: how far their feeds go, and who had come through them. Whose word counts
//! is for others to know: see [`Standing`](super::Standing).

use std::collections::{BTreeMap, BTreeSet};

use super::revoke::{Cut, Heirs, Subject};
use super::sealed::LinkHash;
use crate::base::PeerId;
use crate::namespace::WriterId;

/// One's word about who had come through what was revoked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) subject: &'a Subject,
    pub(super) by: &'a PeerId,
    /// Whether it stands in a feed of whoever says it: so it was said no later than that feed goes.
    pub(super) is_in_own_feed: bool,
    pub(super) devices: &'a BTreeSet<PeerId>,
}

/// See the module. Only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    cuts: BTreeMap<PeerId, BTreeMap<(PeerId, u64), (u64, LinkHash)>>,
    heirs: BTreeMap<Subject, BTreeMap<(PeerId, bool), BTreeSet<PeerId>>>,
}

impl Words {
    pub(super) fn add_cut(&mut self, cut: &Cut) {
        let known = self.cuts.entry(cut.device).or_default();
        for (incarnation, last, hash) in &cut.positions {
            let end = known
                .entry((cut.by, *incarnation))
                .or_insert((*last, *hash));
            *end = (*last, *hash).max(*end);
        }
    }

    pub(super) fn add_heirs(&mut self, heirs: &Heirs, is_in_own_feed: bool) {
        let known = self.heirs.entry(heirs.subject).or_default();
        let named = known.entry((heirs.by, is_in_own_feed)).or_default();
        named.extend(&heirs.devices);
    }

    /// How far a feed goes, by each who says it.
    pub(super) fn ends(&self, writer: &WriterId) -> impl Iterator<Item = (&PeerId, u64)> {
        let incarnation = writer.incarnation;
        let cuts = self.cuts.get(&writer.peer).into_iter().flatten();
        cuts.filter_map(move |((by, of), (last, _))| (*of == incarnation).then_some((by, *last)))
    }

    pub(super) fn named(&self) -> impl Iterator<Item = Named<'_>> {
        let all = self.heirs.iter();
        all.flat_map(|(subject, said)| {
            said.iter()
                .map(move |((by, is_in_own_feed), devices)| Named {
                    subject,
                    by,
                    is_in_own_feed: *is_in_own_feed,
                    devices,
                })
        })
    }

    /// Whether somebody said who had come through a subject.
    pub(super) fn has_said(&self, by: &PeerId, subject: &Subject) -> bool {
        let said = self.heirs.get(subject);
        said.is_some_and(|said| {
            [false, true]
                .iter()
                .any(|own| said.contains_key(&(*by, *own)))
        })
    }
}
