//! The volumes of a peer: made, listed, removed, found again, and taken along by a backup of its key.

use std::path::Path;
use std::sync::Arc;

use cairnfs::admin::types::{
    HexPath, KeyExportRequest, MountRequest, SyncRequest, UmountRequest, VolumeCreate, VolumeInfo,
    VolumeRemove,
};
use cairnfs::admin::{AdminError, Backend, Exit};
use cairnfs::base::ByteSize;
use cairnfs::config::{Config, Quota};
use cairnfs::node::{Node, NodeOptions, import, start};

fn options(dir: &Path, is_embedded: bool) -> NodeOptions {
    std::fs::create_dir_all(dir).unwrap();
    let mut config = Config::default();
    config.storage.quota = Quota::Bytes(ByteSize::gib(1));
    config.storage.reserve_free = ByteSize(0);
    config.network.mdns = false;
    NodeOptions {
        data_dir: dir.to_owned(),
        config_file: dir.join("config.toml"),
        config,
        is_embedded,
    }
}

struct Peer {
    node: Node,
    backend: Arc<dyn Backend>,
}

impl Peer {
    async fn start(dir: &Path) -> Peer {
        Peer::start_as(dir, false).await
    }

    async fn start_as(dir: &Path, is_embedded: bool) -> Peer {
        let node = start(options(dir, is_embedded)).await.unwrap();
        let backend = node.backend();
        Peer { node, backend }
    }

    async fn create(&self, name: &str, redundancy: Option<&str>) -> Result<VolumeInfo, AdminError> {
        let request = VolumeCreate {
            name: name.to_owned(),
            redundancy: redundancy.map(ToOwned::to_owned),
        };
        self.backend.volume_create(request).await
    }

    async fn remove(&self, name: &str) -> Result<VolumeInfo, AdminError> {
        let name = name.to_owned();
        self.backend.volume_remove(VolumeRemove { name }).await
    }

    async fn names(&self) -> Vec<String> {
        let volumes = self.backend.volumes().await.unwrap();
        volumes.into_iter().map(|volume| volume.name).collect()
    }

    async fn stop(self) {
        drop(self.backend);
        self.node.shutdown().await;
    }
}

fn class<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> Exit {
    answer.unwrap_err().class
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_outlive_the_peer() {
    let home = tempfile::tempdir().unwrap();
    let peer = Peer::start(home.path()).await;
    let made = peer.create("photos", Some("3+1")).await.unwrap();
    assert_eq!(made.redundancy, "3+1");
    assert!(made.local && made.mounted_on.is_none() && made.usage.is_none());
    assert_eq!(
        peer.create("default", None).await.unwrap().redundancy,
        "4+2"
    );
    assert_eq!(class(peer.create("photos", None).await), Exit::Refused);
    assert_eq!(class(peer.create("a/b", None).await), Exit::Usage);
    assert_eq!(class(peer.create("c", Some("much")).await), Exit::Usage);
    peer.stop().await;

    let peer = Peer::start(home.path()).await;
    assert_eq!(peer.names().await, ["default", "photos"]);
    assert_eq!(peer.backend.volumes().await.unwrap()[1], made);
    let status = peer.backend.status().await.unwrap();
    assert!(status.serves_mounts);
    assert_eq!(status.volumes.len(), 2);
    assert_eq!(peer.remove("photos").await.unwrap().id, made.id);
    assert_eq!(class(peer.remove("photos").await), Exit::Missing);
    assert_eq!(class(peer.remove("").await), Exit::Usage);
    peer.stop().await;

    let peer = Peer::start(home.path()).await;
    assert_eq!(peer.names().await, ["default"]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_many_at_once_stay_distinct() {
    let home = tempfile::tempdir().unwrap();
    let peer = Peer::start(home.path()).await;
    let made = (0..6).map(|number| {
        let name = format!("v{}", number % 3);
        let peer = &peer;
        async move { peer.create(&name, None).await.is_ok() }
    });
    let made = futures::future::join_all(made).await;
    assert_eq!(made.iter().filter(|made| **made).count(), 3);
    assert_eq!(peer.names().await, ["v0", "v1", "v2"]);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mounted_is_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let peer = Peer::start(&home.path().join("data")).await;
    let mount = |volume: Option<&str>, dir: &Path| {
        peer.backend.mount(MountRequest {
            volume: volume.map(ToOwned::to_owned),
            dir_hex: HexPath::new(dir),
            ..MountRequest::default()
        })
    };
    let place = home.path().join("place");
    assert_eq!(class(mount(None, &place).await), Exit::Missing);
    assert_eq!(class(mount(None, Path::new("place")).await), Exit::Usage);
    assert_eq!(class(mount(None, home.path()).await), Exit::Refused);
    std::fs::create_dir(&place).unwrap();
    assert_eq!(class(mount(Some("photos"), &place).await), Exit::Missing);
    assert_eq!(class(mount(Some(".."), &place).await), Exit::Usage);
    assert!(peer.names().await.is_empty());
    let umount = UmountRequest {
        dir_hex: HexPath::new(&place),
        lazy: false,
    };
    assert_eq!(class(peer.backend.umount(umount).await), Exit::Missing);
    let synced = peer.backend.sync(SyncRequest::default()).await;
    assert_eq!(synced.err().unwrap().class, Exit::Missing);
    // Nothing is mounted: from then on nothing will be.
    peer.node.mounts_ended().await;
    assert!(!peer.backend.status().await.unwrap().serves_mounts);
    assert_eq!(class(mount(None, &place).await), Exit::Failed);
    peer.stop().await;

    // One that ends with a command serves none from the beginning.
    let peer = Peer::start_as(&home.path().join("data"), true).await;
    assert!(!peer.backend.status().await.unwrap().serves_mounts);
    peer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_the_key_has_the_volumes() {
    let home = tempfile::tempdir().unwrap();
    let peer = Peer::start(&home.path().join("old")).await;
    let made = peer.create("photos", Some("2+1")).await.unwrap();
    let passphrase = "correct horse".to_owned();
    let request = KeyExportRequest {
        passphrase: passphrase.clone(),
    };
    let sealed = peer.backend.key_export(request).await.unwrap().sealed;
    peer.stop().await;

    let new = home.path().join("new");
    let imported = import(options(&new, true), sealed, passphrase).await;
    assert_eq!(imported.unwrap().volumes, 1);
    let peer = Peer::start(&new).await;
    let there = &peer.backend.volumes().await.unwrap()[0];
    assert_eq!((&there.name, &there.id), (&made.name, &made.id));
    assert_eq!((&there.redundancy, there.local), (&made.redundancy, false));
    // Its tree is not in the backup, and that is said.
    let place = home.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let request = MountRequest {
        volume: Some("photos".to_owned()),
        dir_hex: HexPath::new(&place),
        ..MountRequest::default()
    };
    let error = peer.backend.mount(request).await.unwrap_err();
    assert_eq!(error.class, Exit::Missing);
    assert!(error.error.contains("not on this machine"), "{error}");
    assert_eq!(class(peer.create("photos", None).await), Exit::Refused);
    peer.remove("photos").await.unwrap();
    peer.create("photos", None).await.unwrap();
    peer.stop().await;
}
