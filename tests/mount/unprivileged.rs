//! Mounts of a user without privileges, through fusermount3.
//!
//! In a mount namespace of its own, with a node that everybody may open over `/dev/fuse`.

use std::path::Path;
use std::process::{Command, Output};

use crate::home::{Home, in_own_mounts};
use crate::support::{bin, run};

/// Runs a script as nobody; `$cairn` is the command, `$pool` an empty directory. `before` runs as root.
/// `None`, loudly, where that is not possible.
fn as_nobody(home: &Home, before: &str, script: &str) -> Option<Output> {
    if Command::new("fusermount3").arg("-V").output().is_err() {
        eprintln!("SKIPPED: there is no fusermount3");
        return None;
    }
    let dir = home.dir.path().display();
    home.place("pool");
    // The user may not look into the directory of the build.
    std::fs::copy(bin(), home.dir.path().join("cairn")).unwrap();
    let script =
        format!("export cairn='{dir}/cairn --data-dir {dir}/data' pool={dir}/pool\n{script}");
    std::fs::write(home.dir.path().join("script"), script).unwrap();
    run(
        Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(home.dir.path()),
        0,
    );
    let whole = format!(
        "mknod {dir}/fuse c 10 229 && chmod 666 {dir}/fuse && mount --bind {dir}/fuse /dev/fuse\n\
         {before}\n\
         cd {dir}\n\
         exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME={dir} sh -eu script"
    );
    let output = in_own_mounts(&whole)?;
    // The directory may be on a filesystem without devices.
    if String::from_utf8_lossy(&output.stderr).contains("mknod:") {
        eprintln!("SKIPPED: no device node can be made here");
        return None;
    }
    Some(output)
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_user_mounts_writes_and_unmounts() {
    let Some(home) = Home::new() else { return };
    let script = "$cairn mount $pool\n\
        echo hello > $pool/file\n\
        cat $pool/file\n\
        stat -c %u $pool/file\n\
        grep $pool /proc/self/mounts\n\
        cd $pool\n\
        code=0; $cairn umount $pool 2> ../busy || code=$?; echo \"busy $code\"\n\
        cd ..\n\
        $cairn umount $pool\n\
        ! grep $pool /proc/self/mounts\n\
        $cairn mount $pool\n\
        fusermount3 -u $pool\n\
        echo done";
    let Some(output) = as_nobody(&home, "", script) else {
        return;
    };
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.starts_with("hello\n65534\ndefault "), "{stdout}");
    assert!(stdout.contains(" fuse.cairn "), "{stdout}");
    assert!(stdout.ends_with("busy 4\ndone\n"), "{stdout}");
    let busy = std::fs::read_to_string(home.dir.path().join("busy")).unwrap();
    assert!(
        busy.contains("is in use") && busy.contains("--lazy"),
        "{busy}"
    );
    wait_closed(&home);
}

#[test]
fn a_mount_of_a_user_that_died_is_mounted_over() {
    let Some(home) = Home::new() else { return };
    let script = "pid=$($cairn --json mount $pool | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')\n\
        kill -9 $pid\n\
        while kill -0 $pid 2> /dev/null; do sleep 0.05; done\n\
        ! stat $pool 2> /dev/null\n\
        $cairn mount $pool\n\
        stat -c %F $pool\n\
        $cairn umount $pool";
    let Some(output) = as_nobody(&home, "", script) else {
        return;
    };
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout, "directory\n", "{stderr}");
    wait_closed(&home);
}

#[test]
fn what_a_user_lacks_is_named() {
    let Some(home) = Home::new() else { return };
    let dir = home.dir.path().display().to_string();
    let before = format!(
        "echo '# nothing' > {dir}/fuse.conf; test ! -e /etc/fuse.conf || \
         mount --bind {dir}/fuse.conf /etc/fuse.conf"
    );
    let script = "code=0; $cairn mount --allow-other $pool || code=$?; echo \"other $code\"\n\
        code=0; $cairn mount / || code=$?; echo \"full $code\"\n\
        code=0; $cairn mount -ononempty /usr || code=$?; echo \"denied $code\"";
    let Some(output) = as_nobody(&home, &before, script) else {
        return;
    };
    let (stdout, stderr) = texts(&output);
    assert_eq!(stdout, "other 4\nfull 4\ndenied 4\n", "{stderr}");
    assert!(stderr.contains("user_allow_other"), "{stderr}");
    assert!(
        stderr.contains("this user must not mount on /usr"),
        "{stderr}"
    );
}

/// Before anything else is looked for, so that neither a helper nor a device is needed.
#[test]
fn options_for_root_are_refused_to_others() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let program = home.dir.path().join("cairn");
    std::fs::copy(bin(), &program).unwrap();
    let mut chown = Command::new("chown");
    run(chown.args(["-R", "65534:65534"]).arg(home.dir.path()), 0);
    for option in ["suid", "dev"] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("--data-dir")
            .arg(&home.data)
            .args(["mount", "-o", option])
            .arg(&place)
            .env_remove("CAIRN_CONFIG");
        let (_, told) = texts(&run(&mut command, 4));
        let wanted = format!("only a peer that runs as root may mount with -o {option}");
        assert!(told.contains(&wanted), "{told}");
    }
}

#[test]
fn a_device_that_only_root_may_open_is_named() {
    let Some(home) = Home::new() else { return };
    let before = "chmod 600 /dev/fuse";
    let script = "code=0; $cairn mount $pool || code=$?; echo \"code $code\"";
    let Some(output) = as_nobody(&home, before, script) else {
        return;
    };
    let (stdout, stderr) = texts(&output);
    assert_eq!(stdout, "code 4\n", "{stderr}");
    assert!(
        stderr.contains("/dev/fuse") && stderr.contains("0666"),
        "{stderr}"
    );
}

#[test]
fn a_missing_helper_is_named() {
    let Some(home) = Home::new() else { return };
    // A view of the programs without this one.
    let dir = home.dir.path().display().to_string();
    let before = format!(
        "helper=$(readlink -f \"$(command -v fusermount3)\")\n\
         where=$(dirname \"$helper\")\n\
         mkdir {dir}/view && mount -t tmpfs tmpfs {dir}/view && mkdir {dir}/view/up {dir}/view/work\n\
         mount -t overlay overlay \
         -o lowerdir=\"$where\",upperdir={dir}/view/up,workdir={dir}/view/work \"$where\" || exit 77\n\
         rm \"$helper\""
    );
    let script = "code=0; $cairn mount $pool || code=$?; echo \"code $code\"";
    let Some(output) = as_nobody(&home, &before, script) else {
        return;
    };
    if output.status.code() == Some(77) {
        eprintln!("SKIPPED: no overlay can be mounted here, so no helper can be hidden");
        return;
    }
    let (stdout, stderr) = texts(&output);
    assert_eq!(stdout, "code 1\n", "{stderr}");
    assert!(stderr.contains("fusermount3 was not found"), "{stderr}");
    assert!(stderr.contains("fuse3"), "{stderr}");
}

/// The peer in the background ends by itself.
fn wait_closed(home: &Home) {
    let socket = home.data.join("control.sock");
    let is_served = |path: &Path| std::os::unix::net::UnixStream::connect(path).is_ok();
    crate::support::wait_until("the peer ends", crate::home::END_MAX, || {
        !is_served(&socket)
    });
}
