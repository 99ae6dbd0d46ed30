//! What `cairn volume` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::base::Redundancy;

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum VolumeCommand {
    /// Make an empty volume
    Create(VolumeCreateArgs),
    /// List the volumes of this peer
    List,
    /// Make a ticket with which another machine opens a volume
    Ticket(VolumeTicketArgs),
    /// Open the volume of a ticket on this machine, joining its network if this peer is in none
    Open(VolumeOpenArgs),
    /// Tell who may read and write a volume, as far as this peer knows
    Members(VolumeMembersArgs),
    /// Keep the volume as it is now, to be looked at in `.snapshots` and brought back
    Snapshot(VolumeSnapshotArgs),
    /// List the snapshots of a volume
    Snapshots(VolumeSnapshotsArgs),
    /// Bring files of a snapshot back
    Restore(VolumeRestoreArgs),
    /// Show or set the machines that decide on the locks of a mounted volume (mount.locks = "cluster")
    Voters(VolumeVotersArgs),
    /// End the part of a member, or a ticket: what it writes from now on nobody takes, what others write it cannot read
    Revoke(VolumeRevokeArgs),
    /// Remove a volume, with all its files, from this machine
    Remove(VolumeRemoveArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeSnapshotArgs {
    /// Name of the volume
    pub(in crate::cli) name: String,
    /// What to call the snapshot besides its time; one with a label is never let go by a rule
    #[arg(long = "name", value_name = "LABEL")]
    pub(in crate::cli) label: Option<String>,
    /// Let a snapshot go instead: its time, the beginning of that, or its label
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "label")]
    pub(in crate::cli) remove: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeSnapshotsArgs {
    /// Name of the volume
    pub(in crate::cli) name: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeRestoreArgs {
    /// Name of the volume
    pub(in crate::cli) name: String,
    /// The snapshot: its time, the beginning of that, or its label
    pub(in crate::cli) snapshot: String,
    /// What to bring back: a path in the volume, or in its mount [default: everything]
    pub(in crate::cli) path: Option<PathBuf>,
    /// Bring it back under this path of the volume, and leave what is where it was
    #[arg(long, value_name = "DEST", requires = "path")]
    pub(in crate::cli) to: Option<PathBuf>,
    /// Remove what is there now and was not then
    #[arg(long)]
    pub(in crate::cli) delete: bool,
    /// Tell what would be done, and change nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeCreateArgs {
    /// Its name: letters, digits, `.`, `_` and `-`
    pub(in crate::cli) name: String,
    /// Redundancy, for instance 4+2: any 4 of 6 shards bring a block back; `auto` chooses by the peers there are [default: as configured]
    #[arg(long, value_name = "DATA+PARITY|auto")]
    pub(in crate::cli) redundancy: Option<Redundancy>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeTicketArgs {
    /// Its name
    pub(in crate::cli) name: String,
    /// Who opens it may write nothing, nor let anybody write
    #[arg(long)]
    pub(in crate::cli) read_only: bool,
    /// How long the ticket is good for, for instance 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = crate::base::units::parse_duration)]
    pub(in crate::cli) expires: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeOpenArgs {
    /// What `cairn volume ticket` printed on another machine; `-` reads it from the standard input
    pub(in crate::cli) ticket: String,
    /// What to call it here [default: as on the machine that made the ticket]
    #[arg(long)]
    pub(in crate::cli) name: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeMembersArgs {
    /// Its name
    pub(in crate::cli) name: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeVotersArgs {
    /// Its name
    pub(in crate::cli) name: String,
    /// Who votes from now on; locks are had while more than half of them can be reached
    #[arg(value_name = "PEER")]
    pub(in crate::cli) peers: Vec<String>,
    /// Nobody votes from now on, and nothing can be locked
    #[arg(long, conflicts_with = "peers")]
    pub(in crate::cli) none: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeRevokeArgs {
    /// Its name
    pub(in crate::cli) name: String,
    /// A peer, or the id of a ticket, as `cairn volume members` prints it; the beginning of it will do
    pub(in crate::cli) member: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeRemoveArgs {
    /// Its name
    pub(in crate::cli) name: String,
    /// Do not ask
    #[arg(long)]
    pub(in crate::cli) yes: bool,
}
