//! Laws of patches: the list is that of plain editing, little is read and written, nodes stay full.

use proptest::prelude::*;

use super::*;
use crate::base::{BlockId, BlockKey, BlockRef};
use crate::dag::{NodePacker, Step, Walk};

/// Small nodes, so that few extents make a deep tree.
const CHUNK: usize = 4 << 10;
const FEW: usize = 8;

fn block(tag: u32, plain_len: u32) -> BlockRef {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&tag.to_le_bytes());
    BlockRef {
        id: BlockId(id),
        key: BlockKey([7; 32]),
        plain_len,
    }
}

/// Metadata chunks in memory.
#[derive(Default)]
struct Chunks(Vec<Vec<u8>>);

impl Chunks {
    fn seal(&mut self, packer: &mut NodePacker) {
        if let Some(bytes) = packer.take() {
            packer.sealed(block(self.0.len() as u32, bytes.len() as u32));
            self.0.push(bytes.to_vec());
        }
    }

    fn bytes(&self, at: &NodeAt) -> &[u8] {
        let tag = u32::from_le_bytes(at.block.id.0[..4].try_into().unwrap());
        at.slice(&self.0[tag as usize]).unwrap()
    }

    /// Patches; also answers how many nodes were read and written.
    fn patch(
        &mut self,
        content: &FileContent<NodeAt>,
        (start, end): (u64, u64),
        new: Vec<Extent>,
    ) -> (FileContent<NodeAt>, usize, usize) {
        let (mut read, mut written) = (0, 0);
        let mut packer = NodePacker::new(CHUNK);
        let budget = NodeBudget::for_chunks(CHUNK);
        let mut patch = Patch::new(content, start, end, new, budget, FEW);
        let size = u64::MAX;
        loop {
            match patch.step() {
                PatchStep::Need(at) => {
                    read += 1;
                    patch.supply(self.bytes(&at)).unwrap();
                }
                PatchStep::Place(draft) => {
                    written += 1;
                    let mut bytes = draft.encode(&|place| packer.name(place));
                    if !packer.fits(bytes.len()) {
                        self.seal(&mut packer);
                        bytes = draft.encode(&|place| packer.name(place));
                    }
                    let place = packer.push(&bytes);
                    patch.placed(&draft, place);
                }
                PatchStep::Root(place) => {
                    self.seal(&mut packer);
                    let node = packer.name(place);
                    let body = Body::Manifest(NodeAt {
                        block: node.block.unwrap(),
                        offset: node.offset,
                        len: node.len,
                    });
                    return (FileContent { size, body }, read, written);
                }
                PatchStep::Few(extents) => {
                    let body = Body::Inline(extents);
                    return (FileContent { size, body }, read, written);
                }
            }
        }
    }

    /// All extents, and how many nodes they are in.
    fn list(&self, content: &FileContent<NodeAt>) -> (Vec<Extent>, usize) {
        let mut walk = Walk::extents(content, 0, u64::MAX);
        let (mut all, mut nodes) = (Vec::new(), 0);
        loop {
            match walk.step() {
                Step::Need(at) => {
                    nodes += 1;
                    walk.supply(self.bytes(&at)).unwrap();
                }
                Step::Items(items) => all.extend(items),
                Step::Done => return (all, nodes),
            }
        }
    }
}

fn edited(model: &[Extent], start: u64, end: u64, new: &[Extent]) -> Vec<Extent> {
    let before = model.iter().filter_map(|extent| extent.clip(0, start));
    let behind = model.iter().filter_map(|extent| extent.clip(end, u64::MAX));
    before.chain(new.iter().copied()).chain(behind).collect()
}

/// Extents of `len` bytes each, from `start` on, `gap` apart.
fn run(start: u64, count: u64, len: u32, gap: u64, tag: u32) -> Vec<Extent> {
    let step = u64::from(len) + gap;
    let at = |number| Extent {
        offset: start + number * step,
        len,
        block: block(1 << 30 | tag, 1 << 20),
        block_offset: (number % 100) as u32,
    };
    (0..count).map(at).collect()
}

const EMPTY: FileContent<NodeAt> = FileContent {
    size: u64::MAX,
    body: Body::Inline(Vec::new()),
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_patched_list_is_the_edited_one(
        first in 0u64..3000,
        edits in prop::collection::vec((0u64..400_000, 0u64..50_000, 0u64..600, any::<bool>()), 1..25),
    ) {
        let mut chunks = Chunks::default();
        let mut model = run(0, first, 100, 10, 0);
        let mut content = chunks.patch(&EMPTY, (0, 400_000), model.clone()).0;
        for (number, (start, len, count, to_end)) in edits.into_iter().enumerate() {
            let end = if to_end { u64::MAX } else { start + len };
            let most = if to_end { count } else { count.min(len / 40) };
            let new = run(start, most, 37, 3, number as u32 + 1);
            model = edited(&model, start, end, &new);
            content = chunks.patch(&content, (start, end), new).0;
            let (all, _) = chunks.list(&content);
            prop_assert!(all == model);
            prop_assert!(matches!(content.body, Body::Manifest(_)) || model.len() <= FEW);
        }
    }
}

#[test]
fn small_changes_of_a_large_file_are_cheap_and_leave_full_nodes() {
    let mut chunks = Chunks::default();
    let count = 20_000;
    let mut model = run(0, count, 100, 0, 0);
    let mut content = chunks.patch(&EMPTY, (0, u64::MAX), model.clone()).0;
    let (_, fresh) = chunks.list(&content);
    let mut most = (0, 0);
    for number in 0..1000u64 {
        let start = number * 7_919_777 % (count * 100 - 100);
        let new = run(start, 1, 50, 0, number as u32 + 1);
        model = edited(&model, start, start + 50, &new);
        let (next, read, written) = chunks.patch(&content, (start, start + 50), new);
        content = next;
        most = (most.0.max(read), most.1.max(written));
    }
    let (all, nodes) = chunks.list(&content);
    assert!(all == model);
    // Four levels here; a change touches one path, and neighbours that it is joined with.
    assert!(most.0 <= 16 && most.1 <= 16, "{most:?}");
    // Twice as many extents as at first at most, in nodes of which hardly any is scanty.
    let grown = all.len() as f64 / count as f64;
    let bound = fresh as f64 * grown * 2.5;
    assert!(
        (nodes as f64) < bound,
        "{nodes} nodes, {fresh} when built at once, {grown}"
    );
}

#[test]
fn nothing_is_written_where_nothing_changes() {
    let mut chunks = Chunks::default();
    let model = run(0, 5000, 100, 0, 0);
    let content = chunks.patch(&EMPTY, (0, u64::MAX), model).0;
    let (_, nodes) = chunks.list(&content);
    // An append reads one path.
    let new = run(500_000, 1, 50, 0, 1);
    let (appended, read, written) = chunks.patch(&content, (500_000, u64::MAX), new);
    assert!(read <= 5 && written <= 6, "{read} {written} of {nodes}");
    assert_eq!(chunks.list(&appended).0.len(), 5001);
    // Cut to nothing.
    let (cut, _, written) = chunks.patch(&appended, (0, u64::MAX), Vec::new());
    assert_eq!((cut.body, written), (Body::Inline(Vec::new()), 0));
}
