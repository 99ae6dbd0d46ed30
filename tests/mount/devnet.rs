//! A devnet that mounts leaves everything as it found it, however it ends.

use std::process::Stdio;

use crate::home::{Home, listed};
use crate::support::{bin, run};

/// `cairn devnet --mount DIR`, with its peers below the directory of `home`; to be run to its end.
fn devnet(home: &Home, dir: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new(bin());
    command
        .args(["devnet", "--peers", "2", "--quota", "64MiB", "--mount"])
        .arg(dir)
        .env("TMPDIR", home.dir.path())
        .env_remove("CAIRN_CONFIG")
        .stdin(Stdio::null());
    command
}

/// Homes of devnets that were left behind.
fn left_homes(home: &Home) -> usize {
    let entries = std::fs::read_dir(home.dir.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("cairn-devnet-"))
        .count()
}

#[test]
fn a_mount_of_somebody_else_is_refused_and_stays() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    home.mount(&[], &place);
    std::fs::write(place.join("file"), "content").unwrap();
    let output = run(&mut devnet(&home, &place), 4);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("mounted on") && told.contains("already"),
        "{told}"
    );
    assert!(listed(&place).is_some(), "{told}");
    assert_eq!(std::fs::read(place.join("file")).unwrap(), b"content");
    assert_eq!(left_homes(&home), 0);
    home.umount(&place);
}

#[test]
fn a_directory_that_cannot_be_made_leaves_nothing_behind() {
    let Some(home) = Home::new() else { return };
    // Nobody makes anything there.
    run(&mut devnet(&home, "/proc/cairn/pool".as_ref()), 1);
    assert_eq!(left_homes(&home), 0);
}
