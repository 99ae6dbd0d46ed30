//! Every key, once: its name, its unit, its sentence, and the field it sets.

use toml::Spanned;
use toml::de::DeValue;

use super::Config;
use super::value::{Setting, Sink};

/// One key of `config.toml`.
pub struct Key {
    /// Table and name, for instance `storage.quota`.
    pub path: &'static str,
    /// The unit or form of its value.
    pub unit: &'static str,
    /// What it does, in one sentence.
    pub sentence: &'static str,
    pub(super) set: fn(&mut Config, &Spanned<DeValue<'_>>, &mut Sink<'_>),
    show: fn(&Config) -> String,
}

impl Key {
    /// The table that the key stands in.
    pub fn table(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(table, _)| table)
    }

    /// Its name within its table.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(_, name)| name)
    }

    /// The TOML form of its value in `config`.
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }
}

macro_rules! keys {
    ($($table:ident . $name:ident, $unit:literal, $sentence:literal;)*) => {
        /// All keys, in the order of the file.
        pub const KEYS: &[Key] = &[$(Key {
            path: concat!(stringify!($table), ".", stringify!($name)),
            unit: $unit,
            sentence: $sentence,
            set: |config, value, sink| {
                if let Some(value) = Setting::read(value, sink) {
                    config.$table.$name = value;
                }
            },
            show: |config| config.$table.$name.show(),
        }),*];
    };
}

keys! {
    storage.quota, "\"auto\" (half of the free space), or a size of at least 32 MiB",
        "Most bytes that the whole data directory may occupy on its disk; `cairn quota` changes it at once.";
    storage.reserve_free, "size",
        "Bytes of the disk that stay free whatever the quota says; intake stops there.";
    storage.offer, "true or false",
        "Whether this peer stores data for others; false makes one that only puts and gets.";
    storage.trash, "duration, \"0s\" for none",
        "How long what was let go rests on this peer before it goes, so that it can be taken back: `cairn trash list` tells of it. It counts within the quota, and goes earlier, the oldest first, where less than an eighth of that is left.";

    network.listen, "list of addresses",
        "Addresses of the control plane, TCP and QUIC; nothing is opened before the first invite or join.";
    network.bulk_listen, "list of IP:PORT",
        "Addresses of the bulk plane, on which shards travel over TLS.";
    network.bootstrap, "list of addresses",
        "Peers dialled at start, besides those known from tickets and from other peers.";
    network.mdns, "true or false",
        "Whether peers of the same network are found on the local network by multicast DNS.";
    network.zone, "name, or \"\" for what the invitation says",
        "Failure domain: peers that share power, a house or an owner should name the same zone, so that no stripe depends on one. Those who joined with one ticket share one besides, unless it was made with --separate-zones.";
    network.max_connections, "count, at least 8",
        "Most peers connected at once, whoever dialled; each by one connection of the bulk plane or by a few of the other.";
    network.max_members, "count",
        "Most members kept in the member list; in a larger network the others are looked up in the DHT.";
    network.max_memory, "size, at least 16 MiB",
        "Most memory for what others send unasked, until it is stored; one peer may take a third of it.";
    network.upload_limit, "size per second, 0 for none",
        "Most bytes sent in a second, all peers together: requests and answers of either plane, not the little that finds peers.";
    network.download_limit, "size per second, 0 for none",
        "Most bytes received in a second, all peers together, counted likewise.";
    network.allow, "list of peer ids",
        "If not empty, the only peers that are stored for, served and routed to.";
    network.deny, "list of peer ids",
        "Peers that are never stored for, served or routed to.";

    put.redundancy, "DATA+PARITY shards, or \"auto\"",
        "Redundancy of new data: any DATA of all shards bring it back, so PARITY peers may be lost. \"auto\" chooses whenever something is written, by how many peers there are and how often each could be reached of late.";

    fetch.timeout, "duration, more than 0",
        "How long a read waits for shards that no reachable peer has before it fails.";

    mount.durability, "local or network",
        "What fsync in a mounted volume waits for: this machine's disk; or, of a shared volume, also until what was written survives the loss of this machine, together with others up to half of the parity shards, rounded up; it fails if too few machines can be reached for that.";
    mount.consistency, "prompt or close-to-open",
        "What an open sees of what other machines closed: what has arrived, usually within hundredths of a second; or all of it, for which close and open wait for the machines that are connected. To be set on all machines alike.";
    mount.locks, "local or cluster",
        "Between whom locks, and O_EXCL, hold: the programs of this machine, or those of all machines that mount the volume. Cluster needs `cairn volume voters`, and a majority of those machines that can be reached; to be set on all machines alike.";
    mount.commit_interval, "duration, more than 0",
        "How long changes that no fsync asked for may take until they are safe on this machine's disk.";
    mount.dirty_max, "size, at least 16 MiB",
        "Most memory for what was written to a volume and is neither in the pool nor, where that takes long, in the journal; whoever writes more waits.";
    mount.read_timeout, "duration, more than 0",
        "How long a read in a mounted volume waits for shards that no reachable peer has before it fails.";
    mount.conflict, "list of { glob, keep }, the first glob that matches counts",
        "What becomes of a file that two machines changed at the same time. { glob = \"*.log\", keep = \"newest\" } lets the older content go; \"keep-both\", as where no glob matches, makes it a file beside the other. A glob with `/` is compared with the path in the volume, one without with the name.";

    snapshots.keep, "{ last, hourly, daily, weekly, monthly, yearly }: how many of each, in UTC",
        "Which snapshots of mounted volumes are kept: the last ones, and the last one of each hour, day, week, month and year. One is made when the shortest of these that is named has none yet, and those that no part of the rule keeps are let go. Snapshots with a label stay, and so do those of other machines; with {} none are made and none are let go.";
    repair.suspect, "duration, more than 0, at most repair.dead",
        "How long a peer may be away before `cairn status` counts what it holds as away. It is read around at once.";
    repair.dead, "duration, more than 0",
        "How long a peer may be away before what it holds is made anew elsewhere. Only time during which this peer runs counts.";
    repair.rate, "size per second, 0 for none",
        "Most bytes that repairs read or move in a second; less while somebody reads or writes.";
    repair.scrub, "duration, more than 0",
        "Every shard on this disk is read again once in this time, at 64 KiB per second or more; a damaged one is taken out and made anew.";
    repair.audit, "duration, more than 0",
        "Every peer that can be reached is asked once in this time to prove a part of a shard that it says it holds. Who answers wrongly, lacks it or is late again and again is named by `cairn peers`, and others get new shards in its place.";

    cache.memory, "size, at least 16 MiB",
        "Most memory for data that was read lately and may be read again; given back when none of it was read for two minutes.";
    cache.disk, "size, 0 for none",
        "Most of the data directory for what was fetched from other peers, still encrypted; never more than half of the quota, and given back when other data needs the room.";

    limits.upload_memory, "size, at least 16 MiB",
        "Most memory for chunks that are being sealed, coded and sent.";
    limits.download_memory, "size, at least 16 MiB",
        "Most memory for blocks that are fetched ahead of their readers.";

    log.level, "off, error, warn, info, debug or trace",
        "The least severe messages that a peer writes to its standard error; CAIRN_LOG overrides it.";
}

/// One sentence on each table.
const TABLES: &[(&str, &str)] = &[
    ("storage", "What this peer keeps for the network."),
    (
        "network",
        "Where it listens, whom it talks to, and how much.",
    ),
    ("put", "How new data is stored."),
    ("fetch", "How data is read."),
    ("mount", "How mounted volumes behave."),
    ("snapshots", "The past of mounted volumes."),
    (
        "repair",
        "What becomes of what peers that are gone or bad disks held.",
    ),
    ("cache", "What it keeps of data that was read."),
    ("limits", "Bounds on this process."),
    ("log", "What it tells."),
];

/// Names of all tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(name, _)| *name)
}

/// Whether a rendered file sets its keys or only mentions them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Every key is set.
    Active,
    /// Every key is commented out, so that later defaults apply.
    Commented,
}

/// The text of a config file that shows `config`, with a comment on every key.
pub fn render(config: &Config, style: Style) -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "# Cairn: settings of one peer. Sizes are written as \"500 MiB\" or \"2 TB\",\n\
         # durations as \"30s\" or \"7d\". `cairn config check` tells all mistakes at once.\n",
    );
    if style == Style::Commented {
        text.push_str(
            "# A line that begins with `#` shows the default: take the `#` away to change it.\n",
        );
    }
    for (table, sentence) in TABLES {
        text.push_str(&format!("\n# {sentence}\n[{table}]\n"));
        for key in KEYS.iter().filter(|key| key.table() == *table) {
            text.push_str(&comment(key, &defaults));
            let line = format!("{} = {}", key.name(), key.show(config));
            for line in line.lines() {
                let mark = if style == Style::Commented { "#" } else { "" };
                text.push_str(&format!("{mark}{line}\n"));
            }
        }
    }
    text
}

/// Sentence, unit and default of a key, wrapped.
fn comment(key: &Key, defaults: &Config) -> String {
    let mut lines = String::from("\n");
    let mut line = String::from("#");
    for word in key.sentence.split(' ') {
        if line.len() + 1 + word.len() > 100 {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let shown = key.show(defaults);
    let default = if shown.contains('\n') {
        "as below"
    } else {
        &shown
    };
    format!("{lines}{line}\n# Unit: {}. Default: {default}.\n", key.unit)
}
