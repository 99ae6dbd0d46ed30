//! Several members who have one volume open, each on a simulated peer of its own. What they tell each other is
//! carried by the test, in whatever order it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairnfs::base::{Clock, PeerId};
use cairnfs::crypto::sign::SigningKey;
use cairnfs::testkit::{Cluster, ClusterOptions};
use cairnfs::vfs::{Rights, Vfs, VfsOptions};
use cairnfs_fuse::{FileSystem, Ino};

pub use crate::common::hand::Hand;
use crate::common::member::{self, Device, Secrets, options};
use crate::vfs::twin::{Fs, Seen};

const PATIENCE: usize = 400;

pub struct Member {
    pub device: Device,
    open: Option<Arc<Vfs>>,
}

pub struct Team {
    pub cluster: Cluster,
    pub members: Vec<Member>,
    secrets: Secrets,
    clock: Clock,
    options: VfsOptions,
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
            secrets: Secrets::new(&cluster.entropy),
            clock: Clock::simulated(1_767_225_600_000),
            members: Vec::new(),
            options,
            cluster,
        };
        for at in 0..members {
            let device = Device {
                key: SigningKey::generate(&team.cluster.entropy),
                rights: Rights::Write,
                is_founder: at == 0,
            };
            team.members.push(Member { device, open: None });
            team.open(at).await;
        }
        team
    }

    pub fn vfs(&self, at: usize) -> &Arc<Vfs> {
        self.members[at].open.as_ref().expect("it is open")
    }

    pub fn set_rights(&mut self, at: usize, rights: Rights) {
        self.members[at].device.rights = rights;
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
        let device = &self.members[at].device;
        let options = self.options.clone();
        let opened = member::open(
            &self.cluster,
            at,
            device,
            &self.secrets,
            &self.clock,
            &options,
        );
        self.members[at].open = Some(opened.await);
    }

    /// Opens the volume on a peer that has nothing of it.
    pub async fn open_at(&self, at: usize, device: &Device) -> Arc<Vfs> {
        let (secrets, clock) = (&self.secrets, &self.clock);
        member::open(&self.cluster, at, device, secrets, clock, &self.options).await
    }

    /// What one has and the other has not, all at once. How many deltas that were.
    pub async fn tell(&self, from: usize, to: usize) -> usize {
        let (from, to) = (self.vfs(from), self.vfs(to));
        let known: BTreeMap<_, u64> = to.claims().iter().map(|c| (c.writer, c.last)).collect();
        let mut count = 0;
        for claim in from.claims() {
            let mut after = known.get(&claim.writer).copied().unwrap_or(0);
            while after < claim.last {
                let found = from.deltas(claim.writer, after, 4096).await.unwrap();
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
                if self.members[at].device.rights == Rights::Write {
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

    pub async fn replay(&self, at: usize) -> Vec<String> {
        use cairnfs::namespace::{MemRows, Outcome, View, apply};
        let vfs = self.vfs(at);
        let mut all = Vec::new();
        for claim in vfs.claims() {
            let found = vfs.deltas(claim.writer, 0, usize::MAX).await.unwrap();
            for sealed in found.deltas {
                let sealed = cairnfs::feeds::SealedDelta::decode(&sealed).unwrap();
                all.push(sealed.open(&self.secrets.epoch).unwrap());
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
    pub async fn deltas(&self, at: usize) -> Vec<String> {
        let vfs = self.vfs(at);
        let mut all = Vec::new();
        for claim in vfs.claims() {
            let found = vfs.deltas(claim.writer, 0, usize::MAX).await.unwrap();
            for sealed in found.deltas {
                let sealed = cairnfs::feeds::SealedDelta::decode(&sealed).unwrap();
                let delta = sealed.open(&self.secrets.epoch).unwrap();
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
            let (files, there) = (self.files_of(at), self.files_of(0));
            assert_eq!(files, there, "files of member {at} and of member 0");
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

    /// How many files there are, as a member counts them.
    pub fn files_of(&self, at: usize) -> u64 {
        let stat = self.vfs(at).statfs(Ino::ROOT).now().unwrap();
        stat.files - stat.files_free
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
