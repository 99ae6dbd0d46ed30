//! What a volume finds in its directory when it opens.

use std::future::Future;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::store::STORE_ID;
use super::wire::NOW_MS;
use super::{joined, split};
use crate::base::{Clock, Entropy, Pools, VolumeId};
use crate::store::mem_disk::Crash;
use crate::store::{
    DirtyId, Disk, Group, MemDisk, Order, Space, Store, StoreOptions, Volume, VolumeError,
    VolumeOptions, forge,
};

const ID: VolumeId = VolumeId(STORE_ID);
const SEGMENT_ID: u32 = 1;
const QUOTA_BYTES: u64 = 32 << 20;

fn name(base: &str) -> String {
    format!("volumes/{ID}/{base}")
}

pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => panic!("no runtime: {error}"),
    }
}

async fn store_on(disk: &MemDisk) -> Option<Store> {
    let options = StoreOptions::new(QUOTA_BYTES, Entropy::seeded(7));
    let clock = Clock::simulated(NOW_MS);
    let opened = Store::open(Arc::new(disk.clone()), options, Pools::inline(), clock).await;
    opened.ok().map(|(store, _)| store)
}

/// A data directory with an empty volume; and what a journal has in which every kind of record is.
fn base() -> &'static (MemDisk, Vec<u8>) {
    static BASE: OnceLock<(MemDisk, Vec<u8>)> = OnceLock::new();
    BASE.get_or_init(|| {
        run(async {
            let disk = MemDisk::new(1 << 30);
            let made = async {
                let store = store_on(&disk).await?;
                store.create_volume(ID).await.ok()?;
                let empty = disk.crash_image(&Crash::KeepAll);
                let (volume, _) = store.open_volume(ID, VolumeOptions::default()).await.ok()?;
                fill(&volume).await.ok()?;
                let journal = disk.open(&name("journal-00000001")).ok()?;
                Some((empty, journal.read_vec(0, 1 << 20).ok()?))
            };
            match made.await {
                Some(base) => base,
                None => panic!("a volume of our own"),
            }
        })
    })
}

async fn fill(volume: &Volume) -> Result<(), VolumeError> {
    let mut group = Group::new();
    group.put(Space(1), b"key", b"value");
    group.keep(DirtyId(1), Bytes::from_static(b"dirty data"));
    group.keep(DirtyId(2), Bytes::from_static(b"more of it"));
    volume.apply(&group)?;
    let mut group = Group::new();
    group.remove(Space(1), b"key").release(DirtyId(1));
    let seq = volume.apply(&group)?;
    volume.sync(seq).await
}

/// Reads all that a volume says it has.
fn read_all(volume: &Volume) {
    use std::ops::Bound::Unbounded;
    for space in 0..=255 {
        let _ = volume.scan(Space(space), Unbounded, Unbounded, Order::Ascending, 99);
    }
    for (id, len) in volume.dirty(DirtyId(0), 1000) {
        if let Ok(bytes) = volume.read_dirty(id, 0, u32::MAX) {
            assert_eq!(bytes.len(), len as usize, "all of it, or an error");
        }
    }
}

/// Opens the volume with a file replaced; what is accepted can be used, and opens again.
fn open_with(file: &str, bytes: &[u8], is_salvage: bool) {
    let disk = base().0.crash_image(&Crash::KeepAll);
    run(async {
        let replaced = disk.open(&name(file)).and_then(|file| {
            file.set_len(0)?;
            file.write_at(0, &mut [IoSlice::new(bytes)])?;
            file.sync_data()
        });
        assert!(replaced.is_ok(), "a disk in memory");
        let Some(store) = store_on(&disk).await else {
            panic!("a store of our own");
        };
        let options = VolumeOptions {
            is_salvage,
            ..VolumeOptions::default()
        };
        let Ok((volume, report)) = store.open_volume(ID, options.clone()).await else {
            return;
        };
        read_all(&volume);
        let mut group = Group::new();
        group.put(Space(1), b"key", b"another value");
        // Damage that is met only now may refuse it.
        if let Ok(seq) = volume.apply(&group) {
            assert!(seq > report.last, "{seq:?} after {report:?}");
            let _ = volume.sync(seq).await;
        }
        let is_closed = volume.close().await.is_ok();
        let again = store.open_volume(ID, options).await;
        assert!(again.is_ok() || !is_closed, "what was closed well opens");
    });
}

/// A segment of a journal, with and without sound checksums.
pub(super) fn journal(data: &[u8]) {
    open_with("journal-00000001", data, false);
    let identity = identity();
    let mut mended = data.to_vec();
    forge::mend_journal(&mut mended, &identity, SEGMENT_ID);
    open_with("journal-00000001", &mended, false);
    open_with("journal-00000001", &mended, true);
}

/// Tables some bytes of which are others: where, and which.
pub(super) fn volume_tables(data: &[u8]) {
    let (place, noise) = split(data);
    let file = base().0.open(&name("tables.redb"));
    let Ok(mut tables) = file.and_then(|file| file.read_vec(0, 1 << 24)) else {
        panic!("a disk in memory");
    };
    let at = place
        .iter()
        .fold(0usize, |at, byte| at.wrapping_mul(256) + usize::from(*byte));
    let at = at % tables.len().max(1);
    for (byte, other) in tables.iter_mut().skip(at).zip(noise) {
        *byte = *other;
    }
    open_with("tables.redb", &tables, false);
}

fn identity() -> [u8; 16] {
    let file = base().0.open(&name("VOLUME"));
    let text = file.and_then(|file| file.read_vec(0, 4096));
    let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
    let hex = text.lines().find_map(|line| line.strip_prefix("identity "));
    let bytes = hex.and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or_default()
}

pub(super) fn journals() -> Vec<Vec<u8>> {
    vec![base().1.clone()]
}

pub(super) fn tables() -> Vec<Vec<u8>> {
    [[0, 64], [16, 0], [32, 8], [64, 0]]
        .iter()
        .map(|at| joined(at, &[0xff; 24]))
        .collect()
}
