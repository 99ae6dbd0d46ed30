//! Trees of files: made, measured and compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairnfs::base::Entropy;

/// Allocated bytes of everything below `dir`, as `du` counts them.
pub fn allocated(dir: &Path) -> u64 {
    let mut total = std::fs::symlink_metadata(dir).map_or(0, |m| m.blocks() * 512);
    if let Ok(entries) = std::fs::read_dir(dir) {
        for entry in entries.flatten() {
            let kind = entry.file_type();
            total += if kind.is_ok_and(|kind| kind.is_dir()) {
                allocated(&entry.path())
            } else {
                std::fs::symlink_metadata(entry.path()).map_or(0, |m| m.blocks() * 512)
            };
        }
    }
    total
}

/// Writes `size` random bytes.
pub fn random_file(path: &Path, size: usize, seed: u64) {
    let mut bytes = vec![0u8; size];
    Entropy::seeded(seed).fill(&mut bytes);
    std::fs::write(path, bytes).expect("the file is written");
}

/// Makes a tree of `files` files with everything that a tree can have.
pub fn make_tree(root: &Path, files: usize, seed: u64) {
    let entropy = Entropy::seeded(seed);
    std::fs::create_dir_all(root).expect("the root");
    let mut directory = root.to_path_buf();
    let mut last = None;
    for number in 0..files {
        if entropy.below(12) == 0 {
            directory = root.join(format!("dir-{}", entropy.below(files as u64 / 8 + 1)));
            if entropy.below(3) == 0 {
                directory = directory.join("deeper");
            }
            std::fs::create_dir_all(&directory).expect("a directory");
        }
        let size = match entropy.below(100) {
            0 => 1_200_000 + entropy.below(3_000_000) as usize,
            1..10 => entropy.below(200_000) as usize,
            10 => 0,
            _ => entropy.below(8_000) as usize,
        };
        let path = directory.join(format!("file-{number}"));
        random_file(&path, size, entropy.u64());
        let mode = [0o644, 0o600, 0o755, 0o400][entropy.below(4) as usize];
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        let time = std::time::UNIX_EPOCH
            + Duration::new(
                entropy.below(2_000_000_000),
                entropy.below(1_000_000_000) as u32,
            );
        let file = std::fs::File::open(&path).expect("the file opens");
        file.set_modified(time).expect("a time");
        last = Some(path);
    }
    std::fs::create_dir_all(root.join("empty/inside")).expect("empty directories");
    let odd = OsString::from_vec(vec![b'n', 0xff, b'\n', b'*', 0xc3]);
    std::fs::write(root.join(odd), b"a name that is not UTF-8").expect("an odd name");
    std::os::unix::fs::symlink("nowhere/at all", root.join("link")).expect("a symlink");
    if let Some(last) = last {
        std::fs::hard_link(last, root.join("second name")).expect("a hard link");
    }
    let sparse = std::fs::File::create(root.join("sparse")).expect("a sparse file");
    sparse.set_len(64 << 20).expect("its length");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 33 << 20).expect("its data");
}

/// What a tree is, for comparison: everything the product promises to keep.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    kind: String,
    mode: u32,
    mtime: (i64, i64),
    size: u64,
    digest: Option<blake3::Hash>,
    target: Option<PathBuf>,
    /// The first path (in sorted order) of the same inode.
    same_as: Option<PathBuf>,
}

/// Everything below `root`, by relative path; the root itself is the empty path.
pub fn show_tree(root: &Path) -> BTreeMap<PathBuf, Shown> {
    let mut all = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = if path.as_os_str().is_empty() {
            root.to_path_buf()
        } else {
            root.join(&path)
        };
        let meta = std::fs::symlink_metadata(&full).expect("an entry");
        let kind = meta.file_type();
        if kind.is_dir() {
            for entry in std::fs::read_dir(&full).expect("a directory").flatten() {
                waiting.push(path.join(entry.file_name()));
            }
        }
        if kind.is_file() && meta.nlink() > 1 {
            inodes
                .entry(meta.ino())
                .or_insert_with(Vec::new)
                .push(path.clone());
        }
        let shown = Shown {
            kind: format!("{kind:?}"),
            mode: if kind.is_symlink() { 0 } else { meta.mode() },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            size: if kind.is_dir() { 0 } else { meta.size() },
            digest: kind
                .is_file()
                .then(|| blake3::hash(&std::fs::read(&full).expect("a file"))),
            target: kind
                .is_symlink()
                .then(|| std::fs::read_link(&full).expect("a link")),
            same_as: None,
        };
        all.insert(path, shown);
    }
    for mut paths in inodes.into_values() {
        paths.sort();
        let first = paths[0].clone();
        for path in paths {
            if let Some(shown) = all.get_mut(&path) {
                shown.same_as = Some(first.clone());
            }
        }
    }
    all
}

/// Requires two trees to be the same, and says where they are not.
pub fn assert_same_tree(left: &Path, right: &Path) {
    let (left, right) = (show_tree(left), show_tree(right));
    for (path, shown) in &left {
        assert_eq!(Some(shown), right.get(path), "{}", path.display());
    }
    assert_eq!(left.len(), right.len(), "no entries were added");
}
