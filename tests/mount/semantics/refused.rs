//! What is not there, and how that is said.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use rustix::io::Errno;

use super::{code, create};
use crate::mounted::Mounted;

#[test]
fn files_without_a_name_are_refused() {
    let Some(m) = Mounted::new() else { return };
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_TMPFILE);
    assert_eq!(code(options.open(m.top())), libc::EOPNOTSUPP);
}

#[test]
fn clones_are_refused() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "x").unwrap();
    let (from, to) = (File::open(m.path("a")).unwrap(), create(&m.path("b")));
    let refused = rustix::fs::ioctl_ficlone(&to, &from).unwrap_err();
    assert!(
        [Errno::OPNOTSUPP, Errno::NOTTY].contains(&refused),
        "{refused}"
    );
}

#[test]
fn swap_files_are_refused() {
    let Some(m) = Mounted::new() else { return };
    let Ok(made) = Command::new("sh")
        .args([
            "-c",
            "head -c 1M /dev/zero > \"$1\" && chmod 600 \"$1\" && mkswap \"$1\"",
            "sh",
        ])
        .arg(m.path("swap"))
        .output()
    else {
        eprintln!("SKIPPED: mkswap is not installed");
        return;
    };
    if !made.status.success() {
        eprintln!("SKIPPED: mkswap is not installed");
        return;
    }
    let on = Command::new("swapon").arg(m.path("swap")).output().unwrap();
    let said = String::from_utf8_lossy(&on.stderr).into_owned();
    assert!(!on.status.success(), "{said}");
}

#[test]
fn file_flags_are_refused() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    let refused = rustix::fs::ioctl_getflags(&file).unwrap_err();
    assert!([Errno::NOTTY, Errno::OPNOTSUPP, Errno::NOSYS].contains(&refused));
}

#[test]
fn there_is_no_birth_time() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert!(fs::metadata(path).unwrap().created().is_err());
}

#[test]
fn devices_and_setuid_are_not_honoured() {
    let Some(m) = Mounted::new() else { return };
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let (kind, null) = (
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::makedev(1, 3),
    );
    rustix::fs::mknodat(rustix::fs::CWD, m.path("null"), kind, mode, null).unwrap();
    assert_eq!(code(File::open(m.path("null"))), libc::EACCES);
    fs::copy("/usr/bin/id", m.path("id")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    fs::set_permissions(m.path("id"), open).unwrap();
    let output = super::as_nobody("\"$1\" -u", &m.path("id"));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "65534");
}
