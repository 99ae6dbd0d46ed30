//! Several members who have one volume open, each on a simulated peer of its own. What they tell each other is
//! carried by the test, in whatever order it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairnfs::base::{Clock, EcProfile, PeerId};
use cairnfs::crypto::sign::SigningKey;
use cairnfs::crypto::{ConvergenceSecret, EpochKey};
use cairnfs::store::VolumeOpenError;
use cairnfs::testkit::{Cluster, ClusterOptions};
use cairnfs::vfs::{Rights, Vfs, VfsError, VfsOptions, VfsParts, VolumeIdentity, VolumeShare};
use cairnfs_fuse::{Caller, Errno, FileSystem, FileType, Ino, Lookup, Name, NewNode, Rename};
use cairnfs_fuse::{OpenFlags, RenameFlags, Write};

use crate::vfs::twin::{Fs, ID, OWNER, RW, Seen, options};

const PATIENCE: usize = 400;

pub struct Member {
    pub device: SigningKey,
    open: Option<Arc<Vfs>>,
    rights: Rights,
}

pub struct Team {
    pub cluster: Cluster,
    pub members: Vec<Member>,
    secret: ConvergenceSecret,
    epoch: EpochKey,
    clock: Clock,
    options: VfsOptions,
}

/// A proof is `device | may write`: what proofs are is for others to test.
pub fn proof(device: PeerId, rights: Rights) -> Vec<u8> {
    [&device.0[..], &[u8::from(rights == Rights::Write)]].concat()
}

fn admit(device: PeerId, bytes: &[u8]) -> Result<Rights, String> {
    match bytes.strip_prefix(&device.0[..]) {
        Some([1]) => Ok(Rights::Write),
        Some([0]) => Ok(Rights::Read),
        _ => Err("no proof of this device".to_owned()),
    }
}

impl Team {
    pub async fn new(members: usize, seed: u64) -> Team {
        Team::with(members, seed, options()).await
    }

    /// With options of one's own.
    pub async fn with(members: usize, seed: u64, options: VfsOptions) -> Team {
        let cluster_options = ClusterOptions {
            peers: members.max(6),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(cluster_options, seed).await.unwrap();
        // Until they know each other.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut team = Team {
            secret: ConvergenceSecret::random(&cluster.entropy),
            epoch: EpochKey::generate(&cluster.entropy),
            clock: Clock::simulated(1_767_225_600_000),
            members: Vec::new(),
            options,
            cluster,
        };
        for at in 0..members {
            team.members.push(Member {
                device: SigningKey::generate(&team.cluster.entropy),
                open: None,
                rights: Rights::Write,
            });
            team.open(at).await;
        }
        team
    }

    pub fn vfs(&self, at: usize) -> &Arc<Vfs> {
        self.members[at].open.as_ref().expect("it is open")
    }

    pub fn set_rights(&mut self, at: usize, rights: Rights) {
        self.members[at].rights = rights;
    }

    pub async fn shut(&mut self, at: usize) {
        if let Some(vfs) = self.members[at].open.take() {
            vfs.ended();
            vfs.close().await.unwrap();
        }
    }

    /// The peer loses power and starts again.
    pub async fn crash(&mut self, at: usize) {
        self.members[at].open = None;
        self.cluster.crash(at);
        self.cluster.restart(at).await.unwrap();
        self.open(at).await;
    }

    pub async fn open(&mut self, at: usize) {
        let member = &self.members[at];
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
            let device = member.device.clone();
            let share = VolumeShare {
                proof: proof(device.peer(), member.rights).into(),
                epochs: BTreeMap::from([(1, self.epoch.clone())]),
                read_only: member.rights == Rights::Read,
                is_guest: at > 0,
                admit: Arc::new(admit),
                device: device.clone(),
            };
            let parts = VfsParts {
                identity: VolumeIdentity {
                    id: ID,
                    peer: device.peer(),
                    owner: OWNER,
                    secret: self.secret.clone(),
                    profile: EcProfile::DEFAULT,
                },
                share: Some(share),
                blocks: blocks.clone(),
                clock: self.clock.clone(),
                entropy: self.cluster.entropy.fork(),
                options: self.options.clone(),
            };
            match Vfs::open(parts, (0, 0)).await {
                Ok(vfs) => {
                    self.members[at].open = Some(vfs);
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

    /// What one has and the other has not, all at once. How many deltas that were.
    pub async fn tell(&self, from: usize, to: usize) -> usize {
        let (from, to) = (self.vfs(from), self.vfs(to));
        let known: BTreeMap<_, u64> = to.claims().iter().map(|c| (c.writer, c.last)).collect();
        let mut count = 0;
        for claim in from.claims() {
            let mut after = known.get(&claim.writer).copied().unwrap_or(0);
            while after < claim.last {
                let found = from.deltas(claim.writer, after, 4096).unwrap();
                let deltas = found.deltas;
                if deltas.is_empty() {
                    break;
                }
                after = found.upto;
                count += deltas.len();
                to.receive(PeerId([1; 32]), deltas).await;
            }
        }
        count
    }

    /// Everybody tells everybody, until nobody knows anything that another does not.
    pub async fn gather(&self) {
        for _ in 0..PATIENCE {
            // Give what was done time to be sealed and described.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut told = 0;
            for from in 0..self.members.len() {
                for to in 0..self.members.len() {
                    if from != to {
                        told += self.tell(from, to).await;
                    }
                }
            }
            let claims: BTreeSet<String> = (0..self.members.len())
                .map(|at| format!("{:?}", self.vfs(at).claims()))
                .collect();
            if told == 0 && claims.len() == 1 {
                return;
            }
        }
        panic!("they never come to an end");
    }

    /// All changes are in blocks and described, and everybody knows of them.
    pub async fn settle(&self) {
        let mut before = None;
        for _ in 0..PATIENCE {
            for at in 0..self.members.len() {
                if self.members[at].rights == Rights::Write {
                    self.vfs(at).sync().await.unwrap();
                }
            }
            self.gather().await;
            let now = Some(self.vfs(0).claims());
            if now == before {
                return;
            }
            before = now;
        }
        panic!("changes stay where they were made");
    }

    pub fn replay(&self, at: usize) -> Vec<String> {
        use cairnfs::namespace::{MemRows, Outcome, View, apply};
        let vfs = self.vfs(at);
        let mut all = Vec::new();
        for claim in vfs.claims() {
            let found = vfs.deltas(claim.writer, 0, usize::MAX).unwrap();
            for sealed in found.deltas {
                let sealed = cairnfs::feeds::SealedDelta::decode(&sealed).unwrap();
                all.push(sealed.open(&self.epoch).unwrap());
            }
        }
        let mut rows = MemRows::default();
        while !all.is_empty() {
            let before = all.len();
            all.retain(
                |delta| match apply(&rows.clone(), delta, u64::MAX / 2).unwrap() {
                    Outcome::Merged(changes) => {
                        rows.apply(changes);
                        false
                    }
                    Outcome::Early(_) => true,
                    other => panic!("{other:?}"),
                },
            );
            if all.len() == before {
                return vec![format!("stuck with {}", all.len())];
            }
        }
        let view = View::new(&rows).unwrap();
        let (list, _) = view
            .list(cairnfs::namespace::Ino::ROOT, None, 1000)
            .unwrap();
        list.iter()
            .map(|shown| format!("{:?} {:?} {:?}", shown.name, shown.ino, shown.copy))
            .collect()
    }

    /// All deltas that a member has, for whoever looks for an error.
    pub fn deltas(&self, at: usize) -> Vec<String> {
        let vfs = self.vfs(at);
        let mut all = Vec::new();
        for claim in vfs.claims() {
            let found = vfs.deltas(claim.writer, 0, usize::MAX).unwrap();
            for sealed in found.deltas {
                let sealed = cairnfs::feeds::SealedDelta::decode(&sealed).unwrap();
                let delta = sealed.open(&self.epoch).unwrap();
                all.push(format!(
                    "{:?} {} after {:?}",
                    delta.writer, delta.first, delta.draft.context
                ));
                for write in &delta.draft.writes {
                    let values = write.values.iter().map(|value| {
                        let text = format!("{value:?}");
                        text.chars().take(300).collect::<String>()
                    });
                    let values: Vec<String> = values.collect();
                    all.push(format!(
                        "    {:?} keeps {:?}: {values:?}",
                        write.key, write.keeps
                    ));
                }
            }
        }
        all
    }

    /// What all of them show, which is the same.
    pub async fn tree(&self) -> BTreeMap<String, Seen> {
        let first = self.tree_of(0).await;
        for at in 1..self.members.len() {
            let other = self.tree_of(at).await;
            let only = |one: &BTreeMap<String, Seen>, two: &BTreeMap<String, Seen>| {
                let differ = one
                    .iter()
                    .filter(|(path, seen)| two.get(*path) != Some(seen));
                differ.map(|(path, _)| path.clone()).collect::<Vec<_>>()
            };
            assert!(
                other == first,
                "members 0 and {at} differ:\n{:?}\n{:?}",
                only(&first, &other),
                only(&other, &first)
            );
        }
        first
    }

    pub async fn tree_of(&self, at: usize) -> BTreeMap<String, Seen> {
        let vfs = self.vfs(at);
        let fs: &dyn Fs = &**vfs;
        let tree = fs.tree(65536).await.unwrap();
        let path = |parts: Vec<Vec<u8>>| {
            let parts = parts.iter().map(|part| String::from_utf8_lossy(part));
            parts.collect::<Vec<_>>().join("/")
        };
        tree.into_iter()
            .map(|(key, seen)| (path(key), seen))
            .collect()
    }
}

/// What programs do, on one member.
pub struct Hand<'a>(pub &'a Vfs);

const NODE: NewNode = NewNode {
    kind: FileType::Regular,
    perm: 0o644,
    umask: 0,
    rdev: 0,
};

impl Hand<'_> {
    pub async fn find(&self, path: &str) -> Result<Ino, Errno> {
        let mut at = Ino::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = self.0.lookup(&Caller::ROOT, at, Name::new(name.as_bytes()));
            match found.wait().await? {
                Lookup::Found(entry) => at = entry.attr.ino,
                Lookup::Absent(_) => return Err(Errno::ENOENT),
            }
        }
        Ok(at)
    }

    async fn parent<'p>(&self, path: &'p str) -> Result<(Ino, Name<'p>), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(dir).await?, Name::new(name.as_bytes())))
    }

    pub async fn mkdir(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        let node = NewNode {
            kind: FileType::Directory,
            perm: 0o755,
            ..NODE
        };
        self.0.mkdir(&Caller::ROOT, dir, name, &node).wait().await?;
        Ok(())
    }

    /// Opens or makes a file, writes, and closes it.
    pub async fn write(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let ino = self.open(path).await?;
        self.write_open(ino, offset, bytes).await?;
        self.close(ino).await
    }

    /// The same, of a file that is to have nothing else.
    pub async fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        let flags = OpenFlags(libc::O_RDWR | libc::O_TRUNC);
        let made = self.0.create(&Caller::ROOT, dir, name, &NODE, flags);
        let ino = made.wait().await?.0.attr.ino;
        self.write_open(ino, 0, bytes).await?;
        self.close(ino).await
    }

    /// The first bytes of a file.
    pub async fn read_at(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.0.open(&Caller::ROOT, ino, RW).wait().await?;
        let fh = cairnfs_fuse::Fh(ino.0);
        let read = self.0.read(ino, fh, 0, 64, RW).wait().await;
        self.close(ino).await?;
        Ok(read?.to_vec())
    }

    pub async fn open(&self, path: &str) -> Result<Ino, Errno> {
        let (dir, name) = self.parent(path).await?;
        let made = self
            .0
            .create(&Caller::ROOT, dir, name, &NODE, RW)
            .wait()
            .await?;
        Ok(made.0.attr.ino)
    }

    pub async fn write_open(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let write = Write {
            offset,
            bytes,
            flags: RW,
            is_from_cache: false,
            kill_suidgid: false,
        };
        let fh = cairnfs_fuse::Fh(ino.0);
        self.0.write(&Caller::ROOT, ino, fh, &write).wait().await?;
        Ok(())
    }

    pub async fn close(&self, ino: Ino) -> Result<(), Errno> {
        self.0
            .release(ino, cairnfs_fuse::Fh(ino.0), RW)
            .wait()
            .await
    }

    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let ino = self.find(path).await?;
        self.0.open(&Caller::ROOT, ino, RW).wait().await?;
        let read = self.read_open(ino).await;
        self.close(ino).await?;
        read
    }

    pub async fn read_open(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let fs: &dyn Fs = self.0;
        fs.content(ino, 65536).await
    }

    pub async fn unlink(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        self.0.unlink(&Caller::ROOT, dir, name).wait().await
    }

    pub async fn rmdir(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        self.0.rmdir(&Caller::ROOT, dir, name).wait().await
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let ((parent, name), (new_parent, new_name)) =
            (self.parent(from).await?, self.parent(to).await?);
        let rename = Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags: RenameFlags::Replace,
        };
        self.0.rename(&Caller::ROOT, &rename).wait().await
    }

    pub async fn names(&self, path: &str) -> Vec<String> {
        let fs: &dyn Fs = self.0;
        let ino = self.find(path).await.unwrap();
        let names = fs.names(ino, false).await.unwrap();
        let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        names.iter().map(text).collect()
    }
}
