//! The document and the tests name each other.

use std::collections::BTreeSet;
use std::path::Path;

/// Every test named in `docs/SEMANTICS.md` is there, and every test of this folder, of `shared`, `agreed` and `redundancy` is
/// named.
#[test]
fn every_promise_names_its_test() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let root = Path::new(&root);
    let document = std::fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| "));
    let numbered = rows.filter(|row| row[2..].starts_with(|first: char| first.is_ascii_digit()));
    let mut named = BTreeSet::new();
    for row in numbered {
        let proof = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut tests = proof.split('`').skip(1).step_by(2).peekable();
        assert!(tests.peek().is_some(), "names no test: {row}");
        named.extend(tests.filter(|test| test.contains("::")).map(str::to_owned));
    }
    // Of those of several members others may be there that promise nothing to users.
    let (of_several, named): (BTreeSet<String>, BTreeSet<String>) = named
        .into_iter()
        .partition(|test| test.starts_with("members::"));
    for test in of_several {
        let (module, name) = test.rsplit_once("::").unwrap();
        let module = module.replace("members", "shared").replace("::", "/");
        let file = format!("tests/it/vfs/{module}.rs");
        let text = std::fs::read_to_string(root.join(&file)).unwrap();
        let function = format!("\nasync fn {name}() {{");
        assert!(text.contains(&function), "{file} has no test {name}");
    }
    // Those of snapshots are in a folder without a kernel, and in a file with one.
    let (of_snapshots, named): (BTreeSet<String>, BTreeSet<String>) = named
        .into_iter()
        .partition(|test| test.starts_with("snapshots::"));
    for test in of_snapshots {
        let (module, name) = test.rsplit_once("::").unwrap();
        let file = match module.split_once("::") {
            Some((_, module)) => format!("tests/it/vfs/snapshots/{module}.rs"),
            None => "tests/mount/snapshots.rs".to_owned(),
        };
        let text = std::fs::read_to_string(root.join(&file)).unwrap();
        let function = format!("#[test]\nfn {name}() {{");
        assert!(text.contains(&function), "{file} has no test {name}");
    }
    // What policies do, and what comes of a disk that fails, is proved without a kernel.
    let mut named = named;
    for module in ["policy", "syncing"] {
        let prefix = format!("{module}::");
        let file = format!("tests/it/vfs/{module}.rs");
        let text = std::fs::read_to_string(root.join(&file)).unwrap();
        named.retain(|test| {
            let Some(name) = test.strip_prefix(&prefix) else {
                return true;
            };
            let function = format!("#[test]\nfn {name}() {{");
            assert!(text.contains(&function), "{file} has no test {name}");
            false
        });
    }
    let mut there = BTreeSet::new();
    let folder = std::fs::read_dir(root.join("tests/mount/semantics")).unwrap();
    let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.push(root.join("tests/mount/shared.rs"));
    paths.push(root.join("tests/mount/agreed.rs"));
    paths.push(root.join("tests/mount/redundancy.rs"));
    for path in paths {
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if module == "mod" || module == "document" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let tests = text.split("#[test]\nfn ").skip(1);
        let tests = tests.map(|rest| rest.split('(').next().unwrap());
        let tests = tests.filter(|test| !test.starts_with("helper_"));
        there.extend(tests.map(|test| format!("{module}::{test}")));
    }
    assert_eq!(named, there);
}
