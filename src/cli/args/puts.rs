//! What becomes of a put afterwards, on the command line.

use std::time::Duration;

use clap::Args;

use crate::base::units::parse_duration;

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// What `cairn put` printed
    #[arg(required = true)]
    pub(in crate::cli) links: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RenewArgs {
    /// What `cairn put` printed, here or anywhere
    pub(in crate::cli) link: String,
    /// For how long from now, for instance 12h, 30d or 1y, or `never`: for good [default: as long again as it was put
    /// for here, or for good]
    #[arg(long, value_name = "DURATION", value_parser = parse_expiry)]
    pub(in crate::cli) expires: Option<Expiry>,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// Links that were removed
    #[arg(required_unless_present = "all")]
    pub(in crate::cli) links: Vec<String>,
    /// All that `cairn trash list` tells
    #[arg(long, conflicts_with = "links")]
    pub(in crate::cli) all: bool,
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Expiry {
    Never,
    After(Duration),
}

fn parse_expiry(text: &str) -> Result<Expiry, String> {
    if text.eq_ignore_ascii_case("never") {
        return Ok(Expiry::Never);
    }
    parse_lifetime(text).map(Expiry::After)
}

pub(super) fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text).map_err(|error| error.to_string())?;
    match lifetime < Duration::from_secs(1) {
        true => Err("it would be gone at once: a second at least".to_owned()),
        false => Ok(lifetime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_as_people_write_them() {
        let day = Duration::from_secs(24 * 3600);
        for (text, expiry) in [
            ("12h", Expiry::After(day / 2)),
            ("30d", Expiry::After(30 * day)),
            ("1y", Expiry::After(365 * day)),
            ("never", Expiry::Never),
        ] {
            assert_eq!(parse_expiry(text), Ok(expiry));
        }
        for text in ["", "soon", "0s", "999ms", "-1d", "999999y"] {
            assert!(parse_expiry(text).is_err(), "{text}");
        }
        assert!(parse_lifetime("never").is_err());
    }
}
