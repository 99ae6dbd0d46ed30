//! How safe is what lies below a path.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::conflicts::whole;
use crate::admin::AdminError;
use crate::admin::types::{PathRequest, PathStat};
use crate::base::{BlockId, ByteSize, EcProfile};
use crate::blocks::Blocks;
use crate::node::Node;
use crate::vfs::FootingError;

/// What all live peers together hold of some blocks.
#[derive(Default)]
pub(in crate::node) struct Held {
    pub(in crate::node) shards: u64,
    pub(in crate::node) present: u64,
    pub(in crate::node) unreadable: u64,
    /// Losses that all blocks survive from now on; none if one cannot be read, or there are none.
    pub(in crate::node) survives: Option<u32>,
    /// Peers that hold a part.
    pub(in crate::node) peers: u32,
}

/// Asks all live peers what they hold of blocks of one redundancy.
pub(in crate::node) async fn held(blocks: &Blocks, ids: &[BlockId], profile: EcProfile) -> Held {
    let (health, peers) = blocks.health(ids, profile).await;
    let present: usize = health.iter().map(|block| block.present.len()).sum();
    let unreadable = health.iter().filter(|block| block.survives.is_none());
    let unreadable = unreadable.count();
    let least = health.iter().filter_map(|block| block.survives).min();
    Held {
        shards: (ids.len() * profile.total_shards()) as u64,
        present: present as u64,
        unreadable: unreadable as u64,
        survives: least.filter(|_| unreadable == 0).map(|least| least as u32),
        peers: peers as u32,
    }
}

impl Node {
    /// What there is below a path of a mount, and what it survives.
    pub(in crate::node) async fn examine_path(
        &self,
        request: PathRequest,
    ) -> Result<PathStat, AdminError> {
        let (open, path) = self.open_at(&request.path_hex, whole).await?;
        let told = path.display().to_string();
        let inside = path.strip_prefix(&open.dir).unwrap_or(Path::new(""));
        let footing = open.vfs.footing(inside.as_os_str().as_bytes()).await;
        let footing = footing.map_err(|error| path_error(&told, &error))?;
        let mut by_profile: BTreeMap<EcProfile, Vec<BlockId>> = BTreeMap::new();
        for (id, profile) in &footing.blocks {
            by_profile.entry(*profile).or_default().push(*id);
        }
        let mut stat = PathStat {
            path: told,
            volume: open.name.clone(),
            files: footing.files,
            directories: footing.directories,
            size_bytes: footing.size_bytes,
            blocks: footing.blocks.len() as u64,
            inline_bytes: footing.unplaced_bytes - footing.journal_bytes,
            journal_bytes: footing.journal_bytes,
            recode_bytes: footing.recode_bytes,
            ..PathStat::default()
        };
        let mut least = BTreeSet::new();
        for (profile, ids) in by_profile {
            let held = held(&self.0.blocks, &ids, profile).await;
            stat.redundancy.push(profile.to_string());
            stat.shards += held.shards;
            stat.shards_present += held.present;
            stat.unreadable_blocks += held.unreadable;
            stat.peers = stat.peers.max(held.peers);
            least.insert(held.survives);
        }
        stat.survives = least.first().copied().flatten();
        stat.line = sentence(&stat);
        Ok(stat)
    }
}

/// What matters most, first.
fn sentence(stat: &PathStat) -> String {
    let mut line = match (stat.survives, stat.blocks) {
        (_, 0) if stat.inline_bytes > 0 => {
            "small enough to be kept with its name, by every machine that has the volume".to_owned()
        }
        (_, 0) => "nothing of it is on other machines".to_owned(),
        (None, blocks) => format!(
            "not all of it can be read now: of {blocks} blocks {} have too few shards within reach",
            stat.unreadable_blocks
        ),
        (Some(0), _) => "all of it can be read, and survives the loss of no peer".to_owned(),
        (Some(count), _) => format!(
            "all of it survives the loss of any {count} of {} peers",
            stat.peers
        ),
    };
    if stat.blocks == 0 && stat.inline_bytes == 0 && stat.journal_bytes == 0 {
        "there is no content to lose".clone_into(&mut line);
    }
    if stat.survives.is_some() && stat.shards_present < stat.shards {
        let missing = stat.shards - stat.shards_present;
        line += &format!("; {missing} of {} shards are missing", stat.shards);
    }
    if stat.recode_bytes > 0 {
        let bytes = ByteSize(stat.recode_bytes);
        line +=
            &format!("; {bytes} of it are still to be stored anew with the redundancy that is set");
    }
    if stat.journal_bytes > 0 {
        let bytes = ByteSize(stat.journal_bytes);
        line += &format!("; {bytes} so far on this machine alone");
    }
    line
}

pub(super) fn path_error(path: &str, error: &FootingError) -> AdminError {
    let told = AdminError::of(error);
    let message = format!("{path}: {}", told.error);
    let told = AdminError {
        error: message,
        ..told
    };
    match error {
        FootingError::NotFound => told.hint("snapshots are as safe as the volume: cairn status"),
        FootingError::Busy => told.hint("try again"),
        FootingError::Manifest(_) => told.hint("start more of the peers that hold it: cairn peers"),
        FootingError::Volume(_) => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_matters() {
        let stat = |blocks, survives: Option<u32>, missing, inline_bytes, journal_bytes| {
            sentence(&PathStat {
                blocks,
                shards: blocks * 6,
                shards_present: blocks * 6 - missing,
                unreadable_blocks: u64::from(survives.is_none()),
                survives,
                peers: 6,
                inline_bytes,
                journal_bytes,
                ..PathStat::default()
            })
        };
        assert_eq!(stat(0, None, 0, 0, 0), "there is no content to lose");
        assert!(stat(0, None, 0, 5, 0).starts_with("small enough"));
        let alone = stat(0, None, 0, 0, 3 << 20);
        assert_eq!(
            alone,
            "nothing of it is on other machines; 3 MiB so far on this machine alone"
        );
        assert_eq!(
            stat(2, Some(2), 0, 9, 0),
            "all of it survives the loss of any 2 of 6 peers"
        );
        assert!(stat(2, Some(1), 1, 0, 0).ends_with("peers; 1 of 12 shards are missing"));
        assert!(stat(2, Some(0), 4, 0, 0).contains("the loss of no peer; 4 of 12"));
        assert!(stat(9, None, 30, 0, 0).contains("of 9 blocks 1 have too few shards"));
    }
}
