//! Members and strangers who do wrong: each is found out and named, and the others come to no harm.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Clock, wire};
use cairnfs::crypto::{Purpose, SigningKey};
use cairnfs::feeds::signed::Record;
use cairnfs::feeds::{Answer, Claim, Link, LinkHash, Message, SealedDelta};
use cairnfs::namespace::{Delta, Field, Ino, Key, Name, Value, Write, WriterId};
use cairnfs::net::Response;
use cairnfs::vfs::Rights;
use serde_bytes::ByteBuf;

use super::run;
use super::world::{READER, SECOND, WRITERS, World};
use crate::common::member::{ID, proof};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A world in which each writer wrote something that all have.
pub async fn settled(seed: u64) -> World {
    let world = World::new(seed).await;
    for number in 0..WRITERS {
        let hand = world.hand(number);
        let path = format!("of-{number}");
        hand.replace(&path, path.as_bytes()).await.unwrap();
    }
    world.settle().await;
    world.take_warnings();
    world
}

/// Some members write on, and come to the same with each other and with those who only read.
pub async fn go_on(world: &World, members: &[usize], tag: &str) {
    let mut paths = Vec::new();
    let writes = |number: &&usize| world.members[**number].device.rights == Rights::Write;
    for number in members.iter().filter(writes) {
        let path = format!("{tag}-{number}");
        let hand = world.hand(*number);
        hand.replace(&path, &vec![7; 20_000]).await.unwrap();
        paths.push(path);
    }
    world.settle_of(members).await;
    let tree = world.tree_of(members).await;
    for path in paths {
        assert!(tree.contains_key(&path), "{path} is missing");
    }
}

const ALL: [usize; 6] = [0, 1, 2, 3, 4, READER];

/// The feed of a member, as it told it.
async fn feed(world: &World, number: usize) -> Vec<SealedDelta> {
    let vfs = world.vfs(number);
    let found = vfs.deltas(vfs.writer(), 0, usize::MAX).await.unwrap();
    let decoded = found.deltas.iter().map(|delta| SealedDelta::decode(delta));
    decoded.map(Result::unwrap).collect()
}

fn encoded(feed: &[SealedDelta]) -> Vec<Bytes> {
    feed.iter().map(|delta| delta.encode().into()).collect()
}

/// What member 1 did when it made a file.
async fn making(world: &World) -> Delta {
    let deltas = feed(world, 1).await;
    let opened = deltas
        .iter()
        .map(|delta| delta.open(&world.secrets.epoch).unwrap());
    opened.max_by_key(|delta| delta.draft.writes.len()).unwrap()
}

fn writer_of(key: &SigningKey) -> WriterId {
    WriterId {
        peer: key.peer(),
        incarnation: 0,
    }
}

/// The first delta of a writer of one's own, which does what another did.
async fn own_delta(world: &World, key: &SigningKey, proof: Option<Bytes>) -> Bytes {
    let made = making(world).await;
    let mut draft = made.draft.clone();
    draft.context = made.context();
    if let Some(proof) = proof {
        draft.writes.push(Write {
            key: Key::Member(key.peer()),
            keeps: Vec::new(),
            values: vec![Value::Member(proof)],
        });
    }
    draft.writes.sort_by_key(|write| write.key.encode());
    let delta = draft.enter(writer_of(key), 0);
    let epoch = (1, &world.secrets.epoch);
    let sealed = SealedDelta::seal(&delta, ID, None, epoch, key).unwrap();
    sealed.encode().into()
}

fn has_feed_of(world: &World, number: usize, key: &SigningKey) -> bool {
    let claims = world.vfs(number).claims();
    claims.iter().any(|claim| claim.writer.peer == key.peer())
}

#[test]
fn a_forged_delta_is_refused_and_named() {
    run(async {
        let mut world = settled(100).await;
        let villain = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&villain).await;
        let deltas = feed(&world, 1).await;
        let last = deltas.last().unwrap();
        // What would be the next of member 1, with the signature of another.
        let link = Link {
            first: last.link().last + 1,
            last: last.link().last + 1,
            previous: Some(last.hash()),
            ..last.link().record().clone()
        };
        let body = link.encode();
        let signature = villain.sign(Purpose::FeedLink, &body);
        let text = ByteBuf::from(last.text().to_vec());
        let forged = wire::encode(&(ByteBuf::from(body), signature, text));
        // One that was signed, with other bytes sealed in it; and one of which the last byte is missing.
        let mut damaged = last.encode();
        *damaged.last_mut().unwrap() ^= 1;
        let mut short = last.encode();
        short.pop();
        let before = world.standing(0);
        let given = [forged.into(), damaged.into(), short.into()];
        world.give(at, &given, link.last).await;
        assert_eq!(world.standing(0), before);
        let warned = world.take_warnings();
        let name = format!("a forgery in the name of {}", world.peer(1));
        assert_eq!(warned.matches(&name).count(), ALL.len(), "{warned}");
        assert!(
            warned.contains("sealed text of a delta is damaged"),
            "{warned}"
        );
        assert!(warned.contains(&villain.peer().short()));
        go_on(&world, &ALL, "after").await;
    });
}

#[test]
fn a_delta_that_comes_again_changes_nothing() {
    run(async {
        let mut world = settled(101).await;
        let villain = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&villain).await;
        let mut deltas = encoded(&feed(&world, 1).await);
        deltas.reverse();
        let last = feed(&world, 1).await.last().unwrap().link().last;
        let (before, tree) = (world.standing(0), world.tree().await);
        for _ in 0..3 {
            world.give(at, &deltas, last).await;
        }
        let received = world.vfs(0).receive(villain.peer(), deltas.clone()).await;
        assert_eq!((received.merged, received.missing.len()), (0, 0));
        assert_eq!(world.standing(0), before);
        // Those who began anew remember less of the feed.
        for number in [0, READER] {
            world.crash(number).await;
            world.begin(number).await;
        }
        world.give(at, &deltas, last).await;
        world.settle().await;
        assert_eq!(world.tree().await, tree);
        // What was removed does not come back with it.
        world.hand(2).unlink("of-1").await.unwrap();
        world.settle().await;
        world.give(at, &deltas, last).await;
        go_on(&world, &ALL, "after").await;
        assert!(!world.tree().await.contains_key("of-1"));
        assert_eq!(world.take_warnings(), "");
    });
}

#[test]
fn a_device_without_a_proof_writes_nothing() {
    run(async {
        let mut world = settled(102).await;
        let villain = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&villain).await;
        let tree = world.tree().await;
        // Without any, with that of another, and with something else.
        let proofs = [
            None,
            Some(proof(world.peer(1), Rights::Write)),
            Some(Bytes::from_static(b"let me in")),
        ];
        for brought in proofs {
            let is_there = brought.is_some();
            world
                .give(at, &[own_delta(&world, &villain, brought).await], 9)
                .await;
            let warned = world.take_warnings();
            let name = format!("{:?}", writer_of(&villain));
            let refused = "is not known as a member";
            assert_eq!(warned.matches(refused).count(), ALL.len(), "{warned}");
            assert!(warned.contains(&name), "{name} is not in {warned}");
            assert_eq!(warned.contains("no proof of this device"), is_there);
        }
        assert_eq!(world.tree().await, tree);
        go_on(&world, &ALL, "after").await;
        assert!(ALL.iter().all(|at| !has_feed_of(&world, *at, &villain)));
    });
}

#[test]
fn a_reader_that_writes_is_refused_until_it_may() {
    run(async {
        let mut world = settled(103).await;
        let reader = world.members[READER].device.key.clone();
        let at = world.members[READER].at;
        let tree = world.tree().await;
        // It holds the keys, and knows what deltas look like.
        let word = proof(reader.peer(), Rights::Read);
        let delta = own_delta(&world, &reader, Some(word)).await;
        world.give(at, &[delta], 9).await;
        let warned = world.take_warnings();
        let name = format!("{:?}", writer_of(&reader));
        assert!(
            warned.matches("may only read").count() >= WRITERS,
            "{warned}"
        );
        assert!(warned.contains(&name), "{name} is not in {warned}");
        assert_eq!(world.tree().await, tree);
        go_on(&world, &ALL, "after").await;
        assert!((0..WRITERS).all(|at| !has_feed_of(&world, at, &reader)));
        // It is given another proof.
        world.shut(READER).await;
        world.members[READER].device.rights = Rights::Write;
        world.begin(READER).await;
        go_on(&world, &ALL, "later").await;
        assert!((0..WRITERS).all(|at| has_feed_of(&world, at, &reader)));
    });
}

/// Lets a peer answer whatever is said of feeds.
fn answers(world: &World, at: usize, answer: impl Fn(Message) -> Vec<Message> + Send + 'static) {
    let mut door = world.cluster.feeds(at).unwrap().open();
    tokio::spawn(async move {
        while let Some(asked) = door.recv().await {
            let mut said = Answer::default();
            if let Ok(message) = Message::decode(&asked.body) {
                for message in answer(message) {
                    assert!(said.push(&message));
                }
            }
            let body = said.encode().into();
            // Who does not wait any longer has been told enough.
            let _ = asked.reply.send(Response::Feed { body });
        }
    });
}

fn heads(claims: Vec<Claim>) -> Message {
    Message::Heads {
        volume: ID,
        after: None,
        is_last: true,
        claims,
        signed: Vec::new(),
    }
}

#[test]
fn who_has_less_of_a_feed_than_it_says_is_named() {
    run(async {
        let mut world = settled(104).await;
        let villain = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&villain).await;
        let mut claims = world.vfs(0).claims();
        for claim in &mut claims {
            claim.last += 50;
            claim.hash = LinkHash([3; 32]);
        }
        let far = claims.clone();
        answers(&world, at, move |message| match message {
            Message::Want { writer, .. } => vec![Message::Have {
                volume: ID,
                writer,
                last: 1_000_000,
                deltas: Vec::new(),
            }],
            Message::Heads { .. } => vec![heads(far.clone())],
            Message::Have { .. } | Message::Words { .. } => Vec::new(),
        });
        for to in 0..ALL.len() {
            world.say(at, to, heads(claims.clone()).encode()).await;
        }
        tokio::time::sleep(SECOND).await;
        let warned = world.take_warnings();
        let name = villain.peer().short();
        assert!(warned.contains("less of a feed than it said"), "{warned}");
        assert!(warned.contains(&name), "{name} is not in {warned}");
        go_on(&world, &ALL, "after").await;
    });
}

#[test]
fn a_feed_of_which_the_end_was_withheld_is_had_from_others() {
    run(async {
        let mut world = settled(105).await;
        // Its peer is away as well: it would keep the ends of feeds for others.
        world.crash(READER).await;
        let shown = feed(&world, 1).await;
        go_on(&world, &[0, 1, 2, 3, 4], "while").await;
        // The reader hears of nobody but one who keeps back what member 1 did lately.
        let villain = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&villain).await;
        let last = shown.last().unwrap().link().last;
        let hash = shown.last().unwrap().hash();
        let of = world.vfs(1).writer();
        let claims = vec![Claim {
            writer: of,
            last,
            hash,
        }];
        answers(&world, at, move |message| match message {
            Message::Want { writer, after, .. } if writer == of => {
                let rest = shown.iter().filter(|delta| delta.link().first > after);
                vec![Message::Have {
                    volume: ID,
                    writer,
                    last,
                    deltas: rest.map(|delta| delta.encode().into()).collect(),
                }]
            }
            Message::Heads { .. } => vec![heads(claims.clone())],
            _ => Vec::new(),
        });
        let reader = world.cluster.id(world.members[READER].at).unwrap();
        let alone = vec![reader, villain.peer()];
        world.cluster.hub.partition(&[alone]);
        world.begin(READER).await;
        tokio::time::sleep(2 * MINUTE).await;
        assert!(world.hand(READER).find("while-1").await.is_err());
        world.cluster.hub.heal();
        go_on(&world, &ALL, "after").await;
    });
}

#[test]
fn what_a_writer_with_a_wrong_clock_did_waits_until_it_is_due() {
    run(async {
        let mut world = settled(106).await;
        let others = [0, 1, 2, 3, READER];
        let now_ms = world.cluster.clock().now_ms();
        let ahead = now_ms + 30 * MINUTE.as_millis() as u64;
        world.shut(4).await;
        world.members[4].clock = Clock::simulated(ahead);
        world.begin(4).await;
        let began = tokio::time::Instant::now();
        world.hand(4).replace("early", b"early").await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        for number in others {
            let progress = world.vfs(number).progress();
            let of = |ahead: &&cairnfs::feeds::Ahead| ahead.writer.peer == world.peer(4);
            let named = progress.ahead.iter().find(of);
            let by_ms = named.unwrap_or_else(|| panic!("{progress:?}")).by_ms;
            assert!((1_700_000..=1_800_000).contains(&by_ms), "{by_ms}");
            assert!(world.hand(number).find("early").await.is_err());
        }
        // By the clock that is wrong all others are behind.
        tokio::time::sleep(60 * SECOND).await;
        for number in others {
            let clocks = world.sharer(number).clocks();
            assert_eq!(clocks.own_ms, None, "at {number}");
            assert_eq!(clocks.others.len(), 1, "at {number}: {clocks:?}");
            assert_eq!(clocks.others[0].0, world.peer(4));
        }
        let clocks = world.sharer(4).clocks();
        let own_ms = clocks.own_ms.unwrap_or_else(|| panic!("{clocks:?}"));
        assert!((1_700_000..=1_900_000).contains(&own_ms), "{own_ms}");
        assert_eq!(clocks.others, []);
        go_on(&world, &others, "while").await;
        // It sees what the others do.
        assert!(world.hand(4).find("while-1").await.is_ok());
        tokio::time::sleep_until(began + 19 * MINUTE).await;
        assert!(world.hand(0).find("early").await.is_err());
        tokio::time::sleep_until(began + 21 * MINUTE).await;
        assert_eq!(world.hand(0).read("early").await.unwrap(), b"early");
        world.settle_of(&others).await;
        let progress = world.vfs(0).progress();
        assert_eq!((progress.waiting, progress.ahead.len()), (0, 0));
        // It has learned nothing: what it does now waits again, and what it is told is not lost.
        go_on(&world, &others, "after").await;
    });
}

#[test]
fn what_is_a_year_ahead_is_there_a_year_later() {
    run(async {
        let mut world = settled(107).await;
        let others = [0, 1, 2, 3, READER];
        let year = 365 * DAY.as_millis() as u64;
        world.shut(4).await;
        let now_ms = world.cluster.clock().now_ms();
        world.members[4].clock = Clock::simulated(now_ms + year);
        world.begin(4).await;
        let hand = world.hand(4);
        hand.replace("early", b"early").await.unwrap();
        hand.replace("of-1", b"changed by one from the future")
            .await
            .unwrap();
        world.vfs(4).sync().await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        let progress = world.vfs(0).progress();
        let named = progress
            .ahead
            .iter()
            .find(|ahead| ahead.writer.peer == world.peer(4));
        assert!(
            named.is_some_and(|named| named.by_ms > year - 600_000),
            "{progress:?}"
        );
        // What others do on top of the old content is theirs.
        world
            .hand(1)
            .replace("of-1", b"of the present")
            .await
            .unwrap();
        go_on(&world, &others, "while").await;
        assert_eq!(world.hand(0).read("of-1").await.unwrap(), b"of the present");
        for number in others {
            world.shut(number).await;
            let now_ms = world.cluster.clock().now_ms();
            world.members[number].clock = Clock::simulated(now_ms + year);
        }
        for number in others {
            world.begin(number).await;
        }
        world.settle().await;
        let tree = world.tree().await;
        assert_eq!(tree["early"].content, b"early");
        let shown: Vec<&[u8]> = tree.values().map(|seen| &seen.content[..]).collect();
        for content in [&b"of the present"[..], b"changed by one from the future"] {
            assert!(shown.contains(&content), "{:?}", tree.keys());
        }
        go_on(&world, &ALL, "after").await;
    });
}

#[test]
fn what_is_no_message_is_refused() {
    run(async {
        let mut world = settled(108).await;
        let villain = SigningKey::generate(&world.cluster.entropy);
        let at = world.stranger(&villain).await;
        let entropy = world.cluster.entropy.fork();
        let deltas = encoded(&feed(&world, 1).await);
        let valid = [
            heads(world.vfs(0).claims()).encode(),
            Message::Have {
                volume: ID,
                writer: world.vfs(1).writer(),
                last: 9,
                deltas,
            }
            .encode(),
            Message::Want {
                volume: ID,
                writer: world.vfs(1).writer(),
                after: 0,
                limit_bytes: u32::MAX,
            }
            .encode(),
        ];
        let before = world.standing(0);
        for turn in 0..300 {
            let to = entropy.below(ALL.len() as u64) as usize;
            let body = match turn % 3 {
                0 => {
                    let mut bytes = vec![0; entropy.below(2000) as usize];
                    entropy.fill(&mut bytes);
                    bytes
                }
                1 => {
                    let mut bytes = valid[entropy.below(3) as usize].clone();
                    bytes.truncate(entropy.below(bytes.len() as u64) as usize);
                    bytes
                }
                _ => {
                    let mut bytes = valid[1].clone();
                    let bit = entropy.below(8 * bytes.len() as u64);
                    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                    bytes
                }
            };
            world.say(at, to, body).await;
        }
        let warned = world.take_warnings();
        let name = villain.peer().short();
        let refused = warned.matches("a message about feeds was refused").count();
        // Those that name another volume nobody reads.
        assert!(refused >= 150, "{refused} of {warned}");
        assert!(warned.contains(&name), "{name} is not in {warned}");
        // Whole messages among them were true.
        assert_eq!(world.standing(0), before);
        go_on(&world, &ALL, "after").await;
    });
}

/// A first delta of a member, which gives the top directory so many extended attributes of 60,000 bytes.
async fn heavy_delta(world: &World, key: &SigningKey, count: usize) -> Bytes {
    let made = making(world).await;
    let mut draft = made.draft.clone();
    draft.context = made.context();
    draft.writes = vec![Write {
        key: Key::Member(key.peer()),
        keeps: Vec::new(),
        values: vec![Value::Member(proof(key.peer(), Rights::Write))],
    }];
    for number in 0..count {
        let name = Name::xattr(format!("user.heavy-{number}").as_bytes()).unwrap();
        draft.writes.push(Write {
            key: Key::Xattr(Ino::ROOT, name),
            keeps: Vec::new(),
            values: vec![Value::Xattr(Field {
                at: made.draft.hlc,
                value: vec![number as u8; 60_000].into(),
            })],
        });
    }
    draft.writes.sort_by_key(|write| write.key.encode());
    let delta = draft.enter(writer_of(key), 0);
    let epoch = (1, &world.secrets.epoch);
    let sealed = SealedDelta::seal(&delta, ID, None, epoch, key).unwrap();
    sealed.encode().into()
}

/// A member's delta is sound and larger than what any operation makes: with what it changes, or by itself.
#[test]
fn a_delta_that_no_group_has_room_for_holds_up_nobody_else() {
    run(async {
        for (count, why) in [(12, "cannot be merged"), (30, "more than any operation")] {
            let mut world = settled(107).await;
            let villain = SigningKey::generate(&world.cluster.entropy);
            let at = world.stranger(&villain).await;
            world
                .give(at, &[heavy_delta(&world, &villain, count).await], 9)
                .await;
            let warned = world.take_warnings();
            assert!(warned.contains(why), "{count}: {warned}");
            assert!(!has_feed_of(&world, 0, &villain));
            go_on(&world, &ALL, "after").await;
        }
    });
}
