//! The redundancy of a stripe: how many data and parity shards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::ParseIdError;

/// Most shards one stripe may have; `IndexSet` is a 64-bit set.
pub const MAX_STRIPE_SHARDS: usize = 64;

/// `data_shards` any of which, out of `data_shards + parity_shards`, bring a block back.
///
/// Text form `4+2`. Serialised as an array `[data, parity]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct EcProfile {
    data_shards: u8,
    parity_shards: u8,
}

impl EcProfile {
    /// The profile used where nothing else is said.
    pub const DEFAULT: EcProfile = EcProfile {
        data_shards: 4,
        parity_shards: 2,
    };

    /// At least one data shard, at most [`MAX_STRIPE_SHARDS`] in all.
    pub fn new(data_shards: u8, parity_shards: u8) -> Result<Self, ParseIdError> {
        let total = usize::from(data_shards) + usize::from(parity_shards);
        if data_shards == 0 || total > MAX_STRIPE_SHARDS {
            return Err(ParseIdError {
                what: "redundancy",
                why: format!(
                    "{data_shards}+{parity_shards} needs at least 1 data shard and at most {MAX_STRIPE_SHARDS} shards in all"
                ),
            });
        }
        Ok(EcProfile {
            data_shards,
            parity_shards,
        })
    }

    /// Shards that are needed to read.
    pub const fn data_shards(self) -> usize {
        self.data_shards as usize
    }

    /// Shards that may be lost.
    pub const fn parity_shards(self) -> usize {
        self.parity_shards as usize
    }

    /// All shards of a stripe.
    pub const fn total_shards(self) -> usize {
        self.data_shards as usize + self.parity_shards as usize
    }
}

impl Default for EcProfile {
    fn default() -> Self {
        EcProfile::DEFAULT
    }
}

impl TryFrom<(u8, u8)> for EcProfile {
    type Error = ParseIdError;
    fn try_from((data, parity): (u8, u8)) -> Result<Self, ParseIdError> {
        EcProfile::new(data, parity)
    }
}

impl From<EcProfile> for (u8, u8) {
    fn from(profile: EcProfile) -> Self {
        (profile.data_shards, profile.parity_shards)
    }
}

impl fmt::Display for EcProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data_shards, self.parity_shards)
    }
}

impl fmt::Debug for EcProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EcProfile {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fail = || ParseIdError {
            what: "redundancy",
            why: format!("`{text}` is not of the form DATA+PARITY, for instance 4+2"),
        };
        let (data, parity) = text.trim().split_once('+').ok_or_else(fail)?;
        EcProfile::new(
            data.trim().parse().map_err(|_| fail())?,
            parity.trim().parse().map_err(|_| fail())?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_bad_ones_are_refused() {
        assert_eq!("4+2".parse::<EcProfile>().unwrap(), EcProfile::DEFAULT);
        assert_eq!("10+20".parse::<EcProfile>().unwrap().to_string(), "10+20");
        for text in ["", "4", "0+2", "4+2+1", "40+40", "-1+2", "4+x"] {
            assert!(text.parse::<EcProfile>().is_err(), "{text}");
        }
    }
}
