//! Signed peer records: how they are written, and when one from elsewhere is believed.
//!
//! A signed record is the canonical array `[record bytes, signature]`; the signature covers
//! exactly those bytes. Fields of later versions pass through untouched.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::admission::{Denied, Gate};
use super::members::Known;
use super::message::PeerRecord;
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify, PeerId};
use crate::crypto::sign::{self, Purpose, Signature, SigningKey};

/// Version written by this program.
pub const RECORD_VERSION: u8 = 1;
/// Largest signed record.
pub const RECORD_MAX_BYTES: usize = 16 << 10;
/// Most addresses of one plane in a record.
pub const ADDRESSES_MAX: usize = 24;
/// Longest address, zone or program name in a record.
const TEXT_MAX_BYTES: usize = 200;
/// How far ahead of our clock a record may be dated.
pub const CLOCK_SKEW_MAX_MS: u64 = 10 * 60 * 1000;

/// Why a record was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a signed record.
    #[error("peer record: {0}")]
    Format(#[from] WireError),
    /// Too many or too long entries.
    #[error("peer record of {0} has unreasonable contents")]
    Unreasonable(PeerId),
    /// Dated too far in the future.
    #[error("peer record of {0} is dated in the future")]
    Future(PeerId),
    /// The signature is not that of the peer.
    #[error("peer record of {0} has a bad signature")]
    Signature(PeerId),
    /// The peer is no member.
    #[error("peer record of {0}: {1}")]
    Denied(PeerId, Denied),
}

impl Classify for RecordError {
    fn class(&self) -> Class {
        match self {
            RecordError::Denied(..) => Class::Denied,
            RecordError::Future(_) => Class::Retry,
            _ => Class::Corrupt,
        }
    }
}

fn is_reasonable(record: &PeerRecord) -> bool {
    let mut texts = record
        .addresses
        .iter()
        .chain(&record.bulk)
        .chain([&record.zone, &record.program]);
    let fits = |text: &String| text.len() <= TEXT_MAX_BYTES && !text.contains(char::is_control);
    record.addresses.len().max(record.bulk.len()) <= ADDRESSES_MAX && texts.all(fits)
}

#[derive(Serialize, Deserialize)]
struct Signed(Bytes, Signature);

/// Signs the own record.
pub fn sign(record: &PeerRecord, device: &SigningKey) -> Bytes {
    let bytes = wire::encode(record);
    let signature = device.sign(Purpose::PeerRecord, &bytes);
    wire::encode(&Signed(bytes.into(), signature)).into()
}

/// A record as it claims to be; nothing is believed yet.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The claim.
    pub record: PeerRecord,
    encoded: Bytes,
    signed: Bytes,
    signature: Signature,
}

impl Claimed {
    /// Reads a signed record without verifying it: cheap enough to drop old ones first.
    ///
    /// # Errors
    /// `Format` and `Unreasonable`.
    pub fn decode(encoded: &Bytes) -> Result<Claimed, RecordError> {
        let Signed(signed, signature) = wire::decode_canonical(encoded, RECORD_MAX_BYTES)?;
        let record: PeerRecord = wire::decode(&signed, RECORD_MAX_BYTES)?;
        if !is_reasonable(&record) {
            return Err(RecordError::Unreasonable(record.peer));
        }
        Ok(Claimed {
            encoded: encoded.clone(),
            record,
            signed,
            signature,
        })
    }

    /// Checks everything that makes a record believable at `now_ms`. `before` is what is known of
    /// the peer, whose membership need not be checked again. Costs signature checks: not for the
    /// reactor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(
        self,
        gate: &Gate,
        before: Option<&Known>,
        now_ms: u64,
    ) -> Result<Known, RecordError> {
        let peer = self.record.peer;
        let denied = |denied| RecordError::Denied(peer, denied);
        if self.record.seq > now_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
            return Err(RecordError::Future(peer));
        }
        gate.may_enter(&peer).map_err(denied)?;
        sign::verify(peer, Purpose::PeerRecord, &self.signed, &self.signature)
            .map_err(|_| RecordError::Signature(peer))?;
        let same = |known: &&Known| {
            known.record.peer == peer && known.record.membership == self.record.membership
        };
        let admitted = match before.filter(same) {
            Some(known) => known.admitted.clone(),
            None => gate
                .check_chain(&peer, &self.record.membership)
                .map_err(denied)?,
        };
        Ok(Known::new(self.record, self.encoded, admitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::admission::Lists;
    use crate::net::credentials::Credentials;
    use crate::net::credentials::testing::founded;
    use crate::net::testing::{golden, lines};

    fn record(credentials: &Credentials, seq: u64) -> PeerRecord {
        PeerRecord {
            version: RECORD_VERSION,
            peer: credentials.own(),
            seq,
            addresses: vec!["/ip4/127.0.0.1/tcp/4747".to_owned()],
            bulk: vec!["127.0.0.1:4748".to_owned()],
            capacity_bytes: 1,
            free_bytes: 1,
            zone: String::new(),
            program: "0.1".to_owned(),
            membership: credentials.gate().chain().to_vec(),
            leaving: 0,
        }
    }

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn a_signed_record_is_believed_and_a_changed_one_is_not() {
        let credentials = founded(1, Lists::default());
        let encoded = sign(&record(&credentials, NOW), credentials.device());
        let known = Claimed::decode(&encoded)
            .unwrap()
            .verify(credentials.gate(), None, NOW)
            .unwrap();
        assert_eq!(known.record, record(&credentials, NOW));
        for at in (0..encoded.len()).step_by(7) {
            let mut bad = encoded.to_vec();
            bad[at] ^= 1;
            let refused =
                Claimed::decode(&bad.into()).and_then(|c| c.verify(credentials.gate(), None, NOW));
            assert!(refused.is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_signed_record_has_the_form_that_is_written_down() {
        let credentials = founded(1, Lists::default());
        let signed = sign(&record(&credentials, NOW), credentials.device());
        let written = [("signed".to_owned(), signed.to_vec())];
        assert_eq!(golden("record"), written, "\n{}", lines("record", &written));
        let claim = Claimed::decode(&golden("record")[0].1.clone().into()).unwrap();
        assert_eq!(claim.record, record(&credentials, NOW));
        assert!(claim.verify(credentials.gate(), None, NOW).is_ok());
    }

    #[test]
    fn whoever_leaves_says_so_in_a_field_that_others_lack() {
        use crate::net::command::Stay;
        let credentials = founded(1, Lists::default());
        let stays = wire::encode(&record(&credentials, NOW));
        assert!(!stays.windows(7).any(|name| name == b"leaving"));
        for (leaving, stay) in [(1, Stay::Leaving), (2, Stay::Left), (9, Stay::Left)] {
            let mut leaver = record(&credentials, NOW);
            leaver.leaving = leaving;
            let signed = sign(&leaver, credentials.device());
            let claim = Claimed::decode(&signed).unwrap();
            assert_eq!(claim.record.stay(), stay);
            assert!(claim.verify(credentials.gate(), None, NOW).is_ok());
        }
    }

    #[test]
    fn strangers_dates_and_excess_are_refused() {
        let (credentials, stranger) = (founded(1, Lists::default()), founded(2, Lists::default()));
        let judge = |record: &PeerRecord, device| {
            Claimed::decode(&sign(record, device))
                .and_then(|c| c.verify(credentials.gate(), None, NOW))
        };
        let foreign = judge(&record(&stranger, NOW), stranger.device());
        assert!(matches!(foreign, Err(RecordError::Denied(..))));
        let ahead = record(&credentials, NOW + CLOCK_SKEW_MAX_MS + 1);
        let ahead = judge(&ahead, credentials.device());
        assert!(matches!(ahead, Err(RecordError::Future(_))));
        let mut many = record(&credentials, NOW);
        many.addresses = vec![String::new(); ADDRESSES_MAX + 1];
        let many = judge(&many, credentials.device());
        assert!(matches!(many, Err(RecordError::Unreasonable(_))));
        let mut forged = record(&credentials, NOW);
        forged.peer = stranger.own();
        let forged = judge(&forged, credentials.device());
        assert!(matches!(forged, Err(RecordError::Signature(_))));
    }
}
