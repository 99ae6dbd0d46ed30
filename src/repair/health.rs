//! How well everything is kept: what each peer says of the groups that it looks after, put together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::leaving::Remainder;
use super::message::Tally;
use super::plan::{Judgement, Rebuild, Verdict};
use crate::base::{ByteSize, PeerId};

impl Tally {
    /// Adds one block, judged as it is shown: without holding it against peers that have just gone.
    pub(super) fn add_block(&mut self, shown: &Judgement, shard_bytes: u32) {
        match shown.verdict {
            Verdict::NotKept | Verdict::Leftover => return,
            Verdict::Unreadable => self.unreadable += 1,
            Verdict::Nothing | Verdict::Rebuild(_) | Verdict::Spread(_) => {
                let last = self.survives.len() - 1;
                let survives = shown.survives.unwrap_or(0).min(last);
                if let Some(count) = self.survives.get_mut(survives) {
                    *count += 1;
                }
            }
        }
        self.blocks += 1;
        self.missing += shown.missing as u64;
        self.missing_bytes += shown.missing as u64 * u64::from(shard_bytes);
        self.waiting += shown.waiting as u64;
    }

    /// Adds what somebody else looks after.
    pub fn add(&mut self, other: &Tally) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        sum(&mut self.blocks, other.blocks);
        sum(&mut self.unreadable, other.unreadable);
        for (count, more) in self.survives.iter_mut().zip(other.survives) {
            sum(count, more);
        }
        sum(&mut self.missing, other.missing);
        sum(&mut self.missing_bytes, other.missing_bytes);
        sum(&mut self.waiting, other.waiting);
        sum(&mut self.unseen_groups, other.unseen_groups);
        self.eta_ms = self.eta_ms.max(other.eta_ms);
    }

    /// The least number of lost peers that any block survives that can be read; none if there is no such block.
    pub fn least(&self) -> Option<usize> {
        self.survives.iter().position(|count| *count > 0)
    }

    /// Whether all is as it should be.
    pub const fn is_whole(&self) -> bool {
        self.unreadable == 0 && self.missing == 0 && self.waiting == 0 && self.unseen_groups == 0
    }
}

/// The answer to "is my data safe".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Everything that is looked after by somebody who can be asked.
    pub tally: Tally,
    /// Members that offer storage.
    pub peers: usize,
    /// Of which are away.
    pub away: usize,
    /// Whether this peer has looked at its groups since it was started.
    pub is_known: bool,
    /// Shards that this peer has made anew since it was started.
    pub made: u64,
    /// Bytes of those.
    pub made_bytes: u64,
    /// Bytes of shards that it read for that, its own included.
    pub read_bytes: u64,
    /// Shards that this peer has copied to where they belong since it was started.
    pub moved: u64,
    /// Bytes of those.
    pub moved_bytes: u64,
}

impl Health {
    /// In one line.
    pub fn line(&self) -> String {
        let tally = &self.tally;
        if !self.is_known {
            return "not known yet: what is held was not looked at so far".to_owned();
        }
        let peers = match self.peers {
            1 => "1 peer".to_owned(),
            count => format!("{count} peers"),
        };
        let mut line = match tally.least() {
            _ if tally.unreadable > 0 => format!(
                "{} of {} blocks cannot be read now",
                tally.unreadable, tally.blocks
            ),
            None => "nothing is kept yet".to_owned(),
            Some(0) => format!("not everything survives the loss of a peer ({peers})"),
            Some(count) => format!("everything survives the loss of any {count} of {peers}"),
        };
        if self.away > 0 {
            line.push_str(&format!(", {} away", self.away));
        }
        if tally.missing > 0 {
            line.push_str(&format!(
                "; {} being repaired",
                ByteSize(tally.missing_bytes)
            ));
            if tally.eta_ms > 0 {
                line.push_str(&format!(", done in about {}", about(tally.eta_ms)));
            }
        }
        if tally.waiting > 0 {
            line.push_str(&format!(
                "; {} shards are at peers that are away and may come back",
                tally.waiting
            ));
        }
        if tally.unseen_groups > 0 {
            line.push_str("; some of it is still to be looked at");
        }
        line
    }
}

fn about(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..90 => format!("{} s", seconds.max(1)),
        seconds @ 90..5400 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// What is shown of upkeep, while it goes on. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    others: BTreeMap<PeerId, Tally>,
    plan: Vec<Rebuild>,
    is_known: bool,
    made: u64,
    made_bytes: u64,
    read_bytes: u64,
    moved: u64,
    moved_bytes: u64,
    remainder: Option<Remainder>,
}

impl Shown {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// What others say of what they look after.
    pub(super) fn set_others(&self, others: BTreeMap<PeerId, Tally>) {
        self.lock().others = others;
    }

    /// All groups were looked at, and this is to be done.
    pub(super) fn set_plan(&self, plan: Vec<Rebuild>) {
        let mut state = self.lock();
        state.plan = plan;
        state.is_known = true;
    }

    pub(super) fn plan(&self) -> Vec<Rebuild> {
        self.lock().plan.clone()
    }

    /// What is to be handed over; none if this peer stays.
    pub(super) fn set_remainder(&self, remainder: Option<Remainder>) {
        self.lock().remainder = remainder;
    }

    pub(super) fn remainder(&self) -> Option<Remainder> {
        self.lock().remainder
    }

    pub(super) fn add_moved(&self, shards: u64, bytes: u64) {
        let mut state = self.lock();
        state.moved += shards;
        state.moved_bytes += bytes;
    }

    pub(super) fn add_made(&self, shards: u64, bytes: u64, read_bytes: u64) {
        let mut state = self.lock();
        state.made += shards;
        state.made_bytes += bytes;
        state.read_bytes += read_bytes;
    }

    pub(super) fn health(&self, own: Tally, peers: usize, away: usize) -> Health {
        let state = self.lock();
        let mut tally = own;
        state.others.values().for_each(|other| tally.add(other));
        Health {
            tally,
            peers,
            away,
            is_known: state.is_known,
            made: state.made,
            made_bytes: state.made_bytes,
            read_bytes: state.read_bytes,
            moved: state.moved,
            moved_bytes: state.moved_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_matters() {
        let mut health = Health {
            peers: 6,
            is_known: true,
            ..Health::default()
        };
        assert_eq!(health.line(), "nothing is kept yet");
        health.tally.blocks = 10;
        health.tally.survives[2] = 10;
        assert_eq!(
            health.line(),
            "everything survives the loss of any 2 of 6 peers"
        );
        assert!(health.tally.is_whole());
        health.tally.survives[1] = 3;
        health.tally.missing = 3;
        health.tally.missing_bytes = 14 << 30;
        health.tally.eta_ms = 351_000;
        health.away = 1;
        assert_eq!(
            health.line(),
            "everything survives the loss of any 1 of 6 peers, 1 away; 14 GiB being repaired, done in about 6 min"
        );
        health.tally.unreadable = 2;
        assert!(
            health
                .line()
                .starts_with("2 of 10 blocks cannot be read now")
        );
        assert!(!health.tally.is_whole());
    }
}
