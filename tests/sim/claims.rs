//! What becomes of an upload's claim at a holder that hears little.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::worker::Worker;
use cairnfs::base::{EcProfile, OwnerId};
use cairnfs::blocks::{ClaimSettler, PutError, Upload, UploadOptions, UploadReport};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::fault::Fault;
use cairnfs::net::memory::LinkFaults;
use cairnfs::testkit::{Cluster, ClusterOptions, PeerSetup};

use crate::simulate;

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
        simulate(released_while_it_is_closed(wait));
    }
}

/// A cluster, and an upload whose shards are at six peers and whose claim is open there.
async fn placed(seed: u64) -> (Cluster, Upload) {
    let cluster = Cluster::start(ClusterOptions::default(), seed)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OWNER,
    };
    let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
    let chunk = upload.submit(Bytes::from_static(b"kept by six peers"));
    chunk.await.unwrap().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(all_shards(&cluster), 6);
    (cluster, upload)
}

fn all_shards(cluster: &Cluster) -> u64 {
    let stores = (0..cluster.len()).filter_map(|at| cluster.blocks(at));
    stores.map(|blocks| blocks.store().usage().shards).sum()
}

/// What the first peer owes others.
async fn owed(cluster: &Cluster) -> String {
    let mut settler = ClaimSettler::new(cluster.blocks(0).unwrap().clone());
    settler.step().await;
    settler.step().await;
    // What was owed when this began is counted.
    settler.status()
}

const NOTHING: &str = "0 uploads owe a close or a release";

fn cut(cluster: &Cluster, others: std::ops::Range<usize>, loss: f64) {
    for other in others {
        let faults = LinkFaults {
            loss,
            ..ClusterOptions::default().faults
        };
        let (a, b) = (cluster.id(0).unwrap(), cluster.id(other).unwrap());
        cluster.hub.link(a, b, faults);
    }
}

#[test]
fn a_put_of_which_too_few_promise_to_keep_it_is_no_success_though_nothing_was_demanded() {
    simulate(async {
        // Two may be lost, not three.
        for (deaf, is_kept) in [(2, true), (3, false), (5, false)] {
            let (cluster, upload) = placed(41).await;
            cut(&cluster, 1..1 + deaf, 1.0);
            match upload.finish(Vec::new()).await {
                Ok(report) => {
                    assert!(is_kept, "{deaf} holders did not hear of it");
                    assert_eq!(report.survives, 2 - deaf);
                }
                Err(PutError::Unconfirmed { lost, survives, .. }) => {
                    assert!(!is_kept);
                    assert_eq!((lost, survives), (deaf, None));
                }
                Err(error) => panic!("{error}"),
            }
            cut(&cluster, 1..1 + deaf, 0.0);
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(all_shards(&cluster), if is_kept { 6 } else { 0 });
            assert_eq!(owed(&cluster).await, NOTHING);
        }
    });
}

/// So many peers, of which one stores and does not promise to keep it.
async fn with_renegade(peers: usize, seed: u64) -> Cluster {
    let mut setups = vec![PeerSetup::default(); peers];
    setups[3].fault = Some(Fault::Renege);
    let options = ClusterOptions {
        peers,
        setups,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster
}

async fn put(
    cluster: &Cluster,
    content: u32,
    survive: Option<usize>,
) -> Result<UploadReport, PutError> {
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive,
        owner: OWNER,
    };
    let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
    let chunk = Bytes::copy_from_slice(&content.to_le_bytes());
    upload.submit(chunk).await.unwrap().await.unwrap();
    upload.finish(Vec::new()).await
}

#[test]
fn a_holder_that_is_there_and_does_not_promise_is_no_loss_to_be_survived() {
    simulate(async {
        // Six could promise two losses.
        let cluster = with_renegade(6, 47).await;
        for survive in [None, Some(2)] {
            let put = put(&cluster, 1, survive).await;
            let expected = PutError::Unconfirmed {
                lost: 1,
                survives: Some(1),
                demanded: 2,
            };
            assert_eq!(put.unwrap_err(), expected, "{survive:?}");
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(all_shards(&cluster), 0);
        }
        assert_eq!(put(&cluster, 1, Some(1)).await.unwrap().survives, 1);
    });
}

#[test]
fn a_holder_that_did_not_promise_is_done_without_where_others_are_enough() {
    simulate(async {
        let cluster = with_renegade(7, 48).await;
        let mut refused = 0;
        for content in 0..20 {
            let first = put(&cluster, content, None).await;
            if let Err(error) = first {
                assert!(matches!(error, PutError::Unconfirmed { .. }), "{error}");
                refused += 1;
                let again = put(&cluster, content, None).await.unwrap();
                assert_eq!((again.survives, again.peers), (2, 6));
            }
            // As long as nobody remembers it.
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        assert!(refused > 5, "only {refused} were refused");
    });
}

#[test]
fn claims_that_have_expired_are_not_closed() {
    simulate(async {
        let (_cluster, upload) = placed(42).await;
        let ttl = ClusterOptions::default().limits.claim_ttl;
        tokio::time::sleep(ttl + Duration::from_secs(3600)).await;
        let finished = upload.finish(Vec::new()).await;
        let Err(PutError::Unconfirmed { lost, .. }) = finished else {
            panic!("{finished:?}");
        };
        assert_eq!(lost, 6);
    });
}

#[test]
fn a_close_that_comes_too_late_is_owed_no_longer() {
    simulate(async {
        let (cluster, upload) = placed(43).await;
        cut(&cluster, 1..2, 1.0);
        assert_eq!(upload.finish(Vec::new()).await.unwrap().survives, 1);
        assert_ne!(owed(&cluster).await, NOTHING);
        let ttl = ClusterOptions::default().limits.claim_ttl;
        // Not so late that it would be forgotten anyway.
        tokio::time::sleep(ttl + Duration::from_secs(600)).await;
        cut(&cluster, 1..2, 0.0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(owed(&cluster).await, NOTHING);
    });
}

#[test]
fn what_nobody_hears_of_is_owed_for_a_while_only() {
    simulate(async {
        let (cluster, upload) = placed(44).await;
        cut(&cluster, 1..2, 1.0);
        upload.finish(Vec::new()).await.unwrap();
        let ttl = ClusterOptions::default().limits.claim_ttl;
        tokio::time::sleep(2 * ttl + Duration::from_secs(3600)).await;
        assert_eq!(owed(&cluster).await, NOTHING);
    });
}

#[test]
fn an_upload_that_a_crash_interrupted_is_released_everywhere() {
    simulate(async {
        let (mut cluster, upload) = placed(45).await;
        cluster.crash(0);
        drop(upload);
        cluster.restart(0).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(all_shards(&cluster), 0);
        assert_eq!(owed(&cluster).await, NOTHING);
    });
}

#[test]
fn an_upload_that_is_given_up_while_it_is_finished_is_released() {
    simulate(async {
        let (cluster, upload) = placed(46).await;
        // Something is on its way still, and will be for a while.
        cut(&cluster, 1..6, 1.0);
        let more = upload.submit(Bytes::from_static(b"and something else"));
        more.await.unwrap().await.unwrap();
        let finished = tokio::time::timeout(Duration::from_secs(1), upload.finish(Vec::new()));
        assert!(finished.await.is_err(), "it was not done so soon");
        cut(&cluster, 1..6, 0.0);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(all_shards(&cluster), 0);
        assert_eq!(owed(&cluster).await, NOTHING);
    });
}
