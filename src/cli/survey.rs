//! Adding up a tree beforehand, so that its progress bar can tell what is left.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::output::Output;
use super::progress::Progress;

/// Adds up the files under `root` on a thread of its own, then gives `progress` its total.
///
/// An estimate for people only: what cannot be read counts nothing.
pub(super) fn in_background(root: PathBuf, progress: Progress, output: Output) {
    std::thread::spawn(move || {
        let mut total = 0u64;
        let mut dirs = vec![root];
        while let Some(dir) = dirs.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries.flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                    Ok(kind) if kind.is_file() => {
                        let meta = entry.metadata();
                        total += meta.map_or(0, |meta| meta.len().min(meta.blocks() * 512));
                    }
                    _ => {}
                }
            }
        }
        progress.set_total(&output, total);
    });
}
