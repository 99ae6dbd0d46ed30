//! What members of a shared volume wait for from one another.

use toml::Spanned;
use toml::de::DeValue;

use super::value::{Setting, Sink, named, one_of, quoted};

/// What an `open` sees of what other machines closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What has arrived: usually all of it, within hundredths of a second.
    #[default]
    Prompt,
    /// All of it.
    CloseToOpen,
}

/// Between whom locks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locks {
    /// The processes of this machine.
    #[default]
    Local,
    /// All machines that mount the volume.
    Cluster,
}

impl Consistency {
    const NAMES: [(&'static str, Consistency); 2] = [
        ("prompt", Consistency::Prompt),
        ("close-to-open", Consistency::CloseToOpen),
    ];

    /// Its name in config files.
    pub fn as_str(self) -> &'static str {
        named(&Self::NAMES, self)
    }
}

impl Locks {
    const NAMES: [(&'static str, Locks); 2] =
        [("local", Locks::Local), ("cluster", Locks::Cluster)];

    /// Its name in config files.
    pub fn as_str(self) -> &'static str {
        named(&Self::NAMES, self)
    }
}

impl Setting for Consistency {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        one_of(value, &Consistency::NAMES, sink)
    }
    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for Locks {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        one_of(value, &Locks::NAMES, sink)
    }
    fn show(&self) -> String {
        quoted(self.as_str())
    }
}
