//! What a peer says of the redundancy of everything.

use super::Node;
use crate::admin::types::{HealthInfo, RepairInfo, Repairs};
use crate::repair::Health;
use crate::repair::plan::{Purpose, Rebuild};

impl Node {
    pub(super) fn show_health(&self) -> HealthInfo {
        info(&self.0.repair.health())
    }

    pub(super) fn show_repairs(&self) -> Repairs {
        let plan = self.0.repair.plan();
        Repairs {
            known: self.0.repair.health().is_known,
            repairs: plan.iter().map(repair_info).collect(),
        }
    }
}

fn info(health: &Health) -> HealthInfo {
    let tally = &health.tally;
    HealthInfo {
        line: health.line(),
        known: health.is_known,
        whole: health.is_known && tally.is_whole(),
        blocks: tally.blocks,
        unreadable_blocks: tally.unreadable,
        survives: tally.least().map(|least| least as u32),
        peers: health.peers as u32,
        away: health.away as u32,
        missing_shards: tally.missing,
        missing_bytes: tally.missing_bytes,
        waiting_shards: tally.waiting,
        eta_ms: tally.eta_ms,
        made_shards: health.made,
        made_bytes: health.made_bytes,
        read_bytes: health.read_bytes,
        moved_shards: health.moved,
        moved_bytes: health.moved_bytes,
    }
}

fn repair_info(rebuild: &Rebuild) -> RepairInfo {
    let missing = rebuild.missing.iter();
    RepairInfo {
        block: rebuild.block.to_string(),
        redundancy: rebuild.profile.to_string(),
        survives: rebuild.survives as u32,
        shard_bytes: u64::from(rebuild.shard_bytes),
        shards: missing
            .map(|(index, to)| (*index, to.to_string()))
            .collect(),
        moved: rebuild.purpose == Purpose::Move,
    }
}
