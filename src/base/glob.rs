//! Patterns of paths, as rules in the config name files by them.

use std::fmt;
use std::str::FromStr;

use super::limits::GLOB_MAX_BYTES;

/// What a part of a pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Itself.
    Byte(u8),
    /// `?`: any byte but `/`.
    One,
    /// `*`: any bytes but `/`.
    Name,
    /// `**`: any bytes.
    Deep,
    /// `**/` at the beginning of a name: any directories, also none.
    Dirs,
}

/// A pattern: `*` stands for any part of a name, `?` for one byte of it, `**` for anything with `/` too, and `**/` for any
/// directories, also none; `\` takes the meaning from what follows. One without `/` is compared with the last name
/// of a path, others with all of it from the top directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
    is_whole: bool,
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Glob, String> {
        if text.is_empty() {
            return Err("an empty pattern matches nothing".to_owned());
        }
        if text.len() > GLOB_MAX_BYTES {
            return Err(format!("longer than {GLOB_MAX_BYTES} bytes"));
        }
        let is_whole = text.contains('/');
        let mut rest = text.as_bytes();
        rest = rest.strip_prefix(b"/").unwrap_or(rest);
        if rest.is_empty() {
            return Err("`/` alone names no file".to_owned());
        }
        let mut parts = Vec::with_capacity(rest.len());
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            let begins_name = matches!(parts.last(), None | Some(Part::Byte(b'/') | Part::Dirs));
            parts.push(match byte {
                b'?' => Part::One,
                b'*' if rest.first() == Some(&b'*') => {
                    rest = rest.get(1..).unwrap_or_default();
                    match rest.strip_prefix(b"/") {
                        Some(after) if begins_name => {
                            rest = after;
                            Part::Dirs
                        }
                        _ => Part::Deep,
                    }
                }
                b'*' => Part::Name,
                b'\\' => {
                    let Some((byte, after)) = rest.split_first() else {
                        return Err("nothing follows the last `\\`".to_owned());
                    };
                    rest = after;
                    Part::Byte(*byte)
                }
                // Other programs give them a meaning; whoever uses them so is better told.
                b'[' | b']' | b'{' | b'}' => {
                    return Err(format!(
                        "`{0}` means nothing in a pattern; write `\\{0}` for the character itself",
                        char::from(*byte)
                    ));
                }
                byte => Part::Byte(*byte),
            });
        }
        Ok(Glob {
            text: text.to_owned(),
            parts,
            is_whole,
        })
    }
}

impl Glob {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches a path: names with `/` between them, from the top directory, none at the beginning.
    ///
    /// Takes time in proportion to the product of both lengths, at most.
    pub fn matches(&self, path: &[u8]) -> bool {
        let text = match self.is_whole {
            true => path,
            false => path.rsplit(|byte| *byte == b'/').next().unwrap_or(path),
        };
        // All places of the pattern that can have been reached.
        let mut reached = vec![false; self.parts.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        self.pass_by(&mut reached, true);
        for byte in text {
            let mut next = vec![false; reached.len()];
            for (at, part) in self.parts.iter().enumerate() {
                if !reached.get(at).copied().unwrap_or(false) {
                    continue;
                }
                let (stays, goes_on) = match part {
                    Part::Byte(wanted) => (false, byte == wanted),
                    Part::One => (false, *byte != b'/'),
                    Part::Name => (*byte != b'/', false),
                    Part::Deep | Part::Dirs => (true, false),
                };
                if stays && let Some(here) = next.get_mut(at) {
                    *here = true;
                }
                if goes_on && let Some(after) = next.get_mut(at + 1) {
                    *after = true;
                }
            }
            reached = next;
            self.pass_by(&mut reached, *byte == b'/');
        }
        reached.last().copied().unwrap_or(false)
    }

    /// What may stand for nothing is passed by.
    fn pass_by(&self, reached: &mut [bool], begins_name: bool) {
        for (at, part) in self.parts.iter().enumerate() {
            let may_be_nothing = match part {
                Part::Byte(_) | Part::One => false,
                Part::Name | Part::Deep => true,
                Part::Dirs => begins_name,
            };
            if may_be_nothing
                && reached.get(at).copied().unwrap_or(false)
                && let Some(after) = reached.get_mut(at + 1)
            {
                *after = true;
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_mean_what_they_say() {
        for (pattern, yes, no) in [
            ("*.log", "a.log b/c.log .log", "a.log/b a.logs log"),
            ("/*.log", "a.log .log", "b/c.log"),
            ("cache/*", "cache/a cache/", "cache cache/a/b a/cache/b"),
            ("cache/**", "cache/a cache/a/b", "cache a/cache/b"),
            (
                "**/cache/*.tmp",
                "cache/a.tmp x/y/cache/b.tmp",
                "xcache/a.tmp cache/a/b.tmp",
            ),
            ("a/**/b", "a/b a/x/b a/x/y/b", "ab a/xb axb"),
            ("a**b", "ab axxb", "a x"),
            ("v?", "v1 x/v2", "v v10"),
            ("\\*", "*", "a"),
        ] {
            for path in yes.split(' ') {
                assert!(glob(pattern).matches(path.as_bytes()), "{pattern} {path}");
            }
            for path in no.split(' ') {
                assert!(!glob(pattern).matches(path.as_bytes()), "{pattern} {path}");
            }
        }
        for wrong in [
            "",
            "/",
            "a\\",
            "[ab]",
            "{a,b}",
            &"a".repeat(GLOB_MAX_BYTES + 1),
        ] {
            assert!(wrong.parse::<Glob>().is_err(), "{wrong}");
        }
    }

    /// The same by trying everything.
    fn slow(parts: &[Part], text: &[u8], begins_name: bool) -> bool {
        let Some((part, more)) = parts.split_first() else {
            return text.is_empty();
        };
        let passes = match part {
            Part::Name | Part::Deep => slow(more, text, begins_name),
            Part::Dirs => begins_name && slow(more, text, begins_name),
            _ => false,
        };
        let Some((byte, rest)) = text.split_first() else {
            return passes;
        };
        let begins = *byte == b'/';
        passes
            || match part {
                Part::Byte(wanted) => byte == wanted && slow(more, rest, begins),
                Part::One => !begins && slow(more, rest, begins),
                Part::Name => !begins && slow(parts, rest, begins),
                Part::Deep | Part::Dirs => slow(parts, rest, begins),
            }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn matching_is_trying_everything(pattern in "[a/*?]{1,9}", text in "[ab/]{0,9}") {
            let Ok(glob) = pattern.parse::<Glob>() else { return Ok(()) };
            let text = text.as_bytes();
            let last = text.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let compared = if pattern.contains('/') { text } else { last };
            prop_assert_eq!(glob.matches(text), slow(&glob.parts, compared, true));
        }

        #[test]
        fn text_without_meaning_matches_itself_alone(text in "[a-z./]{1,20}", other in "[a-z./]{1,20}") {
            let path = text.strip_prefix('/').unwrap_or(&text).to_owned();
            let Ok(glob) = text.parse::<Glob>() else { return Ok(()) };
            prop_assert!(glob.matches(path.as_bytes()));
            let has_slash = text.contains('/');
            prop_assert_eq!(has_slash && glob.matches(other.as_bytes()), has_slash && path == other);
        }

        #[test]
        fn any_text_is_a_pattern_or_told_why_not(text: String, path: Vec<u8>) {
            if let Ok(glob) = text.parse::<Glob>() {
                prop_assert_eq!(glob.as_str(), &text);
                glob.matches(&path);
            }
        }
    }
}
