//! What the worker does while this peer leaves: it hands its own shards over, and lets go what others have by then.

use super::super::leaving::Remainder;
use super::super::plan::moves::handed_over;
use super::super::plan::{Purpose, Surplus, Verdict, judge};
use super::super::survey::{Findings, Looked};
use super::look::Views;
use super::{Repairer, SURPLUS_MAX};
use crate::base::{Group, PeerId};

impl Repairer {
    /// What is to be done about the own shards of a group; all else is the matter of who leads it.
    pub(super) fn judge_leaving(
        &mut self,
        group: Group,
        views: &Views,
        findings: Findings,
        fingerprint: u128,
    ) {
        self.surplus
            .retain(|surplus| surplus.block.group() != group);
        let own = self.own();
        let mut is_settled = true;
        let mut left = Remainder::default();
        for looked in findings.blocks {
            let candidates = views.of(&looked);
            let Looked { state, .. } = looked;
            let held = state.held_by(&own);
            if held.is_empty() {
                continue;
            }
            let takers = self.takers(&state, candidates);
            let judgement = judge(&state, &takers);
            match judgement.verdict {
                // It may be kept by now without that anybody's digest tells so.
                Verdict::NotKept => {
                    is_settled = false;
                    continue;
                }
                Verdict::Leftover => continue,
                _ => {}
            }
            let count = held.len() as u64;
            left.shards += count;
            left.bytes += count * u64::from(state.shard_bytes);
            // What is not safe is made so first, by who leads the group.
            let is_whole = judgement.missing == 0 && judgement.waiting == 0;
            // What is there twice is let go before anything moves.
            let is_clear = judgement.surplus.is_none() || !judgement.moves.is_empty();
            if judgement.verdict != Verdict::Nothing || !is_whole || !is_clear {
                left.waiting += count;
                // Of what is missing because somebody is not believed here, who leads the group need not know.
                let is_doubted = self.distrusted.refutes(&state.block)
                    || candidates.iter().any(|c| self.is_disbelieved(&c.peer));
                if let Verdict::Rebuild(rebuild) = judgement.verdict
                    && is_doubted
                {
                    self.queue.insert(rebuild);
                }
                continue;
            }
            let mine = judgement.moves.iter().filter(|moved| moved.from == own);
            let moves: Vec<(u8, PeerId)> = mine.map(|moved| (moved.index, moved.to)).collect();
            let let_go = handed_over(&state, candidates, own);
            let homeless = count.saturating_sub((moves.len() + let_go.len()) as u64);
            left.homeless += homeless;
            // Somebody may have room by the next time.
            is_settled &= moves.is_empty() && let_go.is_empty() && homeless == 0;
            if !moves.is_empty() {
                self.queue.insert(state.task(moves, Purpose::Move));
            }
            for (index, other) in let_go {
                if self.surplus.len() < SURPLUS_MAX {
                    self.surplus.push(Surplus {
                        block: state.block,
                        index,
                        at: own,
                        other,
                    });
                }
            }
        }
        let led = self.led.entry(group).or_default();
        led.tally = Default::default();
        led.left = left;
        led.fingerprint = is_settled.then_some(fingerprint);
        led.seen.clear();
        led.seen.extend(findings.seen);
    }

    /// What is left in all groups.
    pub(super) fn remainder(&self) -> Remainder {
        let mut all = Remainder::default();
        self.led.values().for_each(|led| all.add(&led.left));
        all
    }
}
