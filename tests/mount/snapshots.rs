//! Snapshots on a real kernel, and by the commands.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::home::Home;
use crate::shared::Members;
use crate::support::{cairn, json, run};

fn fails_read_only(done: std::io::Result<()>) {
    let error = done.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

/// What is below a directory, as `find` tells it: kinds, modes, owners, links, times, names and targets.
fn told(dir: &Path) -> String {
    let listed = Command::new("find")
        .args([".", "-printf", "%y %m %U %G %n %T@ %p %l\n"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn fill(top: &Path) {
    std::fs::create_dir_all(top.join("dir/below")).unwrap();
    for number in 0..300 {
        let path = top.join(format!("dir/below/file {number}"));
        std::fs::write(path, format!("content {number}\n").repeat(20)).unwrap();
    }
    std::fs::write(top.join("large"), vec![7; 9 << 20]).unwrap();
    std::fs::hard_link(top.join("large"), top.join("dir/linked")).unwrap();
    symlink("below/file 7", top.join("dir/pointer")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o4751);
    std::fs::set_permissions(top.join("dir/below/file 3"), mode).unwrap();
}

#[test]
fn a_snapshot_is_copied_as_it_was() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    home.mount(&[], &place);
    fill(&place);
    let made = home
        .cairn()
        .args(["--json", "volume", "snapshot", "default", "--name", "first"])
        .output()
        .unwrap();
    let made = json(&made);
    let name = made["name"].as_str().unwrap().to_owned();
    let old = place.join(".snapshots").join(&name);
    let before = told(&place);
    assert_eq!(told(&old), before);
    assert_eq!(
        std::fs::read_dir(place.join(".snapshots")).unwrap().count(),
        1
    );
    let listed = std::fs::read_dir(&place).unwrap();
    let mut names = listed.map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name != ".snapshots"));
    drop(names);

    std::fs::remove_dir_all(place.join("dir")).unwrap();
    std::fs::write(place.join("large"), "small").unwrap();
    assert_eq!(told(&old), before, "what is changed later");
    let number = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_ne!(number(&old.join("large")), number(&place.join("large")));
    fails_read_only(std::fs::write(old.join("large"), "x"));
    fails_read_only(std::fs::remove_file(old.join("large")));
    fails_read_only(std::fs::create_dir(old.join("new")));
    fails_read_only(std::fs::create_dir(place.join(".snapshots/new")));
    fails_read_only(std::fs::rename(old.join("large"), place.join("x")));
    let taken = std::fs::create_dir(place.join(".snapshots")).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);

    // Out of it, to another disk and back into the volume.
    let (out, within) = (home.place("out"), place.join("within"));
    for to in [&out, &within] {
        run(Command::new("cp").arg("-a").arg(old.join(".")).arg(to), 0);
        run(Command::new("diff").arg("-r").arg(&old).arg(to), 0);
        assert_eq!(told(to), before);
    }
    let moved = run(
        home.cairn()
            .args(["--json", "volume", "snapshots", "default"]),
        0,
    );
    assert_eq!(json(&moved)["snapshots"][0]["label"], "first");
    home.umount(&place);
    let found = run(
        home.cairn()
            .args(["--json", "volume", "snapshots", "default"]),
        0,
    );
    assert_eq!(json(&found)["snapshots"][0]["name"], name.as_str());
}

#[test]
fn files_come_back_by_the_command() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    home.mount(&[], &place);
    fill(&place);
    run(
        home.cairn()
            .args(["volume", "snapshot", "default", "--name", "good"]),
        0,
    );
    let before = told(&place);
    // The kernel has all of it in its caches, also what is not there.
    std::fs::remove_dir_all(place.join("dir")).unwrap();
    assert!(std::fs::metadata(place.join("dir/linked")).is_err());
    std::fs::write(place.join("large"), "small").unwrap();
    assert_eq!(std::fs::read(place.join("large")).unwrap(), b"small");
    let restore = |args: &[&str], code| {
        let told = run(
            home.cairn()
                .args(["volume", "restore", "default", "good"])
                .args(args),
            code,
        );
        String::from_utf8(told.stdout).unwrap()
    };
    let plan = restore(&["--dry-run"], 0);
    assert!(plan.contains("create     dir/below/file 7"), "{plan}");
    // It was a name of the file that comes back as `dir/linked`.
    assert!(plan.contains("link       large"), "{plan}");
    assert!(std::fs::metadata(place.join("dir/linked")).is_err());
    let path = place.join("dir/below/file 7");
    restore(&[path.to_str().unwrap()], 0);
    assert!(std::fs::read(&path).unwrap().starts_with(b"content 7\n"));
    restore(&[], 0);
    assert_eq!(
        std::fs::read(place.join("large")).unwrap(),
        vec![7; 9 << 20]
    );
    assert_eq!(told(&place), before);
    let number = |name: &str| std::fs::metadata(place.join(name)).unwrap().ino();
    assert_eq!(number("large"), number("dir/linked"));
    restore(&["nowhere"], 3);
    restore(&["large", "--to", "kept/large"], 4);
    restore(&["large", "--to", "old large"], 0);
    assert_eq!(
        std::fs::metadata(place.join("old large")).unwrap().len(),
        9 << 20
    );
    run(
        home.cairn()
            .args(["volume", "snapshot", "default", "--remove", "good"]),
        0,
    );
    run(
        home.cairn().args(["volume", "restore", "default", "good"]),
        3,
    );
    assert_eq!(
        std::fs::read(place.join("large")).unwrap(),
        vec![7; 9 << 20]
    );
    home.umount(&place);
}

#[test]
fn a_new_machine_has_the_snapshots_of_one_that_is_gone() {
    let Some(mut members) = Members::two() else {
        return;
    };
    let content = vec![5; 300_000];
    members.all[0].write("file", &content);
    let data = &members.all[0].data;
    run(
        cairn(data).args(["volume", "snapshot", "photos", "--name", "first"]),
        0,
    );
    members.all[0].write("file", "other");
    members.all[1].wait_reads("file", "other");
    let listed = |member: usize| {
        let data = &members.all[member].data;
        let told = run(
            cairn(data).args(["--json", "volume", "snapshots", "photos"]),
            0,
        );
        let name = json(&told)["snapshots"][0]["name"]
            .as_str()
            .map(str::to_owned);
        name.unwrap()
    };
    let name = listed(1);
    assert_eq!(name, listed(0));
    let old = members.all[1].path(&format!(".snapshots/{name}/file"));
    assert_eq!(std::fs::read(&old).unwrap(), content);
    // The other one has all of it, as redundancy 1+1 of two machines has it.
    members.all[0].stop();
    assert_eq!(std::fs::read(&old).unwrap(), content);
    let data = &members.all[1].data;
    run(
        cairn(data).args(["volume", "restore", "photos", "first", "file"]),
        0,
    );
    assert_eq!(std::fs::read(members.all[1].path("file")).unwrap(), content);
    members.all[0].start();
}
