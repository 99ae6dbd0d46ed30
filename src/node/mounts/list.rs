//! Volumes made, listed and removed, with a look at where they are mounted.

use super::{OpenVolume, check_name};
use crate::admin::AdminError;
use crate::admin::types::{
    VolumeClock, VolumeCreate, VolumeEnd, VolumeInfo, VolumeRemove, VolumeShare, VolumeTail,
};
use crate::base::{PeerId, Redundancy};
use crate::node::Node;
use crate::node::volumes::{Record, Role, Share};
use crate::share::Sharer;
use crate::vfs::OwnEnd;

impl Node {
    /// All volumes, with what is known of those that are mounted.
    pub(in crate::node) async fn show_volumes(&self) -> Result<Vec<VolumeInfo>, AdminError> {
        let volumes = &self.0.volumes;
        let listed = volumes.list().await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let local = volumes.local().await?;
        // What is known of an open volume is in its tables.
        let node = self.clone();
        let show = move || {
            let shown = listed.into_iter().map(|(name, record)| {
                let local = local.contains(&record.id);
                node.volume_info(name, &record, local)
            });
            shown.collect()
        };
        Ok(self.0.blocks.pools().disk.run(show).await)
    }

    /// What is told of a volume; `local`: its tree is on this machine.
    pub(in crate::node) fn volume_info(
        &self,
        name: String,
        record: &Record,
        local: bool,
    ) -> VolumeInfo {
        let open = self.0.mounts.find(&name);
        VolumeInfo {
            id: record.id.to_string(),
            redundancy: record.profile.to_string(),
            created_ms: record.created_ms,
            local,
            mounted_on: open.as_ref().map(|open| open.dir.display().to_string()),
            detached: open.as_ref().is_some_and(|open| open.is_detached()),
            read_only: open
                .as_ref()
                .is_some_and(|open| open.is_read_only || open.vfs.is_reader()),
            share: record.share.as_ref().map(|share| {
                let end = open.as_ref().and_then(|open| open.vfs.own_end());
                self.share_info(share, end)
            }),
            usage: open.as_ref().map(|open| open.usage()),
            tail: open.as_ref().and_then(|open| {
                let sharer = open.sharer().clone()?;
                let tail = sharer.tail();
                (!open.vfs.is_reader()).then_some(VolumeTail {
                    wanted: tail.wanted as u32,
                    kept: tail.keepers as u32,
                })
            }),
            conflicts: open.as_ref().map(|open| open.count_conflicts()),
            clocks: open
                .as_ref()
                .map_or_else(Vec::new, |open| self.clocks(open)),
            forked: open.as_ref().map_or_else(Vec::new, |open| {
                let forked = open.vfs.progress().forked.into_iter();
                forked.map(|writer| writer.peer.to_string()).collect()
            }),
            name,
        }
    }

    fn clocks(&self, open: &OpenVolume) -> Vec<VolumeClock> {
        let clocks = open.sharer().as_ref().map(Sharer::clocks);
        let clocks = clocks.unwrap_or_default();
        let clock = |own| {
            move |(peer, ahead_ms): (PeerId, u64)| VolumeClock {
                peer: peer.to_string(),
                own,
                ahead_ms,
            }
        };
        let own = clocks.own_ms.map(|ahead_ms| (self.own(), ahead_ms));
        let others = clocks.others.into_iter().map(clock(false));
        own.into_iter().map(clock(true)).chain(others).collect()
    }

    fn share_info(&self, share: &Share, end: Option<OwnEnd>) -> VolumeShare {
        let role = match share.keys.owner == self.own() {
            true => Role::Owner,
            false if share.keys.read_only => Role::Reader,
            false => Role::Writer,
        };
        VolumeShare {
            role: role.name().to_owned(),
            owner: share.keys.owner.to_string(),
            awaited: share.is_awaited,
            revoked: end.map(|end| VolumeEnd {
                by: end.by.to_string(),
                at_ms: end.at_ms,
                refused: end.untaken,
            }),
        }
    }

    /// Makes an empty volume.
    pub(in crate::node) async fn make_volume(
        &self,
        request: VolumeCreate,
    ) -> Result<VolumeInfo, AdminError> {
        let redundancy = match &request.redundancy {
            None => self.0.options.config.put.redundancy,
            Some(text) => text
                .parse::<Redundancy>()
                .map_err(|error| AdminError::usage(error.to_string()))?,
        };
        let _changing = self.0.mounts.changing.lock().await;
        let record = self.new_volume(&request.name, redundancy).await?;
        Ok(self.volume_info(request.name, &record, true))
    }

    /// Removes a volume that is not mounted.
    pub(in crate::node) async fn drop_volume(
        &self,
        request: VolumeRemove,
    ) -> Result<VolumeInfo, AdminError> {
        let mounts = &self.0.mounts;
        let _changing = mounts.changing.lock().await;
        check_name(&request.name)?;
        self.free(&request.name, "unmount it first").await?;
        let record = self.0.volumes.remove(&request.name).await?;
        Ok(self.volume_info(request.name, &record, false))
    }
}
