//! One life of a shared volume.

use std::collections::BTreeMap;
use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs::net::memory::LinkFaults;
use cairnfs::testkit::ClusterOptions;
use futures::future::join_all;
use tokio::task::JoinHandle;

use super::world::{READER, SECOND, WRITERS, World};
use crate::common::books::{Books, Deed, path};

/// Members and the peer that only stores.
const PEERS: usize = READER + 2;
/// Peers that are away at once.
const AWAY_MAX: usize = 3;

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub trace: [u8; 32],
    pub log: Vec<String>,
    pub kept: usize,
}

struct Life {
    world: World,
    entropy: Entropy,
    books: Books,
    log: Vec<String>,
    /// Syncs that go on, with the last number when each began.
    syncing: BTreeMap<usize, (usize, JoinHandle<bool>)>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let warnings = self.world.warnings();
            eprintln!("{}\nwarned of:\n{warnings}", self.log.join("\n"));
        }
    }
}

/// Lives through a seed.
pub async fn live(seed: u64) -> Outcome {
    let world = World::new(seed).await;
    let mut life = Life {
        entropy: world.cluster.entropy.fork(),
        world,
        books: Books::default(),
        log: vec![format!("seed {seed}")],
        syncing: BTreeMap::new(),
    };
    let rounds = 40 + life.entropy.below(50);
    for _ in 0..rounds {
        life.round().await;
        let ms = life.entropy.below(800);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    life.heal().await;
    life.log.push("all settle".to_owned());
    life.world.settle().await;
    let tree = life.world.tree().await;
    life.books.check(&tree, &format!("seed {seed}"));
    let log = std::mem::take(&mut life.log);
    Outcome {
        trace: life.world.cluster.hub.trace().digest(),
        log,
        kept: life.books.kept(),
    }
}

impl Life {
    fn below(&self, bound: usize) -> usize {
        self.entropy.below(bound as u64) as usize
    }

    fn note(&mut self, what: String) {
        let ms = self.world.cluster.clock().now_ms() % 100_000_000;
        self.log.push(format!("{ms} {what}"));
    }

    async fn round(&mut self) {
        self.note_synced();
        let number = self.below(READER + 1);
        match self.entropy.below(100) {
            0..58 => self.deeds().await,
            58..66 => self.sync(self.below(WRITERS)),
            66..70 => self.partition(),
            70..74 => {
                self.world.cluster.hub.heal();
                self.note("the network is whole".to_owned());
            }
            74..79 => self.worsen(),
            79..81 => self.slow(number),
            81..86 if self.away() < AWAY_MAX => {
                self.crash(number).await;
                if self.entropy.below(2) == 0 {
                    self.begin(number).await;
                }
            }
            86..89 if self.away() < AWAY_MAX && self.world.is_open(number) => {
                self.syncing.remove(&number);
                self.world.shut(number).await;
                self.books.are_durable(number, self.books.last());
                self.note(format!("{number} ends"));
                // Its peer may stay, or go for long.
                if self.entropy.below(2) == 0 {
                    self.world.crash(number).await;
                }
            }
            89..94 => self.begin(number).await,
            94..95 => {
                let at = self.below(PEERS);
                let id = self.world.cluster.id(at).unwrap();
                self.world.cluster.hub.pause(id);
                tokio::time::sleep(Duration::from_millis(self.entropy.below(20_000))).await;
                self.world.cluster.hub.resume(id);
                self.note(format!("peer {at} was held up"));
            }
            95..97 => {
                tokio::time::sleep(Duration::from_secs(30 + self.entropy.below(600))).await;
                self.note("much time passes".to_owned());
            }
            _ => tokio::time::sleep(Duration::from_millis(self.entropy.below(6000))).await,
        }
    }

    fn away(&self) -> usize {
        (0..=READER).filter(|at| !self.world.is_open(*at)).count()
    }

    /// Some writers do something at the same time.
    async fn deeds(&mut self) {
        let mut writers: Vec<usize> = (0..WRITERS).filter(|at| self.world.is_open(*at)).collect();
        let count = 1 + self.below(3);
        let mut deeds = Vec::new();
        while deeds.len() < count && !writers.is_empty() {
            let number = writers.swap_remove(self.below(writers.len()));
            let kind = self.entropy.below(Deed::KINDS);
            let (path, other) = (path(&self.entropy), path(&self.entropy));
            deeds.push((number, self.books.deed(kind, path, other, &self.entropy)));
        }
        let world = &self.world;
        let doing = deeds.iter().map(|(number, deed)| async {
            let done = deed.carry_out(world.vfs(*number));
            tokio::time::timeout(60 * SECOND, done).await
        });
        let all = join_all(doing).await;
        for ((number, deed), done) in deeds.iter().zip(all) {
            let done = done.unwrap_or_else(|_| panic!("{number} cannot do {deed:?}"));
            let line = self.books.note(*number, deed, &done);
            self.note(line);
        }
    }

    /// A writer has everything placed, while others go on.
    fn sync(&mut self, number: usize) {
        if self.world.is_open(number) && !self.syncing.contains_key(&number) {
            let vfs = self.world.vfs(number).clone();
            let upto = self.books.last();
            let syncing = tokio::spawn(async move { vfs.sync().await.is_ok() });
            self.syncing.insert(number, (upto, syncing));
            self.note(format!("{number} syncs"));
        }
    }

    fn note_synced(&mut self) {
        let ended: Vec<usize> = self
            .syncing
            .iter()
            .filter(|(_, (_, syncing))| syncing.is_finished())
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            if let Some((upto, syncing)) = self.syncing.remove(&number) {
                let is_done = futures::FutureExt::now_or_never(syncing);
                let is_done = matches!(is_done, Some(Ok(true)));
                if is_done {
                    self.books.are_durable(number, upto);
                }
                self.note(format!("{number} synced up to {upto}: {is_done}"));
            }
        }
    }

    async fn crash(&mut self, number: usize) {
        if self.world.is_open(number) {
            self.note_synced();
            if let Some((_, syncing)) = self.syncing.remove(&number) {
                syncing.abort();
            }
            self.books.crashes(number);
            self.world.crash(number).await;
            self.note(format!("{number} loses power"));
        }
    }

    async fn begin(&mut self, number: usize) {
        if !self.world.is_open(number) {
            self.world.begin(number).await;
            self.note(format!("{number} begins"));
        }
    }

    fn partition(&mut self) {
        let mut groups = vec![Vec::new(), Vec::new()];
        let mut sides = String::new();
        for at in 0..PEERS {
            let side = self.below(2);
            groups[side].push(self.world.cluster.id(at).unwrap());
            sides.push(if side == 0 { 'a' } else { 'b' });
        }
        self.world.cluster.hub.partition(&groups);
        self.note(format!("the network falls apart: {sides}"));
    }

    /// A link becomes bad.
    fn worsen(&mut self) {
        let (one, two) = (self.below(PEERS), self.below(PEERS));
        let faults = LinkFaults {
            delay: Duration::from_millis(self.entropy.below(400)),
            jitter: Duration::from_millis(self.entropy.below(1500)),
            loss: 0.4 * self.entropy.unit(),
        };
        self.link(one, two, faults);
        self.note(format!("the link between {one} and {two}: {faults:?}"));
    }

    fn link(&self, one: usize, two: usize, faults: LinkFaults) {
        let cluster = &self.world.cluster;
        let (one, two) = (cluster.id(one).unwrap(), cluster.id(two).unwrap());
        cluster.hub.link(one, two, faults);
    }

    /// A peer becomes slow, or damages what it says.
    fn slow(&mut self, at: usize) {
        let id = self.world.cluster.id(at).unwrap();
        if self.entropy.below(2) == 0 {
            let ms = self.entropy.below(3000);
            self.world.cluster.hub.slow(id, Duration::from_millis(ms));
            self.note(format!("peer {at} takes {ms} ms longer"));
        } else {
            let share = 0.3 * self.entropy.unit();
            self.world.cluster.hub.corrupt(id, share);
            self.note(format!("peer {at} damages {share:.2}"));
        }
    }

    /// Everybody is back, and the network as good as ever.
    async fn heal(&mut self) {
        self.world.cluster.hub.heal();
        for at in 0..PEERS {
            let id = self.world.cluster.id(at).unwrap();
            self.world.cluster.hub.slow(id, Duration::ZERO);
            self.world.cluster.hub.corrupt(id, 0.0);
            for other in 0..PEERS {
                self.link(at, other, ClusterOptions::default().faults);
            }
        }
        for number in 0..=READER {
            self.begin(number).await;
        }
        for (number, (upto, syncing)) in std::mem::take(&mut self.syncing) {
            let is_done = matches!(
                tokio::time::timeout(60 * SECOND, syncing).await,
                Ok(Ok(true))
            );
            if is_done {
                self.books.are_durable(number, upto);
            }
            self.note(format!("{number} synced up to {upto}: {is_done}"));
        }
    }
}
