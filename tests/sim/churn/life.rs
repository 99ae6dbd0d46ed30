//! One life of a network, from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockId, BlockRef, EcProfile, Limits, OwnerId, PeerId, ShardId};
use cairnfs::blocks::{Blocks, PutError, UploadOptions};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::fault::Fault;
use cairnfs::net::memory::LinkFaults;
use cairnfs::testkit::{Cluster, ClusterOptions, PeerSetup, UpkeepTimes};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::book::{Book, Claim};

const MINUTE: Duration = Duration::from_secs(60);
const DEAD: Duration = Duration::from_secs(30 * 60);
const TIMES: UpkeepTimes = UpkeepTimes {
    suspect: Duration::from_secs(10 * 60),
    dead: DEAD,
    scrub: Duration::from_secs(24 * 3600),
    rate: 16 << 20,
    audit: Duration::from_secs(3600),
};
/// Longest time until all is at rest: the dead timer and the life of a claim, which are the same here, may begin with the
/// last event, and what comes of the first may have to be let go again after the second.
const QUIET: Duration = Duration::from_secs(2 * 3600);
const OWNER: OwnerId = OwnerId([1; 16]);
const QUOTA: u64 = 64 << 20;
/// The first peers crash, and always come back: they let go of what they put.
const OWNERS: usize = 3;
const ZONES: u64 = 6;
/// Peers that go for good in one life.
const GONE_MAX: usize = 4;
const DOWN_MAX: usize = 3;

/// How a life ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub trace: [u8; 32],
    pub wrong: Vec<String>,
    pub kept: usize,
    pub released: usize,
    pub lost: usize,
    pub gone: usize,
    pub back: usize,
    pub joined: usize,
    pub quiet_after: Duration,
}

type Done = (BlockRef, Claim, Vec<PeerId>);

/// How an upload ended.
enum Outcome {
    Done(Done, Bytes),
    /// Nothing of it is kept.
    Failed,
    /// It may be kept.
    Unknown,
}

/// An upload under way.
struct Putting {
    task: JoinHandle<Outcome>,
    /// Its block, once it is known.
    block: Arc<OnceLock<BlockId>>,
    at: usize,
    /// Which crash of its peer comes next.
    crash: usize,
}

struct Life {
    cluster: Cluster,
    book: Book,
    /// Who is down, and when it comes back.
    down: BTreeMap<usize, Instant>,
    gone: BTreeSet<usize>,
    /// Whose disk is full, and until when.
    full: BTreeMap<usize, Instant>,
    healed: Option<Instant>,
    puts: Vec<Putting>,
    crashes: BTreeMap<usize, usize>,
    /// Contents put before: some are put again.
    contents: Vec<Bytes>,
    released: usize,
    back: usize,
    joined: usize,
    log: bool,
}

pub async fn live(seed: u64, steps: usize) -> Ended {
    let mut life = Life::begin(seed).await;
    for step in 0..steps {
        life.due().await;
        life.happen().await;
        let pause = MINUTE / 2 + MINUTE * life.below(8) as u32;
        tokio::time::sleep(pause).await;
        life.collect(false).await;
        life.book
            .look(&life.cluster, false, &format!("step {step}"))
            .await;
        life.within_quota();
    }
    life.rest().await
}

/// How the first peers are: two of them in each zone, or three, and one or two that lie.
fn setups(seed: u64, peers: usize) -> (Vec<PeerSetup>, BTreeSet<usize>) {
    let mut setups: Vec<PeerSetup> = (0..peers as u64)
        .map(|at| PeerSetup {
            zone: format!("zone {}", at % ZONES),
            fault: None,
        })
        .collect();
    const LIES: [Fault; 6] = [
        Fault::Corrupt,
        Fault::Boast,
        Fault::Renege,
        Fault::Silent,
        Fault::Refuse,
        Fault::Old,
    ];
    let mut liars = BTreeSet::new();
    let lie = seed as usize % (LIES.len() + 1);
    let two = seed % 5 == 4;
    for (which, at) in [(lie, peers - 1), (lie + 3, peers - 2)] {
        let fault = LIES.get(which % (LIES.len() + 1)).copied();
        if let Some(fault) = fault.filter(|_| at == peers - 1 || two) {
            setups[at].fault = Some(fault);
            liars.insert(at);
        }
    }
    (setups, liars)
}

impl Life {
    async fn begin(seed: u64) -> Life {
        let peers = 12 + (seed % 5) as usize;
        let (setups, liars) = setups(seed, peers);
        let says_nothing = |at: &usize| {
            let fault = setups.get(*at).and_then(|setup| setup.fault);
            matches!(fault, Some(Fault::Silent | Fault::Refuse))
        };
        let mute = liars.iter().copied().filter(says_nothing).collect();
        let options = ClusterOptions {
            peers,
            quota_bytes: QUOTA,
            upkeep: Some(TIMES),
            tended: true,
            setups,
            memory_bytes: 0,
            limits: Limits {
                claim_ttl: DEAD,
                ..Limits::tiny()
            },
            faults: LinkFaults {
                delay: Duration::from_millis(2),
                jitter: Duration::from_millis(10),
                loss: 0.002,
            },
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, seed).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        Life {
            cluster,
            book: Book::new(liars, mute),
            down: BTreeMap::new(),
            gone: BTreeSet::new(),
            full: BTreeMap::new(),
            healed: None,
            puts: Vec::new(),
            crashes: BTreeMap::new(),
            contents: Vec::new(),
            released: 0,
            back: 0,
            joined: 0,
            log: std::env::var("CAIRN_SIM_LOG").is_ok(),
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.cluster.entropy.below(bound)
    }

    fn say(&self, what: &str) {
        if self.log {
            let minutes = self.cluster.clock().now_ms() / 60_000 % 100_000;
            println!("{minutes}: {what}");
        }
    }

    /// One of those who run; of the honest ones only.
    fn one(&self) -> Option<usize> {
        let up: Vec<usize> = (0..self.cluster.len())
            .filter(|at| self.cluster.blocks(*at).is_some() && !self.book.liars.contains(at))
            .collect();
        up.get(self.below(up.len().max(1) as u64) as usize).copied()
    }

    async fn happen(&mut self) {
        let Some(at) = self.one() else { return };
        match self.below(24) {
            0..9 => self.put(at),
            9..12 => self.release().await,
            12..14 if self.down.len() < DOWN_MAX => self.crash(at).await,
            14..16 if self.down.len() < DOWN_MAX => self.kill(at).await,
            16 => self.fail_zones().await,
            17..19 => self.join().await,
            19 => {
                self.say(&format!("{at} is full"));
                self.cluster.disk(at).unwrap().set_capacity(0);
                let until = Instant::now() + MINUTE * (5 + self.below(45) as u32);
                self.full.insert(at, until);
            }
            20 => self.rot(at).await,
            21 if self.healed.is_none() => self.partition(),
            _ => {
                self.put(at);
                self.release().await;
            }
        }
    }

    // ---- putting -----------------------------------------------------------------------------

    /// Begins an upload; nobody waits for it.
    fn put(&mut self, at: usize) {
        let count = 1 + self.below(3);
        for _ in 0..count {
            let is_again = !self.contents.is_empty() && self.below(3) == 0;
            let content = match is_again {
                true => self.contents[self.below(self.contents.len() as u64) as usize].clone(),
                false => {
                    let mut bytes = vec![0; 100 + self.below(9000) as usize];
                    self.cluster.entropy.fill(&mut bytes);
                    Bytes::from(bytes)
                }
            };
            if !is_again {
                self.contents.push(content.clone());
            }
            let Some(blocks) = self.cluster.blocks(at).cloned() else {
                return;
            };
            let block = Arc::new(OnceLock::new());
            let known = Arc::clone(&block);
            let task = tokio::spawn(async move {
                // Whoever waits for ever for a peer that is no more must not hold up the end.
                let most = Duration::from_secs(900);
                match tokio::time::timeout(most, put(blocks, at, &content, &known)).await {
                    Ok(Ok(done)) => Outcome::Done(done, content),
                    Ok(Err(PutError::Store(..))) | Err(_) => Outcome::Unknown,
                    Ok(Err(_)) => Outcome::Failed,
                }
            });
            let crash = self.crashes.get(&at).copied().unwrap_or(0);
            self.puts.push(Putting {
                task,
                block,
                at,
                crash,
            });
        }
    }

    /// What has been acknowledged by now, or in the end everything.
    async fn collect(&mut self, is_end: bool) {
        let mut waiting = Vec::new();
        for put in std::mem::take(&mut self.puts) {
            if !is_end && !put.task.is_finished() {
                waiting.push(put);
                continue;
            }
            let crash = self.crashes.get(&put.at).copied().unwrap_or(0);
            let block = put.block.get().copied();
            match put.task.await.unwrap() {
                Outcome::Done((reference, claim, told), content) => {
                    self.book.put(reference, content, claim, told);
                }
                Outcome::Failed if crash == put.crash => {}
                // Whether it was decided before the crash only its peer knows, if it comes back.
                Outcome::Failed | Outcome::Unknown => self.book.doubtful.extend(block),
            }
        }
        self.puts = waiting;
    }

    /// An owner that runs lets go of one of its uploads.
    async fn release(&mut self) {
        let mine = self.book.entries.iter();
        let mine = mine.flat_map(|(block, entry)| entry.claims.keys().map(|c| (*block, *c)));
        let mine: Vec<_> = mine
            .filter(|(_, (at, _))| *at < OWNERS && self.cluster.blocks(*at).is_some())
            .collect();
        if mine.is_empty() {
            return;
        }
        let (block, claim) = mine[self.below(mine.len() as u64) as usize];
        let blocks = self.cluster.blocks(claim.0).unwrap().clone();
        let entry = self.book.entries.get_mut(&block).unwrap();
        let told = entry.claims.get(&claim).unwrap().clone();
        entry.claims.remove(&claim);
        self.released += 1;
        self.say(&format!("{claim:?} of {} is let go", block.short()));
        if blocks.release(OWNER, claim.1, told).await.is_err() {
            // Its disk took the decision, or did not.
            self.book.doubtful.insert(block);
        }
    }

    // ---- trouble -----------------------------------------------------------------------------

    async fn stop(&mut self, at: usize, most: u32) {
        self.book.sleeps(&self.cluster, at).await;
        self.cluster.crash(at);
        *self.crashes.entry(at).or_default() += 1;
        let until = Instant::now() + MINUTE * (1 + self.below(u64::from(most)) as u32);
        self.down.insert(at, until);
    }

    async fn crash(&mut self, at: usize) {
        self.say(&format!("{at} crashes"));
        self.stop(at, 75).await;
    }

    async fn kill(&mut self, at: usize) {
        if at < OWNERS || self.gone.len() >= GONE_MAX {
            return;
        }
        self.say(&format!("{at} is gone for good"));
        self.book.look(&self.cluster, false, "before a loss").await;
        self.cluster.crash(at);
        *self.crashes.entry(at).or_default() += 1;
        self.gone.insert(at);
        self.book.look(&self.cluster, true, "after a loss").await;
    }

    /// Two zones fail at once, for a while.
    async fn fail_zones(&mut self) {
        let first = self.below(ZONES);
        let second = (first + 1 + self.below(ZONES - 1)) % ZONES;
        self.say(&format!("zones {first} and {second} fail"));
        let most = if self.below(2) == 0 { 20 } else { 75 };
        for at in 0..self.cluster.len() {
            let zone = at as u64 % ZONES;
            if (zone == first || zone == second) && self.cluster.blocks(at).is_some() {
                self.stop(at, most).await;
            }
        }
    }

    async fn join(&mut self) {
        if self.joined >= 4 {
            return;
        }
        let id = PeerId(self.cluster.entropy.array());
        let setup = PeerSetup {
            zone: format!("zone {}", self.cluster.len() as u64 % ZONES),
            fault: None,
        };
        let at = self.cluster.add_with(id, setup).await.unwrap();
        self.say(&format!("{at} joins"));
        self.joined += 1;
    }

    /// A shard is found to be damaged.
    async fn rot(&mut self, at: usize) {
        let held = super::book::holdings(&self.cluster, at).await;
        let held: Vec<_> = held.into_iter().collect();
        if held.is_empty() {
            return;
        }
        let (block, (indices, _)) = held[self.below(held.len() as u64) as usize];
        let Some(index) = indices.iter().next() else {
            return;
        };
        self.book.look(&self.cluster, false, "before damage").await;
        let store = self.cluster.blocks(at).unwrap().store().clone();
        // A disk that takes nothing keeps it.
        let _ = store.write_off(ShardId { block, index }).await;
        self.say(&format!("{at} lost shard {index} of {}", block.short()));
        self.book.look(&self.cluster, true, "after damage").await;
    }

    fn partition(&mut self) {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for at in 0..self.cluster.len() {
            let side = match self.below(3) {
                0 => &mut left,
                _ => &mut right,
            };
            side.extend(self.cluster.id(at));
        }
        self.say("the network is cut in two");
        self.cluster.hub.partition(&[left, right]);
        self.healed = Some(Instant::now() + MINUTE * (3 + self.below(60) as u32));
    }

    /// What was to be over by now is over.
    async fn due(&mut self) {
        let now = Instant::now();
        self.end(|until| until <= now).await;
    }

    async fn end(&mut self, is_due: impl Fn(Instant) -> bool) {
        let full: Vec<usize> = due(&self.full, &is_due);
        for at in full {
            self.full.remove(&at);
            self.cluster.disk(at).unwrap().set_capacity(4 * QUOTA);
        }
        for at in due(&self.down, &is_due) {
            self.down.remove(&at);
            self.full.remove(&at);
            self.cluster.disk(at).unwrap().set_capacity(4 * QUOTA);
            self.cluster.restart(at).await.unwrap();
            self.book.wakes(at);
            self.back += 1;
            self.say(&format!("{at} is back"));
        }
        if self.healed.is_some_and(&is_due) {
            self.healed = None;
            self.cluster.hub.heal();
            self.say("the network is whole again");
        }
    }

    fn within_quota(&mut self) {
        for at in 0..self.cluster.len() {
            let Some(blocks) = self.cluster.blocks(at) else {
                continue;
            };
            let usage = blocks.store().usage();
            if usage.allocated > usage.quota {
                let wrong = format!("{at} uses {} of {}", usage.allocated, usage.quota);
                self.book.wrong.push(wrong);
            }
        }
    }

    // ---- the end -----------------------------------------------------------------------------

    async fn rest(mut self) -> Ended {
        self.end(|_| true).await;
        self.collect(true).await;
        let begun = Instant::now();
        let mut open = self.book.unsettled(&self.cluster).await;
        while !open.is_empty() && begun.elapsed() < QUIET {
            tokio::time::sleep(3 * MINUTE).await;
            self.book.look(&self.cluster, false, "at rest").await;
            open = self.book.unsettled(&self.cluster).await;
        }
        let quiet_after = begun.elapsed();
        open.truncate(8);
        self.book.wrong.append(&mut open);
        let kept: Vec<_> = self
            .book
            .entries
            .values()
            .filter(|entry| entry.is_kept() && !entry.is_lost)
            .map(|entry| (entry.reference, entry.content.clone()))
            .collect();
        for (reference, content) in &kept {
            let Some(at) = self.one() else { break };
            let blocks = self.cluster.blocks(at).unwrap().clone();
            let wrong = match blocks.read_block(reference, EcProfile::DEFAULT).await {
                Ok(bytes) if bytes == *content => continue,
                Ok(_) => "has wrong bytes".to_owned(),
                Err(error) => format!("cannot be read at {at}: {error}"),
            };
            let wrong = format!("block {} {wrong}", reference.id.short());
            self.book.wrong.push(wrong);
        }
        self.within_quota();
        let lost = self.book.entries.values();
        let lost = lost.filter(|entry| entry.is_kept() && entry.is_lost);
        Ended {
            trace: self.cluster.hub.trace().digest(),
            kept: kept.len(),
            released: self.released,
            lost: lost.count(),
            gone: self.gone.len(),
            back: self.back,
            joined: self.joined,
            wrong: self.book.wrong,
            quiet_after,
        }
    }
}

fn due(of: &BTreeMap<usize, Instant>, is_due: impl Fn(Instant) -> bool) -> Vec<usize> {
    let due = of.iter().filter(|(_, until)| is_due(**until));
    due.map(|(at, _)| *at).collect()
}

async fn put(
    blocks: Blocks,
    at: usize,
    content: &Bytes,
    block: &OnceLock<BlockId>,
) -> Result<Done, PutError> {
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OWNER,
    };
    let upload = blocks.upload(options).await?;
    let number = upload.claim().number;
    let reference = upload.submit(content.clone()).await?.await?;
    let _ = block.set(reference.id);
    let report = upload.finish(Vec::new()).await?;
    Ok((reference, (at, number), report.told))
}
