//! Small files on their way in, packed together into chunks across directories.

use bytes::{Bytes, BytesMut};

use super::error::ContentError;
use super::extents_in::{SmallFile, extents_of};
use super::intake::{InFlight, Located, PendingExtent, Waiting as Members};
use super::seam::ChunkSink;
use crate::base::Pools;
use crate::chunk::{ChunkSizes, Packer, pack_mark};

/// Files are hashed and packed in batches of so many bytes ...
const BATCH_BYTES: usize = 1 << 20;
/// ... or so many files.
const BATCH_FILES: usize = 2048;
/// A pack is closed when the walk has come so far since its first file. Bounds what waits for it:
/// no directory can be written before its files are sealed.
const AGE_MAX: u64 = 8192;

struct Waiting {
    data: Vec<Bytes>,
    len: usize,
    at: Located,
    age: u64,
}

/// The pack that is being filled.
struct Open {
    sizes: ChunkSizes,
    packer: Packer,
    buffer: BytesMut,
    members: Members,
    /// Age of its first file.
    since: u64,
}

type Pack = (Bytes, Members);

/// Packs small files in the order in which they come.
pub(super) struct Packs {
    batch: Vec<Waiting>,
    batch_bytes: usize,
    open: Option<Open>,
    sizes: ChunkSizes,
}

impl Packs {
    pub const fn new(sizes: ChunkSizes) -> Self {
        Packs {
            batch: Vec::new(),
            batch_bytes: 0,
            open: None,
            sizes,
        }
    }

    /// Takes a file; `age` tells how far the walk has come. Its extents resolve when its pack is
    /// sealed.
    pub async fn add<K: ChunkSink>(
        &mut self,
        mut file: SmallFile,
        age: u64,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<Vec<PendingExtent>, ContentError> {
        if file.data_len == 0 {
            return Ok(Vec::new());
        }
        let at = Located::default();
        let extents = extents_of(&mut file.runs, file.data_len as u64, &at);
        self.batch_bytes += file.data_len;
        self.batch.push(Waiting {
            data: file.data,
            len: file.data_len,
            at,
            age,
        });
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
            self.pack(false, age, pools, chunks).await?;
        }
        Ok(extents)
    }

    /// Closes the pack if the walk has left it behind.
    pub async fn retire<K: ChunkSink>(
        &mut self,
        age: u64,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<(), ContentError> {
        let oldest = match &self.open {
            Some(open) if !open.members.is_empty() => Some(open.since),
            _ => self.batch.first().map(|file| file.age),
        };
        match oldest {
            Some(oldest) if age - oldest >= AGE_MAX => self.pack(false, age, pools, chunks).await,
            _ => Ok(()),
        }
    }

    /// Closes the pack: no more files will come.
    pub async fn finish<K: ChunkSink>(
        &mut self,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<(), ContentError> {
        self.pack(true, 0, pools, chunks).await
    }

    async fn pack<K: ChunkSink>(
        &mut self,
        last: bool,
        age: u64,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<(), ContentError> {
        let files = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(self.sizes),
        };
        let (open, packs) = pools
            .cpu
            .run(move || {
                let mut packs = Vec::new();
                for file in files {
                    open.add(&file, &mut packs);
                }
                if last || open.is_stale(age) {
                    open.close(&mut packs);
                }
                (open, packs)
            })
            .await;
        self.open = Some(open);
        for (chunk, members) in packs {
            chunks.submit(chunk, members).await?;
        }
        Ok(())
    }
}

impl Open {
    fn new(sizes: ChunkSizes) -> Self {
        Open {
            sizes,
            packer: Packer::new(sizes),
            buffer: BytesMut::new(),
            members: Vec::new(),
            since: 0,
        }
    }

    /// Decided by the walk alone, so it is the same whether anybody asks in between or not.
    const fn is_stale(&self, age: u64) -> bool {
        !self.members.is_empty() && age - self.since >= AGE_MAX
    }

    fn add(&mut self, file: &Waiting, packs: &mut Vec<Pack>) {
        if self.is_stale(file.age) {
            self.close(packs);
        }
        let start = self.buffer.len();
        for piece in &file.data {
            self.buffer.extend_from_slice(piece);
        }
        let mark = pack_mark(self.buffer.get(start..).unwrap_or_default());
        let slot = self.packer.place(file.len, mark);
        if slot.starts_pack && start > 0 {
            let tail = self.buffer.split_off(start);
            self.emit(packs);
            self.buffer.extend_from_slice(&tail);
        }
        if self.members.is_empty() {
            self.since = file.age;
        }
        self.members
            .push((Located::clone(&file.at), slot.offset as u32));
        if slot.ends_pack {
            self.emit(packs);
        }
    }

    fn close(&mut self, packs: &mut Vec<Pack>) {
        self.packer = Packer::new(self.sizes);
        if !self.members.is_empty() {
            self.emit(packs);
        }
    }

    fn emit(&mut self, packs: &mut Vec<Pack>) {
        let empty = BytesMut::with_capacity(self.sizes.max());
        let buffer = std::mem::replace(&mut self.buffer, empty);
        packs.push((buffer.freeze(), std::mem::take(&mut self.members)));
    }
}
