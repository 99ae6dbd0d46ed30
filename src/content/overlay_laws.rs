//! What holds for an overlay whatever is done to it.

use super::*;
use proptest::prelude::*;

const SIZE: usize = 600;

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Punch(usize, usize),
    Clear(usize, usize),
    Hold,
    Keep,
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..SIZE, 1..90usize);
    prop_oneof![
        5 => (0..SIZE, proptest::collection::vec(1..=255u8, 1..90))
            .prop_map(|(at, bytes)| Op::Write(at, bytes)),
        1 => range().prop_map(|(at, len)| Op::Punch(at, at + len)),
        1 => range().prop_map(|(at, len)| Op::Clear(at, at + len)),
        1 => Just(Op::Hold),
        1 => Just(Op::Keep),
    ]
}

/// What the overlay shows over an old content of 0xff; `None`: that shows through.
fn shown(overlay: &Overlay, kept: &BTreeMap<KeptId, Vec<u8>>) -> Vec<Option<u8>> {
    let mut all = Vec::new();
    for part in overlay.parts(0, SIZE as u64 + 100) {
        match part {
            Part::Old(range) => all.extend(range.map(|_| None)),
            Part::Piece(piece) => match &piece.source {
                Source::Hole => all.extend((0..piece.len).map(|_| Some(0))),
                Source::Memory { .. } => {
                    all.extend(piece.bytes().unwrap().iter().map(|b| Some(*b)));
                }
                Source::Journal { id, at } => {
                    let from = *at as usize;
                    let bytes = &kept[id][from..from + piece.len as usize];
                    all.extend(bytes.iter().map(|b| Some(*b)));
                }
                Source::Block { .. } => unreachable!(),
            },
        }
    }
    all
}

proptest! {
    #[test]
    fn it_shows_what_was_written_last(ops in proptest::collection::vec(op(), 1..60)) {
        let mut overlay = Overlay::default();
        let mut model = vec![None; SIZE + 100];
        let mut held = Vec::new();
        let mut kept = BTreeMap::new();
        for op in ops {
            match op {
                Op::Write(at, bytes) => {
                    overlay.write(at as u64, &bytes);
                    for (slot, byte) in model[at..].iter_mut().zip(&bytes) {
                        *slot = Some(*byte);
                    }
                }
                Op::Punch(from, to) => {
                    overlay.punch(from as u64, to as u64);
                    model[from..to].fill(Some(0));
                }
                Op::Clear(from, to) => {
                    overlay.clear(from as u64, to as u64);
                    model[from..to].fill(None);
                }
                Op::Hold => held.push((overlay.clone(), model.clone(), kept.clone())),
                Op::Keep => {
                    for piece in overlay.clone().pieces() {
                        if let (Some(bytes), Source::Memory { kept: None, .. }) = (piece.bytes(), &piece.source) {
                            let id = KeptId(kept.len() as u64);
                            kept.insert(id, bytes.to_vec());
                            overlay.exchange(&piece, &Source::Journal { id, at: 0 });
                        }
                    }
                }
            }
            prop_assert_eq!(&shown(&overlay, &kept), &model);
            let dirty = overlay.pieces().filter(|p| p.source.is_dirty()).map(|p| p.len).sum::<u64>();
            prop_assert_eq!(overlay.dirty_bytes(), dirty);
            for (overlay, model, kept) in &held {
                prop_assert_eq!(&shown(overlay, kept), model);
            }
        }
    }

    #[test]
    fn what_was_replaced_since_is_left_alone(
        first in proptest::collection::vec(1..=255u8, 100..200),
        writes in proptest::collection::vec((0..200usize, 1..30usize), 0..6),
    ) {
        let mut overlay = Overlay::default();
        overlay.write(0, &first);
        let seen: Vec<Piece> = overlay.pieces().collect();
        let mut model = vec![false; 300];
        model[..first.len()].fill(true);
        for (at, len) in writes {
            overlay.write(at as u64, &vec![7; len]);
            model[at..at + len].fill(false);
        }
        for piece in &seen {
            overlay.exchange(piece, &Source::Hole);
        }
        let mut holes = vec![false; 300];
        for piece in overlay.pieces() {
            if matches!(piece.source, Source::Hole) {
                holes[piece.offset as usize..piece.end() as usize].fill(true);
            }
        }
        prop_assert_eq!(holes, model);
    }
}
