//! The catalogue of volumes, as rows of the store.
//!
//! A row is *settled* while the volume is there as a whole. It is written unsettled before anything of the
//! volume is made, and is unsettled again before anything of it is removed. So an unsettled row is what a
//! crash in between leaves, and whoever finds one removes what there is. A volume without a row is never
//! touched: it may be all that is left of somebody's data.

mod record;
mod share;
mod tickets;

use std::collections::BTreeSet;

pub(super) use self::record::{Record, Share, ShareKeys};
pub(super) use self::share::{Adopted, Role, known_members};
use crate::admin::AdminError;
use crate::base::limits::VOLUME_NAME_MAX_BYTES;
use crate::base::wire::WireError;
use crate::base::{Class, Classify, Clock, EcProfile, Entropy, VolumeId};
use crate::blocks::Blocks;
use crate::crypto::ticket::TicketError;
use crate::store::{Store, StoreError, VolumeOpenError};
use crate::vfs::forsake;

/// The volume of a `mount` that names none.
pub(super) const DEFAULT_NAME: &str = "default";
/// Key-value space of the catalogue.
const VOLUMES: &str = "volumes";
/// Longest name of a volume; all its characters take one byte.
const NAME_MAX_CHARS: usize = VOLUME_NAME_MAX_BYTES;

/// Why the catalogue does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumesError {
    /// No name for a volume.
    #[error("`{name}` is no name for a volume: {why}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is one.
    #[error("there is a volume of the name `{0}` already")]
    Exists(String),
    /// There is none.
    #[error("there is no volume of the name `{0}`")]
    NotFound(String),
    /// The device that a ticket says made it is not the one that did.
    #[error("the ticket names another owner of the volume `{0}` than is known here")]
    OtherOwner(String),
    /// A ticket that does not hold, or no longer.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Its row cannot be read.
    #[error("the record of the volume `{name}`: {error}")]
    Record {
        /// Which.
        name: String,
        /// Why.
        error: WireError,
    },
    /// The rows.
    #[error("the list of volumes: {0}")]
    Store(#[from] StoreError),
    /// The volume itself.
    #[error(transparent)]
    Volume(#[from] VolumeOpenError),
}

impl Classify for VolumesError {
    fn class(&self) -> Class {
        match self {
            VolumesError::Name { .. }
            | VolumesError::Exists(_)
            | VolumesError::OtherOwner(_)
            | VolumesError::Ticket(_) => Class::Denied,
            VolumesError::NotFound(_) => Class::Missing,
            VolumesError::Record { error, .. } => match error {
                WireError::Version { .. } => Class::Denied,
                _ => Class::Corrupt,
            },
            VolumesError::Store(error) => error.class(),
            VolumesError::Volume(error) => error.class(),
        }
    }
}

impl From<VolumesError> for AdminError {
    fn from(error: VolumesError) -> Self {
        let shown = AdminError::of(&error);
        match error {
            VolumesError::Name { .. } => AdminError::usage(shown.error),
            VolumesError::NotFound(_) => {
                shown.hint("`cairn volume list` shows all, `cairn volume create NAME` makes one")
            }
            VolumesError::Exists(_) => shown.hint("choose another name"),
            VolumesError::OtherOwner(_) => shown.hint("ask a member whom you trust for a ticket"),
            VolumesError::Volume(VolumeOpenError::Full { .. }) => {
                shown.hint("raise the quota: cairn quota SIZE")
            }
            _ => shown,
        }
    }
}

/// Whether a volume can be called so.
pub(super) fn check_name(name: &str) -> Result<(), VolumesError> {
    let fail = |why: &str| {
        Err(VolumesError::Name {
            name: name.chars().take(NAME_MAX_CHARS + 1).collect(),
            why: why.to_owned(),
        })
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() {
        return fail("it is empty");
    }
    if name.chars().count() > NAME_MAX_CHARS {
        return fail(&format!("it is longer than {NAME_MAX_CHARS} characters"));
    }
    if let Some(other) = name.chars().find(|c| !is_allowed(*c)) {
        return fail(&format!(
            "it has {other:?}; only the letters a to z, digits, `.`, `_` and `-` will do"
        ));
    }
    if name.starts_with('-') {
        return fail("it begins with `-`, as an option does");
    }
    if name.starts_with('.') {
        return fail("it begins with `.`");
    }
    Ok(())
}

/// A record of a volume as it is read and written again; none if it is not one.
#[cfg(feature = "testkit")]
pub fn rewritten_record(bytes: &[u8]) -> Option<Vec<u8>> {
    Record::decode(bytes).ok().map(|record| record.encode())
}

/// The volumes of a data directory by name. Changes must come one at a time.
pub(super) struct Volumes {
    store: Store,
    blocks: Option<Blocks>,
}

impl Volumes {
    pub const fn new(store: Store) -> Self {
        Volumes {
            store,
            blocks: None,
        }
    }

    /// With a way to release what a volume that is removed keeps in the pool.
    pub fn with_blocks(mut self, blocks: Blocks) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// All rows, also unsettled ones, by name. What cannot be read is left out, and said.
    async fn rows(&self) -> Result<Vec<(String, Record)>, VolumesError> {
        let rows = self.store.kv_scan(VOLUMES, &[]).await?;
        let read = rows.iter().filter_map(|(key, row)| {
            let name = String::from_utf8_lossy(key).into_owned();
            match Record::decode(row) {
                Ok(record) => Some((name, record)),
                Err(error) => {
                    tracing::warn!("the record of the volume `{name}`: {error}");
                    None
                }
            }
        });
        Ok(read.collect())
    }

    /// All volumes, by name.
    pub async fn list(&self) -> Result<Vec<(String, Record)>, VolumesError> {
        let mut rows = self.rows().await?;
        rows.retain(|(_, record)| record.is_settled);
        Ok(rows)
    }

    /// The volumes whose trees are on this machine.
    pub async fn local(&self) -> Result<BTreeSet<VolumeId>, VolumesError> {
        Ok(self.store.volumes().await?.into_iter().collect())
    }

    async fn row(&self, name: &str) -> Result<Option<Record>, VolumesError> {
        let row = self.store.kv_get(VOLUMES, name.as_bytes()).await?;
        let decoded = row.map(|row| Record::decode(&row)).transpose();
        decoded.map_err(|error| VolumesError::Record {
            name: name.to_owned(),
            error,
        })
    }

    /// The volume of a name.
    pub async fn find(&self, name: &str) -> Result<Option<Record>, VolumesError> {
        check_name(name)?;
        Ok(self.row(name).await?.filter(|record| record.is_settled))
    }

    async fn write(&self, name: &str, record: Option<&Record>) -> Result<(), VolumesError> {
        let row = record.map(|record| record.encode().into());
        let change = (VOLUMES.to_owned(), name.as_bytes().to_vec(), row);
        Ok(self.store.kv_put(vec![change]).await?)
    }

    /// Makes an empty volume.
    pub async fn create(
        &self,
        name: &str,
        profile: EcProfile,
        clock: &Clock,
        entropy: &Entropy,
    ) -> Result<Record, VolumesError> {
        self.make(name, Record::new(profile, clock, entropy)).await
    }

    /// Makes the empty volume of an unsettled record.
    async fn make(&self, name: &str, mut record: Record) -> Result<Record, VolumesError> {
        check_name(name)?;
        match self.row(name).await? {
            Some(record) if record.is_settled => {
                return Err(VolumesError::Exists(name.to_owned()));
            }
            Some(record) => self.clear(name, &record).await?,
            None => {}
        }
        self.write(name, Some(&record)).await?;
        if let Err(error) = self.store.create_volume(record.id).await {
            // The first error is the one to tell; what is left is cleared at the next start.
            let _ = self.clear(name, &record).await;
            return Err(error.into());
        }
        record.is_settled = true;
        self.write(name, Some(&record)).await?;
        Ok(record)
    }

    /// Removes a volume that is not open.
    pub async fn remove(&self, name: &str) -> Result<Record, VolumesError> {
        let missing = || VolumesError::NotFound(name.to_owned());
        let mut record = self.find(name).await?.ok_or_else(missing)?;
        record.is_settled = false;
        self.write(name, Some(&record)).await?;
        self.clear(name, &record).await?;
        Ok(record)
    }

    /// Removes what there is of an unsettled volume, and its row last.
    async fn clear(&self, name: &str, record: &Record) -> Result<(), VolumesError> {
        // What a shared volume keeps in the pool is there for its other members too.
        if let Some(blocks) = &self.blocks
            && record.share.is_none()
            && let Err(error) = forsake(blocks, record.id, record.owner).await
        {
            // A damaged volume can be removed all the same; what it kept stays in the pool.
            tracing::warn!("what the volume `{name}` keeps in the pool is not released: {error}");
        }
        match self.store.remove_volume(record.id).await {
            Ok(()) | Err(VolumeOpenError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.forget_tickets(record.id).await?;
        self.write(name, None).await
    }

    /// Clears what a crash left in the middle of making or removing a volume.
    pub async fn tidy(&self) -> Result<(), VolumesError> {
        let rows = self.rows().await?;
        for (name, record) in rows.iter().filter(|(_, record)| !record.is_settled) {
            self.clear(name, record).await?;
            tracing::info!("removed what was left of the volume `{name}`");
        }
        for id in self.local().await? {
            if !rows.iter().any(|(_, record)| record.id == id) {
                tracing::warn!("the volume {id} in the data directory has no name here");
            }
        }
        Ok(())
    }

    /// All volumes as a backup keeps them: names and records.
    pub async fn export(&self) -> Result<Vec<(String, Vec<u8>)>, VolumesError> {
        let rows = self.list().await?;
        let rows = rows.into_iter();
        Ok(rows.map(|(name, record)| (name, record.encode())).collect())
    }

    /// Takes over what a backup kept. Rows that are there already stay.
    pub async fn import(&self, volumes: &[(String, Vec<u8>)]) -> Result<(), VolumesError> {
        for (name, record) in volumes {
            check_name(name)?;
            let decoded = Record::decode(record).map_err(|error| VolumesError::Record {
                name: name.clone(),
                error,
            });
            let mut record = decoded?;
            // A backup has no trees, but other members have this one's.
            if let Some(share) = &mut record.share {
                share.is_awaited = true;
            }
            if self.row(name).await?.is_none() {
                self.write(name, Some(&record)).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Pools;
    use crate::store::{RealDisk, StoreOptions};

    pub(super) struct Home {
        dir: tempfile::TempDir,
        clock: Clock,
        entropy: Entropy,
    }

    impl Home {
        pub(super) fn new() -> Home {
            Home {
                dir: tempfile::tempdir().unwrap(),
                clock: Clock::system(),
                entropy: Entropy::seeded(5),
            }
        }

        pub(super) async fn volumes(&self) -> Volumes {
            let disk = Arc::new(RealDisk::open(self.dir.path()).unwrap());
            let mut options = StoreOptions::new(1 << 30, self.entropy.fork());
            options.reserve_free_bytes = 0;
            let pools = Pools::threaded(1, 1);
            let opened = Store::open(disk, options, pools, self.clock.clone()).await;
            Volumes::new(opened.unwrap().0)
        }

        pub(super) async fn create(
            &self,
            volumes: &Volumes,
            name: &str,
        ) -> Result<Record, VolumesError> {
            let profile = EcProfile::DEFAULT;
            let made = volumes.create(name, profile, &self.clock, &self.entropy);
            made.await
        }
    }

    #[test]
    fn names_are_refused_with_a_reason() {
        let long = "a".repeat(65);
        for (name, why) in [
            ("", "empty"),
            (long.as_str(), "longer than 64"),
            ("a b", "' '"),
            ("a/b", "'/'"),
            ("ä", "'ä'"),
            ("a\n", "'\\n'"),
            ("-a", "`-`"),
            (".a", "`.`"),
            ("..", "`.`"),
        ] {
            let told = check_name(name).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
        for name in ["a", "default", "A_1.b-c", &"a".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[tokio::test]
    async fn volumes_are_made_listed_and_removed() {
        let home = Home::new();
        let volumes = home.volumes().await;
        assert!(volumes.list().await.unwrap().is_empty());
        let made = home.create(&volumes, "b").await.unwrap();
        home.create(&volumes, "a").await.unwrap();
        let again = home.create(&volumes, "a").await;
        assert!(matches!(again, Err(VolumesError::Exists(_))));
        volumes.store.clone().close().await.unwrap();
        drop(volumes);

        let volumes = home.volumes().await;
        let listed = volumes.list().await.unwrap();
        let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(listed[1].1 == made);
        assert!(volumes.local().await.unwrap().contains(&made.id));
        volumes.remove("b").await.unwrap();
        assert!(!volumes.local().await.unwrap().contains(&made.id));
        let gone = volumes.remove("b").await;
        assert!(matches!(gone, Err(VolumesError::NotFound(_))));
        assert!(volumes.find("b").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_a_crash_leaves_is_cleared_and_nothing_else() {
        let home = Home::new();
        let volumes = home.volumes().await;
        let whole = home.create(&volumes, "whole").await.unwrap();
        // Crashes: before anything was made, after it, and in the middle of a removal.
        let early = Record::new(EcProfile::DEFAULT, &home.clock, &home.entropy);
        volumes.write("early", Some(&early)).await.unwrap();
        let late = Record::new(EcProfile::DEFAULT, &home.clock, &home.entropy);
        volumes.write("late", Some(&late)).await.unwrap();
        volumes.store.create_volume(late.id).await.unwrap();
        let mut removed = home.create(&volumes, "removed").await.unwrap();
        removed.is_settled = false;
        volumes.write("removed", Some(&removed)).await.unwrap();
        // One whose row is lost: it stays.
        let nameless = VolumeId([7; 16]);
        volumes.store.create_volume(nameless).await.unwrap();

        assert_eq!(volumes.list().await.unwrap().len(), 1);
        let late_again = home.create(&volumes, "late").await.unwrap();
        assert!(late_again.id != late.id);
        volumes.tidy().await.unwrap();
        let local = volumes.local().await.unwrap();
        assert_eq!(local, [whole.id, late_again.id, nameless].into());
        let rows = volumes.rows().await.unwrap();
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["late", "whole"]);
    }

    #[tokio::test]
    async fn a_backup_brings_names_and_secrets_back_but_no_trees() {
        let (from, to) = (Home::new(), Home::new());
        let volumes = from.volumes().await;
        let made = from.create(&volumes, "a").await.unwrap();
        let kept = volumes.export().await.unwrap();
        let other = to.volumes().await;
        other.import(&kept).await.unwrap();
        assert!(other.find("a").await.unwrap().unwrap() == made);
        assert!(other.local().await.unwrap().is_empty());
        // It can be removed as any other.
        other.remove("a").await.unwrap();
        assert!(other.list().await.unwrap().is_empty());
        let bad = vec![("a/b".to_owned(), made.encode())];
        assert!(other.import(&bad).await.is_err());
    }
}
