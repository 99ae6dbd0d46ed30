//! `volume voters`: who decides on the locks of a mounted volume.

use std::sync::Arc;

use futures::FutureExt;

use crate::admin::AdminError;
use crate::admin::types::{VolumeVoters, VolumeVotersRequest};
use crate::base::PeerId;
use crate::feeds::voters::majority;
use crate::node::Node;
use crate::node::volumes::VolumesError;

impl Node {
    /// Tells or says who decides on the locks of a mounted volume.
    pub(in crate::node) async fn volume_voters_of(
        &self,
        request: VolumeVotersRequest,
    ) -> Result<VolumeVoters, AdminError> {
        let VolumeVotersRequest { name, voters } = request;
        let wanted = voters.map(|voters| {
            let parsed = voters.iter().map(|voter| {
                let parsed = voter.parse::<PeerId>();
                parsed.map_err(|error| AdminError::usage(format!("{voter}: {error}")))
            });
            parsed.collect::<Result<Vec<PeerId>, _>>()
        });
        let wanted = wanted.transpose()?;
        let found = self.0.volumes.find(&name).await?;
        let record = found.ok_or_else(|| VolumesError::NotFound(name.clone()))?;
        let Some(keys) = record.share_keys() else {
            let error =
                format!("the volume `{name}` is this machine's alone: its locks need no voters");
            return Err(
                AdminError::refused(error).hint(format!("`cairn volume ticket {name}` shares it"))
            );
        };
        let open = self.0.mounts.find(&name);
        let Some(sharer) = open.as_ref().and_then(|open| open.sharer().clone()) else {
            let error = AdminError::refused(format!("the volume `{name}` is not mounted here"));
            return Err(error.hint(format!("mount it first: cairn mount {name} DIR")));
        };
        if let Some(wanted) = wanted {
            if keys.owner != self.own() {
                let error = AdminError::refused(format!(
                    "only the owner of the volume `{name}` says who votes"
                ));
                return Err(error.hint(format!("do it on the machine of {}", keys.owner)));
            }
            self.refuse_strangers(&name, keys.owner, &wanted).await?;
            let set = sharer.set_voters(&wanted).boxed();
            set.await.map_err(|error| {
                AdminError::of(&error).hint(
                    "voters are machines that have the volume mounted: see `cairn peers` for who is connected, and try again; what was agreed so far stays",
                )
            })?;
        }
        let voters = sharer.voters();
        Ok(VolumeVoters {
            name,
            needed: majority(voters.len()).unwrap_or(0) as u32,
            voters: voters.iter().map(PeerId::to_string).collect(),
        })
    }

    /// Voters are members that write: others do not know what they would vote about.
    async fn refuse_strangers(
        &self,
        name: &str,
        owner: PeerId,
        wanted: &[PeerId],
    ) -> Result<(), AdminError> {
        let Some(open) = self.0.mounts.find(name) else {
            return Ok(());
        };
        for peer in wanted.iter().copied().filter(|peer| *peer != owner) {
            let vfs = Arc::clone(&open.vfs);
            let is_member = move || vfs.is_member(peer);
            if !self.0.blocks.pools().disk.run(is_member).await {
                let error = AdminError::refused(format!(
                    "{peer} is not known as a member that writes to the volume `{name}`"
                ));
                return Err(error.hint(format!("`cairn volume members {name}` tells who is")));
            }
        }
        Ok(())
    }
}
