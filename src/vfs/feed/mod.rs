//! A volume that several machines write: what this one did goes into its feed, and what others did is merged.
//!
//!     operation -> rows and the delta, one group of the journal -> durable -> sealed, signed -> other members
//!     bytes -> [SealedDelta] -> [Feed] -> [Inbox] -> rows, counts, open files -> what the kernel has to forget
//!
//! * `points` makes and merges checkpoints for others to find.
//! * `book` has who is a member and which keys there are (`ring` those that open, `heard` what is only said), `rules`
//!   follows and keeps that, `revoke` changes it, `parts` tells it; `keys` finds keys beside checkpoints.
//! * `store` has the rows of feeds, `outgoing` seals the own feed (`epochs` says with which keys), `lives` begins another where others have more of it, `receive` takes others' deltas, `merge` merges
//!   one, `files` brings what is open into line with it.
//!
//! Order of locks: feeds, then core and what follows it. A volume that nobody shared has no feed.

mod book;
mod epochs;
mod files;
mod heard;
mod keys;
mod lives;
mod merge;
mod others;
mod outgoing;
mod parts;
mod points;
mod receive;
mod revoke;
mod ring;
mod rules;
mod store;

pub use book::{ShareRules, VolumeKeys};
#[cfg(feature = "testkit")]
pub use keys::rewritten_place;
pub use parts::{KnownPart, KnownTicket, OwnEnd};
pub use points::{Point, PointError};
pub use revoke::{RevokeError, Revoked};

pub(super) use files::decode_base;
pub(super) use store::{add_outgoing, feeds as feed_ends};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use cairnfs_fuse::kernel::Notice;
use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant};

use self::book::Book;
use super::agree::Agreement;
use super::errno::{Step, Stop};
use super::file::{FileCell, Totals};
use super::inner::Inner;
use super::{VfsError, VolumeIdentity};
use crate::base::PeerId;
use crate::crypto::EpochKey;
use crate::crypto::sign::SigningKey;
use crate::feeds::{Ahead, Claim, Feed, Head, Inbox, Ruling, Signed, VOTERS_ROW};
use crate::namespace::WriterId;

/// How long an operation waits for a file's content: where the pool takes nothing, others learn of the name alone.
const HELD_MAX: Duration = Duration::from_secs(10);

/// What a proof of membership allows a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// To read.
    Read,
    /// To read and write.
    Write,
}

/// Checks a device's proof of membership; what is wrong with it, otherwise.
pub type Admit = Arc<dyn Fn(PeerId, &[u8]) -> Result<Rights, String> + Send + Sync>;

/// What a device needs to take part in a shared volume.
#[derive(Clone)]
pub struct VolumeShare {
    /// Signs what this device writes.
    pub device: SigningKey,
    /// Whose volume it is.
    pub owner: PeerId,
    /// Proves to others that it is a member.
    pub proof: Bytes,
    /// The keys of all epochs that it knows, one at least; what it writes is sealed under the last.
    pub epochs: BTreeMap<u32, EpochKey>,
    /// Whether it only reads.
    pub read_only: bool,
    /// Whether others made the volume, and nothing of it may be here yet.
    pub is_guest: bool,
    /// Tells who else is a member.
    pub admit: Admit,
    /// What revocations follow from; none where proofs are no chains of invitations, and nobody can be revoked.
    pub rules: Option<ShareRules>,
}

impl fmt::Debug for VolumeShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epochs: Vec<&u32> = self.epochs.keys().collect();
        f.debug_struct("VolumeShare")
            .field("device", &self.device.peer())
            .field("epochs", &epochs)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// How far this replica has come, and what waits in it.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Deltas that wait for others, or for the clock.
    pub waiting: usize,
    /// Writers whose clocks are ahead.
    pub ahead: Vec<Ahead>,
    /// By how many ms what this device writes is dated ahead of its clock, which was set back; none if others take it.
    pub own_ahead_ms: Option<u64>,
    /// Writers of whom two feeds go by one name.
    pub forked: Vec<WriterId>,
}

/// A part of a feed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// The last dot of the feed that is here.
    pub last: u64,
    /// The last dot of this part.
    pub upto: u64,
    /// Sealed deltas in order, as they are encoded.
    pub deltas: Vec<Bytes>,
}

/// What came of deltas that another peer sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// How many were merged, those that waited before included.
    pub merged: usize,
    /// The greatest last dot of those that came, whether they open or not.
    pub upto: u64,
    /// What has to be asked for: of each writer what follows that dot.
    pub missing: Vec<(WriterId, u64)>,
    /// Whether all heads are to be compared anew.
    pub is_lost: bool,
}

/// Feeds of all writers, and what waits.
pub(super) struct Feeds {
    pub(super) known: BTreeMap<WriterId, Feed>,
    pub(super) inbox: Inbox,
    /// Devices whose proof was checked.
    members: BTreeMap<PeerId, Rights>,
    /// Feeds of which somebody has another branch: what follows this dot of each is to be compared.
    doubted: BTreeMap<WriterId, u64>,
    /// How far the own feed is on the disk: nothing behind that leaves this machine.
    durable: Option<Claim>,
    /// How far feeds were in the last checkpoint of this device that others can find.
    point: Vec<(WriterId, u64)>,
    /// How far others claim to have feeds that are cut here.
    refused: BTreeMap<WriterId, u64>,
    /// Others have deltas of the own feed in whose place others are here.
    has_forked: bool,
}

/// The end of a feed.
fn claim_of(feed: &Feed) -> Option<Claim> {
    feed.head().map(|head| Claim {
        writer: head.writer,
        last: head.last,
        hash: head.hash(),
    })
}

impl Feeds {
    /// Whether all of the own feed may leave this machine.
    fn is_all_durable(&self, own: WriterId) -> bool {
        self.durable == self.known.get(&own).and_then(claim_of)
    }

    /// How far each feed may be told of, ascending by writer.
    fn claims(&self, own: WriterId) -> Vec<Claim> {
        let of = |feed: &Feed| match feed.writer() == own {
            true => self.durable,
            false => claim_of(feed),
        };
        self.known.values().filter_map(of).collect()
    }

    /// The last dot of a feed that may be told of.
    fn last(&self, own: WriterId, writer: WriterId) -> u64 {
        match writer == own {
            true => self.durable.map_or(0, |claim| claim.last),
            false => self.known.get(&writer).map_or(0, Feed::last),
        }
    }
}

/// What tells the kernel that something changed behind its back.
type Watcher = Box<dyn Fn(Notice) + Send + Sync>;

/// The part of an open volume that deals with other writers.
pub(super) struct Shared {
    pub(super) share: VolumeShare,
    feeds: Mutex<Feeds>,
    /// There is something that is in no feed yet.
    pub(super) outgoing: Notify,
    /// Counts how often feeds grew.
    grown: watch::Sender<u64>,
    watcher: OnceLock<Watcher>,
    /// Asks the others.
    others: OnceLock<Arc<dyn Agreement>>,
    /// Who is a member and which keys there are. Locked last.
    book: Option<Mutex<Book>>,
    /// This device was revoked.
    is_out: AtomicBool,
    /// Counts what was learned of members and keys.
    learned: watch::Sender<u64>,
    /// Documents that are to become rows.
    pending: Mutex<Vec<Ruling>>,
    /// Operations that give files another name, by their first dots: they wait until the files are described.
    gates: Mutex<BTreeMap<u64, Gate>>,
}

/// What an operation waits for before it enters the feed, and all after it.
struct Gate {
    file: Arc<FileCell>,
    since: Instant,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&self.share).finish()
    }
}

impl Shared {
    pub(super) fn new(
        share: VolumeShare,
        identity: &VolumeIdentity,
        known: BTreeMap<WriterId, Feed>,
    ) -> Shared {
        let rules = share.rules.as_ref();
        let book = rules.map(|rules| Book::new(&share, rules, identity.id, &identity.secret));
        Shared {
            book: book.map(Mutex::new),
            is_out: AtomicBool::new(false),
            learned: watch::Sender::new(0),
            pending: Mutex::default(),
            share,
            feeds: Mutex::new(Feeds {
                known,
                inbox: Inbox::default(),
                members: BTreeMap::new(),
                doubted: BTreeMap::new(),
                durable: None,
                point: Vec::new(),
                refused: BTreeMap::new(),
                has_forked: false,
            }),
            outgoing: Notify::new(),
            grown: watch::Sender::new(0),
            watcher: OnceLock::new(),
            others: OnceLock::new(),
            gates: Mutex::default(),
        }
    }

    pub(super) fn feeds(&self) -> MutexGuard<'_, Feeds> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation gives another name to a file whose content others cannot have yet: they would see an empty
    /// one, or an old one. It enters the feed together with the content.
    pub(super) fn hold_back(&self, first: u64, file: &Arc<FileCell>) {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = Gate {
            file: Arc::clone(file),
            since: Instant::now(),
        };
        gates.insert(first, gate);
    }

    /// The first operation that still waits; `totals` are those of all files.
    fn held_back(&self, totals: &Totals) -> Option<u64> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let is_closed = |gate: &Gate| {
            let state = gate.file.lock(totals);
            state.is_changed && !state.is_orphan && gate.since.elapsed() < HELD_MAX
        };
        let mut closed = gates.iter().filter(|(_, gate)| is_closed(gate));
        let last = closed.next_back().map(|(first, _)| *first);
        // What was replaced before it had a content comes together with what replaced it.
        gates.retain(|first, gate| {
            let is_before = last.is_some_and(|last| *first < last);
            is_closed(gate) || is_before && gate.file.lock(totals).is_orphan
        });
        gates.keys().next().copied()
    }

    pub(super) fn agreement(&self) -> Option<Arc<dyn Agreement>> {
        self.others.get().cloned()
    }

    pub(super) fn agree_with(&self, others: Arc<dyn Agreement>) {
        // A volume is shared once while it is open.
        let _ = self.others.set(others);
    }

    /// Sees every time that a feed grows.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// How far the own feed is on the disk.
    pub(super) fn durable_upto(&self) -> u64 {
        self.feeds().durable.map_or(0, |claim| claim.last)
    }

    /// How far a feed is here.
    pub(super) fn last_of(&self, own: WriterId, writer: WriterId) -> u64 {
        self.feeds().last(own, writer)
    }

    fn has_grown(&self) {
        self.grown.send_modify(|times| *times += 1);
    }

    /// Has the kernel told.
    pub(super) fn tell(&self, notices: impl IntoIterator<Item = Notice>) {
        if let Some(watcher) = self.watcher.get() {
            notices.into_iter().for_each(watcher);
        }
    }
}

impl Inner {
    /// Whether other machines may write to the volume.
    pub(super) fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Says in the own feed that this device is a member, which begins the feed.
    pub(super) fn introduce(&self) -> Step<()> {
        self.look_at_rules()?;
        let may_write = |shared: &&Shared| !shared.share.read_only && !shared.is_out();
        let Some(shared) = self.shared().filter(may_write) else {
            return Ok(());
        };
        let (own, proof) = (self.identity.peer, shared.share.proof.clone());
        let mut core = self.core();
        let members = self.view(|view| view.members())?;
        let is_known = members
            .iter()
            .any(|(device, proofs)| *device == own && proofs.contains(&proof));
        if !is_known {
            self.change(&mut core, |edit| edit.set_member(own, proof))?;
        }
        drop(core);
        self.look_at_rules()
    }
}

/// What other members are told and tell.
impl super::Vfs {
    /// Whether other machines may write to the volume.
    pub fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    /// How far this replica has each feed, ascending by writer.
    pub fn claims(&self) -> Vec<Claim> {
        let own = self.0.writer();
        let shared = self.0.shared();
        shared.map_or_else(Vec::new, |shared| shared.feeds().claims(own))
    }

    /// How far the own feed is on the disk, signed at this moment by this machine's clock; none while it has not begun.
    pub async fn signed_head(&self) -> Option<Signed<Head>> {
        let inner = Arc::clone(&self.0);
        let cpu = &self.0.blocks.pools().cpu;
        cpu.run(move || inner.signed_head()).await
    }

    /// Deltas of a feed that follow `after`: of `limit_bytes` together, but one at least if there is any.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub async fn deltas(
        &self,
        writer: WriterId,
        after: u64,
        limit_bytes: usize,
    ) -> Result<Slice, VfsError> {
        let inner = Arc::clone(&self.0);
        let disk = &self.0.blocks.pools().disk;
        let read = move || inner.deltas_after(writer, after, limit_bytes);
        disk.run(read).await
    }

    /// Somebody has another feed of a writer than is here, as long: what follows this dot is to be asked for, so
    /// that it is known which of its deltas prove that the writer forked. None if that was proved, or if it is the
    /// own feed.
    pub fn doubt(&self, writer: WriterId) -> Option<u64> {
        let shared = self.0.shared().filter(|_| writer != self.0.writer())?;
        let feeds = shared.feeds();
        receive::before_fork(feeds.known.get(&writer)?)
    }

    /// Takes deltas that another peer sent, in any order, and merges what can be merged. What is wrong with
    /// one is logged with its writer's name, and harms nothing else.
    pub async fn receive(&self, from: PeerId, deltas: Vec<Bytes>) -> Received {
        Arc::clone(&self.0).receive(from, deltas).await
    }

    /// Merges what waited for the clock, if it is due. How many that were.
    pub async fn look_at_clock(&self) -> Received {
        Arc::clone(&self.0).look_at_clock().await
    }

    /// A receiver that sees every time that a feed grows, the own one or another.
    pub fn watch_feeds(&self) -> Option<watch::Receiver<u64>> {
        self.0
            .shared()
            .as_ref()
            .map(|shared| shared.grown.subscribe())
    }

    /// Others may take part from now on, also while it is mounted. What was done before is in no feed: a
    /// checkpoint says it.
    ///
    /// # Errors
    /// If the own feed cannot be begun.
    pub async fn begin_sharing(&self, share: VolumeShare) -> Result<(), VfsError> {
        let inner = Arc::clone(&self.0);
        let disk = &self.0.blocks.pools().disk;
        let known = disk.run(move || store::feeds(&inner.volume)).await?;
        let inner = &self.0;
        if inner.share(Shared::new(share, &inner.identity, known)) {
            inner.tasks.spawn(Arc::clone(inner).seal_feed_always());
        }
        loop {
            let introduced = Arc::clone(inner);
            match disk.run(move || introduced.introduce()).await {
                Ok(()) => return Ok(()),
                Err(Stop::Busy) if inner.room().await.is_ok() => {}
                Err(_) => {
                    return Err(VfsError::Unready("its feed cannot be begun".to_owned()));
                }
            }
        }
    }

    /// What waits, and what is wrong.
    pub fn progress(&self) -> Progress {
        let Some(shared) = self.0.shared() else {
            return Progress::default();
        };
        let feeds = shared.feeds();
        let forked = feeds.known.values().filter(|feed| feed.fork().is_some());
        let own = feeds.has_forked.then(|| self.0.writer()).into_iter();
        Progress {
            waiting: feeds.inbox.len(),
            ahead: feeds.inbox.ahead(self.0.now_ms()),
            own_ahead_ms: self.0.dated_ahead_ms(),
            forked: own.chain(forked.map(Feed::writer)).collect(),
        }
    }

    /// Whether this device may only read the volume.
    pub fn is_reader(&self) -> bool {
        self.0.is_reader()
    }

    /// Whether there is a tree: a volume that others made has none at first.
    pub fn has_tree(&self) -> bool {
        let _core = self.0.core();
        if self.0.checkpoints.gate.is_interrupted() {
            return false;
        }
        let root = crate::namespace::Key::Attrs(crate::namespace::Ino::ROOT).encode();
        matches!(
            crate::namespace::Rows::get(&self.0.rows(), &root),
            Ok(Some(_))
        )
    }

    /// The own writer.
    pub fn writer(&self) -> WriterId {
        self.0.writer()
    }

    /// Devices that are members, with what proves it.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn members(&self) -> Result<Vec<(PeerId, Vec<Bytes>)>, VfsError> {
        let _core = self.0.core();
        let rows = self.0.rows();
        let view = crate::namespace::View::new(&rows)?;
        let mut members = view.members()?;
        // That row is about locks.
        members.retain(|(device, _)| *device != VOTERS_ROW);
        Ok(members)
    }

    /// Whether a peer is a member who writes, by what has arrived here. Reads tables.
    pub fn is_member(&self, peer: PeerId) -> bool {
        let Some(shared) = self.0.shared() else {
            return false;
        };
        if peer == self.0.identity.peer || shared.feeds().members.contains_key(&peer) {
            return true;
        }
        let row = {
            let _core = self.0.core();
            crate::namespace::Rows::siblings(&self.0.rows(), &crate::namespace::Key::Member(peer))
        };
        let Ok(row) = row else { return false };
        row.iter().any(|sibling| match &sibling.value {
            crate::namespace::Value::Member(proof) => (shared.share.admit)(peer, proof).is_ok(),
            _ => false,
        })
    }

    /// Has `watcher` told of everything that the kernel must forget because others changed it; once.
    pub fn on_change(&self, watcher: impl Fn(Notice) + Send + Sync + 'static) {
        if let Some(shared) = self.0.shared() {
            // A volume is mounted once.
            let _ = shared.watcher.set(Box::new(watcher));
        }
    }
}
