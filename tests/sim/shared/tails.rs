//! A writer that is gone for good before any checkpoint has what it wrote last: others have it from peers without a key.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::PeerId;
use cairnfs::crypto::{EpochKey, SigningKey};
use cairnfs::feeds::{Keeping, Kept, LinkHash, SealedDelta, Tail, TailEnd, TailVerdict};
use cairnfs::namespace::{Draft, Hlc, VersionVector, WriterId};
use cairnfs::net::memory::MemoryPeer;
use cairnfs::net::{Inbound, Request, Response};
use cairnfs::vfs::Rights;

use super::adversaries::{go_on, settled};
use super::run;
use super::world::{Member, READER, SECOND, World};
use crate::common::member::{Device, ID};

/// Who writes and is lost.
const LOST: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// Peers that only store, so that no member keeps the feed.
async fn keepers(world: &mut World, count: usize) -> Vec<usize> {
    let mut all = vec![0];
    for _ in 0..count {
        let id = PeerId(world.cluster.entropy.array());
        all.push(world.cluster.add_as(id).await.unwrap());
    }
    tokio::time::sleep(3 * SECOND).await;
    all
}

/// What a peer keeps of the feed of the one: from which dot, and up to which.
async fn kept_at(world: &World, at: usize) -> Option<(u64, u64)> {
    let writer = world.vfs(LOST).writer();
    let question = Keeping::Ask { volume: ID };
    let answer = world.cluster.blocks(at).unwrap().tails_here(question);
    let Some(Keeping::Tails { tails, .. }) = answer.await else {
        panic!("it says nothing")
    };
    let end = tails.iter().find(|end| end.writer == writer)?;
    Some((end.start, end.last))
}

fn last_of(world: &World) -> u64 {
    let vfs = world.vfs(LOST);
    let claims = vfs.claims();
    let own = claims.iter().find(|claim| claim.writer == vfs.writer());
    own.unwrap().last
}

/// All that the one wrote is in blocks, and at its keepers.
async fn placed(world: &World) {
    for _ in 0..600 {
        let usage = world.vfs(LOST).usage();
        let tail = world.sharer(LOST).tail();
        if usage.dirty_bytes == 0 && tail.wanted == 3 && tail.is_kept() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}: {}", world.sharer(LOST).tail(), world.state(LOST));
}

/// Everybody but the one is away; it writes, and is gone for good.
async fn lose(world: &mut World) -> Vec<(String, Vec<u8>)> {
    for number in (0..world.members.len()).filter(|number| *number != LOST) {
        world.shut(number).await;
    }
    tokio::time::sleep(2 * SECOND).await;
    let mut written = Vec::new();
    for round in 0..12u8 {
        let len = [40, 3000, 60_000][usize::from(round) % 3];
        let (path, bytes) = (format!("last-{round}"), vec![round + 1; len]);
        world.hand(LOST).replace(&path, &bytes).await.unwrap();
        written.push((path, bytes));
    }
    world.hand(LOST).unlink("of-1").await.unwrap();
    placed(world).await;
    world.crash(LOST).await;
    written
}

async fn shows(world: &World, number: usize, written: &[(String, Vec<u8>)]) {
    for (path, bytes) in written {
        let found = world.hand(number).read(path).await;
        assert!(found.as_ref() == Ok(bytes), "{path} at {number}: {found:?}");
    }
    assert!(world.hand(number).find("of-1").await.is_err());
}

/// One more member, who has nothing yet.
async fn newcomer(world: &mut World) -> usize {
    let device = Device {
        key: SigningKey::generate(&world.cluster.entropy),
        rights: Rights::Write,
        is_founder: false,
    };
    let at = world.cluster.add_as(device.key.peer()).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    let clock = world.cluster.clock().clone();
    world.members.push(Member::new(device, at, clock));
    let number = world.members.len() - 1;
    world.open(number).await;
    number
}

#[test]
fn what_a_lost_machine_wrote_last_is_with_whoever_comes_back_or_comes_new() {
    run(async {
        let mut world = settled(700).await;
        keepers(&mut world, 4).await;
        let written = lose(&mut world).await;
        tokio::time::sleep(5 * MINUTE).await;
        // One that was away, and one that comes new while that is away again.
        world.begin(1).await;
        tokio::time::sleep(30 * SECOND).await;
        shows(&world, 1, &written).await;
        world.shut(1).await;
        let new = newcomer(&mut world).await;
        world.sharer(new).catch_up().await;
        tokio::time::sleep(10 * SECOND).await;
        shows(&world, new, &written).await;
        // They write on, and come to the same.
        for number in [0, 1, 4, READER] {
            world.begin(number).await;
        }
        tokio::time::sleep(30 * SECOND).await;
        go_on(&world, &[0, 1, 4, READER, new], "after").await;
        shows(&world, READER, &written).await;
    });
}

#[test]
fn keepers_remember_after_a_power_cut_and_some_may_be_lost() {
    run(async {
        let mut world = settled(701).await;
        keepers(&mut world, 4).await;
        // One goes with its peer.
        world.crash(0).await;
        for number in [1, 2, 4, READER] {
            world.shut(number).await;
        }
        world.hand(LOST).replace("last", b"the last").await.unwrap();
        placed(&world).await;
        let last = last_of(&world);
        let mut have = Vec::new();
        for at in (0..world.cluster.len()).filter(|at| *at != world.members[0].at) {
            let kept = kept_at(&world, at).await;
            if kept.is_some_and(|(_, upto)| upto == last) {
                have.push(at);
            }
        }
        assert_eq!(have.len(), 3);
        world.crash(LOST).await;
        // Two for good; the third loses power for a while.
        for at in &have {
            world.cluster.crash(*at);
        }
        world.cluster.restart(have[2]).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        world.begin(0).await;
        tokio::time::sleep(MINUTE).await;
        assert_eq!(world.hand(0).read("last").await.unwrap(), b"the last");
    });
}

#[test]
fn a_checkpoint_lets_keepers_go_and_the_feed_goes_on_behind_it() {
    run(async {
        let mut world = settled(702).await;
        let all = keepers(&mut world, 4).await;
        world.hand(LOST).replace("one", b"1").await.unwrap();
        placed(&world).await;
        let before = last_of(&world);
        world.sharer(LOST).publish().await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        let mut gone = 0;
        for at in &all {
            if let Some((start, last)) = kept_at(&world, *at).await {
                assert!(start >= before && last == start, "{start} {last} {before}");
                gone += 1;
            }
        }
        assert!(gone >= 3, "{gone}");
        let tail = world.sharer(LOST).tail();
        assert!(tail.is_kept(), "{tail:?}");
        // After a start the writer knows of its checkpoint from them alone.
        world.shut(LOST).await;
        world.begin(LOST).await;
        world.hand(LOST).replace("two", b"2").await.unwrap();
        placed(&world).await;
        let mut ends = Vec::new();
        for at in &all {
            ends.extend(kept_at(&world, *at).await);
        }
        let up_to_date = ends.iter().filter(|(_, last)| *last == last_of(&world));
        assert!(up_to_date.count() >= 3, "{ends:?}");
        assert!(ends.iter().all(|(start, _)| *start >= before), "{ends:?}");
    });
}

/// A member of the network that says it keeps far more than there is, of the lost writer and of others, and gives
/// nothing, nonsense, or what is long known; or never answers.
fn lie(world: &World, tag: u8, known: Vec<Bytes>) {
    let lost = world.vfs(LOST).writer();
    let peer = MemoryPeer::new(PeerId([tag; 32]), 64 << 20);
    let (net, mut inbound) = world.cluster.hub.join(peer);
    tokio::spawn(async move {
        let _net = net;
        let mut silent = Vec::new();
        while let Some(Inbound { request, reply, .. }) = inbound.recv().await {
            let Request::Feed { body } = request else {
                let _ = reply.send(Response::Unsupported);
                continue;
            };
            let answer = match Keeping::decode(&body) {
                Ok(Keeping::Ask { volume }) => {
                    let end = |writer| TailEnd {
                        writer,
                        start: 0,
                        last: 1 << 40,
                        hash: LinkHash([tag; 32]),
                    };
                    let made_up = (0..40).map(|n| WriterId {
                        peer: PeerId([n; 32]),
                        incarnation: 0,
                    });
                    let mut tails: Vec<TailEnd> = made_up.chain([lost]).map(end).collect();
                    tails.sort_by_key(|end| end.writer);
                    Keeping::Tails { volume, tails }
                }
                Ok(Keeping::Want { .. }) if tag.is_multiple_of(4) => {
                    silent.push(reply);
                    continue;
                }
                Ok(Keeping::Want { volume, writer, .. }) => Keeping::Given {
                    volume,
                    writer,
                    deltas: match tag % 4 {
                        1 => Vec::new(),
                        2 => vec![Bytes::from_static(b"no delta")],
                        _ => known.clone(),
                    },
                },
                _ => {
                    let _ = reply.send(Response::Unsupported);
                    continue;
                }
            };
            let body = answer.encode().into();
            let _ = reply.send(Response::Feed { body });
        }
    });
}

#[test]
fn keepers_that_lie_cost_time_only() {
    run(async {
        let mut world = settled(703).await;
        keepers(&mut world, 4).await;
        let vfs = world.vfs(LOST);
        let known = vfs.deltas(vfs.writer(), 0, 1 << 20).await.unwrap().deltas;
        assert!(!known.is_empty());
        for number in (0..world.members.len()).filter(|number| *number != LOST) {
            world.shut(number).await;
        }
        world.hand(LOST).replace("last", b"the last").await.unwrap();
        placed(&world).await;
        for tag in 100..104 {
            lie(&world, tag, known.clone());
        }
        world.crash(LOST).await;
        tokio::time::sleep(3 * SECOND).await;
        world.begin(0).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(world.hand(0).read("last").await.unwrap(), b"the last");
        // Nor do they hold up the others.
        for number in [1, 2, 4, READER] {
            world.begin(number).await;
        }
        tokio::time::sleep(MINUTE).await;
        for number in [1, 2, 4, READER] {
            assert_eq!(world.hand(number).read("last").await.unwrap(), b"the last");
        }
    });
}

/// Members of the network that answer what they are asked to keep as they are told: with how they show to keep the feed.
/// What they were asked is in the list.
fn pretend(
    world: &World,
    tags: std::ops::Range<u8>,
    shows: impl Fn(usize) -> Kept + Clone + Send + 'static,
) -> Arc<Mutex<Vec<Keeping>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    for tag in tags {
        let peer = MemoryPeer::new(PeerId([tag; 32]), 64 << 20);
        let (net, mut inbound) = world.cluster.hub.join(peer);
        let (shows, asked) = (shows.clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            let _net = net;
            let mut count = 0;
            while let Some(Inbound { request, reply, .. }) = inbound.recv().await {
                let answer = match request {
                    Request::Feed { body } => match Keeping::decode(&body) {
                        Ok(keep @ Keeping::Keep { .. }) => {
                            asked.lock().unwrap().push(keep);
                            count += 1;
                            // Not all of this in no time.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            let body = Keeping::Kept(Box::new(shows(count))).encode().into();
                            Response::Feed { body }
                        }
                        _ => Response::Unsupported,
                    },
                    _ => Response::Unsupported,
                };
                let _ = reply.send(answer);
            }
        });
    }
    asked
}

/// The first deltas of the feed of the one, as a tail.
async fn tail_of(world: &World, count: usize) -> Tail {
    let vfs = world.vfs(LOST);
    let own = vfs.deltas(vfs.writer(), 0, 1 << 20).await.unwrap().deltas;
    let mut tail = Tail::new(ID, vfs.writer());
    for delta in &own[..count] {
        let delta = SealedDelta::decode(delta).unwrap();
        tail.append(delta.link().clone()).unwrap();
    }
    tail
}

#[test]
fn keepers_that_show_now_this_end_and_now_that_hold_nobody_up() {
    run(async {
        let mut world = settled(704).await;
        world.hand(LOST).replace("one", b"1").await.unwrap();
        world.hand(LOST).replace("two", b"2").await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        let ends = [tail_of(&world, 1).await, tail_of(&world, 2).await];
        let asked = pretend(&world, 100..103, move |count| Kept {
            tail: ends[count % 2].clone(),
            bytes: 100,
            verdict: TailVerdict::Kept,
        });
        keepers(&mut world, 4).await;
        for number in 0..4 {
            let path = format!("more-{number}");
            world.hand(LOST).replace(&path, b"3").await.unwrap();
            placed(&world).await;
        }
        tokio::time::sleep(10 * MINUTE).await;
        placed(&world).await;
        let asked = asked.lock().unwrap().len();
        assert!((1..200).contains(&asked), "{asked}");
    });
}

#[test]
fn who_keeps_another_branch_hears_no_word() {
    run(async {
        let mut world = settled(705).await;
        keepers(&mut world, 4).await;
        let own = world.vfs(LOST).writer();
        // What the device did before it was put back from a backup.
        let mut rival = Tail::new(ID, own);
        let draft = Draft {
            context: VersionVector::default(),
            hlc: Hlc::from_ms(1),
            writes: Vec::new(),
        };
        let (delta, key) = (draft.enter(own, 0), EpochKey::from_bytes([9; 32]));
        let device = &world.members[LOST].device.key;
        let delta = SealedDelta::seal(&delta, ID, None, (1, &key), device).unwrap();
        rival.append(delta.link().clone()).unwrap();
        let asked = pretend(&world, 100..106, move |_| Kept {
            tail: rival.clone(),
            bytes: 100,
            verdict: TailVerdict::Kept,
        });
        tokio::time::sleep(3 * SECOND).await;
        world.hand(LOST).replace("one", b"1").await.unwrap();
        placed(&world).await;
        for _ in 0..2 {
            world.sharer(LOST).publish().await.unwrap();
            world.hand(LOST).replace("one", b"2").await.unwrap();
            tokio::time::sleep(11 * MINUTE).await;
        }
        let asked = asked.lock().unwrap();
        assert!(!asked.is_empty());
        let is_word = |keep: &&Keeping| !matches!(keep, Keeping::Keep { covered: None, .. });
        assert_eq!(asked.iter().filter(is_word).count(), 0);
    });
}

#[test]
fn a_checkpoint_that_nobody_else_has_lets_nobody_go() {
    run(async {
        let mut world = settled(706).await;
        let all = keepers(&mut world, 4).await;
        world.hand(LOST).replace("one", b"1").await.unwrap();
        placed(&world).await;
        let last = last_of(&world);
        let own = world.peer(LOST);
        let ids = (0..world.cluster.len()).map(|at| world.cluster.id(at).unwrap());
        let others: Vec<PeerId> = ids.filter(|id| *id != own).collect();
        world.cluster.hub.partition(&[vec![own], others]);
        tokio::time::sleep(MINUTE).await;
        world.sharer(LOST).publish().await.unwrap();
        world.cluster.hub.heal();
        tokio::time::sleep(20 * SECOND).await;
        let mut have = 0;
        for at in &all {
            if let Some((start, upto)) = kept_at(&world, *at).await {
                assert!(start < last && upto >= last, "{start} {upto} {last}");
                have += 1;
            }
        }
        assert!(have >= 3, "{have}");
    });
}

#[test]
fn one_that_says_nothing_does_not_hide_what_others_keep() {
    run(async {
        let mut world = settled(707).await;
        keepers(&mut world, 4).await;
        let written = lose(&mut world).await;
        for tag in 100..110 {
            let peer = MemoryPeer::new(PeerId([tag; 32]), 64 << 20);
            let (net, mut inbound) = world.cluster.hub.join(peer);
            tokio::spawn(async move {
                let (_net, mut silent) = (net, Vec::new());
                while let Some(request) = inbound.recv().await {
                    silent.push(request);
                }
            });
        }
        tokio::time::sleep(3 * SECOND).await;
        world.begin(0).await;
        let begun = tokio::time::Instant::now();
        let looked = world.sharer(0).look_for_tails();
        let _ = tokio::time::timeout(10 * SECOND, looked).await;
        assert!(begun.elapsed() < 9 * SECOND, "{:?}", begun.elapsed());
        shows(&world, 0, &written).await;
    });
}
