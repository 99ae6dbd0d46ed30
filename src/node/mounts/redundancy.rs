//! Which redundancy is wanted at a path of a mount.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::conflicts::whole;
use super::footing::path_error;
use crate::admin::AdminError;
use crate::admin::types::{PathPolicy, PathRequest};
use crate::base::Redundancy;
use crate::node::Node;

impl Node {
    /// What is wanted at a path of a mount, where that is set, and what is stored otherwise below it.
    pub(in crate::node) async fn tell_policy(
        &self,
        request: PathRequest,
    ) -> Result<PathPolicy, AdminError> {
        let (open, path) = self.open_at(&request.path_hex, whole).await?;
        let told = path.display().to_string();
        let inside = path.strip_prefix(&open.dir).unwrap_or(Path::new(""));
        let bytes = inside.as_os_str().as_bytes().to_vec();
        let vfs = open.vfs.clone();
        let policy = {
            let bytes = bytes.clone();
            let disk = &self.0.blocks.pools().disk;
            disk.run(move || vfs.policy(&bytes)).await
        };
        let policy = policy.map_err(|error| path_error(&told, &error))?;
        let recode_bytes = open.vfs.stored_otherwise(&bytes).await;
        let recode_bytes = recode_bytes.map_err(|error| path_error(&told, &error))?;
        let wanted = policy
            .redundancy
            .unwrap_or(Redundancy::Fixed(policy.profile));
        let set_on = policy.redundancy.and_then(|_| {
            let set_on = path.ancestors().nth(policy.levels_up)?;
            // A file with several names has the policy of one of them.
            let is_inside = set_on.starts_with(&open.dir);
            is_inside.then(|| set_on.display().to_string())
        });
        Ok(PathPolicy {
            path: told,
            volume: open.name.clone(),
            redundancy: wanted.to_string(),
            stored_as: policy.profile.to_string(),
            set_on,
            recode_bytes,
        })
    }
}
