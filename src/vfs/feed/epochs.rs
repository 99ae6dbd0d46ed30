//! Which epoch each delta of the own feed is sealed under.
//!
//! Keys of an epoch are handed out by rows, so they come to others in some delta. Until that one is sealed itself,
//! none may be sealed under them: nobody could read what hands them out.

use std::collections::BTreeMap;

use super::book::Book;
use super::rules::{brings, rotations_in};
use super::{Shared, store};
use crate::crypto::EpochKey;
use crate::feeds::{Rotation, Signed};
use crate::namespace::error::FormatError;
use crate::namespace::{Delta, Key};
use crate::store::{Volume, VolumeError};

/// Why that is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum EpochsError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("a delta that waits for its feed: {0}")]
    Delta(#[from] FormatError),
}

/// Epochs whose keys nobody else has yet, each with the first dot of the delta that will bring them first.
#[derive(Debug, Default)]
pub(super) struct Unsaid(BTreeMap<u32, u64>);

impl Unsaid {
    /// Looks through what waits for its feed, if the present epoch may be in it.
    pub(super) fn find(shared: &Shared, volume: &Volume) -> Result<Unsaid, EpochsError> {
        let current = shared.book().and_then(|book| {
            let current = book.current.as_ref().map(|(epoch, _)| *epoch);
            current.filter(|epoch| !book.said_epochs.contains(epoch))
        });
        let Some(current) = current else {
            return Ok(Unsaid::default());
        };
        let mut waiting: BTreeMap<u32, (u64, Vec<Signed<Rotation>>)> = BTreeMap::new();
        let mut damage = None;
        store::each_outgoing(volume, |first, bytes| match Delta::decode(bytes) {
            Ok(delta) => {
                for rotation in rotations_in(&delta) {
                    let (_, documents) = waiting
                        .entry(rotation.epoch)
                        .or_insert_with(|| (first, Vec::new()));
                    documents.push(rotation);
                }
            }
            Err(error) => damage = Some(error),
        })?;
        if let Some(error) = damage {
            return Err(error.into());
        }
        // Not while the disk is read: others wait for the book who must not wait for that.
        let Some(mut book) = shared.book() else {
            return Ok(Unsaid::default());
        };
        // Another document says it as well, which is in a delta that is sealed already.
        let is_said = |epoch: u32, documents: &[Signed<Rotation>]| {
            let all = book.standing.rotations().iter();
            let mut of_epoch = all.filter(|rotation| rotation.epoch == epoch);
            of_epoch.any(|rotation| !documents.contains(rotation))
        };
        waiting.retain(|epoch, (_, documents)| !is_said(*epoch, documents));
        if !waiting.contains_key(&current) {
            book.said_epochs.insert(current);
        }
        let firsts = waiting
            .into_iter()
            .map(|(epoch, (first, _))| (epoch, first));
        Ok(Unsaid(firsts.collect()))
    }

    /// What a delta is sealed under; none if nothing may be sealed now. `before`: the epoch of the delta before.
    pub(super) fn seal_key(
        &self,
        shared: &Shared,
        (first, delta): (u64, &Delta),
        before: Option<u32>,
    ) -> Option<(u32, EpochKey)> {
        let Some(book) = shared.book() else {
            let (epoch, key) = shared.share.epochs.last_key_value()?;
            return Some((*epoch, key.clone()));
        };
        self.choose(&book, (first, delta), before)
    }

    fn choose(
        &self,
        book: &Book,
        (first, delta): (u64, &Delta),
        before: Option<u32>,
    ) -> Option<(u32, EpochKey)> {
        // Also where they are said again: that is for those who lack them.
        let mut barred = brings(delta);
        let is_early = |begins: &u64| first <= *begins;
        let early = self.0.iter().filter(|(_, begins)| is_early(begins));
        barred.extend(early.map(|(epoch, _)| *epoch));
        let is_word = |key: &Key| matches!(key, Key::Ruling(..));
        let has_words = delta.draft.writes.iter().any(|write| is_word(&write.key));
        let begun = self.0.iter().filter(|(_, begins)| !is_early(begins));
        let latest = begun.max_by_key(|(_, begins)| **begins);
        let latest = latest.map(|(epoch, _)| *epoch);
        match &book.current {
            Some((epoch, secrets)) if !barred.contains(epoch) => {
                Some((*epoch, secrets.key.clone()))
            }
            // What lets the others go on is sealed under what they have.
            _ if has_words => book.before(&barred, latest.or(before)),
            // It was done before what hands the present keys out. An earlier key only if nobody has it who is out by now:
            // it may have waited for such keys. Else under the present ones, which others find a little further on.
            Some((epoch, secrets)) => {
                let earlier = book.safe_besides(&barred, latest.or(before));
                earlier.or_else(|| Some((*epoch, secrets.key.clone())))
            }
            None => None,
        }
    }
}
