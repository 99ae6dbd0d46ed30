//! Why a put or a get failed, with what the user can do about it.

use crate::base::{BlockId, ByteSize, Class, Classify, EcProfile, PeerId};

/// Why an upload failed. Nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Peers refuse for lack of room.
    #[error(
        "the pool is too full for {profile}: {placed} of {wanted} shards of a block found room, {}; \
         free now: {}",
        shortfall(*survives, *demanded),
        free_list(free)
    )]
    Full {
        /// The redundancy asked for.
        profile: EcProfile,
        /// Shards that found a place.
        placed: usize,
        /// Shards that needed one.
        wanted: usize,
        /// Losses that the placed ones survive; none: they are too few to read it.
        survives: Option<usize>,
        /// Losses they had to survive.
        demanded: usize,
        /// Free bytes that each peer last reported.
        free: Vec<(PeerId, u64)>,
    },
    /// Too few peers can be reached.
    #[error(
        "too few peers: {live} can be used now; {placed} of {wanted} shards of a block ({profile}) \
         found a place, {}",
        shortfall(*survives, *demanded)
    )]
    TooFewPeers {
        /// The redundancy asked for.
        profile: EcProfile,
        /// Peers that could be used.
        live: usize,
        /// Shards that found a place.
        placed: usize,
        /// Shards that needed one.
        wanted: usize,
        /// Losses that the placed ones survive; none: they are too few to read it.
        survives: Option<usize>,
        /// Losses they had to survive.
        demanded: usize,
    },
    /// Holders went away between storing their shards and promising to keep them.
    #[error(
        "{lost} of the holders did not confirm that they keep their shards; there are others, {}",
        shortfall(*survives, *demanded)
    )]
    Unconfirmed {
        /// Such peers.
        lost: usize,
        /// Losses that the others survive; none: they are too few to read it.
        survives: Option<usize>,
        /// Losses that had to be survived.
        demanded: usize,
    },
    /// More losses are to be survived than the redundancy can.
    #[error(
        "{profile} can survive the loss of {most} peers at most, not {demanded}; ask for more parity with --redundancy"
    )]
    Impossible {
        /// The redundancy asked for.
        profile: EcProfile,
        /// The most it can do.
        most: usize,
        /// What was asked.
        demanded: usize,
    },
    /// A chunk is larger than the format allows.
    #[error("a chunk of {0} bytes is larger than the format allows")]
    TooLarge(usize),
    /// An error of this program.
    #[error("internal error: {0}")]
    Internal(String),
    /// The own store failed.
    #[error("the local store: {0}")]
    Store(String, Class),
    /// The upload was given up or the peer is stopping.
    #[error("the upload was stopped")]
    Stopped,
}

/// What was achieved, and what had to be.
fn shortfall(survives: Option<usize>, demanded: usize) -> String {
    let peers = |count| match count {
        1 => "1 peer".to_owned(),
        count => format!("{count} peers"),
    };
    let achieved = match survives {
        None => "too few to read it".to_owned(),
        Some(0) => "which survive no loss".to_owned(),
        Some(count) => format!("which survive the loss of any {}", peers(count)),
    };
    match demanded {
        0 => achieved,
        _ => format!(
            "{achieved}; it has to survive the loss of any {}",
            peers(demanded)
        ),
    }
}

fn free_list(free: &[(PeerId, u64)]) -> String {
    let list: Vec<String> = free
        .iter()
        .map(|(peer, bytes)| format!("{} {}", peer.short(), ByteSize(*bytes)))
        .collect();
    list.join(", ")
}

impl Classify for PutError {
    fn class(&self) -> Class {
        match self {
            PutError::Full { .. } => Class::Full,
            PutError::TooFewPeers { .. } | PutError::Unconfirmed { .. } => Class::Full,
            PutError::Impossible { .. } => Class::Denied,
            PutError::TooLarge(_) | PutError::Internal(_) => Class::Bug,
            PutError::Store(_, class) => *class,
            PutError::Stopped => Class::Closed,
        }
    }
}

/// Why a block could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// Fewer good shards than needed could be had.
    #[error("block {block}: {have} of {need} shards{}", missing_hint(*damaged, *away))]
    NotEnough {
        /// The block.
        block: BlockId,
        /// Good shards found.
        have: usize,
        /// Shards needed.
        need: usize,
        /// Shards that did not verify.
        damaged: usize,
        /// Peers that may hold more, and are away or do not answer.
        away: usize,
    },
    /// The shards are good and the reference does not open them.
    #[error("block {block} does not open with this link: {why}")]
    Unreadable {
        /// The block.
        block: BlockId,
        /// What is wrong.
        why: String,
    },
    /// The peer is stopping.
    #[error("the peer is stopping")]
    Stopped,
}

fn missing_hint(damaged: usize, away: usize) -> String {
    let mut hint = String::new();
    if damaged > 0 {
        hint.push_str(&format!(", {damaged} damaged"));
    }
    if away > 0 {
        hint.push_str(&format!("; {away} peers do not answer and may hold more"));
    }
    hint
}

impl Classify for GetError {
    fn class(&self) -> Class {
        match self {
            GetError::NotEnough { .. } => Class::Missing,
            GetError::Unreadable { .. } => Class::Corrupt,
            GetError::Stopped => Class::Closed,
        }
    }
}
