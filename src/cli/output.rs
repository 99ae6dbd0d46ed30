//! What a command shows: results on the standard output, everything else on the standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::admin::AdminError;

/// How much a command tells, and in which form. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
    /// Nothing but results and errors.
    pub quiet: bool,
    /// How much more to tell.
    pub verbose: u8,
    colour: bool,
    bars: indicatif::MultiProgress,
    has_document: Arc<AtomicBool>,
}

impl Output {
    /// As the flags say and the terminal allows.
    pub fn new(json: bool, quiet: bool, verbose: u8) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            json,
            quiet,
            verbose,
            colour: io::stderr().is_terminal() && !no_colour,
            bars: indicatif::MultiProgress::new(),
            has_document: Arc::default(),
        }
    }

    /// Whether a person is watching the standard error.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Where progress bars belong, so that lines do not break them.
    pub const fn bars(&self) -> &indicatif::MultiProgress {
        &self.bars
    }

    /// Whether colour may be used on the standard error.
    pub const fn colour(&self) -> bool {
        self.colour
    }

    fn tell(&self, label: &str, code: &str, text: &str) {
        let line = if self.colour {
            format!("\x1b[{code}m{label}\x1b[0m {}\n", printable(text))
        } else {
            format!("{label} {}\n", printable(text))
        };
        self.bars.suspend(|| {
            // Nobody is left to be told that the standard error is closed.
            let _ = io::stderr().write_all(line.as_bytes());
        });
    }

    /// Something good to know, unless `-q`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.tell("note:", "36", text);
        }
    }

    /// How it went, unless `-q`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.bars.suspend(|| {
                // As in `tell`.
                let _ = writeln!(io::stderr(), "{}", printable(text));
            });
        }
    }

    /// Something is not as it should be.
    pub fn warn(&self, text: &str) {
        self.tell("warning:", "33", text);
    }

    /// Why the command fails, and what to do next.
    pub fn error(&self, error: &AdminError) {
        self.tell("error:", "31", &error.error);
        if let Some(hint) = &error.hint {
            self.tell("hint:", "36", hint);
        }
    }

    /// The JSON document of a command.
    ///
    /// # Errors
    /// If the standard output cannot be written.
    pub fn document<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        self.has_document.store(true, Ordering::Relaxed);
        self.write(&text)
    }

    /// The end of a JSON document that was written piece by piece.
    ///
    /// # Errors
    /// If the standard output cannot be written.
    pub fn document_end(&self, text: &str) -> io::Result<()> {
        self.has_document.store(true, Ordering::Relaxed);
        self.write(text.as_bytes())
    }

    /// Whether there was a document already: then an error is for the exit code to tell.
    pub fn has_document(&self) -> bool {
        self.has_document.load(Ordering::Relaxed)
    }

    /// A line of the result.
    ///
    /// # Errors
    /// If the standard output cannot be written.
    pub fn line(&self, text: &str) -> io::Result<()> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Bytes of the result.
    ///
    /// # Errors
    /// If the standard output cannot be written.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}

/// Text in which names that somebody else chose cannot steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let is_steering = c.is_control() && c != '\n' && c != '\t';
            let escaped = is_steering.then(|| c.escape_default());
            let plain = (!is_steering).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Columns under their heads; the first is aligned to the left, numbers to the right.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table; heads that begin with `>` are aligned to the right.
    pub fn new(heads: &[&'static str]) -> Self {
        Table {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Its text, with a newline at the end of each line.
    pub fn render(&self) -> String {
        let heads: Vec<String> = self
            .heads
            .iter()
            .map(|head| head.trim_start_matches('>').to_owned())
            .collect();
        let width = |column: usize| {
            std::iter::once(&heads)
                .chain(&self.rows)
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .zip(&self.heads)
                .map(|((cell, width), head)| {
                    if head.starts_with('>') {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\nd"), "a\\u{1b}[2Jb\\u{9b}c\nd");
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(["a".to_owned(), "10 GiB".to_owned()]);
        table.row(["longer".to_owned(), "1 B".to_owned()]);
        assert_eq!(
            table.render(),
            "name      size\na       10 GiB\nlonger     1 B\n"
        );
    }
}
