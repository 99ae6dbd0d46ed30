//! File, environment and flags, checked and turned into options for each layer.
//!
//! Owns the schema of `config.toml`: every key with its default, unit and sentence stands once,
//! in [`schema`]. Knows nothing of how an option is carried out.

mod agree;
mod conflict;
pub mod edit;
pub mod paths;
mod problem;
mod read;
pub mod schema;
mod snapshots;
mod value;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::base::{ByteSize, PeerId, Redundancy};

pub use agree::{Consistency, Locks};
pub use conflict::{ConflictRule, KeepWhich};
pub use edit::{EditError, create_if_absent, set_quota};
pub use paths::{Environment, Paths};
pub use problem::{ConfigError, Problem, Problems};
pub use schema::{KEYS, Key};
pub use snapshots::Snapshots;
pub use value::{Address, Durability, LogLevel, Quota};

/// Port of the control plane, TCP and QUIC, where nothing else is configured.
pub const CONTROL_PORT: u16 = 4747;
/// Port of the bulk plane, TCP, where nothing else is configured.
pub const BULK_PORT: u16 = 4748;

/// Everything that a user may set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[storage]`: what this peer keeps for the network.
    pub storage: Storage,
    /// `[network]`: where it listens, whom it talks to, and how much.
    pub network: Network,
    /// `[put]`: how new data is stored.
    pub put: Put,
    /// `[fetch]`: how data is read.
    pub fetch: Fetch,
    /// `[mount]`: how mounted volumes behave.
    pub mount: Mount,
    /// `[snapshots]`: which are made and kept.
    pub snapshots: Snapshots,
    /// `[repair]`: what becomes of what peers that are gone held.
    pub repair: Repair,
    /// `[cache]`: what is kept of data that was read.
    pub cache: Cache,
    /// `[limits]`: bounds on this process.
    pub limits: Bounds,
    /// `[log]`: what it tells.
    pub log: Log,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Most bytes that the whole data directory may occupy.
    pub quota: Quota,
    /// Bytes of the disk that are left free whatever the quota says.
    pub reserve_free: ByteSize,
    /// Whether shards of other peers are stored here.
    pub offer: bool,
    /// How long what nothing keeps any more rests before it goes.
    pub trash: Duration,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Addresses of the control plane.
    pub listen: Vec<Address>,
    /// Addresses of the bulk plane.
    pub bulk_listen: Vec<SocketAddr>,
    /// Addresses dialled at start, besides those that tickets and other peers told.
    pub bootstrap: Vec<Address>,
    /// Whether peers on the local network are found by multicast DNS.
    pub mdns: bool,
    /// Failure domain; empty: as the invitation says.
    pub zone: String,
    /// Most peers connected at once, whoever dialled.
    pub max_connections: u32,
    /// Most members kept in the member list; others are looked up in the DHT.
    pub max_members: u32,
    /// Most memory for what others send unasked, until it is stored.
    pub max_memory: ByteSize,
    /// Most bytes sent in a second; 0: no limit.
    pub upload_limit: ByteSize,
    /// Most bytes received in a second; 0: no limit.
    pub download_limit: ByteSize,
    /// If not empty, the only peers that are talked to.
    pub allow: Vec<PeerId>,
    /// Peers that are never talked to.
    pub deny: Vec<PeerId>,
}

/// `[put]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Redundancy of new data.
    pub redundancy: Redundancy,
}

/// `[fetch]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// How long a read waits for missing shards before it fails.
    pub timeout: Duration,
}

/// `[mount]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What `fsync` waits for.
    pub durability: Durability,
    /// What an `open` sees of what others closed.
    pub consistency: Consistency,
    /// Between whom locks hold.
    pub locks: Locks,
    /// Changes are durable after so long without being asked for.
    pub commit_interval: Duration,
    /// Most bytes of written data that are in no block yet; writers wait beyond that.
    pub dirty_max: ByteSize,
    /// How long a read waits for missing shards before it fails.
    pub read_timeout: Duration,
    /// What becomes of contents of one file that were written at the same time: the first rule that matches counts.
    pub conflict: Vec<ConflictRule>,
}

/// `[repair]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// A peer that is away for longer is told of.
    pub suspect: Duration,
    /// What a peer holds that is away for longer is made anew elsewhere.
    pub dead: Duration,
    /// Most bytes per second that repairs read or move; 0: no limit.
    pub rate: ByteSize,
    /// Every shard of the own disk is read once in this time.
    pub scrub: Duration,
    /// Every other peer is asked once in this time for a part of what it says it holds.
    pub audit: Duration,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Most memory for plaintext that was read lately.
    pub memory: ByteSize,
    /// Most of the data directory for ciphertext that others sent.
    pub disk: ByteSize,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Most memory for chunks being sealed, coded and sent.
    pub upload_memory: ByteSize,
    /// Most memory for blocks fetched ahead of readers.
    pub download_memory: ByteSize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// The least severe messages shown.
    pub level: LogLevel,
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            quota: Quota::Auto,
            reserve_free: ByteSize::gib(1),
            offer: true,
            trash: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Network {
            listen: ["/ip4/0.0.0.0", "/ip6/::"]
                .iter()
                .flat_map(|host| {
                    [
                        Address(format!("{host}/tcp/{CONTROL_PORT}")),
                        Address(format!("{host}/udp/{CONTROL_PORT}/quic-v1")),
                    ]
                })
                .collect(),
            bulk_listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, BULK_PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, BULK_PORT)),
            ],
            bootstrap: Vec::new(),
            mdns: true,
            zone: String::new(),
            max_connections: 256,
            max_members: 1024,
            max_memory: ByteSize::mib(64),
            upload_limit: ByteSize(0),
            download_limit: ByteSize(0),
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }
}

impl Default for Put {
    fn default() -> Self {
        Put {
            redundancy: Redundancy::DEFAULT,
        }
    }
}

impl Default for Fetch {
    fn default() -> Self {
        Fetch {
            timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Mount {
    fn default() -> Self {
        Mount {
            durability: Durability::Local,
            consistency: Consistency::Prompt,
            locks: Locks::Local,
            commit_interval: Duration::from_secs(1),
            dirty_max: ByteSize::mib(256),
            read_timeout: Duration::from_secs(30),
            conflict: Vec::new(),
        }
    }
}

impl Default for Repair {
    fn default() -> Self {
        Repair {
            suspect: Duration::from_secs(10 * 60),
            dead: Duration::from_secs(12 * 3600),
            rate: ByteSize::mib(16),
            scrub: Duration::from_secs(30 * 24 * 3600),
            audit: Duration::from_secs(3600),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            memory: ByteSize::mib(64),
            disk: ByteSize::gib(1),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            upload_memory: ByteSize::mib(64),
            download_memory: ByteSize::mib(64),
        }
    }
}

impl Config {
    /// Reads the text of a config file; keys that it lacks keep their defaults.
    ///
    /// # Errors
    /// All problems of the text together, each with its line.
    pub fn parse(text: &str) -> Result<Config, Problems> {
        read::parse(text)
    }

    /// Reads a config file.
    ///
    /// # Errors
    /// If it cannot be read, or with all its problems together.
    pub fn load(file: &std::path::Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Config::parse(&text).map_err(|problems| ConfigError::Invalid {
            file: file.to_owned(),
            problems,
        })
    }

    /// The text of a config file that says exactly this, with a comment on every key.
    pub fn to_toml(&self) -> String {
        schema::render(self, schema::Style::Active)
    }
}
