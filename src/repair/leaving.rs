//! What a peer that leaves the network still has to hand over.

/// Shards of a peer that leaves, of blocks that somebody keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remainder {
    /// Shards that are here and must not be lost.
    pub shards: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Of which belong to blocks that others have to repair first, or to wait for: some of their shards cannot be reached.
    pub waiting: u64,
    /// Of which nobody can take over without the block surviving less: there are too few other peers, or they are full.
    pub homeless: u64,
    /// Groups of blocks of which not all holders said what they have.
    pub unseen_groups: u64,
}

impl Remainder {
    /// Whether everything is held by others.
    pub const fn is_done(&self) -> bool {
        self.shards == 0 && self.unseen_groups == 0
    }

    /// Whether nothing can be handed over now that is still here.
    pub const fn is_stuck(&self) -> bool {
        self.shards > 0 && self.waiting + self.homeless >= self.shards
    }

    /// Adds that of other blocks.
    pub(super) const fn add(&mut self, other: &Remainder) {
        self.shards += other.shards;
        self.bytes += other.bytes;
        self.waiting += other.waiting;
        self.homeless += other.homeless;
        self.unseen_groups += other.unseen_groups;
    }

    /// One shard was let go. Its length is that of the mean until the group is looked at again.
    pub(super) const fn took_one(&mut self) {
        if let Some(mean) = self.bytes.checked_div(self.shards) {
            self.bytes -= mean;
            self.shards -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_shrinks_to_nothing() {
        let mut left = Remainder {
            shards: 3,
            bytes: 10,
            waiting: 1,
            homeless: 1,
            unseen_groups: 0,
        };
        assert!(!left.is_stuck() && !left.is_done());
        left.took_one();
        assert_eq!((left.shards, left.bytes), (2, 7));
        assert!(left.is_stuck());
        left.took_one();
        left.took_one();
        left.took_one();
        assert_eq!((left.shards, left.bytes), (0, 0));
        assert!(left.is_done() && !left.is_stuck());
        left.unseen_groups = 1;
        assert!(!left.is_done(), "not all was looked at");
    }
}
