//! What ended while a holder was away: it hears of it from others, who can prove it, and from nobody who cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cairnfs::base::wire;
use cairnfs::base::{BlockId, BlockRef, ClaimId, EcProfile, Entropy, OwnerId, PeerId};
use cairnfs::blocks::{AdoptError, Blocks, UploadOptions};
use cairnfs::crypto::{ConvergenceSecret, Signature, SignedRelease, SigningKey};
use cairnfs::net::memory::MemoryPeer;
use cairnfs::net::{NetHandle, Refusal, Request, Response};
use cairnfs::repair::Tally;
use cairnfs::testkit::{Cluster, ClusterOptions, UpkeepTimes};
use serde::{Deserialize, Serialize};

use crate::simulate;

const OWNER: OwnerId = OwnerId([1; 16]);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const TIMES: UpkeepTimes = UpkeepTimes {
    suspect: Duration::from_secs(10 * 60),
    dead: Duration::from_secs(12 * 3600),
    scrub: Duration::from_secs(30 * 24 * 3600),
    rate: 16 << 20,
    audit: Duration::from_secs(3600),
};

async fn start(peers: usize, seed: u64) -> Cluster {
    let options = ClusterOptions {
        peers,
        upkeep: Some(TIMES),
        signs: true,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster
}

/// One block, put by an upload of its own.
#[derive(Clone)]
struct Put {
    reference: BlockRef,
    content: Bytes,
    number: u64,
    told: Vec<PeerId>,
}

async fn put(blocks: &Blocks, content: &Bytes) -> Put {
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OWNER,
    };
    let upload = blocks.upload(options).await.unwrap();
    let number = upload.claim().number;
    let pending = upload.submit(content.clone()).await.unwrap();
    let reference = pending.await.unwrap();
    let told = upload.finish(Vec::new()).await.unwrap().told;
    Put {
        reference,
        content: content.clone(),
        number,
        told,
    }
}

async fn put_many(cluster: &Cluster, at: usize, count: usize) -> Vec<Put> {
    let blocks = cluster.blocks(at).unwrap().clone();
    let mut puts = Vec::new();
    for _ in 0..count {
        let mut content = vec![0; 2000 + cluster.entropy.below(10_000) as usize];
        cluster.entropy.fill(&mut content);
        puts.push(put(&blocks, &content.into()).await);
    }
    puts
}

async fn release(blocks: &Blocks, put: &Put) {
    let released = blocks.release(OWNER, put.number, put.told.clone()).await;
    released.unwrap();
}

/// Shards of a block at those who run.
async fn shards(cluster: &Cluster, put: &Put) -> usize {
    let mut all = 0;
    for at in 0..cluster.len() {
        all += shards_at(cluster, at, put).await;
    }
    all
}

async fn shards_at(cluster: &Cluster, at: usize, put: &Put) -> usize {
    let Some(blocks) = cluster.blocks(at) else {
        return 0;
    };
    let held = blocks.store().held(&[put.reference.id]).await.unwrap();
    held[0].len()
}

async fn all_shards(cluster: &Cluster, puts: &[Put]) -> usize {
    let mut all = 0;
    for put in puts {
        all += shards(cluster, put).await;
    }
    all
}

async fn is_readable(cluster: &Cluster, at: usize, puts: &[Put]) {
    let blocks = cluster.blocks(at).unwrap();
    for put in puts {
        let read = blocks.read_block(&put.reference, EcProfile::DEFAULT).await;
        assert_eq!(read.unwrap(), put.content);
    }
}

#[test]
fn who_was_away_while_most_was_deleted_ends_with_what_is_live_though_the_writer_is_gone() {
    simulate(async {
        let mut cluster = start(8, 61).await;
        let puts = put_many(&cluster, 0, 50).await;
        tokio::time::sleep(5 * MINUTE).await;
        let (live, dead) = puts.split_at(10);
        cluster.crash(3);
        tokio::time::sleep(MINUTE).await;
        let writer = cluster.blocks(0).unwrap().clone();
        for put in dead {
            release(&writer, put).await;
        }
        assert_eq!(all_shards(&cluster, dead).await, 0);
        cluster.crash(0);
        drop(writer);
        // Long after whatever the writer owed.
        tokio::time::sleep(3 * DAY).await;
        cluster.restart(3).await.unwrap();
        let before = all_shards(&cluster, dead).await;
        assert!(before > 20, "{before} shards came back");
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(all_shards(&cluster, dead).await, 0, "of {before}");
        // What is live is whole, and nothing else was made anew.
        for put in live {
            assert_eq!(shards(&cluster, put).await, 6);
        }
        let usage = |at| cluster.blocks(at).unwrap().store().usage().shards;
        let kept: u64 = (1..8).map(usage).sum();
        assert_eq!(kept, 60);
        is_readable(&cluster, 1, live).await;
        let health = cluster.repair(1).unwrap().health();
        assert!(health.tally.is_whole(), "{}", health.line());
    });
}

#[test]
fn what_most_holders_did_not_hear_the_end_of_is_not_made_anew() {
    simulate(async {
        let mut cluster = start(6, 62).await;
        let puts = put_many(&cluster, 0, 12).await;
        tokio::time::sleep(5 * MINUTE).await;
        (2..6).for_each(|at| cluster.crash(at));
        tokio::time::sleep(MINUTE).await;
        let writer = cluster.blocks(0).unwrap().clone();
        for put in &puts {
            release(&writer, put).await;
        }
        cluster.crash(0);
        drop(writer);
        tokio::time::sleep(DAY).await;
        for at in 2..6 {
            cluster.restart(at).await.unwrap();
        }
        // Four of six: enough to make the others of.
        assert_eq!(all_shards(&cluster, &puts).await, 4 * puts.len());
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(all_shards(&cluster, &puts).await, 0);
        let made: u64 = (1..6)
            .map(|at| cluster.repair(at).unwrap().health().made)
            .sum();
        assert_eq!(made, 0);
    });
}

#[test]
fn what_somebody_else_put_as_well_stays_when_the_first_claim_ends_everywhere() {
    simulate(async {
        let mut cluster = start(8, 63).await;
        let first = put_many(&cluster, 0, 12).await;
        tokio::time::sleep(5 * MINUTE).await;
        cluster.crash(3);
        tokio::time::sleep(MINUTE).await;
        // Found at the others and kept by a claim more; then it is let go by who put it first.
        let (other, writer) = (
            cluster.blocks(1).unwrap(),
            cluster.blocks(0).unwrap().clone(),
        );
        let mut again = Vec::new();
        for put_first in &first {
            again.push(put(other, &put_first.content).await);
        }
        for put in &first {
            release(&writer, put).await;
        }
        cluster.crash(0);
        drop(writer);
        tokio::time::sleep(2 * DAY).await;
        cluster.restart(3).await.unwrap();
        tokio::time::sleep(60 * MINUTE).await;
        for put in &again {
            assert_eq!(shards(&cluster, put).await, 6);
        }
        is_readable(&cluster, 3, &again).await;
        // And when that one is let go as well, nothing is left, whoever heard of which.
        let other = cluster.blocks(1).unwrap().clone();
        for put in &again {
            release(&other, put).await;
        }
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(all_shards(&cluster, &again).await, 0);
    });
}

// ---- liars ---------------------------------------------------------------------------------

type ReleaseRow = (ClaimId, u64, Signature);

#[derive(Serialize, Deserialize)]
enum AskRow {
    Root(serde_bytes::ByteBuf),
    Groups(Vec<u16>),
    List(u16, Option<BlockId>),
    Ended(Vec<ClaimId>),
    LetGo(Vec<ReleaseRow>),
}

#[derive(Serialize)]
enum SayRow {
    Root(serde_bytes::ByteBuf, Option<serde_bytes::ByteBuf>, Tally),
    Groups(serde_bytes::ByteBuf),
    List(Vec<()>, bool),
    Ended(Vec<ReleaseRow>),
}

fn framed(row: &impl Serialize) -> Bytes {
    let control = wire::encode(row);
    let mut body = BytesMut::new();
    body.put_u32(control.len() as u32);
    body.put_slice(&control);
    body.freeze()
}

fn let_go(releases: &[SignedRelease]) -> Request {
    let row = |release: &SignedRelease| (release.claim, release.from_ms, release.signature);
    Request::Upkeep {
        body: framed(&AskRow::LetGo(releases.iter().map(row).collect())),
    }
}

async fn say(net: &NetHandle, to: PeerId, request: Request) -> Response {
    let timeout = Duration::from_secs(5);
    net.request(to, request, timeout).await.unwrap()
}

const INVALID: Response = Response::Refused {
    reason: Refusal::Invalid,
    free_bytes: 0,
};

#[test]
fn nobody_ends_what_another_put() {
    simulate(async {
        let cluster = start(6, 64).await;
        let puts = put_many(&cluster, 0, 6).await;
        tokio::time::sleep(5 * MINUTE).await;
        // A member with a key of its own: one that was revoked, or one that has always been a liar.
        let key = SigningKey::generate(&Entropy::seeded(65));
        let member = MemoryPeer::new(key.peer(), 64 << 20);
        let (net, _inbound) = cluster.hub.join(member);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let writer = cluster.id(0).unwrap();
        let claim = |put: &Put| ClaimId {
            owner: OWNER,
            writer,
            number: put.number,
        };
        let own = |put: &Put| SignedRelease::sign(&key, OWNER, put.number, 0);
        let to = cluster.id(2).unwrap();
        for put in &puts {
            let forged = SignedRelease {
                claim: claim(put),
                ..own(put)
            };
            let told = say(&net, to, let_go(&[forged])).await;
            assert_eq!(told, INVALID);
            // Beside something that is true, too, and in the name of the asker.
            let told = say(&net, to, let_go(&[own(put), forged])).await;
            assert_eq!(told, INVALID);
            let told = say(&net, to, let_go(&[own(put)])).await;
            assert!(
                matches!(told, Response::Upkeep { .. }),
                "of no use: {told:?}"
            );
            for proof in [None, Some(own(put).signature)] {
                let claim = claim(put);
                let told = say(&net, to, Request::ReleaseClaim { claim, proof }).await;
                let Response::Refused { reason, .. } = told else {
                    panic!("{told:?}");
                };
                assert_eq!(reason, Refusal::Denied);
            }
        }
        tokio::time::sleep(5 * MINUTE).await;
        for put in &puts {
            assert_eq!(shards(&cluster, put).await, 6);
        }
    });
}

#[test]
fn an_end_that_is_said_again_ends_nothing_that_came_later() {
    simulate(async {
        let cluster = start(6, 66).await;
        let writer = cluster.blocks(0).unwrap().clone();
        let content = Bytes::from(vec![5; 9000]);
        let first = put(&writer, &content).await;
        release(&writer, &first).await;
        assert_eq!(shards(&cluster, &first).await, 0);
        // The same content once more; and somebody who kept the word says it to everybody.
        let again = put(&writer, &content).await;
        assert_eq!(again.reference, first.reference);
        let word = SignedRelease::sign(cluster.key(0).unwrap(), OWNER, first.number, 0);
        let member = MemoryPeer::new(PeerId(cluster.entropy.array()), 64 << 20);
        let (net, _inbound) = cluster.hub.join(member);
        tokio::time::sleep(Duration::from_secs(3)).await;
        for at in 0..6 {
            let told = say(&net, cluster.id(at).unwrap(), let_go(&[word; 3])).await;
            assert!(matches!(told, Response::Upkeep { .. }), "{told:?}");
        }
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(shards(&cluster, &again).await, 6);
        is_readable(&cluster, 3, &[again]).await;
    });
}

#[test]
fn what_a_writer_signs_about_its_own_ends_and_nothing_of_others() {
    simulate(async {
        let cluster = start(6, 67).await;
        let (a, b) = (cluster.blocks(0).unwrap(), cluster.blocks(1).unwrap());
        let content = Bytes::from(vec![6; 9000]);
        let mine = put(a, &content).await;
        put(b, &content).await;
        let alone = put(a, &Bytes::from(vec![7; 9000])).await;
        // It says that everything ends, to everybody, as somebody would that was revoked.
        let key = cluster.key(0).unwrap();
        let words =
            [mine.number, alone.number].map(|number| SignedRelease::sign(key, OWNER, number, 0));
        let member = MemoryPeer::new(PeerId(cluster.entropy.array()), 64 << 20);
        let (net, _inbound) = cluster.hub.join(member);
        tokio::time::sleep(Duration::from_secs(3)).await;
        for at in 0..6 {
            say(&net, cluster.id(at).unwrap(), let_go(&words)).await;
        }
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(shards(&cluster, &alone).await, 0);
        assert_eq!(shards(&cluster, &mine).await, 6, "another claim keeps it");
    });
}

/// Holds nothing, and says of every claim that it ended, in its own hand. How often it was asked that.
fn join_liar(cluster: &Cluster) -> Arc<AtomicU64> {
    let key = SigningKey::generate(&Entropy::seeded(68));
    let (net, mut inbound) = cluster.hub.join(MemoryPeer::new(key.peer(), 64 << 20));
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let bytes = |len: usize| serde_bytes::ByteBuf::from(vec![0; len]);
    tokio::spawn(async move {
        let _net = net;
        while let Some(asked) = inbound.recv().await {
            let ask = match &asked.request {
                Request::Upkeep { body } => wire::decode::<AskRow>(&body[4..], 1 << 20).ok(),
                _ => None,
            };
            let said = match ask {
                Some(AskRow::Root(_)) => {
                    SayRow::Root(bytes(16), Some(bytes(8192)), Tally::default())
                }
                Some(AskRow::Groups(groups)) => SayRow::Groups(bytes(16 * groups.len())),
                Some(AskRow::List(..)) => SayRow::List(Vec::new(), true),
                Some(AskRow::Ended(claims)) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    let word = |claim: ClaimId| {
                        let own = SignedRelease::sign(&key, claim.owner, claim.number, 0);
                        (claim, 0, own.signature)
                    };
                    SayRow::Ended(claims.into_iter().map(word).collect())
                }
                _ => {
                    let _ = asked.reply.send(Response::Unsupported);
                    continue;
                }
            };
            let body = framed(&said);
            let _ = asked.reply.send(Response::Upkeep { body });
        }
    });
    asked
}

#[test]
fn who_is_asked_and_says_that_everything_ended_is_not_believed() {
    simulate(async {
        let mut cluster = start(6, 68).await;
        let puts = put_many(&cluster, 0, 12).await;
        let asked = join_liar(&cluster);
        tokio::time::sleep(5 * MINUTE).await;
        // It is the first to get what is missing then, and takes nothing.
        cluster.crash(3);
        tokio::time::sleep(DAY).await;
        assert!(asked.load(Ordering::Relaxed) > 0);
        for put in &puts {
            assert!(shards(&cluster, put).await >= 5);
        }
        is_readable(&cluster, 1, &puts).await;
    });
}

#[test]
fn what_was_said_to_end_goes_at_its_time_whoever_is_away_unless_somebody_adopts_it() {
    simulate(async {
        let mut cluster = start(8, 69).await;
        let puts = put_many(&cluster, 0, 12).await;
        tokio::time::sleep(5 * MINUTE).await;
        let (kept, gone) = puts.split_at(3);
        let key = cluster.key(0).unwrap();
        let from_ms = cluster.clock().now_ms() + 3_600_000;
        for put in &puts {
            let word = SignedRelease::sign(key, OWNER, put.number, from_ms);
            cluster.repair(0).unwrap().tell_end(word, &put.told).await;
        }
        for put in kept {
            let blocks = vec![put.reference.id];
            let adopted =
                cluster
                    .blocks(1)
                    .unwrap()
                    .adopt(OWNER, EcProfile::DEFAULT, blocks, |_, _| Vec::new());
            assert_eq!(adopted.await.unwrap().survives, 2);
        }
        cluster.crash(0);
        cluster.crash(3);
        tokio::time::sleep(50 * MINUTE).await;
        assert!(
            all_shards(&cluster, gone).await >= 4 * gone.len(),
            "too soon"
        );
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(all_shards(&cluster, gone).await, 0);
        // One that was off at that time needs nobody.
        cluster.restart(3).await.unwrap();
        tokio::time::sleep(MINUTE).await;
        assert_eq!(all_shards(&cluster, gone).await, 0);
        is_readable(&cluster, 3, kept).await;
        // What is gone nobody adopts.
        let blocks = vec![gone[0].reference.id];
        let adopted =
            cluster
                .blocks(1)
                .unwrap()
                .adopt(OWNER, EcProfile::DEFAULT, blocks, |_, _| Vec::new());
        let lost = adopted.await.unwrap_err();
        assert_eq!(lost, AdoptError::Lost { lost: 1, blocks: 1 });
    });
}
