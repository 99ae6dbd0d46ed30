//! What stands after `-o`, as `mount` and /etc/fstab write it.

use std::str::FromStr;

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MountOption {
    /// Allow no changes.
    ReadOnly,
    /// Let other users in.
    AllowOther,
    /// Honour setuid and setgid.
    Suid,
    /// Honour device files.
    Dev,
    /// Let no program be run from it.
    NoExec,
    /// Mount over a directory that is not empty.
    NonEmpty,
    /// For `mount`, systemd or nobody; or what is so anyway.
    Ignored,
}

/// Options that mean something here.
const KNOWN: [(&str, MountOption); 6] = [
    ("ro", MountOption::ReadOnly),
    ("allow_other", MountOption::AllowOther),
    ("suid", MountOption::Suid),
    ("dev", MountOption::Dev),
    ("noexec", MountOption::NoExec),
    ("nonempty", MountOption::NonEmpty),
];

/// Options that others read, or that say what is so anyway.
const IGNORED: &[&str] = &[
    "",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "exec",
    "nosuid",
    "nodev",
    "async",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "default_permissions",
];

/// Beginnings of options that others read.
const IGNORED_BEGINNINGS: [&str; 5] = ["x-", "X-", "comment=", "user=", "uhelper="];

impl MountOption {
    /// How it is written; none if it means nothing here.
    pub(super) fn name(self) -> Option<&'static str> {
        let known = KNOWN.iter().find(|(_, option)| *option == self);
        known.map(|(name, _)| *name)
    }
}

impl FromStr for MountOption {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, option)) = KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(*option);
        }
        let is_ignored = IGNORED.contains(&text)
            || IGNORED_BEGINNINGS
                .iter()
                .any(|begin| text.starts_with(begin));
        if is_ignored {
            return Ok(MountOption::Ignored);
        }
        let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        Err(format!("`{text}` is none of {}", known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_ignored_or_refused() {
        assert_eq!("ro".parse(), Ok(MountOption::ReadOnly));
        assert_eq!("allow_other".parse(), Ok(MountOption::AllowOther));
        for text in ["rw", "x-systemd.automount", "user=me", "_netdev", ""] {
            assert_eq!(text.parse(), Ok(MountOption::Ignored), "{text}");
        }
        for text in ["sync", "RO", "size=3", "x", "allow-other"] {
            let refused = text.parse::<MountOption>().unwrap_err();
            assert!(refused.contains("allow_other"), "{refused}");
        }
    }
}
