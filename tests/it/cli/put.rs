//! `put`: what is read, what is told, and what happens when reading fails.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cairnfs::admin::AdminError;
use cairnfs::admin::types::Kind;
use cairnfs::content::{Frame, HeadKind};

use super::fake_peer::FakePeer;
use crate::support::{json, line, make_tree, run, scaled};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(frames: &[Frame]) -> Vec<String> {
    let names = frames.iter().filter_map(|frame| match frame {
        Frame::Entry(head) => Some(text(&head.name)),
        _ => None,
    });
    names.collect()
}

#[test]
fn the_link_is_alone_on_stdout_and_the_rest_on_stderr() {
    let peer = FakePeer::start();
    let file = peer.path("file");
    std::fs::write(&file, "content").unwrap();
    let output = run(peer.cairn().arg("put").arg(&file), 0);
    let link = line(&output);
    assert_eq!(text(&output.stdout), format!("{link}\n"));
    assert!(link.starts_with("cairn:"));
    let told = text(&output.stderr);
    assert!(told.contains("survives the loss of any 1 peer\n"), "{told}");
    assert!(told.contains("with more peers"), "{told}");
    assert!(!told.contains('\x1b'), "no colour without a terminal");
    let quiet = run(peer.cairn().args(["-q", "put"]).arg(&file), 0);
    assert_eq!(text(&quiet.stderr), "");
    let document = json(&run(peer.cairn().args(["put", "--json"]).arg(&file), 0));
    assert_eq!(document["link"], link.as_str());
    assert_eq!(document["survives"], 1);
    let stored = peer.fake.find(&link).unwrap();
    assert_eq!(stored.request.name, "file");
    assert_eq!(stored.request.kind, Kind::File);
    assert_eq!(
        peer.fake.frames(&link),
        [Frame::Data("content".into()), Frame::End]
    );
}

#[test]
fn options_reach_the_peer() {
    let peer = FakePeer::start();
    let file = peer.path("f");
    std::fs::write(&file, "").unwrap();
    let link = line(&run(
        peer.cairn()
            .args(["put", "--redundancy", "3+7", "--survive", "5", "--private"])
            .arg(&file),
        0,
    ));
    let request = peer.fake.find(&link).unwrap().request;
    assert_eq!(request.redundancy.as_deref(), Some("3+7"));
    assert_eq!((request.survive, request.private), (Some(5), true));
    for bad in [
        &["--redundancy", "0+2"][..],
        &["--redundancy", "60+60"],
        &["--survive", "-1"],
        &["--nonsense"],
    ] {
        run(peer.cairn().arg("put").args(bad).arg(&file), 2);
    }
}

#[test]
fn the_standard_input_is_a_file_without_a_name() {
    let peer = FakePeer::start();
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let mut child = peer
        .cairn()
        .args(["-q", "put"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&content).unwrap();
    let link = line(&child.wait_with_output().unwrap());
    let mut read = Vec::new();
    for frame in peer.fake.frames(&link) {
        if let Frame::Data(bytes) = frame {
            read.extend_from_slice(&bytes);
        }
    }
    assert!(read == content);
    assert_eq!(peer.fake.find(&link).unwrap().request.name, "-");
}

#[test]
fn a_tree_is_walked_in_the_order_of_its_names() {
    let peer = FakePeer::start();
    let root = peer.path("tree");
    for dir in ["a", "a.b", "z/y"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["a/2", "a/10", "a.b/x", "B", "z/y/deep"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    std::fs::hard_link(root.join("a/2"), root.join("z/again")).unwrap();
    std::fs::hard_link(root.join("a/2"), root.join("z/once more")).unwrap();
    std::os::unix::fs::symlink("../B", root.join("a/link")).unwrap();
    let link = peer.put(&root);
    let frames = peer.fake.frames(&link);
    assert_eq!(
        names(&frames),
        [
            "",
            "B",
            "a",
            "10",
            "2",
            "link",
            "a.b",
            "x",
            "z",
            "again",
            "once more",
            "y",
            "deep"
        ]
    );
    let first = |name: &str| {
        frames.iter().find_map(|frame| match frame {
            Frame::Entry(head) if head.name == name.as_bytes() => Some(head.kind.clone()),
            _ => None,
        })
    };
    for name in ["again", "once more"] {
        let expected = HeadKind::HardLink {
            first: b"a/2".to_vec(),
        };
        assert_eq!(first(name), Some(expected));
    }
    assert!(matches!(first("link"), Some(HeadKind::Symlink { target, .. }) if target == b"../B"));
    let ends = frames.iter().filter(|frame| **frame == Frame::End).count();
    assert_eq!(ends, 5 + 5, "one for each directory and file");
    // Nothing depends on the root's own name, or on how it is written.
    let moved = peer.path("other name");
    std::fs::rename(&root, &moved).unwrap();
    assert_eq!(peer.put(&moved), link);
    assert_eq!(peer.put(&moved.join("a/..")), link);
    std::os::unix::fs::symlink(&moved, &root).unwrap();
    assert_eq!(
        peer.put(&root),
        link,
        "a link on the command line is followed"
    );
}

#[test]
fn holes_are_sent_as_holes() {
    let peer = FakePeer::start();
    let path = peer.path("sparse");
    let file = std::fs::File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 8 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    drop(file);
    let frames = peer.fake.frames(&peer.put(&path));
    let (mut data, mut holes) = (0, 0);
    for frame in &frames {
        match frame {
            Frame::Data(bytes) => data += bytes.len() as u64,
            Frame::Hole(bytes) => holes += bytes,
            _ => {}
        }
    }
    assert_eq!(data + holes, 1 << 30);
    assert!(data <= 64 << 10, "{data} bytes of a hole were read");
    assert_eq!(frames[0], Frame::Hole(8 << 20));
}

#[test]
fn sockets_pipes_and_devices_are_left_out_with_a_warning() {
    let peer = FakePeer::start();
    let root = peer.path("tree");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    run(
        std::process::Command::new("mkfifo").arg(root.join("pipe")),
        0,
    );
    let output = run(peer.cairn().arg("put").arg(&root), 0);
    let told = text(&output.stderr);
    for (name, kind) in [("socket", "a socket"), ("pipe", "a named pipe")] {
        let expected = format!("{} is {kind}; left out", root.join(name).display());
        assert!(told.contains(&expected), "{told}");
    }
    assert_eq!(names(&peer.fake.frames(&line(&output))), ["", "file"]);
    let error = run(peer.cairn().arg("put").arg(root.join("pipe")), 2);
    assert!(text(&error.stderr).contains("put - <"), "{error:?}");
}

#[test]
fn the_data_directory_is_left_out_of_a_tree_around_it() {
    let peer = FakePeer::start();
    std::fs::write(peer.path("file"), "").unwrap();
    let output = run(peer.cairn().arg("put").arg(peer.home.path()), 0);
    assert!(text(&output.stderr).contains("is the data directory of this peer"));
    assert_eq!(names(&peer.fake.frames(&line(&output))), ["", "file"]);
}

#[test]
fn an_unreadable_file_in_the_middle_is_named_and_nothing_is_kept() {
    let peer = FakePeer::start();
    let root = peer.path("tree");
    make_tree(&root, 100, 7);
    let secret = root.join("file-0-secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    // Root reads everything: become somebody else, to whom the socket is opened.
    let mut command = peer.cairn();
    if rustix::process::geteuid().is_root() {
        return as_nobody(&peer, &root, &secret);
    }
    let output = run(command.arg("put").arg(&root), 1);
    check_unreadable(&text(&output.stderr), &secret);
}

fn check_unreadable(told: &str, secret: &Path) {
    let expected = format!("cannot open {}: Permission denied", secret.display());
    assert!(told.contains(&expected), "{told}");
    assert!(told.contains("nothing was stored"), "{told}");
}

/// The same with a peer of the user nobody, since the socket is for its own user only.
fn as_nobody(peer: &FakePeer, root: &Path, secret: &Path) {
    const NOBODY: u32 = 65534;
    let exe = std::env::current_exe().unwrap();
    let home = peer.path("nobody");
    std::fs::create_dir(&home).unwrap();
    for path in [home.as_path(), root] {
        run(
            std::process::Command::new("chown")
                .args(["-R", "65534:65534"])
                .arg(path),
            0,
        );
    }
    std::fs::set_permissions(peer.home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // This test binary and `cairn` must be within nobody's reach.
    let program = home.join("it");
    let cairn = home.join("cairn");
    std::fs::copy(exe, &program).unwrap();
    std::fs::copy(crate::support::bin(), &cairn).unwrap();
    let output = std::process::Command::new(&program)
        .args([
            "--exact",
            "cli::put::helper_put_as_another_user",
            "--nocapture",
        ])
        .env("CAIRN_HELPER_ROOT", root)
        .env("CAIRN_PLAIN_BIN", &cairn)
        .env("TMPDIR", &home)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir(&home)
        .output()
        .unwrap();
    let told = text(&output.stderr) + &text(&output.stdout);
    assert!(output.status.success(), "{told}");
    check_unreadable(&told, secret);
}

/// Does nothing unless another test runs it in a process of another user.
#[test]
fn helper_put_as_another_user() {
    let Some(root) = std::env::var_os("CAIRN_HELPER_ROOT") else {
        return;
    };
    let peer = FakePeer::start();
    let output = run(peer.cairn().arg("put").arg(root), 1);
    eprintln!("{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    assert!(peer.fake.stored.lock().unwrap().is_empty());
}

#[test]
fn what_is_not_there_is_said_before_anything_is_sent() {
    let peer = FakePeer::start();
    let missing = peer.path("missing");
    let output = run(peer.cairn().arg("put").arg(&missing), 1);
    let expected = format!("cannot open {}: No such file", missing.display());
    assert!(text(&output.stderr).contains(&expected), "{output:?}");
    let output = run(peer.cairn().args(["--json", "put"]).arg(&missing), 1);
    let document = json(&output);
    assert_eq!(document["class"], "failed");
    assert_eq!(document["exit_code"], 1);
}

#[test]
fn a_refusal_is_exit_code_4_with_its_hint() {
    let peer = FakePeer::start();
    let file = peer.path("big");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let refusal = AdminError::refused("peer a has 1 MiB free").hint("add a peer");
    *peer.fake.refusal.lock().unwrap() = Some(refusal);
    let output = run(peer.cairn().arg("put").arg("/dev/zero"), 2);
    assert!(text(&output.stderr).contains("neither a file nor a directory"));
    let mut child = peer.cairn();
    child
        .args(["put", "-"])
        .stdin(std::fs::File::open("/dev/zero").unwrap());
    let output = run(&mut child, 4);
    let told = text(&output.stderr);
    assert!(
        told.contains("error: peer a has 1 MiB free\nhint: add a peer"),
        "{told}"
    );
}

#[test]
fn a_refusal_does_not_wait_for_an_input_that_never_comes() {
    let peer = FakePeer::start();
    *peer.fake.refusal.lock().unwrap() = Some(AdminError::refused("full"));
    let (reader, _writer) = std::io::pipe().unwrap();
    run(peer.cairn().args(["put", "-"]).stdin(reader), 4);
}

#[test]
fn ctrl_c_ends_a_put_and_the_peer_forgets_it() {
    let peer = FakePeer::start();
    let mut child = peer
        .cairn()
        .args(["put", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[1; 3 << 20]).unwrap();
    crate::support::signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(text(&output.stderr).contains("interrupted"));
    assert!(peer.fake.stored.lock().unwrap().is_empty());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noted() {
    let peer = FakePeer::start();
    let file = peer.path("log");
    std::fs::write(&file, vec![1; 16 << 20]).unwrap();
    let writing = std::sync::atomic::AtomicBool::new(true);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = std::fs::OpenOptions::new()
                .append(true)
                .open(&file)
                .unwrap();
            while writing.load(Ordering::SeqCst) {
                log.write_all(b"another line\n").unwrap();
            }
        });
        let output = run(peer.cairn().arg("put").arg(&file), 0);
        writing.store(false, Ordering::SeqCst);
        output
    });
    assert!(text(&output.stderr).contains("changed while it was read"));
}

#[test]
fn small_files_are_walked_fast() {
    let peer = FakePeer::start();
    let root = peer.path("tree");
    let count = scaled(4_000);
    for dir in 0..count / 200 {
        let dir = root.join(format!("d{dir}"));
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..200 {
            std::fs::write(dir.join(format!("f{file}")), [7; 2000]).unwrap();
        }
    }
    let begun = Instant::now();
    let link = peer.put(&root);
    let took = begun.elapsed();
    let entries = names(&peer.fake.frames(&link)).len();
    assert_eq!(entries, 1 + count / 200 * 201);
    eprintln!("{count} files in {took:?}");
    // A bound with much room for a busy machine: a walk that waits anywhere takes longer.
    assert!(
        took < Duration::from_millis(2000 + count as u64),
        "{took:?}"
    );
}
