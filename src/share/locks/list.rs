//! Who votes: lists that the owner signs, each of which follows the one before with the consent of more than half of
//! its voters.

use std::sync::Arc;

use super::{LEASE, RENEWAL, lock};
use crate::base::{Class, Classify, PeerId};
use crate::feeds::voters::majority;
use crate::feeds::{Accord, FeedError, Signed, VoterList};
use crate::namespace::VersionVector;
use crate::share::{Inner, Sharer};
use crate::vfs::VfsError;

/// Why the voters of a volume were not set.
#[derive(Debug, thiserror::Error)]
pub enum VotersError {
    /// Too few of the voters can be reached to agree; those that cannot.
    #[error("fewer than half of the voters can be reached; {} did not answer", names(.0))]
    TooFew(Vec<PeerId>),
    /// Another list is known to a voter.
    #[error("a voter knows a later list of voters, number {0}: try again in a minute")]
    Newer(u64),
    /// Too many.
    #[error("at most {} machines can be voters", crate::base::limits::VOTERS_MAX)]
    TooMany,
    /// It cannot be signed here.
    #[error(transparent)]
    Sign(#[from] FeedError),
    /// It cannot be written down.
    #[error(transparent)]
    Vfs(#[from] VfsError),
}

fn names(peers: &[PeerId]) -> String {
    let names: Vec<String> = peers.iter().map(|peer| peer.short()).collect();
    names.join(", ")
}

impl Classify for VotersError {
    fn class(&self) -> Class {
        match self {
            VotersError::TooFew(_) | VotersError::Newer(_) => Class::Retry,
            VotersError::TooMany => Class::Denied,
            VotersError::Sign(error) => error.class(),
            VotersError::Vfs(error) => error.class(),
        }
    }
}

impl Sharer {
    /// The voters of the volume, as far as this replica knows.
    pub fn voters(&self) -> Vec<PeerId> {
        let list = self.0.locks.list();
        list.map_or_else(Vec::new, |list| list.voters.clone())
    }

    /// Makes these peers the voters, one by one: each step is agreed to by more than half of the voters before and
    /// after it. Where that ends early, the steps before it stay. Only the owner can do it.
    ///
    /// # Errors
    /// If too few voters can be reached, or this device is not the owner's.
    pub async fn set_voters(&self, wanted: &[PeerId]) -> Result<(), VotersError> {
        self.0.set_voters(wanted).await
    }
}

impl Inner {
    /// Goes by a list from now on, if it is later than the one that is known.
    pub(super) async fn adopt(&self, list: Signed<VoterList>) -> Result<(), VfsError> {
        let _turn = self.locks.writing.lock().await;
        let known = self.locks.number();
        if list.number <= known {
            return Ok(());
        }
        self.vfs.keep_voters(&list).await?;
        *lock(&self.locks.list) = Some(Arc::new(list));
        if known > 0 {
            // What voters of the list before granted, of which this one may not know, ends meanwhile.
            let now_ms = self.locks.now_ms();
            lock(&self.locks.voter).wait_a_lease(now_ms);
        }
        Ok(())
    }

    /// A list may have come with the namespace.
    pub(super) async fn look_for_list(&self) {
        let vfs = Arc::clone(&self.vfs);
        let found = self.pools.disk.run(move || vfs.known_voters()).await;
        match found {
            Ok(Some(list)) if list.number > self.locks.number() => {
                if let Err(error) = self.adopt(list).await {
                    tracing::warn!("a list of voters cannot be written down: {error}");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("the list of voters cannot be read: {error}"),
        }
    }

    async fn set_voters(&self, wanted: &[PeerId]) -> Result<(), VotersError> {
        let _turn = self.locks.setting.lock().await;
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.len() > crate::base::limits::VOTERS_MAX {
            return Err(VotersError::TooMany);
        }
        self.look_for_list().await;
        let mut current = self.locks.list().map(|list| (*list).clone());
        let mut changes = 0;
        loop {
            // Also what was begun before and not finished.
            if let Some(list) = &current {
                self.make_firm(list).await?;
                self.vfs.publish_voters(list).await?;
            }
            let before = current.as_ref().map_or(&[][..], |list| &list.voters);
            let Some(voters) = step(before, &wanted) else {
                return Ok(());
            };
            if changes > 0 {
                // What the voters before the last ones granted has ended everywhere, and what is held has been
                // renewed with the last ones.
                tokio::time::sleep(LEASE + 2 * RENEWAL).await;
            }
            changes += 1;
            let number = current.as_ref().map_or(0, |list| list.number) + 1;
            let next = self.vfs.sign_voters(number, voters, before.to_vec())?;
            current = Some(next);
        }
    }

    /// More than half of the voters before and of those of the list go by it, and know what was released.
    async fn make_firm(&self, list: &Signed<VoterList>) -> Result<(), VotersError> {
        let volume = self.volume;
        let mut all: Vec<PeerId> = list.previous.iter().chain(&list.voters).copied().collect();
        all.sort_unstable();
        all.dedup();
        let message = Accord::List {
            volume,
            list: Some(list.clone()),
        };
        let answers = self.ask_peers(&all, &message).await;
        let mut released = VersionVector::default();
        let mut agree: Vec<PeerId> = Vec::new();
        for (peer, answer) in answers {
            if let Some(Accord::Listed {
                list: known,
                released: more,
                ..
            }) = answer
            {
                let number = known.map_or(0, |known| known.number);
                if number > list.number {
                    return Err(VotersError::Newer(number));
                }
                if number == list.number {
                    released.join(&more);
                    agree.push(peer);
                }
            }
        }
        for peers in [&list.previous, &list.voters] {
            enough(peers, &agree)?;
        }
        let message = Accord::Release {
            volume,
            attempt: 0,
            names: Vec::new(),
            released,
        };
        let answers = self.ask_peers(&list.voters, &message).await;
        let know = answers
            .into_iter()
            .filter_map(|(peer, answer)| match answer {
                Some(Accord::Released { list: number, .. }) if number == list.number => Some(peer),
                _ => None,
            });
        enough(&list.voters, &know.collect::<Vec<_>>())
    }
}

/// Whether more than half of some peers are among others.
fn enough(of: &[PeerId], there: &[PeerId]) -> Result<(), VotersError> {
    let absent: Vec<PeerId> = of
        .iter()
        .filter(|peer| !there.contains(peer))
        .copied()
        .collect();
    match majority(of.len()) {
        Some(needed) if of.len() - absent.len() < needed => Err(VotersError::TooFew(absent)),
        _ => Ok(()),
    }
}

/// The next list on the way from one to another: one comes, or one goes. None at the end.
fn step(from: &[PeerId], to: &[PeerId]) -> Option<Vec<PeerId>> {
    if from.is_empty() {
        return (!to.is_empty()).then(|| to.to_vec());
    }
    let mut next = from.to_vec();
    if let Some(more) = to.iter().find(|peer| !from.contains(peer)) {
        // With the greatest list first one goes, so that no list is too long.
        if next.len() < crate::base::limits::VOTERS_MAX {
            next.push(*more);
            next.sort_unstable();
            return Some(next);
        }
    }
    let gone = from.iter().position(|peer| !to.contains(peer))?;
    next.remove(gone);
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(tags: &[u8]) -> Vec<PeerId> {
        tags.iter().map(|tag| PeerId([*tag; 32])).collect()
    }

    #[test]
    fn lists_change_by_one_until_they_are_what_is_wanted() {
        for (from, to) in [
            (&[][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[2, 4, 5]),
            (&[1], &[]),
            (&[1, 2], &[3, 4, 5, 6]),
        ] {
            let (mut at, to) = (peers(from), peers(to));
            let mut steps = 0;
            while let Some(next) = step(&at, &to) {
                let list = VoterList {
                    volume: crate::base::VolumeId([1; 16]),
                    owner: PeerId([9; 32]),
                    number: 1,
                    voters: next.clone(),
                    previous: at.clone(),
                };
                assert!(list.may_follow(&at) && next.is_sorted());
                at = next;
                steps += 1;
                assert!(steps < 10);
            }
            assert_eq!(at, to);
        }
    }
}
