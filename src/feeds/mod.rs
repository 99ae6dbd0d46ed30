//! Feeds: how the changes of a volume travel between its replicas, and how its whole state rests.
//!
//! Each writer's deltas are a chain: sealed under the key of an epoch, signed, each naming the one before.
//! Who has no key can check a chain and keep it, and reads nothing. What may be merged is decided in
//! steps, each of which is a function of what is known: [`SealedDelta`] (is it what it says?), [`Feed`]
//! (is it the next of its writer?), [`Inbox`] (has everything it builds on been merged?), and last
//! [`apply`](crate::namespace::apply). [`checkpoint`] says all of it at once.
//!
//! Bounds are for each writer. A device has as many writers as it has had lives, so whoever opens feeds bounds
//! those.
//!
//! Whoever has no key keeps the end of a feed all the same ([`Tail`]), for when its writer is gone.
//!
//! Who is a member, up to where and with which keys follows from documents that travel as rows: [`Ruling`], and
//! [`Standing`] from all of them together.
//!
//! Pure: bytes come in and values go out. Knows nothing of disk, network or blocks.

pub mod accord;
pub mod chain;
pub mod checkpoint;
pub mod clearing;
pub mod error;
pub mod gossip;
pub mod inbox;
pub mod keeping;
pub mod revoke;
pub mod rotate;
pub mod ruling;
pub mod sealed;
pub mod signed;
pub mod standing;
pub mod tail;
pub mod voters;
mod words;

pub use accord::{Accord, LockMode, LockName, Vote, Want};
pub use chain::{Announced, Feed, ForkProof, Head, Promises, Truncated, Verdict};
pub use clearing::{Broken, Clearance, Clearing, Told};
pub use error::FeedError;
pub use gossip::{Answer, Claim, Message, Plan, Wish, decode_all, encode_all, plan};
pub use inbox::{Ahead, Held, Inbox};
pub use keeping::{Keeping, Kept, TailEnd, TailVerdict};
pub use revoke::{Cut, Heirs, Revocation, Subject};
pub use rotate::{Rotation, Without};
pub use ruling::{Issued, Ruling, RulingKind};
pub use sealed::{Link, LinkHash, SealedDelta};
pub use signed::Signed;
pub use standing::{Lineage, Part, Standing, Step, read_proof};
pub use tail::{Cover, Covered, Fit, Tail};
pub use voters::{VOTERS_ROW, VoterList};
