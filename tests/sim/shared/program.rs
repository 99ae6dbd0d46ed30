//! Programs of members: they open, write, close and lock as the kernel would have it done.

use cairnfs::base::PeerId;
use cairnfs::vfs::{Consistency, Locks, VfsOptions};
use cairnfs_fuse::{
    Caller, Errno, Fh, FileSystem, FileType, Ino, LockKind, LockRange, LockRequest, Name, NewNode,
    OpenFlags, Write,
};
use tokio::time::sleep;

use super::world::{READER, SECOND, World, options};
use crate::common::look::RW;

pub(super) const NODE: NewNode = NewNode {
    kind: FileType::Regular,
    perm: 0o644,
    umask: 0,
    rdev: 0,
};

pub(super) fn close_to_open() -> VfsOptions {
    VfsOptions {
        consistency: Consistency::CloseToOpen,
        ..options()
    }
}

pub(super) fn cluster_locks() -> VfsOptions {
    VfsOptions {
        locks: Locks::Cluster,
        ..options()
    }
}

/// A member's program: opens, writes, closes and locks as the kernel would have it done.
pub(super) struct Program<'a> {
    pub(super) world: &'a World,
    pub(super) member: usize,
    pub(super) owner: u64,
}

/// What a program has open.
#[derive(Clone, Copy)]
pub(super) struct Open(pub(super) Ino, pub(super) Fh);

impl Program<'_> {
    pub(super) fn fs(&self) -> &cairnfs::vfs::Vfs {
        self.world.vfs(self.member)
    }

    pub(super) async fn create(&self, name: &str, more: i32) -> Result<Open, Errno> {
        let flags = OpenFlags(RW.0 | more);
        let name = Name::new(name.as_bytes());
        let made = self
            .fs()
            .create(&Caller::ROOT, Ino::ROOT, name, &NODE, flags);
        let (entry, opened) = made.wait().await?;
        Ok(Open(entry.attr.ino, opened.fh))
    }

    pub(super) async fn write(&self, open: Open, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let write = Write {
            offset,
            bytes,
            flags: RW,
            is_from_cache: false,
            kill_suidgid: false,
        };
        let written = self.fs().write(&Caller::ROOT, open.0, open.1, &write);
        written.wait().await.map(drop)
    }

    pub(super) async fn close(&self, open: Open) -> Result<(), Errno> {
        self.fs().flush(open.0, open.1, self.owner).wait().await?;
        self.fs().release(open.0, open.1, RW).wait().await
    }

    /// The kernel tells that an opening with a lock of flock(2) is closed.
    pub(super) async fn closed(&self, open: Open) {
        let unlocked = self.fs().unlock_closed(open.0, open.1, self.owner);
        unlocked.wait().await.unwrap();
        self.fs().release(open.0, open.1, RW).wait().await.unwrap();
    }

    pub(super) async fn lock(&self, open: Open, kind: LockKind, waits: bool) -> Result<(), Errno> {
        let lock = LockRequest {
            ino: open.0,
            fh: open.1,
            owner: self.owner,
            range: LockRange {
                start: 0,
                end: u64::MAX,
                kind,
                pid: 1,
            },
            waits,
        };
        self.fs().setlk(&lock).wait().await
    }

    pub(super) async fn read(&self, open: Open) -> Vec<u8> {
        self.world
            .hand(self.member)
            .read_open(open.0)
            .await
            .unwrap()
    }
}

impl World {
    pub(super) fn program(&self, member: usize) -> Program<'_> {
        Program {
            world: self,
            member,
            owner: 100 + member as u64,
        }
    }

    pub(super) fn peers(&self, members: &[usize]) -> Vec<PeerId> {
        members.iter().map(|member| self.peer(*member)).collect()
    }

    /// The first members vote, and have been at it for long enough.
    pub(super) async fn with_voters(seed: u64, voters: &[usize]) -> World {
        let world = World::with(seed, cluster_locks()).await;
        world.settle().await;
        world
            .sharer(0)
            .set_voters(&world.peers(voters))
            .await
            .unwrap();
        sleep(12 * SECOND).await;
        world
    }

    /// These members reach each other, and the others each other.
    pub(super) fn part(&self, members: &[usize]) {
        let here = self.peers(members);
        let all = (0..=READER).map(|member| self.peer(member));
        let there: Vec<PeerId> = all.filter(|peer| !here.contains(peer)).collect();
        self.cluster.hub.partition(&[here, there]);
    }
}
