//! A mounted volume, asked for whatever bytes say: names, sizes, offsets and values at their limits. It answers
//! in a bounded time, with no error that blames the disk, and what it said holds, also after it was opened again.

use std::collections::BTreeMap;
use std::time::Duration;

use cairnfs_fuse::{
    AllocMode, Answer, Caller, CopyRange, DirBatch, Errno, Fh, FileSystem, FileType, Ino, Lookup,
    Name, NewNode, OpenFlags, Rename, RenameFlags, SetAttr, Whence, Write,
};

use crate::base::{Clock, EcProfile, OwnerId, PeerId, VolumeId};
use crate::crypto::ConvergenceSecret;
use crate::testkit::{Cluster, ClusterOptions};
use crate::vfs::{Durability, Vfs, VfsOptions, VfsParts, VolumeIdentity};

const ID: VolumeId = VolumeId([9; 16]);
/// O_RDWR.
const READ_WRITE: OpenFlags = OpenFlags(2);
/// Operations of one input.
const OPERATIONS_MAX: usize = 60;
/// Simulated time in which any operation is done.
const LONG: Duration = Duration::from_secs(300);
/// Where something begins or ends.
const OFFSETS: [u64; 16] = [
    0,
    1,
    255,
    256,
    4096,
    65_535,
    (4 << 20) - 1,
    4 << 20,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64 - 65_536,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 1,
    u64::MAX,
];
const LENGTHS: [usize; 8] = [0, 1, 255, 256, 257, 4096, 70_000, 262_144];
const NAME_LENGTHS: [usize; 8] = [0, 1, 2, 3, 254, 255, 256, 1000];
const VALUE_LENGTHS: [usize; 8] = [0, 1, 300, 16_382, 16_384, 65_535, 65_536, 65_537];

/// The bytes of the input, one after the other; nothing but zeros behind them.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn of<T: Copy, const N: usize>(&mut self, all: &[T; N]) -> T {
        all[usize::from(self.byte()) % N]
    }

    /// Near a limit, on one side or the other.
    fn offset(&mut self) -> u64 {
        let (base, by) = (self.of(&OFFSETS), u64::from(self.byte()));
        match by {
            0..128 => base.saturating_add(by),
            _ => base.saturating_sub(by - 127),
        }
    }

    fn name(&mut self) -> Vec<u8> {
        match self.byte() {
            0 => b".".to_vec(),
            1 => b"..".to_vec(),
            2 => b"a/b".to_vec(),
            3 => b"a\0b".to_vec(),
            letter => vec![b'a' + letter % 3; self.of(&NAME_LENGTHS)],
        }
    }
}

/// A volume under test, and what it said.
struct Run {
    cluster: Cluster,
    vfs: std::sync::Arc<Vfs>,
    clock: Clock,
    /// Files that were made in the top directory, by name. Each is open and looked up once.
    files: BTreeMap<Vec<u8>, Ino>,
}

async fn within<T>(answer: Answer<T>) -> Result<T, Errno> {
    let answer = tokio::time::timeout(LONG, answer.wait()).await;
    let Ok(answer) = answer else {
        panic!("an operation that does not end");
    };
    if let Err(errno) = &answer {
        assert!(*errno != Errno::EIO, "an error that blames the disk");
    }
    answer
}

async fn open(cluster: &Cluster, clock: &Clock) -> std::sync::Arc<Vfs> {
    let Some(blocks) = cluster.blocks(0).cloned() else {
        panic!("a peer of our own");
    };
    let _ = blocks.store().create_volume(ID).await;
    let parts = VfsParts {
        share: None,
        identity: VolumeIdentity {
            id: ID,
            peer: cluster.id(0).unwrap_or(PeerId([0; 32])),
            owner: OwnerId([5; 16]),
            secret: ConvergenceSecret::from_bytes([7; 32]),
            profile: EcProfile::DEFAULT,
        },
        blocks,
        clock: clock.clone(),
        entropy: cluster.entropy.fork(),
        options: VfsOptions {
            name: "fuzz".to_owned(),
            durability: Durability::Local,
            consistency: Default::default(),
            locks: Default::default(),
            commit_interval: Duration::from_secs(1),
            dirty_max_bytes: 1 << 20,
            read_timeout: Duration::from_secs(30),
            conflicts: Default::default(),
            auto: Default::default(),
        },
    };
    match Vfs::open(parts, (0, 0)).await {
        Ok(vfs) => vfs,
        Err(error) => panic!("a volume that does not open: {error}"),
    }
}

impl Run {
    fn file(&self, choices: &mut Choices<'_>) -> Option<Ino> {
        let at = usize::from(choices.byte()) % self.files.len().max(1);
        self.files.values().nth(at).copied()
    }

    async fn size(&self, ino: Ino) -> u64 {
        match within(self.vfs.getattr(&Caller::ROOT, ino, None)).await {
            Ok(reply) => reply.attr.size,
            Err(errno) => panic!("an open file without attributes: {errno:?}"),
        }
    }

    async fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 12 {
            0 | 1 => self.make(choices).await,
            2 => self.remove(choices).await,
            3 => self.rename(choices).await,
            4 | 5 => self.write(choices).await,
            6 => self.resize(choices).await,
            7 => self.allocate(choices).await,
            8 => self.copy(choices).await,
            9 => self.read(choices).await,
            10 => self.xattr(choices).await,
            _ => tokio::time::sleep(Duration::from_millis(40 * u64::from(choices.byte()))).await,
        }
    }

    async fn make(&mut self, choices: &mut Choices<'_>) {
        let name = choices.name();
        let node = NewNode {
            kind: FileType::Regular,
            perm: 0o644,
            umask: 0,
            rdev: 0,
        };
        let named = Name::new(&name);
        let made = self
            .vfs
            .create(&Caller::ROOT, Ino::ROOT, named, &node, READ_WRITE);
        let Ok((entry, _)) = within(made).await else {
            return;
        };
        assert!(
            (1..=255).contains(&name.len()),
            "a name of {} bytes",
            name.len()
        );
        let ino = entry.attr.ino;
        match self.files.insert(name, ino) {
            None => {}
            Some(before) => {
                assert_eq!(before, ino, "the same file, opened once more");
                self.let_go(ino).await;
            }
        }
    }

    /// Closes a file once, and forgets one look-up of it.
    async fn let_go(&self, ino: Ino) {
        let closed = within(self.vfs.release(ino, Fh(ino.0), READ_WRITE)).await;
        assert!(closed.is_ok(), "closing fails: {closed:?}");
        self.vfs.forget(ino, 1);
    }

    async fn remove(&mut self, choices: &mut Choices<'_>) {
        let name = choices.name();
        let gone = within(self.vfs.unlink(&Caller::ROOT, Ino::ROOT, Name::new(&name))).await;
        let file = self.files.remove(&name);
        assert_eq!(
            gone.is_ok(),
            file.is_some(),
            "removing what is there: {gone:?}"
        );
        if let Some(ino) = file {
            self.let_go(ino).await;
        }
    }

    async fn rename(&mut self, choices: &mut Choices<'_>) {
        let (from, to) = (choices.name(), choices.name());
        let rename = Rename {
            parent: Ino::ROOT,
            name: Name::new(&from),
            new_parent: Ino::ROOT,
            new_name: Name::new(&to),
            flags: RenameFlags::Replace,
        };
        if within(self.vfs.rename(&Caller::ROOT, &rename))
            .await
            .is_err()
            || from == to
        {
            return;
        }
        let moved = self.files.remove(&from);
        let Some(moved) = moved else {
            panic!("a file was moved that is not there");
        };
        if let Some(replaced) = self.files.insert(to, moved) {
            self.let_go(replaced).await;
        }
    }

    async fn write(&mut self, choices: &mut Choices<'_>) {
        let Some(ino) = self.file(choices) else {
            return;
        };
        let bytes = vec![choices.byte(); choices.of(&LENGTHS)];
        let offset = choices.offset();
        let before = self.size(ino).await;
        let write = Write {
            offset,
            bytes: &bytes,
            flags: READ_WRITE,
            is_from_cache: false,
            kill_suidgid: false,
        };
        let written = within(self.vfs.write(&Caller::ROOT, ino, Fh(ino.0), &write)).await;
        let after = self.size(ino).await;
        assert!(after <= i64::MAX as u64, "a size of {after}");
        let Ok(written) = written else {
            assert_eq!(before, after, "a write that failed");
            return;
        };
        assert_eq!(written as usize, bytes.len());
        if bytes.is_empty() {
            return;
        }
        assert_eq!(after, before.max(offset + u64::from(written)));
        let read = within(self.vfs.read(ino, Fh(ino.0), offset, written, READ_WRITE)).await;
        let read = read.map(|data| data.to_vec());
        assert!(read == Ok(bytes), "what was written is not read");
    }

    async fn resize(&mut self, choices: &mut Choices<'_>) {
        let Some(ino) = self.file(choices) else {
            return;
        };
        let size = choices.offset();
        let before = self.size(ino).await;
        let change = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let changed = within(self.vfs.setattr(&Caller::ROOT, ino, &change)).await;
        let wanted = if changed.is_ok() { size } else { before };
        assert_eq!(self.size(ino).await, wanted);
    }

    async fn allocate(&mut self, choices: &mut Choices<'_>) {
        let Some(ino) = self.file(choices) else {
            return;
        };
        let (at, len) = (choices.offset(), choices.offset());
        let mode = choices.of(&[
            AllocMode::Allocate,
            AllocMode::AllocateKeepSize,
            AllocMode::PunchHole,
            AllocMode::ZeroRange,
            AllocMode::ZeroRangeKeepSize,
        ]);
        let before = self.size(ino).await;
        let asked = self
            .vfs
            .fallocate(&Caller::ROOT, ino, Fh(ino.0), at, len, mode);
        let done = within(asked).await;
        let grows = matches!(mode, AllocMode::Allocate | AllocMode::ZeroRange);
        let wanted = match done {
            Ok(()) if grows => before.max(at + len),
            _ => before,
        };
        assert_eq!(self.size(ino).await, wanted);
    }

    async fn copy(&mut self, choices: &mut Choices<'_>) {
        let (Some(from), Some(to)) = (self.file(choices), self.file(choices)) else {
            return;
        };
        let copy = CopyRange {
            from: (from, Fh(from.0)),
            from_offset: choices.offset(),
            to: (to, Fh(to.0)),
            to_offset: choices.offset(),
            len: choices.offset(),
        };
        let before = self.size(to).await;
        let copied = within(self.vfs.copy_file_range(&Caller::ROOT, &copy)).await;
        let wanted = match copied {
            Ok(copied) if copied > 0 => before.max(copy.to_offset + copied),
            _ => before,
        };
        assert_eq!(self.size(to).await, wanted);
    }

    async fn read(&mut self, choices: &mut Choices<'_>) {
        let Some(ino) = self.file(choices) else {
            return;
        };
        let (offset, len) = (choices.offset(), choices.of(&LENGTHS) as u32);
        let size = self.size(ino).await;
        let read = within(self.vfs.read(ino, Fh(ino.0), offset, len, READ_WRITE)).await;
        if let Ok(data) = read {
            let there = size.saturating_sub(offset).min(u64::from(len));
            assert_eq!(data.len() as u64, there);
        }
        for whence in [Whence::Data, Whence::Hole] {
            if let Ok(at) = within(self.vfs.lseek(ino, Fh(ino.0), offset, whence)).await {
                assert!((offset..=size).contains(&at), "{at} from {offset}");
            }
        }
    }

    async fn xattr(&mut self, choices: &mut Choices<'_>) {
        let Some(ino) = self.file(choices) else {
            return;
        };
        let name = [b"user.", &choices.name()[..]].concat();
        let value = vec![choices.byte(); choices.of(&VALUE_LENGTHS)];
        let named = Name::new(&name);
        let set = self.vfs.setxattr(&Caller::ROOT, ino, named, &value, 0);
        let is_set = within(set).await.is_ok();
        let found = within(self.vfs.getxattr(&Caller::ROOT, ino, named)).await;
        if is_set {
            assert!(value.len() <= 65_536 && name.len() <= 255);
            assert!(found.is_ok_and(|found| found == value), "another value");
        }
        let list = within(self.vfs.listxattr(&Caller::ROOT, ino)).await;
        let is_listed = list.is_ok_and(|list| list.split(|b| *b == 0).any(|one| one == name));
        assert!(is_listed || !is_set, "an attribute that is not listed");
        if choices.byte().is_multiple_of(2) {
            let gone = within(self.vfs.removexattr(&Caller::ROOT, ino, named)).await;
            assert!(gone.is_ok() || !is_set, "it cannot be taken away: {gone:?}");
        }
    }

    /// Names and sizes, as listings and look-ups have them.
    async fn seen(&self) -> BTreeMap<Vec<u8>, u64> {
        let (mut seen, mut offset) = (BTreeMap::new(), 0);
        loop {
            let batch = DirBatch::new(4096, false);
            let listed = within(self.vfs.readdir(Ino::ROOT, Fh(0), offset, batch)).await;
            let batch = listed.unwrap_or_else(|errno| panic!("no listing: {errno:?}"));
            if batch.is_empty() {
                return seen;
            }
            for item in batch.items() {
                offset = item.next_offset;
                if matches!(item.name.bytes(), b"." | b"..") {
                    continue;
                }
                let found = within(self.vfs.lookup(&Caller::ROOT, Ino::ROOT, item.name)).await;
                let Ok(Lookup::Found(entry)) = found else {
                    panic!("a name is listed and not there");
                };
                self.vfs.forget(entry.attr.ino, 1);
                let again = seen.insert(item.name.to_vec(), entry.attr.size);
                assert!(again.is_none(), "a name is listed twice");
            }
        }
    }

    async fn reopen(&mut self) {
        self.vfs.ended();
        if let Err(error) = self.vfs.close().await {
            panic!("a volume that does not close: {error}");
        }
        self.vfs = open(&self.cluster, &self.clock).await;
    }
}

/// A series of operations, each as long as there are bytes that say which.
pub(super) fn vfs_operations(data: &[u8]) {
    super::volume::run(async {
        let options = ClusterOptions {
            peers: 1,
            ..ClusterOptions::default()
        };
        let Ok(cluster) = Cluster::start(options, 3).await else {
            panic!("a peer of our own");
        };
        let clock = Clock::simulated(super::wire::NOW_MS);
        let vfs = open(&cluster, &clock).await;
        let mut run = Run {
            cluster,
            vfs,
            clock,
            files: BTreeMap::new(),
        };
        let mut choices = Choices(data);
        for _ in 0..OPERATIONS_MAX {
            if choices.0.is_empty() {
                break;
            }
            run.step(&mut choices).await;
        }
        let before = run.seen().await;
        let named: Vec<_> = before.keys().collect();
        assert_eq!(named, run.files.keys().collect::<Vec<_>>(), "names");
        // What has no room in the pool stays in the journal; both are there afterwards.
        let synced = tokio::time::timeout(LONG, run.vfs.sync()).await;
        assert!(synced.is_ok(), "a sync that does not end");
        run.reopen().await;
        assert!(
            run.seen().await == before,
            "it is another one when opened again"
        );
    });
}

/// Inputs to begin with: each operation at many limits.
pub(super) fn operations() -> Vec<Vec<u8>> {
    let file = [0, 4, 1, 0, 5, 5];
    let around = |operation: u8| -> Vec<u8> {
        let limits = (0..16u8).flat_map(|at| [operation, at, 7, at % 8, at, at * 16]);
        file.into_iter().chain(limits).collect()
    };
    let mut all: Vec<Vec<u8>> = (2..12).map(around).collect();
    all.push((0..240).map(|at: u32| (at * 167 % 251) as u8).collect());
    all
}
