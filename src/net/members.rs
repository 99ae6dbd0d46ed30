//! The member list of this peer: which signed records it keeps, and what it shows of them.
//!
//! State and rules only: records come in verified, reach comes in as a function, and nothing here
//! waits, sends or reads a clock. The list is bounded; when it is full it keeps those closest to
//! the own peer in Kademlia's metric, so what one peer leaves out its neighbours keep. Records
//! that do not fit stay a while in a spare cache, for dialling and for answering look-ups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::admission::Admitted;
use super::command::{Member, Members, Reach};
use super::message::PeerRecord;
use crate::base::PeerId;
use crate::placement::candidates::{Point, distance, peer_point};

/// A record whose signature and membership were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What the peer says.
    pub record: PeerRecord,
    /// The signed form, as it is passed on.
    pub encoded: Bytes,
    /// What its membership chain says.
    pub admitted: Admitted,
    point: Point,
}

impl Known {
    /// A record that the caller has verified.
    pub fn new(record: PeerRecord, encoded: Bytes, admitted: Admitted) -> Self {
        Known {
            point: peer_point(&record.peer),
            record,
            encoded,
            admitted,
        }
    }

    /// Whose record it is.
    pub const fn peer(&self) -> PeerId {
        self.record.peer
    }

    /// Where the peer lies in the key space.
    pub const fn point(&self) -> &Point {
        &self.point
    }

    /// The record as a member, reached as given.
    pub fn member(&self, state: Reach, rtt: Option<Duration>) -> Member {
        let zone = [&self.record.zone, &self.admitted.zone]
            .into_iter()
            .find(|zone| !zone.is_empty());
        let addresses = self.record.addresses.iter().chain(&self.record.bulk);
        Member {
            peer: self.record.peer,
            capacity_bytes: self.record.capacity_bytes,
            free_bytes: self.record.free_bytes.min(self.record.capacity_bytes),
            stay: self.record.stay(),
            // A peer without a zone shares its fate with nobody.
            zone: zone.map_or_else(|| format!("peer:{}", self.record.peer), String::clone),
            invitation: self.admitted.zone.clone(),
            storage_only: self.admitted.storage_only,
            program: self.record.program.clone(),
            addresses: addresses.cloned().collect(),
            state,
            rtt,
        }
    }
}

/// What a record was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// The same or a newer one is known.
    Nothing,
    /// The first of its peer.
    New,
    /// Newer than what was known.
    Newer,
}

/// The records a peer keeps.
#[derive(Debug)]
pub struct MemberTable {
    own: PeerId,
    own_point: Point,
    max: usize,
    /// By distance from the own peer, so the first ones are those to keep.
    listed: BTreeMap<Point, Arc<Known>>,
    complete: bool,
    /// Whether what others know was compared with this.
    settled: bool,
    spare: Spare,
}

impl MemberTable {
    /// An empty list of at most `max_members` (at least one: the own), with room for `max_spare`
    /// more records that are not members of the list.
    pub fn new(own: PeerId, max_members: usize, max_spare: usize) -> Self {
        MemberTable {
            own,
            own_point: peer_point(&own),
            max: max_members.max(1),
            listed: BTreeMap::new(),
            complete: true,
            settled: true,
            spare: Spare::new(max_spare),
        }
    }

    /// Takes a verified record in.
    pub fn learn(&mut self, known: Arc<Known>) -> Learned {
        let key = distance(&known.point, &self.own_point);
        let before = self.get(&known.record.peer).map(|old| old.record.seq);
        if before.is_some_and(|seq| seq >= known.record.seq) {
            return Learned::Nothing;
        }
        self.spare.remove(&known.record.peer);
        self.listed.insert(key, known);
        while self.listed.len() > self.max {
            let Some((_, left_out)) = self.listed.pop_last() else {
                break;
            };
            self.complete = false;
            self.spare.insert(left_out);
        }
        match before {
            None => Learned::New,
            Some(_) => Learned::Newer,
        }
    }

    /// The record of a peer, of the list or spare.
    pub fn get(&self, peer: &PeerId) -> Option<&Arc<Known>> {
        let key = distance(&peer_point(peer), &self.own_point);
        self.listed.get(&key).or_else(|| self.spare.get(peer))
    }

    /// Whether this would be news.
    pub fn is_news(&self, peer: &PeerId, seq: u64) -> bool {
        self.get(peer).is_none_or(|known| known.record.seq < seq)
    }

    /// Whether a record is worth the cost of verifying it when somebody just happens to tell of
    /// it: it is newer than what is known, or of a peer that belongs on the list.
    pub fn wants(&self, peer: &PeerId, seq: u64) -> bool {
        match self.get(peer) {
            Some(known) => known.record.seq < seq,
            // One that is left out has to be believed once, to know that the list is not complete.
            None => self.complete || self.has_room_for(peer),
        }
    }

    fn has_room_for(&self, peer: &PeerId) -> bool {
        let farthest = self.listed.last_key_value();
        let at = distance(&peer_point(peer), &self.own_point);
        self.listed.len() < self.max || farthest.is_some_and(|(farthest, _)| at < *farthest)
    }

    /// Whether a peer is on the list.
    pub fn is_listed(&self, peer: &PeerId) -> bool {
        let key = distance(&peer_point(peer), &self.own_point);
        self.listed.contains_key(&key)
    }

    /// The members of the list, closest to the own peer first.
    pub fn listed(&self) -> impl Iterator<Item = &Arc<Known>> {
        self.listed.values()
    }

    /// Whether the list has every member: it was compared with that of another member, and none was
    /// ever left out.
    pub const fn is_complete(&self) -> bool {
        self.complete && self.settled
    }

    /// Whoever has just come knows some members, and not whether there are more.
    pub const fn set_settled(&mut self, settled: bool) -> bool {
        let is_news = self.settled != settled;
        self.settled = settled;
        is_news
    }

    /// Remembers that members are missing (they were left out before a restart).
    pub const fn set_incomplete(&mut self) {
        self.complete = false;
    }

    /// The records closest to `point`, of the list and spare, closest first.
    pub fn closest(&self, point: &Point, count: usize) -> Vec<Arc<Known>> {
        let all = self.listed.values().chain(self.spare.iter());
        let mut ranked: Vec<_> = all
            .map(|known| (distance(&known.point, point), known))
            .collect();
        ranked.sort_unstable_by_key(|(distance, _)| *distance);
        ranked.truncate(count);
        let first = ranked.into_iter().map(|(_, known)| Arc::clone(known));
        first.collect()
    }

    /// The list as others see it.
    pub fn members(&self, reach: impl Fn(&PeerId) -> (Reach, Option<Duration>)) -> Members {
        let mut list: Vec<Member> = self
            .listed
            .values()
            .map(|known| {
                let (state, rtt) = if known.record.peer == self.own {
                    (Reach::Own, None)
                } else {
                    reach(&known.record.peer)
                };
                known.member(state, rtt)
            })
            .filter(|member| !member.has_left())
            .collect();
        list.sort_unstable_by_key(|member| member.peer);
        Members {
            list,
            complete: self.is_complete(),
        }
    }

    /// The signed records of all others on the list, for the next start.
    pub fn to_persist(&self) -> Vec<Bytes> {
        let others = self
            .listed
            .values()
            .filter(|known| known.peer() != self.own);
        others.map(|known| known.encoded.clone()).collect()
    }

    /// Whether a list of so many persisted records may have left some out.
    pub const fn may_be_partial(&self, persisted: usize) -> bool {
        persisted + 1 >= self.max
    }
}

/// Records beyond the list; the longest unchanged goes first.
#[derive(Debug)]
struct Spare {
    max: usize,
    records: BTreeMap<PeerId, (u64, Arc<Known>)>,
    by_age: BTreeMap<u64, PeerId>,
    tick: u64,
}

impl Spare {
    const fn new(max: usize) -> Self {
        Spare {
            max,
            records: BTreeMap::new(),
            by_age: BTreeMap::new(),
            tick: 0,
        }
    }

    fn get(&self, peer: &PeerId) -> Option<&Arc<Known>> {
        self.records.get(peer).map(|(_, known)| known)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Known>> {
        self.records.values().map(|(_, known)| known)
    }

    fn remove(&mut self, peer: &PeerId) {
        if let Some((age, _)) = self.records.remove(peer) {
            self.by_age.remove(&age);
        }
    }

    fn insert(&mut self, known: Arc<Known>) {
        let peer = known.record.peer;
        self.remove(&peer);
        self.tick += 1;
        self.by_age.insert(self.tick, peer);
        self.records.insert(peer, (self.tick, known));
        while self.records.len() > self.max {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                break;
            };
            self.records.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(tag: u8, seq: u64) -> Known {
        let record = PeerRecord {
            version: 1,
            peer: PeerId([tag; 32]),
            seq,
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            bulk: vec!["127.0.0.1:2".to_owned()],
            capacity_bytes: 10,
            free_bytes: 20,
            zone: String::new(),
            program: "test".to_owned(),
            membership: Vec::new(),
            leaving: 0,
        };
        let encoded = Bytes::from(vec![tag, seq as u8]);
        Known::new(record, encoded, Admitted::default())
    }

    fn idle(_: &PeerId) -> (Reach, Option<Duration>) {
        (Reach::Idle, None)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// The list depends on what was learned, not on the order, and is the closest part of it.
        #[test]
        fn order_does_not_matter(
            mut records in proptest::collection::vec((1u8..60, 0u64..4), 1..80),
            max in 1usize..20,
        ) {
            let build = |records: &[(u8, u64)]| {
                let mut table = MemberTable::new(PeerId([0; 32]), max, 100);
                table.learn(Arc::new(known(0, 1)));
                for (tag, seq) in records {
                    table.learn(Arc::new(known(*tag, *seq)));
                }
                table.members(idle)
            };
            let forward = build(&records);
            records.reverse();
            prop_assert_eq!(&forward, &build(&records));
            let mut tags: Vec<u8> = records.iter().map(|(tag, _)| *tag).collect();
            tags.push(0);
            tags.sort_unstable();
            tags.dedup();
            prop_assert_eq!(forward.complete, tags.len() <= max);
            prop_assert_eq!(forward.list.len(), tags.len().min(max));
            prop_assert!(forward.get(&PeerId([0; 32])).is_some());
        }
    }

    #[test]
    fn the_newest_record_counts() {
        let mut table = MemberTable::new(PeerId([0; 32]), 4, 4);
        assert_eq!(table.learn(Arc::new(known(1, 5))), Learned::New);
        assert_eq!(table.learn(Arc::new(known(1, 5))), Learned::Nothing);
        assert_eq!(table.learn(Arc::new(known(1, 4))), Learned::Nothing);
        assert_eq!(table.learn(Arc::new(known(1, 6))), Learned::Newer);
        assert!(!table.is_news(&PeerId([1; 32]), 6));
        assert_eq!(table.to_persist(), [Bytes::from_static(&[1, 6])]);
    }

    #[test]
    fn what_does_not_fit_is_spare_and_spare_is_bounded() {
        let mut table = MemberTable::new(PeerId([0; 32]), 3, 5);
        for tag in 0..50 {
            table.learn(Arc::new(known(tag, 1)));
        }
        assert!(!table.is_complete());
        // Of those left out no more is to be told, and of those within, what is new.
        let (within, without): (Vec<_>, Vec<_>) = (0..50)
            .map(|tag| PeerId([tag; 32]))
            .partition(|peer| table.is_listed(peer));
        assert_eq!(within.len(), 3);
        assert!(
            within
                .iter()
                .all(|peer| table.wants(peer, 2) && !table.wants(peer, 1))
        );
        let strange = without.iter().filter(|peer| table.get(peer).is_none());
        assert!(strange.clone().count() == 42 && !strange.clone().any(|peer| table.wants(peer, 9)));
        let all = table.closest(&[0; 32], 100);
        assert_eq!(all.len(), 8);
        let sorted = all.is_sorted_by_key(|known| distance(known.point(), &[0; 32]));
        assert!(sorted);
        assert_eq!(table.closest(&[0; 32], 2).len(), 2);
    }

    #[test]
    fn who_has_handed_over_all_is_no_member_once_it_is_away() {
        let mut table = MemberTable::new(PeerId([0; 32]), 9, 9);
        for (tag, leaving) in [(1, 0), (2, 1), (3, 2)] {
            let mut leaver = known(tag, 1);
            leaver.record.leaving = leaving;
            table.learn(Arc::new(leaver));
        }
        let tags = |state: Reach| -> Vec<u8> {
            let list = table.members(|_| (state.clone(), None)).list;
            list.iter().map(|member| member.peer.0[0]).collect()
        };
        assert_eq!(tags(Reach::Idle), [1, 2, 3]);
        assert_eq!(tags(Reach::Away { since_ms: 5 }), [1, 2]);
        assert!(table.members(idle).complete);
    }

    #[test]
    fn a_list_is_complete_once_it_was_compared() {
        let mut table = MemberTable::new(PeerId([0; 32]), 3, 5);
        assert!(table.set_settled(false) && !table.set_settled(false));
        table.learn(Arc::new(known(1, 1)));
        assert!(!table.members(idle).complete);
        assert!(table.set_settled(true));
        assert!(table.members(idle).complete);
        for tag in 0..9 {
            table.learn(Arc::new(known(tag, 1)));
        }
        assert!(!table.members(idle).complete);
    }

    #[test]
    fn zone_is_the_own_word_then_the_invitation() {
        let mut one = known(1, 1);
        assert!(one.member(Reach::Idle, None).zone.starts_with("peer:"));
        assert_eq!(one.member(Reach::Idle, None).free_bytes, 10);
        one.admitted.zone = "invitation:7".to_owned();
        assert_eq!(one.member(Reach::Idle, None).zone, "invitation:7");
        one.record.zone = "rack".to_owned();
        let member = one.member(Reach::Idle, None);
        // Its own word does not make it forget who shares its ticket.
        assert_eq!(
            (&*member.zone, &*member.invitation),
            ("rack", "invitation:7")
        );
    }
}
