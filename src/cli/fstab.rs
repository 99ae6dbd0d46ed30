//! Called as `mount -t cairn` and /etc/fstab call a helper: `mount.cairn SOURCE DIR [-sfnv] [-o OPTIONS]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::mount_options::MountOption;
use crate::admin::AdminError;

/// Names under which the program is such a helper.
const NAMES: [&str; 2] = ["mount.cairn", "mount.fuse.cairn"];
/// How such a helper is called.
const USAGE: &str = "mount.cairn VOLUME DIR [-sfnv] [-o OPTIONS]";

/// How the program was called.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// By its own name.
    Plainly,
    /// As a helper of `mount`: the same as a command line of ours.
    ByMount(Vec<OsString>),
    /// As such a helper, to do everything but the mount (`mount -f`).
    ForShow,
}

/// Turns the command line of a helper of `mount` into one of ours.
///
/// # Errors
/// If it makes no sense.
pub(super) fn translated(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Called, AdminError> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if !NAMES.iter().any(|helper| name == *helper) {
        return Ok(Called::Plainly);
    }
    let mut given = Given::default();
    let usage = |what: String| AdminError::usage(what).hint(USAGE);
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        let Some(flags) = bytes.strip_prefix(b"-").filter(|flags| !flags.is_empty()) else {
            given.places.push(argument);
            continue;
        };
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                b's' => given.is_sloppy = true,
                b'f' => given.is_for_show = true,
                b'v' => given.is_verbose = true,
                b'n' => {}
                b'o' | b't' | b'N' => {
                    let rest = flags.get(at + 1..).unwrap_or_default();
                    let value = match rest {
                        [] => arguments.next(),
                        rest => Some(OsStr::from_bytes(rest).to_owned()),
                    };
                    let flag = char::from(*flag);
                    let value = value.ok_or_else(|| usage(format!("-{flag} needs a value")))?;
                    if flag == 'o' {
                        given.options.push(value);
                    }
                    break;
                }
                other => return Err(usage(format!("unknown option -{}", char::from(*other)))),
            }
        }
    }
    given.command_line()
}

/// What stood on the command line.
#[derive(Default)]
struct Given {
    places: Vec<OsString>,
    options: Vec<OsString>,
    is_sloppy: bool,
    is_for_show: bool,
    is_verbose: bool,
}

impl Given {
    fn command_line(self) -> Result<Called, AdminError> {
        let usage = |what: &str| AdminError::usage(what).hint(USAGE);
        let [volume, dir] = <[OsString; 2]>::try_from(self.places)
            .map_err(|_| usage("a volume and a directory are needed"))?;
        let mut ours: Vec<OsString> = vec!["cairn".into()];
        let mut passed = Vec::new();
        for option in self
            .options
            .iter()
            .flat_map(|o| o.as_bytes().split(|b| *b == b','))
        {
            let path = [("data-dir=", "--data-dir"), ("config=", "--config")];
            let path = path
                .iter()
                .find_map(|(begin, flag)| Some((flag, option.strip_prefix(begin.as_bytes())?)));
            if let Some((flag, path)) = path {
                ours.extend([OsString::from(flag), OsString::from_vec(path.to_vec())]);
                continue;
            }
            let option = String::from_utf8_lossy(option).into_owned();
            match option.parse::<MountOption>() {
                Ok(MountOption::Ignored) => {}
                Ok(_) => passed.push(option),
                Err(_) if self.is_sloppy => {}
                Err(error) => return Err(usage(&error)),
            }
        }
        if self.is_for_show {
            return Ok(Called::ForShow);
        }
        // Such helpers say nothing but what goes wrong.
        if !self.is_verbose {
            ours.push("-q".into());
        }
        ours.push("mount".into());
        if !passed.is_empty() {
            ours.extend(["-o".into(), OsString::from(passed.join(","))]);
        }
        ours.extend([volume, dir]);
        Ok(Called::ByMount(ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> Result<Called, AdminError> {
        translated(line.split(' ').map(OsString::from))
    }

    fn ours(line: &str) -> Called {
        Called::ByMount(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn only_helpers_of_mount_are_translated() {
        for name in ["cairn", "/usr/bin/cairn", "mount.other", "mount.cairn/x"] {
            assert_eq!(called(&format!("{name} a b")), Ok(Called::Plainly));
        }
        for name in ["mount.cairn", "/sbin/mount.cairn", "mount.fuse.cairn"] {
            let line = format!("{name} photos /mnt");
            assert_eq!(called(&line), Ok(ours("cairn -q mount photos /mnt")));
        }
    }

    #[test]
    fn options_are_sorted() {
        assert_eq!(
            called("mount.cairn v /d -v -n -o rw,nosuid,nofail,x-a=b,ro,allow_other"),
            Ok(ours("cairn mount -o ro,allow_other v /d"))
        );
        assert_eq!(
            called("mount.cairn v /d -o data-dir=/p,config=/c,defaults -t cairn -N /proc/1"),
            Ok(ours("cairn --data-dir /p --config /c -q mount v /d"))
        );
        assert_eq!(
            called("mount.cairn v /d -snoro"),
            Ok(ours("cairn -q mount -o ro v /d"))
        );
        assert_eq!(
            called("mount.cairn v /d -s -o whatever,ro"),
            Ok(ours("cairn -q mount -o ro v /d"))
        );
        assert_eq!(called("mount.cairn v /d -fv -o ro"), Ok(Called::ForShow));
    }

    #[test]
    fn mistakes_are_told() {
        for (line, why) in [
            ("mount.cairn v", "a volume and a directory"),
            ("mount.cairn v /d /e", "a volume and a directory"),
            ("mount.cairn v /d -o", "-o needs a value"),
            ("mount.cairn v /d -o whatever", "`whatever` is none of ro"),
            ("mount.cairn v /d -z", "unknown option -z"),
        ] {
            let error = called(line).unwrap_err();
            assert_eq!(error.exit_code, 2);
            assert!(error.error.contains(why), "{error}");
        }
    }
}
