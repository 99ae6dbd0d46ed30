//! The `cairn` binary: see `cairnfs::cli`.

fn main() {}
