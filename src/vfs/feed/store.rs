//! The rows of feeds: deltas that are to be sealed, sealed deltas of all writers, and where each feed ends.
//! `docs/format/volume.md` has the picture.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use crate::base::PeerId;
use crate::base::limits::ROW_VALUE_MAX_BYTES;
use crate::feeds::{Feed, ForkProof, Link, SealedDelta, Signed};
use crate::namespace::{Delta, WriterId};
use crate::store::{Group, Order, Space, Volume, VolumeError};
use crate::vfs::rows::{FEED_HEADS, FEEDS, FORKS, OUTGOING, pages};

/// Bytes of a row's key that say whose feed it is.
const WRITER_BYTES: usize = 40;
/// Rows read at once.
const PAGE: usize = 64;
/// Bytes that a delta takes in a group of the journal besides what waited to be sealed, rounded up: its link and
/// signature twice (with it, and as the end of the feed), and the keys of rows that come and go.
pub(super) const DELTA_COST: usize = 700;
/// Rows removed at once.
const DROP_PAGE: usize = 1024;

fn writer_key(writer: WriterId) -> Vec<u8> {
    [&writer.peer.0[..], &writer.incarnation.to_be_bytes()].concat()
}

fn writer_of(key: &[u8]) -> Option<WriterId> {
    let (peer, rest) = key.split_first_chunk::<32>()?;
    let incarnation = rest.first_chunk::<8>()?;
    Some(WriterId {
        peer: PeerId(*peer),
        incarnation: u64::from_be_bytes(*incarnation),
    })
}

/// Where a delta begins in its space: the others of its rows follow.
fn feed_key(writer: WriterId, first: u64) -> Vec<u8> {
    [writer_key(writer), first.to_be_bytes().to_vec()].concat()
}

/// Adds something that may be longer than a value of the engine: its length in front, and in parts.
fn put_long(group: &mut Group, space: Space, key: &[u8], bytes: &[u8]) {
    let framed = [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    for (number, part) in (0u32..).zip(framed.chunks(ROW_VALUE_MAX_BYTES)) {
        group.put(space, &[key, &number.to_be_bytes()].concat(), part);
    }
}

fn remove_long(group: &mut Group, space: Space, key: &[u8], len: usize) {
    let parts = (len + 4).div_ceil(ROW_VALUE_MAX_BYTES) as u32;
    for number in 0..parts {
        group.remove(space, &[key, &number.to_be_bytes()].concat());
    }
}

/// A delta is to enter the feed: it is sealed later.
pub(in crate::vfs) fn add_outgoing(group: &mut Group, delta: &Delta) {
    put_long(group, OUTGOING, &delta.first.to_be_bytes(), &delta.encode());
}

/// A delta was sealed.
pub(super) fn remove_outgoing(group: &mut Group, first: u64, len: usize) {
    remove_long(group, OUTGOING, &first.to_be_bytes(), len);
}

/// A delta is in its feed, as the last one.
pub(super) fn add_sealed(group: &mut Group, sealed: &SealedDelta) {
    let link = sealed.link();
    put_long(
        group,
        FEEDS,
        &feed_key(link.writer, link.first),
        &sealed.encode(),
    );
    group.put(FEED_HEADS, &writer_key(link.writer), &link.encode());
}

/// A feed ends with a link whose delta is not here.
pub(super) fn put_head(group: &mut Group, link: &Signed<Link>) {
    group.put(FEED_HEADS, &writer_key(link.writer), &link.encode());
}

/// A writer forked: that is known after a restart as well.
pub(super) fn put_fork(group: &mut Group, writer: WriterId, proof: &ForkProof) {
    group.put(FORKS, &writer_key(writer), &proof.encode());
}

/// Removes the sealed deltas of a writer up to a dot. How many rows that were.
pub(super) fn drop_upto(
    volume: &Volume,
    writer: WriterId,
    last: u64,
) -> Result<usize, VolumeError> {
    let end = feed_key(writer, last.saturating_add(1));
    let mut removed = 0;
    for page in pages(volume, FEEDS, &writer_key(writer), DROP_PAGE) {
        let page = page?;
        let old = page
            .iter()
            .take_while(|(key, _)| key.as_ref() < end.as_slice());
        let mut group = Group::new();
        group.cleanup();
        for (key, _) in old {
            group.remove(FEEDS, key);
            removed += 1;
        }
        if group.is_empty() {
            break;
        }
        volume.apply(&group)?;
    }
    Ok(removed)
}

/// Reads what was put in parts: of a space everything from a key on, while keys have the first `same` bytes in
/// common with it, until `enough` says so. Each with its key without the number of the part.
fn read_long(
    volume: &Volume,
    space: Space,
    from: &[u8],
    same: usize,
    mut enough: impl FnMut(&[u8], &Bytes) -> bool,
) -> Result<(), VolumeError> {
    let damaged = || VolumeError::Io("a row of a feed is damaged".to_owned());
    let mut at = Bound::Included(Bytes::copy_from_slice(from));
    let mut open: Option<(Vec<u8>, usize, BytesMut)> = None;
    loop {
        let bound = at.as_ref().map(|key| key.as_ref());
        let page = volume.scan(space, bound, Bound::Unbounded, Order::Ascending, PAGE)?;
        for (key, value) in page.rows {
            let Some((of, number)) = key.split_last_chunk::<4>() else {
                return Err(damaged());
            };
            if of.get(..same) != from.get(..same) {
                return Ok(());
            }
            if u32::from_be_bytes(*number) == 0 {
                let Some((len, first)) = value.split_first_chunk::<4>() else {
                    return Err(damaged());
                };
                let len = u32::from_be_bytes(*len) as usize;
                open = Some((of.to_vec(), len, BytesMut::from(first)));
            } else {
                match &mut open {
                    Some((begun, _, bytes)) if begun == of => bytes.extend_from_slice(&value),
                    _ => return Err(damaged()),
                }
            }
            if open
                .as_ref()
                .is_some_and(|(_, len, bytes)| bytes.len() >= *len)
                && let Some((key, _, bytes)) = open.take()
                && enough(&key, &bytes.freeze())
            {
                return Ok(());
            }
        }
        match page.next {
            Some(next) => at = Bound::Excluded(next),
            None => return Ok(()),
        }
    }
}

/// Deltas that are to be sealed, in order: as many as `limit_bytes` with what each takes besides, one at least. Each
/// with its first dot.
pub(super) fn outgoing(
    volume: &Volume,
    limit_bytes: usize,
) -> Result<Vec<(u64, Bytes)>, VolumeError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    read_long(volume, OUTGOING, &[], 0, |key, delta| {
        bytes += delta.len() + DELTA_COST;
        if let Ok(first) = key.try_into() {
            found.push((u64::from_be_bytes(first), delta.clone()));
        }
        bytes >= limit_bytes
    })?;
    Ok(found)
}

/// Shows each delta that is to be sealed, in order, with its first dot.
pub(super) fn each_outgoing(
    volume: &Volume,
    mut show: impl FnMut(u64, &Bytes),
) -> Result<(), VolumeError> {
    read_long(volume, OUTGOING, &[], 0, |key, delta| {
        if let Ok(first) = key.try_into() {
            show(u64::from_be_bytes(first), delta);
        }
        false
    })
}

/// Sealed deltas, each with its first dot, and where the one begins that did not fit.
#[derive(Default)]
pub(super) struct Found {
    pub(super) deltas: Vec<(u64, Bytes)>,
    pub(super) next: Option<u64>,
}

/// Sealed deltas of a writer that follow a dot, in order: as many as fit into `limit_bytes`, one at least.
pub(super) fn sealed_after(
    volume: &Volume,
    writer: WriterId,
    after: u64,
    limit_bytes: usize,
) -> Result<Found, VolumeError> {
    let (mut found, mut bytes) = (Found::default(), 0);
    let from = feed_key(writer, after.saturating_add(1));
    read_long(volume, FEEDS, &from, WRITER_BYTES, |key, sealed| {
        bytes += sealed.len();
        let first = key.last_chunk::<8>().copied().map(u64::from_be_bytes);
        let fits = bytes <= limit_bytes || found.deltas.is_empty();
        match first {
            Some(first) if fits => found.deltas.push((first, sealed.clone())),
            first => found.next = first,
        }
        !fits
    })?;
    Ok(found)
}

/// All feeds as they were left.
pub(in crate::vfs) fn feeds(volume: &Volume) -> Result<BTreeMap<WriterId, Feed>, VolumeError> {
    let mut all = BTreeMap::new();
    for page in pages(volume, FEED_HEADS, &[], PAGE) {
        for (key, row) in page? {
            let link: Option<Signed<Link>> = Signed::decode(&row).ok();
            let found = writer_of(&key).zip(link);
            let feed = found.and_then(|(writer, link)| {
                let feed = Feed::restore(vec![link]).ok()?;
                (feed.writer() == writer).then_some((writer, feed))
            });
            let damaged = || VolumeError::Io("the end of a feed is damaged".to_owned());
            let (writer, feed) = feed.ok_or_else(damaged)?;
            all.insert(writer, feed);
        }
    }
    for page in pages(volume, FORKS, &[], PAGE) {
        for (key, row) in page? {
            let damaged = || VolumeError::Io("the proof of a fork is damaged".to_owned());
            let writer = writer_of(&key).ok_or_else(damaged)?;
            let proof = ForkProof::decode(&row).map_err(|_| damaged())?;
            if let Some(feed) = all.get_mut(&writer) {
                feed.record_fork(proof).map_err(|_| damaged())?;
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::VolumeId;
    use crate::crypto::EpochKey;
    use crate::crypto::sign::SigningKey;
    use crate::namespace::{Draft, Hlc, VersionVector};

    /// Bytes of a row in a group besides its key and its value, its space included.
    const ROW: usize = 7;

    #[test]
    fn what_a_delta_takes_besides_itself_is_counted() {
        let (device, key) = (
            SigningKey::from_secret(&[7; 32]),
            EpochKey::from_bytes([5; 32]),
        );
        let writer = WriterId {
            peer: device.peer(),
            incarnation: u64::MAX,
        };
        let volume = VolumeId([255; 16]);
        let draft = Draft {
            context: VersionVector::default(),
            hlc: Hlc(1 << 62),
            writes: Vec::new(),
        };
        let seal = |seen, previous| {
            let delta = draft.clone().enter(writer, seen);
            let epoch = (u32::MAX, &key);
            SealedDelta::seal(&delta, volume, previous, epoch, &device).unwrap()
        };
        let first = seal(1 << 61, None);
        let second = seal((1 << 61) + 1, Some(first.link()));
        let head = ROW + writer_key(writer).len() + second.link().encode().len();
        let in_feed = ROW + feed_key(writer, u64::MAX).len() + 4 + 4;
        let gone = ROW + 8 + 4;
        let besides = head + in_feed + gone;
        assert!(besides <= DELTA_COST, "{besides}");
        // With the delta itself sealed, it is more than what waited by less than that as well: what is read to be
        // sealed together fits, but for the last one.
        assert!(second.encode().len() + besides < 2 * DELTA_COST);
    }
}
