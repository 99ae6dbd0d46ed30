//! Where a peer's data and settings are, and what is told, by flags and by the environment.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{bin, cairn, json, run};

/// A command that has nothing but what the test says.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    command
}

/// Where the config file is, by `config check`, which makes nothing.
fn config_file(command: &mut Command) -> String {
    let output = run(command.args(["--json", "config", "check"]), 0);
    json(&output)["file"].as_str().unwrap().to_owned()
}

#[test]
fn flags_win_over_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::write(at("named.toml"), "").unwrap();
    std::fs::write(at("flag.toml"), "").unwrap();
    let with_data = || {
        let mut command = bare(&bin());
        command.env("CAIRN_DATA_DIR", at("data"));
        command
    };
    assert_eq!(config_file(&mut with_data()), at("data/config.toml"));
    let mut command = with_data();
    command.args(["--data-dir", &at("other")]);
    assert_eq!(config_file(&mut command), at("other/config.toml"));
    let with_config = || {
        let mut command = with_data();
        command.env("CAIRN_CONFIG", at("named.toml"));
        command
    };
    assert_eq!(config_file(&mut with_config()), at("named.toml"));
    let mut command = with_config();
    command.args(["--config", &at("flag.toml")]);
    assert_eq!(config_file(&mut command), at("flag.toml"));
    // Empty is as if it were not set.
    let mut command = with_data();
    command.env("CAIRN_CONFIG", "");
    assert_eq!(config_file(&mut command), at("data/config.toml"));
    // One that is named must be there.
    let mut command = with_data();
    command.args(["--config", &at("missing.toml"), "config", "check"]);
    run(&mut command, 1);
    for name in ["data", "other"] {
        assert!(!home.path().join(name).exists(), "{name} was made");
    }
}

#[test]
fn root_has_its_data_where_the_system_has_its_own() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this is not root");
        return;
    }
    let mut command = bare(&bin());
    command
        .env("HOME", "/root")
        .env("XDG_DATA_HOME", "/nowhere");
    let output = command
        .args(["--json", "config", "check"])
        .output()
        .unwrap();
    // Whatever is in a file that may be there.
    assert_eq!(json(&output)["file"], "/var/lib/cairn/config.toml");
}

#[test]
fn others_have_their_data_where_they_keep_data() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("cairn");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        // Within reach of nobody.
        std::fs::copy(bin(), &program).unwrap();
        run(Command::new("chmod").arg("755").arg(home.path()), 0);
    }
    let command = || match is_root {
        true => {
            let mut command = bare("setpriv".as_ref());
            command
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(&program);
            command
        }
        false => bare(&bin()),
    };
    let place = home.path().join("nobody").display().to_string();
    let mut own = command();
    assert_eq!(
        config_file(own.env("HOME", &place)),
        format!("{place}/.local/share/cairn/config.toml")
    );
    let mut own = command();
    own.env("HOME", "/elsewhere").env("XDG_DATA_HOME", &place);
    assert_eq!(config_file(&mut own), format!("{place}/cairn/config.toml"));
    let mut nowhere = command();
    run(nowhere.args(["config", "check"]), 2);
    assert!(!Path::new(&place).exists());
}

#[test]
fn messages_are_as_many_as_the_environment_says() {
    let home = tempfile::tempdir().unwrap();
    let told = |filter: Option<&str>, flags: &[&str]| -> usize {
        let mut command = cairn(&home.path().join("data"));
        command.args(flags).args(["status"]).env_remove("CAIRN_LOG");
        if let Some(filter) = filter {
            command.env("CAIRN_LOG", filter);
        }
        let output = run(&mut command, 0);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let levels = [" INFO ", " DEBUG ", " TRACE "];
        levels.iter().map(|level| text.matches(level).count()).sum()
    };
    assert_eq!(told(None, &[]), 0);
    assert!(told(Some("cairnfs=trace"), &[]) > 0);
    assert!(told(None, &["-vvv"]) > 0);
    // It wins over flags.
    assert_eq!(told(Some("off"), &["-vvv"]), 0);
}
