//! What looking after everything costs while nothing happens: it must not depend on how much is held.

use std::time::Duration;

use cairnfs::base::{ClaimId, EcProfile, OwnerId};
use cairnfs::erasure::encode_stripe;
use cairnfs::testkit::{Cluster, ClusterOptions, UpkeepTimes};
use futures::future::join_all;

const PEERS: usize = 9;
const MINUTE: Duration = Duration::from_secs(60);
const TIMES: UpkeepTimes = UpkeepTimes {
    suspect: Duration::from_secs(10 * 60),
    dead: Duration::from_secs(12 * 3600),
    // What it costs to read everything now and then is another matter.
    scrub: Duration::from_secs(10 * 365 * 24 * 3600),
    rate: 16 << 20,
    audit: Duration::from_secs(3600),
};

/// An hour of one peer.
#[derive(Debug, Clone, Copy)]
struct Hour {
    messages: f64,
    bytes: f64,
    /// Of one processor.
    cpu: Duration,
}

/// Time of the processor that this thread has had.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = stat.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

/// Puts so many stripes where they belong, past the network: of the smallest shards that there are.
async fn fill(cluster: &Cluster, stripes: u64) {
    let claim = |at: usize| ClaimId {
        owner: OwnerId([1; 16]),
        writer: cluster.id(at).unwrap(),
        number: 1,
    };
    let ids: Vec<_> = (0..PEERS).map(|at| cluster.id(at).unwrap()).collect();
    let first = cluster.blocks(0).unwrap();
    let expires_ms = cluster.clock().now_ms() + 3_600_000;
    for from in (0..stripes).step_by(512) {
        let mut puts = Vec::new();
        for number in from..stripes.min(from + 512) {
            let stripe = encode_stripe(number.to_le_bytes().to_vec(), EcProfile::DEFAULT).unwrap();
            let ranked = first.group_peers(stripe.id.group()).await;
            for (shard, peer) in stripe.shards.into_iter().zip(ranked) {
                let at = ids.iter().position(|id| *id == peer.peer).unwrap();
                let store = cluster.blocks(at).unwrap().store();
                puts.push(store.put(shard, claim(0), expires_ms));
            }
        }
        for done in join_all(puts).await {
            done.unwrap();
        }
    }
    for at in 0..PEERS {
        let store = cluster.blocks(at).unwrap().store();
        store.close_claim(claim(0)).await.unwrap();
    }
}

async fn measure(stripes: u64) -> Hour {
    let options = ClusterOptions {
        peers: PEERS,
        quota_bytes: (64 << 20) + stripes * 8192,
        upkeep: Some(TIMES),
        tended: true,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, 61).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    fill(&cluster, stripes).await;
    // Everybody looks at everything once.
    tokio::time::sleep(30 * MINUTE).await;
    let health = cluster.repair(0).unwrap().health();
    assert!(health.tally.is_whole(), "{}", health.line());
    assert_eq!(
        (health.tally.blocks, health.tally.least()),
        (stripes, Some(2))
    );
    let (trace, begun) = (cluster.hub.trace(), cpu());
    tokio::time::sleep(60 * MINUTE).await;
    let (after, took) = (cluster.hub.trace(), cpu() - begun);
    let each = |count: u64| count as f64 / PEERS as f64;
    Hour {
        // A question is noted when it leaves and when it arrives, an answer once.
        messages: each(after.count() - trace.count()) * 2.0 / 3.0,
        bytes: each(after.upkeep_bytes() - trace.upkeep_bytes()),
        cpu: took / PEERS as u32,
    }
}

/// By hand with more: `tests/long rest`.
#[test]
fn at_rest_no_more_is_said_or_computed_for_a_thousand_times_the_stripes() {
    let most = (1000.0 * super::scale()) as u64;
    let sizes = (2..).map(|power| 10u64.pow(power));
    println!(
        "| stripes | messages per peer and hour | bytes per peer and hour | CPU per peer and hour |\n|---|---|---|---|"
    );
    let mut all = Vec::new();
    for stripes in sizes.take_while(|stripes| *stripes <= most.max(1000)) {
        let hour = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(measure(stripes));
        println!(
            "| {stripes} | {:.0} | {:.0} | {:?} |",
            hour.messages, hour.bytes, hour.cpu
        );
        all.push(hour);
    }
    let (least, most) = (all[0], all[all.len() - 1]);
    assert_eq!(least.messages, most.messages);
    // Numbers of more digits.
    assert!(most.bytes < least.bytes * 1.2, "{least:?} {most:?}");
}
