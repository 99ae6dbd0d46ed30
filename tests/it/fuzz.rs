//! Every decoder against bytes that nobody should send: the corpus in `tests/fixtures/fuzz/`, and
//! mutations of it from seeded generators.
//!
//! A failing input becomes a file of the corpus. `CAIRN_BLESS=1` writes the seeds anew;
//! `tests/long fuzz MINUTES` mutates for longer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cairnfs::base::Entropy;
use cairnfs::testkit::fuzz::{TARGETS, Target, seeds};

use crate::support::scaled;

/// Longest input that is made by mutation.
const INPUT_MAX_BYTES: usize = 64 << 10;
/// All of the corpus together.
const CORPUS_MAX_BYTES: u64 = 300 << 10;
/// Most memory that the process may ever have had: no input makes a decoder take much.
const PEAK_MAX_KIB: u64 = 256 << 10;
/// Numbers that are the edge of something.
const EDGES: &[u64] = &[
    0,
    1,
    0x17,
    0x18,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x3f_ffff,
    0x40_0000,
    0x40_0001,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

fn corpus_dir(target: &Target) -> PathBuf {
    crate::support::root()
        .join("tests/fixtures/fuzz")
        .join(target.name)
}

/// The files of a target's corpus, by name.
fn corpus(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let dir = corpus_dir(target);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return BTreeMap::new();
    };
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    };
    entries.map(read).collect()
}

/// What a panic said, if `input` makes one.
fn failure(target: &Target, input: &[u8]) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let panic = outcome.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Some(text.unwrap_or_else(|| "a panic without words".to_owned()))
}

fn check(target: &Target, input: &[u8], from: &str) {
    if let Some(message) = failure(target, input) {
        // Many panics come, all the same.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let small = shrink(target, input.to_vec());
        std::panic::set_hook(hook);
        let name = format!("found-{}", &blake3::hash(&small).to_hex()[..12]);
        let file = std::env::temp_dir().join(format!("{}-{name}", target.name));
        std::fs::write(&file, &small).unwrap();
        panic!(
            "{} fails on {} bytes ({from}): {message}\nkept as {}; it belongs into {}",
            target.name,
            small.len(),
            file.display(),
            corpus_dir(target).join(name).display()
        );
    }
}

/// A shorter input that fails too, in a bounded number of tries.
fn shrink(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut step = input.len() / 2;
    let mut tries = 0;
    while step > 0 && tries < 500 {
        let mut at = 0;
        while at < input.len() && tries < 500 {
            let mut shorter = input.clone();
            shorter.drain(at..(at + step).min(input.len()));
            tries += 1;
            if failure(target, &shorter).is_some() {
                input = shorter;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    input
}

/// A changed copy of one of `inputs`.
fn mutated(inputs: &[Vec<u8>], entropy: &Entropy) -> Vec<u8> {
    let below = |bound: usize| entropy.below(bound.max(1) as u64) as usize;
    let mut bytes = inputs[below(inputs.len())].clone();
    for _ in 0..1 + below(4) {
        let at = below(bytes.len());
        match below(10) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            2 if !bytes.is_empty() => bytes[at] = entropy.u64() as u8,
            3 => bytes.truncate(at),
            4 if !bytes.is_empty() => {
                let end = (at + 1 + below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + 1 + below(64)).min(bytes.len());
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                let to = below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            6 => {
                // The edge of some number, in one of the sizes and orders that formats use.
                let edge = EDGES[below(EDGES.len())];
                let size = [1, 2, 4, 8][below(4)];
                let mut number = edge.to_be_bytes()[8 - size..].to_vec();
                if below(2) == 0 {
                    number.reverse();
                }
                for (offset, byte) in number.into_iter().enumerate() {
                    if let Some(place) = bytes.get_mut(at + offset) {
                        *place = byte;
                    }
                }
            }
            7 => {
                let other = &inputs[below(inputs.len())];
                let from = below(other.len());
                let end = (from + 1 + below(256)).min(other.len());
                let part = other.get(from..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, part);
            }
            8 => {
                let other = &inputs[below(inputs.len())];
                let from = below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            _ => {
                let mut noise = vec![0; 1 + below(16)];
                entropy.fill(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes.truncate(INPUT_MAX_BYTES);
    bytes
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|text| text.parse().ok()).unwrap()
}

/// Under nextest each test has a process of its own, so its peak is that of the decoders.
fn check_peak() {
    if std::env::var_os("NEXTEST").is_some() {
        let peak = peak_kib();
        assert!(peak < PEAK_MAX_KIB, "{peak} KiB of memory were in use");
    }
}

fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let inputs: Vec<Vec<u8>> = corpus(target).into_values().collect();
    assert!(!inputs.is_empty(), "{} has no corpus", target.name);
    inputs
}

#[test]
fn the_corpus_has_the_seeds_of_every_decoder_and_is_small() {
    let mut size = 0;
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            let name = format!("seed-{number:02}");
            let file = corpus_dir(target).join(&name);
            if std::env::var_os("CAIRN_BLESS").is_some() {
                std::fs::create_dir_all(corpus_dir(target)).unwrap();
                std::fs::write(&file, seed).unwrap();
            }
            let kept = std::fs::read(&file).unwrap_or_default();
            assert!(
                kept == *seed,
                "{} is out of date: run this test once with CAIRN_BLESS=1",
                file.display()
            );
        }
        size += corpus(target)
            .values()
            .map(|file| file.len() as u64)
            .sum::<u64>();
    }
    assert!(size < CORPUS_MAX_BYTES, "{size} bytes");
    let dirs = std::fs::read_dir(corpus_dir(&TARGETS[0]).parent().unwrap()).unwrap();
    for dir in dirs {
        let name = dir.unwrap().file_name().into_string().unwrap();
        let is_known = TARGETS.iter().any(|target| target.name == name);
        assert!(is_known, "tests/fixtures/fuzz/{name} belongs to no decoder");
    }
}

#[test]
fn no_file_of_the_corpus_breaks_its_decoder() {
    for target in TARGETS {
        for (name, input) in corpus(target) {
            check(target, &input, &name);
        }
        // What is one decoder's food is another's poison.
        for other in TARGETS {
            for (name, input) in corpus(other) {
                check(target, &input, &format!("{} of {}", name, other.name));
            }
        }
        check(target, b"", "nothing");
    }
    check_peak();
}

#[test]
fn no_mutation_breaks_a_decoder() {
    for target in TARGETS {
        let inputs = inputs(target);
        let entropy = Entropy::seeded(11);
        // Opening a store takes a thousand times as long as reading a number.
        let is_store =
            ["segment", "journal", "volume_tables", "vfs_operations"].contains(&target.name);
        let count = if is_store { 150 } else { 1500 };
        for number in 0..scaled(count) {
            let input = mutated(&inputs, &entropy);
            check(target, &input, &format!("mutation {number}"));
        }
    }
    check_peak();
}

/// The search itself: it must find what is there to be found.
#[test]
fn a_decoder_that_panics_is_noticed() {
    let fragile = Target {
        name: "fragile",
        run: |data| assert!(!data.contains(&0xff), "it has the byte"),
    };
    let inputs = vec![vec![0xfe; 8], b"other".to_vec()];
    let entropy = Entropy::seeded(1);
    let found = (0..1000).find_map(|_| {
        let input = mutated(&inputs, &entropy);
        failure(&fragile, &input).map(|message| (input, message))
    });
    let (input, message) = found.expect("one of a thousand has the byte");
    assert_eq!(message, "it has the byte");
    assert_eq!(shrink(&fragile, input), [0xff]);
}

/// Goes on as long as `CAIRN_FUZZ_MINUTES` says, each decoder in its turn; not at all without it.
#[test]
fn mutations_for_as_long_as_asked() {
    let Some(minutes) = std::env::var("CAIRN_FUZZ_MINUTES").ok() else {
        return;
    };
    let minutes: f64 = minutes.parse().expect("a number of minutes");
    let only = std::env::var("CAIRN_FUZZ_TARGET").ok();
    let targets: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| only.as_ref().is_none_or(|only| only == target.name))
        .collect();
    assert!(!targets.is_empty(), "no decoder of the name {only:?}");
    let share = Duration::from_secs_f64(minutes * 60.0 / targets.len() as f64);
    let fresh = Entropy::os().unwrap();
    for target in targets {
        let seed = fresh.u64();
        let entropy = Entropy::seeded(seed);
        let inputs = inputs(target);
        let begun = Instant::now();
        let mut count = 0u64;
        while begun.elapsed() < share {
            let input = mutated(&inputs, &entropy);
            check(target, &input, &format!("seed {seed}, mutation {count}"));
            count += 1;
        }
        println!("{:20} {count} inputs, seed {seed}", target.name);
    }
    check_peak();
}
