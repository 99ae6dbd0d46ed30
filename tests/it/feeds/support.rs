//! Writers with device keys, and what they seal.

use cairnfs::base::VolumeId;
use cairnfs::crypto::{EpochKey, SigningKey};
use cairnfs::feeds::{FeedError, Head, Link, SealedDelta, Signed};
use cairnfs::namespace::{Delta, Draft, Hlc, Ino, Key, VersionVector, Write, WriterId};

use crate::namespace::support::{Replica, START_MS};

pub const VOLUME: VolumeId = VolumeId([3; 16]);

pub fn device(tag: u8) -> SigningKey {
    SigningKey::from_secret(&[tag; 32])
}

pub fn writer(tag: u8) -> WriterId {
    WriterId {
        peer: device(tag).peer(),
        incarnation: 0,
    }
}

pub fn epoch_key() -> EpochKey {
    EpochKey::from_bytes([9; 32])
}

/// A delta of one dot, told from others by its number; `ms` after the start.
pub fn delta(tag: u8, first: u64, context: &[(u8, u64)], ms: u64, number: u8) -> Delta {
    let mut seen = VersionVector::default();
    for (other, upto) in context {
        seen.raise(writer(*other), *upto);
    }
    let draft = Draft {
        context: seen,
        hlc: Hlc::from_ms(START_MS + ms),
        writes: vec![Write {
            key: Key::Attrs(Ino([number; 16])),
            keeps: Vec::new(),
            values: Vec::new(),
        }],
    };
    Delta {
        writer: writer(tag),
        first,
        draft,
    }
}

pub fn seal(delta: &Delta, tag: u8, previous: Option<&SealedDelta>) -> SealedDelta {
    let previous = previous.map(SealedDelta::link);
    SealedDelta::seal(delta, VOLUME, previous, (4, &epoch_key()), &device(tag)).unwrap()
}

/// All that a writer made, as its feed.
pub fn seal_all(deltas: &[Delta], tag: u8) -> Vec<SealedDelta> {
    let mut feed: Vec<SealedDelta> = Vec::new();
    for delta in deltas {
        let sealed = seal(delta, tag, feed.last());
        feed.push(sealed);
    }
    feed
}

/// A feed of deltas of one dot each; those from `fork` on are others than without.
pub fn feed(tag: u8, count: u64, fork: u64) -> Vec<SealedDelta> {
    let deltas: Vec<Delta> = (1..=count)
        .map(|n| delta(tag, n, &[], n, if n >= fork { 200 } else { n as u8 }))
        .collect();
    seal_all(&deltas, tag)
}

pub fn head(of: &SealedDelta, tag: u8, ms: u64) -> Signed<Head> {
    let link: &Link = of.link();
    let head = Head {
        volume: link.volume,
        writer: link.writer,
        last: link.last,
        hash: of.hash(),
        hlc: Hlc::from_ms(START_MS + ms),
    };
    Signed::sign(head, &device(tag)).unwrap()
}

/// Replicas of an empty volume, each with a device of its own.
pub fn volume_of() -> [Replica; 3] {
    let mut all = [1, 2, 3].map(|tag| {
        let mut replica = Replica::new(tag);
        replica.writer = writer(tag);
        replica
    });
    all[0].edit(|edit| edit.create_root(0o755, 0, 0)).unwrap();
    let first = all[0].clone();
    all[1..].iter_mut().for_each(|other| other.pull(&first));
    all
}

/// Messages of one kind, and how they are written and read.
pub struct Kind<'a, T> {
    pub messages: &'a [T],
    pub encode: fn(&T) -> Vec<u8>,
    pub decode: fn(&[u8]) -> Result<T, FeedError>,
}

impl<T: PartialEq + std::fmt::Debug> Kind<'_, T> {
    /// Against the fixture `{name}-v1.txt`; its bytes. With `CAIRN_BLESS` set it is written anew: only for a new format
    /// version.
    pub fn check_golden(&self, name: &str) -> Vec<Vec<u8>> {
        let path = crate::support::root().join(format!("tests/fixtures/{name}-v1.txt"));
        let mut text = String::new();
        for (number, message) in self.messages.iter().enumerate() {
            let hex = data_encoding::HEXLOWER.encode(&(self.encode)(message));
            text.push_str(&format!("{name}-{number} {hex}\n"));
        }
        if std::env::var_os("CAIRN_BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, kept);
        let read = kept.lines().zip(self.messages).map(|(line, message)| {
            let (_, hex) = line.split_once(' ').unwrap();
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            assert_eq!(&(self.decode)(&bytes).unwrap(), message);
            bytes
        });
        read.collect()
    }

    /// What is cut short is refused, and what is read from other bytes is another message, of which those are the bytes.
    pub fn check_nothing_else_is_read(&self) {
        for message in self.messages {
            let bytes = (self.encode)(message);
            for cut in 0..bytes.len() {
                assert!((self.decode)(&bytes[..cut]).is_err());
            }
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= 1;
                if let Ok(read) = (self.decode)(&other) {
                    assert_eq!((self.encode)(&read), other);
                    assert_ne!(&read, message);
                }
            }
        }
    }
}
