//! What members ask of one another: the bytes of it, and that nothing else is read.

use cairnfs::base::{PeerId, VolumeId};
use cairnfs::feeds::{Accord, FeedError, LockMode, LockName, Signed, Vote, VoterList, Want};
use cairnfs::namespace::VersionVector;

use super::support::{Kind, VOLUME, device, writer};

fn list(number: u64, voters: &[u8], previous: &[u8]) -> VoterList {
    let peers = |tags: &[u8]| {
        let mut peers: Vec<PeerId> = tags.iter().map(|tag| PeerId([*tag; 32])).collect();
        peers.sort_unstable();
        peers
    };
    VoterList {
        volume: VOLUME,
        owner: device(1).peer(),
        number,
        voters: peers(voters),
        previous: peers(previous),
    }
}

fn signed() -> Signed<VoterList> {
    Signed::sign(list(2, &[1, 2, 3], &[1, 2]), &device(1)).unwrap()
}

fn released() -> VersionVector {
    let mut released = VersionVector::default();
    released.raise(writer(1), 7);
    released.raise(writer(2), 300);
    released
}

fn messages() -> Vec<Accord> {
    let volume = VOLUME;
    let want = |tag, mode| Want {
        name: LockName([tag; 32]),
        mode,
        waited_ms: 1500,
    };
    vec![
        Accord::Reach {
            volume,
            writer: writer(1),
            on_disk: true,
        },
        Accord::Reached {
            volume,
            writer: writer(1),
            last: 9,
            on_disk: false,
        },
        Accord::Ask {
            volume,
            list: 2,
            attempt: 1 << 40,
            wants: vec![want(1, LockMode::Shared), want(2, LockMode::Exclusive)],
        },
        Accord::Votes {
            volume,
            list: 2,
            votes: vec![Vote::Taken, Vote::Granted, Vote::NotYet, Vote::Deadlock],
            released: released(),
        },
        Accord::Release {
            volume,
            attempt: 5,
            names: vec![LockName([1; 32])],
            released: released(),
        },
        Accord::Released { volume, list: 2 },
        Accord::List { volume, list: None },
        Accord::List {
            volume,
            list: Some(signed()),
        },
        Accord::Listed {
            volume,
            list: Some(signed()),
            released: released(),
        },
    ]
}

fn kind(messages: &[Accord]) -> Kind<'_, Accord> {
    Kind {
        messages,
        encode: Accord::encode,
        decode: Accord::decode,
    }
}

#[test]
fn accord_encodings_are_those_of_the_golden_vectors() {
    for bytes in kind(&messages()).check_golden("accord") {
        assert!(Accord::is_one(&bytes));
    }
}

#[test]
fn accord_messages_are_read_as_they_were_written_and_nothing_else() {
    kind(&messages()).check_nothing_else_is_read();
    assert!(messages().iter().all(|message| message.volume() == VOLUME));
    let other = Accord::List {
        volume: VolumeId([8; 16]),
        list: Some(signed()),
    };
    assert_eq!(Accord::decode(&other.encode()), Err(FeedError::OtherVolume));
}

#[test]
fn lists_of_voters_follow_one_another_by_one() {
    for (voters, previous, is_one) in [
        (&[1, 2, 3][..], &[][..], true),
        (&[1, 2, 3], &[1, 2], true),
        (&[1, 2], &[1, 2, 3], true),
        (&[1, 2], &[1, 2], true),
        (&[1, 3], &[1, 2], false),
        (&[1, 2, 3, 4], &[1, 2], false),
    ] {
        let list = list(3, voters, previous);
        let bytes = Signed::sign(list.clone(), &device(1)).unwrap().encode();
        assert_eq!(
            Signed::<VoterList>::decode(&bytes).is_ok(),
            is_one,
            "{list:?}"
        );
    }
    let mut unsorted = list(1, &[1, 2], &[]);
    unsorted.voters.reverse();
    let bytes = Signed::sign(unsorted, &device(1)).unwrap().encode();
    assert!(Signed::<VoterList>::decode(&bytes).is_err());
    let many: Vec<u8> = (0..32).collect();
    let bytes = Signed::sign(list(1, &many, &[]), &device(1))
        .unwrap()
        .encode();
    assert!(Signed::<VoterList>::decode(&bytes).is_err());
    assert!(Signed::sign(list(1, &[1], &[]), &device(2)).is_err());
}
