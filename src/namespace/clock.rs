//! The hybrid logical clock (Kulkarni et al., *Logical Physical Clocks*, 2014): close to wall-clock
//! time, and later than everything it has seen.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::WriterId;

const LOGICAL_BITS: u32 = 16;

/// A moment: 48 bits of milliseconds since 1970, 16 bits that count within them.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first moment of a millisecond.
    pub const fn from_ms(ms: u64) -> Hlc {
        let most = u64::MAX >> LOGICAL_BITS;
        Hlc(if ms > most { most } else { ms } << LOGICAL_BITS)
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.ms(), self.0 & 0xffff)
    }
}

/// Tells moments for one writer. Its last moment must outlive restarts, or be observed again.
#[derive(Clone, Copy, Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// Goes on after `last`.
    pub const fn after(last: Hlc) -> HlcClock {
        HlcClock { last }
    }

    /// A moment later than all before; `now_ms` is the wall clock's time.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.last = Hlc(self.last.0.saturating_add(1)).max(Hlc::from_ms(now_ms));
        self.last
    }

    /// Takes note of another writer's moment.
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }

    /// The last moment told or observed.
    pub const fn last(&self) -> Hlc {
        self.last
    }
}

/// When and by whom something was done: unique, and the order in which competing values win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When.
    pub hlc: Hlc,
    /// By whom.
    pub writer: WriterId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_ascend_whatever_the_wall_clock_does() {
        let mut clock = HlcClock::default();
        let first = clock.tick(1000);
        assert_eq!(first.ms(), 1000);
        let second = clock.tick(900);
        assert!(second > first && second.ms() == 1000);
        clock.observe(Hlc::from_ms(5000));
        assert!(clock.tick(1001) > Hlc::from_ms(5000));
        assert_eq!(clock.tick(6000), Hlc::from_ms(6000));
        // A millisecond with more than 65,536 moments runs into the next.
        let mut clock = HlcClock::after(Hlc(0xffff));
        assert_eq!(clock.tick(0).ms(), 1);
        assert_eq!(Hlc::from_ms(u64::MAX).ms(), u64::MAX >> 16);
    }
}
