//! The command line as clap sees it.

mod puts;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use self::puts::parse_lifetime;
pub(super) use self::puts::{Expiry, RenewArgs, RestoreArgs, RmArgs};
pub(super) use self::volume::*;
use super::mount_options::MountOption;
use crate::base::{ByteSize, EcProfile, Redundancy};
use crate::config::Quota;

/// One pool out of the spare disks of many machines: encrypted, self-healing, without a server.
#[derive(Debug, Parser)]
#[command(
    name = "cairn",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// Directory of this peer's data [env: CAIRN_DATA_DIR; default: ~/.local/share/cairn, as root /var/lib/cairn]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Config file [env: CAIRN_CONFIG; default: config.toml in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print nothing but the result and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Tell more; twice: tell everything [CAIRN_LOG has finer filters]
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a peer in the foreground until Ctrl-C or SIGTERM
    Node(NodeArgs),
    /// Run a network of real peers on this machine, to try things out
    Devnet(DevnetArgs),
    /// Mount a volume on a directory, and make it at first use
    Mount(MountArgs),
    /// Unmount what is mounted on a directory
    Umount(UmountArgs),
    /// Wait until everything written to mounted volumes is in the pool, as redundantly as its peers allow
    Sync(SyncArgs),
    /// List what the machines that write a volume disagreed about, and end it
    Conflicts(ConflictsArgs),
    /// Make, share, list and remove volumes
    Volume(VolumeArgs),
    /// Make a ticket with which another machine joins
    Invite(InviteArgs),
    /// Join the network of a ticket
    Join(JoinArgs),
    /// Store a file, a directory or the standard input, and print its link
    Put(PutArgs),
    /// Bring back what a link names
    Get(GetArgs),
    /// List a directory of a tree
    Ls(LsArgs),
    /// Tell how much of a link's data, or of what is below a path of a mount, is there now, and what it survives
    Stat(StatArgs),
    /// Tell or set which redundancy is wanted at a path of a mount, and below it
    Redundancy(RedundancyArgs),
    /// List what this peer has put
    List,
    /// Remove what this peer has put: the pool lets go of it, and `cairn trash restore` brings it back for a while
    Rm(RmArgs),
    /// Keep what a link names from now on, whoever put it
    Renew(RenewArgs),
    /// Back up or restore this peer's identity, secrets and list
    Key(KeyArgs),
    /// Tell how this peer is, and how safe everything is that the network keeps
    Status(StatusArgs),
    /// Tell what this peer is going to repair
    Repair(RepairArgs),
    /// Tell what was let go and rests on this peer, or empty it
    Trash(TrashArgs),
    /// Have this peer leave: others take over what it holds, and then it can be stopped for good
    Drain(DrainArgs),
    /// Let go of what nothing in a shared volume names any more
    Gc(GcArgs),
    /// Tell what this peer does in the background, and have a part of it rest
    Workers(WorkersArgs),
    /// Tell which peers this one knows, and how it reaches them
    Peers,
    /// Tell or change how much disk this peer may use
    Quota(QuotaArgs),
    /// Look after the config file
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(super) struct RedundancyArgs {
    /// A file or directory in a mounted volume
    pub(super) path: PathBuf,
    /// Redundancy of it and of what is below, for instance 4+2; `auto` chooses by the peers there are, `inherit` takes that
    /// of the directory above. What is stored otherwise is stored anew in the background
    #[arg(value_name = "DATA+PARITY|auto|inherit")]
    pub(super) redundancy: Option<PolicyArg>,
}

/// What is set on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyArg {
    /// This redundancy.
    Set(Redundancy),
    /// That of the directory above.
    Inherit,
}

impl std::str::FromStr for PolicyArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "inherit" => Ok(PolicyArg::Inherit),
            text => text
                .parse()
                .map(PolicyArg::Set)
                .map_err(|error| format!("{error}")),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    pub(super) command: TrashCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum TrashCommand {
    /// Tell which links this peer removed and can restore, what rests here, and how long
    List,
    /// Bring removed links back
    Restore(RestoreArgs),
    /// Let go at once of what rests here: nothing of it can be taken back
    Empty,
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Tell how far it is
    #[arg(long, conflicts_with = "cancel")]
    pub(super) status: bool,
    /// Have this peer stay after all, and take shards again
    #[arg(long)]
    pub(super) cancel: bool,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Name of the volume, which is mounted here
    pub(super) volume: String,
    /// Only tell how much that is
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Stop when the standard input ends (for a parent that may be killed)
    #[arg(long, hide = true)]
    pub(super) exit_with_stdin: bool,
}

#[derive(Debug, Args)]
pub(super) struct DevnetArgs {
    /// Number of peers
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) peers: u32,
    /// Directory that gets one data directory for each peer, and is kept [default: a temporary one]
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// Quota of each peer [default: half of the free space, divided by the number of peers]
    #[arg(long, value_name = "SIZE", value_parser = parse_quota_size)]
    pub(super) quota: Option<ByteSize>,
    /// Redundancy of what is put
    #[arg(long, default_value_t = EcProfile::DEFAULT, value_name = "DATA+PARITY")]
    pub(super) redundancy: EcProfile,
    /// Directory on which peer 1 mounts a volume that all peers store; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub(super) mount: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(super) struct MountArgs {
    /// Name of the volume [default: `default`, which is made if it is not there]
    pub(super) volume: Option<String>,
    /// Where to
    pub(super) dir: PathBuf,
    /// Allow no changes
    #[arg(long)]
    pub(super) read_only: bool,
    /// Let other users of this machine in, as far as the modes of files do
    #[arg(long)]
    pub(super) allow_other: bool,
    /// Options as `mount -o` takes them: ro, allow_other, noexec, nonempty; as root also suid, dev
    #[arg(short, long, value_name = "OPTIONS", value_delimiter = ',')]
    pub(super) options: Vec<MountOption>,
    /// Stay until it is unmounted or Ctrl-C, which unmounts it
    #[arg(long)]
    pub(super) foreground: bool,
    /// Tell on the standard output how it went, and log into the data directory (for a parent that ends)
    #[arg(long, hide = true)]
    pub(super) report: bool,
}

#[derive(Debug, Args)]
pub(super) struct UmountArgs {
    /// Where it is mounted
    pub(super) dir: PathBuf,
    /// Take it away even if it is in use; what is open stays usable until it is closed
    #[arg(long)]
    pub(super) lazy: bool,
}

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// A directory of a mounted volume [default: all mounted volumes]
    pub(super) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConflictsArgs {
    /// A directory of a mounted volume [default: all mounted volumes]
    pub(super) dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Option<ConflictsCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConflictsCommand {
    /// End a conflict, in one step: what stays gets the name that was fought over, and the rest goes
    Resolve(ConflictResolveArgs),
}

#[derive(Debug, Args)]
pub(super) struct ConflictResolveArgs {
    /// Any of the paths that `cairn conflicts` lists
    pub(super) path: PathBuf,
    /// What stays
    #[arg(long, value_name = "WHICH")]
    pub(super) keep: KeepArg,
}

/// What stays of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum KeepArg {
    /// What this machine wrote
    Ours,
    /// What the other machine wrote
    Theirs,
    /// What the path names
    This,
    /// Everything, under the names that are shown
    Both,
}

#[derive(Debug, Args)]
pub(super) struct InviteArgs {
    /// Who joins stores, serves and repairs, but cannot confirm a guess about anybody's content
    #[arg(long)]
    pub(super) storage_only: bool,
    /// Those who join with this ticket share neither power, nor a house, nor an owner: each counts
    /// as a zone of its own. Otherwise all of them count as one zone, and a stripe goes to one of
    /// them only while there are others
    #[arg(long)]
    pub(super) separate_zones: bool,
    /// How long the ticket is good for, for instance 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = crate::base::units::parse_duration)]
    pub(super) expires: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// What `cairn invite` printed on a machine of the network; `-` reads it from the standard input
    pub(super) ticket: String,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// File or directory; `-` or nothing: the standard input
    #[arg(default_value = "-")]
    pub(super) path: PathBuf,
    /// Redundancy, for instance 4+2: any 4 of 6 shards bring it back; `auto` chooses by the peers there are [default: as configured]
    #[arg(long, value_name = "DATA+PARITY|auto")]
    pub(super) redundancy: Option<Redundancy>,
    /// Fail unless it survives the loss of any N peers
    #[arg(long, value_name = "N")]
    pub(super) survive: Option<u32>,
    /// Seal under a random secret: nobody can confirm a guess, and equal content gets another link
    #[arg(long)]
    pub(super) private: bool,
    /// Let it go by itself after that time, for instance 12h, 30d or 1y [default: keep it until it is removed]
    #[arg(long, value_name = "DURATION", value_parser = parse_lifetime)]
    pub(super) expires: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// What `cairn put` printed
    pub(super) link: String,
    /// Where to; `-`: the standard output. A directory is made by this name
    #[arg(short, long, value_name = "PATH")]
    pub(super) output: Option<PathBuf>,
    /// Only these bytes of a file, both ends included: 0-99, 100-
    #[arg(long, value_name = "START-END", value_parser = parse_range)]
    pub(super) range: Option<ByteRange>,
}

impl GetArgs {
    /// Whether a file would go to the standard output.
    pub(super) fn is_to_stdout(&self) -> bool {
        self.output
            .as_ref()
            .is_none_or(|path| path.as_os_str() == "-")
    }
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Link of a tree
    pub(super) link: String,
    /// Directory within the tree
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct StatArgs {
    /// What `cairn put` printed, or a path of a mounted volume
    #[arg(value_name = "LINK|PATH")]
    pub(super) what: String,
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    pub(super) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Write identity, secrets and list, sealed with a passphrase, to a file: the backup
    Export(KeyFileArgs),
    /// Restore a backup into a data directory that has no identity yet
    Import(KeyFileArgs),
}

#[derive(Debug, Args)]
pub(super) struct KeyFileArgs {
    /// The backup
    pub(super) file: PathBuf,
    /// Read the passphrase from the first line of this file instead of asking; `-`: the standard input
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print one line about the safety of everything, and fail unless all of it is as redundant as it should be:
    /// with 3 if something cannot be read now, else with 1
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// Only tell which blocks come next, which of their shards, and where they go
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct WorkersArgs {
    #[command(subcommand)]
    pub(super) command: Option<WorkersCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum WorkersCommand {
    /// Have a job rest until it is resumed or the peer starts again
    Pause {
        /// Its name
        name: String,
    },
    /// Let a job go on
    Resume {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct QuotaArgs {
    /// The new quota, for instance 200GiB, or `auto` for half of the free space
    pub(super) size: Option<Quota>,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub(super) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Tell all mistakes of the config file
    Check,
}

/// First and last byte wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteRange {
    pub(super) start: Option<u64>,
    pub(super) end: Option<u64>,
}

fn parse_range(text: &str) -> Result<ByteRange, String> {
    let fail = || format!("`{text}` is not of the form START-END, for instance 0-99 or 100-");
    let (start, end) = text.split_once('-').ok_or_else(fail)?;
    let number = |text: &str| match text {
        "" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| fail()),
    };
    let range = ByteRange {
        start: number(start)?,
        end: number(end)?,
    };
    match (range.start, range.end) {
        (None, None) => Err(fail()),
        (None, Some(_)) => Err("the range needs its first byte, for instance 0-99".to_owned()),
        (Some(start), Some(end)) if end < start => Err(format!(
            "the range ends at {end}, before its start at {start}"
        )),
        _ => Ok(range),
    }
}

fn parse_quota_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    Quota::bytes(size).map(|_| size)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges() {
        let range = |start, end| Ok(ByteRange { start, end });
        assert_eq!(parse_range("0-99"), range(Some(0), Some(99)));
        assert_eq!(parse_range("7-7"), range(Some(7), Some(7)));
        assert_eq!(parse_range("100-"), range(Some(100), None));
        for text in ["", "-", "5", "-5", "9-8", "a-b", "1-2-3", "0x1-2", "-1--2"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
