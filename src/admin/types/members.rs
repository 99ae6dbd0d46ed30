//! The JSON about who has part in a volume, and who has none any more.

use serde::{Deserialize, Serialize};

/// `cairn volume revoke`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeRevoke {
    /// Name of the volume.
    pub name: String,
    /// A peer or the id of a ticket, as `volume members` prints it, or the beginning of one.
    pub member: String,
}

/// A member or a ticket was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeRevoked {
    /// Name of the volume.
    pub name: String,
    /// The peer, or the id of the ticket.
    pub member: String,
    /// Whether it was a ticket.
    #[serde(default)]
    pub is_ticket: bool,
    /// Peers that it invited, who stay members.
    pub stay: Vec<String>,
    /// How many members, and holders of open tickets, were handed the new keys.
    pub handed: u64,
}

/// When and by whom a member was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeEnd {
    /// By which peer.
    pub by: String,
    /// When, in ms since 1970; 0 if not it was revoked, but what it came through.
    pub at_ms: u64,
    /// Changes of it that are refused, as far as they are known here.
    pub refused: u64,
}

/// A ticket by which somebody can join.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeTicketInfo {
    /// Its id.
    pub id: String,
    /// The peer that made it.
    pub by: String,
    /// Whether who opens it may write nothing.
    #[serde(default)]
    pub read_only: bool,
    /// Until when it is good, in ms since 1970.
    pub expires_ms: u64,
}
