//! `rm`, `renew` and `trash restore`.

use serde::{Deserialize, Serialize};

use super::Listed;

/// `cairn rm`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RemoveRequest {
    /// The links, each of which this peer has put.
    pub links: Vec<String>,
}

/// What was taken off the list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Its entries; one for each time that it was put.
    pub removed: Vec<Listed>,
}

/// `cairn renew`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Any link, whoever put it.
    pub link: String,
    /// For how many milliseconds from now it is kept; none: as long again as it was when it was put here, or for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_ms: Option<u64>,
    /// For good, whatever was said before.
    #[serde(default)]
    pub never: bool,
}

/// What this peer keeps now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How it is listed.
    pub put: Listed,
    /// Lost peers that all of it survives.
    pub survives: u32,
}

/// `cairn trash restore`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The links; none: all that were removed and are not gone yet.
    pub links: Vec<String>,
}

/// What is kept again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restored {
    /// Links that came back.
    pub restored: Vec<Kept>,
    /// Links that did not, and why.
    pub gone: Vec<NotRestored>,
}

/// A link of which too little is left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NotRestored {
    /// The link.
    pub link: String,
    /// What is missing.
    pub why: String,
}

/// A link that was removed and can still be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashLink {
    /// As it was listed.
    pub put: Listed,
    /// When it was removed (ms since 1970).
    pub removed_ms: u64,
    /// Until when its blocks rest at their holders, if these have room (ms since 1970).
    pub until_ms: u64,
}
