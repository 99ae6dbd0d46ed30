//! Messages, their bounds, and what two lists of heads come to.

use bytes::Bytes;
use cairnfs::base::limits::{GOSSIP_FEEDS_MAX, GOSSIP_MESSAGES_MAX};
use cairnfs::base::{VolumeId, wire};
use cairnfs::feeds::gossip::{DELTAS_MAX_BYTES, GOSSIP_MAX_BYTES, fill};
use cairnfs::feeds::{
    Answer, Claim, FeedError, LinkHash, Message, Wish, decode_all, encode_all, plan,
};
use cairnfs::namespace::WriterId;

use super::support::{VOLUME, feed, head, writer};

fn claim(incarnation: u64, last: u64, hash: u8) -> Claim {
    Claim {
        writer: id(incarnation),
        last,
        hash: LinkHash([hash; 32]),
    }
}

fn id(incarnation: u64) -> WriterId {
    WriterId {
        incarnation,
        ..writer(1)
    }
}

fn heads(claims: Vec<Claim>) -> Message {
    Message::Heads {
        volume: VOLUME,
        after: None,
        is_last: true,
        claims,
        signed: Vec::new(),
    }
}

pub fn messages() -> Vec<Message> {
    let deltas = feed(1, 2, 9);
    vec![
        Message::Heads {
            volume: VOLUME,
            after: Some(id(0)),
            is_last: false,
            claims: vec![claim(1, 5, 1), claim(2, 1 << 62, 2)],
            signed: vec![head(&deltas[1], 1, 5)],
        },
        heads(Vec::new()),
        Message::Want {
            volume: VOLUME,
            writer: id(1),
            after: 0,
            limit_bytes: 1 << 20,
        },
        Message::Have {
            volume: VOLUME,
            writer: writer(1),
            last: 2,
            deltas: deltas.iter().map(|delta| delta.encode().into()).collect(),
        },
    ]
}

#[test]
fn messages_are_read_as_they_were_written() {
    assert!(!Message::is_about_another(&[], VOLUME));
    for message in messages() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes).unwrap(), message);
        assert!(!Message::is_about_another(&bytes, VOLUME));
        assert!(Message::is_about_another(&bytes, VolumeId([4; 16])));
        assert_eq!(message.volume(), VOLUME);
        for end in 0..bytes.len() {
            assert!(Message::decode(&bytes[..end]).is_err());
        }
        let mut later = bytes.clone();
        later[1] = 2;
        let error = Message::decode(&later).unwrap_err().to_string();
        assert!(error.contains("update it"), "{error}");
        later[1] = 1;
        later[2] = 9;
        assert!(Message::decode(&later).is_err());
    }
}

#[test]
fn messages_that_cannot_be_are_refused() {
    let refused = |message: Message| Message::decode(&message.encode()).unwrap_err();
    refused(heads(vec![claim(2, 1, 1), claim(1, 1, 1)]));
    refused(heads(vec![claim(1, 1, 1), claim(1, 1, 1)]));
    refused(heads(vec![claim(1, 0, 1)]));
    refused(heads(vec![claim(1, 1 << 63, 1)]));
    refused(heads((0..1025).map(|n| claim(n, 1, 1)).collect()));
    refused(Message::Heads {
        volume: VOLUME,
        after: None,
        is_last: false,
        claims: Vec::new(),
        signed: Vec::new(),
    });
    refused(Message::Heads {
        volume: VOLUME,
        after: Some(id(1)),
        is_last: true,
        claims: vec![claim(1, 1, 1)],
        signed: Vec::new(),
    });
    let foreign = Message::Heads {
        volume: cairnfs::base::VolumeId([8; 16]),
        after: None,
        is_last: true,
        claims: Vec::new(),
        signed: vec![head(&feed(1, 1, 9)[0], 1, 5)],
    };
    assert_eq!(refused(foreign), FeedError::OtherVolume);
    refused(Message::Have {
        volume: VOLUME,
        writer: id(1),
        last: 1,
        deltas: vec![Bytes::new(); 4097],
    });
    // A head that somebody else signed.
    let mut bytes = messages()[0].encode();
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    assert!(matches!(Message::decode(&bytes), Err(FeedError::Forged(_))));
}

#[test]
fn two_lists_say_what_to_ask_and_what_to_offer() {
    let own = [
        claim(1, 5, 1),
        claim(2, 7, 2),
        claim(4, 3, 4),
        claim(5, 6, 5),
    ];
    let theirs = [
        claim(1, 9, 9),
        claim(2, 7, 2),
        claim(3, 4, 3),
        claim(5, 6, 8),
    ];
    let wish = |incarnation, after, upto| Wish {
        writer: id(incarnation),
        after,
        upto,
    };
    let all = plan(&own, None, true, &theirs);
    assert_eq!(all.ask, [wish(1, 5, 9), wish(3, 0, 4)]);
    assert_eq!(all.offer, [wish(4, 0, 3)]);
    assert_eq!(all.forked, [id(5)]);
    // The same from the other side.
    let mirror = plan(&theirs, None, true, &own);
    assert_eq!(mirror.ask, all.offer);
    assert_eq!(mirror.offer, all.ask);
    assert_eq!(mirror.forked, all.forked);
    // In parts: nothing is concluded of writers outside.
    let one = plan(&own, None, false, &theirs[..2]);
    let two = plan(&own, Some(id(2)), true, &theirs[2..]);
    assert_eq!([one.ask, two.ask].concat(), all.ask);
    assert_eq!([one.offer, two.offer].concat(), all.offer);
    assert!(one.forked.is_empty());
    assert_eq!(
        plan(&own, None, true, &own),
        cairnfs::feeds::Plan::default()
    );
}

#[test]
fn a_message_is_filled_within_its_bounds() {
    let delta = |bytes: usize| Bytes::from(vec![7; bytes]);
    let taken = |sizes: &[usize], limit| fill(sizes.iter().map(|s| delta(*s)), limit).len();
    assert_eq!(taken(&[100, 100, 100], 250), 2);
    assert_eq!(taken(&[100, 100, 100], 0), 1, "one at least");
    assert_eq!(taken(&[], 100), 0);
    assert_eq!(taken(&[1 << 20; 9], usize::MAX), 4);
    let most = fill(std::iter::repeat_n(delta(500), 9000), usize::MAX);
    assert_eq!(most.len(), 4096);
    let largest = fill(std::iter::repeat_n(delta(1100), 9000), usize::MAX);
    let bytes: usize = largest.iter().map(Bytes::len).sum();
    assert!(bytes <= DELTAS_MAX_BYTES && bytes > DELTAS_MAX_BYTES - 30_000);
    let message = Message::Have {
        volume: VOLUME,
        writer: id(u64::MAX),
        last: (1 << 63) - 1,
        deltas: largest,
    };
    let bytes = message.encode();
    assert!(bytes.len() <= GOSSIP_MAX_BYTES);
    assert_eq!(Message::decode(&bytes).unwrap(), message);
}

#[test]
fn an_answer_takes_what_fits_and_no_more() {
    assert_eq!(decode_all(&encode_all(&[]).unwrap()), Ok(Vec::new()));
    let have = |bytes: usize| Message::Have {
        volume: VOLUME,
        writer: id(u64::MAX),
        last: (1 << 63) - 1,
        deltas: fill(std::iter::repeat_n(Bytes::from(vec![7; 1100]), 9000), bytes),
    };
    // The largest message that is filled fits; nothing does beside it.
    let largest = have(usize::MAX);
    let mut answer = Answer::default();
    assert!(answer.push(&largest) && !answer.push(&have(20_000)));
    assert!(
        answer.push(&heads(Vec::new())),
        "something small still does"
    );
    let bytes = answer.encode();
    assert!(bytes.len() <= GOSSIP_MAX_BYTES);
    assert_eq!(
        decode_all(&bytes).unwrap(),
        [largest.clone(), heads(Vec::new())]
    );
    let twice = [largest.clone(), largest];
    assert!(matches!(encode_all(&twice), Err(FeedError::Misuse(_))));
    // Messages and signatures are counted over all of it.
    let mut answer = Answer::default();
    let taken = (0..=GOSSIP_MESSAGES_MAX).filter(|_| answer.push(&heads(Vec::new())));
    assert_eq!(taken.count(), GOSSIP_MESSAGES_MAX);
    assert_eq!(
        decode_all(&answer.encode()).unwrap().len(),
        GOSSIP_MESSAGES_MAX
    );
    let signed = Message::Heads {
        volume: VOLUME,
        after: None,
        is_last: true,
        claims: Vec::new(),
        signed: vec![head(&feed(1, 1, 9)[0], 1, 5); GOSSIP_FEEDS_MAX / 2],
    };
    let mut answer = Answer::default();
    assert!(answer.push(&signed) && answer.push(&signed) && !answer.push(&signed));
    let raw = |count: usize, message: &Message| {
        wire::encode(&vec![serde_bytes::ByteBuf::from(message.encode()); count])
    };
    assert!(decode_all(&raw(2, &signed)).is_ok());
    assert!(decode_all(&raw(3, &signed)).is_err());
    let empty = heads(Vec::new());
    assert!(decode_all(&raw(GOSSIP_MESSAGES_MAX + 1, &empty)).is_err());
    assert!(decode_all(&wire::encode(&vec![serde_bytes::ByteBuf::new()])).is_err());
}
