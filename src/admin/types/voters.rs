//! `volume voters`.

use serde::{Deserialize, Serialize};

/// `cairn volume voters`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeVotersRequest {
    /// Name of the volume, which is mounted.
    pub name: String,
    /// Who is to vote from now on; none to be told who does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<Vec<String>>,
}

/// Who decides on the locks of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeVoters {
    /// Name of the volume.
    pub name: String,
    /// The voters.
    pub voters: Vec<String>,
    /// How many of them must agree; 0 where there are none, and nothing can be locked.
    pub needed: u32,
}
