//! What was let go and rests in the store.

use super::Node;
use crate::admin::AdminError;
use crate::admin::types::{TrashInfo, TrashPartInfo};

impl Node {
    /// What is in trash.
    pub(super) async fn show_trash(&self) -> Result<TrashInfo, AdminError> {
        let links = self.trash_links().await?;
        let parts = self.0.store.trash().await;
        let parts = parts.map_err(|error| AdminError::of(&error))?;
        Ok(TrashInfo {
            links,
            bytes: parts.iter().map(|part| part.bytes).sum(),
            parts: parts
                .into_iter()
                .map(|part| TrashPartInfo {
                    since_ms: part.since_ms,
                    until_ms: part.until_ms,
                    blocks: part.blocks,
                    bytes: part.bytes,
                })
                .collect(),
        })
    }

    /// Empties it; what there was.
    pub(super) async fn clear_trash(&self) -> Result<TrashInfo, AdminError> {
        let before = self.show_trash().await?;
        let emptied = self.0.store.empty_trash(true).await;
        emptied.map_err(|error| AdminError::of(&error))?;
        Ok(before)
    }
}
