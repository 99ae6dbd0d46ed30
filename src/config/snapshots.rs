//! Which snapshots are made and kept without being asked for.

use toml::Spanned;
use toml::de::DeValue;

use super::value::{Setting, Sink, wrong_kind};
use crate::base::KeepRule;

/// `[snapshots]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshots {
    /// Which are made and kept.
    pub keep: KeepRule,
}

impl Setting for KeepRule {
    fn read(value: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let wanted = "counts such as { hourly = 24, daily = 7, weekly = 4 }";
            return wrong_kind(value, wanted, sink);
        };
        let mut rule = KeepRule::default();
        // Every key is read, so that all that is wrong is told.
        let mut is_sound = true;
        for (name, value) in table {
            let Some(part) = rule.part_mut(name.get_ref().as_ref()) else {
                let other = name.get_ref();
                let message = format!(
                    "expected last, hourly, daily, weekly, monthly or yearly, found `{other}`"
                );
                sink.push((name.span().start, message));
                is_sound = false;
                continue;
            };
            match u32::read(value, sink) {
                Some(count) => *part = count,
                None => is_sound = false,
            }
        }
        is_sound.then_some(rule)
    }

    fn show(&self) -> String {
        let parts = self.parts().into_iter().filter(|(_, count)| *count > 0);
        let parts: Vec<String> = parts
            .map(|(name, count)| format!("{name} = {count}"))
            .collect();
        match parts.is_empty() {
            true => "{}".to_owned(),
            false => format!("{{ {} }}", parts.join(", ")),
        }
    }
}
