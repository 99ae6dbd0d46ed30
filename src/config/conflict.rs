//! Rules about contents of one file that were written at the same time.

use toml::Spanned;
use toml::de::DeValue;

use super::value::{Setting, Sink, named, one_of, parsed, quoted, wrong_kind};
use crate::base::Glob;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepWhich {
    /// All: those that are older become files of their own.
    #[default]
    Both,
    /// The newest; others are let go.
    Newest,
}

impl KeepWhich {
    const NAMES: [(&'static str, KeepWhich); 2] = [
        ("newest", KeepWhich::Newest),
        ("keep-both", KeepWhich::Both),
    ];

    /// Its name in config files.
    pub fn as_str(self) -> &'static str {
        named(&Self::NAMES, self)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictRule {
    /// For which files.
    pub glob: Glob,
    /// What stays of theirs.
    pub keep: KeepWhich,
}

impl Setting for Glob {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        parsed(value, "a pattern such as \"*.log\"", sink, |text| {
            text.parse::<Glob>()
                .map_err(|why| format!("`{text}` is no pattern: {why}"))
        })
    }
    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for KeepWhich {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        one_of(value, &KeepWhich::NAMES, sink)
    }
    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for ConflictRule {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let wanted = "a rule such as { glob = \"*.log\", keep = \"newest\" }";
            return wrong_kind(value, wanted, sink);
        };
        let (mut glob, mut keep) = (None, None);
        // Every key is read, so that all that is wrong is told.
        let mut is_sound = true;
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "glob" => {
                    glob = Glob::read(value, sink);
                    is_sound &= glob.is_some();
                }
                "keep" => {
                    keep = KeepWhich::read(value, sink);
                    is_sound &= keep.is_some();
                }
                other => {
                    let message =
                        format!("unknown key `{other}` in a rule, which has glob and keep");
                    sink.push((name.span().start, message));
                    is_sound = false;
                }
            }
        }
        match (glob, keep) {
            (Some(glob), Some(keep)) if is_sound => Some(ConflictRule { glob, keep }),
            _ => {
                if is_sound {
                    let message = "a rule needs both glob and keep".to_owned();
                    sink.push((value.span().start, message));
                }
                None
            }
        }
    }
    fn show(&self) -> String {
        format!(
            "{{ glob = {}, keep = {} }}",
            self.glob.show(),
            self.keep.show()
        )
    }
}
