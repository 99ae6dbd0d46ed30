//! What members ask of one another about blocks: the bytes of it, and that nothing else is read.

use cairnfs::base::BlockId;
use cairnfs::feeds::{Accord, Clearing, Told};
use cairnfs::namespace::VersionVector;

use super::support::{VOLUME, writer};

fn above() -> VersionVector {
    let mut above = VersionVector::default();
    above.raise(writer(1), 7);
    above.raise(writer(2), 300);
    above
}

fn messages() -> Vec<Clearing> {
    let volume = VOLUME;
    let told = |told| Clearing::Told {
        volume,
        round: 9,
        told,
    };
    vec![
        Clearing::Ask {
            volume,
            round: 1 << 40,
            above: above(),
            blocks: vec![BlockId([1; 32]), BlockId([2; 32])],
        },
        Clearing::Again {
            volume,
            round: 1 << 40,
            above: above(),
        },
        told(Told::Named {
            version: above(),
            bits: vec![0b10, 1].into(),
        }),
        told(Told::Busy),
        told(Told::Behind),
        told(Told::Lost),
    ]
}

/// With `CAIRN_BLESS` set, the fixture is written anew: only for a new format version.
#[test]
fn clearing_encodings_are_those_of_the_golden_vectors() {
    let path = crate::support::root().join("tests/fixtures/clearing-v1.txt");
    let mut text = String::new();
    for (number, message) in messages().iter().enumerate() {
        let hex = data_encoding::HEXLOWER.encode(&message.encode());
        text.push_str(&format!("clearing-{number} {hex}\n"));
    }
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, kept);
    for (line, message) in kept.lines().zip(messages()) {
        let (_, hex) = line.split_once(' ').unwrap();
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert!(Clearing::is_one(&bytes) && !Accord::is_one(&bytes));
        assert_eq!(Clearing::decode(&bytes).unwrap(), message);
    }
}

#[test]
fn clearing_messages_are_read_as_they_were_written_and_nothing_else() {
    for message in messages() {
        let bytes = message.encode();
        assert_eq!(message.volume(), VOLUME);
        for cut in 0..bytes.len() {
            assert!(Clearing::decode(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            if let Ok(read) = Clearing::decode(&other) {
                assert_eq!(read.encode(), other);
                assert_ne!(read, message);
            }
        }
    }
    for blocks in [vec![], vec![2, 1], vec![1, 1]] {
        let unsound = Clearing::Ask {
            volume: VOLUME,
            round: 1,
            above: above(),
            blocks: blocks.into_iter().map(|tag| BlockId([tag; 32])).collect(),
        };
        assert!(Clearing::decode(&unsound.encode()).is_err());
    }
}
