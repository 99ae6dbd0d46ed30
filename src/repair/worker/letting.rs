//! What is there twice is let go, and holders are told of what ended while they were away.

use tokio::time::Instant;

use super::super::endings::{self, Leftover};
use super::super::plan::Surplus;
use super::super::{INTERVAL_MIN, proof};
use super::{LEFTOVERS_AT_ONCE, LET_GO_TOGETHER, Repairer};
use crate::base::BlockId;

/// How many answers' time settling may take: who is asked may draw it out.
const SETTLE_MAX: u32 = 4;

impl Repairer {
    /// Has the group of a block looked at again by the next sweep.
    fn look_again(&mut self, block: BlockId) {
        if let Some(led) = self.led.get_mut(&block.group()) {
            led.fingerprint = None;
        }
    }

    /// Lets some of what is there twice go, beside one another.
    pub(super) async fn let_go_some(&mut self) {
        let from = self.surplus.len().saturating_sub(LET_GO_TOGETHER);
        let some = self.surplus.split_off(from).into_iter().map(|surplus| {
            let (blocks, entropy) = (&self.blocks, &self.options.entropy);
            async move { (surplus, proof::let_go(blocks, entropy, surplus).await) }
        });
        let own = self.own();
        let mut gone = 0;
        let mut kept = Vec::new();
        for (surplus, is_gone) in futures::future::join_all(some).await {
            let Some(led) = self.led.get_mut(&surplus.block.group()) else {
                continue;
            };
            gone += usize::from(is_gone);
            if !is_gone {
                // Whoever has it may have been busy.
                led.fingerprint = None;
                kept.push(surplus);
            } else if surplus.at == own {
                led.left.took_one();
            }
        }
        for surplus in kept {
            // One of both may keep it for somebody for whom the other does not, since one did not hear that this ended.
            let twice = self.twice(&surplus).await;
            self.leftovers.push(twice);
        }
        if self.blocks.is_leaving() {
            // Only once all was looked at it says how much there is.
            if self.shown.remainder().is_some() {
                self.shown.set_remainder(Some(self.remainder()));
            }
            if gone > 0 && self.surplus.is_empty() && self.queue.is_empty() {
                // What is left shows at once.
                self.next_sweep = self.next_sweep.min(Instant::now() + INTERVAL_MIN);
            }
        }
    }

    /// What is there twice, and whom to ask about it.
    async fn twice(&self, surplus: &Surplus) -> Leftover {
        let holders = vec![surplus.at, surplus.other];
        let peers = self.blocks.group_peers(surplus.block.group()).await;
        let live = peers.iter().filter(|peer| peer.is_live());
        let others = live.map(|peer| peer.peer);
        Leftover {
            block: surplus.block,
            others: others.filter(|peer| !holders.contains(peer)).collect(),
            holders,
        }
    }

    /// Tells holders of what ended while they were away.
    pub(super) async fn settle_some(&mut self) {
        let rest = self.leftovers.len().saturating_sub(LEFTOVERS_AT_ONCE);
        let some = self.leftovers.split_off(rest);
        let settling = endings::settle(&self.blocks, &some);
        let Ok(endings) = tokio::time::timeout(SETTLE_MAX * self.timeout(), settling).await else {
            for left in &some {
                self.look_again(left.block);
            }
            return;
        };
        if !endings.ended.is_empty() {
            let ended = endings.ended.len();
            tracing::info!(ended, "holders were told of claims that ended without them");
        }
        for block in &endings.open {
            // Whoever said nothing may have been busy.
            self.look_again(*block);
        }
    }
}
