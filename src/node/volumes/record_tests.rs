//! Records to the byte, of this version and of those before, whole and damaged.

use data_encoding::HEXLOWER;

use super::*;
use crate::crypto::{SigningKey, VolumeTerms};

/// The public half of the device key that is 32 times the byte 1.
const OWNER: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

fn device() -> SigningKey {
    SigningKey::from_secret(&[1; 32])
}

fn local() -> Record {
    Record {
        id: VolumeId([1; 16]),
        owner: OwnerId([2; 16]),
        secret: Some(ConvergenceSecret::from_bytes([3; 32])),
        profile: EcProfile::DEFAULT,
        created_ms: 1_700_000_000_000,
        is_settled: true,
        share: None,
    }
}

fn shared() -> Record {
    let keys = ShareKeys {
        chain: VolumeChain::found(VolumeId([1; 16]), &device()),
        owner: device().peer(),
        keys: vec![
            (1, EpochKey::from_bytes([4; 32])),
            (2, EpochKey::from_bytes([5; 32])),
        ],
        read_only: false,
        ticket: None,
    };
    Record {
        share: Some(Share {
            keys,
            is_awaited: true,
        }),
        ..local()
    }
}

fn reader() -> Record {
    let owner = VolumeChain::found(VolumeId([1; 16]), &device());
    let terms = VolumeTerms {
        read_only: true,
        expires_ms: 2_000_000_000_000,
    };
    let now_ms = 1_700_000_000_000;
    let (invitation, key) = owner
        .invite(&device(), terms, now_ms, &Entropy::seeded(1))
        .unwrap();
    let mut record = shared();
    record.secret = None;
    if let Some(share) = &mut record.share {
        let guest = PeerId([9; 32]);
        share.keys.chain = owner.admit(&invitation, &key, guest, now_ms).unwrap();
        share.keys.read_only = true;
    }
    record
}

fn decode_hex(parts: &[&str]) -> Result<Record, WireError> {
    Record::decode(&HEXLOWER.decode(parts.concat().as_bytes()).unwrap())
}

fn front() -> String {
    [
        "50",
        &"01".repeat(16),
        "50",
        &"02".repeat(16),
        "5820",
        &"03".repeat(32),
        "820402",
        "1b0000018bcfe56800",
        "f5",
    ]
    .concat()
}

#[test]
fn a_record_is_these_bytes() {
    let golden = ["8802", &front(), "f6"].concat();
    assert_eq!(HEXLOWER.encode(&local().encode()), golden);
    assert!(decode_hex(&[&golden]).unwrap() == local());

    let golden = [
        "8802",
        &front(),
        "85",
        // The chain: version, volume, owner, no links.
        "5836840150",
        &"01".repeat(16),
        "5820",
        OWNER,
        "80",
        "5820",
        OWNER,
        "8282015820",
        &"04".repeat(32),
        "82025820",
        &"05".repeat(32),
        "f4f5",
    ]
    .concat();
    assert_eq!(HEXLOWER.encode(&shared().encode()), golden);
    assert!(decode_hex(&[&golden]).unwrap() == shared());
    let reader = reader();
    assert!(Record::decode(&reader.encode()).unwrap() == reader);
    assert!(reader.is_read_only() && !shared().is_read_only() && !local().is_read_only());
}

#[test]
fn a_record_of_version_1_is_one_of_a_volume_that_nobody_shares() {
    let old = ["8701", &front()].concat();
    assert!(decode_hex(&[&old]).unwrap() == local());
    let bytes = HEXLOWER.decode(old.as_bytes()).unwrap();
    for len in 0..bytes.len() {
        assert!(Record::decode(&bytes[..len]).is_err());
    }
    // Neither version passes for the other.
    assert!(decode_hex(&["8702", &front()]).is_err());
    assert!(decode_hex(&["8801", &front(), "f6"]).is_err());
}

#[test]
fn a_record_with_the_key_of_a_ticket_is_of_version_3() {
    let mut record = reader();
    assert_eq!(record.encode()[1], 2);
    record.share.as_mut().unwrap().keys.ticket = Some(SigningKey::from_secret(&[8; 32]));
    let bytes = record.encode();
    assert_eq!(bytes[..2], [0x88, 3]);
    // It is all of the other, and the key at the end.
    let mut other = reader().encode();
    other[1] = 3;
    let differs = bytes.iter().zip(&other).filter(|(a, b)| a != b).count();
    assert_eq!(differs, 1, "the number of items of the share");
    assert_eq!(bytes[other.len()..], [&[0x58, 32][..], &[8; 32]].concat());
    assert!(Record::decode(&bytes).unwrap() == record);
    for len in 0..bytes.len() {
        assert!(Record::decode(&bytes[..len]).is_err());
    }
    // Neither version passes for the other.
    assert!(Record::decode(&other).is_err());
    other[1] = 2;
    assert!(Record::decode(&other).is_ok());
    let mut wrong = bytes;
    wrong[1] = 2;
    assert!(Record::decode(&wrong).is_err());
}

#[test]
fn a_record_of_a_later_version_is_said_to_be_one() {
    let mut later = local().encode();
    later[1] = 4;
    assert!(matches!(
        Record::decode(&later),
        Err(WireError::Version { found: 4, known: 3 })
    ));
    assert!(matches!(
        Record::decode(&[0x82, 5, 0]),
        Err(WireError::Version { found: 5, .. })
    ));
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let change = |change: fn(&mut Record)| {
        let mut record = shared();
        change(&mut record);
        Record::decode(&record.encode())
    };
    assert!(change(|_| {}).is_ok());
    fn keys(record: &mut Record) -> &mut ShareKeys {
        &mut record.share.as_mut().unwrap().keys
    }
    for wrong in [
        // A proof for another volume, of another owner; no secret to write under; odd keys.
        change(|record| record.id = VolumeId([7; 16])),
        change(|record| keys(record).owner = PeerId([7; 32])),
        change(|record| record.secret = None),
        change(|record| keys(record).keys.clear()),
        change(|record| keys(record).keys.reverse()),
        change(|record| {
            let many = (0..=VOLUME_KEYS_MAX as u32).map(|at| (at, EpochKey::from_bytes([1; 32])));
            keys(record).keys = many.collect();
        }),
    ] {
        assert!(matches!(wrong, Err(WireError::Malformed(_))));
    }
    let good = reader().encode();
    for len in 0..good.len() {
        assert!(Record::decode(&good[..len]).is_err());
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Many bits may be either way; none makes a panic or comes back as another.
        if let Ok(record) = Record::decode(&bad) {
            assert_eq!(record.encode(), bad, "bit {bit}");
        }
    }
}

#[test]
fn newer_epochs_are_learnt_and_known_ones_stay() {
    let key = |byte| EpochKey::from_bytes([byte; 32]);
    let mut record = shared();
    let keys = &mut record.share.as_mut().unwrap().keys;
    assert!(!keys.learn(&[(1, key(4))]));
    // A ticket that says otherwise changes nothing.
    assert!(!keys.learn(&[(2, key(9))]));
    assert!(keys.learn(&[(3, key(6)), (2, key(9))]));
    assert_eq!(keys.keys, [(1, key(4)), (2, key(5)), (3, key(6))]);
    // No more than can be kept, and then the latest.
    let many: Vec<_> = (1..=VOLUME_KEYS_MAX as u32 + 5)
        .map(|at| (at, key(7)))
        .collect();
    assert!(keys.learn(&many));
    assert_eq!(keys.keys.len(), VOLUME_KEYS_MAX);
    assert_eq!(keys.keys.first().unwrap().0, 6);
    assert!(are_in_order(&keys.keys));
    assert!(Record::decode(&record.encode()).is_ok());
}
