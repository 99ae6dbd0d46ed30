//! Nodes of manifests and directories, and links, as others could read them: golden vectors and
//! hostile input.

#![allow(clippy::unwrap_used, reason = "what fails here fails the run")]

mod manifests;

use std::collections::BTreeMap;

use cairnfs::base::{BlockId, BlockKey, BlockRef, EcProfile};
use cairnfs::dag::build::Close;
use cairnfs::dag::{
    Body, DagError, Entries, Entry, EntryKind, Extent, Extents, FileContent, LevelBuilder, Link,
    LinkError, Meta, NodeAt, NodeBudget, NodePacker, NodeRef, Place, Root, Shape, Step, Timestamp,
    TreeRoot, TreeTotals, Walk,
};
use proptest::prelude::*;

fn config(cases: u32) -> ProptestConfig {
    let scale: u32 = std::env::var("CAIRN_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases * scale)
    }
}

fn block(tag: u8, plain_len: u32) -> BlockRef {
    BlockRef {
        id: BlockId([tag; 32]),
        key: BlockKey([tag ^ 0xff; 32]),
        plain_len,
    }
}

fn meta() -> Meta {
    Meta {
        mode: 0o4755,
        mtime: Timestamp {
            seconds: -5,
            nanos: 123_456_789,
        },
    }
}

fn no_place(_: Place) -> NodeRef {
    panic!("nothing to name")
}

/// The node of `len` bytes at the end of a large block.
fn at(bytes: &[u8]) -> NodeAt {
    NodeAt {
        block: block(0xee, 4 << 20),
        offset: (4 << 20) - bytes.len() as u32,
        len: bytes.len() as u32,
    }
}

fn node_ref(block: Option<BlockRef>, offset: u32, len: u32) -> NodeRef {
    NodeRef { block, offset, len }
}

fn entry(name: &str, kind: EntryKind<Place>) -> Entry<Place> {
    Entry {
        name: name.into(),
        kind,
    }
}

fn small_file(size: u64, extents: Vec<Extent>) -> EntryKind<Place> {
    EntryKind::File {
        meta: meta(),
        content: FileContent {
            size,
            body: Body::Inline(extents),
        },
    }
}

fn extent(offset: u64, len: u32, block: BlockRef, block_offset: u32) -> Extent {
    Extent {
        offset,
        len,
        block,
        block_offset,
    }
}

/// A place in the first metadata chunk.
fn place(offset: usize, len: usize) -> Place {
    let mut packer = NodePacker::new(4 << 20);
    if offset > 0 {
        packer.push(&vec![0; offset]);
    }
    packer.push(&vec![0; len])
}

fn vectors() -> BTreeMap<&'static str, String> {
    let hex = |bytes: Vec<u8>| data_encoding::HEXLOWER.encode(&bytes);
    let (one, two) = (block(1, 4096), block(2, 70_000));
    let leaf = Extents::encode_leaf(
        &[extent(0, 4096, one, 0), extent(8192, 10, two, 69_990)],
        &no_place,
    );
    let index = Extents::encode_index(
        1,
        &[
            (
                cairnfs::dag::Span {
                    start: 0,
                    end: 9000,
                },
                node_ref(None, 0, 100),
            ),
            (
                cairnfs::dag::Span {
                    start: 9000,
                    end: 1 << 40,
                },
                node_ref(Some(two), 5, 200),
            ),
        ],
    );
    let name_in_block = |place: Place| node_ref(None, place.offset(), place.len());
    let directory = Entries::encode_leaf(
        &[
            entry("a", small_file(10, vec![extent(0, 10, one, 7)])),
            entry(
                "big",
                EntryKind::File {
                    meta: meta(),
                    content: FileContent {
                        size: 1 << 33,
                        body: Body::Manifest(place(100, 50)),
                    },
                },
            ),
            entry(
                "dir",
                EntryKind::Directory {
                    meta: meta(),
                    entries: Some(place(0, 100)),
                },
            ),
            entry("empty", small_file(0, vec![])),
            entry(
                "empty dir",
                EntryKind::Directory {
                    meta: meta(),
                    entries: None,
                },
            ),
            entry(
                "hard",
                EntryKind::HardLink {
                    first: b"dir/file".to_vec(),
                },
            ),
            entry(
                "soft",
                EntryKind::Symlink {
                    mtime: meta().mtime,
                    target: b"../x".to_vec(),
                },
            ),
        ],
        &name_in_block,
    );
    let name_span = |first: &str, last: &str, count| cairnfs::dag::NameSpan {
        first: first.into(),
        last: last.into(),
        count,
    };
    let directory_index = Entries::encode_index(
        1,
        &[
            (name_span("a", "k", 11), node_ref(None, 0, 100)),
            (name_span("l", "l", 1), node_ref(Some(one), 0, 100)),
        ],
    );
    let root = TreeRoot {
        meta: meta(),
        entries: Some(node_ref(None, 0, 100)),
        totals: TreeTotals {
            files: 1,
            directories: 2,
            symlinks: 3,
            hard_links: 4,
            bytes: 5,
        },
    }
    .encode();
    let link = |root| {
        Link {
            profile: EcProfile::DEFAULT,
            root,
        }
        .to_string()
    };
    let node = NodeAt {
        block: two,
        offset: 300,
        len: 200,
    };
    BTreeMap::from([
        ("extent-leaf", hex(leaf)),
        ("extent-index", hex(index)),
        ("directory-leaf", hex(directory)),
        ("directory-index", hex(directory_index)),
        ("tree-root", hex(root)),
        ("link-empty", link(Root::Empty)),
        ("link-block", link(Root::Block(one))),
        (
            "link-manifest",
            link(Root::Manifest {
                node,
                size: 1 << 40,
            }),
        ),
        ("link-tree", link(Root::Tree { node, size: 12_345 })),
    ])
}

/// With `CAIRN_BLESS` set, the fixture is written anew: only for a new format version.
#[test]
fn encodings_are_those_of_the_golden_vectors() {
    let path = crate::support::root().join("tests/fixtures/dag-v1.txt");
    let text: String = vectors()
        .iter()
        .map(|(name, value)| format!("{name} {value}\n"))
        .collect();
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

fn decode_any(name: &str, bytes: &[u8], at: &NodeAt) -> Result<(), DagError> {
    match name {
        "extent-leaf" | "extent-index" => Extents::decode(bytes, at).map(drop),
        "directory-leaf" | "directory-index" => Entries::decode(bytes, at).map(drop),
        _ => TreeRoot::decode(bytes, at).map(drop),
    }
}

fn node_vectors() -> Vec<(&'static str, Vec<u8>)> {
    vectors()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("link"))
        .map(|(name, hex)| {
            (
                name,
                data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn golden_nodes_can_be_read_and_only_as_what_they_are() {
    for (name, bytes) in node_vectors() {
        decode_any(name, &bytes, &at(&bytes)).unwrap();
        let other = if name.starts_with("extent") {
            "tree-root"
        } else {
            "extent-leaf"
        };
        assert!(matches!(
            decode_any(other, &bytes, &at(&bytes)),
            Err(DagError::WrongKind { .. })
        ));
        let mut newer = bytes.clone();
        newer[1] = 0x17;
        assert_eq!(
            decode_any(name, &newer, &at(&newer)),
            Err(DagError::UnknownKind(23))
        );
        for len in 0..bytes.len() {
            assert!(
                decode_any(name, &bytes[..len], &at(&bytes)).is_err(),
                "{name} cut to {len}"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode_any(name, &longer, &at(&bytes)).is_err());
    }
}

#[test]
fn a_node_may_refer_only_backwards_within_its_block() {
    for (name, bytes) in node_vectors() {
        let low = NodeAt {
            offset: 20,
            ..at(&bytes)
        };
        let refers = name != "extent-leaf";
        assert_eq!(decode_any(name, &bytes, &low).is_err(), refers, "{name}");
    }
}

fn leaf_with(entries: &[(&str, EntryKind<Place>)]) -> Result<(), DagError> {
    let drafts: Vec<Entry<Place>> = entries
        .iter()
        .map(|(name, kind)| entry(name, kind.clone()))
        .collect();
    let bytes = Entries::encode_leaf(&drafts, &|p| node_ref(None, p.offset(), p.len()));
    Entries::decode(&bytes, &at(&bytes)).map(drop)
}

#[test]
fn impossible_entries_are_refused() {
    let file = || small_file(0, vec![]);
    leaf_with(&[("a", file()), ("b", file())]).unwrap();
    let long = "n".repeat(256);
    for name in ["", ".", "..", "a/b", "/", "a\0", &long] {
        assert!(
            matches!(leaf_with(&[(name, file())]), Err(DagError::Entry { .. })),
            "{name:?}"
        );
    }
    assert!(leaf_with(&[]).is_err());
    assert!(leaf_with(&[("a", file()), ("a", file())]).is_err());
    assert!(leaf_with(&[("b", file()), ("a", file())]).is_err());
    for target in ["", "x\0y", &"t".repeat(4096)] {
        let link = EntryKind::Symlink {
            mtime: meta().mtime,
            target: target.into(),
        };
        assert!(leaf_with(&[("a", link)]).is_err());
    }
    for first in ["", "/a", "a/", "a//b", "a/../b", "..", &"p/".repeat(5000)] {
        let link = EntryKind::HardLink {
            first: first.into(),
        };
        assert!(leaf_with(&[("z", link)]).is_err(), "{first}");
    }
    let bad_mode = Meta {
        mode: 0o10000,
        ..meta()
    };
    assert!(
        leaf_with(&[(
            "a",
            EntryKind::Directory {
                meta: bad_mode,
                entries: None
            }
        )])
        .is_err()
    );
    let bad_time = Meta {
        mtime: Timestamp {
            seconds: 0,
            nanos: 1_000_000_000,
        },
        ..meta()
    };
    assert!(
        leaf_with(&[(
            "a",
            EntryKind::Directory {
                meta: bad_time,
                entries: None
            }
        )])
        .is_err()
    );
}

#[test]
fn impossible_extents_are_refused() {
    let one = block(1, 4096);
    let bad = [
        vec![extent(0, 0, one, 0)],
        vec![extent(0, 4097, one, 0)],
        vec![extent(0, 10, one, 4090)],
        vec![extent(u64::MAX - 5, 10, one, 0)],
        vec![extent(0, 10, one, 0), extent(9, 10, one, 0)],
        vec![extent(20, 10, one, 0), extent(0, 10, one, 0)],
        vec![extent(0, 1, block(1, 5 << 20), 0)],
        vec![],
    ];
    for extents in bad {
        let bytes = Extents::encode_leaf(&extents, &no_place);
        assert!(Extents::decode(&bytes, &at(&bytes)).is_err(), "{extents:?}");
        if !extents.is_empty() {
            assert!(leaf_with(&[("a", small_file(1 << 20, extents))]).is_err());
        }
    }
    // Beyond the end of the file.
    assert!(leaf_with(&[("a", small_file(9, vec![extent(0, 10, one, 0)]))]).is_err());
    let nine: Vec<Extent> = (0..9).map(|i| extent(i * 2, 1, one, 0)).collect();
    assert!(leaf_with(&[("a", small_file(100, nine))]).is_err());
}

#[test]
fn links_round_trip_and_their_errors_say_what_is_wrong() {
    for (name, text) in vectors()
        .into_iter()
        .filter(|(name, _)| name.starts_with("link"))
    {
        let link: Link = text.parse().unwrap();
        assert_eq!(link.to_string(), text, "{name}");
        assert_eq!(format!("  {text}\n").parse::<Link>().unwrap(), link);

        let body = text.strip_prefix("cairn:").unwrap();
        assert!(matches!(body.parse::<Link>(), Err(LinkError::NotALink(_))));
        for cut in 0..body.len() {
            let shorter = format!("cairn:{}", &body[..cut]);
            assert!(
                matches!(shorter.parse::<Link>(), Err(LinkError::Length(_))),
                "{name} {cut}"
            );
        }
        for at in 0..body.len() {
            let mut typo = body.as_bytes().to_vec();
            typo[at] = if typo[at] == b'7' { b'8' } else { b'7' };
            let typo = format!("cairn:{}", String::from_utf8(typo).unwrap());
            let error = typo.parse::<Link>().unwrap_err();
            // In the first characters it may change the length as well.
            assert!(
                matches!(error, LinkError::Checksum) || at < 3,
                "{name} {at}: {error}"
            );
        }
        assert_eq!(
            text.replace("cairn:", "cairn:0").parse::<Link>(),
            Err(LinkError::Character('0'))
        );
    }
    assert!(matches!(
        "cairn:é".parse::<Link>(),
        Err(LinkError::Character('é'))
    ));
    assert!(matches!(
        "cairn:".parse::<Link>(),
        Err(LinkError::Length(0))
    ));
    let endless = format!("cairn:{}", "2".repeat(100_000));
    assert!(matches!(endless.parse::<Link>(), Err(LinkError::Length(_))));

    let sealed = |payload: &[u8]| {
        let mut bytes = payload.to_vec();
        bytes.extend_from_slice(&blake3::hash(payload).as_bytes()[..4]);
        format!("cairn:{}", bs58::encode(bytes).into_string()).parse::<Link>()
    };
    assert_eq!(sealed(&[2, 9, 9]), Err(LinkError::NewerVersion(2)));
    for payload in [
        &[0u8, 0, 4, 2][..],
        &[1, 0, 0, 2],
        &[1, 7, 4, 2],
        &[1, 0, 4, 2, 0],
        &[1, 1, 4, 2],
        &[1],
    ] {
        assert!(
            matches!(sealed(payload), Err(LinkError::Inconsistent(_))),
            "{payload:?}"
        );
    }
}
