//! What the tests of volumes share that are in different binaries: members of a volume on simulated peers, what
//! programs do there, and books about what must be there in the end.

pub mod books;
pub mod hand;
pub mod look;
pub mod member;
