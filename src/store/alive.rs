//! Which claims still keep what they name.

use super::error::StoreError;
use super::handle::Store;
use crate::base::ClaimId;
use crate::base::limits::BATCH_BLOCKS_MAX;

impl Store {
    /// Whether each of these claims is known here and keeps something: neither released nor expired.
    ///
    /// # Errors
    /// `TooLarge` for more than [`BATCH_BLOCKS_MAX`]; if the index cannot be read.
    pub async fn are_alive(&self, claims: Vec<ClaimId>) -> Result<Vec<bool>, StoreError> {
        if claims.len() > BATCH_BLOCKS_MAX {
            return Err(StoreError::TooLarge {
                what: "claims in one call",
                size: claims.len(),
                limit: BATCH_BLOCKS_MAX,
            });
        }
        self.read(move |shared| {
            let now_ms = shared.clock.now_ms();
            shared.look_up(|| {
                let rows = claims.iter().map(|claim| shared.index.claim(claim));
                let alive = rows.map(|row| Ok(row?.is_some_and(|row| !row.is_gone(now_ms))));
                alive.collect()
            })
        })
        .await
    }
}
