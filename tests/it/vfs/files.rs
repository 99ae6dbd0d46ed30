//! Making, changing and reading files of a volume, for tests that follow single files.

use cairnfs::base::Entropy;
use cairnfs_fuse::{Caller, Fh, FileSystem, FileType, Ino, NewNode, Write};

use super::twin::{Fs, RW, Twin, find};

pub(super) const NODE: NewNode = NewNode {
    kind: FileType::Regular,
    perm: 0o644,
    umask: 0,
    rdev: 0,
};

pub(super) fn block_on(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run);
}

pub(super) async fn make(twin: &Twin, name: &str, bytes: &[u8]) -> Ino {
    let made = twin
        .vfs()
        .create(&Caller::ROOT, Ino::ROOT, name.into(), &NODE, RW);
    let ino = made.wait().await.unwrap().0.attr.ino;
    write(twin, ino, 0, bytes).await;
    ino
}

pub(super) async fn write(twin: &Twin, ino: Ino, offset: u64, bytes: &[u8]) {
    let write = Write {
        offset,
        bytes,
        flags: RW,
        is_from_cache: false,
        kill_suidgid: false,
    };
    let written = twin
        .vfs()
        .write(&Caller::ROOT, ino, Fh(ino.0), &write)
        .wait()
        .await;
    assert_eq!(written.unwrap() as usize, bytes.len());
}

pub(super) async fn close(twin: &Twin, ino: Ino) {
    twin.vfs().release(ino, Fh(ino.0), RW).wait().await.unwrap();
    twin.vfs().forget(ino, 1);
}

pub(super) async fn remove(twin: &Twin, name: &str) {
    let gone = twin
        .vfs()
        .unlink(&Caller::ROOT, Ino::ROOT, name.into())
        .wait()
        .await;
    gone.unwrap();
}

/// What a file has, as somebody who opens it sees it.
pub(super) async fn content(twin: &Twin, name: &str) -> Vec<u8> {
    let fs: &dyn Fs = twin.vfs();
    let ino = find(fs, &[name.as_bytes().to_vec()]).await.unwrap();
    let seen = fs.seen(ino, 1 << 20).await.unwrap();
    fs.raw().forget(ino);
    seen.content
}

pub(super) fn used(twin: &Twin) -> u64 {
    twin.cluster.blocks(0).unwrap().store().usage().allocated
}

pub(super) fn bytes(entropy: &Entropy, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    entropy.fill(&mut bytes);
    bytes
}
