//! Snapshots made and thinned by a rule, as long as the volume is open. Those with a label are let go by nobody but who
//! says so; of the others each device thins those that it made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::SnapshotError;
use crate::base::KeepRule;
use crate::namespace::{VersionVector, state};
use crate::vfs::checkpoint::SnapshotRows;
use crate::vfs::inner::Inner;

/// How often it is looked whether there is something to do.
const TURN: Duration = Duration::from_secs(30);

impl Inner {
    pub(super) fn keep_snapshots(&self, rule: KeepRule) {
        let shelf = &self.snapshots;
        *shelf.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    /// Looks after snapshots until the volume is closed.
    pub(in crate::vfs) async fn keep_snapshots_always(self: Arc<Self>) {
        let mut made_of: Option<VersionVector> = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(TURN) => {}
            }
            if self.checkpoints.gate.check().is_err() {
                continue;
            }
            let looked_after = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                done = self.look_after_snapshots(&mut made_of) => done,
            };
            if let Err(error) = looked_after {
                tracing::warn!("snapshots are looked after later: {error}");
            }
            let is_used = self.snapshots.reading.used.swap(false, Ordering::Relaxed);
            if !is_used && self.snapshots.nodes().is_empty() {
                // The kernel has no directory open either.
                self.snapshots.reading.forget_all();
                self.forget_snapshots();
            }
        }
    }

    async fn look_after_snapshots(
        self: &Arc<Self>,
        made_of: &mut Option<VersionVector>,
    ) -> Result<(), SnapshotError> {
        self.follow_removals().await?;
        let rule = {
            let rule = &self.snapshots.rule;
            *rule.lock().unwrap_or_else(PoisonError::into_inner)
        };
        if rule.is_empty() || self.is_reader() {
            return Ok(());
        }
        let newest = self.infos()?.last().map(|info| info.made_ms);
        if rule.is_due(newest, self.now_ms()) {
            let now = self.version_now().await?;
            // Nothing was written since the last one: that says it all.
            if made_of.as_ref() != Some(&now) {
                let made = self.make_snapshot("").await?;
                tracing::info!(name = made.name, "a snapshot is made");
                *made_of = Some(self.version_now().await?);
            }
        }
        let infos = self.infos()?;
        let own = infos
            .iter()
            .filter(|info| info.is_own && info.label.is_empty());
        let own: Vec<(u64, _)> = own.map(|info| (info.made_ms, info)).collect();
        let moments: Vec<u64> = own.iter().map(|(made_ms, _)| *made_ms).collect();
        let kept = rule.kept(&moments);
        for (_, info) in own.iter().filter(|(made_ms, _)| !kept.contains(made_ms)) {
            self.remove_snapshot(info.id).await?;
            tracing::info!(name = info.name, "a snapshot is let go");
            // What it let go is no reason for another one.
            *made_of = match made_of.take() {
                Some(_) => Some(self.version_now().await?),
                None => None,
            };
        }
        Ok(())
    }

    async fn version_now(&self) -> Result<VersionVector, SnapshotError> {
        let rows = SnapshotRows(self.volume.snapshot());
        let disk = &self.blocks.pools().disk;
        Ok(disk.run(move || state::version(&rows)).await?)
    }
}
