//! Locks between machines: had with the votes of more than half of the voters, for the time of a lease.
//!
//! * `voter` promises, `poll` counts; both are pure. `hold` asks for votes, renews and gives back; `list` is about
//!   who votes.
//! * A vote comes with what was released before, and whoever has a lock goes on only when it has merged that. There is one
//!   such vector for all locks of a volume: it is a little more than needed, and nothing has to be kept of locks that
//!   nobody has.

mod hold;
mod list;
mod poll;
#[cfg(test)]
mod tests;
mod voter;
#[cfg(test)]
mod world;

pub use list::VotersError;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use self::poll::Hold;
use self::voter::Voter;
use super::Inner;
use crate::base::PeerId;
use crate::feeds::{Accord, LockName, Signed, Vote, VoterList};
use crate::namespace::VersionVector;
use crate::vfs::VfsError;

/// For how long a vote holds.
const LEASE: Duration = Duration::from_secs(10);
/// How often what is held is asked for again.
const RENEWAL: Duration = Duration::from_millis(2500);

/// A lock that is given back, as soon as enough voters know what was done under it.
#[derive(Debug, Clone)]
struct Leaving {
    /// In which it was had.
    attempt: u64,
    released: VersionVector,
}

/// What this machine promised as a voter, and what it holds.
pub(super) struct Locks {
    began: Instant,
    voter: Mutex<Voter>,
    held: Mutex<BTreeMap<LockName, Hold>>,
    leaving: Mutex<BTreeMap<LockName, Leaving>>,
    attempts: AtomicU64,
    /// The list with the greatest number that is known.
    list: Mutex<Option<Arc<Signed<VoterList>>>>,
    /// What every holder must have merged: of this it is on the disk.
    released: Mutex<VersionVector>,
    /// Whether what an earlier life promised was taken up: before, this machine does not vote.
    is_recalled: AtomicBool,
    /// Held by who changes the list, or writes down what was released.
    writing: tokio::sync::Mutex<()>,
    /// Held by the owner while it sets voters.
    pub(super) setting: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Locks {
    /// Of a machine whose clock on the wall says so.
    pub(super) fn new(wall_ms: u64) -> Locks {
        Locks {
            began: Instant::now(),
            voter: Mutex::new(Voter::new(LEASE.as_millis() as u64, 0)),
            held: Mutex::default(),
            leaving: Mutex::default(),
            // Greater than any of an earlier life.
            attempts: AtomicU64::new(wall_ms.saturating_mul(1024)),
            list: Mutex::default(),
            released: Mutex::default(),
            is_recalled: AtomicBool::new(false),
            writing: tokio::sync::Mutex::new(()),
            setting: tokio::sync::Mutex::new(()),
        }
    }

    /// Milliseconds of a clock that never goes back.
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn list(&self) -> Option<Arc<Signed<VoterList>>> {
        lock(&self.list).clone()
    }

    /// The number of the list that is known; 0 if none is.
    fn number(&self) -> u64 {
        self.list().map_or(0, |list| list.number)
    }
}

impl Inner {
    /// Takes up what an earlier life promised: what was released, and who votes.
    pub(super) async fn recall_locks(&self) -> Result<(), VfsError> {
        let vfs = Arc::clone(&self.vfs);
        let disk = &self.pools.disk;
        let (released, list) = disk.run(move || (vfs.released(), vfs.known_voters())).await;
        let released = released?;
        lock(&self.locks.released).join(&released);
        if let Some(list) = list? {
            self.adopt(list).await?;
        }
        self.locks.is_recalled.store(true, Ordering::Release);
        Ok(())
    }

    /// Answers what another member asks about locks. None if that is for no voter.
    pub(super) async fn answer_about_locks(&self, from: PeerId, asked: Accord) -> Option<Accord> {
        let volume = self.volume;
        match asked {
            Accord::Ask {
                list,
                attempt,
                wants,
                ..
            } => {
                let number = self.locks.number();
                let is_voter = self.is_voter();
                let is_recalled = self.locks.is_recalled.load(Ordering::Acquire);
                let votes = match (list == number && is_voter, is_recalled) {
                    (true, true) => {
                        let now_ms = self.locks.now_ms();
                        lock(&self.locks.voter).ask(now_ms, from, attempt, &wants)
                    }
                    (true, false) => vec![Vote::NotYet; wants.len()],
                    (false, _) => Vec::new(),
                };
                let released = match votes.is_empty() {
                    true => VersionVector::default(),
                    false => lock(&self.locks.released).clone(),
                };
                Some(Accord::Votes {
                    volume,
                    list: number,
                    votes,
                    released,
                })
            }
            Accord::Release {
                attempt,
                names,
                released,
                ..
            } => {
                let released = self.of_its_own(from, released);
                // First that is remembered, then somebody else may have it.
                if let Err(error) = self.remember_released(&released).await {
                    tracing::warn!("what was released under locks cannot be written down: {error}");
                    return None;
                }
                let now_ms = self.locks.now_ms();
                lock(&self.locks.voter).release(now_ms, from, attempt, &names);
                let list = self.locks.number();
                Some(Accord::Released { volume, list })
            }
            Accord::List { .. } if !self.locks.is_recalled.load(Ordering::Acquire) => None,
            Accord::List { list, .. } => {
                if let Some(list) = list
                    && let Err(error) = self.adopt(list).await
                {
                    tracing::warn!(from = %from.short(), "a list of voters was refused: {error}");
                    return None;
                }
                Some(Accord::Listed {
                    volume,
                    list: self.locks.list().map(|list| (*list).clone()),
                    released: lock(&self.locks.released).clone(),
                })
            }
            _ => None,
        }
    }

    /// Of what somebody says to be released what it may say: how far its own feeds are. The owner hands on what
    /// voters told it.
    fn of_its_own(&self, from: PeerId, released: VersionVector) -> VersionVector {
        if from == self.net.own() || self.vfs.owner() == Some(from) {
            return released;
        }
        let mut own = VersionVector::default();
        for (writer, dot) in released.iter().filter(|(writer, _)| writer.peer == from) {
            own.raise(*writer, dot);
        }
        own
    }

    fn is_voter(&self) -> bool {
        let own = self.net.own();
        let list = self.locks.list();
        list.is_some_and(|list| list.voters.contains(&own))
    }

    /// What was released is on the disk when this returns.
    async fn remember_released(&self, released: &VersionVector) -> Result<(), VfsError> {
        let _turn = self.locks.writing.lock().await;
        if lock(&self.locks.released).includes(released) {
            return Ok(());
        }
        self.vfs.keep_released(released.clone()).await?;
        lock(&self.locks.released).join(released);
        Ok(())
    }
}
