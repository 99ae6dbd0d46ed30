//! The namespace of a volume: a replicated map of small rows that many writers change at once, and
//! the tree of files that it shows.
//!
//! Pure: reads its rows through [`Rows`], answers with a set of changes, and gets time, identities
//! and randomness from its caller. Knows nothing of disk, network, ciphers or the kernel.
//!
//! A local operation ([`Edit`]) makes a [`Draft`]; entering the writer's feed turns it into a
//! [`Delta`]; every replica merges it ([`apply`]), or a [`Join`] merges all that another replica did. What the rows mean as a tree is answered by
//! [`View`], also where writers disagreed.

pub mod census;
pub mod clock;
pub mod delta;
pub mod drafts;
pub mod error;
pub mod id;
mod index;
pub mod join;
pub mod key;
pub mod merge;
pub mod ops;
pub mod row;
pub mod state;
pub mod value;
mod value_wire;
pub mod version;
pub mod view;
mod writers;

pub use clock::{Hlc, HlcClock, Stamp};
pub use delta::{Delta, Draft, Write};
pub use drafts::Shared;
pub use error::{OpError, StateError};
pub use id::{Dot, Ino, Kind, Name, SnapshotId, WriterId};
pub use join::{Join, JoinError, Page};
pub use key::Key;
pub use merge::{Outcome, apply, promote};
pub use ops::{AttrChange, Committed, DroppedContent, Edit, NewNode, Now, Removed, RenameMode};
pub use row::Sibling;
pub use state::{Changes, MemRows, Rows, Work};
pub use value::{Attrs, Body, Content, Entry, Field, Home, Node, Value};
pub use version::VersionVector;
pub use view::{CONFLICT_XATTR, Dispute, DisputeKind, Disputes, Party, Shown, Stat, View, time_of};
