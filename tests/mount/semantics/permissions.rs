//! Who may do what.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::XattrFlags;

use super::as_nobody;
use crate::mounted::Mounted;

const NOBODY: u32 = 65_534;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn may(script: &str, path: &Path) -> bool {
    as_nobody(script, path).status.success()
}

/// A POSIX access control list as Linux hands it over.
fn acl(items: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in items {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const ALL: u32 = u32::MAX;
/// Owner rwx, user nobody r-x, group none, mask r-x, others none.
const NOBODY_READS: [(u16, u16, u32); 5] = [
    (1, 7, ALL),
    (2, 5, NOBODY),
    (4, 0, ALL),
    (16, 5, ALL),
    (32, 0, ALL),
];

#[test]
fn the_kernel_checks_modes() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    let read = "cat \"$1\"";
    let write = "echo y >> \"$1\"";
    chmod(&path, 0o600);
    assert!(!may(read, &path) && !may(write, &path));
    chmod(&path, 0o604);
    assert!(may(read, &path) && !may(write, &path));
    chown(&path, None, Some(NOBODY)).unwrap();
    chmod(&path, 0o620);
    assert!(!may(read, &path) && may(write, &path));
    assert!(!may("rm -f \"$1\"", &path), "the directory is not theirs");
    assert!(!may("chmod 777 \"$1\"", &path));
}

#[test]
fn access_control_lists_are_enforced() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    chmod(&path, 0o600);
    assert!(!may("cat \"$1\"", &path));
    let list = acl(&NOBODY_READS);
    rustix::fs::setxattr(&path, "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
    assert!(may("cat \"$1\"", &path));
    // The mask shows as the group's bits, and chmod changes it.
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o750);
    chmod(&path, 0o700);
    assert!(!may("cat \"$1\"", &path));
}

#[test]
fn default_lists_are_handed_down() {
    let Some(m) = Mounted::new() else { return };
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    let list = acl(&NOBODY_READS);
    rustix::fs::setxattr(&dir, "system.posix_acl_default", &list, XattrFlags::empty()).unwrap();
    chmod(&dir, 0o755);
    fs::write(dir.join("file"), "x").unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    assert!(may("cat \"$1\"", &dir.join("file")));
    let mut buffer = [0; 256];
    let handed = rustix::fs::getxattr(dir.join("sub"), "system.posix_acl_default", &mut buffer[..]);
    assert_eq!(buffer[..handed.unwrap()], list);
}

#[test]
fn sticky_directories_protect_the_files_of_others() {
    let Some(m) = Mounted::new() else { return };
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o1777);
    fs::write(dir.join("ours"), "").unwrap();
    assert!(may("touch \"$1/theirs\"", &dir));
    assert!(!may("rm -f \"$1/ours\"", &dir));
    assert!(!may("mv \"$1/ours\" \"$1/moved\"", &dir));
    assert!(may("rm \"$1/theirs\"", &dir));
    chmod(&dir, 0o777);
    assert!(may("rm -f \"$1/ours\"", &dir));
}

#[test]
fn setgid_directories_hand_their_group_down() {
    let Some(m) = Mounted::new() else { return };
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    chown(&dir, None, Some(1234)).unwrap();
    chmod(&dir, 0o2777);
    assert!(may("umask 0; echo > \"$1/file\"; mkdir \"$1/sub\"", &dir));
    let (file, sub) = (
        fs::metadata(dir.join("file")).unwrap(),
        fs::metadata(dir.join("sub")).unwrap(),
    );
    assert_eq!((file.uid(), file.gid()), (NOBODY, 1234));
    assert_eq!((sub.gid(), sub.mode() & 0o7777), (1234, 0o2777));
}

#[test]
fn writing_takes_setuid_away() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    chmod(&path, 0o6777);
    assert!(may("echo y >> \"$1\"", &path));
    assert_eq!(mode(), 0o777);
    chmod(&path, 0o6777);
    assert!(may("truncate -s 1 \"$1\"", &path));
    assert_eq!(mode(), 0o777);
    chmod(&path, 0o6777);
    assert!(may("fallocate -l 5000 \"$1\"", &path));
    assert_eq!(mode(), 0o777);
    chmod(&path, 0o6777);
    assert!(may("fallocate -p -o 0 -l 4096 \"$1\"", &path));
    assert_eq!(mode(), 0o777);
    // A change of owner does so too, also by root.
    chmod(&path, 0o6777);
    chown(&path, Some(NOBODY), None).unwrap();
    assert_eq!(mode(), 0o777);
}
