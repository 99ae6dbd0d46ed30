//! What a store finds in its directory when it opens.

use std::io::IoSlice;
use std::sync::Arc;

use futures::FutureExt;

use super::wire::NOW_MS;
use crate::base::{Clock, Entropy, Pools};
use crate::store::{
    Disk, MemDisk, OpenError, OpenReport, Store, StoreOptions, VERSION_FILE, forge,
};

/// The store to which all segments here belong.
pub(super) const STORE_ID: [u8; 16] = [6; 16];
/// The only segment.
pub(super) const SEGMENT: &str = "store/segment-00000001";
const SEGMENT_ID: u32 = 1;
const QUOTA_BYTES: u64 = 32 << 20;

fn write(disk: &MemDisk, name: &str, bytes: &[u8]) {
    let written = disk.create(name).and_then(|file| {
        file.write_at(0, &mut [IoSlice::new(bytes)])?;
        file.sync_data()
    });
    assert!(written.is_ok(), "a disk in memory");
}

fn disk_with(version: &[u8], segment: Option<&[u8]>) -> MemDisk {
    let disk = MemDisk::new(1 << 30);
    assert!(disk.create_dir("store").is_ok(), "a disk in memory");
    write(&disk, VERSION_FILE, version);
    if let Some(segment) = segment {
        write(&disk, SEGMENT, segment);
    }
    disk
}

pub(super) fn version_text() -> Vec<u8> {
    let id = data_encoding::HEXLOWER.encode(&STORE_ID);
    format!("cairn-data 1\nstore {id}\n").into_bytes()
}

/// Opens a store; its index is rebuilt from the segments.
fn open(disk: MemDisk) -> Result<OpenReport, OpenError> {
    let opened = async {
        let options = StoreOptions::new(QUOTA_BYTES, Entropy::seeded(7));
        let clock = Clock::simulated(NOW_MS);
        let (store, report) = Store::open(Arc::new(disk), options, Pools::inline(), clock).await?;
        // What was read can be used.
        let usage = store.usage();
        assert!(usage.quota == QUOTA_BYTES);
        let _ = store.kv_scan("space", b"").await;
        let _ = store.close().await;
        Ok(report)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(opened.boxed_local()),
        Err(error) => panic!("no runtime: {error}"),
    }
}

/// A segment, with and without sound checksums.
pub(super) fn segment(data: &[u8]) {
    let version = version_text();
    // What it holds may contradict itself; then it must say so.
    let _ = open(disk_with(&version, Some(data)));
    let mut mended = data.to_vec();
    let records = forge::mend(&mut mended, &STORE_ID, SEGMENT_ID);
    if let Ok(report) = open(disk_with(&version, Some(&mended))) {
        assert!(report.shards as usize <= records, "{report:?}");
    }
}

/// The marker of a data directory.
pub(super) fn version_file(data: &[u8]) {
    let opened = open(disk_with(data, None));
    if let Err(OpenError::Newer { found, known }) = opened {
        assert!(found > known);
    }
}
