//! Kinds of value: how each is read from TOML, shown, and explained when it is wrong.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::base::limits::QUOTA_MIN_BYTES;
use crate::base::units::{format_duration, parse_duration};
use crate::base::{ByteSize, PeerId, Redundancy};

/// Longest name of a zone, in bytes.
const ZONE_MAX_BYTES: usize = 64;
/// Most entries of one list.
const LIST_MAX: usize = 1024;

/// How much of the disk a peer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quota {
    /// Half of the space that is free (its own use counted as free).
    Auto,
    /// So many bytes, at least [`QUOTA_MIN_BYTES`].
    Bytes(ByteSize),
}

impl FromStr for Quota {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Quota::Auto);
        }
        let size: ByteSize = text
            .parse()
            .map_err(|error| format!("{error}, or \"auto\" for half of the free space"))?;
        Quota::bytes(size)
    }
}

impl Quota {
    /// A fixed quota.
    ///
    /// # Errors
    /// If it is below the smallest quota a peer accepts.
    pub fn bytes(size: ByteSize) -> Result<Quota, String> {
        if size.0 < QUOTA_MIN_BYTES {
            return Err(format!(
                "a quota of {size} is too small: the least is {}",
                ByteSize(QUOTA_MIN_BYTES)
            ));
        }
        Ok(Quota::Bytes(size))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quota::Auto => f.write_str("auto"),
            Quota::Bytes(size) => size.fmt(f),
        }
    }
}

/// A network address in libp2p's notation, for instance `/ip4/192.0.2.7/tcp/4747`.
///
/// Checked for its form only: hosts are resolved by the network layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub String);

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        check_address(text)
            .map(|()| Address(text.to_owned()))
            .map_err(|why| {
                format!(
                    "`{text}` is not an address: {why}; write for instance \
                     /ip4/192.0.2.7/tcp/4747 or /dns/host.example/udp/4747/quic-v1"
                )
            })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_address(text: &str) -> Result<(), String> {
    let mut parts = text
        .strip_prefix('/')
        .ok_or("it must begin with `/`")?
        .split('/');
    let mut next = |what: &str| parts.next().ok_or_else(|| format!("{what} is missing"));
    let (host_kind, host) = (next("the kind of host")?, next("the host")?);
    let host_is_valid = match host_kind {
        "ip4" => host.parse::<std::net::Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<std::net::Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => !host.is_empty() && !host.contains(char::is_whitespace),
        other => {
            return Err(format!(
                "`{other}` is not one of ip4, ip6, dns, dns4 and dns6"
            ));
        }
    };
    if !host_is_valid {
        return Err(format!("`{host}` is not a host of kind {host_kind}"));
    }
    let (transport, port) = (next("tcp or udp")?, next("the port")?);
    port.parse::<u16>()
        .map_err(|_| format!("`{port}` is not a port"))?;
    match transport {
        "tcp" => {}
        "udp" if next("`quic-v1` after the port")? == "quic-v1" => {}
        "udp" => return Err("after udp and its port comes `quic-v1`".to_owned()),
        other => return Err(format!("`{other}` is neither tcp nor udp")),
    }
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => Ok(()),
        (Some("p2p"), Some(peer), None) => peer
            .parse::<PeerId>()
            .map(drop)
            .map_err(|error| error.to_string()),
        (Some(other), ..) => Err(format!("`{other}` is not expected there")),
    }
}

/// The least severe messages that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// And what is about to.
    Warn,
    /// And what a user may want to know.
    #[default]
    Info,
    /// And what a developer may want to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const NAMES: [(&'static str, LogLevel); 6] = [
        ("off", LogLevel::Off),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];

    /// Its name in config files and filters.
    pub fn as_str(self) -> &'static str {
        named(&Self::NAMES, self)
    }
}

/// What `fsync` in a mounted volume waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// This machine's disk.
    #[default]
    Local,
    /// Besides, enough other peers.
    Network,
}

impl Durability {
    const NAMES: [(&'static str, Durability); 2] = [
        ("local", Durability::Local),
        ("network", Durability::Network),
    ];

    /// Its name in config files.
    pub fn as_str(self) -> &'static str {
        named(&Self::NAMES, self)
    }
}

/// The name under which `value` stands in a list of all.
pub(super) fn named<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(name, _)| name)
}

/// Problems found in one value: where it begins and what is wrong with it.
pub(super) type Sink<'s> = Vec<(usize, String)>;

/// A kind of value.
pub(super) trait Setting: Sized {
    /// Reads it, or says into `sink` why not.
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self>;
    /// Its TOML form.
    fn show(&self) -> String;
}

pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{text}\""),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) fn wrong_kind<T>(
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
    sink: &mut Sink<'_>,
) -> Option<T> {
    let found = describe(value.get_ref());
    sink.push((
        value.span().start,
        format!("expected {wanted}, found {found}"),
    ));
    None
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
}

/// Reads a string with `parse`, or says into `sink` what is wrong with it.
pub(super) fn parsed<T, E: fmt::Display>(
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
    sink: &mut Sink<'_>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let Some(text) = value.get_ref().as_str() else {
        return wrong_kind(value, wanted, sink);
    };
    match parse(text) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            sink.push((value.span().start, error.to_string()));
            None
        }
    }
}

/// Reads one of a few names.
pub(super) fn one_of<T: Copy>(
    value: &Spanned<DeValue<'_>>,
    known: &[(&'static str, T)],
    sink: &mut Sink<'_>,
) -> Option<T> {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    parsed(value, &format!("one of {names}"), sink, |text| {
        let found = known.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("`{text}` is not one of {names}"))
    })
}

pub(super) fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string().trim().to_owned()
}

impl Setting for bool {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => wrong_kind(value, "true or false", sink),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        let number = integer(value.get_ref()).and_then(|number| u32::try_from(number).ok());
        match number {
            Some(number) if number > 0 => Some(number),
            _ => wrong_kind(value, "a whole number of at least 1", sink),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for ByteSize {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        if let Some(bytes) = integer(value.get_ref()) {
            return Some(ByteSize(bytes));
        }
        parsed(value, "a size such as \"500 MiB\"", sink, str::parse)
    }
    fn show(&self) -> String {
        // Only a form that reads back as the same number will do.
        let text = self.to_string();
        if text.parse() == Ok(*self) {
            quoted(&text)
        } else {
            self.0.to_string()
        }
    }
}

impl Setting for Quota {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        let wanted = "\"auto\" or a size such as \"200 GiB\"";
        let Some(bytes) = integer(value.get_ref()) else {
            return parsed(value, wanted, sink, str::parse);
        };
        Quota::bytes(ByteSize(bytes))
            .map_err(|why| sink.push((value.span().start, why)))
            .ok()
    }
    fn show(&self) -> String {
        match self {
            Quota::Auto => quoted("auto"),
            Quota::Bytes(size) => size.show(),
        }
    }
}

impl Setting for Duration {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        parsed(value, "a duration such as \"30s\"", sink, parse_duration)
    }
    fn show(&self) -> String {
        quoted(&format_duration(*self))
    }
}

impl Setting for Redundancy {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        parsed(
            value,
            "a redundancy such as \"4+2\", or \"auto\"",
            sink,
            str::parse,
        )
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Address {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        parsed(
            value,
            "an address such as \"/ip4/0.0.0.0/tcp/4747\"",
            sink,
            str::parse,
        )
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Setting for SocketAddr {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        let wanted = "an IP address and a port such as \"0.0.0.0:4748\" or \"[::]:4748\"";
        parsed(value, wanted, sink, |text| {
            text.parse::<SocketAddr>()
                .map_err(|_| format!("`{text}` is not {wanted}"))
        })
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for PeerId {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        parsed(value, "a peer id (12D3KooW...)", sink, str::parse)
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for LogLevel {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        one_of(value, &LogLevel::NAMES, sink)
    }
    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for Durability {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        one_of(value, &Durability::NAMES, sink)
    }
    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

/// A zone: the only free text of the schema.
impl Setting for String {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        parsed(value, "a name", sink, |text| {
            if text.len() > ZONE_MAX_BYTES {
                Err(format!("longer than {ZONE_MAX_BYTES} bytes"))
            } else if text.chars().any(char::is_control) {
                Err("it has control characters".to_owned())
            } else {
                Ok(text.to_owned())
            }
        })
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        let DeValue::Array(items) = value.get_ref() else {
            return wrong_kind(value, "a list in [brackets]", sink);
        };
        if items.len() > LIST_MAX {
            sink.push((
                value.span().start,
                format!("more than {LIST_MAX} entries in one list"),
            ));
            return None;
        }
        // Every entry is read, so that all wrong ones are told.
        let read: Vec<Option<T>> = items.iter().map(|item| T::read(item, sink)).collect();
        read.into_iter().collect()
    }
    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(Setting::show).collect();
        let line = format!("[{}]", items.join(", "));
        if line.len() <= 80 {
            return line;
        }
        let lines: Vec<String> = items.iter().map(|item| format!("    {item},\n")).collect();
        format!("[\n{}]", lines.concat())
    }
}
