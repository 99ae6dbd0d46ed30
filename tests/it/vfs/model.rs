//! Random operations on a volume and on the reference filesystem, compared after each.

mod ops;

use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs_fuse::{Caller, Fh, FileSystem, FileType, Ino};

use super::twin::{Fs, Twin, find, same};
use crate::support::scaled;

const NAMES: [&[u8]; 7] = [
    b"a",
    b"b",
    b"c",
    b"dir",
    b"other",
    b"\xff\xfe",
    b"a longer name, with text",
];
const XATTRS: [&[u8]; 3] = [b"user.one", b"user.two", b"trusted.three"];
const CALLERS: [Caller; 2] = [
    Caller::ROOT,
    Caller {
        uid: 1000,
        gid: 1000,
        pid: 0,
    },
];

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(600);

type Path = Vec<Vec<u8>>;

/// An open file in both, by number.
#[derive(Clone, Copy)]
struct Handle {
    mem: Ino,
    vfs: Ino,
}

struct Run {
    twin: Twin,
    entropy: Entropy,
    handles: Vec<Handle>,
    log: Vec<String>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(25);
            eprintln!("the last operations:\n{}", self.log[from..].join("\n"));
        }
    }
}

impl Run {
    fn name(&self) -> Vec<u8> {
        NAMES[self.entropy.below(NAMES.len() as u64) as usize].to_vec()
    }

    fn path(&self) -> Path {
        let depth = 1 + self.entropy.below(3);
        (0..depth).map(|_| self.name()).collect()
    }

    fn bytes(&self, most: u64) -> Vec<u8> {
        let len = 1 + self.entropy.below(most);
        let mut bytes = vec![0; len as usize];
        match self.entropy.below(3) {
            0 => bytes.fill(b'x'),
            _ => self.entropy.fill(&mut bytes),
        }
        bytes
    }

    fn offset(&self) -> u64 {
        match self.entropy.below(8) {
            0 => self.entropy.below(2_000_000),
            1 => 0,
            _ => self.entropy.below(60_000),
        }
    }

    fn vfs(&self) -> &dyn Fs {
        self.twin.vfs()
    }

    fn mem(&self) -> &dyn Fs {
        &self.twin.mem
    }

    /// The files at a path in both; `None` if it is in neither.
    async fn both(&self, path: &[Vec<u8>]) -> Option<(Ino, Ino)> {
        let (mem, vfs) = (find(self.mem(), path).await, find(self.vfs(), path).await);
        if !same(&format!("look-up of {path:?}"), &mem, &vfs) {
            return None;
        }
        Some((mem.unwrap(), vfs.unwrap()))
    }

    /// Parent and name of a path.
    async fn place(&self, path: &Path) -> Option<((Ino, Ino), Vec<u8>)> {
        let (name, above) = path.split_last().unwrap();
        Some((self.both(above).await?, name.clone()))
    }

    async fn compare(&self, step: u32) {
        let one = self.mem().tree(1 << 20).await.unwrap();
        let two = self.vfs().tree(step).await.unwrap();
        let (names, others): (Vec<_>, Vec<_>) = (one.keys().collect(), two.keys().collect());
        assert_eq!(names, others, "names");
        for (path, seen) in &one {
            let other = &two[path];
            if seen == other {
                continue;
            }
            let brief = |seen: &super::twin::Seen| {
                let mut seen = seen.clone();
                seen.content.truncate(16);
                seen.xattrs
                    .values_mut()
                    .for_each(|value| value.truncate(16));
                format!("{seen:?}")
            };
            let at = seen
                .content
                .iter()
                .zip(&other.content)
                .position(|(a, b)| a != b);
            panic!(
                "{path:?}: {}\nvolume: {}\ncontents differ at {at:?}",
                brief(seen),
                brief(other)
            );
        }
        for handle in &self.handles {
            let one = self.mem().content(handle.mem, 1 << 20).await.unwrap();
            let two = self.vfs().content(handle.vfs, step).await.unwrap();
            assert!(one == two, "an open file differs");
        }
    }

    async fn close_all(&mut self) {
        while !self.handles.is_empty() {
            self.close().await;
        }
    }

    async fn step(&mut self) {
        match self.entropy.below(100) {
            0..16 => self.make().await,
            16..23 => self.remove().await,
            23..31 => self.rename().await,
            31..35 => self.link().await,
            35..42 => self.attributes().await,
            42..46 => self.xattr().await,
            46..51 => self.open().await,
            51..55 => self.close().await,
            55..72 => self.write().await,
            72..77 => self.allocate().await,
            77..81 => self.copy().await,
            81..90 => self.read().await,
            90..95 => {
                let pause = self.entropy.below(4000);
                self.log.push(format!("pause {pause}"));
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            95 => {
                self.log.push("sync".into());
                self.twin.vfs().sync().await.unwrap();
            }
            96 => {
                self.log.push("fsync".into());
                if let Some(handle) = self.handle() {
                    self.twin
                        .vfs()
                        .fsync(handle.vfs, Fh(0), false)
                        .wait()
                        .await
                        .unwrap();
                }
            }
            97 => {
                self.log.push("reopen".into());
                self.close_all().await;
                self.twin.reopen().await;
            }
            98 => {
                self.log.push("crash".into());
                // What was synced is there after a power cut; so everything is synced first.
                for handle in self.handles.clone() {
                    self.twin
                        .vfs()
                        .fsync(handle.vfs, Fh(0), false)
                        .wait()
                        .await
                        .unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1200)).await;
                self.twin
                    .vfs()
                    .fsyncdir(Ino::ROOT, Fh(0), false)
                    .wait()
                    .await
                    .unwrap();
                self.close_all().await;
                self.twin.crash().await;
            }
            _ => self.compare(1 << 16).await,
        }
    }
}

async fn run(peers: usize, seed: u64, steps: u64) {
    let twin = Twin::new(peers, seed).await;
    let mut run = Run {
        twin,
        entropy: Entropy::seeded(seed),
        handles: Vec::new(),
        log: Vec::new(),
    };
    for step in 0..steps {
        if std::env::var("CAIRN_TRACE").is_ok() {
            eprintln!("{step} {:?}", run.log.last());
        }
        let ended = tokio::time::timeout(LONG, run.step()).await;
        assert!(ended.is_ok(), "step {step} does not end");
    }
    run.compare(9_999).await;
    run.twin.vfs().sync().await.unwrap();
    run.close_all().await;
    run.twin.reopen().await;
    run.compare(1 << 20).await;
    // Each file is there once for every name that it has.
    let tree = run.mem().tree(1 << 20).await.unwrap();
    let part = |seen: &super::twin::Seen| match seen.kind {
        FileType::Directory => 1.0,
        _ => 1.0 / f64::from(seen.nlink),
    };
    let there = tree.values().map(part).sum::<f64>().round() as u64;
    let stat = run.twin.vfs().statfs(Ino::ROOT).now().unwrap();
    assert_eq!(stat.files - stat.files_free, there, "files there are");
}

fn seeds(peers: usize, first: u64, count: u64, steps: u64) {
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(run(peers, seed, steps));
        });
        if let Err(panic) = outcome {
            eprintln!("seed {seed} with {peers} peers");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Which seed to try again alone.
fn chosen() -> Option<u64> {
    std::env::var("CAIRN_SEED").ok()?.parse().ok()
}

#[test]
fn a_lone_peer_does_what_the_reference_does() {
    match chosen() {
        Some(seed) => seeds(1, seed, 1, 400),
        None => seeds(1, 0, scaled(12) as u64, 400),
    }
}

#[test]
fn six_peers_do_what_the_reference_does() {
    match chosen() {
        Some(seed) => seeds(6, seed, 1, 300),
        None => seeds(6, 1000, scaled(4) as u64, 300),
    }
}
