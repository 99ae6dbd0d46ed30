//! What an open volume learns of its keys is kept with its record: whoever opens it again, or makes a ticket, has them.

use std::sync::Arc;

use super::OpenVolume;
use crate::base::VolumeId;
use crate::node::Node;

impl Node {
    /// Keeps what is learned until the volume is closed. Tickets that were made while it was not open become known to
    /// its members first.
    pub(in crate::node) async fn keep_keys(self, open: Arc<OpenVolume>, id: VolumeId) {
        let Some(mut learned) = open.vfs.watch_keys() else {
            return;
        };
        match self.0.volumes.tickets(id).await {
            Ok(tickets) => tickets
                .into_iter()
                .for_each(|ticket| open.vfs.note_ticket(ticket)),
            Err(error) => tracing::warn!("tickets of the volume `{}`: {error}", open.name),
        }
        loop {
            if let Some(keys) = open.vfs.keys() {
                let _changing = self.0.mounts.changing.lock().await;
                let secret = keys.secret.as_ref();
                let kept = self.0.volumes.learn(&open.name, &keys.epochs, secret).await;
                match kept {
                    Ok(true) => {
                        tracing::info!("the volume `{}` has new keys", open.name);
                    }
                    Ok(false) => {}
                    // The volume's rows have them too.
                    Err(error) => tracing::warn!("keys of the volume `{}`: {error}", open.name),
                }
            }
            tokio::select! {
                biased;
                () = open.gone.cancelled() => return,
                changed = learned.changed() => if changed.is_err() { return },
            }
        }
    }
}
