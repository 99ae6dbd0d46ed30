//! For whom something is kept goes with it, and is told to everybody who has it when it is kept no longer.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, OwnerId, PeerId};
use cairnfs::blocks::Blocks;
use cairnfs::testkit::Cluster;

use super::{DEAD, MINUTE, Put, held, options, shards, simulate, start, sum, wait_whole};

const OWNER: OwnerId = OwnerId([1; 16]);

/// Puts one block by an upload of its own: number of its claim, and who was told of it.
async fn put_one(blocks: &Blocks, content: &Bytes) -> (BlockRef, u64, Vec<PeerId>) {
    let upload = blocks.upload(options()).await.unwrap();
    let number = upload.claim().number;
    let pending = upload.submit(content.clone()).await.unwrap();
    let reference = pending.await.unwrap();
    let told = upload.finish(Vec::new()).await.unwrap().told;
    (reference, number, told)
}

fn number_of(cluster: &Cluster, peer: PeerId) -> usize {
    let found = (0..cluster.len()).find(|at| cluster.id(*at) == Some(peer));
    found.unwrap()
}

#[test]
fn who_gets_a_shard_later_keeps_it_for_everybody_however_many_there_are() {
    simulate(async {
        let mut cluster = start(8, 14).await;
        let blocks = cluster.blocks(0).unwrap().clone();
        let content = Bytes::from(vec![5; 9000]);
        let mut claims = Vec::new();
        let mut last = None;
        for _ in 0..40 {
            let (reference, number, told) = put_one(&blocks, &content).await;
            last = Some(reference);
            claims.push((number, told));
        }
        let reference = last.unwrap();
        let puts = [Put { reference, content }];
        let before = held(&cluster, &puts).await.remove(0);
        let own = blocks.net().own();
        let gone = *before.keys().find(|peer| **peer != own).unwrap();
        cluster.crash(number_of(&cluster, gone));
        tokio::time::sleep(DEAD - 10 * MINUTE).await;
        wait_whole(&cluster, &puts, 60 * MINUTE).await;
        let made = sum(&cluster).0;
        assert_eq!(made, 1);
        // All but one let go, the oldest first: nothing is lost on the way, nothing is made anew.
        let (number, told) = claims.pop().unwrap();
        for (number, told) in claims {
            blocks.release(OWNER, number, told).await.unwrap();
        }
        let after = held(&cluster, &puts).await;
        assert_eq!(shards(&after[0]), (6, 6));
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(sum(&cluster).0, made);
        blocks.release(OWNER, number, told).await.unwrap();
        tokio::time::sleep(MINUTE).await;
        assert!(held(&cluster, &puts).await[0].is_empty());
    });
}

#[test]
fn who_got_a_shard_by_a_repair_and_is_away_hears_of_a_release() {
    simulate(async {
        let mut cluster = start(9, 15).await;
        let blocks = cluster.blocks(0).unwrap().clone();
        let content = Bytes::from(vec![6; 9000]);
        let (reference, number, told) = put_one(&blocks, &content).await;
        let puts = [Put { reference, content }];
        let own = blocks.net().own();
        let gone = *told.iter().find(|peer| **peer != own).unwrap();
        cluster.crash(number_of(&cluster, gone));
        tokio::time::sleep(DEAD - 10 * MINUTE).await;
        wait_whole(&cluster, &puts, 60 * MINUTE).await;
        let now = held(&cluster, &puts).await.remove(0);
        let later = *now.keys().find(|peer| !told.contains(peer)).unwrap();
        let later = number_of(&cluster, later);
        cluster.crash(later);
        tokio::time::sleep(MINUTE).await;
        blocks.release(OWNER, number, told).await.unwrap();
        // Longer than a close would be owed.
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        cluster.restart(later).await.unwrap();
        tokio::time::sleep(5 * MINUTE).await;
        assert!(held(&cluster, &puts).await[0].is_empty());
        let health = cluster.repair(1).unwrap().health();
        assert_eq!((health.tally.unreadable, health.tally.blocks), (0, 0));
    });
}
