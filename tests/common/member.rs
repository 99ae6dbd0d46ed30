//! Members who have one volume open, each on a simulated peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Clock, EcProfile, Entropy, OwnerId, PeerId, VolumeId};
use cairnfs::crypto::sign::SigningKey;
use cairnfs::crypto::{ConvergenceSecret, EpochKey};
use cairnfs::store::VolumeOpenError;
use cairnfs::testkit::Cluster;
use cairnfs::vfs::{
    Durability, Rights, Vfs, VfsError, VfsOptions, VfsParts, VolumeIdentity, VolumeShare,
};

pub const ID: VolumeId = VolumeId([9; 16]);
pub const OWNER: OwnerId = OwnerId([5; 16]);

pub fn options() -> VfsOptions {
    VfsOptions {
        name: "test".to_owned(),
        durability: Durability::Local,
        consistency: Default::default(),
        locks: Default::default(),
        commit_interval: Duration::from_secs(1),
        dirty_max_bytes: 1 << 20,
        read_timeout: Duration::from_secs(30),
        conflicts: Default::default(),
        auto: Default::default(),
    }
}

/// What all members know.
pub struct Secrets {
    pub convergence: ConvergenceSecret,
    pub epoch: EpochKey,
    /// The key of the device whose volume it is.
    pub owner: SigningKey,
}

impl Secrets {
    pub fn new(entropy: &Entropy) -> Secrets {
        Secrets {
            convergence: ConvergenceSecret::random(entropy),
            epoch: EpochKey::generate(entropy),
            owner: SigningKey::from_secret(&[7; 32]),
        }
    }
}

/// One of them.
#[derive(Clone)]
pub struct Device {
    pub key: SigningKey,
    pub rights: Rights,
    /// Whether it made the volume.
    pub is_founder: bool,
}

/// A proof is `device | may write`: what proofs are is for others to test.
pub fn proof(device: PeerId, rights: Rights) -> Bytes {
    let right = u8::from(rights == Rights::Write);
    [&device.0[..], &[right]].concat().into()
}

fn admit(device: PeerId, bytes: &[u8]) -> Result<Rights, String> {
    match bytes.strip_prefix(&device.0[..]) {
        Some([1]) => Ok(Rights::Write),
        Some([0]) => Ok(Rights::Read),
        _ => Err("no proof of this device".to_owned()),
    }
}

/// Opens the volume at the peer `at`, which runs. Waits for the last run there if that is just ending.
pub async fn open(
    cluster: &Cluster,
    at: usize,
    device: &Device,
    secrets: &Secrets,
    clock: &Clock,
    options: &VfsOptions,
) -> Arc<Vfs> {
    let blocks = cluster.blocks(at).unwrap().clone();
    for _ in 0..100 {
        match blocks.store().create_volume(ID).await {
            Ok(()) | Err(VolumeOpenError::Exists(_)) => {}
            Err(VolumeOpenError::InUse(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let peer = device.key.peer();
        let share = VolumeShare {
            proof: proof(peer, device.rights),
            epochs: BTreeMap::from([(1, secrets.epoch.clone())]),
            read_only: device.rights == Rights::Read,
            is_guest: !device.is_founder,
            admit: Arc::new(admit),
            rules: None,
            device: device.key.clone(),
            owner: secrets.owner.peer(),
        };
        let parts = VfsParts {
            identity: VolumeIdentity {
                id: ID,
                peer,
                owner: OWNER,
                secret: secrets.convergence.clone(),
                profile: EcProfile::DEFAULT,
            },
            share: Some(share),
            blocks: blocks.clone(),
            clock: clock.clone(),
            entropy: cluster.entropy.fork(),
            options: options.clone(),
        };
        match Vfs::open(parts, (0, 0)).await {
            Ok(vfs) => return vfs,
            Err(VfsError::Open(VolumeOpenError::InUse(_))) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the volume stays in use");
}
