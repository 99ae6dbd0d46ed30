//! What the kernel sees of snapshots.

use cairnfs_fuse::{
    AllocMode, Caller, CopyRange, DirBatch, Errno, Fh, FileSystem, FileType, Ino, NewNode,
    OpenFlags, Rename, RenameFlags, SetAttr, Write,
};

use super::{DIRECTORY, RD, live, past, same, tree};
use crate::common::hand::Hand;
use crate::vfs::files::{NODE, block_on};
use crate::vfs::twin::{Fs, RW, Twin};

async fn set_xattr(twin: &Twin, path: &str, name: &str, value: &[u8]) {
    let ino = Hand(twin.vfs()).find(path).await.unwrap();
    let set = twin
        .vfs()
        .setxattr(&Caller::ROOT, ino, name.into(), value, 0);
    set.wait().await.unwrap();
}

async fn link(twin: &Twin, from: &str, to: &str) {
    let ino = Hand(twin.vfs()).find(from).await.unwrap();
    let linked = twin.vfs().link(&Caller::ROOT, ino, Ino::ROOT, to.into());
    linked.wait().await.unwrap();
}

/// A little of everything.
pub(super) async fn everything(twin: &Twin) {
    let hand = Hand(twin.vfs());
    hand.mkdir("dir").await.unwrap();
    hand.mkdir("dir/below").await.unwrap();
    hand.replace("dir/small", b"small").await.unwrap();
    hand.replace("dir/below/empty", b"").await.unwrap();
    let large: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
    for part in 0..3 {
        let at = part * 100_000;
        hand.write("large", at as u64, &large[at..at + 100_000])
            .await
            .unwrap();
    }
    hand.write("holes", 500_000, b"after a hole").await.unwrap();
    link(twin, "large", "another name").await;
    let made = twin
        .vfs()
        .symlink(&Caller::ROOT, Ino::ROOT, "pointer".into(), b"dir/small");
    made.wait().await.unwrap();
    let fifo = NewNode {
        kind: FileType::Fifo,
        ..NODE
    };
    let made = twin
        .vfs()
        .mknod(&Caller::ROOT, Ino::ROOT, "pipe".into(), &fifo);
    made.wait().await.unwrap();
    set_xattr(twin, "dir/small", "user.colour", b"blue").await;
    set_xattr(twin, "large", "user.long", &[7; 40_000]).await;
    set_xattr(twin, "dir", "user.dir", b"x").await;
    for number in 0..40 {
        let path = format!("dir/below/file number {number}");
        hand.replace(&path, path.as_bytes()).await.unwrap();
    }
}

#[test]
fn a_snapshot_shows_what_was_there() {
    block_on(async {
        let twin = Twin::new(6, 71).await;
        everything(&twin).await;
        let before = live(twin.vfs()).await;
        let made = twin.vfs().make_snapshot("first").await.unwrap();
        assert!(made.name.ends_with("Z-first"), "{}", made.name);
        assert_eq!(
            made.files,
            before.len() as u64 - 1,
            "two names are one file"
        );
        same(&before, &past(twin.vfs(), &made).await, "at once");

        let hand = Hand(twin.vfs());
        hand.unlink("large").await.unwrap();
        hand.unlink("another name").await.unwrap();
        hand.replace("dir/small", b"something else").await.unwrap();
        hand.rename("dir/below", "moved").await.unwrap();
        hand.write("holes", 0, &[1; 100_000]).await.unwrap();
        twin.vfs().sync().await.unwrap();
        same(&before, &past(twin.vfs(), &made).await, "after changes");
        let after = live(twin.vfs()).await;
        let second = twin.vfs().make_snapshot("").await.unwrap();
        same(&before, &past(twin.vfs(), &made).await, "after another one");
        same(&after, &past(twin.vfs(), &second).await, "the second one");
        let names: Vec<String> = hand.names(DIRECTORY).await;
        assert_eq!(names.len(), 2);
        assert!(names.contains(&made.name) && names.contains(&second.name));
    });
}

#[test]
fn they_are_in_no_listing_and_their_numbers_stay() {
    block_on(async {
        let mut twin = Twin::new(6, 72).await;
        everything(&twin).await;
        let made = twin.vfs().make_snapshot("").await.unwrap();
        let path = format!("{DIRECTORY}/{}/dir/small", made.name);
        let hand = Hand(twin.vfs());
        assert!(!hand.names("").await.contains(&DIRECTORY.to_owned()));
        let old = hand.find(&path).await.unwrap();
        assert_ne!(old, hand.find("dir/small").await.unwrap());
        assert_eq!(old, hand.find(&path).await.unwrap());
        // Listings have the same numbers.
        let dir = hand.find(&format!("{DIRECTORY}/{}/dir", made.name)).await;
        let dir = dir.unwrap();
        let batch = DirBatch::new(4096, false);
        let listed = twin
            .vfs()
            .readdir(dir, Fh(0), 0, batch)
            .wait()
            .await
            .unwrap();
        let item = listed.items().find(|item| item.name.bytes() == b"small");
        assert_eq!(item.unwrap().ino, old);
        let above = listed.items().find(|item| item.name.bytes() == b"..");
        let top = hand
            .find(&format!("{DIRECTORY}/{}", made.name))
            .await
            .unwrap();
        assert_eq!(above.unwrap().ino, top);
        twin.reopen().await;
        let hand = Hand(twin.vfs());
        assert_eq!(old, hand.find(&path).await.unwrap(), "at the next mount");
    });
}

#[test]
fn nothing_in_them_can_be_changed() {
    block_on(async {
        let twin = Twin::new(6, 73).await;
        everything(&twin).await;
        let made = twin.vfs().make_snapshot("").await.unwrap();
        let before = past(twin.vfs(), &made).await;
        let hand = Hand(twin.vfs());
        let vfs = twin.vfs();
        let top = hand
            .find(&format!("{DIRECTORY}/{}", made.name))
            .await
            .unwrap();
        let dir = hand.find(DIRECTORY).await.unwrap();
        let file = hand.find(&format!("{DIRECTORY}/{}/large", made.name)).await;
        let file = file.unwrap();
        let root = Caller::ROOT;
        for parent in [top, dir] {
            let name = || "new".into();
            let refused = [
                vfs.mkdir(&root, parent, name(), &NODE)
                    .wait()
                    .await
                    .map(drop),
                vfs.mknod(&root, parent, name(), &NODE)
                    .wait()
                    .await
                    .map(drop),
                vfs.symlink(&root, parent, name(), b"x")
                    .wait()
                    .await
                    .map(drop),
                vfs.create(&root, parent, name(), &NODE, RW)
                    .wait()
                    .await
                    .map(drop),
                vfs.unlink(&root, parent, "large".into()).wait().await,
                vfs.rmdir(&root, parent, "dir".into()).wait().await,
                vfs.link(&root, file, parent, name()).wait().await.map(drop),
                vfs.setattr(
                    &root,
                    parent,
                    &SetAttr {
                        mode: Some(0o777),
                        ..SetAttr::default()
                    },
                )
                .wait()
                .await
                .map(drop),
                vfs.setxattr(&root, parent, "user.a".into(), b"b", 0)
                    .wait()
                    .await,
                vfs.removexattr(&root, parent, "user.a".into()).wait().await,
            ];
            for (at, refused) in refused.into_iter().enumerate() {
                assert_eq!(refused, Err(Errno::EROFS), "{at} in {parent:?}");
            }
        }
        let rename = |parent, name: &'static str, new_parent, new_name: &'static str| {
            vfs.rename(
                &root,
                &Rename {
                    parent,
                    name: name.into(),
                    new_parent,
                    new_name: new_name.into(),
                    flags: RenameFlags::Replace,
                },
            )
            .wait()
        };
        assert_eq!(
            rename(top, "large", Ino::ROOT, "x").await,
            Err(Errno::EROFS)
        );
        assert_eq!(
            rename(Ino::ROOT, "large", top, "x").await,
            Err(Errno::EROFS)
        );
        let linked = vfs.link(&root, file, Ino::ROOT, "x".into()).wait().await;
        assert_eq!(linked.map(drop), Err(Errno::EROFS));
        for flags in [RW, OpenFlags(libc::O_WRONLY), OpenFlags(libc::O_TRUNC)] {
            let opened = vfs.open(&root, file, flags).wait().await;
            assert_eq!(opened.map(drop), Err(Errno::EROFS));
        }
        vfs.open(&root, file, RD).wait().await.unwrap();
        let write = Write {
            offset: 0,
            bytes: b"x",
            flags: RW,
            is_from_cache: false,
            kill_suidgid: false,
        };
        let written = vfs.write(&root, file, Fh(0), &write).wait().await;
        assert_eq!(written.map(drop), Err(Errno::EROFS));
        let taken = vfs.fallocate(&root, file, Fh(0), 0, 10, AllocMode::Allocate);
        assert_eq!(taken.wait().await, Err(Errno::EROFS));
        // Copies out of it share what is there.
        let copied = hand.open("copy").await.unwrap();
        let copy = CopyRange {
            from: (file, Fh(0)),
            from_offset: 0,
            to: (copied, Fh(0)),
            to_offset: 0,
            len: 300_000,
        };
        assert_eq!(vfs.copy_file_range(&root, &copy).wait().await, Ok(300_000));
        hand.close(copied).await.unwrap();
        vfs.release(file, Fh(0), RD).wait().await.unwrap();
        assert!(hand.read("copy").await.unwrap() == before["/large"].content);
        let back = CopyRange {
            from: (copied, Fh(0)),
            to: (file, Fh(0)),
            ..copy
        };
        let refused = vfs.copy_file_range(&root, &back).wait().await;
        assert_eq!(refused, Err(Errno::EROFS));
        same(&before, &past(vfs, &made).await, "afterwards");
    });
}

#[test]
fn the_name_is_taken_unless_somebody_has_it() {
    block_on(async {
        let twin = Twin::new(6, 74).await;
        let vfs = twin.vfs();
        let root = Caller::ROOT;
        let hand = Hand(vfs);
        let made = vfs.mkdir(&root, Ino::ROOT, DIRECTORY.into(), &NODE).wait();
        assert_eq!(made.await.map(drop), Err(Errno::EEXIST));
        let made = vfs.create(&root, Ino::ROOT, DIRECTORY.into(), &NODE, RW);
        assert_eq!(made.wait().await.map(drop), Err(Errno::EEXIST));
        hand.mkdir("dir").await.unwrap();
        assert_eq!(hand.rename("dir", DIRECTORY).await, Err(Errno::EEXIST));
        assert_eq!(hand.rename(DIRECTORY, "x").await, Err(Errno::EROFS));
        assert_eq!(hand.rmdir(DIRECTORY).await, Err(Errno::EROFS));
        // Elsewhere it is a name as any other.
        hand.mkdir("dir/.snapshots").await.unwrap();
        hand.mkdir("dir/.snapshots/own").await.unwrap();
        assert_eq!(hand.names("dir/.snapshots").await, ["own"]);
        assert!(hand.names(DIRECTORY).await.is_empty());
        assert_eq!(
            hand.find(&format!("{DIRECTORY}/nothing")).await,
            Err(Errno::ENOENT)
        );
    });
}

#[test]
fn a_large_tree_is_looked_into_page_by_page() {
    block_on(async {
        let mut twin = Twin::new(6, 75).await;
        let hand = Hand(twin.vfs());
        for dir in 0..20 {
            hand.mkdir(&format!("d{dir}")).await.unwrap();
            for file in 0..150 {
                let path = format!("d{dir}/file {file}");
                hand.replace(&path, path.as_bytes()).await.unwrap();
            }
        }
        let before = live(twin.vfs()).await;
        let made = twin.vfs().make_snapshot("").await.unwrap();
        for dir in 0..20 {
            for file in 0..150 {
                let path = format!("d{dir}/file {file}");
                Hand(twin.vfs()).unlink(&path).await.unwrap();
            }
        }
        twin.reopen().await;
        let begun = std::time::Instant::now();
        let top = format!("{DIRECTORY}/{}", made.name);
        let names = Hand(twin.vfs()).names(&top).await;
        println!("{} names in {:?}", names.len(), begun.elapsed());
        assert_eq!(names.len(), 20);
        let begun = std::time::Instant::now();
        same(&before, &past(twin.vfs(), &made).await, "afterwards");
        println!("{} files in {:?}", before.len(), begun.elapsed());
        assert_eq!(tree(twin.vfs(), Ino::ROOT).await.len(), 21);
    });
}

/// Two who list one directory of a snapshot at a time, of which more is fetched meanwhile: each goes on where it was,
/// also later.
#[test]
fn listings_at_a_time_do_not_confuse_one_another() {
    block_on(async {
        let twin = Twin::new(6, 89).await;
        let (vfs, hand) = (twin.vfs(), Hand(twin.vfs()));
        for number in 0..700 {
            hand.write(&format!("f{number:03}"), 0, b"").await.unwrap();
        }
        let made = vfs.make_snapshot("").await.unwrap();
        let fs: &dyn Fs = vfs;
        let dir = fs.lookup(Ino::ROOT, DIRECTORY.as_bytes()).await.unwrap();
        let top = fs.lookup(dir.unwrap(), made.name.as_bytes()).await;
        let top = top.unwrap().unwrap();
        let list = async |offset: u64, room: usize| {
            let batch = DirBatch::new(room, false);
            let batch = fs.raw().readdir(top, offset, batch).wait().await.unwrap();
            let items = batch.items();
            let items = items.map(|item| (item.name.to_vec(), item.next_offset));
            items.collect::<Vec<(Vec<u8>, u64)>>()
        };
        let (one, two) = tokio::join!(list(0, 20_000), list(0, 20_000));
        assert!(one.len() > 500 && one.len() == two.len(), "{}", one.len());
        // Until it is known only after which name each began.
        for _ in 0..8 {
            list(0, 2000).await;
        }
        for (at, (name, offset)) in one.iter().chain(&two).enumerate() {
            let Some(next) = one.get(at % one.len() + 1) else {
                continue;
            };
            if at % 50 == 0 && !matches!(name.as_slice(), b"." | b"..") {
                let rest = list(*offset, 200).await;
                assert_eq!(rest.first().map(|item| &item.0), Some(&next.0));
            }
        }
    });
}
