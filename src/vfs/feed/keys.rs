//! Keys that this device has not got: found in deltas, and beside the checkpoints of others.
//!
//! A record says in clear where the documents are that hand out its volume's keys: who was away, or comes with an older
//! ticket, can open nothing else of it. Nobody reads more in them than who handed keys to how many.

use std::sync::Arc;

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::Shared;
use super::points::PointError;
use super::rules::rotations_in;
use crate::base::limits::PAGE_PLACE_MAX_BYTES;
use crate::base::wire;
use crate::crypto::{EpochKey, MessageTag};
use crate::feeds::checkpoint::Record;
use crate::feeds::{Ruling, SealedDelta, Signed, ruling};
use crate::namespace::Delta;
use crate::vfs::checkpoint::CheckpointFailure;
use crate::vfs::errno::Step;
use crate::vfs::inner::Inner;

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
    /// Keys of the name of an epoch.
    pub(super) fn keys_of(&self, epoch: u32) -> Vec<EpochKey> {
        let Some(shared) = self.shared() else {
            return Vec::new();
        };
        match shared.book() {
            Some(book) => book.keys(epoch).cloned().collect(),
            None => shared
                .share
                .epochs
                .get(&epoch)
                .cloned()
                .into_iter()
                .collect(),
        }
    }

    /// Keys that deltas hand out are kept at once: what comes behind them is sealed under those, and the deltas may wait
    /// for others.
    pub(super) fn learn_keys(&self, opened: &[(Delta, SealedDelta)]) {
        let mut rotations = opened
            .iter()
            .flat_map(|(delta, _)| rotations_in(delta))
            .peekable();
        if rotations.peek().is_none() {
            return;
        }
        let Some(mut book) = self.shared().and_then(Shared::book) else {
            return;
        };
        for rotation in rotations {
            if rotation.volume == self.identity.id {
                book.open(&rotation);
            }
        }
    }

    /// The documents that hand out keys, as a page; none while nothing was handed out.
    pub(super) fn keys_page(&self, shared: &Shared) -> Step<Option<Bytes>> {
        let rows = {
            let _core = self.core();
            self.view(|view| view.rulings())?
        };
        let rows = rows.into_iter().map(|(kind, bytes, _)| (kind, bytes));
        let Some(book) = shared.book() else {
            return Ok(None);
        };
        let rulings = book.page(rows.collect(), self.identity.id);
        let hands_out = rulings
            .iter()
            .any(|ruling| matches!(ruling, Ruling::Rotation(_)));
        let page = || ruling::encode_page(self.identity.id, &rulings).into();
        Ok(hands_out.then(page))
    }

    /// Looks at the documents beside a checkpoint. Whether they had a key for this device that it had not got.
    pub(super) async fn look_beside(
        self: &Arc<Self>,
        record: &Signed<Record>,
    ) -> Result<bool, PointError> {
        let place = SealedPlace::decode(&record.place, PAGE_PLACE_MAX_BYTES);
        let Some(keys) = place.and_then(|place| place.keys) else {
            return Ok(false);
        };
        let name = *blake3::hash(&keys).as_bytes();
        let is_known = |shared: &Shared| match shared.book() {
            Some(book) => book.pages.contains(&name),
            None => true,
        };
        if self.shared().is_none_or(is_known) {
            return Ok(false);
        }
        let bytes = self.fetch_encoded(&keys).await;
        let bytes = bytes.map_err(CheckpointFailure::from)?;
        let volume = self.identity.id;
        let read = move || ruling::decode_page(volume, &bytes);
        let rulings = self.blocks.pools().cpu.run(read).await?;
        let Some(mut book) = self.shared().and_then(Shared::book) else {
            return Ok(false);
        };
        if book.pages.len() < crate::base::limits::RULINGS_HEARD_MAX {
            book.pages.insert(name);
        }
        Ok(book.hear(rulings))
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
