//! From text to [`Config`], finding every problem on the way.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};
use super::schema::{KEYS, tables};
use super::{Config, Key};
use crate::base::ByteSize;

/// Least memory with which an upload or a download makes progress at the default limits.
const TRANSFER_MEMORY_MIN: ByteSize = ByteSize::mib(16);
/// Least connections with which a peer of a small network works.
const CONNECTIONS_MIN: u32 = 8;

/// Lines of a text by byte offset.
struct Lines<'t>(&'t str);

impl Lines<'_> {
    fn line_of(&self, offset: usize) -> usize {
        let before = self.0.as_bytes().get(..offset).unwrap_or(self.0.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

pub(super) fn parse(text: &str) -> Result<Config, Problems> {
    let lines = Lines(text);
    let mut problems: Vec<Problem> = Vec::new();
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        // An error at the end of the text has no span.
        let offset = error.span().map_or(text.len(), |span| span.start);
        problems.push(Problem {
            line: lines.line_of(offset),
            key: None,
            message: error.message().to_owned(),
        });
    }
    let mut reader = Reader {
        lines,
        problems,
        config: Config::default(),
        seen: Vec::new(),
    };
    reader.root(root.get_ref());
    reader.cross_checks();
    let mut problems = reader.problems;
    if problems.is_empty() {
        return Ok(reader.config);
    }
    problems.sort_by_key(|problem| problem.line);
    // Recovery from one syntax error can report the same line again.
    problems.dedup();
    Err(Problems(problems))
}

struct Reader<'t> {
    lines: Lines<'t>,
    problems: Vec<Problem>,
    config: Config,
    /// Keys that the text sets, with the offset of their values.
    seen: Vec<(&'static str, usize)>,
}

impl Reader<'_> {
    fn problem(&mut self, offset: usize, key: &str, message: String) {
        self.problems.push(Problem {
            line: self.lines.line_of(offset),
            key: Some(key.to_owned()),
            message,
        });
    }

    fn root(&mut self, root: &DeTable<'_>) {
        for (name, value) in root {
            let (offset, name) = (name.span().start, name.get_ref());
            match value.get_ref() {
                DeValue::Table(table) if tables().any(|known| known == name) => {
                    self.table(name, table);
                }
                DeValue::Table(_) => {
                    let hint = suggestion(name, tables());
                    self.problem(offset, name, format!("unknown table{hint}"));
                }
                _ if tables().any(|known| known == name) => {
                    self.problem(offset, name, format!("expected a table: write [{name}]"));
                }
                _ => {
                    let hint = match KEYS.iter().find(|key| key.name() == name) {
                        Some(key) => format!(": it belongs into the table [{}]", key.table()),
                        None => suggestion(name, KEYS.iter().map(|key| key.path)),
                    };
                    self.problem(offset, name, format!("unknown key{hint}"));
                }
            }
        }
    }

    fn table(&mut self, table_name: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let (offset, name) = (name.span().start, name.get_ref());
            let known = KEYS
                .iter()
                .find(|key| key.table() == table_name && key.name() == name);
            match known {
                Some(key) => self.value(key, value),
                None => {
                    let hint = match KEYS.iter().find(|key| key.name() == name) {
                        Some(key) => format!(": it belongs into the table [{}]", key.table()),
                        None => suggestion(
                            name,
                            KEYS.iter()
                                .filter(|key| key.table() == table_name)
                                .map(Key::name),
                        ),
                    };
                    self.problem(
                        offset,
                        &format!("{table_name}.{name}"),
                        format!("unknown key{hint}"),
                    );
                }
            }
        }
    }

    fn value(&mut self, key: &'static Key, value: &Spanned<DeValue<'_>>) {
        self.seen.push((key.path, value.span().start));
        let mut sink = Vec::new();
        (key.set)(&mut self.config, value, &mut sink);
        for (offset, message) in sink {
            self.problem(offset, key.path, message);
        }
    }

    /// Checks of values that are fine by themselves.
    fn cross_checks(&mut self) {
        let config = self.config.clone();
        for (path, size) in [
            ("limits.upload_memory", config.limits.upload_memory),
            ("limits.download_memory", config.limits.download_memory),
            ("network.max_memory", config.network.max_memory),
            ("mount.dirty_max", config.mount.dirty_max),
            ("cache.memory", config.cache.memory),
        ] {
            if size < TRANSFER_MEMORY_MIN {
                self.cross(path, format!("{size} is less than {TRANSFER_MEMORY_MIN}"));
            }
        }
        if config.network.max_connections < CONNECTIONS_MIN {
            self.cross(
                "network.max_connections",
                format!(
                    "{} is less than {CONNECTIONS_MIN}",
                    config.network.max_connections
                ),
            );
        }
        for (path, time) in [
            ("fetch.timeout", config.fetch.timeout),
            ("mount.commit_interval", config.mount.commit_interval),
            ("mount.read_timeout", config.mount.read_timeout),
            ("repair.suspect", config.repair.suspect),
            ("repair.dead", config.repair.dead),
            ("repair.scrub", config.repair.scrub),
            ("repair.audit", config.repair.audit),
        ] {
            if time.is_zero() {
                self.cross(path, "it must be longer than 0".to_owned());
            }
        }
        if config.repair.suspect > config.repair.dead {
            self.cross(
                "repair.suspect",
                "it must not be longer than repair.dead".to_owned(),
            );
        }
        for peer in &config.network.deny {
            if config.network.allow.contains(peer) {
                self.cross("network.deny", format!("{peer} is allowed and denied"));
            }
        }
    }

    fn cross(&mut self, path: &'static str, message: String) {
        let seen = self.seen.iter().find(|(seen, _)| *seen == path);
        let offset = seen.map_or(0, |(_, offset)| *offset);
        self.problem(offset, path, message);
    }
}

/// `; did you mean X?` for the nearest of `known`, or nothing if none is near.
fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let nearest = known
        .map(|candidate| {
            let short = candidate.rsplit('.').next().unwrap_or(candidate);
            let distance = distance(name, candidate).min(distance(name, short));
            (distance, candidate)
        })
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + name.chars().count() / 3 => {
            format!("; did you mean `{candidate}`?")
        }
        _ => String::new(),
    }
}

/// Levenshtein distance, by characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, to) in row.iter().skip(1).zip(&b) {
            left = (diagonal + usize::from(from != *to))
                .min(left + 1)
                .min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("quota", "quota", 0),
            ("qouta", "quota", 2),
            ("lisen", "listen", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
