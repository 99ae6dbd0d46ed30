//! What is wrong with a config file.

use std::fmt;
use std::path::PathBuf;

use crate::base::{Class, Classify};

/// One problem of a config text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its line, counted from 1.
    pub line: usize,
    /// The key concerned; none for syntax.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// All problems of a config text, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}line {}: {problem}", problem.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has problems.
    #[error("{}", listing(file, problems))]
    Invalid {
        /// Which.
        file: PathBuf,
        /// All of them.
        problems: Problems,
    },
    /// The directory for a peer's data is not known.
    #[error("no data directory: set HOME, XDG_DATA_HOME or CAIRN_DATA_DIR, or give --data-dir")]
    NoDataDir,
}

fn listing(file: &std::path::Path, problems: &Problems) -> String {
    let lines: Vec<String> = problems
        .0
        .iter()
        .map(|problem| format!("{}:{}: {problem}", file.display(), problem.line))
        .collect();
    lines.join("\n")
}

impl Classify for ConfigError {
    fn class(&self) -> Class {
        match self {
            ConfigError::Unreadable { .. } => Class::Missing,
            ConfigError::Invalid { .. } | ConfigError::NoDataDir => Class::Denied,
        }
    }
}
