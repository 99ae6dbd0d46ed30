//! Random deeds of members of a volume, and books about what must be there in the end. What is written at a time
//! has a number, which can be told from the content and from its size.

use std::collections::{BTreeMap, BTreeSet};

use cairnfs::base::Entropy;
use cairnfs::vfs::Vfs;
use cairnfs_fuse::{Errno, FileType};

use super::hand::Hand;
use super::look::Seen;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// What is written has one of these sizes, and its number besides.
const SIZES: [usize; 4] = [0, 1_000, 5_000, 40_000];
/// Numbers end here.
const TOKENS_MAX: usize = 1_000;
/// The shortest content of which the number can be told.
const UNIT_BYTES: usize = 9;

/// What is written as number `token`.
pub fn content(token: usize, size: usize) -> Vec<u8> {
    let unit = format!("<{token:07}>");
    unit.bytes().cycle().take(size).collect()
}

fn token(content: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(content.get(1..8)?).ok()?;
    text.parse().ok()
}

/// A path at random, of few names.
pub fn path(entropy: &Entropy) -> String {
    let depth = 1 + entropy.below(3);
    let name = |_| NAMES[entropy.below(NAMES.len() as u64) as usize];
    (0..depth).map(name).collect::<Vec<_>>().join("/")
}

/// What a member does.
#[derive(Debug, Clone)]
pub enum Deed {
    Write {
        path: String,
        token: usize,
        size: usize,
        /// Waits until it is durable.
        is_synced: bool,
    },
    Make(String),
    Unlink(String),
    Remove(String),
    Rename(String, String),
}

/// How it went.
#[derive(Debug)]
pub struct Done {
    result: Result<(), Errno>,
    /// What was overwritten or removed by somebody who saw it.
    ended: Option<usize>,
}

impl Deed {
    /// Numbers that [`Books::deed`] takes.
    pub const KINDS: u64 = 78;

    /// Does it. What is ended is looked at in the same moment, which needs no other peer.
    pub async fn carry_out(&self, vfs: &Vfs) -> Done {
        let hand = Hand(vfs);
        match self {
            Deed::Write {
                path,
                token,
                size,
                is_synced,
            } => {
                let ended = number(&hand, path).await;
                let bytes = content(*token, *size);
                let mut result = hand.replace(path, &bytes).await;
                if *is_synced && result.is_ok() {
                    result = hand.fsync(path).await;
                }
                Done { result, ended }
            }
            Deed::Make(path) => Done {
                result: hand.mkdir(path).await,
                ended: None,
            },
            Deed::Unlink(path) => Done {
                ended: number(&hand, path).await,
                result: hand.unlink(path).await,
            },
            Deed::Remove(path) => Done {
                result: hand.rmdir(path).await,
                ended: None,
            },
            Deed::Rename(from, to) => {
                let (one, two) = (hand.find(from).await, hand.find(to).await);
                // Two names of one file stay as they are.
                let is_same = one.is_ok() && one == two;
                let ended = number(&hand, to).await;
                Done {
                    result: hand.rename(from, to).await,
                    ended: ended.filter(|_| !is_same),
                }
            }
        }
    }
}

/// The number of what is at a path, if it is a file that somebody wrote as a whole.
async fn number(hand: &Hand<'_>, path: &str) -> Option<usize> {
    let ino = hand.find(path).await.ok()?;
    let attr = hand.attr(ino).await.ok()?;
    let size = attr.size as usize;
    (attr.kind == FileType::Regular && size >= UNIT_BYTES).then_some(size % TOKENS_MAX)
}

/// See the module.
#[derive(Debug, Default)]
pub struct Books {
    last: usize,
    /// What was written, and not overwritten or removed by anybody who saw it.
    alive: BTreeSet<usize>,
    /// What is durable at its writer.
    durable: BTreeSet<usize>,
    by: BTreeMap<usize, usize>,
    /// What may be gone, since its writer lost power before it was durable.
    lost: BTreeSet<usize>,
}

impl Books {
    /// The deed of a kind below [`Deed::KINDS`].
    pub fn deed(&mut self, kind: u64, path: String, other: String, entropy: &Entropy) -> Deed {
        match kind {
            0..35 => {
                let size = SIZES[entropy.below(SIZES.len() as u64) as usize];
                let is_synced = entropy.below(4) == 0;
                self.last = UNIT_BYTES.max(self.last + 1);
                assert!(self.last < TOKENS_MAX);
                Deed::Write {
                    path,
                    token: self.last,
                    size: size + self.last,
                    is_synced,
                }
            }
            35..45 => Deed::Make(path),
            45..58 => Deed::Unlink(path),
            58..63 => Deed::Remove(path),
            _ => Deed::Rename(path, other),
        }
    }

    /// Writes down how a deed went. A line for the log.
    pub fn note(&mut self, at: usize, deed: &Deed, done: &Done) -> String {
        let line = format!("{at}: {deed:?} of {:?}: {:?}", done.ended, done.result);
        if let Deed::Write {
            token, is_synced, ..
        } = deed
        {
            self.by.insert(*token, at);
            if done.result.is_ok() {
                self.alive.insert(*token);
                if *is_synced {
                    self.durable.insert(*token);
                }
            }
        }
        if let Some(ended) = done.ended.filter(|_| done.result.is_ok()) {
            self.alive.remove(&ended);
        }
        line
    }

    /// The last number so far.
    pub fn last(&self) -> usize {
        self.last
    }

    /// What a member wrote up to a number is durable.
    pub fn are_durable(&mut self, at: usize, upto: usize) {
        let own = self.by.iter().filter(|(_, by)| **by == at);
        let own = own.map(|(token, _)| *token).filter(|own| *own <= upto);
        self.durable.extend(own);
    }

    /// A member loses power.
    pub fn crashes(&mut self, at: usize) {
        let own = self.by.iter().filter(|(_, by)| **by == at);
        let own = own.map(|(token, _)| *token);
        let durable = &self.durable;
        self.lost.extend(own.filter(|own| !durable.contains(own)));
    }

    /// How much must be there.
    pub fn kept(&self) -> usize {
        self.alive.difference(&self.lost).count()
    }

    /// Compares with what is there in the end.
    ///
    /// # Panics
    /// If something is gone, or is not what anybody wrote.
    pub fn check(&self, tree: &BTreeMap<String, Seen>, what: &str) {
        let mut shown = BTreeSet::new();
        let files = tree
            .iter()
            .filter(|(_, seen)| seen.kind == FileType::Regular);
        for (path, seen) in files {
            // Who lost power between making a file and writing it left an empty one.
            let Some(token) = token(&seen.content) else {
                let (len, begin) = (seen.content.len(), seen.content.iter().take(64));
                let begin: Vec<&u8> = begin.collect();
                let blank = seen.content.iter().filter(|byte| **byte == 0).count();
                assert!(
                    seen.content.is_empty(),
                    "{what}: {path} of {len} bytes is torn, {blank} are zero: {begin:?}"
                );
                continue;
            };
            let len = seen.content.len();
            let is_whole = seen.content == content(token, len)
                && (len % TOKENS_MAX == token || self.lost.contains(&token));
            assert!(is_whole, "{what}: {token} of {len} bytes is torn at {path}");
            shown.insert(token);
        }
        let gone: Vec<&usize> = self
            .alive
            .difference(&shown)
            .filter(|token| !self.lost.contains(token))
            .collect();
        let all: Vec<String> = tree
            .iter()
            .map(|(path, seen)| format!("{path}: {:?} {:?}", seen.kind, token(&seen.content)))
            .collect();
        assert!(gone.is_empty(), "{what}: {gone:?} is gone; {all:#?}");
    }
}
