//! The source itself: layers, doors of third-party crates, sizes, and words that must not be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The layers, lowest first; those of one row know nothing of each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["crypto", "chunk", "erasure", "dag", "placement"],
    &["namespace"],
    &["feeds"],
    &["store", "net"],
    &["blocks"],
    &["content", "replica", "repair"],
    &["vfs"],
    &["share"],
    &["admin"],
    &["config"],
    &["node"],
    &["testkit"],
    &["cli"],
];

/// Where in `src/` a crate may be named, and nowhere else.
const DOORS: &[(&str, &[&str])] = &[
    ("libp2p", &["net/swarm/"]),
    ("libp2p_stream", &["net/swarm/"]),
    ("tokio_rustls", &["net/"]),
    ("rustls", &["net/"]),
    ("libc", &["base/memory.rs"]),
    ("redb", &["store/database.rs"]),
    ("reed_solomon_erasure", &["erasure/reed_solomon.rs"]),
    ("rusty_erasure", &["erasure/simd.rs"]),
    // The second is the provider of TLS.
    ("aws_lc_rs", &["crypto/", "net/swarm/tls.rs"]),
    ("ed25519_dalek", &["crypto/"]),
    ("argon2", &["crypto/"]),
    ("zstd", &["crypto/"]),
    ("fastcdc", &["chunk/"]),
    ("axum", &["admin/"]),
    ("hyper", &["admin/"]),
    ("hyper_util", &["admin/"]),
    ("http_body_util", &["admin/"]),
    ("toml", &["config/"]),
    ("toml_edit", &["config/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("tracing_subscriber", &["cli/"]),
    ("getrandom", &["base/entropy.rs"]),
    ("fuser", &[]),
    ("cairnfs_fuse", &["vfs/", "node/", "testkit/fuzz/"]),
];

/// What reads the world behind the back of injected clocks and entropy, and the one place for it.
const INJECTED: &[(&str, &str)] = &[
    ("SystemTime::now", "base/clock.rs"),
    ("thread_rng", ""),
    ("RandomState", ""),
];

/// Most lines of one file, its unit tests not counted.
const LINES_MAX: usize = 600;
/// Most lines of one file of tests.
const TEST_LINES_MAX: usize = 800;

fn root() -> &'static Path {
    static ROOT: std::sync::LazyLock<std::path::PathBuf> =
        std::sync::LazyLock::new(crate::support::root);
    &ROOT
}

/// All files below `dir` with one of `endings`, by path from the root.
fn files(dir: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(path) = waiting.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !matches!(&*name, "target" | ".git" | "corpus" | "artifacts") {
                let entries = std::fs::read_dir(&path).unwrap();
                waiting.extend(entries.map(|entry| entry.unwrap().path()));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let shown: PathBuf = path.strip_prefix(root()).unwrap().into();
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((shown.to_string_lossy().into_owned(), text));
        }
    }
    assert!(!found.is_empty(), "{dir} has files");
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    files("src", &[".rs"])
}

/// The text without comments: they may name anything.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find("//") {
        // Not within a string such as "http://": good enough for this code.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// First names after each `crate::`, also those of a group in braces.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name = |text: &str| text.chars().take_while(|c| is_name(*c)).collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(is_name) || code[..at].ends_with("$") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.insert(name(group[start..index].trim()));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(name(group[start..index].trim()));
                    start = index + 1;
                }
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

fn row(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

#[test]
fn paths_are_found_in_every_form() {
    let code =
        "use crate::base::Clock;\nuse crate::{net::{a, b}, store, };\nlet x = crate::dag::y;";
    let found: Vec<String> = crate_paths(code).into_iter().collect();
    assert_eq!(found, ["base", "dag", "net", "store"]);
}

#[test]
fn layers_import_earlier_layers_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let Some((layer, _)) = file.strip_prefix("src/").and_then(|f| f.split_once('/')) else {
            continue;
        };
        let own = row(layer).unwrap_or_else(|| panic!("{file} is in no layer of the list"));
        for used in crate_paths(&code(&text)) {
            let is_fine = used == layer || row(&used).is_some_and(|row| row < own);
            // Macros and items of the crate root are no layers.
            if !is_fine && row(&used).is_some() {
                wrong.push(format!("{file} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Names that the code of a module reaches by `super`s all the way up to the root of the crate, of which its own module is
/// `depth` steps away.
fn names_by_super(code: &str, depth: usize) -> BTreeSet<String> {
    const STEP: &str = "super::";
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find(STEP) {
        let after = rest[at..].trim_start_matches(STEP);
        let steps = (rest.len() - at - after.len()) / STEP.len();
        if steps >= depth {
            // Only the first path: the rest comes later.
            let end = after.find(';').unwrap_or(after.len());
            let path = format!("crate::{}", &after[..end]);
            let names = crate_paths(&path.replacen("super::", "", usize::MAX));
            found.extend(names);
        }
        rest = after;
    }
    found
}

/// Layers that a file names by `super`s.
fn layers_by_super(file: &str, text: &str) -> BTreeSet<String> {
    let steps = file.matches('/').count();
    let is_folder = file.ends_with("/mod.rs") || file == "src/lib.rs" || file == "src/main.rs";
    let depth = steps - usize::from(is_folder);
    let (body, tests) = match text.split_once("#[cfg(test)]\nmod tests {") {
        Some((body, tests)) => (body, tests),
        None => (text, ""),
    };
    let mut names = names_by_super(&code(body), depth.max(1));
    // The inline module is one step further down.
    names.extend(names_by_super(&code(tests), depth + 1));
    names.retain(|name| row(name).is_some());
    names
}

#[test]
fn paths_by_super_are_found_where_they_reach_the_root() {
    let inside = "use super::super::{base::Clock, net};\n#[cfg(test)]\nmod tests {\n";
    let layers = |file, text| layers_by_super(file, text).into_iter().collect::<Vec<_>>();
    assert_eq!(layers("src/store/quota.rs", inside), ["base", "net"]);
    assert_eq!(layers("src/store/volume/mod.rs", inside), ["base", "net"]);
    assert!(layers("src/store/volume/journal.rs", inside).is_empty());
    let tests = "use super::net;\n#[cfg(test)]\nmod tests {\nuse super::super::store::X;\n";
    assert!(layers("src/store/quota.rs", tests).is_empty());
    assert_eq!(layers("src/store/mod.rs", tests), ["net", "store"]);
}

/// They would pass by the rule above.
#[test]
fn no_path_leaves_its_layer_upwards() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for layer in layers_by_super(&file, &text) {
            wrong.push(format!("{file} uses {layer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether the code names something of a crate.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn every_third_party_crate_has_one_door() {
    let mut wrong = Vec::new();
    for (file, text) in files("fuse", &[".rs"]) {
        let is_door = file.starts_with("fuse/src/kernel/") || file == "fuse/src/kernel.rs";
        if !is_door && names_crate(&code(&text), "fuser") {
            wrong.push(format!("{file} uses fuser, whose door is fuse/src/kernel/"));
        }
    }
    for (file, text) in sources() {
        let code = code(&text);
        let inner = file.strip_prefix("src/").unwrap_or(&file);
        for (name, doors) in DOORS {
            if names_crate(&code, name) && !doors.iter().any(|door| inner.starts_with(door)) {
                wrong.push(format!("{file} uses {name}, whose door is {doors:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn time_and_chance_are_injected() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let code = code(&text);
        for (what, place) in INJECTED {
            if code.contains(what) && file != format!("src/{place}") {
                wrong.push(format!("{file} uses {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_says_what_it_owns() {
    let all = ["src", "fuse", "tests", "benches"];
    for (file, text) in all.iter().flat_map(|dir| files(dir, &[".rs"])) {
        assert!(text.starts_with("//! "), "{file} begins without `//!`");
    }
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let body = text.split("#[cfg(test)]\nmod tests {").next();
        let lines = body.unwrap_or(&text).lines().count();
        let most = if file.ends_with("tests.rs") {
            TEST_LINES_MAX
        } else {
            LINES_MAX
        };
        if lines > most {
            wrong.push(format!("{file} has {lines} lines"));
        }
    }
    let tests = ["tests", "benches"];
    for (file, text) in tests.iter().flat_map(|dir| files(dir, &[".rs"])) {
        let lines = text.lines().count();
        if lines > TEST_LINES_MAX {
            wrong.push(format!("{file} has {lines} lines"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_word_tells_of_unfinished_work_or_of_one_machine() {
    // Put together here, so that this file does not have them.
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("#[ig", "nore"),
        concat!("dbg", "!("),
        concat!("/wo", "rk/"),
        concat!("sha", "red/"),
        concat!("/ro", "ot/"),
    ];
    let endings = [".rs", ".md", ".toml", "run", "long", ".sh", ".yml"];
    let mut wrong = Vec::new();
    for (file, text) in files(".", &endings) {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_features_of_tests_can_inject_faults() {
    let plain = match std::env::var_os("CAIRN_PLAIN_BIN") {
        Some(path) => std::fs::read(path).unwrap(),
        None => {
            eprintln!("SKIPPED: CAIRN_PLAIN_BIN names no binary built without `testkit`");
            return;
        }
    };
    let faulty = std::fs::read(env!("CARGO_BIN_EXE_cairn")).unwrap();
    let has_switch = |bytes: &[u8]| bytes.windows(11).any(|part| part == b"CAIRN_FAULT");
    assert!(!has_switch(&plain), "the plain binary has the switch");
    if cfg!(feature = "testkit") {
        assert!(
            has_switch(&faulty),
            "the search finds the switch where it is"
        );
    }
}
