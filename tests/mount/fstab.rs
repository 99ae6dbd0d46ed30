//! From /etc/fstab: the program as a helper of `mount`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::commands::use_it;
use crate::home::{Home, in_own_mounts, listed, wait_gone};
use crate::support::{bin, json, run};

#[test]
fn by_the_name_of_a_helper_of_mount_it_mounts() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    run(home.cairn().args(["-q", "volume", "create", "photos"]), 0);
    let options = format!(
        "rw,nofail,x-a=b,allow_other,data-dir={}",
        home.data.display()
    );
    let mut helper = Command::new(bin());
    helper
        .arg0("mount.cairn")
        .arg("photos")
        .arg(&place)
        .args(["-n", "-o", &options])
        .env_remove("CAIRN_CONFIG");
    run(&mut helper, 0);
    let (source, kind, options) = listed(&place).unwrap();
    assert_eq!((source.as_str(), kind.as_str()), ("photos", "fuse.cairn"));
    assert!(options.contains("allow_other"), "{options}");
    use_it(&place);
    let status = json(&run(home.cairn().args(["--json", "status"]), 0));
    run(Command::new("umount").arg(&place), 0);
    wait_gone(status["pid"].as_u64().unwrap() as u32);
}

#[test]
fn a_line_in_fstab_is_mounted_at_boot() {
    let Some(home) = Home::new() else { return };
    let dir = home.dir.path().display().to_string();
    home.place("pool");
    let line = format!(
        "default {dir}/pool cairn nofail,_netdev,user,exec,x-systemd.automount,data-dir={dir}/data 0 0"
    );
    std::fs::write(home.dir.path().join("fstab"), line).unwrap();
    // Where `mount` looks for its helpers, with one more that nobody else sees.
    let script = format!(
        "helpers=$(readlink -f /sbin)\n\
         mkdir {dir}/view && mount -t tmpfs tmpfs {dir}/view && mkdir {dir}/view/up {dir}/view/work\n\
         mount -t overlay overlay \
         -o lowerdir=\"$helpers\",upperdir={dir}/view/up,workdir={dir}/view/work \"$helpers\" || exit 77\n\
         ln -s '{cairn}' \"$helpers/mount.cairn\"\n\
         mount -T {dir}/fstab -a\n\
         grep -c ' {dir}/pool fuse.cairn ' /proc/self/mounts\n\
         mount -T {dir}/fstab -a\n\
         grep -c ' {dir}/pool fuse.cairn ' /proc/self/mounts\n\
         echo hello > {dir}/pool/file; cat {dir}/pool/file\n\
         umount {dir}/pool\n\
         code=0; mount -t cairn other {dir}/pool -o data-dir={dir}/data || code=$?; echo \"code $code\"\n\
         mount -t cairn default {dir}/pool -o ro,data-dir={dir}/data\n\
         code=0; touch {dir}/pool/file 2> {dir}/touch || code=$?; echo \"code $code\"\n\
         umount {dir}/pool",
        cairn = bin().display()
    );
    let Some(output) = in_own_mounts(&script) else {
        return;
    };
    if output.status.code() == Some(77) {
        eprintln!("SKIPPED: no overlay can be mounted here, so `mount` finds no helper");
        return;
    }
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout, "1\n1\nhello\ncode 3\ncode 1\n", "{stderr}");
    let touched = std::fs::read_to_string(home.dir.path().join("touch")).unwrap();
    assert!(touched.contains("Read-only file system"), "{touched}");
    // Nothing but what went wrong is said.
    assert!(stderr.starts_with("error: there is no volume"), "{stderr}");
}
