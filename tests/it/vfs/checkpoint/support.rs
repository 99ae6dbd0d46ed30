//! Two replicas of one volume, each on a peer of its own.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Clock, EcProfile};
use cairnfs::crypto::{ConvergenceSecret, EpochKey, SigningKey};
use cairnfs::feeds::{Link, SealedDelta, Signed};
use cairnfs::namespace::{Delta, Draft, Hlc, VersionVector, WriterId};
use cairnfs::store::{Order, Space, Volume, VolumeOpenError, VolumeOptions};
use cairnfs::testkit::{Cluster, ClusterOptions};
use cairnfs::vfs::{MadeCheckpoint, Vfs, VfsError, VfsParts, VolumeIdentity};
use cairnfs_fuse::{Caller, Fh, FileSystem, FileType, Ino, NewNode, Rename, RenameFlags, Write};

use crate::vfs::files::NODE;
use crate::vfs::twin::{Fs, ID, OWNER, RW, find, options};

pub const START_MS: u64 = 1_767_225_600_000;

pub fn device(at: usize) -> SigningKey {
    SigningKey::from_secret(&[at as u8 + 1; 32])
}

/// The replicas.
pub struct Pair {
    pub cluster: Cluster,
    open: [Option<Arc<Vfs>>; 2],
    secret: ConvergenceSecret,
    pub clock: Clock,
}

impl Pair {
    /// The first one has the volume, the second one nothing.
    pub async fn new(peers: usize, seed: u64) -> Pair {
        let options = ClusterOptions {
            peers,
            quota_bytes: 512 << 20,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, seed).await.unwrap();
        // Until all know one another.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let known = cluster.blocks(0).unwrap().net().members();
        assert_eq!(known.list.len(), peers);
        let secret = ConvergenceSecret::random(&cluster.entropy);
        let mut pair = Pair {
            cluster,
            open: [None, None],
            secret,
            clock: Clock::simulated(START_MS),
        };
        pair.open(0, false).await;
        pair
    }

    pub fn vfs(&self, at: usize) -> &Vfs {
        self.open[at].as_ref().expect("it is open")
    }

    pub fn fs(&self, at: usize) -> &dyn Fs {
        self.vfs(at)
    }

    pub async fn open(&mut self, at: usize, is_to_join: bool) {
        let blocks = self.cluster.blocks(at).unwrap().clone();
        for _ in 0..100 {
            match blocks.store().create_volume(ID).await {
                Ok(()) | Err(VolumeOpenError::Exists(_)) => {}
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
                    peer: device(at).peer(),
                    owner: OWNER,
                    secret: self.secret.clone(),
                    profile: "4+2".parse::<EcProfile>().unwrap(),
                },
                blocks: blocks.clone(),
                clock: self.clock.clone(),
                entropy: self.cluster.entropy.fork(),
                options: options(),
            };
            let opened = match is_to_join {
                true => Vfs::open_to_join(parts, (0, 0)).await,
                false => Vfs::open(parts, (0, 0)).await,
            };
            match opened {
                Ok(vfs) => {
                    self.open[at] = Some(vfs);
                    return;
                }
                Err(VfsError::Open(VolumeOpenError::InUse(_))) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the volume stays in use");
    }

    pub async fn shut(&mut self, at: usize) {
        if let Some(vfs) = self.open[at].take() {
            vfs.ended();
            vfs.close().await.unwrap();
        }
    }

    pub async fn reopen(&mut self, at: usize) {
        self.shut(at).await;
        self.open(at, false).await;
    }

    /// The peer loses power; it does not open the volume again.
    pub async fn crash(&mut self, at: usize) {
        self.open[at] = None;
        self.cluster.crash(at);
        self.cluster.restart(at).await.unwrap();
    }

    /// Everything that is in the tables of a replica whose volume is closed.
    pub async fn raw<T>(&self, at: usize, look: impl AsyncFnOnce(&Volume) -> T) -> T {
        let store = self.cluster.blocks(at).unwrap().store().clone();
        for _ in 0..100 {
            match store.open_volume(ID, VolumeOptions::default()).await {
                Ok((volume, _)) => {
                    let found = look(&volume).await;
                    volume.close().await.unwrap();
                    return found;
                }
                Err(VolumeOpenError::InUse(_)) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the volume stays in use");
    }

    /// All rows of the namespace, with parts of long ones, and how many files there are.
    pub async fn rows(&mut self, at: usize) -> Vec<(u8, Bytes, Bytes)> {
        self.shut(at).await;
        let found = self
            .raw(at, async |volume| {
                let mut all = space(volume, 1);
                all.extend(space(volume, 2));
                let files = volume.get(Space(8), b"shown").unwrap().unwrap();
                all.push((8, Bytes::from_static(b"shown"), files));
                all
            })
            .await;
        self.open(at, false).await;
        found
    }

    /// A checkpoint of what a replica has, everything being in blocks before.
    pub async fn checkpoint(&self, at: usize) -> MadeCheckpoint {
        self.vfs(at).sync().await.unwrap();
        let version = self.vfs(at).version().unwrap();
        let hlc = Hlc::from_ms(self.clock.now_ms() + 60_000);
        self.vfs(at).checkpoint(heads(&version), hlc).await.unwrap()
    }

    /// One replica merges what the other has.
    pub async fn exchange(&self, from: usize, to: usize) -> MadeCheckpoint {
        let made = self.checkpoint(from).await;
        let version = self.vfs(to).join(&made.root).await.unwrap();
        assert!(version.includes(&made.root.version()));
        made
    }

    pub async fn make(&self, at: usize, dir: Ino, name: &str, bytes: &[u8]) -> Ino {
        let vfs = self.vfs(at);
        let made = vfs.create(&Caller::ROOT, dir, name.into(), &NODE, RW);
        let ino = made.wait().await.unwrap().0.attr.ino;
        self.write(at, ino, 0, bytes).await;
        vfs.release(ino, Fh(0), RW).wait().await.unwrap();
        vfs.forget(ino, 1);
        ino
    }

    pub async fn write(&self, at: usize, ino: Ino, offset: u64, bytes: &[u8]) {
        for (number, part) in bytes.chunks(1 << 17).enumerate() {
            let write = Write {
                offset: offset + (number << 17) as u64,
                bytes: part,
                flags: RW,
                is_from_cache: false,
                kill_suidgid: false,
            };
            let written = self.vfs(at).write(&Caller::ROOT, ino, Fh(0), &write);
            assert_eq!(written.wait().await.unwrap() as usize, part.len());
        }
    }

    pub async fn mkdir(&self, at: usize, dir: Ino, name: &str) -> Ino {
        let node = NewNode {
            kind: FileType::Directory,
            ..NODE
        };
        let made = self.vfs(at).mkdir(&Caller::ROOT, dir, name.into(), &node);
        made.wait().await.unwrap().attr.ino
    }

    pub async fn remove(&self, at: usize, dir: Ino, name: &str) {
        let gone = self.vfs(at).unlink(&Caller::ROOT, dir, name.into());
        gone.wait().await.unwrap();
    }

    pub async fn rename(&self, at: usize, name: &str, new_name: &str) {
        let rename = Rename {
            parent: Ino::ROOT,
            name: name.into(),
            new_parent: Ino::ROOT,
            new_name: new_name.into(),
            flags: RenameFlags::Replace,
        };
        let renamed = self.vfs(at).rename(&Caller::ROOT, &rename);
        renamed.wait().await.unwrap();
    }

    pub async fn content(&self, at: usize, name: &str) -> Vec<u8> {
        let fs = self.fs(at);
        let ino = find(fs, &[name.as_bytes().to_vec()]).await.unwrap();
        let seen = fs.seen(ino, 1 << 20).await.unwrap();
        fs.raw().forget(ino);
        seen.content
    }

    /// Both have the same rows, derived ones included. How many files there are is each one's own estimate where
    /// both changed the same ones.
    pub async fn assert_same_rows(&mut self) {
        let (mut one, mut two) = (self.rows(0).await, self.rows(1).await);
        one.retain(|(space, ..)| *space != 8);
        two.retain(|(space, ..)| *space != 8);
        let lacks = |one: &[(u8, Bytes, Bytes)], two: &[(u8, Bytes, Bytes)]| {
            let mut left = one.to_vec();
            left.retain(|row| !two.contains(row));
            left.truncate(6);
            left
        };
        if one != two {
            panic!("{:?}\n{:?}", lacks(&one, &two), lacks(&two, &one));
        }
    }

    /// Both show the same tree.
    pub async fn assert_same_trees(&self) {
        let one = self.fs(0).tree(1 << 20).await.unwrap();
        let two = self.fs(1).tree(1 << 20).await.unwrap();
        let names = |tree: &std::collections::BTreeMap<Vec<Vec<u8>>, _>| -> Vec<Vec<Vec<u8>>> {
            tree.keys().cloned().collect()
        };
        assert_eq!(names(&one), names(&two));
        for (path, seen) in &one {
            let mut brief = [seen.clone(), two[path].clone()];
            brief.iter_mut().for_each(|seen| seen.content.truncate(16));
            assert!(*seen == two[path], "{path:?}: {brief:?}");
        }
    }
}

/// All rows of a space.
pub fn space(volume: &Volume, number: u8) -> Vec<(u8, Bytes, Bytes)> {
    let (mut all, mut next) = (Vec::new(), None::<Bytes>);
    loop {
        let from = next
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Excluded(&**key));
        let page = volume.scan(
            Space(number),
            from,
            Bound::Unbounded,
            Order::Ascending,
            4096,
        );
        let page = page.unwrap();
        let rows = page.rows.into_iter();
        all.extend(rows.map(|(key, value)| (number, key, value)));
        match page.next {
            Some(key) => next = Some(key),
            None => return all,
        }
    }
}

/// Last links of feeds that end there: of deltas without writes.
pub fn heads(version: &VersionVector) -> Vec<Signed<Link>> {
    let link = |(writer, last): (&WriterId, u64)| {
        let delta = Delta {
            writer: *writer,
            first: last,
            draft: Draft {
                context: VersionVector::default(),
                hlc: Hlc::from_ms(START_MS),
                writes: Vec::new(),
            },
        };
        let key = (0..2).map(device).find(|key| key.peer() == writer.peer);
        let secret = EpochKey::from_bytes([9; 32]);
        let sealed = SealedDelta::seal(&delta, ID, None, (1, &secret), &key.unwrap());
        sealed.unwrap().link().clone()
    };
    version.iter().map(link).collect()
}
