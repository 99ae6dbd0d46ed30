//! Deltas from elsewhere: what is wrong with each is found step by step, and what is sound is merged as soon as
//! all that it builds on is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::merge::Merged;
use super::rules::{is_about_members, rights_of};
use super::{Feeds, Received, Rights, Shared, store};
use crate::base::PeerId;
use crate::feeds::{Feed, FeedError, Held, Part, SealedDelta, Verdict};
use crate::namespace::{Delta, Key, StateError, Value, VersionVector};
use crate::store::Group;
use crate::vfs::errno::Stop;
use crate::vfs::inner::Inner;

/// Deltas that are merged before others get a turn at the lock.
const TURN: usize = 512;

/// Dots before the oldest delta that is remembered: one that began there contradicts it.
const DOTS_BEFORE: u64 = 64;

/// What is to be asked for of a feed of which somebody has another branch, so that two of its deltas prove it:
/// what follows this dot. None if it was proved.
pub(super) fn before_fork(feed: &Feed) -> Option<u64> {
    let oldest = feed.links().next().filter(|_| feed.fork().is_none())?;
    Some(oldest.first.saturating_sub(1 + DOTS_BEFORE))
}

/// Why a delta is not taken.
enum Refused {
    /// Its feed is cut before it.
    Cut(u64),
    /// It, or its writer, is at fault.
    Fault(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused::Fault(why)
    }
}

/// What came of a turn.
struct Turn {
    merged: usize,
    /// The volume takes no more at present.
    is_busy: bool,
    /// There is more that can be merged.
    has_more: bool,
}

impl Inner {
    /// See [`Vfs::receive`](crate::vfs::Vfs::receive).
    pub(super) async fn receive(self: Arc<Self>, from: PeerId, deltas: Vec<Bytes>) -> Received {
        if self.shared().is_none() {
            return Received::default();
        }
        let inner = Arc::clone(&self);
        let pools = self.blocks.pools();
        let opened = pools.cpu.run(move || inner.open_all(from, deltas)).await;
        let (opened, upto) = opened;
        let inner = Arc::clone(&self);
        pools.disk.run(move || inner.hold_all(opened)).await;
        let received = self.merge_waiting().await;
        Received { upto, ..received }
    }

    /// See [`Vfs::look_at_clock`](crate::vfs::Vfs::look_at_clock).
    pub(super) async fn look_at_clock(self: Arc<Self>) -> Received {
        let is_empty = match self.shared() {
            Some(shared) => shared.feeds().inbox.is_empty(),
            None => true,
        };
        match is_empty {
            true => Received::default(),
            false => self.merge_waiting().await,
        }
    }

    async fn merge_waiting(self: Arc<Self>) -> Received {
        let mut received = Received::default();
        let Some(shared) = self.shared() else {
            return received;
        };
        loop {
            let inner = Arc::clone(&self);
            let turn = self.blocks.pools().disk.run(move || inner.merge_some());
            let turn = turn.await;
            received.merged += turn.merged;
            let has_room = !turn.is_busy || self.room().await.is_ok();
            if !turn.has_more || !has_room || self.stop.is_cancelled() {
                break;
            }
        }
        if received.merged > 0 {
            shared.has_grown();
        }
        let inner = Arc::clone(&self);
        let version = self.blocks.pools().disk.run(move || inner.merged_version());
        let version = version.await;
        let mut feeds = shared.feeds();
        let (again, is_lost) = feeds.inbox.take_again();
        let mut missing: BTreeMap<_, u64> = again.into_iter().collect();
        for (writer, after) in feeds.inbox.missing(&version) {
            let known = missing.entry(writer).or_insert(after);
            *known = after.min(*known);
        }
        missing.append(&mut feeds.doubted);
        received.missing = missing.into_iter().collect();
        received.is_lost = is_lost;
        received
    }

    pub(in crate::vfs) fn merged_version(&self) -> VersionVector {
        let _core = self.core();
        let version = crate::namespace::state::version(&self.rows());
        version.unwrap_or_default()
    }

    /// Opens deltas that another peer sent. What does not open is named, and left out. Also, how far they go: what hands
    /// out the key of some may come far behind them.
    fn open_all(&self, from: PeerId, deltas: Vec<Bytes>) -> (Vec<(Delta, SealedDelta)>, u64) {
        let mut upto = 0;
        let mut opened = Vec::with_capacity(deltas.len());
        let mut closed: Vec<SealedDelta> = Vec::new();
        for bytes in deltas {
            let sealed = match SealedDelta::decode(&bytes) {
                Ok(sealed) => sealed,
                Err(error) => {
                    tracing::warn!(from = %from.short(), "a delta was refused: {error}");
                    continue;
                }
            };
            upto = upto.max(sealed.link().last);
            match self.open_one(&sealed) {
                Ok(Some(delta)) => opened.push((delta, sealed)),
                // What hands out the key may come behind it.
                Ok(None) => closed.push(sealed),
                Err(error) => tracing::warn!(
                    from = %from.short(),
                    writer = ?sealed.link().writer,
                    "a delta was refused: {error}"
                ),
            }
        }
        self.learn_keys(&opened);
        for sealed in closed {
            match self.open_one(&sealed) {
                Ok(Some(delta)) => opened.push((delta, sealed)),
                _ => tracing::debug!(
                    writer = ?sealed.link().writer,
                    epoch = sealed.link().epoch,
                    "a delta is sealed under a key that this device has not got"
                ),
            }
        }
        (opened, upto)
    }

    fn open_one(&self, sealed: &SealedDelta) -> Result<Option<Delta>, FeedError> {
        let link = sealed.link();
        if link.volume != self.identity.id {
            return Err(FeedError::OtherVolume);
        }
        let mut found = None;
        for key in self.keys_of(link.epoch) {
            // Two keys may have one name.
            match sealed.open(&key) {
                Ok(delta) => return Ok(Some(delta)),
                Err(error) => found = Some(error),
            }
        }
        found.map_or(Ok(None), Err)
    }

    /// Puts deltas that were opened where they wait, if they are their writers' next ones or may become that.
    fn hold_all(&self, deltas: Vec<(Delta, SealedDelta)>) {
        let Some(shared) = self.shared() else { return };
        let mut feeds = shared.feeds();
        for (delta, sealed) in deltas {
            let writer = delta.writer;
            match self.hold(shared, &mut feeds, delta, sealed) {
                Ok(()) => {}
                Err(Refused::Cut(at)) if self.name_cut(writer) => tracing::warn!(
                    "{writer:?} was revoked: what it wrote after change {at} is refused from now on"
                ),
                Err(Refused::Cut(_)) => {}
                Err(Refused::Fault(why)) => tracing::warn!("a delta was refused: {why}"),
            }
        }
    }

    fn hold(
        &self,
        shared: &Shared,
        feeds: &mut Feeds,
        delta: Delta,
        sealed: SealedDelta,
    ) -> Result<(), Refused> {
        let writer = delta.writer;
        check_size(&sealed)?;
        if writer == self.writer() {
            // The own feed is here already; what is not was lost, and its numbers may be taken since.
            let own = feeds.known.get(&writer).map_or(0, Feed::last);
            if delta.first <= own {
                return Ok(());
            }
            if !self.begin_another_life(feeds, sealed.link()) {
                return Err(Refused::Fault(format!(
                    "{writer:?} is this device, which knows nothing of it"
                )));
            }
        }
        let rights = self.rights(shared, feeds, &delta);
        match rights.map_err(|error| error.to_string())? {
            Some(Rights::Write) => {}
            Some(Rights::Read) => return Err(format!("{writer:?} may only read").into()),
            None => return Err(format!("{writer:?} is not known as a member").into()),
        }
        // Whoever remains says with each delta what it had merged of others.
        if self
            .standing_of(writer.peer, &[])
            .is_some_and(|part| part.is_member())
        {
            self.vouch(feeds, &delta.draft.context);
        }
        let feed = feeds.known.entry(writer);
        let feed = feed.or_insert_with(|| self.new_feed(writer));
        match feed
            .check(sealed.link())
            .map_err(|error| error.to_string())?
        {
            Verdict::Next | Verdict::Gap { .. } => {
                // It waits for what it names, which must not be refused meanwhile because a writer forked.
                for (other, seen) in delta.draft.context.iter() {
                    if let Some(feed) = feeds.known.get_mut(other) {
                        feed.allow(seen);
                    }
                }
                if feeds.inbox.hold(delta, sealed) == Held::Refused {
                    tracing::debug!(?writer, "a delta that came early is asked for again");
                }
                Ok(())
            }
            Verdict::Known | Verdict::Old => Ok(()),
            Verdict::Forked(_) if feed.fork().is_some() => Ok(()),
            Verdict::Forked(proof) => {
                let mut group = Group::new();
                group.cleanup();
                store::put_fork(&mut group, writer, &proof);
                let kept = self.volume.apply(&group);
                kept.map_err(|error| format!("that {writer:?} forked: {error}"))?;
                let recorded = feed.record_fork(*proof);
                recorded.map_err(|error| error.to_string())?;
                Err(format!("{writer:?} forked: two feeds go by its name").into())
            }
            Verdict::Branch => {
                if let Some(after) = before_fork(feed) {
                    feeds.doubted.insert(writer, after);
                }
                Err(format!("{writer:?} goes on from another delta than is here").into())
            }
            Verdict::Cut { at } if feed.fork().is_none() => {
                let known = feeds.refused.entry(writer).or_insert(0);
                *known = delta.last().max(*known);
                Err(Refused::Cut(at))
            }
            Verdict::Cut { at } => Err(format!("the feed of {writer:?} ends at {at}").into()),
        }
    }

    /// What a delta's writer may do: by what is known already, or by the proof that it brings itself.
    fn rights(
        &self,
        shared: &Shared,
        feeds: &mut Feeds,
        delta: &Delta,
    ) -> Result<Option<Rights>, StateError> {
        let device = delta.writer.peer;
        // Who may only read may have been given more rights since.
        if let Some(Rights::Write) = feeds.members.get(&device) {
            return Ok(Some(Rights::Write));
        }
        let own_word = delta.draft.writes.iter().filter_map(|write| {
            let is_own = matches!(&write.key, Key::Member(of) if *of == device);
            is_own.then_some(&write.values)
        });
        let own_word = own_word.flatten().filter_map(|value| match value {
            Value::Member(proof) => Some(proof.clone()),
            _ => None,
        });
        let mut proofs: Vec<Bytes> = own_word.collect();
        {
            let _core = self.core();
            let row = crate::namespace::Rows::siblings(&self.rows(), &Key::Member(device));
            for sibling in row?.iter() {
                if let Value::Member(proof) = &sibling.value {
                    proofs.push(proof.clone());
                }
            }
        }
        if let Some(part) = self.standing_of(device, &proofs) {
            let rights = rights_of(part);
            if part == Part::Writer {
                feeds.members.insert(device, Rights::Write);
            }
            return Ok(rights);
        }
        let mut found = None;
        for proof in proofs {
            match (shared.share.admit)(device, &proof) {
                Ok(Rights::Write) => found = Some(Rights::Write),
                Ok(Rights::Read) => found = found.or(Some(Rights::Read)),
                Err(why) => {
                    tracing::warn!(device = %device.short(), "no proof of membership: {why}");
                }
            }
        }
        if let Some(rights) = found {
            feeds.members.insert(device, rights);
        }
        Ok(found)
    }

    /// Merges what waits for nothing any more, some of it.
    fn merge_some(&self) -> Turn {
        let mut turn = Turn {
            merged: 0,
            is_busy: false,
            has_more: false,
        };
        let Some(shared) = self.shared() else {
            return turn;
        };
        let mut feeds = shared.feeds();
        let mut core = self.core();
        let mut notices = Vec::new();
        // Those that could not be merged, one of each writer at most: its later ones build on it. Others go on.
        let mut set_aside = Vec::new();
        turn.has_more = true;
        for _ in 0..TURN {
            let Ok(version) = crate::namespace::state::version(&self.rows()) else {
                turn.has_more = false;
                break;
            };
            let Some((delta, sealed)) = feeds.inbox.take(&version, self.now_ms()) else {
                turn.has_more = false;
                break;
            };
            let Some(feed) = feeds.known.get_mut(&delta.writer) else {
                continue;
            };
            if !matches!(feed.check(sealed.link()), Ok(Verdict::Next)) {
                continue;
            }
            match self.merge(&mut core, &delta, &sealed, &mut notices) {
                Ok(Merged::Done) => {
                    if let Err(error) = feed.advance(sealed.link().clone()) {
                        tracing::error!("the feed of {:?}: {error}", delta.writer);
                    }
                    for (other, seen) in delta.draft.context.iter() {
                        if let Some(feed) = feeds.known.get_mut(other) {
                            feed.allow(seen);
                        }
                    }
                    turn.merged += 1;
                    let mut writes = delta.draft.writes.iter();
                    if writes.any(|write| is_about_members(&write.key))
                        && self.look_at_rules_with(&mut feeds, &core).is_err()
                    {
                        tracing::error!("rows about members cannot be read");
                    }
                }
                Ok(Merged::Not(why)) => tracing::warn!("a delta of {:?}: {why}", delta.writer),
                Err(Stop::Busy) => {
                    turn.is_busy = true;
                    feeds.inbox.hold(delta, sealed);
                    break;
                }
                Err(stop) => {
                    tracing::warn!(
                        writer = ?delta.writer,
                        first = delta.first,
                        "a delta cannot be merged now: {stop:?}"
                    );
                    set_aside.push((delta, sealed));
                }
            }
        }
        // Where nothing else can be merged either, they wait until more comes.
        turn.has_more &= turn.is_busy || turn.merged > 0 || set_aside.is_empty();
        for (delta, sealed) in set_aside {
            feeds.inbox.hold(delta, sealed);
        }
        drop(core);
        shared.tell(notices);
        turn
    }
}

/// Its writer had a delta in one group together with what it changes.
fn check_size(sealed: &SealedDelta) -> Result<(), String> {
    let size = sealed.len_bytes();
    match size > crate::base::limits::ROW_GROUP_MAX_BYTES {
        true => Err(format!(
            "one of {:?} has {size} bytes, more than any operation makes",
            sealed.link().writer
        )),
        false => Ok(()),
    }
}
