//! Random operations of several members who hear of each other late, in part, and after crashes: in the end all
//! show the same tree, and nothing is gone that nobody overwrote or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs::vfs::{Keep, ResolveError};
use cairnfs_fuse::FileType;

use super::conflicts::agreed;
use super::team::{Hand, Team};
use crate::support::scaled;
use crate::vfs::twin::Seen;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

struct Run {
    team: Team,
    entropy: Entropy,
    log: Vec<String>,
    next: u32,
    /// What was written, and not overwritten or removed by anybody who saw it.
    alive: BTreeSet<u32>,
    /// What is durable at its writer.
    durable: BTreeSet<u32>,
    by: BTreeMap<u32, usize>,
    lost: BTreeSet<u32>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(400);
            eprintln!("the last operations:\n{}", self.log[from..].join("\n"));
        }
    }
}

fn content(token: u32, size: usize) -> Vec<u8> {
    let unit = format!("<{token:07}>");
    unit.bytes().cycle().take(size.max(unit.len())).collect()
}

fn token(content: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(content.get(1..8)?).ok()?;
    text.parse().ok()
}

impl Run {
    async fn new(members: usize, seed: u64) -> Run {
        let team = Team::new(members, seed).await;
        team.gather().await;
        Run {
            entropy: team.cluster.entropy.fork(),
            team,
            log: Vec::new(),
            next: 0,
            alive: BTreeSet::new(),
            durable: BTreeSet::new(),
            by: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }

    fn path(&self) -> String {
        let depth = 1 + self.entropy.below(3);
        let name = |_| NAMES[self.entropy.below(NAMES.len() as u64) as usize];
        (0..depth).map(name).collect::<Vec<_>>().join("/")
    }

    /// What a member sees at a path is about to be overwritten or removed by it.
    async fn ends(&mut self, at: usize, path: &str) -> Option<u32> {
        let hand = Hand(self.team.vfs(at));
        let ino = hand.find(path).await.ok()?;
        let bytes = hand.read_at(ino).await.ok()?;
        token(&bytes)
    }

    async fn step(&mut self) {
        let at = self.entropy.below(self.team.members.len() as u64) as usize;
        let what = self.entropy.below(100);
        let (path, other) = (self.path(), self.path());
        let hand = Hand(self.team.vfs(at));
        match what {
            0..35 => {
                let size = [20, 300, 5_000, 40_000][self.entropy.below(4) as usize];
                self.next += 1;
                let token = self.next;
                let before = self.ends(at, &path).await;
                let hand = Hand(self.team.vfs(at));
                let done = hand.replace(&path, &content(token, size)).await;
                self.log
                    .push(format!("{at} writes {token} of {size} at {path}: {done:?}"));
                if done.is_ok() {
                    self.alive.insert(token);
                    self.by.insert(token, at);
                    before.map(|before| self.alive.remove(&before));
                }
            }
            35..45 => {
                let done = hand.mkdir(&path).await;
                self.log.push(format!("{at} makes {path}: {done:?}"));
            }
            45..58 => {
                let before = self.ends(at, &path).await;
                let hand = Hand(self.team.vfs(at));
                let done = hand.unlink(&path).await;
                self.log
                    .push(format!("{at} unlinks {path} of {before:?}: {done:?}"));
                if done.is_ok() {
                    before.map(|before| self.alive.remove(&before));
                }
            }
            58..63 => {
                let done = hand.rmdir(&path).await;
                self.log.push(format!("{at} removes {path}: {done:?}"));
            }
            63..78 => {
                let same = {
                    let (one, two) = (hand.find(&path).await, hand.find(&other).await);
                    one.is_ok() && one == two
                };
                let before = self.ends(at, &other).await;
                let hand = Hand(self.team.vfs(at));
                let done = hand.rename(&path, &other).await;
                self.log.push(format!(
                    "{at} renames {path} to {other} of {before:?}: {done:?}"
                ));
                if done.is_ok() && !same {
                    before.map(|before| self.alive.remove(&before));
                }
            }
            78..90 => {
                let to = self.entropy.below(self.team.members.len() as u64) as usize;
                if to != at {
                    let told = self.team.tell(at, to).await;
                    self.log.push(format!("{at} tells {to} {told}"));
                }
            }
            90..93 => {
                let done = self.team.vfs(at).sync().await;
                self.log.push(format!("{at} syncs: {done:?}"));
                self.are_durable(at);
            }
            93..95 => {
                let durable = &self.durable;
                let gone = self
                    .by
                    .iter()
                    .filter(|(token, by)| **by == at && !durable.contains(*token));
                self.lost.extend(gone.map(|(token, _)| *token));
                self.team.crash(at).await;
                self.log.push(format!("{at} crashes"));
            }
            95..96 => {
                self.team.shut(at).await;
                self.team.open(at).await;
                self.are_durable(at);
                self.log.push(format!("{at} ends and begins"));
            }
            _ => {
                let ms = self.entropy.below(3000);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.log.push(format!("{ms} ms pass"));
            }
        }
    }

    /// All members tell the same conflicts, and what is decided to stay stays and is none any more.
    async fn end_conflicts(&mut self, tree: &BTreeMap<String, Seen>) {
        let found = agreed(&self.team);
        for conflict in &found {
            let done = self
                .team
                .vfs(0)
                .resolve_conflict(&conflict.path, Keep::Both);
            self.log.push(format!("{conflict} {conflict:?}: {done:?}"));
            match done {
                // One decision may settle another.
                Ok(_) | Err(ResolveError::NotContested) => {}
                Err(error) => panic!("{conflict}: {error}"),
            }
        }
        self.team.settle().await;
        assert_eq!(agreed(&self.team), []);
        let after = self.team.tree().await;
        let contents = |tree: &BTreeMap<String, Seen>| -> Vec<(String, Vec<u8>)> {
            let all = tree
                .iter()
                .map(|(path, seen)| (path.clone(), seen.content.clone()));
            all.collect()
        };
        assert_eq!(contents(tree), contents(&after), "{found:#?}");
    }

    fn are_durable(&mut self, at: usize) {
        let own = self.by.iter().filter(|(_, by)| **by == at);
        self.durable.extend(own.map(|(token, _)| *token));
    }
}

#[tokio::test(start_paused = true)]
async fn members_come_to_the_same_tree_and_lose_nothing() {
    let from = std::env::var("FROM").map_or(0, |from| from.parse().unwrap());
    for seed in from..from + scaled(20) as u64 {
        let mut run = Run::new(3, 1000 + seed).await;
        let steps = 40 + run.entropy.below(80);
        run.log.push(format!("seed {seed}"));
        for _ in 0..steps {
            run.step().await;
        }
        run.team.settle().await;
        run.log.push("all settle".to_owned());
        if std::env::var("FROM").is_ok() {
            run.log.extend(run.team.deltas(0));
            run.log.extend(run.team.replay(0));
        }
        let tree = run.team.tree().await;
        let files = tree.values().filter(|seen| seen.kind == FileType::Regular);
        let shown: BTreeSet<u32> = files.filter_map(|seen| token(&seen.content)).collect();
        for seen in tree.values().filter(|seen| seen.kind == FileType::Regular) {
            if let Some(token) = token(&seen.content) {
                assert_eq!(
                    seen.content,
                    content(token, seen.content.len()),
                    "{token} is torn"
                );
            }
        }
        let mut missing: BTreeSet<u32> = run.alive.difference(&shown).copied().collect();
        missing.retain(|token| !run.lost.contains(token));
        let of = |(path, seen): (&String, &Seen)| {
            format!("{path}: {:?} {:?}", seen.kind, token(&seen.content))
        };
        let all: Vec<String> = tree.iter().map(of).collect();
        if !missing.is_empty() {
            run.log.extend(run.team.deltas(0));
            run.log.extend(run.team.replay(0));
        }
        assert!(
            missing.is_empty(),
            "seed {seed}: {missing:?} is lost; {all:#?}"
        );
        run.end_conflicts(&tree).await;
    }
}
