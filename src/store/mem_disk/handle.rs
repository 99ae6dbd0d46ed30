//! An open file of a memory disk.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::file::Change;
use super::{DiskOp, MemDisk};
use crate::store::disk::DiskFile;

/// One file of a [`MemDisk`].
#[derive(Debug)]
pub(super) struct MemFile {
    pub(super) disk: MemDisk,
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) _handle: Arc<()>,
}

impl MemFile {
    fn change(&self, op: DiskOp, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let verdict = state.before(op, &self.name);
        if let Err((error, power_failed)) = verdict {
            // The write that the power cut interrupts may have reached the medium in part.
            if power_failed && let Ok(file) = state.file(self.id) {
                file.change(change);
            }
            return Err(error);
        }
        if let Change::Write { bytes, .. } = &change {
            state.bytes_written += bytes.len() as u64;
            if state.used() + bytes.len() as u64 > state.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        state.file(self.id)?.change(change);
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.id)?.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.read_vec(offset, buffer.len())?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut state = self.disk.state();
        state
            .before(DiskOp::Read, &self.name)
            .map_err(|(error, _)| error)?;
        let is_broken = state.broken.as_ref().is_some_and(|(name, range)| {
            *name == self.name && offset < range.end && range.start < offset + len as u64
        });
        if is_broken {
            return Err(io::ErrorKind::Other.into());
        }
        let file = state.file(self.id)?;
        let start = (offset as usize).min(file.bytes.len());
        let end = start.saturating_add(len).min(file.bytes.len());
        let bytes = file.bytes[start..end].to_vec();
        let name = file.name.clone();
        *state.bytes_read.entry(name).or_default() += bytes.len() as u64;
        Ok(bytes)
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let at = offset as usize;
        self.change(DiskOp::Write, Change::Write { at, bytes })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.before(DiskOp::Sync, &self.name) {
            Ok(()) => state.file(self.id)?.synced(),
            Err((error, power_failed)) => {
                if !power_failed && let Ok(file) = state.file(self.id) {
                    file.doom();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(DiskOp::SetLen, Change::SetLen(len as usize))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let (at, len) = (offset as usize, len as usize);
        self.change(DiskOp::Punch, Change::Punch { at, len })
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.id)?.allocated())
    }
}
