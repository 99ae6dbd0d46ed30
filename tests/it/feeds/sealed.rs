//! Sealed deltas: what opens, what is refused, and what somebody without a key learns.

use cairnfs::base::{Class, Classify, VolumeId, wire};
use cairnfs::crypto::EpochKey;
use cairnfs::feeds::sealed::TextHash;
use cairnfs::feeds::{FeedError, Link, LinkHash, SealedDelta, Signed};

use super::support::{VOLUME, delta, device, epoch_key, feed, seal, writer};

#[test]
fn a_sealed_delta_is_read_by_members_and_checked_by_all() {
    let first = delta(1, 1, &[(2, 7)], 5, 1);
    let sealed = seal(&first, 1, None);
    let bytes = sealed.encode();
    assert!(bytes.len().abs_diff(sealed.len_bytes()) < 20);
    let read = SealedDelta::decode(&bytes).unwrap();
    assert_eq!(read, sealed);
    assert_eq!(read.open(&epoch_key()).unwrap(), first);
    let other = EpochKey::from_bytes([8; 32]);
    let error = read.open(&other).unwrap_err();
    assert!(matches!(error, FeedError::Sealed(_)), "{error}");
    assert_eq!(error.class(), Class::Corrupt);
    let second = seal(&delta(1, 2, &[], 6, 2), 1, Some(&sealed));
    assert_eq!(second.link().previous, Some(sealed.hash()));
    // Nothing of the delta is in clear: not what it writes, when, or on what it builds.
    let plain = first.encode();
    let (ino, hlc) = ([1; 16], first.draft.hlc.0.to_be_bytes());
    let secrets: [&[u8]; 3] = [&ino, &hlc, &writer(2).peer.0];
    for secret in secrets {
        let has = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        assert!(has(&plain) && !has(&bytes));
    }
}

#[test]
fn every_changed_bit_and_every_cut_is_noticed() {
    let bytes = seal(&delta(1, 1, &[], 5, 1), 1, None).encode();
    for at in 0..bytes.len() {
        assert!(SealedDelta::decode(&bytes[..at]).is_err());
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(SealedDelta::decode(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(SealedDelta::decode(&longer).is_err());
}

/// A device that forgot what it had sent numbers another delta the same.
#[test]
fn what_is_numbered_again_is_sealed_under_another_key() {
    let one = delta(1, 1, &[], 5, 1);
    let two = delta(1, 1, &[], 5, 2);
    let (first, second) = (seal(&one, 1, None), seal(&two, 1, None));
    assert_ne!(first.link().tag, second.link().tag);
    let differ = |a: &[u8], b: &[u8]| -> Vec<u8> { a.iter().zip(b).map(|(a, b)| a ^ b).collect() };
    let len = one.encode().len();
    let texts = differ(&first.text()[..len], &second.text()[..len]);
    assert_ne!(texts, differ(&one.encode(), &two.encode()));
    // The same delta at another place of the chain, or in another epoch, has another key too.
    let (volume, key) = (VolumeId([4; 16]), epoch_key());
    let elsewhere = SealedDelta::seal(&one, volume, None, (4, &key), &device(1)).unwrap();
    assert_ne!(elsewhere.link().tag, first.link().tag);
    // And the same again is the same.
    assert_eq!(seal(&one, 1, None), first);
}

/// A member signs a link that lies about what is sealed.
#[test]
fn a_link_that_lies_is_refused() {
    let inner = delta(1, 1, &[], 5, 1);
    let forge = |change: &dyn Fn(&mut Link)| -> SealedDelta {
        let mut link = Link {
            volume: VOLUME,
            writer: writer(1),
            first: 1,
            last: 1,
            epoch: 4,
            previous: None,
            tag: cairnfs::crypto::MessageTag([0; 32]),
            text: TextHash([0; 32]),
            text_bytes: 0,
        };
        change(&mut link);
        let header = wire::encode(&(
            1u8,
            link.volume,
            link.writer,
            link.first,
            link.last,
            link.epoch,
            link.previous,
        ));
        let (tag, text) = epoch_key().seal(&header, &inner.encode()).unwrap();
        link.tag = tag;
        link.text = TextHash(*blake3::hash(&text).as_bytes());
        link.text_bytes = text.len() as u32;
        let device = device(if link.writer == writer(2) { 2 } else { 1 });
        let link = Signed::sign(link, &device).unwrap();
        SealedDelta::from_parts(link, text.into()).unwrap()
    };
    assert_eq!(forge(&|_| {}).open(&epoch_key()).unwrap(), inner);
    let lies: [&dyn Fn(&mut Link); 3] = [
        &|link| link.last = 2,
        &|link| link.writer = writer(2),
        &|link| {
            link.first = 2;
            link.last = 2;
            link.previous = Some(LinkHash([1; 32]));
        },
    ];
    for lie in lies {
        let sealed = SealedDelta::decode(&forge(lie).encode()).unwrap();
        assert_eq!(sealed.open(&epoch_key()), Err(FeedError::Mismatch));
    }
    // What cannot be is not even decoded.
    let impossible: [&dyn Fn(&mut Link); 5] = [
        &|link| link.last = 0,
        &|link| link.first = 0,
        &|link| link.last = 1 << 63,
        &|link| link.last = 1 << 40,
        &|link| link.previous = Some(LinkHash([1; 32])),
    ];
    for lie in impossible {
        assert!(SealedDelta::decode(&forge(lie).encode()).is_err());
    }
}

#[test]
fn nobody_signs_for_another_or_out_of_order() {
    let (one, key) = (delta(1, 1, &[], 5, 1), epoch_key());
    let wrong = SealedDelta::seal(&one, VOLUME, None, (4, &key), &device(2));
    assert!(matches!(wrong, Err(FeedError::Misuse(_))));
    let first = seal(&one, 1, None);
    let late = delta(1, 3, &[], 5, 1);
    let late = SealedDelta::seal(&late, VOLUME, Some(first.link()), (4, &key), &device(1));
    assert!(matches!(late, Err(FeedError::Misuse(_))));
    let other = feed(2, 1, 9);
    let next = delta(1, 2, &[], 6, 1);
    let previous = Some(other[0].link());
    let wrong = SealedDelta::seal(&next, VOLUME, previous, (4, &key), &device(1));
    assert!(matches!(wrong, Err(FeedError::Misuse(_))));
    // A signature of another over the same link.
    let sealed = seal(&one, 1, None);
    let body = sealed.link().body().clone();
    let signature = device(2).sign(cairnfs::crypto::Purpose::FeedLink, &body);
    let forged = Signed::<Link>::from_parts(body.clone(), signature);
    assert_eq!(forged, Err(FeedError::Forged(writer(1).peer)));
    // And one of the right device for another purpose.
    let signature = device(1).sign(cairnfs::crypto::Purpose::FeedHead, &body);
    assert!(Signed::<Link>::from_parts(body, signature).is_err());
}
