//! `get`: what is written, never a part of it, and nothing outside its place.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::admin::types::Kind;
use cairnfs::base::Class;
use cairnfs::content::{Frame, Head, HeadKind, Remark};
use cairnfs::dag::{Meta, Timestamp};

use super::fake_peer::FakePeer;
use crate::support::{assert_same_tree, json, make_tree, run, scaled, signal, wait_until};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn meta(mode: u16) -> Meta {
    Meta {
        mode,
        mtime: Timestamp {
            seconds: 1_000_000_000,
            nanos: 123_456_789,
        },
    }
}

fn entry(name: &str, kind: HeadKind) -> Frame {
    Frame::Entry(Head {
        name: name.into(),
        kind,
    })
}

fn dir(name: &str) -> Frame {
    entry(name, HeadKind::Directory { meta: meta(0o755) })
}

fn file(name: &str) -> Frame {
    let kind = HeadKind::File {
        meta: meta(0o644),
        size: 1,
    };
    entry(name, kind)
}

fn symlink(name: &str, target: &str) -> Frame {
    let kind = HeadKind::Symlink {
        mtime: Timestamp::default(),
        target: target.into(),
    };
    entry(name, kind)
}

fn hard_link(name: &str, first: &str) -> Frame {
    let first = first.into();
    entry(name, HeadKind::HardLink { first })
}

fn data(text: &'static str) -> Frame {
    Frame::Data(Bytes::from_static(text.as_bytes()))
}

/// Everything in the directory of a test but its data directory.
fn left_in(peer: &FakePeer) -> Vec<String> {
    let entries = std::fs::read_dir(peer.home.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "data").collect();
    names.sort();
    names
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let peer = FakePeer::start();
    let (source, target) = (peer.path("source"), peer.path("target"));
    make_tree(&source, scaled(400), 5);
    // Modes that shut their owner out, special bits, and odd times.
    let set = |name: &str, mode: u32| {
        std::fs::create_dir_all(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("inside"), name).unwrap();
        std::fs::set_permissions(source.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    set("closed", 0o000);
    set("read-only", 0o555);
    set("sticky", 0o1777);
    let program = source.join("program");
    std::fs::write(&program, "#!").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(&source, PermissionsExt::from_mode(0o750)).unwrap();
    let link = peer.put(&source);
    let output = run(peer.cairn().args(["get", &link, "-o"]).arg(&target), 0);
    assert!(output.stdout.is_empty());
    assert_same_tree(&source, &target);
    let sparse = target.join("sparse").metadata().unwrap();
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "a sparse file stays sparse"
    );
    assert_eq!(left_in(&peer), ["source", "target"]);
    // And the copy is put as the same.
    assert_eq!(peer.put(&target), link);
    let json = json(&run(
        peer.cairn()
            .args(["--json", "get", &link, "-o"])
            .arg(peer.path("t2")),
        0,
    ));
    assert_eq!(json["kind"], "tree");
    assert!(json["entries"].as_u64() > Some(400));
}

#[test]
fn a_file_goes_to_stdout_or_to_its_place() {
    let peer = FakePeer::start();
    let source = peer.path("source");
    let content: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&source, &content).unwrap();
    let link = peer.put(&source);
    let output = run(peer.cairn().args(["get", &link]), 0);
    assert!(output.stdout == content);
    assert!(output.stderr.is_empty());
    let output = run(peer.cairn().args(["get", &link, "-o", "-"]), 0);
    assert!(output.stdout == content);
    let target = peer.path("target");
    run(peer.cairn().args(["get", &link, "-o"]).arg(&target), 0);
    assert!(std::fs::read(&target).unwrap() == content);
    // In the directory where the command runs.
    let mut here = peer.cairn();
    here.current_dir(peer.home.path());
    run(here.args(["get", &link, "-o", "here"]), 0);
    assert!(std::fs::read(peer.path("here")).unwrap() == content);
}

#[test]
fn holes_reach_stdout_as_zeros_and_a_file_as_holes() {
    let peer = FakePeer::start();
    let frames = [
        Frame::Hole(100_000),
        data("x"),
        Frame::Hole(1 << 20),
        Frame::End,
    ];
    peer.fake.offer("cairn:holes", Kind::File, &frames);
    let output = run(peer.cairn().args(["get", "cairn:holes"]), 0);
    assert_eq!(output.stdout.len(), 100_001 + (1 << 20));
    assert_eq!(output.stdout.iter().filter(|byte| **byte != 0).count(), 1);
    let target = peer.path("target");
    run(
        peer.cairn().args(["get", "cairn:holes", "-o"]).arg(&target),
        0,
    );
    assert!(std::fs::read(&target).unwrap() == output.stdout);
    assert!(target.metadata().unwrap().blocks() * 512 < 100_000);
}

#[test]
fn an_existing_target_is_never_touched() {
    let peer = FakePeer::start();
    let source = peer.path("source");
    std::fs::create_dir(&source).unwrap();
    let tree = peer.put(&source);
    std::fs::write(peer.path("file"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", peer.path("dangling")).unwrap();
    std::fs::create_dir(peer.path("dir")).unwrap();
    for name in ["file", "dangling", "dir"] {
        let target = peer.path(name);
        let output = run(peer.cairn().args(["get", &tree, "-o"]).arg(&target), 1);
        let told = text(&output.stderr);
        assert!(
            told.contains(&format!("{} exists already", target.display())),
            "{told}"
        );
        assert!(told.contains("hint: nothing is overwritten"), "{told}");
    }
    assert_eq!(std::fs::read_to_string(peer.path("file")).unwrap(), "mine");
    let output = run(
        peer.cairn()
            .args(["get", &tree, "-o"])
            .arg(peer.path("no/such/dir")),
        1,
    );
    assert!(text(&output.stderr).contains("No such file"), "{output:?}");
}

#[test]
fn nothing_has_the_final_name_before_it_is_whole() {
    let peer = FakePeer::start();
    let half = encoded(&[data("half")]);
    peer.fake
        .offer_raw("cairn:slow", Kind::File, vec![half], true);
    let target = peer.path("target");
    let mut child = peer
        .cairn()
        .args(["get", "cairn:slow", "-o"])
        .arg(&target)
        .spawn()
        .unwrap();
    wait_until("the part is there", Duration::from_secs(10), || {
        !left_in(&peer).is_empty()
    });
    // Nothing under the final name yet.
    assert!(!target.exists());
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(left_in(&peer).is_empty(), "{:?}", left_in(&peer));
}

fn encoded(frames: &[Frame]) -> Bytes {
    let mut encoder = cairnfs::content::FrameEncoder::default();
    for frame in frames {
        encoder.push(frame);
    }
    encoder.flush();
    let mut all = Vec::new();
    while let Some(piece) = encoder.pop() {
        all.extend_from_slice(&piece);
    }
    all.into()
}

#[test]
fn a_directory_needs_a_place() {
    let peer = FakePeer::start();
    peer.fake
        .offer("cairn:tree", Kind::Tree, &[dir(""), Frame::End]);
    for arguments in [
        &["get", "cairn:tree"][..],
        &["get", "cairn:tree", "-o", "-"],
    ] {
        let output = run(peer.cairn().args(arguments), 2);
        assert!(text(&output.stderr).contains("-o DIR"), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn errors_on_the_way_leave_nothing_and_keep_their_exit_code() {
    let peer = FakePeer::start();
    let error = |class, message: &str| {
        Frame::Error(Remark {
            class,
            message: message.to_owned(),
        })
    };
    let offers = [
        (
            "missing",
            error(Class::Missing, "block x: 3 of 4 shards"),
            3,
        ),
        ("corrupt", error(Class::Corrupt, "block x is damaged"), 3),
        ("denied", error(Class::Denied, "not admitted"), 4),
        ("retry", error(Class::Retry, "try again"), 1),
    ];
    for (name, frame, code) in offers {
        let message = match &frame {
            Frame::Error(remark) => remark.message.clone(),
            _ => String::new(),
        };
        let file_frames = [data("some"), frame.clone()];
        let tree_frames = [dir(""), file("a"), data("some"), frame];
        peer.fake
            .offer(&format!("cairn:{name}"), Kind::File, &file_frames);
        peer.fake
            .offer(&format!("cairn:{name}-tree"), Kind::Tree, &tree_frames);
        for link in [format!("cairn:{name}"), format!("cairn:{name}-tree")] {
            let target = peer.path("target");
            let output = run(peer.cairn().args(["get", &link, "-o"]).arg(&target), code);
            assert!(text(&output.stderr).contains(&message), "{output:?}");
            assert!(left_in(&peer).is_empty(), "{:?}", left_in(&peer));
        }
        // What came before the error was verified, so it may be shown.
        let mut to_stdout = peer.cairn();
        to_stdout.args(["--json", "get", &format!("cairn:{name}")]);
        let output = run(&mut to_stdout, code);
        assert_eq!(text(&output.stdout), "some");
    }
    let output = run(
        peer.cairn()
            .args(["--json", "get", "cairn:nowhere", "-o", "x"]),
        3,
    );
    assert_eq!(json(&output)["exit_code"], 3);
}

#[test]
fn a_peer_that_breaks_off_is_no_end_of_the_file() {
    let peer = FakePeer::start();
    for (link, kind, frames) in [
        ("cairn:cut", Kind::File, vec![data("some")]),
        ("cairn:nothing", Kind::File, vec![]),
        (
            "cairn:cut-tree",
            Kind::Tree,
            vec![dir(""), file("a"), Frame::End],
        ),
        (
            "cairn:cut-file",
            Kind::Tree,
            vec![dir(""), file("a"), data("a")],
        ),
    ] {
        peer.fake.offer(link, kind, &frames);
        let target = peer.path("target");
        let output = run(peer.cairn().args(["get", link, "-o"]).arg(&target), 1);
        assert!(text(&output.stderr).contains("broke off"), "{output:?}");
        assert!(left_in(&peer).is_empty(), "{:?}", left_in(&peer));
    }
    run(peer.cairn().args(["get", "cairn:cut"]), 1);
}

#[test]
fn hostile_trees_write_nothing_outside_their_place() {
    let peer = FakePeer::start();
    let outside = peer.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "safe").unwrap();
    let victim = outside.join("victim");
    let victim = victim.to_str().unwrap();
    let over = || vec![data("evil"), Frame::End, Frame::End];
    let trees: Vec<(&str, Vec<Frame>)> = vec![
        ("dots", [vec![dir(""), dir("..")], over()].concat()),
        ("dot", [vec![dir(""), file(".")], over()].concat()),
        (
            "slash",
            [vec![dir(""), file("../outside/victim")], over()].concat(),
        ),
        ("absolute", [vec![dir(""), file(victim)], over()].concat()),
        (
            "through a link",
            [
                vec![dir(""), symlink("a", "../outside"), file("a/victim")],
                over(),
            ]
            .concat(),
        ),
        (
            "file at a link",
            [vec![dir(""), symlink("a", victim), file("a")], over()].concat(),
        ),
        (
            "directory at a link",
            [
                vec![
                    dir(""),
                    symlink("a", "../outside"),
                    dir("a"),
                    file("victim"),
                ],
                over(),
            ]
            .concat(),
        ),
        (
            "hard link through a link",
            vec![
                dir(""),
                symlink("a", "../outside"),
                hard_link("b", "a/victim"),
                Frame::End,
            ],
        ),
        (
            "hard link upwards",
            vec![dir(""), hard_link("b", "../outside/victim"), Frame::End],
        ),
        (
            "hard link to nothing",
            vec![dir(""), hard_link("b", "a"), Frame::End],
        ),
        (
            "twice",
            [vec![dir(""), file("a"), Frame::End, file("a")], over()].concat(),
        ),
        (
            "second root",
            vec![dir(""), dir(""), Frame::End, Frame::End],
        ),
        ("no root", vec![file("a"), Frame::End]),
        ("root is a file", vec![file(""), Frame::End]),
        (
            "root is a link",
            vec![symlink("", "../outside"), Frame::End],
        ),
        ("named root", vec![dir("x"), Frame::End]),
        (
            "content of a directory",
            vec![dir(""), data("x"), Frame::End],
        ),
        ("entry in a file", vec![dir(""), file("a"), file("b")]),
        ("nul", vec![dir(""), file("a\0b")]),
        (
            "hole too far",
            vec![dir(""), file("a"), Frame::Hole(u64::MAX), Frame::Hole(9)],
        ),
    ];
    for (name, frames) in trees {
        peer.fake.offer("cairn:evil", Kind::Tree, &frames);
        let target = peer.path("target");
        let output = peer
            .cairn()
            .args(["get", "cairn:evil", "-o"])
            .arg(&target)
            .output()
            .unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(1 | 4)), "{name}: {output:?}");
        assert!(
            !text(&output.stderr).contains("panicked"),
            "{name}: {output:?}"
        );
        assert_eq!(left_in(&peer), ["outside"], "{name}");
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "safe", "{name}");
        assert_eq!(std::fs::metadata(victim).unwrap().nlink(), 1, "{name}");
    }
    // A symbolic link itself may point anywhere: it is only never followed.
    let frames = [dir(""), symlink("a", "/etc/passwd"), Frame::End];
    peer.fake.offer("cairn:link", Kind::Tree, &frames);
    let target = peer.path("target");
    run(
        peer.cairn().args(["get", "cairn:link", "-o"]).arg(&target),
        0,
    );
    let pointed = std::fs::read_link(target.join("a")).unwrap();
    assert_eq!(pointed, Path::new("/etc/passwd"));
}

#[test]
fn a_tree_of_1200_levels_is_refused_and_removed() {
    let peer = FakePeer::start();
    let mut frames = vec![dir("")];
    frames.extend(std::iter::repeat_with(|| dir("d")).take(1200));
    peer.fake.offer("cairn:deep", Kind::Tree, &frames);
    let output = run(
        peer.cairn()
            .args(["get", "cairn:deep", "-o"])
            .arg(peer.path("t")),
        1,
    );
    assert!(text(&output.stderr).contains("cannot make"), "{output:?}");
    assert!(left_in(&peer).is_empty());
}

#[test]
fn random_bytes_are_refused() {
    let peer = FakePeer::start();
    let entropy = cairnfs::base::Entropy::seeded(3);
    for _ in 0..scaled(8) {
        let mut bytes = vec![0; entropy.below(5000) as usize];
        entropy.fill(&mut bytes);
        for kind in [Kind::File, Kind::Tree] {
            peer.fake
                .offer_raw("cairn:random", kind, vec![bytes.clone().into()], false);
            let target = peer.path("target");
            run(
                peer.cairn()
                    .args(["get", "cairn:random", "-o"])
                    .arg(&target),
                1,
            );
            assert!(left_in(&peer).is_empty());
        }
    }
}

#[test]
fn a_full_disk_is_said_and_cleaned_up() {
    let peer = FakePeer::start();
    let source = peer.path("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..40 {
        std::fs::write(source.join(format!("f{number}")), [1; 100_000]).unwrap();
    }
    let file = peer.path("file");
    std::fs::write(&file, vec![1; 3 << 20]).unwrap();
    let links = [peer.put(&source), peer.put(&file)];
    let small = peer.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&small)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no small filesystem can be mounted here, so a full disk is not tried");
        return;
    }
    struct Unmount<'p>(&'p Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let _unmount = Unmount(&small);
    for link in &links {
        let target = small.join("target");
        let output = run(peer.cairn().args(["get", link, "-o"]).arg(&target), 4);
        let told = text(&output.stderr);
        assert!(told.contains("No space left"), "{told}");
        assert!(told.contains(target.to_str().unwrap()), "{told}");
        assert!(told.contains("hint: make room"), "{told}");
        assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0);
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let peer = FakePeer::start();
    let file = peer.path("file");
    std::fs::write(&file, vec![b'x'; 8 << 20]).unwrap();
    let link = peer.put(&file);
    let mut child = peer
        .cairn()
        .args(["get", &link])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_first_bytes_come_before_the_rest_is_there() {
    let peer = FakePeer::start();
    let half = encoded(&[data("first")]);
    peer.fake
        .offer_raw("cairn:slow", Kind::File, vec![half], true);
    let mut child = peer
        .cairn()
        .args(["get", "cairn:slow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"first");
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn ranges_are_checked_and_passed_on() {
    let peer = FakePeer::start();
    for bad in ["5", "9-8", "-5", "a-b", ""] {
        run(peer.cairn().args(["get", "cairn:x", "--range", bad]), 2);
    }
    peer.fake
        .offer("cairn:x", Kind::File, &[data("x"), Frame::End]);
    run(peer.cairn().args(["get", "cairn:x", "--range", "3-9"]), 0);
}
