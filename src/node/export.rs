//! The backup of a peer: its identity, its list of puts and the names and secrets of its volumes, sealed
//! with a passphrase.

use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::catalogue::{Entry, PUTS};
use super::identity::{Identity, IdentityError};
use super::volumes::Volumes;
use super::{Node, NodeError, NodeOptions, quota};
use crate::admin::AdminError;
use crate::admin::types::{KeyExportRequest, KeyExported, KeyImported};
use crate::base::{Clock, Entropy, Pools, wire};
use crate::crypto::passphrase::{Cost, open_container, seal_container};
use crate::store::{RealDisk, Store, StoreOptions};

/// First line of an export, for people and tools.
const HEADING: &str = "cairn key backup: keep this file and its passphrase apart";
/// Characters on a line.
const LINE: usize = 76;
/// Largest backup that is read: a million puts.
const BACKUP_MAX_BYTES: usize = 512 << 20;

#[derive(Serialize, Deserialize)]
struct Backup {
    #[serde(with = "serde_bytes")]
    identity: Vec<u8>,
    puts: Vec<Entry>,
    /// Older backups have none.
    #[serde(default)]
    volumes: Vec<VolumeRow>,
}

/// A row of the catalogue of volumes.
#[derive(Serialize, Deserialize)]
struct VolumeRow {
    name: String,
    #[serde(with = "serde_bytes")]
    record: Vec<u8>,
}

impl Node {
    /// Seals identity, secrets and list.
    pub(super) async fn export(
        &self,
        request: KeyExportRequest,
    ) -> Result<KeyExported, AdminError> {
        let puts = self.catalogue().await?;
        let volumes = self.0.volumes.export().await?.into_iter();
        let volumes = volumes.map(|(name, record)| VolumeRow { name, record });
        let backup = wire::encode(&Backup {
            identity: self.identity().encode(),
            puts,
            volumes: volumes.collect(),
        });
        let entropy = self.0.entropy.clone();
        let sealed = self
            .0
            .blocks
            .pools()
            .cpu
            .run(move || seal_container(&backup, &request.passphrase, Cost::default(), &entropy))
            .await
            .map_err(|error| AdminError::of(&error))?;
        let mut text = format!("{HEADING}\n");
        let encoded = BASE64.encode(&sealed);
        for line in encoded.as_bytes().chunks(LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        Ok(KeyExported {
            sealed: text,
            peer: self.own().to_string(),
        })
    }
}

/// Restores a backup into a data directory that has no identity. The caller holds its lock.
pub async fn import(
    options: NodeOptions,
    sealed: String,
    passphrase: String,
) -> Result<KeyImported, AdminError> {
    let dir = options.data_dir.clone();
    if Identity::load(&dir).map_err(NodeError::from)?.is_some() {
        return Err(NodeError::from(IdentityError::Exists { dir }).into());
    }
    let backup = tokio::task::spawn_blocking(move || open(&sealed, &passphrase))
        .await
        .map_err(|error| AdminError::failed(error.to_string()))??;
    let Some(identity) = Identity::decode(&backup.identity).map_err(NodeError::from)? else {
        return Err(AdminError::failed("the identity in the backup is damaged"));
    };
    let links = backup.puts.len() as u64;
    let volumes: Vec<(String, Vec<u8>)> = backup
        .volumes
        .into_iter()
        .map(|row| (row.name, row.record))
        .collect();
    restore_lists(&options, &backup.puts, &volumes).await?;
    // Last: until then the import can simply be done again.
    identity.save(&dir).map_err(NodeError::from)?;
    Ok(KeyImported {
        peer: identity.peer().to_string(),
        network: identity
            .is_networked
            .then(|| identity.secrets.network.to_string()),
        links,
        volumes: volumes.len() as u64,
    })
}

fn open(text: &str, passphrase: &str) -> Result<Backup, AdminError> {
    let not_one = || AdminError::usage("this is not a key backup");
    let body = text
        .trim_start()
        .strip_prefix(HEADING)
        .ok_or_else(not_one)?;
    let packed: String = body.split_whitespace().collect();
    let sealed = BASE64
        .decode(packed.as_bytes())
        .map_err(|_| AdminError::usage("the key backup is damaged or cut short"))?;
    let bytes = open_container(&sealed, passphrase).map_err(|error| AdminError::of(&error))?;
    wire::decode(&bytes, BACKUP_MAX_BYTES)
        .map_err(|error| AdminError::failed(format!("the key backup: {error}")))
}

async fn restore_lists(
    options: &NodeOptions,
    puts: &[Entry],
    volumes: &[(String, Vec<u8>)],
) -> Result<(), AdminError> {
    let entropy = Entropy::os().map_err(NodeError::Entropy)?;
    let disk = RealDisk::open(Path::new(&options.data_dir)).map_err(NodeError::from)?;
    let quota = quota::Live::resolve(&options.config, &disk)?;
    let store_options = StoreOptions::new(quota.bytes(), entropy);
    let pools = Pools::threaded(1, 1);
    let opened = Store::open(Arc::new(disk), store_options, pools, Clock::system()).await;
    let (store, _) = opened.map_err(NodeError::from)?;
    for batch in puts.chunks(1000) {
        let rows = batch
            .iter()
            .map(|put| (PUTS.to_owned(), put.key(), Some(put.encode().into())))
            .collect();
        store.kv_put(rows).await.map_err(NodeError::from)?;
    }
    Volumes::new(store.clone()).import(volumes).await?;
    Ok(store.close().await.map_err(NodeError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it was before there were volumes.
    #[derive(Serialize)]
    struct OldBackup {
        #[serde(with = "serde_bytes")]
        identity: Vec<u8>,
        puts: Vec<Entry>,
    }

    #[test]
    fn backups_without_volumes_are_read() {
        let entry = Entry {
            link: "cairn:x".to_owned(),
            name: "x".to_owned(),
            is_tree: false,
            size_bytes: 1,
            put_ms: 2,
            claim: None,
            expires_ms: None,
            removed_ms: None,
        };
        let old = wire::encode(&OldBackup {
            identity: vec![1, 2, 3],
            puts: vec![entry.clone()],
        });
        let read: Backup = wire::decode(&old, BACKUP_MAX_BYTES).unwrap();
        assert_eq!(read.identity, [1, 2, 3]);
        assert_eq!(read.puts, [entry]);
        assert!(read.volumes.is_empty());
    }
}
