//! What replicas and holders say to each other about feeds, and what follows from it.
//!
//! A message is the canonical array `[version, kind, ..]`. The bytes of deltas in it are checked by who takes
//! them out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::chain::Head;
use super::error::FeedError;
use super::sealed::{FEED_VERSION, LinkHash, check_version};
use super::signed::Signed;
use crate::base::limits::{
    GOSSIP_DELTAS_MAX, GOSSIP_FEEDS_MAX, GOSSIP_MESSAGES_MAX, GOSSIP_WORDS_MAX,
    MESSAGE_PAYLOAD_MAX_BYTES, RULING_MAX_BYTES, SEALED_DELTA_MAX_BYTES,
};
use crate::base::{VolumeId, wire};
use crate::namespace::WriterId;
use crate::namespace::id::PENDING;

/// Largest message.
pub const GOSSIP_MAX_BYTES: usize = MESSAGE_PAYLOAD_MAX_BYTES;
/// Most bytes that a message has besides deltas and signed heads.
const AROUND_BYTES: usize = 1 << 10;
/// Largest message of words.
const WORDS_MAX_BYTES: usize = GOSSIP_WORDS_MAX * (RULING_MAX_BYTES + 16) + 64;
/// Most bytes of deltas in one message.
pub const DELTAS_MAX_BYTES: usize = GOSSIP_MAX_BYTES - AROUND_BYTES;

/// How far somebody has a feed. Nothing proves it: it says what to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub writer: WriterId,
    /// Last dot.
    pub last: u64,
    /// Last delta.
    pub hash: LinkHash,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// How far the sender has each feed, ascending by writer: `[1, 1, volume, after, is_last, [[writer, last,
    /// hash], ..], [signed head, ..]]`.
    Heads {
        /// Of which volume.
        volume: VolumeId,
        /// The list begins after this writer; with the first if none.
        after: Option<WriterId>,
        /// Whether it ends with the last.
        is_last: bool,
        /// Feeds of which there is anything.
        claims: Vec<Claim>,
        /// Heads that their writers signed, as far as they are at hand and fit.
        signed: Vec<Signed<Head>>,
    },
    /// Asks for deltas of a feed: `[1, 2, volume, writer, after, limit]`.
    Want {
        /// Of which volume.
        volume: VolumeId,
        /// Whose.
        writer: WriterId,
        /// Those after this dot.
        after: u64,
        /// As many as take up so many bytes, but one at least.
        limit_bytes: u32,
    },
    /// Deltas of a feed in order: `[1, 3, volume, writer, last, [sealed delta, ..]]`.
    Have {
        /// Of which volume.
        volume: VolumeId,
        /// Whose.
        writer: WriterId,
        /// The last dot that the sender has of this feed.
        last: u64,
        /// Sealed deltas as they are encoded.
        deltas: Vec<Bytes>,
    },
    /// What somebody who has no feed says about members, itself first: `[1, 4, volume, [[kind, document], ..]]`.
    Words {
        /// Of which volume.
        volume: VolumeId,
        /// Kinds and bytes of documents; kind 0 is its proof of membership.
        words: Vec<(u8, Bytes)>,
    },
}

type ClaimWire = (WriterId, u64, LinkHash);

#[derive(Serialize, Deserialize)]
struct HeadsWire(
    u8,
    u8,
    VolumeId,
    Option<WriterId>,
    bool,
    Vec<ClaimWire>,
    Vec<ByteBuf>,
);
#[derive(Serialize, Deserialize)]
struct WantWire(u8, u8, VolumeId, WriterId, u64, u32);
#[derive(Serialize, Deserialize)]
struct HaveWire(u8, u8, VolumeId, WriterId, u64, Vec<ByteBuf>);
#[derive(Serialize, Deserialize)]
struct WordsWire(u8, u8, VolumeId, Vec<(u8, ByteBuf)>);

const HEADS: u8 = 1;
const WANT: u8 = 2;
const HAVE: u8 = 3;
const WORDS: u8 = 4;

impl Message {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Heads {
                volume,
                after,
                is_last,
                claims,
                signed,
            } => {
                let claims = claims.iter();
                let claims = claims.map(|claim| (claim.writer, claim.last, claim.hash));
                let signed = signed.iter().map(|head| ByteBuf::from(head.encode()));
                wire::encode(&HeadsWire(
                    FEED_VERSION,
                    HEADS,
                    *volume,
                    *after,
                    *is_last,
                    claims.collect(),
                    signed.collect(),
                ))
            }
            Message::Want {
                volume,
                writer,
                after,
                limit_bytes,
            } => wire::encode(&WantWire(
                FEED_VERSION,
                WANT,
                *volume,
                *writer,
                *after,
                *limit_bytes,
            )),
            Message::Have {
                volume,
                writer,
                last,
                deltas,
            } => {
                let deltas = all_bytes(deltas);
                wire::encode(&HaveWire(
                    FEED_VERSION,
                    HAVE,
                    *volume,
                    *writer,
                    *last,
                    deltas,
                ))
            }
            Message::Words { volume, words } => {
                let words = words.iter();
                let words = words.map(|(kind, bytes)| (*kind, ByteBuf::from(bytes.to_vec())));
                wire::encode(&WordsWire(FEED_VERSION, WORDS, *volume, words.collect()))
            }
        }
    }

    /// Whether a message is about another volume than this, by its beginning. What cannot be read may be about any.
    pub fn is_about_another(bytes: &[u8], volume: VolumeId) -> bool {
        // Behind the head of the array, version and kind: the head of a string of 16 bytes, and these.
        let name = bytes.get(3..20).and_then(|name| name.split_first());
        name.is_some_and(|(head, name)| *head == 0x50 && name != volume.0)
    }

    /// Reads a message from anywhere. Signed heads in it are checked; deltas are not. That is up to a thousand
    /// signatures: not for the reactor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Message, FeedError> {
        // An array of up to 23 items; version and kind are small numbers.
        if let Some(version) = bytes.get(1) {
            check_version(*version)?;
        }
        match bytes.get(2) {
            Some(&HEADS) => read_heads(wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?),
            Some(&WANT) => read_want(wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?),
            Some(&HAVE) => read_have(wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?),
            Some(&WORDS) => read_words(wire::decode_canonical(bytes, WORDS_MAX_BYTES)?),
            _ => Err("a message of an unknown kind".into()),
        }
    }

    /// Signatures that are checked when it is read.
    const fn signed_count(&self) -> usize {
        match self {
            Message::Heads { signed, .. } => signed.len(),
            Message::Want { .. } | Message::Have { .. } | Message::Words { .. } => 0,
        }
    }

    /// Of which volume it speaks.
    pub const fn volume(&self) -> VolumeId {
        match self {
            Message::Heads { volume, .. }
            | Message::Want { volume, .. }
            | Message::Have { volume, .. }
            | Message::Words { volume, .. } => *volume,
        }
    }
}

fn read_heads(wire: HeadsWire) -> Result<Message, FeedError> {
    let HeadsWire(_, _, volume, after, is_last, claims, signed) = wire;
    if claims.len() > GOSSIP_FEEDS_MAX || signed.len() > GOSSIP_FEEDS_MAX {
        return Err("too many feeds in a message".into());
    }
    let claims: Vec<Claim> = claims
        .into_iter()
        .map(|(writer, last, hash)| Claim { writer, last, hash })
        .collect();
    let mut before = after;
    for claim in &claims {
        if before.is_some_and(|before| before >= claim.writer) {
            return Err("feeds out of order".into());
        }
        if !(1..PENDING).contains(&claim.last) {
            return Err("a feed with an impossible dot".into());
        }
        before = Some(claim.writer);
    }
    if !is_last && claims.is_empty() {
        return Err("a part of a list without anything in it".into());
    }
    let signed = signed
        .iter()
        .map(|bytes| Signed::decode(bytes))
        .collect::<Result<Vec<Signed<Head>>, _>>()?;
    if signed.iter().any(|head| head.volume != volume) {
        return Err(FeedError::OtherVolume);
    }
    Ok(Message::Heads {
        volume,
        after,
        is_last,
        claims,
        signed,
    })
}

fn read_words(wire: WordsWire) -> Result<Message, FeedError> {
    let WordsWire(_, _, volume, words) = wire;
    let are_short = words
        .iter()
        .all(|(_, bytes)| bytes.len() <= RULING_MAX_BYTES);
    if words.len() > GOSSIP_WORDS_MAX || !are_short {
        return Err("too many words in a message, or too long ones".into());
    }
    let words = words.into_iter();
    Ok(Message::Words {
        volume,
        words: words
            .map(|(kind, bytes)| (kind, bytes.into_vec().into()))
            .collect(),
    })
}

fn read_want(wire: WantWire) -> Result<Message, FeedError> {
    let WantWire(_, _, volume, writer, after, limit_bytes) = wire;
    if after >= PENDING {
        return Err("a wish after an impossible dot".into());
    }
    Ok(Message::Want {
        volume,
        writer,
        after,
        limit_bytes,
    })
}

fn read_have(wire: HaveWire) -> Result<Message, FeedError> {
    let HaveWire(_, _, volume, writer, last, deltas) = wire;
    if last >= PENDING {
        return Err("an impossible dot in a message".into());
    }
    Ok(Message::Have {
        volume,
        writer,
        last,
        deltas: read_deltas(deltas)?,
    })
}

/// Sealed deltas as they travel in a message.
pub(super) fn all_bytes(deltas: &[Bytes]) -> Vec<ByteBuf> {
    let deltas = deltas.iter();
    deltas.map(|bytes| ByteBuf::from(bytes.to_vec())).collect()
}

/// Sealed deltas out of a message. What they are is seen by who opens them.
pub(super) fn read_deltas(deltas: Vec<ByteBuf>) -> Result<Vec<Bytes>, FeedError> {
    if deltas.len() > GOSSIP_DELTAS_MAX {
        return Err("too many deltas in a message".into());
    }
    let is_too_long = |delta: &ByteBuf| delta.len() > SEALED_DELTA_MAX_BYTES;
    if deltas.iter().any(is_too_long) {
        return Err("an impossible delta in a message".into());
    }
    Ok(deltas.into_iter().map(|d| d.into_vec().into()).collect())
}

/// Any number of messages as one value: what one message is answered with. The encoding is the canonical array
/// `[message bytes, ..]`, in the order in which they are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    messages: Vec<ByteBuf>,
    bytes: usize,
    signed: usize,
}

/// The head of the array of an answer, and the head of a message in it, take so many bytes at most.
const HEAD_BYTES: usize = 5;

impl Answer {
    /// Adds a message, or says that it does not fit any more: such a one is left out, and asked for again.
    /// One whose deltas [`fill`] has chosen fits into an empty answer.
    #[must_use]
    pub fn push(&mut self, message: &Message) -> bool {
        let encoded = message.encode();
        let bytes = self.bytes + HEAD_BYTES + encoded.len();
        let signed = self.signed + message.signed_count();
        let fits = HEAD_BYTES + bytes <= GOSSIP_MAX_BYTES
            && signed <= GOSSIP_FEEDS_MAX
            && self.messages.len() < GOSSIP_MESSAGES_MAX;
        if fits {
            self.messages.push(ByteBuf::from(encoded));
            (self.bytes, self.signed) = (bytes, signed);
        }
        fits
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(&self.messages)
    }
}

/// Messages as one answer.
///
/// # Errors
/// [`FeedError::Misuse`] if they do not fit into one: see [`Answer::push`].
pub fn encode_all<'a>(
    messages: impl IntoIterator<Item = &'a Message>,
) -> Result<Vec<u8>, FeedError> {
    let mut answer = Answer::default();
    match messages.into_iter().all(|message| answer.push(message)) {
        true => Ok(answer.encode()),
        false => Err(FeedError::Misuse("more messages than one answer takes")),
    }
}

/// Reads the messages of an answer from anywhere, as [`Message::decode`] reads one: not for the reactor.
///
/// # Errors
/// What is wrong with it, or with any message in it.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Message>, FeedError> {
    let encoded: Vec<ByteBuf> = wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?;
    if encoded.len() > GOSSIP_MESSAGES_MAX {
        return Err("too many messages in an answer".into());
    }
    let mut messages = Vec::with_capacity(encoded.len());
    let mut signed = 0;
    for bytes in &encoded {
        let message = Message::decode(bytes)?;
        // Signatures are what costs: all messages of an answer have as many together as one may have.
        signed += message.signed_count();
        if signed > GOSSIP_FEEDS_MAX {
            return Err("too many feeds in an answer".into());
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Deltas of a feed that are to be asked for or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Whose.
    pub writer: WriterId,
    /// Those after this dot.
    pub after: u64,
    /// Up to this one.
    pub upto: u64,
}

/// What follows from two lists of heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the other has and we do not.
    pub ask: Vec<Wish>,
    /// What we have and the other does not.
    pub offer: Vec<Wish>,
    /// Feeds that both have to the same dot, and not the same: the last delta of each is to be
    /// compared with the other's, and those before, until the fork is found.
    pub forked: Vec<WriterId>,
}

/// What to ask for and what to offer. `own` ascends by writer; the other's list says nothing of
/// writers outside its part.
pub fn plan(own: &[Claim], after: Option<WriterId>, is_last: bool, theirs: &[Claim]) -> Plan {
    let end = theirs.last().map(|claim| claim.writer);
    let is_inside = |writer: &WriterId| {
        after.is_none_or(|after| *writer > after)
            && (is_last || end.is_some_and(|end| *writer <= end))
    };
    let mut all: BTreeMap<WriterId, (Option<&Claim>, Option<&Claim>)> = BTreeMap::new();
    for claim in own.iter().filter(|claim| is_inside(&claim.writer)) {
        all.entry(claim.writer).or_default().0 = Some(claim);
    }
    for claim in theirs {
        all.entry(claim.writer).or_default().1 = Some(claim);
    }
    let mut plan = Plan::default();
    for (writer, (own, their)) in all {
        let last = |claim: Option<&Claim>| claim.map_or(0, |claim| claim.last);
        let (ours, other) = (last(own), last(their));
        let wish = |after, upto| Wish {
            writer,
            after,
            upto,
        };
        match ours.cmp(&other) {
            std::cmp::Ordering::Less => plan.ask.push(wish(ours, other)),
            std::cmp::Ordering::Greater => plan.offer.push(wish(other, ours)),
            std::cmp::Ordering::Equal => {
                if own.map(|claim| claim.hash) != their.map(|claim| claim.hash) {
                    plan.forked.push(writer);
                }
            }
        }
    }
    plan
}

/// Of the deltas of a feed that are at hand, those that one message takes: encoded, within
/// `limit_bytes` and the bounds of a message, but one at least.
pub fn fill(deltas: impl Iterator<Item = Bytes>, limit_bytes: usize) -> Vec<Bytes> {
    let limit = limit_bytes.min(DELTAS_MAX_BYTES);
    let mut taken = Vec::new();
    let mut bytes = 0;
    for delta in deltas.take(GOSSIP_DELTAS_MAX) {
        // The head of a byte string takes five at most.
        bytes += delta.len() + 5;
        if bytes > limit && !taken.is_empty() {
            break;
        }
        taken.push(delta);
    }
    taken
}
