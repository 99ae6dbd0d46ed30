//! What writers made arrives at a replica in any order, twice, damaged, forged and out of place, and
//! ends in the same rows. A holder without a key takes the same feeds.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairnfs::base::{Entropy, VolumeId};
use cairnfs::feeds::inbox::InboxLimits;
use cairnfs::feeds::{Claim, Feed, Inbox, Message, SealedDelta, Verdict, plan};
use cairnfs::namespace::{Ino, MemRows, Outcome, VersionVector, WriterId, apply, state};
use proptest::prelude::*;

use super::support::{VOLUME, device, epoch_key, feed, seal_all, volume_of, writer};
use crate::namespace::converge::{History, Step};
use crate::namespace::support::{Checkpoint, Replica, assert_same, config, exchange};

/// A replica that knows others by what they send alone.
struct Receiver {
    rows: MemRows,
    feeds: BTreeMap<WriterId, Feed>,
    log: BTreeMap<WriterId, Vec<Bytes>>,
    inbox: Inbox,
    now_ms: u64,
}

impl Receiver {
    fn new(limits: InboxLimits) -> Receiver {
        Receiver {
            rows: MemRows::default(),
            feeds: BTreeMap::new(),
            log: BTreeMap::new(),
            inbox: Inbox::new(limits),
            now_ms: u64::MAX / 2,
        }
    }

    fn feed(&mut self, writer: WriterId) -> &mut Feed {
        self.feeds
            .entry(writer)
            .or_insert_with(|| Feed::new(VOLUME, writer))
    }

    /// Takes the bytes of a sealed delta from anywhere.
    fn receive(&mut self, bytes: &[u8]) {
        let Ok(sealed) = SealedDelta::decode(bytes) else {
            return;
        };
        let writer = sealed.link().writer;
        match self.feed(writer).check(sealed.link()) {
            Ok(Verdict::Next | Verdict::Gap { .. }) => {}
            _ => return,
        }
        let Ok(delta) = sealed.open(&epoch_key()) else {
            return;
        };
        self.inbox.hold(delta, sealed);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            let version = state::version(&self.rows).unwrap();
            let Some((delta, sealed)) = self.inbox.take(&version, self.now_ms) else {
                return;
            };
            let link = sealed.link().clone();
            if self.feed(link.writer).check(&link).unwrap() != Verdict::Next {
                continue;
            }
            match apply(&self.rows, &delta, self.now_ms).unwrap() {
                Outcome::Merged(changes) => {
                    self.rows.apply(changes);
                    let log = self.log.entry(link.writer).or_default();
                    log.push(sealed.encode().into());
                    self.feed(link.writer).advance(link).unwrap();
                }
                other => panic!("the next of its feed, and {other:?}"),
            }
        }
    }

    fn claims(&self) -> Vec<Claim> {
        let heads = self.feeds.values().filter_map(Feed::head);
        heads
            .map(|link| Claim {
                writer: link.writer,
                last: link.last,
                hash: link.hash(),
            })
            .collect()
    }
}

fn sealed(replicas: &[Replica]) -> Vec<SealedDelta> {
    let mut all = Vec::new();
    for (at, replica) in replicas.iter().enumerate() {
        all.extend(seal_all(&replica.made, at as u8 + 1));
    }
    all
}

/// A vector that covers what anybody here could have made.
fn everything() -> VersionVector {
    let mut all = VersionVector::default();
    (1..6).for_each(|tag| all.raise(writer(tag), 1 << 40));
    all
}

fn same_rows(receiver: &Receiver, replica: &Replica) {
    let mut other = Replica::new(9);
    other.rows = receiver.rows.clone();
    assert_same(&other, replica);
}

/// Bytes that nobody should send.
fn nonsense(all: &[SealedDelta], entropy: &Entropy) -> Vec<u8> {
    let pick = |bound: usize| entropy.below(bound as u64) as usize;
    let mut bytes = all[pick(all.len())].encode();
    match pick(4) {
        0 => {
            let at = pick(bytes.len());
            bytes[at] ^= 1 << pick(8);
        }
        1 => bytes.truncate(pick(bytes.len())),
        2 => {
            // A fork of a writer, and a device that is no writer here.
            let tag = 1 + pick(4) as u8;
            let deltas = feed(tag, 3, 1 + pick(3) as u64);
            bytes = deltas[1 + pick(2)].encode();
        }
        _ => {
            let delta = all[pick(all.len())].open(&epoch_key()).unwrap();
            let tag = (1..4).find(|tag| writer(*tag) == delta.writer).unwrap();
            let volume = VolumeId([4; 16]);
            let mut first = delta;
            first.first = 1;
            let sealed =
                SealedDelta::seal(&first, volume, None, (4, &epoch_key()), &device(tag)).unwrap();
            bytes = sealed.encode();
        }
    }
    bytes
}

proptest! {
    #![proptest_config(config(40))]
    #[test]
    fn any_order_of_arrival_ends_in_the_same_rows(
        steps in prop::collection::vec(any::<Step>(), 1..30), seed in any::<u64>()
    ) {
        let mut history = History::of(volume_of());
        for step in steps {
            history.step(step);
        }
        let all = sealed(&history.replicas);
        exchange(&mut history.replicas);
        let entropy = Entropy::seeded(seed);
        let mut receiver = Receiver::new(InboxLimits::default());
        let mut waiting: Vec<Vec<u8>> = all.iter().map(SealedDelta::encode).collect();
        while !waiting.is_empty() {
            if entropy.below(3) == 0 {
                receiver.receive(&nonsense(&all, &entropy));
            }
            let at = entropy.below(waiting.len() as u64) as usize;
            receiver.receive(&waiting[at]);
            if entropy.below(4) > 0 {
                waiting.swap_remove(at);
            }
        }
        // What is left is what forks and strangers made, of which the beginning never comes.
        for (delta, _) in std::iter::from_fn(|| receiver.inbox.take(&everything(), u64::MAX)) {
            let writer = delta.writer;
            let honest = receiver.feeds.get(&writer).map_or(0, Feed::last);
            prop_assert!(delta.first > honest + 1);
        }
        same_rows(&receiver, &history.replicas[0]);
    }

    /// With hardly any room, and heads compared again and again.
    #[test]
    fn what_found_no_room_is_asked_for_again(
        steps in prop::collection::vec(any::<Step>(), 1..30), seed in any::<u64>()
    ) {
        let mut history = History::of(volume_of());
        for step in steps {
            history.step(step);
        }
        let all = sealed(&history.replicas);
        exchange(&mut history.replicas);
        let limits = InboxLimits { writer_count: 2, count: 4, ..InboxLimits::default() };
        let mut receiver = Receiver::new(limits);
        let entropy = Entropy::seeded(seed);
        let mut theirs: Vec<Claim> = Vec::new();
        for tag in [1, 2, 3] {
            let last = all.iter().filter(|delta| delta.link().writer == writer(tag)).last();
            theirs.extend(last.map(|delta| Claim {
                writer: writer(tag),
                last: delta.link().last,
                hash: delta.hash(),
            }));
        }
        theirs.sort_by_key(|claim| claim.writer);
        for _ in 0..1000 {
            let wishes = plan(&receiver.claims(), None, true, &theirs).ask;
            if wishes.is_empty() {
                break;
            }
            let wish = wishes[entropy.below(wishes.len() as u64) as usize];
            let (missing, _) = receiver.inbox.take_again();
            for (writer, after) in missing.into_iter().chain([(wish.writer, wish.after)]) {
                let of = all.iter().filter(|delta| delta.link().writer == writer);
                let some = of.filter(|delta| delta.link().first > after).take(3);
                let have = Message::Have {
                    volume: VOLUME,
                    writer,
                    last: 0,
                    deltas: some.map(|delta| delta.encode().into()).collect(),
                };
                let Message::Have { deltas, .. } = Message::decode(&have.encode()).unwrap() else {
                    panic!("it was one");
                };
                deltas.iter().for_each(|bytes| receiver.receive(bytes));
                prop_assert!(receiver.inbox.len() <= 4);
            }
        }
        prop_assert_eq!(receiver.claims(), theirs);
        same_rows(&receiver, &history.replicas[0]);
    }
}

#[test]
fn a_holder_without_a_key_takes_the_same_feeds() {
    let [mut one, ..] = volume_of();
    one.file(Ino::ROOT, "a", "text");
    let deltas = seal_all(&one.made, 1);
    let mut known = Feed::new(VOLUME, writer(1));
    for delta in &deltas {
        let read = SealedDelta::decode(&delta.encode()).unwrap();
        assert_eq!(known.check(read.link()).unwrap(), Verdict::Next);
        known.advance(read.link().clone()).unwrap();
    }
    assert_eq!(known.last(), one.made.last().unwrap().last());
}

#[test]
fn a_writer_from_the_future_holds_up_nobody_but_those_who_built_on_it() {
    let [mut one, mut two, _] = volume_of();
    let created = one.made.clone();
    two.file(Ino::ROOT, "now", "text");
    let now = two.now_ms;
    one.now_ms += 3_600_000;
    one.file(Ino::ROOT, "later", "text");
    let mut receiver = Receiver::new(InboxLimits::default());
    receiver.now_ms = now;
    let (ones, twos) = (seal_all(&one.made, 1), seal_all(&two.made, 2));
    for delta in ones.iter().chain(&twos) {
        receiver.receive(&delta.encode());
    }
    let mut shown = Replica::new(9);
    shown.rows = receiver.rows.clone();
    assert_eq!(shown.tree(), ["/now=text"]);
    assert_eq!(
        receiver.feeds[&writer(1)].last(),
        created.last().unwrap().last()
    );
    let ahead = receiver.inbox.ahead(now);
    assert_eq!((ahead.len(), ahead[0].writer), (1, writer(1)));
    assert!(ahead[0].by_ms > 3_000_000);
    receiver.now_ms = receiver.inbox.next_due_ms(now).unwrap() + 5000;
    receiver.drain();
    assert!(receiver.inbox.is_empty());
    one.pull(&two);
    same_rows(&receiver, &one);
}

#[test]
fn a_checkpoint_takes_the_place_of_feeds() {
    let [mut one, mut two, _] = volume_of();
    one.file(Ino::ROOT, "a", "text");
    two.pull(&one);
    two.file(Ino::ROOT, "b", "text");
    let ones = seal_all(&one.made, 1);
    let mut receiver = Receiver::new(InboxLimits::default());
    let mut late = Replica::new(9);
    late.join(&Checkpoint::of(&one.rows), 1 << 20);
    receiver.rows = late.rows;
    let last = ones.last().unwrap().link().clone();
    receiver.feed(writer(1)).skip_to(last).unwrap();
    for delta in ones.iter().chain(&seal_all(&two.made, 2)) {
        receiver.receive(&delta.encode());
    }
    same_rows(&receiver, &two);
    assert!(receiver.log.keys().eq([&writer(2)]));
}
