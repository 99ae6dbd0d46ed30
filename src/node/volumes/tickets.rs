//! Tickets that this machine made and that are open: remembered until the volume is open, where they become rows; who
//! only reads keeps them here.

use super::{Volumes, VolumesError};
use crate::base::VolumeId;
use crate::feeds::Issued;

/// Key-value space of tickets: `volume | invitation`.
const TICKETS: &str = "volume-tickets";

impl Volumes {
    /// Remembers a ticket, and forgets those that nobody can use any more.
    pub async fn keep_ticket(&self, issued: &Issued, now_ms: u64) -> Result<(), VolumesError> {
        let Ok(invitation) = issued.invitation.read() else {
            return Ok(());
        };
        let volume = invitation.volume;
        let row = Some(issued.encode().into());
        let mut changes = vec![(TICKETS.to_owned(), key(&volume, &invitation.id.0), row)];
        for (key, value) in self.store.kv_scan(TICKETS, &volume.0).await? {
            let known = Issued::decode(&value).ok();
            let known = known.and_then(|issued| issued.invitation.read().ok());
            if known.is_none_or(|known| known.terms.expires_ms < now_ms) {
                changes.push((TICKETS.to_owned(), key, None));
            }
        }
        Ok(self.store.kv_put(changes).await?)
    }

    /// The tickets of a volume that are remembered.
    pub async fn tickets(&self, volume: VolumeId) -> Result<Vec<Issued>, VolumesError> {
        let rows = self.store.kv_scan(TICKETS, &volume.0).await?;
        let read = rows.iter().filter_map(|(_, row)| Issued::decode(row).ok());
        Ok(read.collect())
    }

    /// Forgets all tickets of a volume.
    pub(super) async fn forget_tickets(&self, volume: VolumeId) -> Result<(), VolumesError> {
        let rows = self.store.kv_scan(TICKETS, &volume.0).await?.into_iter();
        let gone: Vec<_> = rows
            .map(|(key, _)| (TICKETS.to_owned(), key, None))
            .collect();
        match gone.is_empty() {
            true => Ok(()),
            false => Ok(self.store.kv_put(gone).await?),
        }
    }
}

fn key(volume: &VolumeId, invitation: &[u8; 16]) -> Vec<u8> {
    [&volume.0[..], invitation].concat()
}
