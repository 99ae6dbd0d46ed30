//! Changes that the disk does not give back any more.

use std::time::Duration;

use cairnfs::store::Disk;
use cairnfs::vfs::VfsError;
use cairnfs_fuse::Errno;

use super::files::{block_on, bytes, close, content, make};
use super::twin::Twin;
use crate::common::hand::Hand;

/// Damages these bytes wherever the volume keeps them.
fn damage(twin: &Twin, bytes: &[u8]) -> usize {
    let disk = twin.cluster.disk(0).unwrap();
    let mut found = 0;
    for entry in disk.walk(&|_| false).unwrap() {
        if entry.is_dir || !entry.name.starts_with("volumes/") {
            continue;
        }
        let file = disk.open(&entry.name).unwrap();
        let all = file.read_vec(0, entry.len as usize).unwrap();
        let places = all.windows(bytes.len()).enumerate();
        for (at, _) in places.filter(|(_, part)| *part == bytes) {
            assert!(disk.flip_bit(&entry.name, at as u64 + 5, 1));
            found += 1;
        }
    }
    found
}

#[test]
fn a_piece_that_cannot_be_read_does_not_hold_up_what_is_packed_with_it() {
    block_on(async {
        let mut twin = Twin::new(1, 41).await;
        let entropy = cairnfs::base::Entropy::seeded(41);
        let names = ["before", "lost", "behind"];
        let mut contents = Vec::new();
        for name in names {
            let data = bytes(&entropy, 3000);
            let ino = make(&twin, name, &data).await;
            Hand(twin.vfs()).fsync(name).await.unwrap();
            close(&twin, ino).await;
            contents.push(data);
        }
        // What was changed is in the journal alone.
        twin.crash().await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
        assert!(damage(&twin, &contents[1][..64]) > 0);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 6000);
        // Whoever waits for all of it hears of it, and in time.
        let synced = tokio::time::timeout(Duration::from_secs(30), twin.vfs().sync()).await;
        let is_told = matches!(synced.unwrap(), Err(VfsError::Unsynced(Errno::EIO)));
        assert!(is_told);
        for is_reopened in [false, true] {
            if is_reopened {
                twin.crash().await;
            }
            assert!(content(&twin, "before").await == contents[0]);
            assert!(content(&twin, "behind").await == contents[2]);
        }
    });
}
