//! Names for what shares a name with something newer: `name.conflict-<time>-<peer>.ext`.

use crate::base::calendar::{Date, moment_of};
use crate::base::limits::NAME_MAX_BYTES;
use crate::namespace::clock::Stamp;
use crate::namespace::id::Name;

/// Longest ending that is kept at the end, its dot included.
const ENDING_MAX_BYTES: usize = 17;
/// What stands before the moment.
const MARK: &str = ".conflict-";
/// What stands before that in a name that was cut: `-` and eight digits of a hash.
const HASH_MARK_BYTES: usize = 9;

/// The name of something written at `stamp` that lost `name`; the `number`-th try at one that is
/// free, from 1 on.
pub(in crate::namespace) fn conflict_name(name: &Name, stamp: &Stamp, number: u32) -> Name {
    let bytes = name.bytes();
    let dot = bytes.iter().rposition(|byte| *byte == b'.');
    let dot = dot.filter(|at| *at > 0 && bytes.len() - at <= ENDING_MAX_BYTES);
    let (stem, ending) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let mut mark = format!(
        "{MARK}{}-{}",
        utc(stamp.hlc.ms() / 1000),
        stamp.writer.peer.short()
    );
    if number > 1 {
        mark.push_str(&format!("-{number}"));
    }
    if stem.len() + mark.len() + ending.len() > NAME_MAX_BYTES {
        // Long names that begin alike must not become the same.
        let hash = blake3::hash(bytes).to_hex();
        mark = format!("-{}{mark}", hash.get(..8).unwrap_or_default());
    }
    let room = NAME_MAX_BYTES.saturating_sub(mark.len() + ending.len());
    let joined = [prefix(stem, room), mark.as_bytes(), ending].concat();
    // It has no byte that the name did not have, and no more than a name may have.
    Name::new(&joined).unwrap_or_else(|_| name.clone())
}

/// Whether a name looks like a conflict name of anything.
pub(super) fn has_mark(name: &Name) -> bool {
    let mark = MARK.as_bytes();
    name.bytes().windows(mark.len()).any(|part| part == mark)
}

/// Whether a name looks like one that was made of `base`: somebody who renames a conflict copy has decided about it.
pub(super) fn is_conflict_name(name: &Name, base: &Name) -> bool {
    let mark = MARK.as_bytes();
    let at = name
        .bytes()
        .windows(mark.len())
        .rposition(|part| part == mark);
    // A long name is cut, so the beginning alone tells.
    at.is_some_and(|at| {
        let stem = name.bytes().get(..at).unwrap_or_default();
        let common = stem.iter().zip(base.bytes()).take_while(|(a, b)| a == b);
        let common = common.count();
        let is_cut = base.bytes().len() > NAME_MAX_BYTES / 2;
        common == stem.len() || is_cut && common + HASH_MARK_BYTES >= stem.len()
    })
}

/// At most `room` bytes of a stem, no character of UTF-8 cut in two.
fn prefix(stem: &[u8], room: usize) -> &[u8] {
    let mut end = room.min(stem.len());
    if end < stem.len() && std::str::from_utf8(stem).is_ok() {
        while end > 0 && stem.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
    }
    stem.get(..end).unwrap_or_default()
}

/// `20261122T223501`.
pub(in crate::namespace) fn utc(seconds: u64) -> String {
    let (Date { year, month, day }, [hour, minute, second]) = moment_of(seconds.cast_signed());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PeerId;
    use crate::namespace::clock::Hlc;
    use crate::namespace::id::WriterId;

    fn named(bytes: &[u8], number: u32) -> Vec<u8> {
        let stamp = Stamp {
            hlc: Hlc::from_ms(1_795_386_901_000),
            writer: WriterId {
                peer: PeerId([1; 32]),
                incarnation: 0,
            },
        };
        let name = Name::new(bytes).unwrap();
        conflict_name(&name, &stamp, number).bytes().to_vec()
    }

    #[test]
    fn a_conflict_name_has_time_and_peer_before_the_ending() {
        let peer = PeerId([1; 32]).short();
        let text = |bytes: &[u8], number| String::from_utf8(named(bytes, number)).unwrap();
        let mark = format!(".conflict-20261122T223501-{peer}");
        assert_eq!(text(b"a.txt", 1), format!("a{mark}.txt"));
        assert_eq!(text(b"a.txt", 2), format!("a{mark}-2.txt"));
        assert_eq!(text(b".profile", 1), format!(".profile{mark}"));
        assert_eq!(text(b"Makefile", 1), format!("Makefile{mark}"));
        let sentence = b"a. very long last part of a name";
        assert!(text(sentence, 1).starts_with("a. very long last part of a name."));
        assert_eq!(utc(951_782_400), "20000229T000000");
    }

    #[test]
    fn long_names_stay_names_and_stay_apart() {
        let (one, two) = ([b'a'; 255], [&[b'a'; 254][..], b"b"].concat());
        assert_eq!(named(&one, 1).len(), 255);
        assert_ne!(named(&one, 1), named(&two, 1));
        let umlauts = "ä".repeat(127);
        assert!(String::from_utf8(named(umlauts.as_bytes(), 1)).is_ok());
        assert!(named(&[0xff; 255], 9).len() <= 255);
    }

    #[test]
    fn conflict_names_are_known_as_such_until_somebody_renames_them() {
        let known = |bytes: &[u8], base: &[u8]| {
            is_conflict_name(&Name::new(bytes).unwrap(), &Name::new(base).unwrap())
        };
        for base in [
            &b"a.txt"[..],
            b".profile",
            b"Makefile",
            &[b'a'; 255],
            b"a. b c d",
        ] {
            for number in [1, 2, 100] {
                assert!(known(&named(base, number), base));
            }
        }
        let twice = named(&named(b"a.txt", 1), 1);
        assert!(known(&twice, &named(b"a.txt", 1)));
        assert!(!known(b"a.txt", b"a.txt") && !known(b"mine.txt", b"a.txt"));
        assert!(!known(&named(b"other things.txt", 1), b"a.txt"));
    }
}
