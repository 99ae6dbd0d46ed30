//! Peers that keep the ends of feeds: what they take, what they refuse, what they remember, and what they let go.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::VolumeId;
use cairnfs::base::limits::{TAIL_MAX_BYTES, TAILS_PEER_SHARE, TAILS_QUOTA_SHARE};
use cairnfs::crypto::{EpochKey, Purpose, SigningKey};
use cairnfs::feeds::{Covered, Keeping, Kept, SealedDelta, Signed, TailEnd, TailVerdict};
use cairnfs::namespace::{Draft, Hlc, Key, Value, VersionVector, Write, WriterId};
use cairnfs::net::{Request, Response};
use cairnfs::testkit::{Cluster, ClusterOptions};
use serde_bytes::ByteBuf;

use super::simulate;

const VOLUME: VolumeId = VolumeId([7; 16]);
const SECOND: Duration = Duration::from_secs(1);
const QUOTA: u64 = 64 << 20;

fn writer(device: &SigningKey, incarnation: u64) -> WriterId {
    WriterId {
        peer: device.peer(),
        incarnation,
    }
}

/// A feed of deltas with so many bytes each, about; `mark` tells branches apart.
fn feed_of(writer: WriterId, device: &SigningKey, sizes: &[usize], mark: u8) -> Vec<SealedDelta> {
    let mut feed: Vec<SealedDelta> = Vec::new();
    for size in sizes {
        let parts = size.div_ceil(8000).max(1);
        let write = |part: usize| Write {
            key: Key::Member(cairnfs::base::PeerId([part as u8; 32])),
            keeps: Vec::new(),
            values: vec![Value::Member(vec![mark; size / parts].into())],
        };
        let draft = Draft {
            context: VersionVector::default(),
            hlc: Hlc::from_ms(1),
            writes: (0..parts).map(write).collect(),
        };
        let seen = feed.last().map_or(0, |delta| delta.link().last);
        let delta = draft.enter(writer, seen);
        let previous = feed.last().map(SealedDelta::link);
        let key = EpochKey::from_bytes([9; 32]);
        feed.push(SealedDelta::seal(&delta, VOLUME, previous, (1, &key), device).unwrap());
    }
    feed
}

fn encoded(deltas: &[SealedDelta]) -> Vec<Bytes> {
    deltas.iter().map(|delta| delta.encode().into()).collect()
}

fn word(device: &SigningKey, of: &SealedDelta) -> Signed<Covered> {
    let word = Covered {
        volume: VOLUME,
        writer: of.link().writer,
        upto: of.link().last,
        hash: of.hash(),
        hlc: Hlc::from_ms(1),
    };
    Signed::sign(word, device).unwrap()
}

/// A keeper, peer 0, and those who talk to it.
struct Club {
    cluster: Cluster,
    /// The device of peer 1.
    device: SigningKey,
}

impl Club {
    async fn new(seed: u64) -> Club {
        let options = ClusterOptions {
            peers: 6,
            quota_bytes: QUOTA,
            signs: true,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, seed).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        let device = cluster.key(1).unwrap().clone();
        Club { cluster, device }
    }

    async fn say(&self, from: usize, message: &[u8]) -> Response {
        let net = self.cluster.blocks(from).unwrap().net();
        let body = Bytes::copy_from_slice(message);
        let keeper = self.cluster.id(0).unwrap();
        net.request(keeper, Request::Feed { body }, 20 * SECOND)
            .await
            .unwrap()
    }

    async fn hear(&self, from: usize, message: &Keeping) -> Keeping {
        match self.say(from, &message.encode()).await {
            Response::Feed { body } => Keeping::decode(&body).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Brings deltas of a feed.
    async fn bring(
        &self,
        from: usize,
        writer: WriterId,
        covered: Option<Signed<Covered>>,
        deltas: Vec<Bytes>,
    ) -> Kept {
        let keep = Keeping::Keep {
            volume: VOLUME,
            writer,
            covered,
            deltas,
        };
        match self.hear(from, &keep).await {
            Keeping::Kept(kept) => *kept,
            other => panic!("{other:?}"),
        }
    }

    async fn list(&self) -> Vec<TailEnd> {
        match self.hear(2, &Keeping::Ask { volume: VOLUME }).await {
            Keeping::Tails { tails, .. } => tails,
            other => panic!("{other:?}"),
        }
    }

    /// All that is kept of a feed, asked for in parts.
    async fn all(&self, writer: WriterId) -> Vec<SealedDelta> {
        let mut found: Vec<SealedDelta> = Vec::new();
        loop {
            let want = Keeping::Want {
                volume: VOLUME,
                writer,
                after: found.last().map_or(0, |delta| delta.link().last),
                limit_bytes: 300_000,
            };
            let given = match self.hear(2, &want).await {
                Keeping::Given { deltas, .. } => deltas,
                other => panic!("{other:?}"),
            };
            if given.is_empty() {
                return found;
            }
            let bytes: usize = given.iter().map(Bytes::len).sum();
            assert!(bytes <= 300_000 || given.len() == 1);
            found.extend(
                given
                    .iter()
                    .map(|delta| SealedDelta::decode(delta).unwrap()),
            );
        }
    }

    async fn restart(&mut self) {
        self.cluster.crash(0);
        self.cluster.restart(0).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
    }
}

#[test]
fn a_feed_is_kept_through_restarts_until_its_writer_lets_go() {
    simulate(async {
        let mut club = Club::new(1).await;
        let own = writer(&club.device, 0);
        let mut sizes: Vec<usize> = (0..60).map(|n| [100, 9000, 40, 60_000][n % 4]).collect();
        sizes[14] = 250_000;
        let feed = feed_of(own, &club.device, &sizes[..20], 1);
        for part in feed.chunks(7) {
            let kept = club.bring(1, own, None, encoded(part)).await;
            assert_eq!(kept.verdict, TailVerdict::Kept);
            let head = part.last().unwrap().link();
            assert_eq!(kept.tail.head(), Some(head));
        }
        assert_eq!(club.all(own).await, feed);
        // What comes again, and what comes too early, changes nothing.
        let again = club.bring(1, own, None, encoded(&feed[3..9])).await;
        assert_eq!(again.verdict, TailVerdict::Kept);
        let longer = feed_of(own, &club.device, &sizes[..30], 1);
        assert_eq!(longer[..20], feed);
        let early = club.bring(1, own, None, encoded(&longer[25..])).await;
        assert_eq!(early.verdict, TailVerdict::Gap);
        club.restart().await;
        assert_eq!(club.all(own).await, feed);
        let kept = club.bring(1, own, None, encoded(&longer[20..])).await;
        assert_eq!(kept.verdict, TailVerdict::Kept);
        let full = kept.bytes;
        // A checkpoint up to the middle of what came at once, and nobody else's word.
        let covered = word(&club.device, &longer[11]);
        let kept = club.bring(3, own, Some(covered.clone()), Vec::new()).await;
        assert_eq!(kept.tail.start(), longer[11].link().last);
        assert!(kept.bytes < full && kept.bytes > 0);
        assert_eq!(club.all(own).await, longer[12..]);
        club.restart().await;
        assert_eq!(club.all(own).await, longer[12..]);
        let older = word(&club.device, &longer[3]);
        let kept = club
            .bring(1, own, Some(older), encoded(&longer[..12]))
            .await;
        assert_eq!(kept.verdict, TailVerdict::Kept);
        assert_eq!(club.all(own).await, longer[12..]);
        // Up to the end: the place from which it goes on stays.
        let covered = word(&club.device, &longer[29]);
        let kept = club.bring(1, own, Some(covered.clone()), Vec::new()).await;
        assert_eq!((kept.bytes, kept.tail.covered()), (0, Some(&covered)));
        let more = feed_of(own, &club.device, &sizes[..32], 1);
        club.restart().await;
        assert!(club.all(own).await.is_empty());
        let kept = club.bring(1, own, None, encoded(&more[30..])).await;
        assert_eq!(kept.verdict, TailVerdict::Kept);
        assert_eq!(club.all(own).await, more[30..]);
        let rows = club.cluster.blocks(0).unwrap().store();
        let runs = rows.kv_scan("tail-runs", &[]).await.unwrap();
        assert!(runs.len() <= 6, "{} runs", runs.len());
    });
}

#[test]
fn forged_cut_off_and_oversized_deltas_are_refused_and_what_is_good_stays() {
    simulate(async {
        let club = Club::new(2).await;
        let own = writer(&club.device, 0);
        let feed = feed_of(own, &club.device, &[100, 100, 100, 100], 1);
        club.bring(1, own, None, encoded(&feed[..2])).await;
        // In the name of the writer, by somebody else.
        let villain = club.cluster.key(4).unwrap();
        let body = feed[2].link().body().to_vec();
        let signature = villain.sign(Purpose::FeedLink, &body);
        let text = ByteBuf::from(feed[2].text().to_vec());
        let forged = cairnfs::base::wire::encode(&(ByteBuf::from(body), signature, text));
        let mut damaged = feed[2].encode();
        *damaged.last_mut().unwrap() ^= 1;
        let mut cut_off = feed[2].encode();
        cut_off.pop();
        for bad in [forged, damaged, cut_off] {
            let kept = club.bring(4, own, None, vec![bad.into()]).await;
            assert_eq!(kept.verdict, TailVerdict::Refused);
            assert_eq!(kept.tail.head(), Some(feed[1].link()));
        }
        // What is good before it counts.
        let mixed = vec![feed[2].encode().into(), Bytes::from_static(b"nothing")];
        let kept = club.bring(4, own, None, mixed).await;
        assert_eq!(kept.verdict, TailVerdict::Refused);
        assert_eq!(kept.tail.head(), Some(feed[2].link()));
        // Another branch, by the writer itself.
        let branch = feed_of(own, &club.device, &[100, 100, 90, 100], 2);
        for part in [&branch[2..3], &branch[3..]] {
            let kept = club.bring(1, own, None, encoded(part)).await;
            assert_eq!(kept.verdict, TailVerdict::Forked);
        }
        let word_of_branch = word(&club.device, &branch[2]);
        let kept = club.bring(1, own, Some(word_of_branch), Vec::new()).await;
        assert_eq!(kept.verdict, TailVerdict::Forked);
        assert_eq!(club.all(own).await, feed[..3]);
        // Longer than any operation makes.
        let long = writer(&club.device, 1);
        let large = feed_of(long, &club.device, &[1_100_000], 1);
        let kept = club.bring(1, long, None, encoded(&large)).await;
        assert_eq!((kept.verdict, kept.bytes), (TailVerdict::Refused, 0));
        // Of another volume or writer than it is said to be.
        let kept = club.bring(1, long, None, encoded(&feed[..1])).await;
        assert_eq!(kept.verdict, TailVerdict::Refused);
        assert_eq!(club.list().await.len(), 1);
        // What is no message at all.
        for bad in [&[0x83, 1, 5][..], &[0x83, 1, 10, 0], &[0x83, 1, 11, 0]] {
            assert_eq!(club.say(4, bad).await, Response::Unsupported);
        }
    });
}

#[test]
fn nobody_fills_more_than_a_share_and_the_others_have_their_room() {
    simulate(async {
        let club = Club::new(3).await;
        let share = QUOTA / TAILS_QUOTA_SHARE / TAILS_PEER_SHARE;
        assert!(share < TAIL_MAX_BYTES);
        let own = writer(&club.device, 0);
        let sizes = [200_000; 8];
        let feed = feed_of(own, &club.device, &sizes, 1);
        let kept = club.bring(1, own, None, encoded(&feed)).await;
        assert_eq!(kept.verdict, TailVerdict::Full);
        assert!(kept.bytes <= share && kept.bytes > share / 2);
        // Made-up writers count as those of who brings them.
        let mut taken = 0;
        for life in 0..100 {
            let made_up = SigningKey::from_secret(&[life as u8 + 1; 32]);
            let name = writer(&made_up, life);
            let feed = feed_of(name, &made_up, &[30_000], 1);
            taken += club.bring(4, name, None, encoded(&feed)).await.bytes;
        }
        assert!(taken > 0 && taken <= share, "{taken}");
        // And nobody makes way for them.
        assert_eq!(club.all(own).await, feed[..club.all(own).await.len()]);
        let other = club.cluster.key(5).unwrap().clone();
        let name = writer(&other, 0);
        let feed_of_other = feed_of(name, &other, &[500; 10], 1);
        let kept = club.bring(5, name, None, encoded(&feed_of_other)).await;
        assert_eq!(kept.verdict, TailVerdict::Kept);
        // A checkpoint gives room back.
        let last = club.all(own).await.last().unwrap().clone();
        let rest = feed
            .iter()
            .filter(|delta| delta.link().first > last.link().last);
        let rest: Vec<SealedDelta> = rest.cloned().collect();
        let covered = word(&club.device, &last);
        club.bring(1, own, Some(covered), Vec::new()).await;
        let kept = club.bring(1, own, None, encoded(&rest)).await;
        assert_eq!(kept.verdict, TailVerdict::Kept);
    });
}

#[test]
fn who_is_over_full_hears_words_and_nobody_elses_word_reaches_beyond_what_is_kept() {
    simulate(async {
        let club = Club::new(4).await;
        let own = writer(&club.device, 0);
        let feed = feed_of(own, &club.device, &[7000; 6], 1);
        club.bring(1, own, None, encoded(&feed[..4])).await;
        // It may be of another branch: only the writer has looked.
        let beyond = word(&club.device, &feed[5]);
        let kept = club.bring(3, own, Some(beyond), Vec::new()).await;
        assert_eq!((kept.tail.start(), kept.tail.last()), (0, 4));
        assert_eq!(club.all(own).await, feed[..4]);
        // More feeds than it would keep of one peer with a quota as small as that.
        let draft = Draft {
            context: VersionVector::default(),
            hlc: Hlc::from_ms(1),
            writes: Vec::new(),
        };
        let (delta, key) = (draft.enter(own, 0), EpochKey::from_bytes([9; 32]));
        for number in 100..140 {
            let volume = VolumeId([number; 16]);
            let first = SealedDelta::seal(&delta, volume, None, (1, &key), &club.device);
            let keep = Keeping::Keep {
                volume,
                writer: own,
                covered: None,
                deltas: encoded(&[first.unwrap()]),
            };
            club.hear(1, &keep).await;
        }
        let store = club.cluster.blocks(0).unwrap().store();
        store.set_quota(QUOTA / 2).unwrap();
        let kept = club.bring(1, own, None, encoded(&feed[4..])).await;
        assert_eq!((kept.verdict, kept.tail.last()), (TailVerdict::Full, 4));
        let covered = word(&club.device, &feed[2]);
        let smaller = club.bring(1, own, Some(covered), Vec::new()).await;
        assert_eq!(smaller.tail.start(), 3);
        assert!(smaller.bytes < kept.bytes);
        assert_eq!(club.all(own).await, feed[3..4]);
    });
}

#[test]
fn whoever_finds_a_keeper_busy_is_told_so_at_once() {
    simulate(async {
        let club = Club::new(5).await;
        let own = writer(&club.device, 0);
        let feed = feed_of(own, &club.device, &[100_000; 8], 1);
        let keep = Keeping::Keep {
            volume: VOLUME,
            writer: own,
            covered: None,
            deltas: encoded(&feed),
        };
        let message = keep.encode();
        let many = (0..20).map(|_| club.say(1, &message));
        let answers = futures::future::join_all(many).await;
        let busy = answers.iter().filter(|answer| **answer == Response::Busy);
        let busy = busy.count();
        assert!((1..20).contains(&busy), "{busy} of {}", answers.len());
        assert_eq!(club.all(own).await, feed);
    });
}
