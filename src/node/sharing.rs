//! Volumes that are open and shared: what they need to take part, and what keeps them in step with the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use super::volumes::{Record, ShareKeys};
use crate::admin::AdminError;
use crate::base::{PeerId, VolumeId};
use crate::crypto::{SigningKey, VolumeChain};
use crate::share::{Sharer, SharerParts};
use crate::vfs::{Rights, ShareRules, Vfs, VolumeShare};

/// How long a mount waits for the first state of a volume that others made.
const FIRST_STATE: Duration = Duration::from_secs(60);
/// So many peers at least keep what was written to a volume since its last checkpoint.
const KEEPERS_MIN: usize = 3;
/// How long a mount waits for what they keep.
const TAILS: Duration = Duration::from_secs(10);
/// How often members are asked meanwhile.
const TURN: Duration = Duration::from_millis(500);

/// What the volume of a record needs where others take part.
pub(super) fn share_of(
    id: VolumeId,
    keys: &ShareKeys,
    is_guest: bool,
    device: SigningKey,
    now_ms: impl Fn() -> u64 + Send + Sync + 'static,
) -> VolumeShare {
    let owner = keys.owner;
    let admit = move |device: PeerId, proof: &[u8]| {
        let chain = VolumeChain::decode(proof).map_err(|error| error.to_string())?;
        let member = chain
            .verify(id, owner, now_ms())
            .map_err(|error| error.to_string())?;
        match (member.device == device, member.read_only) {
            (false, _) => Err("it is another device's".to_owned()),
            (true, true) => Ok(Rights::Read),
            (true, false) => Ok(Rights::Write),
        }
    };
    VolumeShare {
        device,
        owner,
        proof: keys.chain.encode().into(),
        epochs: keys.keys.iter().cloned().collect::<BTreeMap<_, _>>(),
        read_only: keys.read_only,
        is_guest,
        admit: Arc::new(admit),
        rules: Some(ShareRules {
            owner,
            ticket: keys.ticket.clone(),
        }),
    }
}

impl Node {
    /// What a volume needs where others take part; none if it is this machine's alone.
    pub(super) fn share_of(&self, record: &Record) -> Option<VolumeShare> {
        let keys = record.share_keys()?;
        let device = self.identity().device.clone();
        let is_awaited = record.share.as_ref().is_some_and(|share| share.is_awaited);
        let is_guest = is_awaited || keys.owner != self.own();
        let clock = self.0.clock.clone();
        Some(share_of(record.id, keys, is_guest, device, move || {
            clock.now_ms()
        }))
    }

    /// Keeps an open volume in step with its other replicas from now on.
    pub(super) fn begin_sharing(&self, vfs: &Arc<Vfs>, record: &Record) -> Sharer {
        let parity = record.profile.parity_shards();
        let parts = SharerParts {
            volume: record.id,
            keepers: KEEPERS_MIN.max(parity + 1),
            net: self.0.net.clone(),
            blocks: self.0.blocks.clone(),
            inbound: self.take_feed_inbound(),
            pools: self.0.blocks.pools().clone(),
            entropy: self.0.entropy.fork(),
        };
        Sharer::start(Arc::clone(vfs), parts)
    }

    /// Waits until a volume that others made is here, as far as any of them can be reached, or this peer ends.
    pub(super) async fn first_state(
        &self,
        name: &str,
        vfs: &Vfs,
        sharer: &Sharer,
    ) -> Result<(), AdminError> {
        let is_ending = async {
            while self.serves_mounts() {
                tokio::time::sleep(TURN).await;
            }
        };
        tokio::select! {
            biased;
            () = is_ending => Err(AdminError::failed("this peer is about to end and mounts nothing")),
            arrived = self.wait_for_state(name, vfs, sharer) => arrived,
        }
    }

    async fn wait_for_state(
        &self,
        name: &str,
        vfs: &Vfs,
        sharer: &Sharer,
    ) -> Result<(), AdminError> {
        let end = Instant::now() + FIRST_STATE;
        loop {
            let members = sharer.compare().await;
            if vfs.has_tree() {
                return Ok(());
            }
            sharer.catch_up().await;
            if vfs.has_tree() {
                // What was written since that checkpoint may be in no member's reach.
                let _ = tokio::time::timeout(TAILS, sharer.look_for_tails()).await;
                return Ok(());
            }
            if Instant::now() >= end {
                let error = AdminError::failed(match members {
                    0 => format!(
                        "nothing of the volume `{name}` is here yet: no member that has it open can be reached, and no checkpoint of it is found"
                    ),
                    _ => format!(
                        "nothing of the volume `{name}` is here yet, and the members that were reached have none of it"
                    ),
                });
                return Err(error.hint(
                    "have it mounted on a machine that has it, see `cairn peers` for who is connected, and try again",
                ));
            }
            tokio::time::sleep(TURN).await;
        }
    }

    /// The volume of a name has become shared: if it is open, it goes on as such. The caller holds off others who
    /// make, remove or mount volumes.
    pub(super) async fn shared_now(&self, name: &str, record: &Record) -> Result<(), AdminError> {
        let Some(open) = self.0.mounts.find(name).filter(|open| !open.has_sharer()) else {
            return Ok(());
        };
        let Some(share) = self.share_of(record) else {
            return Ok(());
        };
        let begun = open.vfs.begin_sharing(share).await;
        begun.map_err(|error| AdminError::of(&error))?;
        open.share(self.begin_sharing(&open.vfs, record)).await;
        let keeping = self.clone().keep_keys(Arc::clone(&open), record.id);
        self.0.tasks.spawn(keeping);
        // What was written before is in no feed.
        let inner = &self.0;
        inner.tasks.spawn(async move { open.publish().await });
        Ok(())
    }
}
