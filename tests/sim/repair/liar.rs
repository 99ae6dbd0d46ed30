//! One peer that tells of blocks which nobody has: the others repair what there is.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cairnfs::base::wire;
use cairnfs::base::{BlockId, ClaimId, EcProfile, Group, IndexSet, OwnerId, PeerId};
use cairnfs::net::memory::MemoryPeer;
use cairnfs::net::{Request, Response};
use cairnfs::repair::Tally;
use cairnfs::testkit::Cluster;
use serde::{Deserialize, Serialize};

use super::{MINUTE, TIMES, UpkeepTimes, held, put, simulate, start, start_with, sum, wait_whole};

type KeeperRow = (ClaimId, bool, u64);
type HoldingRow = (BlockId, IndexSet, Option<EcProfile>, bool, u32);

/// Messages about upkeep as they are written down.
#[derive(Deserialize)]
enum AskRow {
    Root(#[allow(dead_code)] serde_bytes::ByteBuf),
    Groups(Vec<u16>),
    List(u16, Option<BlockId>),
    Keepers(Vec<BlockId>),
}

#[derive(Serialize)]
enum SayRow {
    Root(serde_bytes::ByteBuf, Option<serde_bytes::ByteBuf>, Tally),
    Groups(serde_bytes::ByteBuf),
    List(Vec<HoldingRow>, bool),
    Keepers(Vec<Vec<KeeperRow>>),
}

fn read(body: &Bytes) -> Option<AskRow> {
    wire::decode(body.get(4..)?, 1 << 20).ok()
}

fn said(row: &SayRow) -> Response {
    let control = wire::encode(row);
    let mut body = BytesMut::new();
    body.put_u32(control.len() as u32);
    body.put_slice(&control);
    Response::Upkeep {
        body: body.freeze(),
    }
}

/// What it makes up.
#[derive(Clone, Copy)]
struct Lie {
    /// Blocks in each group.
    blocks: u64,
    /// Whether it says that somebody keeps them when asked who.
    is_kept: bool,
}

/// Says that it holds four shards of many blocks in these groups, gives none, and takes none.
fn join(cluster: &Cluster, groups: BTreeSet<u16>, lie: Lie) -> PeerId {
    let id = PeerId(cluster.entropy.array());
    let (net, mut inbound) = cluster.hub.join(MemoryPeer::new(id, 64 << 20));
    let mut set = vec![0u8; 8192];
    for group in &groups {
        set[usize::from(group / 8)] |= 1 << (group % 8);
    }
    let claim = ClaimId {
        owner: OwnerId([1; 16]),
        writer: id,
        number: 1,
    };
    tokio::spawn(async move {
        let _net = net;
        let mut waiting = Vec::new();
        while let Some(asked) = inbound.recv().await {
            let row = match &asked.request {
                Request::Upkeep { body } => read(body),
                Request::Fetch { .. } => None,
                _ => {
                    let _ = asked.reply.send(Response::Unsupported);
                    continue;
                }
            };
            let said = match row {
                Some(AskRow::Root(_)) => {
                    let digest = serde_bytes::ByteBuf::from(vec![1; 16]);
                    let groups = serde_bytes::ByteBuf::from(set.clone());
                    said(&SayRow::Root(digest, Some(groups), Tally::default()))
                }
                Some(AskRow::Groups(of)) => {
                    let digests = of.iter().flat_map(|group| {
                        let is_there = groups.contains(group);
                        [u8::from(is_there); 16]
                    });
                    let digests: Vec<u8> = digests.collect();
                    said(&SayRow::Groups(serde_bytes::ByteBuf::from(digests)))
                }
                Some(AskRow::List(group, after)) => {
                    let made_up = |number: u64| {
                        let mut block = BlockId([0; 32]);
                        block.0[..2].copy_from_slice(&group.to_be_bytes());
                        block.0[2..10].copy_from_slice(&number.to_be_bytes());
                        let held = IndexSet::first(4);
                        (block, held, Some(EcProfile::DEFAULT), true, 1000)
                    };
                    let all = (0..lie.blocks).map(made_up);
                    let page = all.filter(|row| after.is_none_or(|after| row.0 > after));
                    let page: Vec<HoldingRow> = page.take(1024).collect();
                    let is_all = page.len() < 1024;
                    said(&SayRow::List(page, is_all))
                }
                Some(AskRow::Keepers(blocks)) => {
                    let keepers = match lie.is_kept {
                        true => vec![(claim, true, u64::MAX)],
                        false => Vec::new(),
                    };
                    said(&SayRow::Keepers(vec![keepers; blocks.len()]))
                }
                // Whoever wants something of it waits.
                None => {
                    waiting.push(asked.reply);
                    continue;
                }
            };
            let _ = asked.reply.send(said);
        }
    });
    id
}

/// Whether the first of the candidates of a group that is there is another one.
async fn is_led_by_others(cluster: &Cluster, group: Group, liar: PeerId, gone: PeerId) -> bool {
    let peers = cluster.blocks(1).unwrap().group_peers(group).await;
    let first = peers.iter().find(|peer| peer.peer != gone);
    first.is_some_and(|first| first.peer != liar)
}

#[test]
fn what_one_peer_makes_up_does_not_hold_up_the_repair_of_what_there_is() {
    simulate(async {
        let times = UpkeepTimes {
            dead: 60 * MINUTE,
            ..TIMES
        };
        let mut cluster = start_with(8, 51, times).await;
        let mut puts = put(&cluster, 0, 12).await;
        tokio::time::sleep(5 * MINUTE).await;
        let groups = puts.iter().map(|put| put.reference.id.group().0).collect();
        let lie = Lie {
            blocks: 1500,
            is_kept: true,
        };
        let liar = join(&cluster, groups, lie);
        tokio::time::sleep(MINUTE).await;
        // What it leads nobody else looks after.
        let own = cluster.id(0).unwrap();
        let mut led = Vec::new();
        for put in puts.drain(..) {
            if is_led_by_others(&cluster, put.reference.id.group(), liar, own).await {
                led.push(put);
            }
        }
        let held = held(&cluster, &led).await;
        assert!(held.iter().filter(|of| of.contains_key(&own)).count() >= 3);
        cluster.crash(0);
        tokio::time::sleep(60 * MINUTE).await;
        wait_whole(&cluster, &led, 120 * MINUTE).await;
    });
}

#[test]
fn what_is_kept_by_nobody_when_it_is_asked_by_whom_makes_no_haste() {
    simulate(async {
        let cluster = start(7, 52).await;
        let puts = put(&cluster, 0, 12).await;
        tokio::time::sleep(5 * MINUTE).await;
        let groups = puts.iter().map(|put| put.reference.id.group().0).collect();
        let lie = Lie {
            blocks: 1,
            is_kept: false,
        };
        join(&cluster, groups, lie);
        tokio::time::sleep(5 * MINUTE).await;
        let before = cluster.hub.trace().count();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let events = cluster.hub.trace().count() - before;
        println!("{events} events in a minute");
        assert!(events < 5_000, "{events}");
        assert_eq!(sum(&cluster).0, 0);
    });
}
