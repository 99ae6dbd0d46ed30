//! The writers that a row or delta mentions, each once; within it they are numbers.

use super::error::FormatError;
use super::id::WriterId;

/// Collects writers in order of first mention.
#[derive(Default)]
pub(super) struct WriterList(Vec<WriterId>);

impl WriterList {
    /// The number that stands for `writer`.
    pub fn number(&mut self, writer: &WriterId) -> u32 {
        let found = self.0.iter().position(|known| known == writer);
        let index = found.unwrap_or_else(|| {
            self.0.push(*writer);
            self.0.len() - 1
        });
        index as u32
    }

    pub fn into_rows(self) -> Vec<WriterId> {
        self.0
    }
}

/// Looks numbers up.
pub(super) struct Writers(pub Vec<WriterId>);

impl Writers {
    pub fn get(&self, number: u32) -> Result<WriterId, FormatError> {
        let found = self.0.get(number as usize).copied();
        found.ok_or(FormatError::Impossible("a writer that is not in the list"))
    }
}
