//! A volume on simulated peers beside the reference filesystem in memory: the same is asked of both, and the
//! answers must be the same.

use std::sync::Arc;
use std::time::Duration;

use cairnfs::base::{Clock, EcProfile, PeerId};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::store::VolumeOpenError;
use cairnfs::testkit::{Cluster, ClusterOptions};
use cairnfs::vfs::{Vfs, VfsOptions, VfsParts, VolumeIdentity};
use cairnfs_fuse::memfs::{Limits, MemFs};
use cairnfs_fuse::{Caller, Errno, FileSystem, Ino};

pub use crate::common::look::{Fs, RW, Seen};
pub use crate::common::member::{ID, OWNER, options};

/// Both filesystems.
pub struct Twin {
    pub cluster: Cluster,
    open: Option<Arc<Vfs>>,
    pub mem: MemFs,
    secret: ConvergenceSecret,
    profile: EcProfile,
    options: VfsOptions,
    clock: Clock,
}

impl Twin {
    pub async fn new(peers: usize, seed: u64) -> Twin {
        let cluster_options = ClusterOptions {
            peers,
            ..ClusterOptions::default()
        };
        Twin::with(cluster_options, "4+2", seed).await
    }

    /// A lone peer with room for much.
    pub async fn roomy(seed: u64) -> Twin {
        let options = ClusterOptions {
            peers: 1,
            quota_bytes: 1 << 30,
            ..ClusterOptions::default()
        };
        Twin::with(options, "4+2", seed).await
    }

    /// With peers and a redundancy of one's own.
    pub async fn with(cluster_options: ClusterOptions, profile: &str, seed: u64) -> Twin {
        let cluster = Cluster::start(cluster_options, seed).await.unwrap();
        let secret = ConvergenceSecret::random(&cluster.entropy);
        let profile: EcProfile = profile.parse().unwrap();
        let clock = Clock::simulated(1_767_225_600_000);
        let vfs = open(&cluster, &secret, profile, &options(), &clock).await;
        let mem = MemFs::new(Limits {
            bytes: 1 << 30,
            files: 1_000_000,
        });
        // The owner of both top directories is the same.
        let attr = mem
            .getattr(&Caller::ROOT, Ino::ROOT, None)
            .now()
            .unwrap()
            .attr;
        assert_eq!((attr.uid, attr.gid), owner());
        Twin {
            cluster,
            open: Some(vfs),
            mem,
            secret,
            profile,
            options: options(),
            clock,
        }
    }

    /// Ends the volume in good order and opens it again.
    pub async fn reopen(&mut self) {
        self.vfs().ended();
        self.vfs().close().await.unwrap();
        self.open = None;
        self.open().await;
    }

    /// Ends the volume in good order.
    pub async fn shut(&mut self) {
        self.vfs().ended();
        self.vfs().close().await.unwrap();
        self.open = None;
    }

    /// The peer loses power and starts again.
    pub async fn crash(&mut self) {
        self.open = None;
        self.cluster.crash(0);
        self.cluster.restart(0).await.unwrap();
        self.open().await;
    }

    async fn open(&mut self) {
        let (secret, options) = (&self.secret, &self.options);
        let vfs = open(&self.cluster, secret, self.profile, options, &self.clock).await;
        self.open = Some(vfs);
    }

    /// The volume.
    pub fn vfs(&self) -> &Vfs {
        self.open.as_ref().expect("it is open")
    }
}

fn owner() -> (u32, u32) {
    let uid = rustix::process::geteuid().as_raw();
    (uid, rustix::process::getegid().as_raw())
}

async fn open(
    cluster: &Cluster,
    secret: &ConvergenceSecret,
    profile: EcProfile,
    options: &VfsOptions,
    clock: &Clock,
) -> Arc<Vfs> {
    let blocks = cluster.blocks(0).unwrap().clone();
    for _ in 0..100 {
        match blocks.store().create_volume(ID).await {
            Ok(()) | Err(VolumeOpenError::Exists(_)) => {}
            // The last run is just ending.
            Err(VolumeOpenError::InUse(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let parts = VfsParts {
            share: None,
            identity: VolumeIdentity {
                id: ID,
                peer: cluster.id(0).unwrap_or(PeerId([0; 32])),
                owner: OWNER,
                secret: secret.clone(),
                profile,
            },
            blocks: blocks.clone(),
            clock: clock.clone(),
            entropy: cluster.entropy.fork(),
            options: options.clone(),
        };
        match Vfs::open(parts, owner()).await {
            Ok(vfs) => return vfs,
            // The last run is just ending.
            Err(cairnfs::vfs::VfsError::Open(VolumeOpenError::InUse(_))) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the volume stays in use");
}

/// What is found at a path.
pub async fn find(fs: &dyn Fs, path: &[Vec<u8>]) -> Result<Ino, Errno> {
    let mut at = Ino::ROOT;
    for name in path {
        match fs.lookup(at, name).await? {
            Some(ino) => at = ino,
            None => return Err(Errno::ENOENT),
        }
    }
    Ok(at)
}

/// What both answered must be the same, in kind.
pub fn same<T, U>(what: &str, one: &Result<T, Errno>, two: &Result<U, Errno>) -> bool {
    match (one, two) {
        (Ok(_), Ok(_)) => true,
        (Err(one), Err(two)) => {
            assert_eq!(one, two, "{what}");
            false
        }
        (Ok(_), Err(error)) => panic!("{what}: the reference did it, the volume said {error:?}"),
        (Err(error), Ok(_)) => panic!("{what}: the volume did it, the reference said {error:?}"),
    }
}
