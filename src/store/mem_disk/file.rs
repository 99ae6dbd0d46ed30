//! One file in memory, with what was done to it since its last sync.

use std::ops::Range;
use std::sync::Arc;

use crate::base::Entropy;

/// Unit of allocation.
pub(super) const BLOCK: usize = 4096;

/// Unit that a power cut leaves whole.
const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) name: String,
    /// Shared with every open handle: a removed file lives until the last is dropped.
    pub(super) handles: Arc<()>,
    pub(super) bytes: Vec<u8>,
    /// Which blocks are allocated.
    blocks: Vec<bool>,
    /// How many of them.
    block_count: usize,
    unsynced: Vec<Pending>,
}

/// A change with what undoes it.
#[derive(Clone)]
struct Pending {
    change: Change,
    old_len: usize,
    old_bytes: Vec<u8>,
    fate: Fate,
}

#[derive(Clone)]
pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
    Punch { at: usize, len: usize },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// May or may not survive.
    Open,
    /// Durable, remembered only because something below it is doomed.
    Durable,
    /// Visible now, and certain to be lost: its sync failed.
    Doomed,
}

impl File {
    pub(super) fn named(name: &str) -> Self {
        File {
            name: name.to_owned(),
            ..File::default()
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { at, bytes } => {
                let end = at + bytes.len();
                if end > self.bytes.len() {
                    self.resize(end);
                }
                self.bytes[*at..end].copy_from_slice(bytes);
                if !bytes.is_empty() {
                    self.set_blocks(at / BLOCK..end.div_ceil(BLOCK), true);
                }
            }
            Change::SetLen(len) => self.resize(*len),
            Change::Punch { at, len } => {
                let end = (at + len).min(self.bytes.len());
                let start = (*at).min(end);
                self.bytes[start..end].fill(0);
                let whole = start.div_ceil(BLOCK)..end / BLOCK;
                if whole.start < whole.end {
                    self.set_blocks(whole, false);
                }
            }
        }
    }

    fn set_blocks(&mut self, range: Range<usize>, used: bool) {
        for block in &mut self.blocks[range] {
            self.block_count = self.block_count + usize::from(used) - usize::from(*block);
            *block = used;
        }
    }

    fn resize(&mut self, len: usize) {
        let kept = len.div_ceil(BLOCK);
        if kept < self.blocks.len() {
            self.set_blocks(kept..self.blocks.len(), false);
        }
        self.bytes.resize(len, 0);
        self.blocks.resize(kept, false);
    }

    pub(super) fn change(&mut self, change: Change) {
        let old_len = self.bytes.len();
        let touched = match &change {
            Change::Write { at, bytes } => *at..at + bytes.len(),
            Change::SetLen(len) => *len..usize::MAX,
            Change::Punch { at, len } => *at..at + len,
        };
        let end = touched.end.min(old_len);
        let old_bytes = self.bytes[touched.start.min(end)..end].to_vec();
        self.apply(&change);
        self.unsynced.push(Pending {
            change,
            old_len,
            old_bytes,
            fate: Fate::Open,
        });
    }

    pub(super) fn synced(&mut self) {
        for pending in &mut self.unsynced {
            if pending.fate == Fate::Open {
                pending.fate = Fate::Durable;
            }
        }
        if !self.unsynced.iter().any(|p| p.fate == Fate::Doomed) {
            self.unsynced.clear();
        }
    }

    pub(super) fn doom(&mut self) {
        for pending in &mut self.unsynced {
            if pending.fate == Fate::Open {
                pending.fate = Fate::Doomed;
            }
        }
    }

    /// What the medium has after a power cut.
    pub(super) fn after_crash(&self, mode: &Crash) -> File {
        let mut file = self.clone();
        for pending in self.unsynced.iter().rev() {
            match &pending.change {
                Change::Write { at, .. } | Change::Punch { at, .. } => {
                    let end = at + pending.old_bytes.len();
                    file.bytes[*at..end].copy_from_slice(&pending.old_bytes);
                    file.resize(pending.old_len);
                }
                Change::SetLen(len) => {
                    file.resize(pending.old_len);
                    let start = (*len).min(pending.old_len);
                    file.bytes[start..].copy_from_slice(&pending.old_bytes);
                }
            }
        }
        for pending in &self.unsynced {
            match pending.fate {
                Fate::Doomed => {}
                Fate::Durable => file.apply(&pending.change),
                Fate::Open => mode.survivors(&pending.change, &mut |change| file.apply(change)),
            }
        }
        file.unsynced.clear();
        file.handles = Arc::default();
        file
    }

    pub(super) fn allocated(&self) -> u64 {
        (self.block_count * BLOCK) as u64
    }
}

/// What becomes of changes that were not synced.
#[derive(Debug, Clone)]
pub enum Crash {
    /// All are lost.
    LoseAll,
    /// All survive.
    KeepAll,
    /// Each is lost, kept, or torn between sectors, by chance.
    Random(Entropy),
}

impl Crash {
    /// Seed 0 loses all, 1 keeps all, others mix.
    pub fn seeded(seed: u64) -> Self {
        match seed {
            0 => Crash::LoseAll,
            1 => Crash::KeepAll,
            other => Crash::Random(Entropy::seeded(other)),
        }
    }

    fn survivors(&self, change: &Change, apply: &mut dyn FnMut(&Change)) {
        let entropy = match self {
            Crash::LoseAll => return,
            Crash::KeepAll => return apply(change),
            Crash::Random(entropy) => entropy,
        };
        match (entropy.below(3), change) {
            (0, _) => {}
            (1, _) | (_, Change::SetLen(_) | Change::Punch { .. }) => apply(change),
            (_, Change::Write { at, bytes }) => {
                let (mut start, end) = (*at, at + bytes.len());
                while start < end {
                    let stop = ((start / SECTOR + 1) * SECTOR).min(end);
                    if entropy.below(2) == 0 {
                        let part = bytes[start - at..stop - at].to_vec();
                        apply(&Change::Write {
                            at: start,
                            bytes: part,
                        });
                    }
                    start = stop;
                }
            }
        }
    }
}
