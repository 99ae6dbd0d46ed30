//! What a volume remembers of who votes on its locks, and of what was released under them.

use std::sync::Arc;

use super::VfsError;
use super::errno::Stop;
use super::inner::Inner;
use super::rows::{OWN, pages};
use crate::base::PeerId;
use crate::feeds::{FeedError, Signed, VOTERS_ROW, VoterList};
use crate::namespace::{Key, Rows, Value, VersionVector, WriterId};
use crate::store::{Group, VolumeError};

/// The row with the list of voters that this machine goes by.
const VOTERS: &[u8] = b"voters";
/// What rows begin with that say up to where a feed must be merged by whoever has a lock.
const RELEASED: &[u8] = b"released";
/// Rows read at once.
const PAGE: usize = 512;

fn released_key(writer: WriterId) -> Vec<u8> {
    [RELEASED, &writer.peer.0, &writer.incarnation.to_be_bytes()].concat()
}

fn damaged() -> VfsError {
    VolumeError::Io("a row about locks is damaged".to_owned()).into()
}

fn read_released(key: &[u8], value: &[u8]) -> Option<(WriterId, u64)> {
    let rest = key.strip_prefix(RELEASED)?;
    let (peer, incarnation) = rest.split_first_chunk::<32>()?;
    let writer = WriterId {
        peer: PeerId(*peer),
        incarnation: u64::from_be_bytes(incarnation.try_into().ok()?),
    };
    Some((writer, u64::from_be_bytes(value.try_into().ok()?)))
}

impl Inner {
    /// A list of the owner of this volume.
    fn is_of_owner(&self, list: &VoterList) -> bool {
        let owner = self.shared().map(|shared| shared.share.owner);
        list.volume == self.identity.id && owner == Some(list.owner)
    }

    fn decoded(&self, bytes: &[u8]) -> Option<Signed<VoterList>> {
        let list = Signed::<VoterList>::decode(bytes).ok()?;
        self.is_of_owner(&list).then_some(list)
    }
}

impl super::Vfs {
    /// What everybody who has a lock must have merged, as this machine remembers it. Reads tables.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn released(&self) -> Result<VersionVector, VfsError> {
        let mut released = VersionVector::default();
        for page in pages(&self.0.volume, OWN, RELEASED, PAGE) {
            for (key, value) in page? {
                let (writer, dot) = read_released(&key, &value).ok_or_else(damaged)?;
                released.raise(writer, dot);
            }
        }
        Ok(released)
    }

    /// Remembers what was released, on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn keep_released(&self, released: VersionVector) -> Result<(), VfsError> {
        let inner = Arc::clone(&self.0);
        let disk = &self.0.blocks.pools().disk;
        let written = disk.run(move || {
            let mut group = Group::new();
            for (writer, dot) in released.iter() {
                let key = released_key(*writer);
                let before = inner.volume.get(OWN, &key)?;
                let before = before.and_then(|row| row[..].try_into().ok());
                if before.map_or(0, u64::from_be_bytes) < dot {
                    group.put(OWN, &key, &dot.to_be_bytes());
                }
            }
            if !group.is_empty() {
                inner.volume.apply(&group)?;
            }
            Ok::<(), VolumeError>(())
        });
        written.await?;
        Ok(self.0.volume.sync_all().await?)
    }

    /// The last list of voters that this machine knows: it went by it, or it came with the namespace. Reads tables.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn known_voters(&self) -> Result<Option<Signed<VoterList>>, VfsError> {
        let inner = &self.0;
        let mut known = match inner.volume.get(OWN, VOTERS)? {
            Some(row) => Some(inner.decoded(&row).ok_or_else(damaged)?),
            None => None,
        };
        let row = {
            let _core = inner.core();
            inner.rows().siblings(&Key::Member(VOTERS_ROW))?
        };
        for sibling in row.iter() {
            if let Value::Member(bytes) = &sibling.value
                && let Some(list) = inner.decoded(bytes)
                && known
                    .as_ref()
                    .is_none_or(|known| known.number < list.number)
            {
                known = Some(list);
            }
        }
        Ok(known)
    }

    /// Remembers the list of voters to go by, on the disk.
    ///
    /// # Errors
    /// If it is not of this volume's owner, or cannot be written.
    pub async fn keep_voters(&self, list: &Signed<VoterList>) -> Result<(), VfsError> {
        if !self.0.is_of_owner(list) {
            return Err(VfsError::Unsupported(
                "a list of voters that the owner of the volume did not sign",
            ));
        }
        let (inner, row) = (Arc::clone(&self.0), list.encode());
        let disk = &self.0.blocks.pools().disk;
        let written = disk.run(move || {
            let mut group = Group::new();
            group.put(OWN, VOTERS, &row);
            inner.volume.apply(&group)
        });
        written.await?;
        Ok(self.0.volume.sync_all().await?)
    }

    /// Whose volume it is, where others take part.
    pub fn owner(&self) -> Option<PeerId> {
        self.0.shared().map(|shared| shared.share.owner)
    }

    /// Signs a list of voters, as the owner.
    ///
    /// # Errors
    /// If this device is not the owner's.
    pub fn sign_voters(
        &self,
        number: u64,
        voters: Vec<PeerId>,
        previous: Vec<PeerId>,
    ) -> Result<Signed<VoterList>, FeedError> {
        let Some(shared) = self.0.shared() else {
            return Err(FeedError::Misuse("voters of a volume of one machine"));
        };
        let list = VoterList {
            volume: self.0.identity.id,
            owner: shared.share.owner,
            number,
            voters,
            previous,
        };
        Signed::sign(list, &shared.share.device)
    }

    /// Tells all members who votes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn publish_voters(&self, list: &Signed<VoterList>) -> Result<(), VfsError> {
        let bytes = bytes::Bytes::from(list.encode());
        loop {
            let inner = &self.0;
            let written = {
                let mut core = inner.core();
                let row = inner.rows().siblings(&Key::Member(VOTERS_ROW))?;
                let is_said = row
                    .iter()
                    .any(|sibling| matches!(&sibling.value, Value::Member(said) if *said == bytes));
                match is_said {
                    true => return Ok(()),
                    false => {
                        inner.change(&mut core, |edit| edit.set_member(VOTERS_ROW, bytes.clone()))
                    }
                }
            };
            match written {
                Ok(_) => return Ok(()),
                Err(Stop::Busy) if inner.room().await.is_ok() => {}
                Err(_) => {
                    return Err(VfsError::Unready("its voters cannot be written".to_owned()));
                }
            }
        }
    }

    /// What this replica has merged. Reads tables.
    pub fn merged(&self) -> VersionVector {
        self.0.merged_version()
    }

    /// How far a feed was merged here, and, if that is asked for, is on the disk.
    ///
    /// # Errors
    /// If it cannot be brought to the disk.
    pub async fn merged_upto(&self, writer: WriterId, on_disk: bool) -> Result<u64, VfsError> {
        let own = self.0.writer();
        let last = self
            .0
            .shared()
            .map_or(0, |shared| shared.last_of(own, writer));
        if on_disk {
            self.0.volume.sync_all().await?;
        }
        Ok(last)
    }

    /// Milliseconds since 1970, by this machine's clock.
    pub fn wall_ms(&self) -> u64 {
        self.0.now_ms()
    }

    /// From now on others are asked through this; once.
    pub fn agree_with(&self, others: Arc<dyn super::Agreement>) {
        if let Some(shared) = self.0.shared() {
            shared.agree_with(others);
        }
    }
}
