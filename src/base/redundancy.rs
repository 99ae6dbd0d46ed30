//! What is asked for as redundancy: a certain one, or the one that fits the peers there are.

use std::fmt;
use std::str::FromStr;

use super::ids::ParseIdError;
use super::profile::EcProfile;

/// The word for the redundancy that is chosen when data is written.
const AUTO: &str = "auto";

/// A redundancy as somebody asks for it. Text form `4+2` or `auto`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Redundancy {
    /// This one.
    Fixed(EcProfile),
    /// Chosen when data is written, by how many peers there are and how often they can be reached.
    Auto,
}

impl Redundancy {
    /// What is used where nothing else is said.
    pub const DEFAULT: Redundancy = Redundancy::Fixed(EcProfile::DEFAULT);

    /// The redundancy of what is written now, where `auto` is what is chosen at this moment.
    pub const fn resolve(self, auto: EcProfile) -> EcProfile {
        match self {
            Redundancy::Fixed(profile) => profile,
            Redundancy::Auto => auto,
        }
    }
}

impl Default for Redundancy {
    fn default() -> Self {
        Redundancy::DEFAULT
    }
}

impl From<EcProfile> for Redundancy {
    fn from(profile: EcProfile) -> Self {
        Redundancy::Fixed(profile)
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Redundancy::Fixed(profile) => profile.fmt(f),
            Redundancy::Auto => f.write_str(AUTO),
        }
    }
}

impl FromStr for Redundancy {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.trim() == AUTO {
            return Ok(Redundancy::Auto);
        }
        let parsed = text.parse::<EcProfile>().map(Redundancy::Fixed);
        parsed.map_err(|error| match text.contains('+') {
            true => error,
            false => ParseIdError {
                what: "redundancy",
                why: format!("`{text}` is neither `auto` nor of the form DATA+PARITY, as 4+2"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_bad_ones_are_refused() {
        assert_eq!("auto".parse::<Redundancy>().unwrap(), Redundancy::Auto);
        assert_eq!(
            "4+2".parse::<Redundancy>().unwrap(),
            Redundancy::Fixed(EcProfile::DEFAULT)
        );
        for text in ["auto", "4+2", "10+20"] {
            assert_eq!(text.parse::<Redundancy>().unwrap().to_string(), text);
        }
        for text in ["", "Auto", "auto+2", "0+2", "4", "inherit"] {
            assert!(text.parse::<Redundancy>().is_err(), "{text}");
        }
    }
}
