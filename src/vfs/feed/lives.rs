//! A device that lost the end of its own feed: its disk was put back from a backup, or lost what it had said that it
//! kept. Others have deltas of it, and nobody may take their numbers a second time: so it goes on as another writer, and
//! merges what it had done like anybody else's.

use super::Feeds;
use crate::feeds::{Link, Signed, Verdict};
use crate::namespace::state;
use crate::store::Group;
use crate::vfs::inner::Inner;
use crate::vfs::recover::INCARNATION;
use crate::vfs::rows::OWN;

impl Inner {
    /// Begins another life as a writer if `link`, which is of the own feed and not here, shows that this one cannot go on:
    /// it follows the last that is here. Not if anything was done here since, which has taken its numbers: then the feed
    /// forked, which is remembered. Whether it did.
    pub(super) fn begin_another_life(&self, feeds: &mut Feeds, link: &Signed<Link>) -> bool {
        let old = self.writer();
        let Some(feed) = feeds.known.get(&old) else {
            return false;
        };
        let last = feed.last();
        match feed.check(link) {
            Ok(Verdict::Next) => {}
            Ok(Verdict::Branch | Verdict::Forked(_)) => {
                feeds.has_forked = true;
                return false;
            }
            _ => return false,
        }
        let mut core = self.core();
        let merged = state::version(&self.rows()).map(|version| version.get(&old));
        if core.seen != last || merged != Ok(last) {
            feeds.has_forked = true;
            return false;
        }
        let incarnation = self.now_ms().max(old.incarnation.saturating_add(1));
        let mut group = Group::new();
        group.cleanup();
        group.put(OWN, INCARNATION, &incarnation.to_be_bytes());
        // It is in the journal before anything that is done in that life.
        if let Err(error) = self.volume.apply(&group) {
            tracing::warn!("{old:?} goes on as another writer later: {error}");
            return false;
        }
        self.become_writer(&mut core, incarnation);
        feeds.durable = None;
        tracing::warn!(
            "others have changes of this device to the volume `{}` that its disk has not: \
             it merges them, and goes on as another writer",
            self.options.name
        );
        if let Some(shared) = self.shared() {
            shared.outgoing.notify_one();
        }
        true
    }
}
