//! From one replica to the other, and back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs::base::{Class, Classify, Entropy};
use cairnfs::feeds::checkpoint::{CheckpointError, PageHash};
use cairnfs::namespace::state::Pairs;
use cairnfs::namespace::{self, Draft, Hlc, Key, Rows, StateError, Write, WriterId, state};
use cairnfs::store::{Group, Space, Volume};
use cairnfs::vfs::CheckpointFailure;
use cairnfs_fuse::{Caller, CopyRange, Errno, Fh, FileSystem, Ino};

use super::support::{Pair, device, heads, space};
use crate::support::scaled;
use crate::vfs::files::{block_on, bytes};
use crate::vfs::twin::{RW, find};

async fn populate(pair: &Pair, entropy: &Entropy) {
    let dir = pair.mkdir(0, Ino::ROOT, "dir").await;
    for number in 0..40 {
        let len = [0, 100, 5_000, 70_000][number % 4];
        let place = [Ino::ROOT, dir][number % 2];
        let data = bytes(entropy, len);
        pair.make(0, place, &format!("f{number}"), &data).await;
    }
    let ino = pair.make(0, dir, "large", &bytes(entropy, 9_000_000)).await;
    // Longer than a row of the engine.
    let value = bytes(entropy, 60_000);
    let vfs = pair.vfs(0);
    let found = find(pair.fs(0), &[b"dir".to_vec(), b"large".to_vec()]).await;
    assert_eq!(found, Ok(ino));
    let set = vfs.setxattr(&Caller::ROOT, ino, "user.long".into(), &value, 0);
    set.wait().await.unwrap();
    let link = vfs.symlink(&Caller::ROOT, Ino::ROOT, "link".into(), b"dir/large");
    link.wait().await.unwrap();
}

#[test]
fn a_volume_is_opened_elsewhere_from_its_checkpoint_and_follows() {
    for peers in [2, 6] {
        block_on(async {
            let entropy = Entropy::seeded(1);
            let mut pair = Pair::new(peers, 1).await;
            populate(&pair, &entropy).await;
            pair.open(1, true).await;
            // Before anything is merged there is nothing to be seen.
            let looked = pair
                .vfs(1)
                .getattr(&Caller::ROOT, Ino::ROOT, None)
                .wait()
                .await;
            assert!(matches!(looked, Err(Errno::EBUSY)));
            let made = pair.exchange(0, 1).await;
            assert_eq!(made.built.pages, made.built.pages_stored);
            pair.assert_same_trees().await;
            assert!(pair.rows(0).await == pair.rows(1).await, "rows differ");

            // Changes of both, each of files that the other does not touch.
            pair.remove(0, Ino::ROOT, "f0").await;
            pair.rename(0, "f2", "f4").await;
            let dir = find(pair.fs(1), &[b"dir".to_vec()]).await.unwrap();
            pair.remove(1, dir, "f3").await;
            pair.make(1, dir, "new", &bytes(&entropy, 300_000)).await;
            pair.exchange(1, 0).await;
            let again = pair.exchange(0, 1).await;
            pair.assert_same_trees().await;
            pair.assert_same_rows().await;
            assert!(again.built.pages_stored < 12, "{:?}", again.built);
            // The same once more changes nothing.
            let before = pair.vfs(1).version().unwrap();
            assert_eq!(pair.vfs(1).join(&again.root).await.unwrap(), before);
        });
    }
}

/// Both change anything, and exchange checkpoints now and then.
async fn random_lives(seed: u64) {
    let entropy = Entropy::seeded(seed);
    let mut pair = Pair::new(2, seed).await;
    pair.make(0, Ino::ROOT, "a", b"first").await;
    pair.open(1, true).await;
    pair.exchange(0, 1).await;
    let names = ["a", "b", "c", "d", "e"];
    for step in 0..60 {
        let at = entropy.below(2) as usize;
        let name = names[entropy.below(5) as usize];
        let other = names[entropy.below(5) as usize];
        let is_there = find(pair.fs(at), &[name.as_bytes().to_vec()]).await.is_ok();
        match entropy.below(10) {
            0..3 if !is_there => {
                let len = [10, 4000, 90_000][entropy.below(3) as usize];
                pair.make(at, Ino::ROOT, name, &bytes(&entropy, len)).await;
            }
            3 | 4 if is_there => {
                let ino = find(pair.fs(at), &[name.as_bytes().to_vec()])
                    .await
                    .unwrap();
                let vfs = pair.vfs(at);
                vfs.open(&Caller::ROOT, ino, RW).wait().await.unwrap();
                let data = bytes(&entropy, 3000);
                pair.write(at, ino, entropy.below(50_000), &data).await;
                vfs.release(ino, Fh(0), RW).wait().await.unwrap();
            }
            5 if is_there => pair.remove(at, Ino::ROOT, name).await,
            6 if is_there && name != other => pair.rename(at, name, other).await,
            7 => {
                let pause = Duration::from_millis(entropy.below(9000));
                tokio::time::sleep(pause).await;
            }
            8 => {
                pair.exchange(1 - at, at).await;
            }
            9 if step % 5 == 0 => pair.reopen(at).await,
            _ => {}
        }
    }
    pair.exchange(0, 1).await;
    pair.exchange(1, 0).await;
    pair.assert_same_rows().await;
    // A name whose file one has removed and the other moved may lead to nothing that can be opened; on both.
    let trees = [0, 1].map(|at| pair.fs(at).tree(1 << 20));
    let [one, two] = trees;
    let (one, two) = (one.await, two.await);
    assert!(one == two, "seed {seed}");
    // Nothing that anybody names was let go.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(pair.fs(0).tree(1 << 20).await == one, "seed {seed}");
    assert!(pair.fs(1).tree(1 << 20).await == one, "seed {seed}");
}

#[test]
fn replicas_that_exchange_checkpoints_become_the_same() {
    let chosen = std::env::var("CAIRN_SEED").ok();
    match chosen.and_then(|seed| seed.parse().ok()) {
        Some(seed) => block_on(random_lives(seed)),
        None => (0..scaled(12) as u64).for_each(|seed| block_on(random_lives(seed))),
    }
}

/// Rows of a volume whose values are in one part.
struct Plain<'a>(&'a Volume);

impl Rows for Plain<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self.0.get(Space(1), key).unwrap();
        Ok(found.map(|value| value.slice(1..)))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        let rows = space(self.0, 1).into_iter();
        let within = rows.filter(|(_, key, _)| (start..end).contains(&key.as_ref()));
        let pairs = within.map(|(_, key, value)| (key.to_vec(), value.slice(1..)));
        Ok(pairs.take(limit).collect())
    }
}

/// What a draft did is on its own replica alone.
#[test]
fn drafts_are_not_in_a_checkpoint() {
    block_on(async {
        let mut pair = Pair::new(2, 5).await;
        pair.make(0, Ino::ROOT, "kept", b"stays").await;
        pair.vfs(0).sync().await.unwrap();
        pair.shut(0).await;
        pair.raw(0, async |volume| {
            let rows = Plain(volume);
            let kept = Key::Entry(namespace::Ino::ROOT, namespace::Name::new(b"kept").unwrap());
            let row = rows.get(&kept.encode()).unwrap().unwrap();
            let row = namespace::row::decode(&kept, &row).unwrap();
            let name = namespace::Name::new(b"drafted").unwrap();
            let draft = Draft {
                context: state::version(&rows).unwrap(),
                hlc: Hlc::from_ms(super::support::START_MS + 1000),
                writes: vec![Write {
                    key: Key::Entry(namespace::Ino::ROOT, name),
                    keeps: Vec::new(),
                    values: vec![row[0].value.clone()],
                }],
            };
            let writer = WriterId {
                peer: device(0).peer(),
                incarnation: 0,
            };
            let changes = namespace::merge::apply_draft(&rows, &draft, writer, 1).unwrap();
            let mut group = Group::new();
            for (key, value) in changes {
                match value {
                    Some(value) => group.put(Space(1), &key, &[&[0], &value[..]].concat()),
                    None => group.remove(Space(1), &key),
                };
            }
            volume.apply(&group).unwrap();
        })
        .await;
        pair.open(0, false).await;
        let names = pair.fs(0).names(Ino::ROOT, false).await.unwrap();
        assert_eq!(names, [b"drafted".to_vec(), b"kept".to_vec()]);
        pair.open(1, true).await;
        pair.exchange(0, 1).await;
        assert_eq!(pair.content(1, "kept").await, b"stays");
        let names = pair.fs(1).names(Ino::ROOT, false).await.unwrap();
        assert_eq!(names, [b"kept"]);
    });
}

/// A page that is another, a page that is gone, a root from elsewhere or from the future: nothing is changed.
#[test]
fn what_is_not_a_checkpoint_of_the_volume_is_refused() {
    block_on(async {
        let mut pair = Pair::new(2, 6).await;
        for number in 0..200 {
            pair.make(0, Ino::ROOT, &format!("f{number}"), &[7; 200])
                .await;
        }
        pair.open(1, true).await;
        let first = pair.exchange(0, 1).await;
        let before = pair.rows(1).await;
        pair.remove(0, Ino::ROOT, "f7").await;
        pair.make(0, Ino::ROOT, "more", &[8; 200]).await;
        let made = pair.checkpoint(0).await;

        let mut damaged = made.root.clone();
        let top = &mut damaged.tree.as_mut().unwrap().top;
        top.hash = PageHash([1; 32]);
        let error = pair.vfs(1).join(&damaged).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        assert!(matches!(
            error,
            CheckpointFailure::Pages(CheckpointError::Damaged(_))
        ));
        let mut elsewhere = made.root.clone();
        elsewhere.tree.as_mut().unwrap().top.place = Bytes::from_static(b"nowhere");
        let error = pair.vfs(1).join(&elsewhere).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        let mut other = made.root.clone();
        other.volume.0[0] ^= 1;
        let error = pair.vfs(1).join(&other).await.unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error}");
        let mut future = made.root.clone();
        future.hlc = Hlc::from_ms(pair.clock.now_ms() + 900_000);
        let error = pair.vfs(1).join(&future).await.unwrap_err();
        assert_eq!(error.class(), Class::Retry, "{error}");
        let mut uncovered = made.root.clone();
        let mut less = uncovered.version();
        less = less.without(&uncovered.heads[0].writer);
        less.raise(uncovered.heads[0].writer, first.root.heads[0].last + 1);
        uncovered.heads = heads(&less);
        let error = pair.vfs(1).join(&uncovered).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        let mut late = made.root.clone();
        late.hlc = Hlc::from_ms(1);
        let error = pair.vfs(1).join(&late).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        assert!(pair.rows(1).await == before, "nothing was changed");

        // Nobody keeps the old one any more.
        pair.vfs(0).keep_checkpoints(0);
        for number in 8..60 {
            pair.remove(0, Ino::ROOT, &format!("f{number}")).await;
        }
        let last = pair.checkpoint(0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        pair.vfs(1).sync().await.unwrap();
        // What it had read is in its memory.
        pair.crash(1).await;
        pair.open(1, false).await;
        let error = pair.vfs(1).join(&made.root).await.unwrap_err();
        assert_eq!(error.class(), Class::Missing, "{error}");
        assert_eq!(pair.vfs(1).unfinished_join().unwrap(), None);
        pair.vfs(1).join(&last.root).await.unwrap();
        pair.assert_same_trees().await;

        // Heads that say something else than the rows.
        let version = pair.vfs(0).version().unwrap();
        let mut wrong = version.clone();
        wrong.raise(last.root.heads[0].writer, last.root.heads[0].last + 5);
        let refused = pair.vfs(0).checkpoint(heads(&wrong), Hlc::from_ms(1)).await;
        assert_eq!(refused.unwrap_err().class(), Class::Bug);
    });
}

/// What others do with a file that one placed decides whether its blocks stay.
#[test]
fn blocks_stay_as_long_as_any_replica_names_them() {
    block_on(async {
        let entropy = Entropy::seeded(9);
        let mut pair = Pair::new(2, 9).await;
        let large = bytes(&entropy, 20_000_000);
        let data = bytes(&entropy, 400_000);
        for name in ["removed", "copied", "renamed"] {
            pair.make(0, Ino::ROOT, name, &data[name.len()..]).await;
        }
        pair.make(0, Ino::ROOT, "edited", &large).await;
        pair.open(1, true).await;
        pair.exchange(0, 1).await;
        // The other one removes, copies, edits and renames.
        pair.remove(1, Ino::ROOT, "removed").await;
        pair.rename(1, "renamed", "new name").await;
        let vfs = pair.vfs(1);
        let from = find(pair.fs(1), &[b"copied".to_vec()]).await.unwrap();
        vfs.open(&Caller::ROOT, from, RW).wait().await.unwrap();
        let to = pair.make(1, Ino::ROOT, "copy", b"x").await;
        let to_again = find(pair.fs(1), &[b"copy".to_vec()]).await.unwrap();
        assert_eq!(to, to_again);
        vfs.open(&Caller::ROOT, to, RW).wait().await.unwrap();
        let copy = CopyRange {
            from: (from, Fh(0)),
            from_offset: 0,
            to: (to, Fh(0)),
            to_offset: 0,
            len: 300_000,
        };
        let copied = vfs.copy_file_range(&Caller::ROOT, &copy).wait().await;
        assert_eq!(copied.unwrap(), 300_000);
        let edited = find(pair.fs(1), &[b"edited".to_vec()]).await.unwrap();
        vfs.open(&Caller::ROOT, edited, RW).wait().await.unwrap();
        pair.write(1, edited, 5_000_000, b"changed in the middle")
            .await;
        for ino in [from, to, edited] {
            vfs.release(ino, Fh(0), RW).wait().await.unwrap();
        }
        pair.exchange(1, 0).await;
        pair.remove(0, Ino::ROOT, "copied").await;
        pair.exchange(0, 1).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        for at in [0, 1] {
            pair.reopen(at).await;
            assert!(pair.content(at, "copy").await == data[6..300_006], "{at}");
            assert!(pair.content(at, "new name").await == data[7..], "{at}");
            let found = pair.content(at, "edited").await;
            assert!(found[..5_000_000] == large[..5_000_000], "{at}");
            assert!(found[5_000_021..] == large[5_000_021..], "{at}");
        }
        pair.assert_same_trees().await;
    });
}

/// Somebody has a file open while it is changed elsewhere.
#[test]
fn an_open_file_shows_what_was_merged() {
    block_on(async {
        let mut pair = Pair::new(2, 10).await;
        for name in ["changed", "gone"] {
            pair.make(0, Ino::ROOT, name, &[1; 90_000]).await;
        }
        pair.open(1, true).await;
        pair.exchange(0, 1).await;
        let vfs = pair.vfs(1);
        let mut open = Vec::new();
        for name in ["changed", "gone"] {
            let ino = find(pair.fs(1), &[name.as_bytes().to_vec()]).await.unwrap();
            vfs.open(&Caller::ROOT, ino, RW).wait().await.unwrap();
            open.push(ino);
        }
        let ino = find(pair.fs(0), &[b"changed".to_vec()]).await.unwrap();
        pair.vfs(0)
            .open(&Caller::ROOT, ino, RW)
            .wait()
            .await
            .unwrap();
        pair.write(0, ino, 10, &[2; 100]).await;
        pair.vfs(0).release(ino, Fh(0), RW).wait().await.unwrap();
        pair.remove(0, Ino::ROOT, "gone").await;
        pair.exchange(0, 1).await;
        let found = pair.fs(1).content(open[0], 1 << 20).await.unwrap();
        assert!(found[10..110] == [2; 100] && found[110..] == [1; 90_000 - 110]);
        assert_eq!(pair.fs(1).attr(open[1]).await.unwrap().nlink, 0);
        let names = pair.fs(1).names(Ino::ROOT, false).await.unwrap();
        assert_eq!(names, [b"changed"]);
    });
}

/// How long it takes and what it costs; `CAIRN_FILES` says how many files.
#[test]
fn figures() {
    let files: usize = std::env::var("CAIRN_FILES")
        .ok()
        .and_then(|files| files.parse().ok())
        .unwrap_or(5_000);
    block_on(async {
        let mut pair = Pair::new(2, 11).await;
        let mut dir = Ino::ROOT;
        for number in 0..files {
            if number % 1000 == 0 {
                dir = pair.mkdir(0, Ino::ROOT, &format!("dir{number}")).await;
            }
            pair.make(0, dir, &format!("file number {number}"), &[3; 150])
                .await;
        }
        pair.vfs(0).sync().await.unwrap();
        let shards = || -> u64 {
            let all = (0..2).map(|at| pair.cluster.blocks(at).unwrap().store().usage().shard_bytes);
            all.sum()
        };
        let before = shards();
        let begun = Instant::now();
        let made = pair.checkpoint(0).await;
        let whole = begun.elapsed();
        println!(
            "{files} files: {:?}, {} bytes of shards, made in {whole:?}",
            made.built,
            shards() - before
        );
        let before = shards();
        pair.make(0, dir, "one more", &[4; 150]).await;
        pair.vfs(0).sync().await.unwrap();
        let begun = Instant::now();
        let again = pair.checkpoint(0).await;
        println!(
            "one more: {:?}, {} bytes of shards, made in {:?}",
            again.built,
            shards() - before,
            begun.elapsed()
        );
        assert!(again.built.pages_stored <= 10, "{:?}", again.built);
        pair.open(1, true).await;
        let begun = Instant::now();
        pair.vfs(1).join(&again.root).await.unwrap();
        println!("joined in {:?}", begun.elapsed());
        pair.make(0, dir, "another", &[5; 150]).await;
        let last = pair.checkpoint(0).await;
        let begun = Instant::now();
        pair.vfs(1).join(&last.root).await.unwrap();
        println!("joined again in {:?}", begun.elapsed());
        pair.assert_same_rows().await;
    });
}
