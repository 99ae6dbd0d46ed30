//! Which reads of a file go on where another one ended: a reader is known by that, since several may read one file
//! in sequence, each at its own place.

/// So many readers in sequence are told apart.
const READERS: usize = 4;

/// What a read says of those that will follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing: only what it asks for is fetched.
    Somewhere,
    /// It is the first of a file, and blocks have neighbours of small files: whole blocks are fetched.
    Beginning,
    /// It goes on: what follows is fetched ahead.
    Onward,
}

/// Where the last reads of a file ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reads {
    /// The byte after the last one read, 0 for none, and whether that read went on itself.
    ends: [(u64, bool); READERS],
    next: usize,
}

impl Reads {
    /// Takes note of a read of `start..end`.
    pub(super) fn see(&mut self, start: u64, end: u64) -> Reading {
        let went_on = self
            .ends
            .iter_mut()
            .find(|(at, _)| *at == start && start > 0);
        if let Some(reader) = went_on {
            *reader = (end, true);
            return Reading::Onward;
        }
        // Reads here and there do not make one forget who reads in sequence, as long as there is another place.
        for _ in 0..READERS {
            let at = self.next;
            self.next = (at + 1) % READERS;
            if let Some(place) = self.ends.get_mut(at).filter(|(_, goes_on)| !goes_on) {
                *place = (end, false);
                return beginning(start);
            }
        }
        if let Some(place) = self.ends.get_mut(self.next) {
            *place = (end, false);
        }
        beginning(start)
    }
}

const fn beginning(start: u64) -> Reading {
    match start {
        0 => Reading::Beginning,
        _ => Reading::Somewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::Reading::{Beginning, Onward, Somewhere};
    use super::*;

    #[test]
    fn readers_in_sequence_do_not_disturb_one_another() {
        let mut reads = Reads::default();
        assert_eq!(reads.see(0, 10), Beginning);
        assert_eq!(reads.see(0, 10), Beginning);
        assert_eq!(reads.see(500, 510), Somewhere);
        for at in 1..50 {
            assert_eq!(reads.see(at * 10, at * 10 + 10), Onward, "the first, {at}");
            let other = 1000 - 10 + at * 10;
            let expected = if at == 1 { Somewhere } else { Onward };
            assert_eq!(reads.see(other, other + 10), expected, "the second, {at}");
            assert_eq!(reads.see(7_000 * at, 7_000 * at + 1), Somewhere);
        }
    }

    #[test]
    fn who_reads_no_more_is_forgotten_when_others_come() {
        let mut reads = Reads::default();
        for reader in 1..20 {
            let start = reader * 1000;
            assert_eq!(reads.see(start, start + 1), Somewhere);
            assert_eq!(reads.see(start + 1, start + 2), Onward);
            assert_eq!(reads.see(start + 2, start + 3), Onward);
        }
        assert_eq!(reads.see(1003, 1004), Somewhere);
    }
}
