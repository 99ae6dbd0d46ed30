//! Files that come back.

use std::sync::Mutex;

use cairnfs::base::Entropy;
use cairnfs::vfs::{RestoreAction, RestoreProgress, RestoreRequest, SnapshotInfo, Vfs};
use cairnfs_fuse::{Caller, FileSystem, SetAttr};

use super::seen::everything;
use super::{Tree, live, past, same};
use crate::common::hand::Hand;
use crate::vfs::files::{block_on, bytes};
use crate::vfs::twin::Twin;

fn request(snapshot: &SnapshotInfo, path: &str) -> RestoreRequest {
    RestoreRequest {
        snapshot: snapshot.id,
        path: path.as_bytes().to_vec(),
        to: None,
        delete: false,
    }
}

async fn restore(vfs: &Vfs, request: RestoreRequest) -> RestoreProgress {
    let plan = vfs.plan_restore(request).await.unwrap();
    let steps = plan.steps.len() as u64;
    let seen = Mutex::new(0);
    let tell = |progress: RestoreProgress| *seen.lock().unwrap() = progress.done;
    let done = vfs.restore(plan, tell).await.unwrap();
    assert_eq!((done.done, done.steps), (steps, steps));
    assert_eq!(*seen.lock().unwrap(), steps);
    done
}

/// Times of change are those of the restore, and cannot be set.
fn timeless(mut tree: Tree) -> Tree {
    for seen in tree.values_mut() {
        seen.attr.ctime = seen.attr.mtime;
    }
    tree
}

#[test]
fn a_whole_volume_comes_back_as_it_was() {
    block_on(async {
        let twin = Twin::new(6, 81).await;
        everything(&twin).await;
        let vfs = twin.vfs();
        let before = timeless(live(vfs).await);
        let made = vfs.make_snapshot("").await.unwrap();
        let nothing = vfs.plan_restore(request(&made, "")).await.unwrap();
        assert!(nothing.steps.is_empty(), "{:?}", nothing.steps);
        assert!(nothing.looked_at > 40);
        let hand = Hand(vfs);
        hand.unlink("large").await.unwrap();
        hand.unlink("another name").await.unwrap();
        hand.unlink("pipe").await.unwrap();
        hand.replace("pipe", b"a file now").await.unwrap();
        hand.replace("dir/small", b"something else").await.unwrap();
        hand.rename("dir/below", "moved").await.unwrap();
        hand.write("holes", 0, &[1; 100_000]).await.unwrap();
        let chmod = SetAttr {
            mode: Some(0o700),
            uid: Some(1000),
            ..SetAttr::default()
        };
        let pointer = hand.find("pointer").await.unwrap();
        let set = vfs.setattr(&Caller::ROOT, pointer, &chmod).wait().await;
        set.unwrap();
        // First it is only told.
        let all = RestoreRequest {
            delete: true,
            ..request(&made, "")
        };
        let changed = live(vfs).await;
        let plan = vfs.plan_restore(all.clone()).await.unwrap();
        let action = |path: &str| {
            let step = plan.steps.iter().find(|step| step.path == path.as_bytes());
            step.map(|step| step.action.clone())
        };
        assert_eq!(action("moved"), Some(RestoreAction::Remove));
        assert_eq!(action("dir/small"), Some(RestoreAction::Replace));
        assert_eq!(action("pipe"), Some(RestoreAction::Replace));
        assert_eq!(action("pointer"), Some(RestoreAction::Attributes));
        assert_eq!(action("another name"), Some(RestoreAction::Create));
        assert_eq!(action("large"), Some(RestoreAction::Link));
        assert_eq!(action("dir/below/empty"), Some(RestoreAction::Create));
        same(&changed, &live(vfs).await, "a plan changes nothing");
        let dirty = twin.vfs().usage().dirty_bytes;
        let done = restore(vfs, all.clone()).await;
        assert!(done.bytes > 300_000, "{done:?}");
        assert_eq!(vfs.usage().dirty_bytes, dirty, "no byte is copied");
        same(&before, &timeless(live(vfs).await), "restored");
        let again = vfs.plan_restore(all).await.unwrap();
        assert!(again.steps.is_empty(), "{:?}", again.steps);
        same(&before, &timeless(past(vfs, &made).await), "the snapshot");
    });
}

#[test]
fn what_is_new_stays_and_others_are_left_alone() {
    block_on(async {
        let twin = Twin::new(6, 82).await;
        everything(&twin).await;
        let vfs = twin.vfs();
        let made = vfs.make_snapshot("").await.unwrap();
        let hand = Hand(vfs);
        hand.unlink("dir/small").await.unwrap();
        hand.replace("dir/new", b"new").await.unwrap();
        hand.replace("large", b"other").await.unwrap();
        restore(vfs, request(&made, "dir")).await;
        assert_eq!(hand.read("dir/small").await.unwrap(), b"small");
        assert_eq!(hand.read("dir/new").await.unwrap(), b"new");
        assert_eq!(hand.read("large").await.unwrap(), b"other");
        // One file, whose directory is gone.
        for number in 0..40 {
            let path = format!("dir/below/file number {number}");
            hand.unlink(&path).await.unwrap();
        }
        hand.unlink("dir/below/empty").await.unwrap();
        hand.rmdir("dir/below").await.unwrap();
        restore(vfs, request(&made, "/dir/below/file number 7")).await;
        assert_eq!(hand.names("dir/below").await, ["file number 7"]);
        // Beside what is there.
        let beside = RestoreRequest {
            to: Some(b"dir/old large".to_vec()),
            ..request(&made, "large")
        };
        restore(vfs, beside).await;
        assert_eq!(hand.read("dir/old large").await.unwrap().len(), 300_000);
        assert_eq!(hand.read("large").await.unwrap(), b"other");
        let beside = RestoreRequest {
            to: Some(b"copy of all".to_vec()),
            ..request(&made, "")
        };
        restore(vfs, beside).await;
        let mut copy = timeless(live(vfs).await);
        copy.retain(|path, _| path.starts_with("/copy of all/"));
        let copy: Tree = copy
            .into_iter()
            .map(|(path, seen)| (path["/copy of all".len()..].to_owned(), seen))
            .collect();
        let mut old = timeless(past(vfs, &made).await);
        old.remove("");
        same(&old, &copy, "a copy of all");
        let (one, two) = (
            hand.find("copy of all/large").await.unwrap(),
            hand.find("copy of all/another name").await.unwrap(),
        );
        assert_eq!(one, two, "names of one file");
    });
}

#[test]
fn what_cannot_be_restored_is_refused_with_a_reason() {
    block_on(async {
        let twin = Twin::new(6, 83).await;
        everything(&twin).await;
        let vfs = twin.vfs();
        let made = vfs.make_snapshot("").await.unwrap();
        let hand = Hand(vfs);
        hand.unlink("pointer").await.unwrap();
        hand.mkdir("pointer").await.unwrap();
        hand.replace("pointer/something", b"x").await.unwrap();
        let before = live(vfs).await;
        for (path, to) in [
            ("nowhere", None),
            ("dir/small/below", None),
            ("../x", None),
            ("pointer", None),
            ("large", Some("")),
            ("large", Some("no/such/directory")),
        ] {
            let request = RestoreRequest {
                to: to.map(|to| to.as_bytes().to_vec()),
                ..request(&made, path)
            };
            let refused = vfs.plan_restore(request).await;
            println!("{}", refused.unwrap_err());
        }
        same(&before, &live(vfs).await, "nothing was changed");
        let all = RestoreRequest {
            delete: true,
            ..request(&made, "pointer")
        };
        restore(vfs, all).await;
        assert!(hand.read("pointer/something").await.is_err());
    });
}

#[test]
fn what_came_back_stays_when_the_snapshot_goes() {
    block_on(async {
        let entropy = Entropy::seeded(84);
        let mut twin = Twin::new(6, 84).await;
        let hand = Hand(twin.vfs());
        for part in 0..60u64 {
            let bytes = bytes(&entropy, 70_000);
            hand.write("large", part * 150_000, &bytes).await.unwrap();
            if part % 7 == 0 {
                twin.vfs().sync().await.unwrap();
            }
        }
        hand.replace("small", &bytes(&entropy, 30_000))
            .await
            .unwrap();
        let before = timeless(live(twin.vfs()).await);
        let made = twin.vfs().make_snapshot("").await.unwrap();
        let hand = Hand(twin.vfs());
        hand.unlink("large").await.unwrap();
        hand.replace("small", &bytes(&entropy, 30_000))
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        restore(twin.vfs(), request(&made, "")).await;
        twin.vfs().remove_snapshot(made.id).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(90)).await;
        same(&before, &timeless(live(twin.vfs()).await), "restored");
        twin.crash().await;
        tokio::time::sleep(std::time::Duration::from_secs(90)).await;
        same(&before, &timeless(live(twin.vfs()).await), "after a crash");
        // And goes as any other.
        let hand = Hand(twin.vfs());
        hand.unlink("large").await.unwrap();
        hand.unlink("small").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(180)).await;
        let all = (0..6).map(|at| twin.cluster.blocks(at).unwrap().store().usage().shard_bytes);
        assert_eq!(all.sum::<u64>(), 0);
    });
}

#[test]
fn a_file_that_is_open_shows_what_came_back() {
    block_on(async {
        let twin = Twin::new(6, 85).await;
        let vfs = twin.vfs();
        let hand = Hand(vfs);
        hand.replace("file", &[1; 50_000]).await.unwrap();
        let made = vfs.make_snapshot("").await.unwrap();
        hand.replace("file", &[2; 60_000]).await.unwrap();
        let told = std::sync::Arc::new(Mutex::new(Vec::new()));
        let telling = std::sync::Arc::clone(&told);
        vfs.on_restore(move |notice| telling.lock().unwrap().push(notice));
        let open = hand.open("file").await.unwrap();
        assert!(hand.read_open(open).await.unwrap() == [2; 60_000]);
        // Written and not synced: that is in a block before it is compared.
        hand.write_open(open, 0, b"dirty").await.unwrap();
        restore(vfs, request(&made, "file")).await;
        assert!(hand.read_open(open).await.unwrap() == [1; 50_000]);
        hand.write_open(open, 10, b"after").await.unwrap();
        hand.close(open).await.unwrap();
        vfs.sync().await.unwrap();
        let content = hand.read("file").await.unwrap();
        assert_eq!((content.len(), &content[10..15]), (50_000, &b"after"[..]));
        assert!(!told.lock().unwrap().is_empty());
    });
}

/// More extended attributes than go into one operation: those that came since go as well.
#[test]
fn what_has_many_extended_attributes_comes_back_without_later_ones() {
    block_on(async {
        let twin = Twin::new(6, 88).await;
        let (vfs, hand) = (twin.vfs(), Hand(twin.vfs()));
        hand.write("file", 0, b"text").await.unwrap();
        let ino = hand.find("file").await.unwrap();
        let set = async |name: &str, value: &[u8]| {
            let set = vfs.setxattr(&Caller::ROOT, ino, name.into(), value, 0);
            set.wait().await.unwrap();
        };
        for number in 0..6u8 {
            set(&format!("user.{number}"), &[number; 60_000]).await;
        }
        let before = timeless(live(vfs).await);
        let made = vfs.make_snapshot("").await.unwrap();
        set("user.later", b"later").await;
        set("user.3", b"changed").await;
        let gone = vfs.removexattr(&Caller::ROOT, ino, "user.4".into());
        gone.wait().await.unwrap();
        restore(vfs, request(&made, "file")).await;
        same(&before, &timeless(live(vfs).await), "restored");
    });
}
