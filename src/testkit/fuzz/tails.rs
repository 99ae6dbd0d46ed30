//! Ends of feeds that peers without a key keep: messages about them, and rows that have them.

use bytes::Bytes;

use super::feeds::{VOLUME, device, feed};
use crate::base::PeerId;
use crate::blocks::{RunRow, TailRow};
use crate::feeds::{
    Covered, Keeping, Kept, SealedDelta, Signed, Tail, TailEnd, TailVerdict, decode_all,
};
use crate::namespace::{Hlc, WriterId};

/// A message to or by somebody who keeps feeds.
pub(super) fn keeping_message(data: &[u8]) {
    if let Ok(message) = Keeping::decode(data) {
        assert_eq!(message.encode(), data);
        assert!(Keeping::is_one(data));
        assert!(decode_all(data).is_err());
    }
}

/// How far a feed is kept, or a run of it.
pub(super) fn tail_row(data: &[u8]) {
    if let Ok(row) = TailRow::decode(data) {
        assert_eq!(row.encode(), data);
        let writer = writer();
        if let Ok(tail) = row.tail(VOLUME, writer) {
            assert!(tail.start() <= tail.last());
        }
    }
    if let Ok(run) = RunRow::decode(data) {
        assert_eq!(run.encode(), data);
        if let Ok(deltas) = RunRow::unpack(&[run]) {
            let rows = RunRow::pack(deltas.clone());
            let lens: usize = rows.iter().map(|row| row.bytes.len()).sum();
            assert!(rows.is_empty() == deltas.is_empty() && (lens > 0) != rows.is_empty());
        }
    }
}

fn writer() -> WriterId {
    feed().first().map_or(
        WriterId {
            peer: device().peer(),
            incarnation: 0,
        },
        |delta| delta.link().writer,
    )
}

fn word(of: &SealedDelta) -> Option<Signed<Covered>> {
    let word = Covered {
        volume: VOLUME,
        writer: of.link().writer,
        upto: of.link().last,
        hash: of.hash(),
        hlc: Hlc::from_ms(1),
    };
    Signed::sign(word, &device()).ok()
}

fn encoded() -> Vec<Bytes> {
    let deltas = feed().into_iter();
    deltas.map(|delta| delta.encode().into()).collect()
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let (volume, writer) = (VOLUME, writer());
    let feed = feed();
    let covered = feed.first().and_then(word);
    let head = feed.last().map(|delta| delta.link().clone());
    let mut all = vec![
        Keeping::Keep {
            volume,
            writer,
            covered: covered.clone(),
            deltas: encoded(),
        },
        Keeping::Ask { volume },
        Keeping::Want {
            volume,
            writer,
            after: 7,
            limit_bytes: 1 << 20,
        },
        Keeping::Given {
            volume,
            writer,
            deltas: encoded(),
        },
    ];
    all.extend(feed.last().map(|delta| Keeping::Tails {
        volume,
        tails: vec![TailEnd {
            writer,
            start: 0,
            last: delta.link().last,
            hash: delta.hash(),
        }],
    }));
    let tail = Tail::restore(volume, writer, covered, head);
    all.extend(tail.ok().map(|tail| {
        Keeping::Kept(Box::new(Kept {
            tail,
            bytes: 9,
            verdict: TailVerdict::Kept,
        }))
    }));
    all.iter().map(Keeping::encode).collect()
}

pub(super) fn rows() -> Vec<Vec<u8>> {
    let feed = feed();
    let row = TailRow {
        from: PeerId([4; 32]),
        touched_ms: 9,
        covered: feed.first().and_then(word).map(|word| word.encode().into()),
        head: feed.last().map(|delta| delta.link().encode().into()),
        first_run: 0,
        next_run: 1,
        bytes: 300,
    };
    let deltas = feed
        .iter()
        .map(|delta| (delta.link().last, Bytes::from(delta.encode())));
    let runs = RunRow::pack(deltas);
    let runs = runs.iter().map(RunRow::encode);
    runs.chain([row.encode()]).collect()
}
