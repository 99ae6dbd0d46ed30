//! Which keys count: those with which a device came, and those that members hand to it in rows.

use std::sync::Arc;

use super::*;
use crate::base::{Entropy, VolumeId};
use crate::crypto::wrap::epoch_name;
use crate::crypto::{VolumeChain, VolumeTerms, Wrapping};
use crate::vfs::Rights;
use crate::vfs::feed::heard::Rumour;

const VOLUME: VolumeId = VolumeId([3; 16]);
const NOW: u64 = 1_700_000_000_000;

fn key(tag: u8) -> SigningKey {
    SigningKey::from_secret(&[tag; 32])
}

fn first() -> EpochKey {
    EpochKey::from_bytes([1; 32])
}

fn secret() -> ConvergenceSecret {
    ConvergenceSecret::from_bytes([2; 32])
}

/// The chain of somebody whom the owner, 1, invited.
fn chain(tag: u8) -> VolumeChain {
    let owner = VolumeChain::found(VOLUME, &key(1));
    let terms = VolumeTerms {
        read_only: false,
        expires_ms: NOW,
    };
    let entropy = Entropy::seeded(tag.into());
    let (invitation, once) = owner.invite(&key(1), terms, NOW, &entropy).unwrap();
    owner
        .admit(&invitation, &once, key(tag).peer(), NOW)
        .unwrap()
}

/// That of device 2, which knows 3 as well.
fn book() -> Book {
    let rules = ShareRules {
        owner: key(1).peer(),
        ticket: None,
    };
    let share = VolumeShare {
        device: key(2),
        owner: key(1).peer(),
        proof: chain(2).encode().into(),
        epochs: BTreeMap::from([(1, first())]),
        read_only: false,
        is_guest: true,
        admit: Arc::new(|_, _| Ok(Rights::Write)),
        rules: Some(rules.clone()),
    };
    let mut book = Book::new(&share, &rules, VOLUME, &secret());
    assert!(book.add_proof(key(3).peer(), &chain(3).encode(), NOW));
    book
}

fn rotation(by: u8, number: u16, without: &[u8]) -> (u32, EpochSecrets, Signed<Rotation>) {
    let secrets = EpochSecrets::generate(&Entropy::seeded(u64::from(number) + u64::from(by)));
    let epoch = epoch_name(number, &secrets.key);
    let mut without: Vec<Subject> = without
        .iter()
        .map(|tag| Subject::Device(key(*tag).peer()))
        .collect();
    without.sort_unstable();
    let to = [(key(2).public(), false)];
    let wrapping = Wrapping::new(&Entropy::seeded(9));
    let of = (VOLUME, key(by).peer());
    let made = Rotation::hand_out(of, (epoch, &secrets), &without, &to, &wrapping);
    (
        epoch,
        secrets,
        Signed::sign(made[0].clone(), &key(by)).unwrap(),
    )
}

/// Found beside the checkpoint of a stranger, 9.
fn hear(book: &mut Book, rulings: &[Ruling]) -> bool {
    let writer = WriterId {
        peer: key(9).peer(),
        incarnation: 0,
    };
    let opener = book.opener();
    let (mut revocations, mut keys) = (Vec::new(), Vec::new());
    for ruling in rulings {
        match ruling {
            Ruling::Revocation(revocation) => revocations.push(revocation.record().clone()),
            Ruling::Rotation(rotation) => {
                let secrets = opener.open(rotation).unwrap();
                keys.push((rotation.by, rotation.epoch, secrets.key));
            }
            _ => {}
        }
    }
    let name = *blake3::hash(&(revocations.len() as u64).to_be_bytes()).as_bytes();
    book.hear((writer, name), &revocations, &keys)
}

fn row(book: &mut Book, by: u8, ruling: &Ruling) -> bool {
    let changed = book.add(&[key(by).peer()], ruling, NOW);
    book.choose();
    changed
}

fn revocation(by: u8, of: u8) -> Ruling {
    let revocation = Revocation {
        volume: VOLUME,
        by: key(by).peer(),
        subject: Subject::Device(key(of).peer()),
        at_ms: NOW,
    };
    Ruling::Revocation(Signed::sign(revocation, &key(by)).unwrap())
}

#[test]
fn what_a_stranger_hands_out_opens_and_nothing_is_sealed_under_it() {
    let mut book = book();
    let mine = Some((
        1,
        EpochSecrets {
            key: first(),
            secret: Some(secret()),
        },
    ));
    assert_eq!(book.current, mine);
    // Beside a checkpoint, signed by whoever.
    let (epoch, secrets, made) = rotation(7, 9, &[]);
    assert!(hear(&mut book, &[Ruling::Rotation(made.clone())]));
    assert!(!hear(&mut book, &[Ruling::Rotation(made.clone())]));
    book.choose();
    let opens = |book: &Book| {
        book.ring
            .keys_of_places(epoch)
            .any(|key| *key == secrets.key)
    };
    assert!(opens(&book));
    assert_eq!(book.current, mine);
    assert_eq!(book.volume_keys().epochs, [(1, first())]);
    // In the feed of a member, but not in its own name.
    row(&mut book, 3, &Ruling::Rotation(made));
    assert_eq!(book.current, mine);
    assert_eq!(book.volume_keys().epochs, [(1, first())]);
}

#[test]
fn members_hand_out_what_counts_unless_one_who_is_revoked_has_it() {
    let mut book = book();
    let (epoch, secrets, made) = rotation(3, 1, &[]);
    row(&mut book, 3, &Ruling::Rotation(made));
    assert_eq!(book.current, Some((epoch, secrets.clone())));
    // Nothing is left once its maker is revoked.
    row(&mut book, 1, &revocation(1, 3));
    assert_eq!(book.current, None);
    assert!(book.stuck_since.is_some());
    // By the one who is revoked, or not without it.
    row(&mut book, 3, &Ruling::Rotation(rotation(3, 5, &[]).2));
    row(&mut book, 1, &Ruling::Rotation(rotation(1, 6, &[]).2));
    assert_eq!(book.current, None);
    let (last, newest, made) = rotation(1, 2, &[3]);
    row(&mut book, 1, &Ruling::Rotation(made));
    assert_eq!(book.current, Some((last, newest)));
    assert!(book.stuck_since.is_none());
    // The others still open.
    assert!(book.ring.keys(epoch).any(|key| *key == secrets.key));
    // What hands out the last is sealed under one before.
    let brings = BTreeSet::from([last]);
    assert_eq!(book.before(&brings, Some(1)), Some((1, first())));
    assert!(book.before(&brings, None).unwrap().0 != last);
    assert_eq!(book.next_number(), 7);
}

#[test]
fn strangers_leave_room_for_keys_of_members() {
    let mut book = book();
    for number in 0..4200 {
        hear(&mut book, &[Ruling::Rotation(rotation(7, number, &[]).2)]);
    }
    let (epoch, secrets, made) = rotation(3, 9, &[]);
    row(&mut book, 3, &Ruling::Rotation(made));
    assert!(book.ring.keys(epoch).any(|key| *key == secrets.key));
}

#[test]
fn what_is_heard_of_somebody_counts_if_it_comes_from_above() {
    let rumour = |of: u8, heard: &[Ruling]| {
        let mut book = book();
        hear(&mut book, heard);
        let way = book.standing.lineages(&key(of).peer()).to_vec();
        book.heard.rumour(&key(of).peer(), &way, &book.standing)
    };
    assert_eq!(rumour(3, &[]), Rumour::None);
    assert_eq!(rumour(3, &[revocation(1, 3)]), Rumour::Out);
    assert_eq!(rumour(3, &[revocation(2, 3)]), Rumour::None);
    assert_eq!(rumour(1, &[revocation(3, 1)]), Rumour::None);
    // Nobody below makes it doubtful, nor does a stranger.
    for by in [3, 7] {
        let heard = [revocation(1, 3), revocation(by, 1)];
        assert_eq!(rumour(3, &heard), Rumour::Out);
    }
}

/// 4 came by 3.
fn below_three() -> Lineage {
    let terms = VolumeTerms {
        read_only: false,
        expires_ms: NOW,
    };
    let (inviter, entropy) = (chain(3), Entropy::seeded(4));
    let (invitation, once) = inviter.invite(&key(3), terms, NOW, &entropy).unwrap();
    let four = inviter
        .admit(&invitation, &once, key(4).peer(), NOW)
        .unwrap();
    let owner = key(1).peer();
    crate::feeds::read_proof((VOLUME, owner), key(4).peer(), &four.encode(), NOW).unwrap()
}

#[test]
fn whoever_is_said_to_be_revoked_by_one_of_whom_that_is_said_too_is_in_doubt() {
    let ways = [below_three()];
    let rumour = |heard: &[Ruling], row_of_three: bool| {
        let mut book = book();
        hear(&mut book, heard);
        if row_of_three {
            row(&mut book, 1, &revocation(1, 3));
        }
        book.heard.rumour(&key(4).peer(), &ways, &book.standing)
    };
    assert_eq!(rumour(&[revocation(3, 4)], false), Rumour::Out);
    // It may have been there before what it came through was revoked. A stranger's word is none.
    assert_eq!(rumour(&[revocation(1, 3)], false), Rumour::Doubt);
    assert_eq!(rumour(&[revocation(1, 3)], true), Rumour::None);
    assert_eq!(rumour(&[revocation(7, 3)], false), Rumour::None);
    // Neither who is below it nor a stranger can take that back.
    for by in [4, 7] {
        let heard = [revocation(3, 4), revocation(by, 3)];
        assert_eq!(rumour(&heard, false), Rumour::Out);
    }
    let heard = [revocation(3, 4), revocation(1, 3)];
    assert_eq!(rumour(&heard, false), Rumour::Doubt);
    // What it said in time is in the rows as well.
    assert_eq!(rumour(&heard, true), Rumour::None);
}

#[tokio::test(start_paused = true)]
async fn others_wait_for_what_cannot_be_read_for_some_time() {
    let of = |tag: u8| WriterId {
        peer: key(tag).peer(),
        incarnation: 0,
    };
    let waits = |book: &mut Book, maker: u8| {
        let maker = key(maker).peer();
        book.heard.has_to_wait(maker, &book.standing)
    };
    let mut book = book();
    assert!(!waits(&mut book, 7));
    book.heard.missed(of(3));
    // Nobody waits for itself, and the owner for nobody.
    assert!(waits(&mut book, 7) && !waits(&mut book, 3) && !waits(&mut book, 1));
    book.heard.read((of(3), [1; 32]), &[], key(1).peer());
    assert!(!waits(&mut book, 7));
    // Strangers have less time, all of them together.
    book.heard.missed(of(8));
    assert!(waits(&mut book, 7));
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    book.heard.missed(of(9));
    assert!(!waits(&mut book, 7));
    book.heard.missed(of(3));
    assert!(waits(&mut book, 7));
    tokio::time::advance(std::time::Duration::from_secs(601)).await;
    book.heard.missed(of(3));
    assert!(!waits(&mut book, 7), "it was lost");
}

#[test]
fn nobody_fills_the_page_for_those_who_were_away() {
    let mut book = book();
    let (epoch, _, made) = rotation(1, 1, &[]);
    row(&mut book, 1, &Ruling::Rotation(made.clone()));
    let current = book.current.as_ref().map(|(epoch, _)| *epoch);
    assert_eq!(current, Some(epoch));
    row(&mut book, 1, &revocation(1, 3));
    let (_, _, newest) = rotation(1, 2, &[3]);
    row(&mut book, 1, &Ruling::Rotation(newest.clone()));
    // One who was revoked has said much, of which nothing counts.
    let mut all: Vec<Ruling> = (0..100).map(|tag| revocation(3, 100 + tag)).collect();
    all.extend((10..20).map(|number| Ruling::Rotation(rotation(3, number, &[]).2)));
    for ruling in &all {
        row(&mut book, 3, ruling);
    }
    all.push(revocation(1, 3));
    all.extend([made, newest.clone()].map(Ruling::Rotation));
    let wanted = [Ruling::Rotation(newest), revocation(1, 3)];
    assert_eq!(book.page(all), wanted);
    assert_eq!(book.next_number(), 3);
}
