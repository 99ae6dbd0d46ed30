//! Peers with one volume open on all but one of them, which keep in step by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Clock, PeerId, Pools};
use cairnfs::crypto::SigningKey;
use cairnfs::feeds::Message;
use cairnfs::net::{Request, Response};
use cairnfs::share::{Sharer, SharerParts};
use cairnfs::testkit::{Cluster, ClusterOptions};
use cairnfs::vfs::{Rights, Vfs, VfsOptions};
use cairnfs_fuse::FileSystem;
use tracing::subscriber::DefaultGuard;

use crate::common::hand::Hand;
use crate::common::look::{Fs, Seen};
use crate::common::member::{self, Device, ID, Secrets};

/// Members that write are 0 to 4.
pub const WRITERS: usize = 5;
/// The one that reads.
pub const READER: usize = 5;
pub const SECOND: Duration = Duration::from_secs(1);
/// Longer than it takes until heads are compared again.
const ROUND: Duration = Duration::from_secs(36);
/// Rounds until all must be in step.
const PATIENCE: usize = 40;

/// Where warnings go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One member.
pub struct Member {
    pub device: Device,
    /// The number of its peer.
    pub at: usize,
    pub clock: Clock,
    open: Option<(Arc<Vfs>, Sharer)>,
}

impl Member {
    /// One that has nothing open yet, at a peer.
    pub fn new(device: Device, at: usize, clock: Clock) -> Member {
        Member {
            device,
            at,
            clock,
            open: None,
        }
    }
}

/// See the module. Peer 0 only stores.
pub struct World {
    pub cluster: Cluster,
    pub members: Vec<Member>,
    pub secrets: Secrets,
    options: VfsOptions,
    lines: Lines,
    _logging: DefaultGuard,
}

/// Much is written while peers are away.
pub fn options() -> VfsOptions {
    VfsOptions {
        dirty_max_bytes: 32 << 20,
        ..member::options()
    }
}

impl World {
    pub async fn new(seed: u64) -> World {
        World::with(seed, options()).await
    }

    /// With options of one's own.
    pub async fn with(seed: u64, volume_options: VfsOptions) -> World {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .without_time()
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let options = ClusterOptions {
            peers: 1,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, seed).await.unwrap();
        let mut world = World {
            secrets: Secrets::new(&cluster.entropy),
            cluster,
            members: Vec::new(),
            options: volume_options,
            lines,
            _logging: logging,
        };
        for number in 0..=READER {
            let rights = match number {
                READER => Rights::Read,
                _ => Rights::Write,
            };
            let device = Device {
                key: SigningKey::generate(&world.cluster.entropy),
                rights,
                is_founder: number == 0,
            };
            if device.is_founder {
                world.secrets.owner = device.key.clone();
            }
            let at = world.cluster.add_as(device.key.peer()).await.unwrap();
            let clock = world.cluster.clock().clone();
            world.members.push(Member::new(device, at, clock));
        }
        // Until they know each other.
        tokio::time::sleep(3 * SECOND).await;
        for number in 0..=READER {
            world.open(number).await;
        }
        for _ in 0..PATIENCE {
            tokio::time::sleep(SECOND).await;
            if (0..=READER).all(|number| world.vfs(number).has_tree()) {
                return world;
            }
        }
        panic!("they do not find each other");
    }

    pub fn vfs(&self, number: usize) -> &Arc<Vfs> {
        let open = self.members[number].open.as_ref();
        &open.expect("it is open").0
    }

    pub fn sharer(&self, number: usize) -> &Sharer {
        let open = self.members[number].open.as_ref();
        &open.expect("it is open").1
    }

    pub fn hand(&self, number: usize) -> Hand<'_> {
        Hand(self.vfs(number))
    }

    pub fn is_open(&self, number: usize) -> bool {
        self.members[number].open.is_some()
    }

    pub fn peer(&self, number: usize) -> PeerId {
        self.members[number].device.key.peer()
    }

    /// Begins a member whose peer runs.
    pub async fn open(&mut self, number: usize) {
        let member = &self.members[number];
        let at = member.at;
        let options = self.options.clone();
        let vfs = member::open(
            &self.cluster,
            at,
            &member.device,
            &self.secrets,
            &member.clock,
            &options,
        );
        let vfs = vfs.await;
        let parts = SharerParts {
            volume: ID,
            net: self.cluster.blocks(at).unwrap().net().clone(),
            blocks: self.cluster.blocks(at).unwrap().clone(),
            inbound: self.cluster.feeds(at).unwrap().open(),
            pools: Pools::inline(),
            entropy: self.cluster.entropy.fork(),
            keepers: 3,
        };
        let sharer = Sharer::start(Arc::clone(&vfs), parts);
        self.members[number].open = Some((vfs, sharer));
    }

    /// Ends a member in good order. Its peer goes on.
    pub async fn shut(&mut self, number: usize) {
        if let Some((vfs, sharer)) = self.members[number].open.take() {
            sharer.stop().await;
            vfs.ended();
            vfs.close().await.unwrap();
        }
    }

    /// A member's peer loses power.
    pub async fn crash(&mut self, number: usize) {
        let open = self.members[number].open.take();
        self.cluster.crash(self.members[number].at);
        if let Some((_, sharer)) = open {
            sharer.stop().await;
        }
    }

    /// A member's peer starts, if it does not run, and the member begins.
    pub async fn begin(&mut self, number: usize) {
        if !self.is_open(number) {
            let at = self.members[number].at;
            self.cluster.restart(at).await.unwrap();
            self.open(number).await;
        }
    }

    /// What was warned of so far.
    pub fn warnings(&self) -> String {
        String::from_utf8_lossy(&self.lines.0.lock().unwrap()).into_owned()
    }

    /// What was warned of so far, which is forgotten.
    pub fn take_warnings(&self) -> String {
        let taken = std::mem::take(&mut *self.lines.0.lock().unwrap());
        String::from_utf8_lossy(&taken).into_owned()
    }

    /// What a member tells of how far it is.
    pub fn state(&self, number: usize) -> String {
        let Some((vfs, sharer)) = &self.members[number].open else {
            return format!("{number} is away");
        };
        let claims = vfs.claims();
        let name = |peer: PeerId| (0..self.members.len()).find(|at| self.peer(*at) == peer);
        let claims: Vec<_> = claims
            .iter()
            .map(|claim| (name(claim.writer.peer), claim.last, claim.hash))
            .collect();
        let (progress, status) = (vfs.progress(), sharer.status());
        format!("{number}: {claims:?} {status:?} {progress:?}")
    }

    /// What a member has of each feed, and what waits there.
    pub fn standing(&self, number: usize) -> String {
        let vfs = self.vfs(number);
        format!("{:?} {:?}", vfs.claims(), vfs.progress())
    }

    /// Until everything is in blocks and described, and all members have all of it, by what they do themselves.
    pub async fn settle(&self) {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.settle_of(&all).await;
    }

    /// The same of some members.
    pub async fn settle_of(&self, members: &[usize]) {
        let mut before = None;
        let mut synced = Vec::new();
        for _ in 0..PATIENCE {
            synced.clear();
            for number in members {
                if self.members[*number].device.rights == Rights::Write {
                    let done = tokio::time::timeout(60 * SECOND, self.vfs(*number).sync()).await;
                    let is_done = matches!(done, Ok(Ok(())));
                    synced.push((*number, is_done));
                }
            }
            tokio::time::sleep(ROUND).await;
            let claims = members
                .iter()
                .map(|number| format!("{:?}", self.vfs(*number).claims()));
            let claims: BTreeSet<String> = claims.collect();
            let is_synced = synced.iter().all(|(_, is_done)| *is_done);
            let now = Some(claims);
            if is_synced && now == before && now.as_ref().is_some_and(|claims| claims.len() == 1) {
                return;
            }
            before = now;
        }
        let states: Vec<String> = members.iter().map(|number| self.state(*number)).collect();
        panic!(
            "they do not come to the same: {}\nsynced: {synced:?}\n{}",
            states.join("\n"),
            self.warnings()
        );
    }

    /// What all members show, which is the same.
    pub async fn tree(&self) -> BTreeMap<String, Seen> {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.tree_of(&all).await
    }

    /// The same of some members.
    pub async fn tree_of(&self, members: &[usize]) -> BTreeMap<String, Seen> {
        let first = self.look(members[0]).await;
        for number in &members[1..] {
            let other = self.look(*number).await;
            let paths: BTreeSet<&String> = first.keys().chain(other.keys()).collect();
            let differ: Vec<_> = paths
                .into_iter()
                .filter(|path| first.get(*path) != other.get(*path))
                .map(|path| (path, first.get(path), other.get(path)))
                .collect();
            let text: String = format!("{differ:?}").chars().take(2000).collect();
            assert!(
                differ.is_empty(),
                "members {} and {number} differ: {text}",
                members[0]
            );
        }
        first
    }

    pub async fn look(&self, number: usize) -> BTreeMap<String, Seen> {
        let vfs = self.vfs(number);
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

    /// One more peer of a device, which has nothing open.
    pub async fn stranger(&mut self, device: &SigningKey) -> usize {
        let at = self.cluster.add_as(device.peer()).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        at
    }

    /// What a member answers to bytes that the peer `from` says.
    pub async fn say(&self, from: usize, to: usize, body: impl Into<Bytes>) -> Response {
        let net = self.cluster.blocks(from).unwrap().net();
        let request = Request::Feed { body: body.into() };
        let answer = net.request(self.peer(to), request, 20 * SECOND);
        answer.await.unwrap()
    }

    /// Gives deltas to all members.
    pub async fn give(&self, from: usize, deltas: &[Bytes], last: u64) {
        for to in (0..self.members.len()).filter(|to| self.is_open(*to)) {
            for delta in deltas {
                let sealed = cairnfs::feeds::SealedDelta::decode(delta);
                let writer = match sealed {
                    Ok(sealed) => sealed.link().writer,
                    // Whatever it is, it is said to be of somebody.
                    Err(_) => self.vfs(0).writer(),
                };
                let have = Message::Have {
                    volume: ID,
                    writer,
                    last,
                    deltas: vec![delta.clone()],
                };
                self.say(from, to, have.encode()).await;
            }
        }
    }
}
