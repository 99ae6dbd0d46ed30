//! Which keys count: those with which a device came, and those that members hand to it in rows.

use std::sync::Arc;

use super::*;
use crate::base::{Entropy, VolumeId};
use crate::crypto::wrap::epoch_name;
use crate::crypto::{VolumeChain, VolumeTerms, Wrapping};
use crate::vfs::Rights;

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
    assert!(book.hear(vec![Ruling::Rotation(made.clone())]));
    assert!(!book.hear(vec![Ruling::Rotation(made.clone())]));
    book.choose();
    assert!(book.keys(epoch).any(|key| *key == secrets.key));
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
    assert!(book.keys(epoch).any(|key| *key == secrets.key));
    // What hands out the last is sealed under one before.
    let brings = BTreeSet::from([last]);
    assert_eq!(book.before(&brings, Some(1)), Some((1, first())));
    assert!(book.before(&brings, None).unwrap().0 != last);
    assert_eq!(book.next_number(), 7);
}

#[test]
fn what_is_heard_of_somebody_counts_if_it_comes_from_above() {
    let book = |heard: &[Ruling]| {
        let mut book = book();
        book.hear(heard.to_vec());
        book
    };
    let (three, way) = (
        key(3).peer(),
        book(&[]).standing.lineages(&key(3).peer()).to_vec(),
    );
    assert!(!book(&[]).is_said_to_be_out(&three, &way));
    assert!(book(&[revocation(1, 3)]).is_said_to_be_out(&three, &way));
    assert!(!book(&[revocation(2, 3)]).is_said_to_be_out(&three, &way));
    assert!(!book(&[revocation(3, 1)]).is_said_to_be_out(&key(1).peer(), &[]));
}
