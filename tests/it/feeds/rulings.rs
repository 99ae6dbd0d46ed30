//! Documents about members and keys, to the byte.

use bytes::Bytes;
use cairnfs::base::{Entropy, PeerId};
use cairnfs::crypto::member::InvitationId;
use cairnfs::crypto::wrap::epoch_name;
use cairnfs::crypto::{
    ConvergenceSecret, EpochKey, EpochSecrets, VolumeChain, VolumeTerms, Wrapping,
};
use cairnfs::feeds::ruling::{decode_page, encode_page};
use cairnfs::feeds::{
    Heirs, Issued, Message, Revocation, Rotation, Ruling, Signed, Subject, Without,
};
use cairnfs::namespace::Key;

use super::support::{VOLUME, device};

fn secrets() -> EpochSecrets {
    EpochSecrets {
        key: EpochKey::from_bytes([9; 32]),
        secret: Some(ConvergenceSecret::from_bytes([8; 32])),
    }
}

fn rulings() -> Vec<(&'static str, Ruling)> {
    let by = device(1).peer();
    let entropy = Entropy::seeded(1);
    let subjects = [
        Subject::Device(device(2).peer()),
        Subject::Invitation(InvitationId([4; 16])),
    ];
    let revocation = |subject| Revocation {
        volume: VOLUME,
        by,
        subject,
        at_ms: 1_767_225_600_000,
    };
    let signed = |revocation| Signed::sign(revocation, &device(1)).unwrap();
    let mut devices = vec![device(3).peer(), device(4).peer()];
    devices.sort_unstable();
    let heirs = Heirs {
        volume: VOLUME,
        by,
        subject: subjects[0],
        devices,
    };
    let rotation = Rotation::hand_out(
        (VOLUME, by),
        (epoch_name(1, &secrets().key), &secrets()),
        &subjects,
        &[(device(3).public(), false), (device(4).public(), true)],
        &Wrapping::new(&entropy),
    );
    // More than can be named.
    let mut tickets: Vec<Subject> = (0..=u8::MAX)
        .map(|tag| Subject::Invitation(InvitationId([tag; 16])))
        .collect();
    tickets.insert(0, subjects[0]);
    let many = Rotation::hand_out(
        (VOLUME, by),
        (epoch_name(1, &secrets().key), &secrets()),
        &tickets,
        &[(device(3).public(), false)],
        &Wrapping::new(&Entropy::seeded(6)),
    );
    let chain = VolumeChain::found(VOLUME, &device(1));
    let terms = VolumeTerms {
        read_only: true,
        expires_ms: 1_767_225_600_000,
    };
    let invitation = chain.invite(&device(1), terms, 5, &entropy).unwrap().0;
    vec![
        (
            "revocation",
            Ruling::Revocation(signed(revocation(subjects[0]))),
        ),
        (
            "revocation-ticket",
            Ruling::Revocation(signed(revocation(subjects[1]))),
        ),
        (
            "heirs",
            Ruling::Heirs(Signed::sign(heirs, &device(1)).unwrap()),
        ),
        (
            "rotation",
            Ruling::Rotation(Signed::sign(rotation[0].clone(), &device(1)).unwrap()),
        ),
        ("issued", Ruling::Issued(Issued { chain, invitation })),
        (
            "rotation-many",
            Ruling::Rotation(Signed::sign(many[0].clone(), &device(1)).unwrap()),
        ),
    ]
}

fn vectors() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (title, ruling) in rulings() {
        all.push((format!("{title}-key"), ruling.key().encode()));
        all.push((title.to_owned(), ruling.encode().to_vec()));
    }
    let rulings: Vec<Ruling> = rulings().into_iter().map(|(_, ruling)| ruling).collect();
    all.push(("page".to_owned(), encode_page(VOLUME, &rulings[..2]).0));
    let words = Message::Words {
        volume: VOLUME,
        words: vec![(0, Bytes::from_static(b"proof")), (1, rulings[0].encode())],
    };
    all.push(("message-words".to_owned(), words.encode()));
    all
}

/// With `CAIRN_BLESS` set, the fixture is written anew: only for a new format version.
#[test]
fn rulings_are_those_of_the_golden_vectors() {
    let path = crate::support::root().join("tests/fixtures/rulings-v1.txt");
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let lines = vectors().into_iter();
    let text: String = lines
        .map(|(title, bytes)| format!("{title} {}\n", hex(&bytes)))
        .collect();
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn rulings_are_read_as_they_were_written_and_nothing_else() {
    for (title, ruling) in rulings() {
        let (kind, bytes) = (ruling.kind() as u8, ruling.encode());
        assert_eq!(Ruling::decode(VOLUME, kind, &bytes).unwrap(), ruling);
        assert!(Ruling::decode(cairnfs::base::VolumeId([1; 16]), kind, &bytes).is_err());
        for other in (0..9).filter(|other| *other != kind) {
            assert!(
                Ruling::decode(VOLUME, other, &bytes).is_err(),
                "{title} as {other}"
            );
        }
        for end in 0..bytes.len() {
            assert!(Ruling::decode(VOLUME, kind, &bytes[..end]).is_err());
        }
        assert!(matches!(ruling.key(), Key::Ruling(of, _) if of == kind));
        // What is signed cannot be changed; what is not proves itself elsewhere.
        if !matches!(ruling, Ruling::Issued(_)) {
            for at in (0..bytes.len()).step_by(7) {
                let mut bad = bytes.to_vec();
                bad[at] ^= 1;
                assert!(
                    Ruling::decode(VOLUME, kind, &bad).is_err(),
                    "{title} at {at}"
                );
            }
        }
    }
    let all: Vec<Ruling> = rulings().into_iter().map(|(_, ruling)| ruling).collect();
    let (page, left_out) = encode_page(VOLUME, &all);
    assert_eq!(left_out, 0);
    assert_eq!(decode_page(VOLUME, &page).unwrap(), all);
    assert!(decode_page(VOLUME, &page[1..]).is_err());
}

#[test]
fn what_does_not_fit_into_a_page_is_counted() {
    let (_, ruling) = rulings().swap_remove(3);
    let many = (1 << 20) / ruling.encode().len() + 2;
    let mut all = vec![ruling; many];
    // A smaller one fits behind it.
    all.push(rulings().swap_remove(0).1);
    let (page, left_out) = encode_page(VOLUME, &all);
    assert!(left_out > 0);
    let read = decode_page(VOLUME, &page).unwrap();
    assert_eq!(read.len(), all.len() - left_out);
    assert_eq!(read.last(), all.last());
}

#[test]
fn keys_name_whom_they_leave_out_or_all_at_once() {
    let subjects = |count: u16| -> Vec<Subject> {
        let id = |tag: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&tag.to_be_bytes());
            Subject::Invitation(InvitationId(id))
        };
        (0..count).map(id).collect()
    };
    let covers = |known: u16, revoked: u16| {
        // What follows from documents about exactly these.
        let hash = match Without::of(&subjects(revoked)) {
            Without::Hashed(hash) => hash,
            Without::Listed(_) => [0; 32],
        };
        Without::of(&subjects(known)).covers(&subjects(revoked), &hash)
    };
    assert!(matches!(Without::of(&subjects(256)), Without::Listed(_)));
    assert!(matches!(Without::of(&subjects(257)), Without::Hashed(_)));
    assert!(covers(3, 3) && covers(3, 2) && !covers(2, 3));
    assert!(covers(300, 300) && !covers(299, 300) && !covers(256, 300));
}

#[test]
fn keys_are_for_those_to_whom_they_are_handed_and_a_name_for_one_key() {
    let Some((_, Ruling::Rotation(rotation))) = rulings().into_iter().nth(3) else {
        panic!("the rotation")
    };
    assert_eq!(rotation.open(&device(3)), Some(secrets()));
    assert_eq!(rotation.open(&device(4)), Some(secrets().for_reading()));
    assert_eq!(rotation.open(&device(2)), None);
    assert_eq!(rotation.open(&device(1)), None);
    assert!(rotation.is_for(&device(3).public()) && !rotation.is_for(&device(2).public()));
    // Other keys under the name are not taken, whoever signed them.
    let other = EpochSecrets::generate(&Entropy::seeded(3));
    let made = Rotation::hand_out(
        (VOLUME, device(1).peer()),
        (rotation.epoch, &other),
        &[],
        &[(device(3).public(), false)],
        &Wrapping::new(&Entropy::seeded(4)),
    );
    assert_eq!(made[0].open(&device(3)), None);
    // Many take several documents.
    let many: Vec<_> = (1..120u8)
        .map(|tag| (device(tag).public(), false))
        .collect();
    let wrapping = Wrapping::new(&Entropy::seeded(5));
    let epoch = (epoch_name(2, &other.key), &other);
    let made = Rotation::hand_out((VOLUME, device(1).peer()), epoch, &[], &many, &wrapping);
    assert_eq!(made.len(), 3);
    for tag in 1..120 {
        let found = made.iter().filter(|part| part.open(&device(tag)).is_some());
        assert_eq!(found.count(), 1);
    }
    let all = made.into_iter().map(|part| {
        let signed = Signed::sign(part, &device(1)).unwrap();
        Signed::<Rotation>::decode(&signed.encode()).unwrap()
    });
    assert_eq!(all.count(), 3);
    // Nobody is left out by a key that is none.
    let none = (PeerId([0; 32]).into(), false);
    let made = Rotation::hand_out(
        (VOLUME, device(1).peer()),
        epoch,
        &[],
        &[none, many[0]],
        &wrapping,
    );
    assert!(made[0].open(&device(1)).is_some());
}
