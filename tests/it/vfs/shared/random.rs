//! Random operations of several members who hear of each other late, in part, and after crashes: in the end all
//! show the same tree, and nothing is gone that nobody overwrote or removed.

use std::time::Duration;

use cairnfs::base::Entropy;

use std::collections::BTreeMap;

use cairnfs::vfs::{Keep, ResolveError};

use super::conflicts::agreed;
use super::team::Team;
use crate::common::books::{Books, Deed, path};
use crate::common::look::Seen;
use crate::support::scaled;

/// How often what is contested is decided before it has to be an end.
const ROUNDS: usize = 4;

struct Run {
    team: Team,
    entropy: Entropy,
    log: Vec<String>,
    books: Books,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(400);
            eprintln!("the last operations:\n{}", self.log[from..].join("\n"));
        }
    }
}

impl Run {
    async fn new(members: usize, seed: u64) -> Run {
        let team = Team::new(members, seed).await;
        team.gather().await;
        Run {
            entropy: team.cluster.entropy.fork(),
            team,
            log: Vec::new(),
            books: Books::default(),
        }
    }

    async fn step(&mut self) {
        let at = self.entropy.below(self.team.members.len() as u64) as usize;
        let what = self.entropy.below(100);
        let (path, other) = (path(&self.entropy), path(&self.entropy));
        match what {
            0..Deed::KINDS => {
                let deed = self.books.deed(what, path, other, &self.entropy);
                let done = deed.carry_out(self.team.vfs(at)).await;
                self.log.push(self.books.note(at, &deed, &done));
            }
            Deed::KINDS..90 => {
                let to = self.entropy.below(self.team.members.len() as u64) as usize;
                if to != at {
                    let told = self.team.tell(at, to).await;
                    self.log.push(format!("{at} tells {to} {told}"));
                }
            }
            90..93 => {
                let done = self.team.vfs(at).sync().await;
                self.log.push(format!("{at} syncs: {done:?}"));
                if done.is_ok() {
                    self.books.are_durable(at, self.books.last());
                }
            }
            93..95 => {
                self.books.crashes(at);
                self.team.crash(at).await;
                self.log.push(format!("{at} crashes"));
            }
            95..96 => {
                self.team.shut(at).await;
                self.team.open(at).await;
                self.books.are_durable(at, self.books.last());
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
        let mut found = agreed(&self.team);
        // One decision may settle another, and show one that was hidden by it.
        for _ in 0..ROUNDS {
            for conflict in &found {
                let vfs = self.team.vfs(0);
                let done = vfs.resolve_conflict(&conflict.path, Keep::Both);
                self.log.push(format!("{conflict} {conflict:?}: {done:?}"));
                match done {
                    Ok(_) | Err(ResolveError::NotContested) => {}
                    Err(error) => panic!("{conflict}: {error}"),
                }
            }
            self.team.settle().await;
            found = agreed(&self.team);
            if found.is_empty() {
                break;
            }
        }
        assert_eq!(found, []);
        let after = self.team.tree().await;
        let contents = |tree: &BTreeMap<String, Seen>| -> Vec<(String, Vec<u8>)> {
            let all = tree
                .iter()
                .map(|(path, seen)| (path.clone(), seen.content.clone()));
            all.collect()
        };
        assert_eq!(contents(tree), contents(&after), "{found:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_come_to_the_same_tree_and_lose_nothing() {
    let from = std::env::var("FROM").map_or(0, |from| from.parse().unwrap());
    let mut kept = 0;
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
            run.log.extend(run.team.deltas(0).await);
            run.log.extend(run.team.replay(0).await);
        }
        let tree = run.team.tree().await;
        run.books.check(&tree, &format!("seed {seed}"));
        kept += run.books.kept();
        run.end_conflicts(&tree).await;
    }
    assert!(kept > 0, "nothing was left");
}
