//! A quota that was lowered below what is used: nothing new is taken, and everything can be read, removed and given back.

use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs::testkit::ClusterOptions;
use cairnfs_fuse::{Caller, FileSystem, Ino};

use super::files::{NODE, block_on, bytes, close, content, make, remove, used};
use super::twin::{RW, Twin};

const QUOTA: u64 = 96 << 20;
const LOWERED: u64 = 32 << 20;
const FILES: usize = 40;

#[test]
fn above_its_quota_a_peer_opens_its_volumes_and_frees_what_is_removed() {
    block_on(async {
        let options = ClusterOptions {
            peers: 1,
            quota_bytes: QUOTA,
            ..ClusterOptions::default()
        };
        let mut twin = Twin::with(options, "4+2", 31).await;
        let entropy = Entropy::seeded(31);
        let data = bytes(&entropy, 1_000_000);
        for number in 0..FILES {
            // No two are the same.
            let mut own = data.clone();
            own[..8].copy_from_slice(&(number as u64).to_be_bytes());
            for piece in own.chunks_mut(5000) {
                piece[0] = number as u8;
            }
            let ino = make(&twin, &format!("f{number}"), &own).await;
            close(&twin, ino).await;
            twin.vfs().sync().await.unwrap();
        }
        let full = used(&twin);
        assert!(full > LOWERED + (4 << 20), "{full}");
        let store = twin.cluster.blocks(0).unwrap().store().clone();
        store.set_quota(LOWERED).unwrap();
        assert_eq!(store.usage().intake_left, 0);
        let made = twin
            .vfs()
            .create(&Caller::ROOT, Ino::ROOT, "new".into(), &NODE, RW);
        assert!(made.wait().await.is_err(), "it takes nothing new");
        twin.reopen().await;
        assert_eq!(content(&twin, "f3").await.len(), data.len());
        for number in 0..FILES / 2 {
            remove(&twin, &format!("f{number}")).await;
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        twin.reopen().await;
        for number in FILES / 2..FILES {
            remove(&twin, &format!("f{number}")).await;
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(twin.vfs().usage().stored_bytes, 0);
        assert_eq!(store.usage().shards, 0, "its shards are let go");
    });
}
