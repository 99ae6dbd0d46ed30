//! Quantities as people write them: `200 GiB`, `1.5s`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. Text form with binary units; also reads decimal ones (`2 TB`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// Why a quantity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct ParseUnitError {
    text: String,
    what: &'static str,
}

const SIZE_HINT: &str = "size: write a number and a unit, for instance 500 MiB or 2 TB";
const DURATION_HINT: &str =
    "duration: write a number and ms, s, m, h, d or y, for instance 30s or 7d";

/// Longest duration, 278 years: it can be added to the time of any clock.
const DURATION_MAX_MS: u64 = 1 << 43;

const BINARY_UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

impl ByteSize {
    /// So many KiB.
    pub const fn kib(count: u64) -> Self {
        ByteSize(count << 10)
    }

    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        ByteSize(count << 20)
    }

    /// So many GiB.
    pub const fn gib(count: u64) -> Self {
        ByteSize(count << 30)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 0;
        let mut value = self.0 as f64;
        // 1023.95 would print as 1024.0.
        while value >= 1023.95 && unit + 1 < BINARY_UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text = if unit == 0 || value.fract().abs() < 0.05 || value.fract() > 0.95 {
            format!("{value:.0} {}", BINARY_UNITS[unit])
        } else {
            format!("{value:.1} {}", BINARY_UNITS[unit])
        };
        f.pad(&text)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

/// Splits `12.5 GiB` into its number and its unit.
fn split_quantity(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    Some((number, text[end..].trim()))
}

impl FromStr for ByteSize {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let fail = || ParseUnitError {
            text: text.to_owned(),
            what: SIZE_HINT,
        };
        let (number, unit) = split_quantity(text).ok_or_else(fail)?;
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            "p" | "pi" | "pib" => 1 << 50,
            "e" | "ei" | "eib" => 1 << 60,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "pb" => 1_000_000_000_000_000,
            "eb" => 1_000_000_000_000_000_000,
            _ => return Err(fail()),
        };
        let bytes = number * factor as f64;
        if !bytes.is_finite() || bytes > u64::MAX as f64 {
            return Err(fail());
        }
        Ok(ByteSize(bytes.round() as u64))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_HINT)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads `250ms`, `30s`, `5m`, `12h`, `7d` or `1y` (365 days).
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    let fail = || ParseUnitError {
        text: text.to_owned(),
        what: DURATION_HINT,
    };
    let (number, unit) = split_quantity(text).ok_or_else(fail)?;
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "y" => 365.0 * 86_400.0,
        _ => return Err(fail()),
    };
    let exact = Duration::try_from_secs_f64(number * seconds).map_err(|_| fail())?;
    let rounded = exact.saturating_add(Duration::from_micros(500));
    match u64::try_from(rounded.as_millis()) {
        Ok(ms) if ms <= DURATION_MAX_MS => Ok(Duration::from_millis(ms)),
        _ => Err(fail()),
    }
}

/// Writes a duration in the largest unit that loses nothing; the inverse of [`parse_duration`].
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1 KiB", 1024),
            ("1.5GiB", 3 << 29),
            ("2 TB", 2_000_000_000_000),
            ("200gib", 200 << 30),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        assert_eq!(ByteSize(10 << 30).to_string(), "10 GiB");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize((1 << 30) - 1).to_string(), "1 GiB");
        for text in ["", "GiB", "-1", "1 parsec", "1..2", "99999999999 PiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_round_trip() {
        for text in ["250ms", "30s", "5m", "12h", "7d"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        // Whole milliseconds, as they are written; nothing that no clock can count to.
        assert_eq!(parse_duration("1.52003s"), parse_duration("1520ms"));
        assert_eq!(parse_duration("2y"), parse_duration("730d"));
        assert!(parse_duration("300000d").is_err());
        assert!(parse_duration("10").is_err());
        assert!(parse_duration("-1s").is_err());
    }
}
