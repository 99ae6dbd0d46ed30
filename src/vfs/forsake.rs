//! Giving up a volume as a whole: everything that it keeps in the pool is released.

use super::VfsError;
use super::claim_row::{self, CLAIMS};
use super::ledger::Tenant;
use super::rows::{BLOCKS, RELEASES, pages};
use crate::base::{OwnerId, VolumeId};
use crate::blocks::Blocks;
use crate::store::{VolumeOpenError, VolumeOptions};

/// Claims released at once.
const TOGETHER: usize = 64;

/// Releases all blocks of a volume that is on this machine and not open; one that is not here keeps what it
/// has. What a peer cannot be told now it is told later. To be done again after a crash.
///
/// # Errors
/// If the volume cannot be read, or the own store takes no writes.
pub async fn forsake(blocks: &Blocks, id: VolumeId, owner: OwnerId) -> Result<(), VfsError> {
    let store = blocks.store();
    let volume = match store.open_volume(id, VolumeOptions::default()).await {
        Ok((volume, _)) => volume,
        Err(VolumeOpenError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let failed = |error: crate::store::StoreError| VfsError::Unready(error.to_string());
    for space in [BLOCKS, RELEASES] {
        for page in pages(&volume, space, &[], TOGETHER) {
            let page = page?;
            let tenants = page.iter().filter_map(|(_, row)| Tenant::decode(row));
            let keepers = tenants.flat_map(|tenant| tenant.keepers);
            let each = keepers.map(|keeper| blocks.release(owner, keeper.number, keeper.peers));
            futures::future::try_join_all(each).await.map_err(failed)?;
        }
    }
    for (key, row) in store.kv_scan(CLAIMS, &id.0).await.map_err(failed)? {
        if let Some(number) = key.get(16..).and_then(|bytes| bytes.try_into().ok()) {
            let (_, noted) = claim_row::decode(&row).unzip();
            let told = claim_row::told(blocks, noted.unwrap_or_default());
            let number = u64::from_be_bytes(number);
            blocks.release(owner, number, told).await.map_err(failed)?;
        }
        let gone = store.kv_put(vec![(CLAIMS.to_owned(), key, None)]).await;
        gone.map_err(failed)?;
    }
    volume.close().await?;
    Ok(())
}
