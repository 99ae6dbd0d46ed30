//! Manifests, directories and links as others could read them: golden vectors, laws, hostile input.

#![allow(clippy::unwrap_used, reason = "what fails here fails the run")]

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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dag-v1.txt");
    let text: String = vectors()
        .iter()
        .map(|(name, value)| format!("{name} {value}\n"))
        .collect();
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
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

/// A pool of metadata chunks in memory.
#[derive(Default)]
struct Chunks(Vec<Vec<u8>>);

impl Chunks {
    fn seal(&mut self, packer: &mut NodePacker) {
        if let Some(bytes) = packer.take() {
            let tag = self.0.len() as u8;
            packer.sealed(block(tag, bytes.len() as u32));
            self.0.push(bytes.to_vec());
        }
    }

    fn place<S: Shape>(
        &mut self,
        packer: &mut NodePacker,
        draft: &cairnfs::dag::Draft<S>,
    ) -> Place {
        let mut bytes = draft.encode(&|place| packer.name(place));
        if !packer.fits(bytes.len()) {
            self.seal(packer);
            bytes = draft.encode(&|place| packer.name(place));
        }
        packer.push(&bytes)
    }

    fn build<S: Shape>(&mut self, chunk_max: usize, drafts: Vec<S::Draft>) -> Option<NodeAt> {
        let mut packer = NodePacker::new(chunk_max);
        let mut builder = LevelBuilder::<S>::new(NodeBudget::for_chunks(chunk_max));
        for draft in drafts {
            builder.push(draft);
            while let Some(full) = builder.take_full() {
                let place = self.place(&mut packer, &full);
                builder.placed(&full, place);
            }
        }
        let root = loop {
            match builder.close() {
                Close::Place(draft) => {
                    let place = self.place(&mut packer, &draft);
                    builder.placed(&draft, place);
                }
                Close::Root(place) => break place,
                Close::Empty => return None,
            }
        };
        self.seal(&mut packer);
        Some(NodeAt {
            block: packer.block(root).unwrap(),
            offset: root.offset(),
            len: root.len(),
        })
    }

    /// All items, and how many nodes were read.
    fn read<S: Shape>(&self, mut walk: Walk<S>) -> Result<(Vec<S::Item>, usize), DagError> {
        let (mut items, mut nodes) = (Vec::new(), 0);
        loop {
            match walk.step() {
                Step::Need(at) => {
                    nodes += 1;
                    let chunk = &self.0[usize::from(at.block.id.0[0])];
                    walk.supply(at.slice(chunk)?)?;
                }
                Step::Items(mut more) => items.append(&mut more),
                Step::Done => return Ok((items, nodes)),
            }
        }
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_manifest_of_any_size_gives_back_any_range(
        lens in prop::collection::vec((0u64..3000, 1u32..5000), 1..900),
        chunk_max in 2048usize..20_000,
        from in 0.0f64..1.0,
        size in 0u64..100_000,
    ) {
        let mut offset = 0;
        let extents: Vec<Extent> = lens
            .iter()
            .enumerate()
            .map(|(i, (gap, len))| {
                let start = offset + gap;
                offset = start + u64::from(*len);
                extent(start, *len, block((i % 200) as u8, 10_000), (i % 5000) as u32)
            })
            .collect();
        let mut chunks = Chunks::default();
        let root = chunks.build::<Extents>(chunk_max, extents.clone()).unwrap();
        prop_assert!(chunks.0.iter().all(|chunk| chunk.len() <= chunk_max));
        let content = FileContent { size: offset, body: Body::Manifest(root) };
        let (all, _) = chunks.read(Walk::extents(&content, 0, u64::MAX)).unwrap();
        prop_assert_eq!(&all, &extents);

        let start = (offset as f64 * from) as u64;
        let (part, _) = chunks.read(Walk::extents(&content, start, start + size)).unwrap();
        let clip = |list: &[Extent]| -> Vec<Extent> {
            list.iter().filter_map(|e| e.clip(start, start + size)).collect()
        };
        prop_assert_eq!(clip(&part), clip(&extents));
    }

    #[test]
    fn nodes_of_random_bytes_are_refused_not_trusted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in ["extent-leaf", "directory-leaf", "tree-root"] {
            let _ = decode_any(name, &bytes, &at(&bytes));
        }
        let _ = String::from_utf8_lossy(&bytes).parse::<Link>();
    }

    /// Whatever passes the decoder is the canonical encoding of what it means.
    #[test]
    fn damaged_nodes_never_read_as_the_same(which in 0usize..5, at_byte in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let (name, bytes) = node_vectors().swap_remove(which);
        let mut damaged = bytes.clone();
        let i = at_byte.index(bytes.len());
        damaged[i] ^= flip;
        if name.starts_with("directory") {
            if let Ok(node) = Entries::decode(&damaged, &at(&damaged)) {
                prop_assert_ne!(node, Entries::decode(&bytes, &at(&bytes)).unwrap());
            }
        } else if name.starts_with("extent") {
            if let Ok(node) = Extents::decode(&damaged, &at(&damaged)) {
                prop_assert_ne!(node, Extents::decode(&bytes, &at(&bytes)).unwrap());
            }
        } else if let Ok(root) = TreeRoot::decode(&damaged, &at(&damaged)) {
            prop_assert_ne!(root, TreeRoot::decode(&bytes, &at(&bytes)).unwrap());
        }
    }
}

#[test]
fn a_directory_of_a_million_entries_is_searched_in_a_few_nodes() {
    let names = |i: u32| format!("file {i:08}");
    let drafts = (0..1_000_000)
        .map(|i| {
            entry(
                &names(i),
                small_file(10, vec![extent(0, 10, block(7, 1000), i % 900)]),
            )
        })
        .collect();
    let mut chunks = Chunks::default();
    let root = chunks.build::<Entries>(4 << 20, drafts).unwrap();
    let wanted = names(654_321).into_bytes();
    let name = wanted.clone();
    let find = Walk::<Entries>::only(root, move |span| span.first <= name && name <= span.last);
    let (leaf, nodes) = chunks.read(find).unwrap();
    assert!(leaf.iter().any(|entry| entry.name == wanted));
    assert!(nodes <= 4, "{nodes} nodes read");
    let (all, _) = chunks.read(Walk::<Entries>::all(root)).unwrap();
    assert_eq!(all.len(), 1_000_000);
    assert_eq!(all.last().unwrap().name, names(999_999).into_bytes());
}

#[test]
fn an_index_that_lies_about_its_children_is_found_out() {
    let drafts: Vec<Extent> = (0..500)
        .map(|i| extent(i * 10, 10, block(9, 100), 0))
        .collect();
    let mut chunks = Chunks::default();
    let root = chunks.build::<Extents>(4096, drafts).unwrap();
    let bytes = root
        .slice(&chunks.0[usize::from(root.block.id.0[0])])
        .unwrap()
        .to_vec();
    let cairnfs::dag::Node::Index { level, children } = Extents::decode(&bytes, &root).unwrap()
    else {
        panic!("an index was expected");
    };
    let rewrite = |change: &dyn Fn(&mut u8, &mut Vec<(cairnfs::dag::Span, NodeRef)>)| {
        let mut level = level;
        let mut rows = children
            .iter()
            .map(|(span, at)| (*span, node_ref(Some(at.block), at.offset, at.len)))
            .collect();
        change(&mut level, &mut rows);
        let encoded = Extents::encode_index(level, &rows);
        let mut forged = Chunks(chunks.0.clone());
        let tag = forged.0.len() as u8;
        let at = NodeAt {
            block: block(tag, encoded.len() as u32),
            offset: 0,
            len: encoded.len() as u32,
        };
        forged.0.push(encoded);
        forged
            .read(Walk::<Extents>::all(at))
            .map(|(items, _)| items.len())
    };
    assert_eq!(rewrite(&|_, _| {}), Ok(500));
    assert!(rewrite(&|_, rows| rows[0].0.end -= 1).is_err());
    assert!(rewrite(&|_, rows| rows[1].0.start += 1).is_err());
    assert!(rewrite(&|_, rows| rows.swap(0, 1)).is_err());
    assert!(rewrite(&|_, rows| rows[1].1 = rows[0].1).is_err());
    assert!(rewrite(&|_, rows| rows.clear()).is_err());
    assert!(rewrite(&|level, _| *level += 1).is_err());
    assert!(rewrite(&|level, _| *level = 0).is_err());
    assert!(rewrite(&|level, _| *level = 200).is_err());
    assert!(rewrite(&|_, rows| rows[0].1.len = 1 << 20).is_err());
}
