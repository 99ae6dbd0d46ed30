//! Whole manifests: built, walked in any range, searched, and lied about.

use super::*;

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
