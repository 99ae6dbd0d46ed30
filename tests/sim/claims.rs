//! What becomes of an upload's claim at a holder that hears little.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{EcProfile, OwnerId};
use cairnfs::blocks::UploadOptions;
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::memory::LinkFaults;
use cairnfs::testkit::{Cluster, ClusterOptions};

const OWNER: OwnerId = OwnerId([1; 16]);
/// The holder that hears little.
const DEAF: usize = 5;

fn link(cluster: &Cluster, delay: Duration, loss: f64) {
    let faults = LinkFaults {
        delay,
        loss,
        ..ClusterOptions::default().faults
    };
    let (a, b) = (cluster.id(0).unwrap(), cluster.id(DEAF).unwrap());
    cluster.hub.link(a, b, faults);
}

fn shards(cluster: &Cluster) -> u64 {
    cluster.blocks(DEAF).unwrap().store().usage().shards
}

/// A holder is told late that an upload is complete. While it answers, the upload is released, which it does not
/// hear; then the uploader loses power. It has to hear of the release all the same.
async fn released_while_it_is_closed(wait: Duration) {
    let mut cluster = Cluster::start(ClusterOptions::default(), 8).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = shards(&cluster);
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OWNER,
    };
    let (short, long) = (Duration::from_millis(1), Duration::from_secs(2));
    let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
    let number = upload.claim().number;
    let placed = upload.submit(Bytes::from_static(b"kept by six peers"));
    placed.await.unwrap().await.unwrap();
    link(&cluster, short, 1.0);
    upload.finish(Vec::new()).await.unwrap();
    assert_eq!(shards(&cluster), before + 1);
    link(&cluster, long, 0.0);
    tokio::time::sleep(wait).await;
    link(&cluster, long, 1.0);
    let everybody = (0..6).map(|at| cluster.id(at).unwrap()).collect();
    let blocks = cluster.blocks(0).unwrap().clone();
    let release = tokio::spawn(async move { blocks.release(OWNER, number, everybody).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    release.abort();
    cluster.crash(0);
    link(&cluster, short, 0.0);
    cluster.restart(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(shards(&cluster), before, "released after {wait:?}");
}

#[test]
fn a_release_is_not_forgotten_that_comes_while_a_close_is_told() {
    // Somewhere among these moments the settler is at it.
    for wait in (0..24).map(|step| Duration::from_millis(500 * step)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(released_while_it_is_closed(wait));
    }
}
