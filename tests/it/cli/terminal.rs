//! Commands on a terminal: bars that fit it, prompts that show nothing, and its state afterwards.
//!
//! The terminal is that of `script` (util-linux); without it these tests say so and pass.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::admin::types::{Kind, VolumeInfo};
use cairnfs::content::{Frame, FrameEncoder};

use super::fake_peer::FakePeer;
use crate::support::{bin, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const CTRL_C: &str = "\x03";

/// A command on a terminal of its own; killed with this value.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs `cairn ARGUMENTS` on a terminal of so many columns. `None`, loudly, without `script`.
    fn start(peer: &FakePeer, columns: u16, arguments: &str) -> Option<Terminal> {
        if Command::new("script").arg("--version").output().is_err() {
            eprintln!("SKIPPED: there is no `script` to make a terminal");
            return None;
        }
        // The shell lives on after Ctrl-C, to tell how the command ended and what became of the
        // terminal.
        let command = format!(
            "trap : INT; stty cols {columns} rows 30; {} --data-dir {} {arguments}; \
             echo \"code $?\"; stty -a; echo over",
            bin().display(),
            peer.data_dir.display()
        );
        let mut script = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .env_remove("NO_COLOR")
            .env_remove("CAIRN_CONFIG")
            .current_dir(peer.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let mut screen = script.stdout.take().unwrap();
        let kept = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut piece) {
                kept.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        let keys = script.stdin.take().unwrap();
        Some(Terminal {
            script,
            keys,
            shown,
        })
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.shown().contains(text) {
            assert!(begun.elapsed() < LIMIT, "no `{text}` in {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// The exit code of the command, and all that was shown until then. The terminal must be as
    /// it was.
    fn end(mut self) -> (String, String) {
        self.wait_for("over\r\n");
        let shown = self.shown();
        let (before, after) = shown.split_once("code ").unwrap();
        let (code, state) = after.split_once("\r\n").unwrap();
        for mode in ["echo", "icanon", "isig", "icrnl"] {
            let is_on = state.split([' ', ';', '\r', '\n']).any(|word| word == mode);
            assert!(is_on, "{mode} is off: {state}");
        }
        wait_until("script ends", LIMIT, || {
            self.script.try_wait().unwrap().is_some()
        });
        (code.to_owned(), before.to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// Makes a link whose content begins and never ends.
fn offer_endless(peer: &FakePeer) {
    let mut encoder = FrameEncoder::default();
    encoder.push(&Frame::Data(Bytes::from(vec![b'x'; 100_000])));
    encoder.flush();
    let body = std::iter::from_fn(|| encoder.pop()).collect();
    peer.fake.offer_raw("cairn:endless", Kind::File, body, true);
}

/// A bar is drawn in place: on one line, and never before it has something to say.
fn check_bar(shown: &str, columns: u16) {
    assert!(!shown.contains(" 0/0"), "{columns}: {shown:?}");
    for up in ["\x1b[1A", "\x1b[2A"] {
        assert!(
            !shown.contains(up),
            "a line of {columns} was wrapped: {shown:?}"
        );
    }
}

#[test]
fn a_bar_fits_its_terminal_and_ctrl_c_leaves_nothing_of_it() {
    let peer = FakePeer::start();
    offer_endless(&peer);
    for columns in [24, 40, 80, 200] {
        let get = "get cairn:endless -o target";
        let Some(mut terminal) = Terminal::start(&peer, columns, get) else {
            return;
        };
        terminal.wait_for("getting");
        // It moves.
        std::thread::sleep(Duration::from_millis(500));
        terminal.press(CTRL_C);
        let (code, shown) = terminal.end();
        assert_eq!(code, "130", "{shown:?}");
        assert!(shown.contains("interrupted"), "{shown:?}");
        check_bar(&shown, columns);
        if columns >= 40 {
            // How fast it goes, and for how much longer.
            assert!(shown.contains("B/s"), "{shown:?}");
            assert!(shown.contains(" left"), "{shown:?}");
        }
        let left = std::fs::read_dir(peer.home.path()).unwrap().count();
        assert_eq!(left, 1, "nothing but the data directory");
    }
}

#[test]
fn a_sync_shows_how_far_it_is() {
    let peer = FakePeer::start();
    for columns in [24, 80] {
        let Some(terminal) = Terminal::start(&peer, columns, "sync /mnt/slow") else {
            return;
        };
        let (code, shown) = terminal.end();
        assert_eq!(code, "0", "{shown:?}");
        check_bar(&shown, columns);
        // 3 of 5 MiB after the first step.
        let half = if columns == 80 {
            "3.00 MiB/5.00 MiB"
        } else {
            "syncing  60%"
        };
        assert!(shown.contains(half), "{shown:?}");
        // Nothing of the bar is left on the line that stays.
        let last = shown.trim_end().rsplit(['\r', '\n']).next().unwrap();
        assert!(
            last.ends_with("5 MiB brought into the pool, at full redundancy"),
            "{shown:?}"
        );
    }
}

#[test]
fn a_put_of_what_is_typed_ends_by_ctrl_c_or_ctrl_d() {
    let peer = FakePeer::start();
    let Some(mut terminal) = Terminal::start(&peer, 40, "put") else {
        return;
    };
    terminal.wait_for("putting");
    terminal.press(CTRL_C);
    let (code, shown) = terminal.end();
    assert_eq!(code, "130", "{shown:?}");
    check_bar(&shown, 40);
    assert!(peer.fake.stored.lock().unwrap().is_empty());

    let Some(mut terminal) = Terminal::start(&peer, 40, "put") else {
        return;
    };
    terminal.wait_for("putting");
    terminal.press("typed\n\x04");
    let (code, shown) = terminal.end();
    assert_eq!(code, "0", "{shown:?}");
    assert!(shown.contains("cairn:"), "{shown:?}");
    let stored = peer.fake.stored.lock().unwrap();
    assert_eq!(stored.len(), 1);
}

#[test]
fn a_passphrase_is_asked_for_twice_and_never_shown() {
    let peer = FakePeer::start();
    let Some(mut terminal) = Terminal::start(&peer, 80, "key export backup") else {
        return;
    };
    terminal.wait_for("Passphrase: ");
    terminal.press("correct horse\n");
    terminal.wait_for("Again: ");
    terminal.press("correct horse\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, "0", "{shown:?}");
    assert!(!shown.contains("horse"), "{shown:?}");
    let sealed = std::fs::read_to_string(peer.path("backup")).unwrap();
    assert_eq!(sealed, "sealed with correct horse\n");

    let Some(mut terminal) = Terminal::start(&peer, 80, "key export other") else {
        return;
    };
    terminal.wait_for("Passphrase: ");
    terminal.press("correct horse\n");
    terminal.wait_for("Again: ");
    terminal.press("correct house\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, "2", "{shown:?}");
    assert!(shown.contains("the two passphrases differ"), "{shown:?}");
    assert!(!peer.path("other").exists());
}

#[test]
fn ctrl_c_at_a_question_ends_it_and_gives_the_terminal_back() {
    let peer = FakePeer::start();
    // A backup is imported where no peer runs.
    let other = FakePeer::start();
    std::fs::write(other.path("sealed"), "sealed").unwrap();
    std::fs::remove_file(other.data_dir.join(cairnfs::admin::SOCKET_NAME)).unwrap();
    for (peer, command) in [(&peer, "key export backup"), (&other, "key import sealed")] {
        let Some(mut terminal) = Terminal::start(peer, 80, command) else {
            return;
        };
        terminal.wait_for("Passphrase: ");
        terminal.press("corr");
        terminal.press(CTRL_C);
        let (code, shown) = terminal.end();
        assert_eq!(code, "130", "{shown:?}");
        assert!(!shown.contains("corr"), "{shown:?}");
    }
    assert!(!peer.path("backup").exists());
    // Neither does the end of the input count as a passphrase.
    let Some(mut terminal) = Terminal::start(&peer, 80, "key export backup") else {
        return;
    };
    terminal.wait_for("Passphrase: ");
    terminal.press("\x04");
    let (code, shown) = terminal.end();
    assert_eq!(code, "2", "{shown:?}");
    // Nor does a ticket that is never typed hold anything up.
    let Some(mut terminal) = Terminal::start(&peer, 80, "join -") else {
        return;
    };
    std::thread::sleep(Duration::from_millis(500));
    terminal.press(CTRL_C);
    let (code, shown) = terminal.end();
    assert_eq!(code, "130", "{shown:?}");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let peer = FakePeer::start();
    for (prefix, is_coloured) in [("", true), ("NO_COLOR=1 ", false)] {
        // The variable is set by the shell, before the command.
        let command = format!("list; {prefix}{} get cairn:none", bin().display());
        let arguments = format!("{command} --data-dir {}", peer.data_dir.display());
        let Some(terminal) = Terminal::start(&peer, 60, &arguments) else {
            return;
        };
        let (code, shown) = terminal.end();
        assert_eq!(code, "3", "{shown:?}");
        assert_eq!(shown.contains("\x1b[31merror:"), is_coloured, "{shown:?}");
        assert!(shown.contains("error:"), "{shown:?}");
    }
}

#[test]
fn a_volume_is_removed_only_if_that_is_meant() {
    let peer = FakePeer::start();
    let make = || {
        let volume = VolumeInfo {
            name: "photos".to_owned(),
            ..VolumeInfo::default()
        };
        *peer.fake.volumes.lock().unwrap() = vec![volume];
    };
    make();
    for (keys, code, is_left) in [("\n", "1", true), ("n\n", "1", true), ("yes\n", "0", false)] {
        let Some(mut terminal) = Terminal::start(&peer, 80, "volume remove photos") else {
            return;
        };
        terminal.wait_for("[y/N] ");
        terminal.press(keys);
        let (ended, shown) = terminal.end();
        assert_eq!(ended, code, "{shown:?}");
        assert_eq!(!peer.fake.volumes.lock().unwrap().is_empty(), is_left);
    }
    make();
    let Some(mut terminal) = Terminal::start(&peer, 80, "volume remove photos") else {
        return;
    };
    terminal.wait_for("[y/N] ");
    terminal.press(CTRL_C);
    let (code, shown) = terminal.end();
    assert_eq!(code, "130", "{shown:?}");
    assert_eq!(peer.fake.volumes.lock().unwrap().len(), 1);
    // Nobody is asked about what is not there.
    let Some(terminal) = Terminal::start(&peer, 80, "volume remove other") else {
        return;
    };
    let (code, shown) = terminal.end();
    assert_eq!(code, "3", "{shown:?}");
    assert!(!shown.contains("[y/N]"), "{shown:?}");
}
