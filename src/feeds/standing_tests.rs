//! Who has part, whatever the order in which it becomes known.

use proptest::prelude::*;

use super::*;
use crate::base::Entropy;
use crate::crypto::sign::SigningKey;
use crate::crypto::{EpochSecrets, VolumeTerms, Wrapping};
use crate::feeds::LinkHash;
use crate::feeds::revoke::{Cut, Heirs, Revocation};
use crate::feeds::ruling::Issued;

const VOLUME: VolumeId = VolumeId([3; 16]);
const NOW: u64 = 1_700_000_000_000;

fn cases(base: u32) -> ProptestConfig {
    let scale = std::env::var("CAIRN_TEST_SCALE").ok();
    let scale = scale.and_then(|text| text.parse::<u32>().ok());
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(base * scale.unwrap_or(1))
    }
}

fn key(tag: u8) -> SigningKey {
    SigningKey::from_secret(&[tag + 1; 32])
}

fn peer(tag: u8) -> PeerId {
    key(tag).peer()
}

/// One invited by `inviter`, to read only if that is said.
fn invited(inviter: &VolumeChain, by: u8, tag: u8, read_only: bool) -> VolumeChain {
    let terms = VolumeTerms {
        read_only,
        expires_ms: NOW + 1000,
    };
    let entropy = Entropy::seeded(u64::from(by) << 8 | u64::from(tag));
    let (invitation, once) = inviter.invite(&key(by), terms, NOW, &entropy).unwrap();
    inviter.admit(&invitation, &once, peer(tag), NOW).unwrap()
}

/// 0 made it; 1 and 2 came by 0, 3 by 1, 4 by 3, 5 by 2 to read; 3 came by 2 as well.
fn chains() -> Vec<(u8, VolumeChain)> {
    let zero = VolumeChain::found(VOLUME, &key(0));
    let one = invited(&zero, 0, 1, false);
    let two = invited(&zero, 0, 2, false);
    let three = invited(&one, 1, 3, false);
    let four = invited(&three, 3, 4, false);
    let five = invited(&two, 2, 5, true);
    let again = invited(&two, 2, 3, false);
    vec![
        (0, zero),
        (1, one),
        (2, two),
        (3, three),
        (4, four),
        (5, five),
        (3, again),
    ]
}

/// Something that becomes known.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)]
enum Fact {
    Proof(usize),
    Said(u8, Ruling),
}

fn tell(standing: &mut Standing, fact: &Fact) {
    match fact {
        Fact::Proof(at) => {
            let (tag, chain) = chains().swap_remove(*at);
            let way = standing
                .read_proof(peer(tag), &chain.encode(), NOW)
                .unwrap();
            standing.add_lineage(&way);
        }
        Fact::Said(author, ruling) => {
            standing.add(&[peer(*author)], ruling, NOW);
        }
    }
}

fn revocation(by: u8, subject: Subject) -> Ruling {
    let revocation = Revocation {
        volume: VOLUME,
        by: peer(by),
        subject,
        at_ms: NOW,
    };
    Ruling::Revocation(Signed::sign(revocation, &key(by)).unwrap())
}

fn cut(by: u8, of: u8, last: u64) -> Ruling {
    let cut = Cut {
        volume: VOLUME,
        device: peer(of),
        by: peer(by),
        positions: vec![(0, last, LinkHash([9; 32]))],
    };
    Ruling::Cut(Signed::sign(cut, &key(by)).unwrap())
}

fn heirs(by: u8, of: u8, devices: &[u8]) -> Ruling {
    let mut devices: Vec<PeerId> = devices.iter().map(|tag| peer(*tag)).collect();
    devices.sort_unstable();
    devices.dedup();
    let heirs = Heirs {
        volume: VOLUME,
        by: peer(by),
        subject: Subject::Device(peer(of)),
        devices,
    };
    Ruling::Heirs(Signed::sign(heirs, &key(by)).unwrap())
}

fn rotation(by: u8, without: &[u8], number: u16) -> Ruling {
    let secrets = EpochSecrets::generate(&Entropy::seeded(number.into()));
    let epoch = crate::crypto::wrap::epoch_name(number, &secrets.key);
    let mut without: Vec<Subject> = without
        .iter()
        .map(|tag| Subject::Device(peer(*tag)))
        .collect();
    without.sort_unstable();
    let others = (0..7).filter(|tag| !without.contains(&Subject::Device(peer(*tag))));
    let all: Vec<(PublicKey, bool)> = others.map(|tag| (peer(tag).into(), false)).collect();
    let wrapping = Wrapping::new(&Entropy::seeded(1));
    let of = (VOLUME, peer(by));
    let made = Rotation::hand_out(of, (epoch, &secrets), &without, &all, &wrapping);
    Ruling::Rotation(Signed::sign(made[0].clone(), &key(by)).unwrap())
}

/// All that follows.
fn outcome(standing: &Standing) -> String {
    let all: Vec<PeerId> = (0..7).map(peer).collect();
    let parts: Vec<Part> = all.iter().map(|peer| standing.part(peer)).collect();
    let writer = |peer: &PeerId| WriterId {
        peer: *peer,
        incarnation: 0,
    };
    let ends: Vec<u64> = all.iter().map(|peer| standing.end(&writer(peer))).collect();
    let mut safe: Vec<u32> = standing
        .rotations()
        .iter()
        .filter(|rotation| standing.is_safe(rotation))
        .map(|rotation| rotation.epoch)
        .collect();
    safe.sort_unstable();
    let mut recipients = standing.recipients(NOW);
    recipients.sort_unstable();
    format!(
        "{parts:?} {ends:?} {safe:?} {:?} {recipients:?}",
        standing.revoked()
    )
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let tag = || 0u8..7;
    let fact = prop_oneof![
        3 => (0usize..7).prop_map(Fact::Proof),
        3 => (tag(), tag()).prop_map(|(by, of)| Fact::Said(by, revocation(by, Subject::Device(peer(of))))),
        // In the feed of somebody else.
        1 => (tag(), tag(), tag()).prop_map(|(author, by, of)| Fact::Said(author, revocation(by, Subject::Device(peer(of))))),
        2 => (tag(), tag(), 1u64..9).prop_filter("own", |(by, of, _)| by != of).prop_map(|(by, of, last)| Fact::Said(by, cut(by, of, last))),
        2 => (tag(), tag(), prop::collection::vec(tag(), 0..3)).prop_filter("own", |(by, of, _)| by != of)
            .prop_map(|(by, of, devices)| Fact::Said(by, heirs(by, of, &devices))),
        1 => (tag(), prop::collection::btree_set(tag(), 0..3), 1u16..4).prop_filter("own", |(by, without, _)| !without.contains(by))
            .prop_map(|(by, without, number)| Fact::Said(by, rotation(by, &without.into_iter().collect::<Vec<_>>(), number))),
    ];
    prop::collection::vec(fact, 0..24)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn the_order_does_not_matter_nor_does_hearing_twice(
        facts in facts(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 48),
    ) {
        let mut first = Standing::new(VOLUME, peer(0));
        facts.iter().for_each(|fact| tell(&mut first, fact));
        let mut second = Standing::new(VOLUME, peer(0));
        if !facts.is_empty() {
            for at in &order {
                tell(&mut second, at.get(&facts));
            }
        }
        facts.iter().rev().for_each(|fact| tell(&mut second, fact));
        prop_assert_eq!(outcome(&first), outcome(&second));
    }

    #[test]
    fn nobody_takes_what_they_did_not_give(facts in facts(), by in 1u8..7) {
        // Whatever one says who is not above anybody else's: those who did not come by it are what they were.
        let (said, others): (Vec<&Fact>, Vec<&Fact>) = facts.iter().partition(
            |fact| matches!(fact, Fact::Said(_, Ruling::Revocation(signed)) if signed.by == peer(by)),
        );
        let mut standing = Standing::new(VOLUME, peer(0));
        others.iter().for_each(|fact| tell(&mut standing, fact));
        let before = standing.clone();
        said.iter().for_each(|fact| tell(&mut standing, fact));
        for tag in 0..7 {
            // Who came by a way on which it does not stand above is what it was.
            let mut ways = before.lineages(&peer(tag)).iter();
            let is_free = ways.any(|way| {
                let above = way.iter().rev().skip(1);
                let mut above = above.filter(|step| !step.read_only);
                before.judge(way).is_member() && !above.any(|step| step.device == peer(by))
            });
            if is_free {
                prop_assert!(standing.part(&peer(tag)).is_member());
            }
        }
        prop_assert_eq!(standing.part(&peer(0)), Part::Writer);
    }

    #[test]
    fn no_key_that_counts_is_one_that_somebody_has_who_was_revoked(facts in facts()) {
        let mut standing = Standing::new(VOLUME, peer(0));
        facts.iter().for_each(|fact| tell(&mut standing, fact));
        for rotation in standing.rotations().iter().filter(|rotation| standing.is_safe(rotation)) {
            // They are handed to everybody of whom their maker did not know it.
            prop_assert_eq!(standing.part(&rotation.by), Part::Writer);
            let out = (0..7).filter(|tag| matches!(standing.part(&peer(*tag)), Part::Revoked { .. }));
            for tag in out {
                prop_assert!(!rotation.is_for(&peer(tag).into()), "{}", tag);
            }
        }
        for (key, _) in standing.recipients(NOW) {
            let is_out = |tag: &u8| PublicKey::from(peer(*tag)) == key
                && !standing.part(&peer(*tag)).is_member();
            prop_assert!(!(0..7).any(|tag| is_out(&tag)));
        }
    }
}

fn all_known() -> Standing {
    let mut standing = Standing::new(VOLUME, peer(0));
    (0..7).for_each(|at| tell(&mut standing, &Fact::Proof(at)));
    standing
}

#[test]
fn two_who_invited_one_revoke_it_together() {
    let mut standing = all_known();
    let three = Subject::Device(peer(3));
    standing.add(&[peer(1)], &revocation(1, three), NOW);
    assert_eq!(standing.part(&peer(3)), Part::Writer);
    assert!(!standing.is_revoked(&three));
    standing.add(&[peer(2)], &revocation(2, three), NOW);
    assert!(matches!(standing.part(&peer(3)), Part::Revoked { .. }));
    assert!(standing.is_revoked(&three));
    // Whom it invited has to be known by somebody.
    assert!(matches!(standing.part(&peer(4)), Part::Late { .. }));
    standing.add(&[peer(2)], &heirs(2, 3, &[4]), NOW);
    assert_eq!(standing.part(&peer(4)), Part::Writer);
    // A stranger's word about heirs or ends is nothing.
    standing.add(&[peer(1)], &cut(6, 3, 8), NOW);
    standing.add(&[peer(1)], &heirs(6, 3, &[6]), NOW);
    assert!(!standing.is_heir_by_rows(&three, &peer(6)));
    let writer = WriterId {
        peer: peer(3),
        incarnation: 0,
    };
    assert_eq!(standing.end(&writer), 0);
    standing.add(&[peer(1)], &cut(1, 3, 4), NOW);
    standing.add(&[peer(1)], &cut(2, 3, 6), NOW);
    assert_eq!(standing.end(&writer), 6);
}

/// As above, but nobody else invited 3.
fn one_way_each() -> Standing {
    let mut standing = Standing::new(VOLUME, peer(0));
    (0..6).for_each(|at| tell(&mut standing, &Fact::Proof(at)));
    standing
}

fn end_of(standing: &Standing, of: u8) -> u64 {
    standing.end(&WriterId {
        peer: peer(of),
        incarnation: 0,
    })
}

#[test]
fn words_count_of_those_who_are_members_without_them() {
    let mut standing = one_way_each();
    let one = Subject::Device(peer(1));
    standing.add(&[peer(0)], &revocation(0, one), NOW);
    // They came through the one who is revoked: each for itself, for each other, and for its feed.
    for ruling in [
        heirs(3, 1, &[3]),
        heirs(4, 1, &[3]),
        cut(3, 1, 50),
        cut(4, 1, 99),
    ] {
        standing.add(&[peer(3)], &ruling, NOW);
    }
    for tag in [3, 4] {
        assert!(matches!(standing.part(&peer(tag)), Part::Late { .. }));
    }
    assert_eq!(end_of(&standing, 1), 0);
    // Once a member says that the first was there, both are members.
    standing.add(&[peer(2)], &heirs(2, 1, &[3]), NOW);
    for tag in [3, 4] {
        assert_eq!(standing.part(&peer(tag)), Part::Writer);
    }
    assert_eq!(end_of(&standing, 1), 99);
    // What was said of a feed's end goes with whoever said it.
    standing.add(&[peer(3)], &revocation(3, Subject::Device(peer(4))), NOW);
    assert_eq!(end_of(&standing, 1), 50);
}

#[test]
fn whom_a_member_named_in_time_stays_when_that_is_revoked() {
    for (carrier, stays) in [(2, true), (5, false)] {
        let mut standing = one_way_each();
        standing.add(&[peer(0)], &revocation(0, Subject::Device(peer(1))), NOW);
        standing.add(&[peer(carrier)], &heirs(2, 1, &[3]), NOW);
        assert_eq!(standing.part(&peer(3)), Part::Writer);
        standing.add(&[peer(0)], &revocation(0, Subject::Device(peer(2))), NOW);
        // Its own feed is cut; what others carry it may have said at any time.
        assert_eq!(standing.part(&peer(3)).is_member(), stays);
    }
}

#[test]
fn tickets_of_two_devices_by_one_id_are_two() {
    let ticket = |at: usize, read_only| {
        let (tag, chain) = chains().swap_remove(at);
        let terms = VolumeTerms {
            read_only,
            expires_ms: NOW + 10,
        };
        let made = chain
            .invite(&key(tag), terms, NOW, &Entropy::seeded(7))
            .unwrap();
        let invitation = made.0;
        (Ruling::Issued(Issued { chain, invitation }), made.1)
    };
    let (by_one, once) = ticket(1, true);
    let (by_two, _) = ticket(2, false);
    for both in [[&by_one, &by_two], [&by_two, &by_one]] {
        let mut standing = one_way_each();
        for ticket in both {
            standing.add(&[peer(0)], ticket, NOW);
        }
        let known = |standing: &Standing| {
            let all = standing.recipients(NOW).into_iter();
            all.filter(|(key, _)| *key == once.public())
                .collect::<Vec<_>>()
        };
        assert_eq!(known(&standing), [(once.public(), false)]);
        let mut without = standing.clone();
        without.add(&[peer(0)], &revocation(0, Subject::Device(peer(1))), NOW);
        assert_eq!(known(&without), [(once.public(), false)]);
        standing.add(&[peer(0)], &revocation(0, Subject::Device(peer(2))), NOW);
        assert_eq!(known(&standing), [(once.public(), true)]);
    }
}

#[test]
fn a_reader_and_who_is_carried_by_others_revoke_nobody() {
    let mut standing = all_known();
    let five = Subject::Device(peer(5));
    standing.add(&[peer(5)], &revocation(5, Subject::Device(peer(2))), NOW);
    standing.add(&[peer(1)], &revocation(2, five), NOW);
    assert!(standing.revoked().is_empty());
    standing.add(&[peer(2)], &revocation(2, five), NOW);
    assert_eq!(standing.revoked(), [five]);
}

#[test]
fn a_ticket_ends_by_time_by_word_and_with_who_made_it() {
    let (tag, chain) = chains().swap_remove(1);
    let terms = VolumeTerms {
        read_only: true,
        expires_ms: NOW + 10,
    };
    let made = chain
        .invite(&key(tag), terms, NOW, &Entropy::seeded(7))
        .unwrap();
    let issued = Issued {
        chain,
        invitation: made.0.clone(),
    };
    let id = made.0.read().unwrap().id;
    let open = |standing: &Standing, now_ms| {
        let recipients = standing.recipients(now_ms);
        recipients.contains(&(made.1.public(), true))
    };
    let bytes = issued.encode();
    assert_eq!(Issued::decode(&bytes).unwrap(), issued);
    let known = || {
        let mut standing = all_known();
        assert!(standing.add(&[peer(2)], &Ruling::Issued(issued.clone()), NOW));
        standing
    };
    assert!(open(&known(), NOW) && !open(&known(), NOW + 11));
    let mut by_word = known();
    by_word.add(&[peer(2)], &revocation(2, Subject::Invitation(id)), NOW);
    assert!(open(&by_word, NOW), "somebody who did not make it");
    by_word.add(&[peer(1)], &revocation(1, Subject::Invitation(id)), NOW);
    assert!(!open(&by_word, NOW));
    let mut with_maker = known();
    with_maker.add(&[peer(0)], &revocation(0, Subject::Device(peer(1))), NOW);
    assert!(!open(&with_maker, NOW));
    // One that somebody else made in its name is none.
    let forged = Issued {
        chain: chains().swap_remove(2).1,
        invitation: made.0.clone(),
    };
    assert!(!all_known().add(&[peer(2)], &Ruling::Issued(forged), NOW));
}
