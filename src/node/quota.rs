//! The quota in force: what the configuration asks for, as bytes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::NodeError;
use crate::base::limits::QUOTA_MIN_BYTES;
use crate::config::{Config, Quota};
use crate::store::{Disk, OpenError};

/// The quota, changeable while running.
#[derive(Debug)]
pub(super) struct Live {
    bytes: AtomicU64,
    is_auto: AtomicBool,
}

impl Live {
    /// What the configuration means on this disk. An automatic quota is half of what would be free
    /// without this peer's own data.
    pub fn resolve(config: &Config, disk: &dyn Disk) -> Result<Self, NodeError> {
        let bytes = match config.storage.quota {
            Quota::Bytes(size) => size.0,
            Quota::Auto => auto_bytes(disk)?,
        };
        Ok(Live {
            bytes: AtomicU64::new(bytes),
            is_auto: AtomicBool::new(config.storage.quota == Quota::Auto),
        })
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether it follows the disk.
    pub fn is_auto(&self) -> bool {
        self.is_auto.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set(&self, bytes: u64, is_auto: bool) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.is_auto.store(is_auto, Ordering::Relaxed);
    }
}

/// Half of the free space, the own data counted as free.
fn auto_bytes(disk: &dyn Disk) -> Result<u64, OpenError> {
    let failed = |error| OpenError::Io {
        what: "looking at the disk".to_owned(),
        error,
    };
    let free = disk.free_bytes().map_err(failed)?;
    let own: u64 = disk
        .walk(&|_| false)
        .map_err(failed)?
        .iter()
        .map(|entry| entry.allocated)
        .sum();
    Ok(half(free, own))
}

/// Half of what is free, the `own` bytes counted as free.
pub(super) fn half(free: u64, own: u64) -> u64 {
    (free.saturating_add(own) / 2).max(QUOTA_MIN_BYTES)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::base::ByteSize;
    use crate::store::MemDisk;

    #[test]
    fn by_default_it_is_half_of_what_is_free_without_the_own_data() {
        let disk = MemDisk::new(10 << 30);
        let live = |config: &Config| Live::resolve(config, &disk).unwrap();
        let default = Config::default();
        // Directories occupy something too.
        let is_half = || live(&default).bytes().abs_diff(5 << 30) < 64 << 10;
        assert!(is_half(), "{:?}", live(&default));
        assert!(live(&default).is_auto());
        // What this peer stores does not make it smaller.
        let file = disk.create("mine").unwrap();
        let bytes = vec![1; 64 << 20];
        file.write_at(0, &mut [IoSlice::new(&bytes)]).unwrap();
        assert!(disk.free_bytes().unwrap() <= (10 << 30) - (64 << 20));
        assert!(is_half(), "{:?}", live(&default));

        let mut fixed = Config::default();
        fixed.storage.quota = Quota::Bytes(ByteSize::gib(9));
        assert_eq!(live(&fixed).bytes(), 9 << 30);
        assert!(!live(&fixed).is_auto());
        let small = Live::resolve(&default, &MemDisk::new(1 << 20)).unwrap();
        assert_eq!(small.bytes(), QUOTA_MIN_BYTES);
    }
}
