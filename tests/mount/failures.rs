//! What stands in the way of a mount is named, with its remedy and its exit code.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::home::{Home, in_own_mounts, listed};
use crate::support::{Node, bin, json, run, signal, wait_answers};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn directories_that_will_not_do() {
    let Some(home) = Home::new() else { return };
    let file = home.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let full = home.place("full");
    std::fs::write(full.join("x"), "x").unwrap();
    let absent = home.dir.path().join("absent");
    for (place, code, what, remedy) in [
        (&absent, 3, "does not exist", "mkdir"),
        (&file, 2, "is not a directory", "choose a directory"),
        (&full, 4, "is not empty", "nonempty"),
    ] {
        let output = run(home.cairn().arg("mount").arg(place), code);
        let told = told(&output);
        assert!(told.contains(what) && told.contains(remedy), "{told}");
        let output = run(home.cairn().args(["--json", "mount"]).arg(place), code);
        assert!(json(&output)["hint"].as_str().unwrap().contains(remedy));
        // Nothing is left running.
        assert!(!home.data.join("control.sock").exists());
    }
    // Nor was a volume made for nothing.
    assert_eq!(home.volumes(), serde_json::json!([]));
    home.mount(&["-ononempty"], &full);
    assert!(!full.join("x").exists());
    home.umount(&full);
    assert!(full.join("x").exists());
}

/// A process that is stopped; it goes on when this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Stopped {
        signal(pid, "STOP");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

/// What hangs is the directory that was named, and nothing else.
#[test]
fn a_directory_that_hangs_holds_up_only_its_own_mount() {
    let (Some(other), Some(home)) = (Home::new(), Home::new()) else {
        return;
    };
    let hung = other.place("hung");
    let server = Stopped::new(other.mount(&[], &hung));
    let node = Node::start(&home.data, &home.dir.path().join("node.log"));
    let mount = || {
        let mut command = home.cairn();
        command.arg("mount").arg(&hung).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        child
    };
    let waiting = mount();
    let begun = Instant::now();
    run(home.cairn().args(["volume", "create", "photos"]), 0);
    let place = home.place("pool");
    home.mount(&["photos"], &place);
    home.umount(&place);
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
    let output = waiting.wait_with_output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("does not answer") && told.contains("umount -l"),
        "{told}"
    );
    // Nor is a peer kept from ending.
    let mut waiting = mount();
    let begun = Instant::now();
    node.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
    drop(server);
    other.umount(&hung);
}

/// A peer that is killed before it could tell anything: its end is told, and where its log is.
#[test]
fn a_peer_in_the_background_that_dies_silently_is_reported() {
    let (Some(other), Some(home)) = (Home::new(), Home::new()) else {
        return;
    };
    let hung = other.place("hung");
    let server = Stopped::new(other.mount(&[], &hung));
    let mut command = home.cairn();
    command.arg("mount").arg(&hung).stderr(Stdio::piped());
    let waiting = command.spawn().unwrap();
    wait_answers(&home.data);
    let lock = std::fs::read_to_string(home.data.join("lock")).unwrap();
    let pid: u32 = lock.trim().parse().unwrap();
    assert_ne!(pid, waiting.id());
    signal(pid, "KILL");
    let output = waiting.wait_with_output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("in the background ended at once"), "{told}");
    assert!(told.contains("signal: 9"), "{told}");
    let log = home.data.join("log/cairn.log").display().to_string();
    assert!(told.contains(&format!("its log is {log}")), "{told}");
    drop(server);
    other.umount(&hung);
}

#[test]
fn names_that_are_unknown_or_none() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let output = run(home.cairn().args(["mount", "photos"]).arg(&place), 3);
    let told = told(&output);
    assert!(told.contains("no volume of the name `photos`"), "{told}");
    assert!(told.contains("cairn volume create"), "{told}");
    let output = run(home.cairn().args(["mount", "a b"]).arg(&place), 2);
    assert!(self::told(&output).contains("only the letters"));
    assert_eq!(listed(&place), None);
}

#[test]
fn a_peer_that_cannot_start_is_reported_before_the_command_returns() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let config = home.data.join("config.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "[mount]\ndurabilty = \"local\"\n").unwrap();
    let output = run(home.cairn().arg("mount").arg(&place), 2);
    let told = told(&output);
    assert!(told.contains("mount.durabilty: unknown key"), "{told}");
    assert!(told.contains("did you mean `durability`"), "{told}");
    std::fs::write(&config, good).unwrap();
    std::fs::write(home.data.join("identity"), "damaged").unwrap();
    let output = run(home.cairn().arg("mount").arg(&place), 3);
    assert!(
        self::told(&output).contains("identity"),
        "{}",
        self::told(&output)
    );
    assert_eq!(listed(&place), None);
}

#[test]
fn a_machine_without_fuse() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let script = format!(
        "mount -t tmpfs tmpfs /dev\n\
         mknod /dev/null c 1 3\n\
         set +e\n\
         '{}' --data-dir '{}' mount '{}'\n\
         echo \"code $?\"",
        bin().display(),
        home.data.display(),
        place.display()
    );
    let Some(output) = in_own_mounts(&script) else {
        return;
    };
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("code 1"), "{shown}{}", told(&output));
    let told = told(&output);
    assert!(told.contains("there is no /dev/fuse"), "{told}");
    assert!(told.contains("modprobe fuse"), "{told}");
}

#[test]
fn root_in_a_container_without_the_right_to_mount() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
        .arg(bin())
        .arg("--data-dir")
        .arg(&home.data)
        .arg("mount")
        .arg(&place)
        .env_remove("CAIRN_CONFIG");
    let Ok(output) = command.output() else {
        eprintln!("SKIPPED: there is no `setpriv` to take a capability away");
        return;
    };
    let told = told(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(
        told.contains("lacks the capability CAP_SYS_ADMIN"),
        "{told}"
    );
    assert!(
        told.contains("--cap-add SYS_ADMIN --device /dev/fuse"),
        "{told}"
    );
}
