//! `docs/cairn.service`: systemd takes it, and this program takes what it runs.

use std::path::Path;
use std::process::Command;

use super::fake_peer::FakePeer;
use crate::support::{bin, run};

fn unit() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cairn.service");
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED: there is no systemd-analyze");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("cairn.service");
    // It looks whether the program is there.
    let program = bin().display().to_string();
    let text = unit().replace("/usr/local/bin/cairn", &program);
    std::fs::write(&file, &text).unwrap();
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(&file);
        command
    };
    let output = run(&mut verify(), 0);
    // It warns of what it does not know, and succeeds.
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("cairn.service"), "{told}");
    std::fs::write(&file, text.replace("ExecStart=", "ExecBegin=")).unwrap();
    assert!(!verify().output().unwrap().status.success());
}

#[test]
fn the_commands_of_the_unit_mount_and_unmount() {
    let peer = FakePeer::start();
    let text = unit();
    for key in ["ExecStart=", "ExecStop="] {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(key));
        let mut words = lines.next().unwrap().split(' ');
        assert_eq!(
            (words.next(), lines.next()),
            (Some("/usr/local/bin/cairn"), None)
        );
        let mut command = Command::new(bin());
        command.args(words).env_remove("CAIRN_CONFIG");
        run(command.env("CAIRN_DATA_DIR", &peer.data_dir), 0);
    }
    let mounted = peer.fake.mounts.lock().unwrap().pop().unwrap();
    let unmounted = peer.fake.umounts.lock().unwrap().pop().unwrap();
    assert!(mounted.allow_other && mounted.volume.is_none());
    assert_eq!(
        mounted.dir_hex.path().as_deref(),
        Some(Path::new("/srv/cairn"))
    );
    assert_eq!(unmounted.dir_hex, mounted.dir_hex);
}
