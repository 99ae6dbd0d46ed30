//! Checkpoint records of volumes in whole clusters: who keeps them, who finds them, what is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::limits::{DELTA_AHEAD_MAX_MS, POINTER_HOLDERS, POINTERS_PER_VOLUME_MAX};
use cairnfs::base::{PeerId, VolumeId};
use cairnfs::blocks::PointerError;
use cairnfs::crypto::SigningKey;
use cairnfs::feeds::Signed;
use cairnfs::feeds::checkpoint::{PageHash, Record};
use cairnfs::namespace::{Hlc, WriterId};
use cairnfs::net::memory::LinkFaults;
use cairnfs::net::{Refusal, Request, Response};
use cairnfs::placement::{distance, peer_point, point, volume_key};
use cairnfs::testkit::{Cluster, ClusterOptions};

const VOLUME: VolumeId = VolumeId([7; 16]);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test);
}

async fn cluster(peers: usize, max_members: usize, seed: u64) -> Cluster {
    let options = ClusterOptions {
        peers,
        max_members,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    cluster
}

/// What the writer `tag` says at `ms`.
fn record_of(volume: VolumeId, tag: u8, incarnation: u64, ms: u64) -> Signed<Record> {
    let device = SigningKey::from_secret(&[tag; 32]);
    let record = Record {
        volume,
        writer: WriterId {
            peer: device.peer(),
            incarnation,
        },
        hlc: Hlc::from_ms(ms),
        root: PageHash::of(&ms.to_be_bytes()),
        root_bytes: 100,
        place: Bytes::from_static(b"place"),
    };
    Signed::sign(record, &device).unwrap()
}

fn now(cluster: &Cluster) -> u64 {
    cluster.clock().now_ms()
}

fn record(cluster: &Cluster, tag: u8) -> Signed<Record> {
    record_of(VOLUME, tag, 0, now(cluster))
}

/// Peers by their distance from the place of the volume.
fn by_distance(cluster: &Cluster) -> Vec<usize> {
    let target = point(&volume_key(&VOLUME));
    let mut order: Vec<usize> = (0..cluster.len()).collect();
    order.sort_by_key(|at| distance(&peer_point(&cluster.id(*at).unwrap()), &target));
    order
}

/// What peer `at` itself keeps, as peer `asker` hears it.
async fn kept(cluster: &Cluster, asker: usize, at: usize, volume: VolumeId) -> Vec<Bytes> {
    let net = cluster.blocks(asker).unwrap().net();
    let request = Request::Published { volume };
    let answer = net.request(cluster.id(at).unwrap(), request, 5 * SECOND);
    match answer.await {
        Ok(Response::Published { records }) => records,
        other => panic!("{other:?}"),
    }
}

async fn bring(cluster: &Cluster, from: usize, to: usize, record: Vec<u8>) -> Response {
    let net = cluster.blocks(from).unwrap().net();
    let request = Request::Publish {
        record: record.into(),
    };
    let answer = net.request(cluster.id(to).unwrap(), request, 5 * SECOND);
    answer.await.unwrap()
}

fn refusal(response: &Response) -> Option<Refusal> {
    match response {
        Response::Refused { reason, .. } => Some(*reason),
        _ => None,
    }
}

/// In a network whose members nobody knows all of: one that has met none of the keepers finds what another one
/// published, with some of them down.
#[test]
fn what_one_publishes_another_finds() {
    run(async {
        let mut cluster = cluster(60, 8, 1).await;
        let order = by_distance(&cluster);
        let (publisher, reader) = (order[45], order[59]);
        let first = record(&cluster, 1);
        let blocks = cluster.blocks(publisher).unwrap().clone();
        assert!(!blocks.net().members().complete);
        let count = blocks.publish_record(&first).await.unwrap();
        assert_eq!(count, POINTER_HOLDERS + 1, "and here");
        for at in &order[..POINTER_HOLDERS] {
            assert_eq!(kept(&cluster, publisher, *at, VOLUME).await.len(), 1);
        }
        for at in &order[POINTER_HOLDERS..45] {
            assert!(kept(&cluster, publisher, *at, VOLUME).await.is_empty());
        }
        // A second writer, and the publisher goes for ever.
        let second = record(&cluster, 2);
        let other = cluster.blocks(order[50]).unwrap();
        assert!(other.publish_record(&second).await.unwrap() > POINTER_HOLDERS);
        cluster.crash(publisher);
        for at in &order[..POINTER_HOLDERS / 2] {
            cluster.crash(*at);
        }
        let met = cluster.blocks(reader).unwrap().net().members();
        let holders = order[..POINTER_HOLDERS].iter();
        let holders: BTreeSet<PeerId> = holders.map(|at| cluster.id(*at).unwrap()).collect();
        println!(
            "the reader knows {} of the keepers",
            met.list
                .iter()
                .filter(|m| holders.contains(&m.peer))
                .count()
        );
        let begun = tokio::time::Instant::now();
        let found = cluster
            .blocks(reader)
            .unwrap()
            .look_for_records(VOLUME)
            .await;
        println!("found in {:?}: {found:?}", begun.elapsed());
        let mut expected = vec![first.clone(), second];
        expected.sort_by_key(|record| record.writer);
        assert_eq!(found.records, expected);
        assert!(found.answered >= POINTER_HOLDERS / 2 && found.asked >= found.answered);
        assert!(begun.elapsed() < 2 * SECOND);

        // With all of the others down too nobody is left but those that are further away, and nothing is invented.
        let other = VolumeId([8; 16]);
        let nothing = cluster
            .blocks(reader)
            .unwrap()
            .look_for_records(other)
            .await;
        assert!(nothing.records.is_empty() && nothing.answered > 0);
    });
}

#[test]
fn the_newest_of_each_writer_counts() {
    run(async {
        let mut cluster = cluster(6, usize::MAX, 2).await;
        let old = record(&cluster, 1);
        let blocks = cluster.blocks(0).unwrap().clone();
        assert_eq!(blocks.publish_record(&old).await.unwrap(), 6);
        assert_eq!(blocks.publish_record(&old).await.unwrap(), 6, "again");
        // Two are away while it is replaced.
        cluster.crash(4);
        cluster.crash(5);
        tokio::time::sleep(3 * SECOND).await;
        let new = record(&cluster, 1);
        assert_eq!(blocks.publish_record(&new).await.unwrap(), 4);
        let stale = blocks.publish_record(&old).await;
        assert_eq!(stale, Err(PointerError::Stale));
        let answer = bring(&cluster, 1, 2, old.encode()).await;
        assert_eq!(refusal(&answer), Some(Refusal::Stale));
        cluster.restart(4).await.unwrap();
        cluster.restart(5).await.unwrap();
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(
            kept(&cluster, 0, 4, VOLUME).await,
            [Bytes::from(old.encode())]
        );
        for at in 0..6 {
            let found = cluster.blocks(at).unwrap().find_records(VOLUME).await;
            assert_eq!(found, std::slice::from_ref(&new), "at {at}");
        }
        // Its writer tells them as soon as it sees that they are back.
        tokio::time::sleep(30 * SECOND).await;
        assert_eq!(
            kept(&cluster, 0, 4, VOLUME).await,
            [Bytes::from(new.encode())]
        );
    });
}

/// Connected, and nothing gets through: its writer tries again, and stops when it has succeeded.
#[test]
fn one_that_could_not_be_told_is_told_later() {
    run(async {
        let options = ClusterOptions {
            peers: 5,
            keep_trace: true,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, 11).await.unwrap();
        tokio::time::sleep(15 * SECOND).await;
        let (writer, deaf) = (cluster.id(0).unwrap(), cluster.id(4).unwrap());
        let loss = |loss: f64| LinkFaults {
            loss,
            ..ClusterOptions::default().faults
        };
        cluster.hub.link(writer, deaf, loss(1.0));
        let record = record(&cluster, 1);
        let blocks = cluster.blocks(0).unwrap();
        assert_eq!(blocks.publish_record(&record).await.unwrap(), 4);
        tokio::time::sleep(100 * SECOND).await;
        assert!(kept(&cluster, 1, 4, VOLUME).await.is_empty());
        cluster.hub.link(writer, deaf, loss(0.0));
        tokio::time::sleep(100 * SECOND).await;
        assert_eq!(kept(&cluster, 1, 4, VOLUME).await.len(), 1);
        let sent = |cluster: &Cluster| {
            let trace = cluster.hub.trace();
            let is_sent = |line: &&String| line.contains(" send ") && line.ends_with("publish");
            trace.lines().iter().filter(is_sent).count()
        };
        let before = sent(&cluster);
        assert!((5..=12).contains(&before), "{before} sent");
        tokio::time::sleep(3600 * 2 * SECOND).await;
        assert_eq!(sent(&cluster), before);
    });
}

#[test]
fn what_nobody_may_publish_is_refused() {
    run(async {
        let cluster = cluster(3, usize::MAX, 3).await;
        let good = record(&cluster, 1);
        let answer = |bytes: Vec<u8>| bring(&cluster, 0, 1, bytes);
        let ahead = now(&cluster) + DELTA_AHEAD_MAX_MS + 60_000;
        let ahead = record_of(VOLUME, 1, 0, ahead);
        let mut forged = good.encode();
        *forged.last_mut().unwrap() ^= 1;
        // Another writer's name over a signature of one's own.
        let theirs = record(&cluster, 2);
        let stolen = cairnfs::base::wire::encode(&(
            serde_bytes::ByteBuf::from(theirs.body().to_vec()),
            *good.signature(),
        ));
        for bad in [ahead.encode(), forged, stolen, Vec::new(), vec![0; 1024]] {
            assert_eq!(refusal(&answer(bad).await), Some(Refusal::Invalid));
        }
        assert_eq!(answer(good.encode()).await, Response::Done);
        let soon = record_of(VOLUME, 3, 0, now(&cluster) + DELTA_AHEAD_MAX_MS - 60_000);
        assert_eq!(answer(soon.encode()).await, Response::Done);
        assert_eq!(kept(&cluster, 0, 1, VOLUME).await.len(), 2);
        let blocks = cluster.blocks(0).unwrap();
        let refused = blocks.publish_record(&ahead).await;
        assert_eq!(refused, Err(PointerError::Ahead));
    });
}

#[test]
fn a_restart_keeps_what_was_acknowledged() {
    run(async {
        let mut cluster = cluster(4, usize::MAX, 4).await;
        let mut newest = Vec::new();
        for round in 0..5 {
            for tag in 1..4 {
                let record = record(&cluster, tag);
                let blocks = cluster.blocks(usize::from(tag) % 4).unwrap();
                assert_eq!(blocks.publish_record(&record).await.unwrap(), 4);
                if round == 4 {
                    newest.push(record);
                }
            }
            tokio::time::sleep(SECOND).await;
        }
        newest.sort_by_key(|record| record.writer);
        for at in 0..4 {
            cluster.crash(at);
        }
        cluster.restart(2).await.unwrap();
        let alone = cluster.blocks(2).unwrap();
        assert_eq!(alone.find_records(VOLUME).await, newest);
        // And what it refused before it refuses now.
        let old = record_of(VOLUME, 1, 0, now(&cluster) - 60_000);
        let refused = alone.publish_record(&old).await;
        assert_eq!(refused, Err(PointerError::Stale));
    });
}

#[test]
fn a_lone_peer_keeps_its_own() {
    run(async {
        let cluster = cluster(1, usize::MAX, 5).await;
        let blocks = cluster.blocks(0).unwrap();
        let own = record(&cluster, 1);
        assert_eq!(blocks.publish_record(&own).await.unwrap(), 1);
        let found = blocks.look_for_records(VOLUME).await;
        assert_eq!((found.records, found.asked), (vec![own], 0));
    });
}

/// Of 30 peers, 20 keep a record. One that is closer than all of them comes, and the publisher is gone.
#[test]
fn a_newcomer_is_given_what_belongs_to_it() {
    run(async {
        let mut cluster = cluster(30, usize::MAX, 6).await;
        let order = by_distance(&cluster);
        let publisher = order[25];
        let (first, second) = (record(&cluster, 1), record_of(VOLUME, 2, 3, now(&cluster)));
        let blocks = cluster.blocks(publisher).unwrap().clone();
        assert_eq!(blocks.publish_record(&first).await.unwrap(), 21);
        assert_eq!(blocks.publish_record(&second).await.unwrap(), 21);
        // All have seen that there is something to keep.
        tokio::time::sleep(15 * SECOND).await;
        drop(blocks);
        cluster.crash(publisher);
        let target = point(&volume_key(&VOLUME));
        let away = |id: &PeerId| distance(&peer_point(id), &target);
        let closest = away(&cluster.id(order[0]).unwrap());
        let mut ids = (0u64..).map(|tag| PeerId(*blake3::hash(&tag.to_be_bytes()).as_bytes()));
        let id = ids.find(|id| away(id) < closest).unwrap();
        let new = cluster.add_as(id).await.unwrap();
        assert!(kept(&cluster, order[1], new, VOLUME).await.is_empty());
        let before = cluster.hub.trace().count();
        tokio::time::sleep(30 * SECOND).await;
        let mut given = kept(&cluster, order[1], new, VOLUME).await;
        given.sort();
        let mut all = [Bytes::from(first.encode()), Bytes::from(second.encode())];
        all.sort();
        assert_eq!(given, all);
        println!("{} events", cluster.hub.trace().count() - before);
        // Nobody goes on sending.
        let before = cluster.hub.trace().count();
        tokio::time::sleep(600 * SECOND).await;
        let more = cluster.hub.trace().count() - before;
        assert!(more < 50, "{more} events in a quiet time");
    });
}

/// Nobody knows whom the others told. Within a day each record is published again by one of those that keep it, and
/// what was left out has it.
#[test]
fn records_are_published_again_once_a_day() {
    run(async {
        let options = ClusterOptions {
            peers: 24,
            keep_trace: true,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, 7).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        let order = by_distance(&cluster);
        let record = record(&cluster, 1);
        // Brought to one only, by somebody who does nothing more.
        let lone = order[3];
        assert_eq!(
            bring(&cluster, order[23], lone, record.encode()).await,
            Response::Done
        );
        tokio::time::sleep(DAY + DAY / 8).await;
        for at in &order[..POINTER_HOLDERS] {
            assert_eq!(
                kept(&cluster, order[22], *at, VOLUME).await.len(),
                1,
                "{at}"
            );
        }
        let sent = |cluster: &Cluster| {
            let trace = cluster.hub.trace();
            let lines = trace.lines().iter();
            lines
                .filter(|line| line.contains(" send ") && line.ends_with(" publish"))
                .count()
        };
        let before = sent(&cluster);
        tokio::time::sleep(DAY + DAY / 4).await;
        let again = sent(&cluster) - before;
        println!("published {before} times on the first day, {again} on the next");
        assert!((1..=3 * POINTER_HOLDERS).contains(&again));
    });
}

#[test]
fn a_flood_is_bounded() {
    run(async {
        let options = ClusterOptions {
            peers: 4,
            quota_bytes: 32 << 20,
            ..ClusterOptions::default()
        };
        let mut cluster = Cluster::start(options, 8).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        let own = record(&cluster, 1);
        let blocks = cluster.blocks(1).unwrap().clone();
        assert_eq!(blocks.publish_record(&own).await.unwrap(), 4);
        // Made-up writers of the same volume, all newer: they displace one another, and not the one that is known.
        for number in 0..150 {
            let later = record_of(VOLUME, 2, number, now(&cluster) + 1000 + number);
            bring(&cluster, 0, 3, later.encode()).await;
        }
        let records = kept(&cluster, 0, 3, VOLUME).await;
        assert_eq!(records.len(), POINTERS_PER_VOLUME_MAX);
        assert!(records.contains(&Bytes::from(own.encode())));
        // Made-up volumes: a share of what is kept for others, and no more.
        let used = cluster.blocks(3).unwrap().store().usage().allocated;
        let (mut taken, mut full) = (0, 0);
        for number in 0..400u16 {
            let mut volume = [9; 16];
            volume[..2].copy_from_slice(&number.to_be_bytes());
            let record = record_of(VolumeId(volume), 2, 0, now(&cluster));
            match bring(&cluster, 0, 3, record.encode()).await {
                Response::Done => taken += 1,
                answer => {
                    assert_eq!(refusal(&answer), Some(Refusal::Full));
                    full += 1;
                }
            }
        }
        let more = cluster.blocks(3).unwrap().store().usage().allocated - used;
        println!("{taken} taken, {full} refused, {more} bytes");
        // 32 MiB of quota, 64 KiB for each, a quarter for one peer, 63 of which are of the volume above.
        assert_eq!(taken, 128 - 63);
        assert!(more < 1 << 20);
        // Others still find room, and so it stays after a restart.
        let theirs = record_of(VolumeId([3; 16]), 4, 0, now(&cluster));
        let answer = bring(&cluster, 2, 3, theirs.encode()).await;
        assert_eq!(answer, Response::Done);
        cluster.crash(3);
        cluster.restart(3).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        let another = record_of(VolumeId([4; 16]), 2, 0, now(&cluster));
        let answer = bring(&cluster, 0, 3, another.encode()).await;
        assert_eq!(refusal(&answer), Some(Refusal::Full));
    });
}

/// Somebody who answers with nonsense is not believed, and one who is silent holds nobody up for long.
#[test]
fn damaged_answers_and_silence_do_no_harm() {
    run(async {
        let cluster = cluster(9, usize::MAX, 9).await;
        let record = record(&cluster, 1);
        let blocks = cluster.blocks(0).unwrap();
        assert_eq!(blocks.publish_record(&record).await.unwrap(), 9);
        for at in 1..4 {
            cluster.hub.corrupt(cluster.id(at).unwrap(), 1.0);
        }
        let silence = LinkFaults {
            loss: 1.0,
            ..ClusterOptions::default().faults
        };
        for at in 6..8 {
            let (reader, silent) = (cluster.id(8).unwrap(), cluster.id(at).unwrap());
            cluster.hub.link(reader, silent, silence);
        }
        let begun = tokio::time::Instant::now();
        let reader = cluster.blocks(8).unwrap();
        assert_eq!(reader.find_records(VOLUME).await, [record]);
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        let lies = |at: usize| reader.peer_stats().lies(&cluster.id(at).unwrap());
        assert_eq!((lies(1), lies(4)), (1, 0));
    });
}

/// Messages about feeds reach who serves them; the rest is told that nobody does.
#[test]
fn messages_about_feeds_are_handed_on() {
    run(async {
        let cluster = cluster(2, usize::MAX, 10).await;
        let net = cluster.blocks(0).unwrap().net().clone();
        let other = cluster.id(1).unwrap();
        let body = Bytes::from(vec![5; 100_000]);
        let request = Request::Feed { body: body.clone() };
        let answer = net.request(other, request.clone(), SECOND).await;
        assert_eq!(answer, Ok(Response::Unsupported));
        let mut inbound = cluster.feeds(1).unwrap().open();
        let asker = cluster.id(0).unwrap();
        let serving = tokio::spawn(async move {
            let asked = inbound.recv().await.unwrap();
            assert_eq!((asked.from, asked.body), (asker, body));
            let body = Bytes::from_static(b"answer");
            asked.reply.send(Response::Feed { body }).unwrap();
        });
        let answer = net.request(other, request, SECOND).await;
        let body = Bytes::from_static(b"answer");
        assert_eq!(answer, Ok(Response::Feed { body }));
        serving.await.unwrap();
    });
}
