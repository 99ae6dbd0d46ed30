//! What people get wrong and what strangers send, against the real program: a clear error, and
//! nothing lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cairnfs::base::Entropy;
use serde_json::Value;

use crate::support::{
    Devnet, FAULTY_BIN, alive, bin, cairn, edit_config, json, line, make_tree, random_file, run,
    scaled,
};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A data directory on which no process runs, with something put.
struct Home {
    dir: tempfile::TempDir,
    link: String,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let mut home = Home {
            dir,
            link: String::new(),
        };
        edit_config(&home.data_dir(), |config| {
            config.storage.reserve_free = cairnfs::base::ByteSize(0);
            config.network.mdns = false;
        });
        random_file(&home.path("file"), 3 << 20, 1);
        home.link = line(&run(
            home.cairn().args(["-q", "put"]).arg(home.path("file")),
            0,
        ));
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    fn cairn(&self) -> Command {
        cairn(&self.data_dir())
    }

    /// What was put is there, and nothing else.
    fn check_kept(&self) {
        let back = run(self.cairn().args(["-q", "get", &self.link]), 0);
        assert!(back.stdout == std::fs::read(self.path("file")).unwrap());
        let list = json(&run(self.cairn().args(["--json", "list"]), 0));
        assert_eq!(list["puts"].as_array().unwrap().len(), 1, "{list}");
    }
}

#[test]
fn a_malformed_link_is_explained() {
    let home = Home::new();
    let link = home.link.as_str();
    let (head, tail) = link.split_at(40);
    let letter = if tail.starts_with('2') { "3" } else { "2" };
    let wrong = [
        (String::new(), "is not a link"),
        ("https://example.org".to_owned(), "is not a link"),
        (link.to_uppercase(), "is not a link"),
        ("cairn:".to_owned(), "incomplete"),
        (head.to_owned(), "incomplete"),
        (format!("{link}{link}"), ""),
        (format!("{head}{letter}{}", &tail[1..]), "checksum"),
        (format!("{head}0{}", &tail[1..]), "`0` occurs in no link"),
        (format!("{head}é{}", &tail[1..]), "`é` occurs in no link"),
        (format!("cairn:{}", "z".repeat(100_000)), "incomplete"),
        (format!("cairn-ticket:{}", &link[6..]), "is not a link"),
    ];
    for (text, why) in &wrong {
        for command in ["get", "ls", "stat"] {
            let output = run(home.cairn().args([command, text]), 2);
            let told = told(&output);
            assert!(told.contains(why), "{command} {text}: {told}");
            assert!(!told.contains("panicked"), "{told}");
            assert!(told.len() < 1000, "the message is longer than people read");
            assert!(output.stdout.is_empty());
        }
    }
    // What surrounds a link on paper does no harm.
    run(home.cairn().args(["stat", &format!(" {link}\n")]), 0);
    home.check_kept();
}

#[test]
fn a_malformed_ticket_is_explained_and_joins_nothing() {
    let home = Home::new();
    let other = Home::new();
    edit_config(&other.data_dir(), |config| {
        config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.network.bulk_listen = Vec::new();
    });
    let ticket = line(&run(other.cairn().args(["-q", "invite"]), 0));
    let expired = ["-q", "invite", "--expires", "1ms"];
    let expired = line(&run(other.cairn().args(expired), 0));
    let (head, tail) = ticket.split_at(100);
    let letter = if tail.starts_with('2') { "3" } else { "2" };
    let before = std::fs::read(home.data_dir().join("identity")).unwrap();
    let wrong = [
        (String::new(), 2, "not a ticket"),
        ("ticket".to_owned(), 2, "not a ticket"),
        (home.link.clone(), 2, "this is a link, not a ticket"),
        (head.to_owned(), 2, "cut short"),
        (format!("{ticket}x"), 2, "1 characters too many"),
        (format!("{head}{letter}{}", &tail[1..]), 2, "typo"),
        (format!("{head}0{}", &tail[1..]), 2, "`0` at character 101"),
        (expired, 4, "expired"),
        ("cairn-ticket:".to_owned(), 2, "cut short"),
    ];
    for (text, code, why) in &wrong {
        let output = run(home.cairn().args(["join", text]), *code);
        assert!(told(&output).contains(why), "{text}: {}", told(&output));
    }
    let after = std::fs::read(home.data_dir().join("identity")).unwrap();
    assert!(before == after, "it is who it was");
    let status = json(&run(home.cairn().args(["--json", "status"]), 0));
    assert_eq!(status["network"], Value::Null, "and in no network");
    home.check_kept();
}

#[test]
fn a_config_with_many_mistakes_tells_them_all_and_starts_nothing() {
    let home = Home::new();
    let file = home.data_dir().join("config.toml");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(
        &file,
        "[storage]\nquota = \"1 MiB\"\noffer = 1\n\n[network]\nlisten = [\"4747\"]\n\
         max_memory = \"1 MiB\"\n[limits]\nupload_memory = \"x\"\n[colour]\nred = 1\n",
    )
    .unwrap();
    let put = ["put", "file"];
    for arguments in [&["node"][..], &["list"], &put, &["config", "check"]] {
        let output = run(home.cairn().args(arguments).current_dir(home.dir.path()), 2);
        let told = told(&output);
        let lines: Vec<&str> = told.lines().collect();
        for (line, key) in [
            (2, "storage.quota"),
            (3, "storage.offer"),
            (6, "network.listen"),
            (7, "network.max_memory"),
            (9, "limits.upload_memory"),
            (10, "colour"),
        ] {
            let place = format!("{}:{line}: {key}: ", file.display());
            let found = lines.iter().filter(|text| text.contains(&place)).count();
            assert_eq!(found, 1, "{place} in {told}");
        }
        assert!(output.stdout.is_empty());
    }
    std::fs::write(&file, good).unwrap();
    home.check_kept();
}

#[test]
fn a_target_that_exists_is_left_alone() {
    let home = Home::new();
    let target = home.path("target");
    std::fs::write(&target, "mine").unwrap();
    let mut get = home.cairn();
    let output = run(get.args(["get", &home.link, "-o"]).arg(&target), 1);
    assert!(
        told(&output).contains("exists already"),
        "{}",
        told(&output)
    );
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
    home.check_kept();
}

/// As root, since root reads everything: a peer of nobody's own.
#[test]
fn an_unreadable_file_in_the_middle_of_a_tree_keeps_all_of_it_out() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: becoming another user takes root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree, scaled(100), 7);
    let secret = tree.join("file-5-secret");
    std::fs::write(&secret, "secret").unwrap();
    let program = dir.path().join("cairn");
    std::fs::copy(bin(), &program).unwrap();
    run(
        Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(dir.path()),
        0,
    );
    run(Command::new("chown").arg("0:0").arg(&secret), 0);
    run(Command::new("chmod").arg("600").arg(&secret), 0);
    let data_dir = dir.path().join("data");
    let as_nobody = |arguments: &[&str], code| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("--data-dir")
            .arg(&data_dir)
            .args(arguments)
            .current_dir(dir.path())
            .env_remove("CAIRN_CONFIG")
            .stdin(Stdio::null());
        run(&mut command, code)
    };
    let output = as_nobody(&["put", "tree"], 1);
    let expected = "cannot open tree/file-5-secret: Permission denied";
    assert!(told(&output).contains(expected), "{}", told(&output));
    assert!(output.stdout.is_empty());
    let list = json(&as_nobody(&["--json", "list"], 0));
    assert_eq!(list["puts"], serde_json::json!([]));
    // Without it the rest goes in.
    std::fs::remove_file(&secret).unwrap();
    as_nobody(&["-q", "put", "tree"], 0);
}

#[test]
fn a_full_disk_under_get_is_said_and_nothing_is_left_there() {
    let home = Home::new();
    let small = home.path("small");
    std::fs::create_dir(&small).unwrap();
    let place = small.display();
    // A filesystem of 1 MiB that nobody else sees.
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs '{place}' || exit 99\n\
         '{}' --data-dir '{}' get {} -o '{place}/target'\n\
         code=$?; ls -A '{place}'; exit $code",
        bin().display(),
        home.data_dir().display(),
        home.link
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("CAIRN_CONFIG");
    let output = match command.output() {
        Ok(output) if output.status.code() != Some(99) && !told(&output).contains("unshare:") => {
            output
        }
        _ => {
            eprintln!("SKIPPED: no small filesystem can be mounted here");
            return;
        }
    };
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    assert!(told(&output).contains("No space left"), "{}", told(&output));
    assert!(
        told(&output).contains("hint: make room"),
        "{}",
        told(&output)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "nothing is left"
    );
    home.check_kept();
}

#[test]
fn commands_at_the_same_time_share_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("new");
    let mut children = Vec::new();
    for number in 0..4 {
        let file = dir.path().join(format!("file-{number}"));
        random_file(&file, 1 << 20, number);
        let mut put = cairn(&data_dir);
        put.args(["-q", "put"]).arg(&file).stdout(Stdio::piped());
        children.push((file, put.spawn().unwrap()));
    }
    for (file, child) in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let back = run(cairn(&data_dir).args(["-q", "get", &line(&output)]), 0);
        assert!(back.stdout == std::fs::read(&file).unwrap());
    }
    let list = json(&run(cairn(&data_dir).args(["--json", "list"]), 0));
    assert_eq!(list["puts"].as_array().unwrap().len(), 4);
}

#[test]
fn a_second_peer_on_a_data_directory_is_refused() {
    let net = Devnet::start(&["--peers", "1"]);
    let output = run(net.cairn(0).arg("node"), 1);
    let told = told(&output);
    let pid = format!("in use by process {}", net.peers[0].pid);
    assert!(told.contains(&pid), "{told}");
    assert!(told.contains("hint: only one process"), "{told}");
    assert!(alive(net.peers[0].pid));
}

#[test]
fn a_data_directory_of_a_later_program_is_left_alone() {
    let home = Home::new();
    let version = home.data_dir().join("VERSION");
    let before = std::fs::read(&version).unwrap();
    std::fs::write(&version, "cairn-data 2\nstore of a later kind\n").unwrap();
    let names = || -> Vec<_> {
        let entries = std::fs::read_dir(home.data_dir().join("store")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let files = names();
    for arguments in [&["status"][..], &["node"], &["get", &home.link]] {
        let output = run(home.cairn().args(arguments), 4);
        let told = told(&output);
        assert!(
            told.contains("format 2") && told.contains("update it"),
            "{told}"
        );
    }
    assert_eq!(names(), files);
    let after = std::fs::read_to_string(&version).unwrap();
    assert_eq!(after, "cairn-data 2\nstore of a later kind\n");
    std::fs::write(&version, before).unwrap();
    home.check_kept();
}

/// What strangers may send to a port: noise, greetings of other programs, sizes without end.
fn nonsense(entropy: &Entropy) -> Vec<Vec<u8>> {
    let mut noise = vec![0; 200_000];
    entropy.fill(&mut noise);
    // The head of one of our frames, of 4 GiB, and of a version that is not there yet.
    let oversized = [&[0xff; 8][..], &[0; 8], &[8, 0, 1], &[0; 64]].concat();
    let select = b"\x13/multistream/1.0.0\n".to_vec();
    vec![
        Vec::new(),
        vec![0],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        // A TLS hello that is cut short, one of a later version, and a record of 64 KiB.
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        [&[0x16, 9, 9, 0, 5][..], &[1; 5]].concat(),
        [&[0x17, 3, 3, 0xff, 0xff][..], &[7; 65_535]].concat(),
        oversized,
        select.clone(),
        [select.as_slice(), b"\x0b/noise/99\n\xff\xff\xff\xff\x7f"].concat(),
        [select.as_slice(), &[0x80; 20]].concat(),
        [select.as_slice(), b"\x07/noise\n\xff\xff", &noise[..65_535]].concat(),
        noise[..1000].to_vec(),
        noise,
    ]
}

/// Sends `bytes` and reads what comes back, for a while. Being cut off is fine.
fn babble(mut stream: impl Read + Write, bytes: &[u8]) -> usize {
    if stream
        .write_all(bytes)
        .and_then(|()| stream.flush())
        .is_err()
    {
        return 0;
    }
    let mut answer = [0; 4096];
    let mut total = 0;
    for _ in 0..16 {
        match stream.read(&mut answer) {
            Ok(count @ 1..) => total += count,
            _ => break,
        }
    }
    total
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = rss.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap() << 10
}

/// The addresses that a peer listens on, TCP only.
fn tcp_ports(net: &Devnet, at: usize) -> Vec<SocketAddr> {
    let status = json(&run(net.cairn(at).args(["--json", "status"]), 0));
    let addresses = status["addresses"].as_array().unwrap();
    let ports = addresses.iter().filter_map(|address| {
        let text = address.as_str()?;
        let control = text.strip_prefix("/ip4/127.0.0.1/tcp/");
        control
            .and_then(|port| Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))))
            .or_else(|| text.parse().ok())
    });
    ports.collect()
}

#[test]
fn a_peer_stays_healthy_whatever_is_sent_to_its_ports() {
    let net = Devnet::start(&["--peers", "3", "--redundancy", "2+1"]);
    let file = net.dir.path().join("file");
    random_file(&file, 2 << 20, 1);
    let link = net.put(0, &file);
    let ports = tcp_ports(&net, 1);
    assert_eq!(ports.len(), 2, "the control plane and the bulk plane");
    let pid = net.peers[1].pid;
    let before = resident_bytes(pid);
    let entropy = Entropy::seeded(5);
    let patience = Some(Duration::from_millis(100));
    for _ in 0..scaled(3) {
        for bytes in nonsense(&entropy) {
            for port in &ports {
                let stream = TcpStream::connect(port).unwrap();
                stream.set_read_timeout(patience).unwrap();
                stream
                    .set_write_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                assert!(babble(stream, &bytes) < 4096, "a stranger learns little");
            }
            let socket = net.peers[1].data_dir.join("control.sock");
            let stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(patience).unwrap();
            stream
                .set_write_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            babble(stream, &bytes);
        }
    }
    assert!(alive(pid));
    let grown = resident_bytes(pid).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} more bytes of memory");
    net.wait_connected(1);
    net.get(1, &link, &net.dir.path().join("back"));
    random_file(&file, 2 << 20, 2);
    let link = net.put(1, &file);
    net.get(2, &link, &net.dir.path().join("back too"));
}

/// A JSON request that means nothing is refused, over the socket, by the real peer.
#[test]
fn the_control_api_refuses_what_it_does_not_know() {
    let net = Devnet::start(&["--peers", "1"]);
    let socket = net.peers[0].data_dir.join("control.sock");
    let ask = |request: &str| -> String {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.take(4096).read_to_string(&mut answer);
        answer
    };
    let post = |path: &str, body: &str| {
        let len = body.len();
        ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        ))
    };
    for (path, body) in [
        ("/v1/invite", "{"),
        ("/v1/invite", "{\"storage_only\": 7}"),
        ("/v1/join", "[]"),
        ("/v1/nothing", "{}"),
        ("/v1/put?name=%ff&kind=file&private=perhaps", ""),
    ] {
        let answer = post(path, body);
        let is_refusal = answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
        assert!(
            is_refusal && answer.contains("\"error\""),
            "{path}: {answer}"
        );
    }
    let deep = post("/v1/invite", &"[".repeat(100_000));
    assert!(deep.starts_with("HTTP/1.1 4"), "{deep}");
    let status = json(&run(net.cairn(0).args(["--json", "status"]), 0));
    assert_eq!(status["network"], Value::Null, "nothing came of it");
}

/// `tests/run` names a development build without `testkit`, which has all else in common with a release.
/// Of a release itself, which is to be the last thing before one is given out:
///
/// ```sh
/// cargo build --release
/// CAIRN_PLAIN_BIN=target/release/cairn cargo nextest run --features testkit --test it -E \
///     'test(cannot_be_told_to_misbehave) or test(only_the_features_of_tests_can_inject_faults)'
/// ```
#[test]
fn the_program_that_users_get_cannot_be_told_to_misbehave() {
    let Some(plain) = std::env::var_os("CAIRN_PLAIN_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED: CAIRN_PLAIN_BIN names no binary built without `testkit`");
        return;
    };
    let has_switch = |program: &Path| {
        let bytes = std::fs::read(program).unwrap();
        bytes.windows(11).any(|part| part == b"CAIRN_FAULT")
    };
    assert!(!has_switch(&plain) && has_switch(Path::new(FAULTY_BIN)));
    let arguments = ["--peers", "3", "--redundancy", "2+1"];
    for fault in ["refuse", "corrupt", "nonsense"] {
        let net = Devnet::start_env(&plain, &arguments, &[("CAIRN_FAULT", fault)]);
        let file = net.dir.path().join("file");
        random_file(&file, 1 << 20, 1);
        let mut put = net.cairn(0);
        let link = line(&run(
            put.args(["-q", "put", "--survive", "1"]).arg(&file),
            0,
        ));
        let back = run(net.cairn(2).args(["-q", "get", &link]), 0);
        assert!(back.stdout == std::fs::read(&file).unwrap(), "{fault}");
    }
    // The same with the program of the tests, where it does something.
    let net = Devnet::start_env(
        FAULTY_BIN.as_ref(),
        &arguments,
        &[("CAIRN_FAULT", "refuse")],
    );
    let file = net.dir.path().join("file");
    random_file(&file, 1 << 20, 1);
    run(
        net.cairn(0)
            .args(["-q", "put", "--survive", "1"])
            .arg(&file),
        4,
    );
}
