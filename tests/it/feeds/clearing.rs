//! What members ask of one another about blocks: the bytes of it, and that nothing else is read.

use cairnfs::base::BlockId;
use cairnfs::feeds::{Accord, Clearing, Told};
use cairnfs::namespace::VersionVector;

use super::support::{Kind, VOLUME, writer};

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

fn kind(messages: &[Clearing]) -> Kind<'_, Clearing> {
    Kind {
        messages,
        encode: Clearing::encode,
        decode: Clearing::decode,
    }
}

#[test]
fn clearing_encodings_are_those_of_the_golden_vectors() {
    for bytes in kind(&messages()).check_golden("clearing") {
        assert!(Clearing::is_one(&bytes) && !Accord::is_one(&bytes));
    }
}

#[test]
fn clearing_messages_are_read_as_they_were_written_and_nothing_else() {
    kind(&messages()).check_nothing_else_is_read();
    assert!(messages().iter().all(|message| message.volume() == VOLUME));
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
