//! One peer that says it has what it does not give: others wait for it no longer than for one that has nothing.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, EcProfile, IndexSet, OwnerId, PeerId};
use cairnfs::blocks::{GetError, UploadOptions};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::memory::MemoryPeer;
use cairnfs::net::{Request, Response};
use cairnfs::testkit::{Cluster, ClusterOptions};
use tokio::time::Instant;

use crate::simulate;

const PROFILE: EcProfile = EcProfile::DEFAULT;
const HONEST: usize = 5;
const CONTENT: &[u8] = b"five peers have some of it, and one says that it has all";

/// What it answers to those who fetch.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// That it has all shards, though not the one asked for.
    HasAll,
    /// The one shard that it was given, whatever was asked, and that it has all others.
    Same,
}

/// Takes every shard, and answers as the lie is.
fn join(cluster: &Cluster, lie: Lie) {
    let member = MemoryPeer::new(PeerId(cluster.entropy.array()), 64 << 20);
    let (net, mut inbound) = cluster.hub.join(member);
    let all = IndexSet::first(PROFILE.total_shards());
    tokio::spawn(async move {
        let _net = net;
        let mut given = None;
        while let Some(asked) = inbound.recv().await {
            let answer = match asked.request {
                Request::Store {
                    index,
                    header,
                    data,
                    ..
                } => {
                    given = Some(Response::Shard {
                        index,
                        held: all,
                        header,
                        data,
                    });
                    Response::Stored
                }
                Request::Claim { blocks, .. } => Response::Held {
                    held: vec![IndexSet::EMPTY; blocks.len()],
                },
                Request::Have { blocks } => Response::Held {
                    held: vec![all; blocks.len()],
                },
                Request::CloseClaim { .. } => Response::Done,
                Request::Fetch { .. } => match (&given, lie) {
                    (Some(given), Lie::Same) => given.clone(),
                    _ => Response::Missing { held: all },
                },
                _ => Response::Unsupported,
            };
            let _ = asked.reply.send(answer);
        }
    });
}

async fn put(cluster: &Cluster) -> BlockRef {
    let options = UploadOptions {
        profile: PROFILE,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OwnerId([1; 16]),
    };
    let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
    let reference = upload.submit(Bytes::from_static(CONTENT)).await.unwrap();
    let reference = reference.await.unwrap();
    let report = upload.finish(Vec::new()).await.unwrap();
    assert_eq!(report.peers, 6, "the liar holds a shard as well");
    reference
}

/// What a read gives while some peers are away, and how long that takes.
fn read(lie: Lie, away: usize) -> (Result<Bytes, GetError>, Duration) {
    simulate(async {
        let options = ClusterOptions {
            peers: HONEST,
            memory_bytes: 0,
            ..ClusterOptions::default()
        };
        let mut cluster = Cluster::start(options, 11).await.unwrap();
        join(&cluster, lie);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let reference = put(&cluster).await;
        for at in (HONEST - away)..HONEST {
            cluster.crash(at);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let begun = Instant::now();
        let read = cluster
            .blocks(0)
            .unwrap()
            .read_block(&reference, PROFILE)
            .await;
        (read, begun.elapsed())
    })
}

#[test]
fn a_liar_that_promises_shards_for_ever_does_not_hold_up_reads() {
    for (lie, away) in [(Lie::HasAll, 1), (Lie::Same, 2)] {
        let (read, took) = read(lie, away);
        assert_eq!(read.unwrap(), CONTENT, "{lie:?}");
        assert!(took < Duration::from_secs(5), "{lie:?}: {took:?}");
    }
}

#[test]
fn where_only_a_liar_is_left_to_ask_a_read_ends() {
    for (lie, away, here) in [(Lie::HasAll, 2, 3), (Lie::Same, 3, 3)] {
        let (read, took) = read(lie, away);
        let Err(GetError::NotEnough { have, need, .. }) = read else {
            panic!("{lie:?}: {read:?}");
        };
        assert_eq!((have, need), (here, 4), "{lie:?}");
        assert!(took < Duration::from_secs(60), "{lie:?}: {took:?}");
    }
}
