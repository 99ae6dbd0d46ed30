//! What a sync waits for.

use std::time::Duration;

use cairnfs_fuse::{FileSystem, Ino};

use super::files::{block_on, close, content, make, write};
use super::twin::Twin;

/// Longer than any sync of so little takes, and than a file is left alone before it is sealed.
const LONG: Duration = Duration::from_secs(30);

/// Writes to all files, again and again: at the end, in the middle, and to one that stays in its row.
async fn write_on(twin: &Twin, files: [Ino; 3]) {
    for round in 1.. {
        let bytes = [round as u8; 3000];
        write(twin, files[0], 3000 * round, &bytes).await;
        write(twin, files[1], 500, &bytes).await;
        write(twin, files[2], 0, &round.to_le_bytes()).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// The same files under steady writes before, during and after the sync: it ends, and what was written before
/// is described.
async fn under_writes(peers: usize) {
    let mut twin = Twin::new(peers, 3).await;
    let names = ["longer", "middle", "small"];
    let mut files = [Ino::ROOT; 3];
    for (file, name) in files.iter_mut().zip(names) {
        *file = make(&twin, name, b"first").await;
    }
    let old = make(&twin, "old", &[7; 200_000]).await;
    close(&twin, old).await;
    let sync = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for _ in 0..3 {
            let synced = tokio::time::timeout(LONG, twin.vfs().sync()).await;
            synced.expect("a sync that waits for later writes").unwrap();
        }
    };
    tokio::select! {
        biased;
        () = write_on(&twin, files) => {}
        () = sync => {}
    }
    let usage = twin.vfs().usage();
    assert!(usage.stored_bytes >= 200_000 + 2 * 3000, "{usage:?}");
    twin.crash().await;
    assert!(content(&twin, "old").await == [7; 200_000]);
    assert!(content(&twin, "longer").await.len() >= 6 * 3000);
    assert!(content(&twin, "middle").await.len() == 3500);
    assert!(content(&twin, "small").await.len() == 8);
}

#[test]
fn a_sync_does_not_wait_for_what_is_written_after_it_began() {
    for peers in [1, 6] {
        block_on(under_writes(peers));
    }
}

/// A sync covers sizes as well, of files that are cut and made longer all the time.
#[test]
fn a_sync_describes_sizes_that_were_set_before() {
    block_on(async {
        let twin = Twin::new(1, 4).await;
        let ino = make(&twin, "cut", &[1; 100_000]).await;
        twin.vfs().sync().await.unwrap();
        let resize = async {
            for round in 0u64.. {
                let change = cairnfs_fuse::SetAttr {
                    size: Some(90_000 - round % 1000),
                    ..Default::default()
                };
                let caller = &cairnfs_fuse::Caller::ROOT;
                let cut = twin.vfs().setattr(caller, ino, &change).wait().await;
                cut.unwrap();
                write(&twin, ino, 0, &round.to_le_bytes()).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let sync = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let synced = tokio::time::timeout(LONG, twin.vfs().sync()).await;
            synced
                .expect("a sync that waits for later changes")
                .unwrap();
        };
        tokio::select! {
            biased;
            () = resize => {}
            () = sync => {}
        }
        // The blocks that the file had before are counted for what it has left of them.
        let stored = twin.vfs().usage().stored_bytes;
        assert!(stored < 100_000, "{stored} bytes are described");
    });
}
