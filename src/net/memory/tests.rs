//! Tests of `net::memory`.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::base::{BlockId, IndexSet};
use crate::net::command::{NetError, Reach};
use crate::net::message::{Request, Response};

fn id(tag: u8) -> PeerId {
    PeerId([tag; 32])
}

/// Answers every fetch with a shard of zeros.
fn serve(mut inbound: mpsc::Receiver<Inbound>) {
    tokio::spawn(async move {
        while let Some(asked) = inbound.recv().await {
            let _ = asked.reply.send(Response::Shard {
                index: 0,
                held: IndexSet::first(1),
                header: Bytes::new(),
                data: Bytes::from(vec![0; 64]),
            });
        }
    });
}

fn fetch() -> Request {
    Request::Fetch {
        block: BlockId([1; 32]),
        wanted: IndexSet::first(6),
    }
}

struct Cluster {
    hub: MemoryHub,
    handles: Vec<NetHandle>,
}

fn cluster(peers: u8, options: MemoryOptions, seed: u64) -> Cluster {
    let hub = MemoryHub::new(options, Entropy::seeded(seed), Clock::simulated(1_000_000));
    let handles = (0..peers).map(|tag| {
        let (handle, inbound) = hub.join(MemoryPeer::new(id(tag), 1 << 30));
        serve(inbound);
        handle
    });
    Cluster {
        handles: handles.collect(),
        hub,
    }
}

const SECOND: Duration = Duration::from_secs(1);

async fn settle() {
    tokio::time::sleep(SECOND * 2).await;
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_and_members_seen() {
    let net = cluster(3, MemoryOptions::default(), 1);
    settle().await;
    let members = net.handles[0].members();
    assert_eq!(members.list.len(), 3);
    assert!(members.complete && members.list.iter().all(|member| member.state.is_live()));
    let answer = net.handles[0].request(id(1), fetch(), SECOND).await;
    assert!(matches!(answer, Ok(Response::Shard { .. })));
}

#[tokio::test(start_paused = true)]
async fn crashed_split_and_paused_peers_do_not_answer() {
    let net = cluster(3, MemoryOptions::default(), 1);
    net.hub.crash(id(1));
    net.hub.partition(&[vec![id(2)]]);
    settle().await;
    let ask = |to| net.handles[0].request(to, fetch(), SECOND);
    assert_eq!(ask(id(1)).await, Err(NetError::Unreachable(id(1))));
    assert_eq!(ask(id(2)).await, Err(NetError::Timeout(id(2))));
    let members = net.handles[0].members();
    assert!(matches!(
        members.get(&id(1)).unwrap().state,
        Reach::Away { .. }
    ));
    net.hub.heal();
    net.hub.pause(id(2));
    let held = tokio::spawn({
        let handle = net.handles[0].clone();
        async move { handle.request(id(2), fetch(), SECOND * 60).await }
    });
    settle().await;
    assert!(!held.is_finished());
    net.hub.resume(id(2));
    assert!(held.await.unwrap().is_ok());
    assert_eq!(
        net.handles[1].request(id(0), fetch(), SECOND).await,
        Err(NetError::Closed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_restarts_is_used_again() {
    let net = cluster(2, MemoryOptions::default(), 1);
    net.hub.crash(id(1));
    let (_handle, inbound) = net.hub.join(MemoryPeer::new(id(1), 1));
    serve(inbound);
    settle().await;
    assert!(net.handles[0].request(id(1), fetch(), SECOND).await.is_ok());
    let members = net.handles[0].members();
    assert_eq!(members.get(&id(1)).unwrap().capacity_bytes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_corrupting_peer_damages_payloads() {
    let net = cluster(2, MemoryOptions::default(), 1);
    net.hub.corrupt(id(1), 1.0);
    let answer = net.handles[0].request(id(1), fetch(), SECOND).await;
    let Ok(Response::Shard { data, .. }) = answer else {
        panic!("no shard");
    };
    assert_eq!(data.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn short_lists_are_completed_by_look_ups() {
    let hub = MemoryHub::new(
        MemoryOptions::default(),
        Entropy::seeded(1),
        Clock::simulated(0),
    );
    let join = |tag| {
        hub.join(MemoryPeer {
            max_members: 16,
            ..MemoryPeer::new(id(tag), 1)
        })
    };
    let peers: Vec<_> = (0..60).map(join).collect();
    settle().await;
    let members = peers[0].0.members();
    assert!(members.list.len() == 16 && !members.complete);
    assert!(members.get(&id(0)).is_some());
    let looked = peers[0].0.closest(b"group".to_vec(), 40).await.unwrap();
    assert_eq!(looked.found.len(), 40);
    let again = peers[33].0.closest(b"group".to_vec(), 40).await.unwrap();
    let ids = |lookup: &crate::net::Lookup| -> Vec<PeerId> {
        lookup.found.iter().map(|member| member.peer).collect()
    };
    assert_eq!(ids(&looked), ids(&again));
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_trace() {
    async fn run(seed: u64) -> Trace {
        let options = MemoryOptions {
            faults: LinkFaults {
                delay: Duration::from_millis(5),
                jitter: Duration::from_millis(20),
                loss: 0.2,
            },
            keep_trace: true,
            ..MemoryOptions::default()
        };
        let net = cluster(5, options, seed);
        net.hub.corrupt(id(3), 0.5);
        let mut tasks = Vec::new();
        for round in 0..40u8 {
            let handle = net.handles[usize::from(round % 5)].clone();
            let to = id((round + 1) % 5);
            tasks.push(tokio::spawn(async move {
                let _ = handle.request(to, fetch(), SECOND).await;
            }));
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        net.hub.crash(id(4));
        for task in tasks {
            task.await.unwrap();
        }
        net.hub.trace()
    }
    let (first, second, other) = (run(7).await, run(7).await, run(8).await);
    assert_eq!(first.lines(), second.lines());
    assert_eq!(first.digest(), second.digest());
    assert_ne!(first.digest(), other.digest());
}
