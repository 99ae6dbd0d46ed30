//! Peers that answer late: how long others wait for them, in simulated time.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, EcProfile, Limits, OwnerId};
use cairnfs::blocks::{UploadOptions, UploadReport};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::testkit::{Cluster, ClusterOptions};
use tokio::time::Instant;

use crate::simulate;

const LATE: Duration = Duration::from_secs(10);

async fn cluster(peers: usize, seed: u64) -> Cluster {
    let options = ClusterOptions {
        peers,
        limits: Limits::default(),
        memory_bytes: 0,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster
}

/// Puts so many blocks at peer 0.
async fn put(
    cluster: &Cluster,
    count: usize,
    len: usize,
) -> (Vec<(BlockRef, Bytes)>, UploadReport) {
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OwnerId([1; 16]),
    };
    let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
    let mut put = Vec::new();
    for _ in 0..count {
        let mut content = vec![0; len];
        cluster.entropy.fill(&mut content);
        let content = Bytes::from(content);
        let reference = upload.submit(content.clone()).await.unwrap();
        put.push((reference.await.unwrap(), content));
    }
    (put, upload.finish(Vec::new()).await.unwrap())
}

fn slow(cluster: &Cluster, at: usize) {
    cluster.hub.slow(cluster.id(at).unwrap(), LATE);
}

#[test]
fn a_slow_holder_holds_up_the_end_of_a_put_and_not_each_block() {
    simulate(async {
        let cluster = cluster(7, 30).await;
        slow(&cluster, 3);
        let begun = Instant::now();
        let (_, report) = put(&cluster, 96, 96 << 10).await;
        let took = begun.elapsed();
        assert_eq!(report.survives, 2);
        println!("96 blocks in {took:?}");
        // Waiting for it with each window of blocks would take a hundred seconds.
        assert!(took < 4 * LATE, "{took:?}");
    });
}

#[test]
fn slow_holders_do_not_hold_up_a_block() {
    simulate(async {
        let cluster = cluster(6, 31).await;
        let (blocks, _) = put(&cluster, 8, 256 << 10).await;
        for at in [4, 5] {
            slow(&cluster, at);
        }
        // Each of them learns by itself who is slow.
        for at in 0..4 {
            for (reference, content) in &blocks {
                let begun = Instant::now();
                let reader = cluster.blocks(at).unwrap();
                let read = reader.read_block(reference, EcProfile::DEFAULT).await;
                let took = begun.elapsed();
                assert!(read.unwrap() == *content);
                assert!(took < Duration::from_secs(3), "peer {at}: {took:?}");
            }
        }
    });
}
