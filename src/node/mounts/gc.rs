//! `gc`: blocks of a shared volume that nobody names any more are let go now, instead of within the hour.

use futures::FutureExt;

use crate::admin::AdminError;
use crate::admin::types::{GcReport, GcRequest};
use crate::base::PeerId;
use crate::node::Node;
use crate::node::volumes::VolumesError;

impl Node {
    /// Lets go of what nothing in a mounted volume names any more, or tells how much that is.
    pub(in crate::node) async fn collect_garbage(
        &self,
        request: GcRequest,
    ) -> Result<GcReport, AdminError> {
        let GcRequest { name, dry_run } = request;
        let found = self.0.volumes.find(&name).await?;
        found.ok_or_else(|| VolumesError::NotFound(name.clone()))?;
        let Some(open) = self.0.mounts.find(&name) else {
            let error = AdminError::refused(format!("the volume `{name}` is not mounted here"));
            return Err(error.hint(format!("mount it first: cairn mount {name} DIR")));
        };
        let Some(sharer) = open.sharer().clone() else {
            let error = AdminError::refused(format!(
                "the volume `{name}` is this machine's alone: what nothing names there goes by itself, within seconds"
            ));
            return Err(error);
        };
        let report =
            sharer.clear(dry_run).boxed().await.map_err(|error| {
                AdminError::of(&error).hint("nothing was let go; try again later")
            })?;
        Ok(GcReport {
            name,
            unnamed_blocks: report.unnamed_blocks,
            unnamed_bytes: report.unnamed_bytes,
            waste_bytes: report.waste_bytes,
            away: report.away.iter().map(PeerId::to_string).collect(),
            released_blocks: report.cleared.blocks,
            released_bytes: report.cleared.bytes,
        })
    }
}
