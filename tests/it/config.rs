//! The config file: every key, every mistake, and changes in place.

use std::os::unix::fs::PermissionsExt;

use cairnfs::base::ByteSize;
use cairnfs::config::schema::{Style, render};
use cairnfs::config::{Config, KEYS, Quota, create_if_absent, set_quota};

const EXAMPLE: &str = include_str!("../../config.example.toml");

#[test]
fn the_example_is_what_the_schema_renders_and_says_the_defaults() {
    let rendered = Config::default().to_toml();
    if std::env::var_os("CAIRN_BLESS").is_some() {
        let path = crate::support::root().join("config.example.toml");
        std::fs::write(path, &rendered).unwrap();
    }
    assert_eq!(Config::parse(EXAMPLE), Ok(Config::default()));
    assert_eq!(
        EXAMPLE, rendered,
        "config.example.toml is out of date: run this test once with CAIRN_BLESS=1"
    );
}

#[test]
fn the_example_has_every_key_with_its_sentence_unit_and_default() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for key in KEYS {
        let table = lines
            .iter()
            .position(|line| *line == format!("[{}]", key.table()))
            .unwrap_or_else(|| panic!("no table for {}", key.path));
        let at = lines
            .iter()
            .skip(table)
            .position(|line| line.starts_with(&format!("{} = ", key.name())))
            .unwrap_or_else(|| panic!("{} is missing", key.path))
            + table;
        assert!(lines[at - 1].starts_with("# Unit: "), "{}", key.path);
        assert!(lines[at - 1].contains(". Default: "), "{}", key.path);
        assert!(lines[at - 2].starts_with("# "), "{}", key.path);
        assert!(key.sentence.ends_with('.'), "{}", key.path);
        assert!(!key.unit.is_empty(), "{}", key.path);
    }
}

#[test]
fn a_rendered_config_reads_back_as_itself() {
    let text = r#"
        [storage]
        quota = "200 GiB"
        reserve_free = 12345
        offer = false
        trash = "3h"
        [network]
        listen = ["/ip4/127.0.0.1/tcp/1", "/dns4/a.example/udp/2/quic-v1"]
        bulk_listen = ["127.0.0.1:0", "[::1]:7"]
        bootstrap = ["/ip6/::1/tcp/5/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"]
        mdns = false
        zone = "the \"attic\""
        max_connections = 9
        max_members = 16
        max_memory = "100 MB"
        upload_limit = "1.5 MiB"
        download_limit = 1_000_001
        allow = ["12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"]
        [put]
        redundancy = "10+20"
        [fetch]
        timeout = "1500ms"
        [mount]
        durability = "network"
        consistency = "close-to-open"
        locks = "cluster"
        commit_interval = "250ms"
        dirty_max = "1 GiB"
        read_timeout = "2m"
        [[mount.conflict]]
        glob = "**/cache/*"
        keep = "newest"
        [[mount.conflict]]
        glob = "odd \"name\" \\*"
        keep = "keep-both"
        [snapshots]
        keep = { hourly = 24, daily = 7, yearly = 2 }
        [cache]
        memory = "16 MiB"
        disk = 0
        [limits]
        upload_memory = "32 MiB"
        download_memory = "48 MiB"
        [log]
        level = "trace"
    "#;
    let config = Config::parse(text).unwrap();
    assert_eq!(config.storage.quota, Quota::Bytes(ByteSize::gib(200)));
    assert_eq!(config.network.download_limit, ByteSize(1_000_001));
    let rules = &config.mount.conflict;
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[0].keep, cairnfs::config::KeepWhich::Newest);
    assert!(rules[1].glob.matches(b"dir/odd \"name\" *"));
    assert_eq!(Config::parse(&config.to_toml()), Ok(config));
}

#[test]
fn rules_about_conflicts_are_read_in_either_form_and_their_mistakes_told() {
    let inline = "[mount]\nconflict = [{ glob = \"*.log\", keep = \"newest\" }]\n";
    let tables = "[[mount.conflict]]\nglob = \"*.log\"\nkeep = \"newest\"\n";
    assert_eq!(Config::parse(inline), Config::parse(tables));
    assert!(Config::parse(inline).is_ok());
    for (rule, line, want) in [
        ("glob = \"[a]\"\nkeep = \"newest\"", 2, "no pattern"),
        (
            "glob = \"a\"\nkeep = \"oldest\"",
            3,
            "not one of newest, keep-both",
        ),
        ("glob = \"a\"", 1, "needs both"),
        (
            "glob = \"a\"\nkeep = \"newest\"\nfor = 1",
            4,
            "unknown key `for`",
        ),
    ] {
        let text = format!("[[mount.conflict]]\n{rule}\n");
        let problems = Config::parse(&text).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains(want), "{}", problems[0]);
        assert_eq!(
            (problems[0].line, problems[0].key.as_deref()),
            (line, Some("mount.conflict"))
        );
    }
}

#[test]
fn rules_about_snapshots_are_read_and_their_mistakes_told() {
    let rule = |text: &str| Config::parse(&format!("[snapshots]\nkeep = {text}\n"));
    let read = rule("{ last = 3, weekly = 4 }").unwrap().snapshots.keep;
    assert_eq!((read.last, read.hourly, read.weekly), (3, 0, 4));
    assert!(rule("{}").unwrap().snapshots.keep.is_empty());
    for (text, want) in [
        ("10", "expected counts such as"),
        ("\"daily\"", "expected counts such as"),
        ("{ daily = -1 }", "a whole number of at least 1"),
        ("{ daily = \"all\" }", "a whole number of at least 1"),
        ("{ dayly = 1 }", "expected last, hourly, daily"),
    ] {
        let problems = rule(text).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains(want), "{}", problems[0]);
    }
    assert_eq!(rule("{ a = 1, b = 2, daily = 0 }").unwrap_err().0.len(), 3);
}

#[test]
fn every_key_is_read_from_its_own_place() {
    // The rendered defaults with one key taken out at a time still say the defaults, and every
    // key that is set to nonsense is named.
    for key in KEYS {
        let text = format!("[{}]\n{} = {{ a = 1 }}\n", key.table(), key.name());
        let problems = Config::parse(&text).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{}", key.path);
        assert_eq!(problems[0].line, 2, "{}", key.path);
        assert_eq!(problems[0].key.as_deref(), Some(key.path));
        assert!(
            problems[0].message.starts_with("expected "),
            "{}",
            problems[0]
        );
    }
}

#[test]
fn all_problems_are_told_together_with_their_lines() {
    let text = r#"[storage]
quota = "12 parsecs"
ofer = true
reserve_free = -1

[network]
listen = [
    "/ip4/0.0.0.0/tcp/4747",
    "0.0.0.0:4747",
    "/ip4/0.0.0.0/udp/4747",
    "/ip4/1.2.3/tcp/1",
    "/ip4/1.2.3.4/tcp/99999",
]
bulk_listen = "0.0.0.0:4748"
max_connections = 0
mdns = "yes"
redundancy = "4+2"
allow = ["12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"]
deny = ["12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "me"]
colour = 1

[put]
redundancy = "60+60"

[fetc]
timeout = "3s"

[fetch]
timeout = 30

[limits]
upload_memory = "1 MiB"

[mount]
durability = "eventual"
dirty_max = "8 MiB"
commit_interval = "0s"
[cache]
memory = "15 MiB"

[log]
level = "loud"
"#;
    let problems = Config::parse(text).unwrap_err().0;
    let told: Vec<(usize, &str, &str)> = problems
        .iter()
        .map(|p| (p.line, p.key.as_deref().unwrap_or(""), p.message.as_str()))
        .collect();
    let expected: &[(usize, &str, &str)] = &[
        (2, "storage.quota", "`12 parsecs` is not a size"),
        (3, "storage.ofer", "did you mean `offer`?"),
        (4, "storage.reserve_free", "found the number -1"),
        (9, "network.listen", "begin with `/`"),
        (10, "network.listen", "`quic-v1` after the port is missing"),
        (11, "network.listen", "`1.2.3` is not a host of kind ip4"),
        (12, "network.listen", "`99999` is not a port"),
        (14, "network.bulk_listen", "expected a list"),
        (15, "network.max_connections", "at least 1"),
        (16, "network.mdns", "expected true or false"),
        (17, "network.redundancy", "belongs into the table [put]"),
        (19, "network.deny", "not a valid peer id"),
        (20, "network.colour", "unknown key"),
        (23, "put.redundancy", "at most 64 shards"),
        (25, "fetc", "did you mean `fetch`?"),
        (29, "fetch.timeout", "such as \"30s\""),
        (32, "limits.upload_memory", "less than 16 MiB"),
        (35, "mount.durability", "not one of local, network"),
        (36, "mount.dirty_max", "less than 16 MiB"),
        (37, "mount.commit_interval", "longer than 0"),
        (39, "cache.memory", "less than 16 MiB"),
        (42, "log.level", "`loud` is not one of"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for ((line, key, message), (want_line, want_key, want)) in told.iter().zip(expected) {
        assert_eq!((line, key), (want_line, want_key), "{message}");
        assert!(message.contains(want), "{message:?} lacks {want:?}");
    }
}

#[test]
fn syntax_errors_are_told_with_all_others() {
    let text = "[storage]\nquota = \nofer = true\n[network\nmdns = maybe\n";
    let problems = Config::parse(text).unwrap_err().0;
    let lines: Vec<usize> = problems.iter().map(|p| p.line).collect();
    assert!(lines.contains(&2), "{problems:?}");
    assert!(lines.contains(&3), "{problems:?}");
    assert!(lines.contains(&4), "{problems:?}");
    assert!(lines.contains(&5), "{problems:?}");
}

#[test]
fn contradictions_are_told() {
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let text = format!("[network]\nallow = [\"{peer}\"]\ndeny = [\"{peer}\"]\n");
    let problems = Config::parse(&text).unwrap_err().0;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].line, 3);
    let small = Config::parse("[storage]\nquota = \"1 MiB\"").unwrap_err();
    assert!(small.to_string().contains("the least is 32 MiB"), "{small}");
}

#[test]
fn a_file_with_problems_is_named_on_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "a = 1\n\nb = 2\n").unwrap();
    let text = Config::load(&file).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with(&format!("{}:1: a: ", file.display())));
    assert!(lines[1].starts_with(&format!("{}:3: b: ", file.display())));
}

#[test]
fn a_config_made_on_demand_sets_nothing_and_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peer/config.toml");
    assert!(create_if_absent(&file).unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, render(&Config::default(), Style::Commented));
    assert_eq!(Config::parse(&text), Ok(Config::default()));
    assert!(!text.lines().any(|line| line.starts_with("quota")));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(mode(&file), 0o600);
    std::fs::write(&file, "# mine\n").unwrap();
    assert!(!create_if_absent(&file).unwrap());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\n");
}

#[test]
fn the_quota_is_changed_in_place_and_comments_stay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let quota = |text: &str| Config::parse(text).unwrap().storage.quota;
    let now = || std::fs::read_to_string(&file).unwrap();

    std::fs::write(
        &file,
        "# about this peer\n[storage] # disk\nquota = \"64 MiB\" # for now\noffer = false\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    set_quota(&file, Quota::Bytes(ByteSize::gib(200))).unwrap();
    assert_eq!(
        now(),
        "# about this peer\n[storage] # disk\nquota = \"200 GiB\" # for now\noffer = false\n"
    );
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let odd = Quota::Bytes(ByteSize((200 << 30) + 1));
    set_quota(&file, odd).unwrap();
    assert_eq!(quota(&now()), odd);
    set_quota(&file, Quota::Auto).unwrap();
    assert_eq!(quota(&now()), Quota::Auto);

    // No such key, no such table, no such file.
    for text in ["[storage]\n# quota below\n", "# nothing\n"] {
        std::fs::write(&file, text).unwrap();
        set_quota(&file, odd).unwrap();
        assert_eq!(quota(&now()), odd);
        assert!(now().contains(text.lines().last().unwrap()));
    }
    std::fs::remove_file(&file).unwrap();
    set_quota(&file, odd).unwrap();
    assert_eq!(quota(&now()), odd);

    // A file with mistakes is left alone.
    std::fs::write(&file, "[storage]\nofer = 1\n").unwrap();
    let error = set_quota(&file, odd).unwrap_err().to_string();
    assert!(error.contains("config.toml:2"), "{error}");
    assert_eq!(now(), "[storage]\nofer = 1\n");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_linked_config_file_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.toml"), dir.path().join("config.toml"));
    std::fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    set_quota(&link, Quota::Bytes(ByteSize::mib(64))).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().contains("64 MiB"));
}
