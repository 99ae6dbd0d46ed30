//! Keys that this device has not got: found in deltas, and beside the checkpoints of others.
//!
//! A record says in clear where the documents are that hand out its volume's keys: who was away, or comes with an older
//! ticket, can open nothing else of it. Nobody reads more in them than who handed keys to how many.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_bytes::ByteBuf;

use super::Shared;
use super::book::is_for_page;
use super::points::PointError;
use super::ring::Source;
use super::rules::rotations_in;
use crate::base::limits::PAGE_PLACE_MAX_BYTES;
use crate::base::wire;
use crate::crypto::{EpochKey, MessageTag};
use crate::feeds::checkpoint::Record;
use crate::feeds::{Revocation, Ruling, SealedDelta, Signed, ruling};
use crate::namespace::{Delta, WriterId};
use crate::vfs::checkpoint::CheckpointFailure;
use crate::vfs::errno::Step;
use crate::vfs::inner::Inner;

/// Pages beside checkpoints that are fetched at once.
const LOOKS: usize = 8;

/// `[epoch, tag, text]`.
type OldPlaceWire = (u32, MessageTag, ByteBuf);
/// `[epoch, tag, text, place of the documents that hand out keys]`.
type PlaceWire = (u32, MessageTag, ByteBuf, ByteBuf);

/// Where a checkpoint is, in its record: the place of its root, sealed, and of the documents that hand out keys.
pub(super) struct SealedPlace {
    pub(super) epoch: u32,
    pub(super) tag: MessageTag,
    pub(super) text: Vec<u8>,
    /// None while nothing was handed out.
    pub(super) keys: Option<Bytes>,
}

impl SealedPlace {
    pub(super) fn encode(self) -> Vec<u8> {
        let text = ByteBuf::from(self.text);
        match self.keys {
            None => wire::encode::<OldPlaceWire>(&(self.epoch, self.tag, text)),
            Some(keys) => {
                let keys = ByteBuf::from(keys.to_vec());
                wire::encode::<PlaceWire>(&(self.epoch, self.tag, text, keys))
            }
        }
    }

    pub(super) fn decode(bytes: &[u8], max_bytes: usize) -> Option<SealedPlace> {
        let old = wire::decode_canonical::<OldPlaceWire>(bytes, max_bytes);
        if let Ok((epoch, tag, text)) = old {
            let text = text.into_vec();
            return Some(SealedPlace {
                epoch,
                tag,
                text,
                keys: None,
            });
        }
        let (epoch, tag, text, keys) =
            wire::decode_canonical::<PlaceWire>(bytes, max_bytes).ok()?;
        Some(SealedPlace {
            epoch,
            tag,
            text: text.into_vec(),
            keys: Some(keys.into_vec().into()),
        })
    }
}

/// A place as it is written and read again; none if it is not one.
#[cfg(feature = "testkit")]
pub fn rewritten_place(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(SealedPlace::decode(bytes, PAGE_PLACE_MAX_BYTES)?.encode())
}

impl Inner {
    /// Keys of the name of an epoch, for deltas.
    pub(super) fn keys_of(&self, epoch: u32) -> Vec<EpochKey> {
        let Some(shared) = self.shared() else {
            return Vec::new();
        };
        match shared.book() {
            Some(book) => book.ring.keys(epoch).cloned().collect(),
            None => shared
                .share
                .epochs
                .get(&epoch)
                .cloned()
                .into_iter()
                .collect(),
        }
    }

    /// The same for places of checkpoints.
    pub(super) fn keys_of_places(&self, epoch: u32) -> Vec<EpochKey> {
        match self.shared().and_then(Shared::book) {
            Some(book) => book.ring.keys_of_places(epoch).cloned().collect(),
            None => self.keys_of(epoch),
        }
    }

    /// Keys that deltas hand out are kept at once: what comes behind them is sealed under those, and the deltas may wait
    /// for others.
    pub(super) fn learn_keys(&self, opened: &[(Delta, SealedDelta)]) {
        let handed = opened.iter().flat_map(|(delta, _)| {
            // As rows they count from the feed of whoever signed them.
            let by = delta.writer.peer;
            rotations_in(delta).filter(move |rotation| rotation.by == by)
        });
        let handed: Vec<_> = handed
            .filter(|rotation| rotation.volume == self.identity.id)
            .collect();
        if handed.is_empty() {
            return;
        }
        let Some(opener) = self
            .shared()
            .and_then(Shared::book)
            .map(|book| book.opener())
        else {
            return;
        };
        let keys = handed.iter().filter_map(|rotation| {
            let secrets = opener.open(rotation)?;
            Some((rotation.by, rotation.epoch, secrets.key))
        });
        let keys: Vec<_> = keys.collect();
        if let Some(mut book) = self.shared().and_then(Shared::book) {
            for (by, epoch, key) in keys {
                book.keep_from(by, Source::Delta(by), epoch, &key);
            }
        }
    }

    /// The documents that whoever was away needs, as a page; none while no keys were handed out. Reads rows and checks
    /// signatures: not for the reactor.
    pub(super) fn keys_page(&self) -> Step<Option<Bytes>> {
        let rows = {
            let _core = self.core();
            self.view(|view| view.rulings())?
        };
        let rows = rows.into_iter().filter(|(kind, ..)| is_for_page(*kind));
        let volume = self.identity.id;
        let read = rows.filter_map(|(kind, bytes, _)| Ruling::decode(volume, kind, &bytes).ok());
        let rulings: Vec<Ruling> = read.collect();
        let Some(book) = self.shared().and_then(Shared::book) else {
            return Ok(None);
        };
        let rulings = book.page(rulings);
        drop(book);
        let hands_out = |ruling: &Ruling| matches!(ruling, Ruling::Rotation(_));
        if !rulings.iter().any(hands_out) {
            return Ok(None);
        }
        let (page, left_out) = ruling::encode_page(volume, &rulings);
        if left_out > 0 {
            tracing::warn!(
                "{left_out} documents about members of the volume `{}` do not fit beside its checkpoint: \
                 who was away hears of them later",
                self.options.name
            );
        }
        Ok(Some(page.into()))
    }

    /// Looks at what is beside the checkpoints of all records that there are.
    pub(super) async fn look_beside_all(self: &Arc<Self>, records: &[Signed<Record>]) {
        let writers: BTreeSet<WriterId> = records.iter().map(|record| record.writer).collect();
        if let Some(mut book) = self.shared().and_then(Shared::book) {
            book.heard.records_of(&writers);
        }
        // No closures, so that the compiler sees that they can go from thread to thread.
        let mut looks = Vec::with_capacity(records.len());
        for record in records {
            let look = self.look_beside(record, false).boxed();
            looks.push(async move { (record.writer, look.await) }.boxed());
        }
        let mut looks = futures::stream::iter(looks).buffer_unordered(LOOKS);
        while let Some((writer, found)) = looks.next().await {
            if let Err(error) = found {
                tracing::debug!(of = ?writer, "keys beside a checkpoint: {error}");
            }
        }
    }

    /// Looks at the documents beside a checkpoint, unless that was done and is not to be done again. Whether they had a
    /// key for this device that it had not got.
    pub(super) async fn look_beside(
        self: &Arc<Self>,
        record: &Signed<Record>,
        again: bool,
    ) -> Result<bool, PointError> {
        let of = record.writer;
        let place = SealedPlace::decode(&record.place, PAGE_PLACE_MAX_BYTES);
        let Some(keys) = place.and_then(|place| place.keys) else {
            return Ok(false);
        };
        let name = *blake3::hash(&keys).as_bytes();
        let book = || self.shared().and_then(Shared::book);
        if book().is_none_or(|book| !again && book.heard.is_settled(of, &name)) {
            return Ok(false);
        }
        let bytes = match self.fetch_encoded(&keys).await {
            Ok(bytes) => bytes,
            Err(error) => {
                if let Some(mut book) = book() {
                    book.heard.missed(of);
                }
                return Err(CheckpointFailure::from(error).into());
            }
        };
        let inner = Arc::clone(self);
        let hear = move || inner.hear_page((of, name), &bytes);
        Ok(self.blocks.pools().cpu.run(hear).await)
    }

    fn hear_page(&self, page: (WriterId, [u8; 32]), bytes: &[u8]) -> bool {
        let book = || self.shared().and_then(Shared::book);
        let Some(opener) = book().map(|book| book.opener()) else {
            return false;
        };
        let rulings = ruling::decode_page(self.identity.id, bytes).unwrap_or_else(|error| {
            // It is as its writer made it.
            tracing::warn!(of = ?page.0, "what is beside a checkpoint is no page: {error}");
            Vec::new()
        });
        let mut revocations: Vec<Revocation> = Vec::new();
        let mut keys = Vec::new();
        for ruling in rulings {
            match ruling {
                Ruling::Rotation(rotation) => {
                    let opened = opener.open(&rotation);
                    keys.extend(opened.map(|secrets| (rotation.by, rotation.epoch, secrets.key)));
                }
                Ruling::Revocation(revocation) => revocations.push(revocation.record().clone()),
                _ => {}
            }
        }
        book().is_some_and(|mut book| book.hear(page, &revocations, &keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockId, BlockKey, BlockRef, EcProfile};
    use crate::crypto::epoch::SEALING_BYTES;
    use crate::vfs::checkpoint::{PagePart, PagePlace};

    fn place(tag: u8) -> Bytes {
        let place = PagePlace {
            profile: EcProfile::new(32, 32).unwrap(),
            parts: vec![PagePart {
                block: BlockRef {
                    id: BlockId([tag; 32]),
                    key: BlockKey([tag; 32]),
                    plain_len: 4 << 20,
                },
                offset: 0,
                len: 4 << 20,
            }],
        };
        place.encode()
    }

    #[test]
    fn both_places_fit_into_a_record_and_the_older_form_is_read() {
        let text = [place(0xff).as_ref(), &[0; SEALING_BYTES]].concat();
        for keys in [None, Some(place(0xfe))] {
            let sealed = SealedPlace {
                epoch: u32::MAX,
                tag: MessageTag([0xff; 32]),
                text: text.clone(),
                keys: keys.clone(),
            };
            let bytes = sealed.encode();
            assert!(bytes.len() <= PAGE_PLACE_MAX_BYTES, "{}", bytes.len());
            let read = SealedPlace::decode(&bytes, PAGE_PLACE_MAX_BYTES).unwrap();
            assert_eq!((read.text, read.keys), (text.clone(), keys));
            for end in 0..bytes.len() {
                assert!(SealedPlace::decode(&bytes[..end], PAGE_PLACE_MAX_BYTES).is_none());
            }
        }
    }
}
