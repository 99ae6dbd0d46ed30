//! Mounts a filesystem in memory until Ctrl-C or an unmount from outside.
//!
//! `cargo run --release -p cairnfs-fuse --example memfs -- DIR [--allow-other] [--size MIB] [--threads N]`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cairnfs_fuse::kernel::{Mount, MountOptions};
use cairnfs_fuse::memfs::{Limits, MemFs};

const USAGE: &str = "usage: memfs DIR [--allow-other] [--size MIB] [--threads N]";

fn arguments() -> Result<(PathBuf, MountOptions, Limits), String> {
    let mut dir = None;
    let mut limits = Limits::default();
    let is_root = rustix::process::geteuid().is_root();
    let mut options = MountOptions {
        fs_name: "memfs".into(),
        subtype: "memfs".into(),
        suid: is_root,
        dev: is_root,
        ..MountOptions::default()
    };
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--allow-other") => options.allow_other = true,
            Some("--size") => {
                let size = arguments.next().unwrap_or_default();
                let mib = size.to_str().and_then(|size| size.parse::<u64>().ok());
                limits.bytes = mib.ok_or("--size takes a number of MiB")? << 20;
            }
            Some("--threads") => {
                let count = arguments.next().unwrap_or_default();
                let count = count.to_str().and_then(|count| count.parse().ok());
                options.threads = count.ok_or("--threads takes a number")?;
            }
            Some(unknown) if unknown.starts_with("--") => return Err(USAGE.into()),
            _ => dir = Some(PathBuf::from(argument)),
        }
    }
    Ok((dir.ok_or(USAGE)?, options, limits))
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (dir, options, limits) = arguments()?;
    let fs = Arc::new(MemFs::new(limits));
    let runtime = tokio::runtime::Handle::current();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mount =
        tokio::task::spawn_blocking(move || Mount::start(fs, &dir, &options, runtime)).await??;
    tokio::select! {
        ended = mount.ended() => return Ok(ended?),
        signal = tokio::signal::ctrl_c() => signal?,
        _ = terminate.recv() => (),
    }
    mount.unmount(Duration::from_secs(10)).await?;
    Ok(())
}

#[tokio::main(worker_threads = 1)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
