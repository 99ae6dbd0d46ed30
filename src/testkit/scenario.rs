//! A random life of a cluster, from a seed: puts, crashes, partitions, slow and corrupting peers.
//! The oracle knows every acknowledged put.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, ClusterOptions, StartError};
use crate::base::{BlockRef, EcProfile, OwnerId};
use crate::blocks::{PutError, UploadOptions};
use crate::crypto::ConvergenceSecret;
use crate::net::memory::LinkFaults;

/// Steps of one life.
const STEPS: usize = 40;
/// Most peers that are down at once.
const DOWN_MAX: usize = 4;

/// How a life went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of every network event, in order.
    pub trace: [u8; 32],
    /// Puts that were acknowledged.
    pub acknowledged: usize,
    /// Puts that were refused.
    pub refused: usize,
    /// Acknowledged blocks that could not be read afterwards, and why.
    pub lost: Vec<String>,
}

struct Put {
    reference: BlockRef,
    content: Bytes,
}

/// Lives through one seed. Runs in a thread and a runtime of its own.
pub fn run_seed(seed: u64, peers: usize) -> Result<Outcome, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(live(seed, peers)),
        Err(error) => panic!("no runtime: {error}"),
    }
}

async fn live(seed: u64, peers: usize) -> Result<Outcome, StartError> {
    let options = ClusterOptions {
        peers,
        faults: LinkFaults {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(10),
            loss: 0.01,
        },
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options, seed).await?;
    // Everybody hears of everybody before the trouble begins.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut puts = Vec::new();
    let mut refused = 0;
    let mut down: Vec<usize> = Vec::new();
    for _ in 0..STEPS {
        let entropy = cluster.entropy.clone();
        let at = entropy.below(peers as u64) as usize;
        match entropy.below(20) {
            0..11 => match put(&cluster, at).await {
                Some(Ok(put)) => puts.push(put),
                Some(Err(_)) => refused += 1,
                None => {}
            },
            11..13 if down.len() < DOWN_MAX => {
                cluster.crash(at);
                if !down.contains(&at) {
                    down.push(at);
                }
            }
            13 if !down.is_empty() => {
                let back = down.swap_remove(entropy.below(down.len() as u64) as usize);
                cluster.restart(back).await?;
            }
            14 => partition(&cluster),
            15 => cluster.hub.heal(),
            16 => with(&cluster, at, |id| {
                let by = Duration::from_millis(entropy.below(2000));
                cluster.hub.slow(id, by);
            }),
            17 => with(&cluster, at, |id| cluster.hub.corrupt(id, 0.3)),
            18 => with(&cluster, at, |id| cluster.hub.pause(id)),
            _ => {
                for at in 0..peers {
                    with(&cluster, at, |id| cluster.hub.resume(id));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(entropy.below(3000))).await;
    }
    // Quiet times: everybody back, no more faults than the links always have.
    cluster.hub.heal();
    for at in 0..peers {
        cluster.restart(at).await?;
        with(&cluster, at, |id| {
            cluster.hub.resume(id);
            cluster.hub.slow(id, Duration::ZERO);
            cluster.hub.corrupt(id, 0.0);
        });
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut lost = Vec::new();
    for put in &puts {
        let at = cluster.entropy.below(peers as u64) as usize;
        let Some(blocks) = cluster.blocks(at) else {
            continue;
        };
        match blocks.read_block(&put.reference, EcProfile::DEFAULT).await {
            Ok(bytes) if bytes == put.content => {}
            Ok(_) => lost.push(format!("wrong bytes of {}", put.reference.id)),
            Err(error) => lost.push(error.to_string()),
        }
    }
    Ok(Outcome {
        trace: cluster.hub.trace().digest(),
        acknowledged: puts.len(),
        refused,
        lost,
    })
}

fn with(cluster: &Cluster, at: usize, act: impl FnOnce(crate::base::PeerId)) {
    if let Some(id) = cluster.id(at) {
        act(id);
    }
}

/// Cuts the network in two at a random place.
fn partition(cluster: &Cluster) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for at in 0..cluster.len() {
        if let Some(id) = cluster.id(at) {
            let side = if cluster.entropy.below(4) == 0 {
                &mut left
            } else {
                &mut right
            };
            side.push(id);
        }
    }
    cluster.hub.partition(&[left, right]);
}

/// One upload of one small chunk at a peer; `None` if that peer is down.
async fn put(cluster: &Cluster, at: usize) -> Option<Result<Put, PutError>> {
    let blocks = cluster.blocks(at)?.clone();
    let len = 1 + cluster.entropy.below(12_000) as usize;
    let mut content = vec![0u8; len];
    cluster.entropy.fill(&mut content);
    let content = Bytes::from(content);
    let attempt = async {
        let upload = blocks
            .upload(UploadOptions {
                profile: EcProfile::DEFAULT,
                secret: ConvergenceSecret::from_bytes([7; 32]),
                survive: None,
                owner: OwnerId([1; 16]),
            })
            .await?;
        let pending = upload.submit(content.clone()).await?;
        let reference = pending.await?;
        upload.finish(Vec::new()).await?;
        Ok(Put { reference, content })
    };
    Some(attempt.await)
}
