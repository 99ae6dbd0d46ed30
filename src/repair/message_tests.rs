//! Messages as they are written down, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::base::OwnerId;

fn keeper(number: u64) -> Keeper {
    Keeper {
        claim: ClaimId {
            owner: OwnerId([1; 16]),
            writer: PeerId([2; 32]),
            number,
        },
        is_closed: number.is_multiple_of(2),
        expires_ms: 7,
    }
}

fn release(number: u64) -> SignedRelease {
    SignedRelease {
        claim: keeper(number).claim,
        from_ms: number - 1,
        signature: Signature([9; 64]),
    }
}

pub(crate) fn asks() -> Vec<(&'static str, Ask)> {
    let block = BlockId([3; 32]);
    vec![
        ("root", Ask::Root { known: Digest(5) }),
        (
            "groups",
            Ask::Groups {
                groups: vec![Group(1), Group(65_535)],
            },
        ),
        (
            "list",
            Ask::List {
                group: Group(9),
                after: Some(block),
            },
        ),
        (
            "list-first",
            Ask::List {
                group: Group(9),
                after: None,
            },
        ),
        (
            "keepers",
            Ask::Keepers {
                blocks: vec![block],
            },
        ),
        (
            "restore",
            Ask::Restore {
                block,
                index: 4,
                keepers: vec![keeper(1), keeper(2)],
                header: Bytes::from_static(b"header"),
                data: Bytes::from_static(b"shard"),
            },
        ),
        (
            "surplus",
            Ask::Surplus {
                block,
                index: 4,
                other: PeerId([6; 32]),
            },
        ),
        ("claims", Ask::Claims { block, from: 17 }),
        (
            "keep",
            Ask::Keep {
                block,
                keepers: vec![keeper(1), keeper(2)],
            },
        ),
        (
            "ended",
            Ask::Ended {
                claims: vec![keeper(1).claim, keeper(2).claim],
            },
        ),
        (
            "let-go",
            Ask::LetGo {
                releases: vec![release(1), release(2)],
            },
        ),
    ]
}

pub(crate) fn says() -> Vec<(&'static str, Say)> {
    let tally = Tally {
        blocks: 9,
        survives: [0, 1, 8, 0, 0, 0, 0, 0],
        missing: 1,
        ..Tally::default()
    };
    let holding = |profile| Holding {
        block: BlockId([3; 32]),
        held: IndexSet(6),
        profile,
        is_kept: true,
        shard_bytes: 1000,
    };
    vec![
        (
            "root-same",
            Say::Root {
                digest: Digest(5),
                groups: None,
                tally,
            },
        ),
        (
            "groups",
            Say::Groups {
                digests: vec![Digest(1), Digest(2)],
            },
        ),
        (
            "list",
            Say::List {
                blocks: vec![holding(Some(EcProfile::DEFAULT)), holding(None)],
                is_all: false,
            },
        ),
        (
            "keepers",
            Say::Keepers {
                keepers: vec![vec![keeper(2)], vec![]],
            },
        ),
        ("done", Say::Done),
        (
            "claims",
            Say::Claims {
                keepers: vec![keeper(2)],
                next: Some(18),
            },
        ),
        (
            "claims-last",
            Say::Claims {
                keepers: vec![],
                next: None,
            },
        ),
        (
            "ended",
            Say::Ended {
                releases: vec![release(1), release(2)],
            },
        ),
    ]
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/upkeep-v1.txt");

#[test]
fn every_message_has_the_form_that_is_written_down() {
    let hex = |bytes: &Bytes| data_encoding::HEXLOWER.encode(bytes);
    let mut text = String::new();
    for (name, ask) in asks() {
        let body = ask.encode();
        text.push_str(&format!("ask {name} {}\n", hex(&body)));
        assert_eq!(Ask::decode(&body), Ok(ask));
    }
    for (name, say) in says() {
        let body = say.encode();
        text.push_str(&format!("say {name} {}\n", hex(&body)));
        assert_eq!(Say::decode(&body), Ok(say));
    }
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(GOLDEN).unwrap(), text, "\n{text}");
}

#[test]
fn groups_go_in_and_come_out() {
    let mut groups = GroupSet::default();
    for group in [0, 7, 8, 65_535] {
        groups.insert(Group(group));
    }
    let mut other = GroupSet::default();
    other.insert(Group(300));
    groups.add(&other);
    let found: Vec<u16> = groups.iter().map(|group| group.0).collect();
    assert_eq!(found, [0, 7, 8, 300, 65_535]);
    let say = Say::Root {
        digest: Digest(1),
        groups: Some(groups),
        tally: Tally::default(),
    };
    assert_eq!(Say::decode(&say.encode()), Ok(say));
}

#[test]
fn what_is_too_much_or_contradicts_itself_is_refused() {
    let many = vec![BlockId([3; 32]); KEPT_MAX + 1];
    assert!(Ask::decode(&Ask::Keepers { blocks: many }.encode()).is_err());
    let many = vec![Group(1); GROUPS_MAX + 1];
    assert!(Ask::decode(&Ask::Groups { groups: many }.encode()).is_err());
    let with = |index, keepers| Ask::Restore {
        block: BlockId([3; 32]),
        index,
        keepers: vec![keeper(1); keepers],
        header: Bytes::new(),
        data: Bytes::new(),
    };
    assert!(Ask::decode(&with(63, KEEPERS_MAX).encode()).is_ok());
    assert!(Ask::decode(&with(64, 1).encode()).is_err());
    assert!(Ask::decode(&with(0, KEEPERS_MAX + 1).encode()).is_err());
    let keep = |keepers| Ask::Keep {
        block: BlockId([3; 32]),
        keepers: vec![keeper(u64::MAX); keepers],
    };
    assert!(Ask::decode(&keep(KEEPERS_PAGE).encode()).is_ok());
    assert!(Ask::decode(&keep(KEEPERS_PAGE + 1).encode()).is_err());
    let many = vec![release(1); ENDED_MAX + 1];
    let told = |most| Ask::LetGo {
        releases: many[..most].to_vec(),
    };
    assert!(Ask::decode(&told(ENDED_MAX).encode()).is_ok());
    assert!(Ask::decode(&told(ENDED_MAX + 1).encode()).is_err());
    let said = |most| Say::Ended {
        releases: many[..most].to_vec(),
    };
    assert!(Say::decode(&said(ENDED_MAX).encode()).is_ok());
    assert!(Say::decode(&said(ENDED_MAX + 1).encode()).is_err());
    let claims = vec![keeper(1).claim; ENDED_MAX + 1];
    assert!(Ask::decode(&Ask::Ended { claims }.encode()).is_err());
    let mut longer = BytesMut::from(Say::Done.encode().as_ref());
    longer.put_u8(0);
    assert!(Say::decode(&longer.freeze()).is_err());
    assert!(Ask::decode(&Bytes::from_static(&[255; 9])).is_err());
    // Of a later version.
    let later = framed(&wire::encode(&"Later"), &[]);
    assert!(Ask::decode(&later).is_err());
}

proptest! {
    #[test]
    fn anything_is_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let body = framed(&bytes, &[]);
        let _ = (Ask::decode(&body), Say::decode(&body));
        let _ = (Ask::decode(&bytes.clone().into()), Say::decode(&bytes.into()));
    }

    #[test]
    fn damage_never_panics(which in 0..11usize, at: prop::sample::Index, flip in 1..=255u8) {
        let (_, ask) = asks().swap_remove(which);
        let mut bytes = ask.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = Ask::decode(&bytes.into());
    }
}
