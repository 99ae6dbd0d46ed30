//! Volumes of several machines: made shared, taken over from tickets, and who is known to be a member.

use std::collections::BTreeMap;

use super::record::{Record, Share, ShareKeys};
use super::{Volumes, VolumesError};
use crate::base::{Entropy, PeerId, VolumeId};
use crate::crypto::{
    ConvergenceSecret, EpochKey, SigningKey, VolumeChain, VolumeMember, VolumeTicket,
};

/// The epoch with which a shared volume begins.
const FIRST_EPOCH: u32 = 1;

/// What opening a ticket came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Adopted {
    /// The volume was not here.
    New,
    /// It was, and the ticket brought something: the right to write, newer keys, a place for its tree.
    Improved,
    /// It was, and nothing changed.
    Known,
}

impl Volumes {
    /// The volume of an id, whatever it is called here.
    async fn by_id(&self, id: VolumeId) -> Result<Option<(String, Record)>, VolumesError> {
        let all = self.list().await?;
        Ok(all.into_iter().find(|(_, record)| record.id == id))
    }

    /// Makes a volume one that others can be invited to, with this device as its owner. Once it is, nothing
    /// changes.
    pub async fn share(
        &self,
        name: &str,
        device: &SigningKey,
        entropy: &Entropy,
    ) -> Result<(Record, ShareKeys), VolumesError> {
        let missing = || VolumesError::NotFound(name.to_owned());
        let mut record = self.find(name).await?.ok_or_else(missing)?;
        if let Some(share) = &record.share {
            let keys = share.keys.clone();
            return Ok((record, keys));
        }
        let keys = ShareKeys {
            chain: VolumeChain::found(record.id, device),
            owner: device.peer(),
            keys: vec![(FIRST_EPOCH, EpochKey::generate(entropy))],
            read_only: false,
            ticket: None,
        };
        record.share = Some(Share {
            keys: keys.clone(),
            is_awaited: false,
        });
        self.write(name, Some(&record)).await?;
        Ok((record, keys))
    }

    /// Makes the volume of a ticket one of this machine, empty so far, under `name`. One that is here
    /// already keeps its name, and takes over what the ticket has more.
    pub async fn adopt(
        &self,
        name: &str,
        ticket: &VolumeTicket,
        device: &SigningKey,
        now_ms: u64,
    ) -> Result<(String, Record, Adopted), VolumesError> {
        let volume = ticket.volume();
        let mut chain = ticket.accept(device.peer(), now_ms)?;
        if device.peer() == volume.owner {
            // Needs nobody's invitation.
            chain = VolumeChain::found(volume.id, device);
        }
        // Keys are handed to the owner as such.
        let is_guest = device.peer() != volume.owner;
        let rights = (ticket.terms().read_only, is_guest.then(|| ticket.key()));
        let record = Record::adopted(volume, chain, rights, now_ms);
        if let Some((name, known)) = self.by_id(volume.id).await? {
            return self.improve(name, known, record, device.peer()).await;
        }
        let record = self.make(name, record).await?;
        Ok((name.to_owned(), record, Adopted::New))
    }

    /// The tree of a volume that was awaited is here.
    pub async fn arrived(&self, name: &str) -> Result<(), VolumesError> {
        if let Some(mut record) = self.find(name).await?
            && let Some(share) = &mut record.share
            && std::mem::take(&mut share.is_awaited)
        {
            self.write(name, Some(&record)).await?;
        }
        Ok(())
    }

    /// Keys of a volume that were handed out to this device, and the secret that belongs to the last of them. Whether
    /// that was anything new.
    pub async fn learn(
        &self,
        name: &str,
        keys: &[(u32, EpochKey)],
        secret: Option<&ConvergenceSecret>,
    ) -> Result<bool, VolumesError> {
        let Some(mut record) = self.find(name).await? else {
            return Ok(false);
        };
        let before = record.clone();
        let Some(share) = &mut record.share else {
            return Ok(false);
        };
        share.keys.learn(keys);
        if let (Some(secret), false) = (secret, share.keys.read_only) {
            record.secret = Some(secret.clone());
        }
        let is_new = record != before;
        if is_new {
            self.write(name, Some(&record)).await?;
        }
        Ok(is_new)
    }

    /// Takes over what a `fresh` record of the same volume has more.
    async fn improve(
        &self,
        name: String,
        before: Record,
        fresh: Record,
        device: PeerId,
    ) -> Result<(String, Record, Adopted), VolumesError> {
        let mut record = before.clone();
        match (&mut record.share, fresh.share) {
            (Some(share), Some(fresh_share)) if share.keys.owner == fresh_share.keys.owner => {
                let last = |keys: &ShareKeys| keys.keys.last().map(|(epoch, _)| *epoch);
                let is_newer = last(&fresh_share.keys) > last(&share.keys);
                share.keys.learn(&fresh_share.keys.keys);
                // The secret belongs to the last of the keys.
                if is_newer && !share.keys.read_only && fresh.secret.is_some() {
                    record.secret.clone_from(&fresh.secret);
                }
                if share.keys.ticket.is_none() || is_newer {
                    share.keys.ticket.clone_from(&fresh_share.keys.ticket);
                }
                if share.keys.read_only && !fresh_share.keys.read_only {
                    share.keys.chain = fresh_share.keys.chain;
                    share.keys.read_only = false;
                    share.keys.ticket = fresh_share.keys.ticket;
                    record.secret = fresh.secret;
                }
            }
            // It came with a backup of before it was shared: then this device made it, and can write.
            (share @ None, Some(mut fresh_share)) if fresh_share.keys.owner == device => {
                fresh_share.keys.read_only = false;
                fresh_share.is_awaited = false;
                *share = Some(fresh_share);
            }
            _ => return Err(VolumesError::OtherOwner(name)),
        }
        let is_local = self.local().await?.contains(&record.id);
        if let (false, Some(share)) = (is_local, &mut record.share) {
            share.is_awaited = true;
        }
        if record != before {
            self.write(&name, Some(&record)).await?;
        }
        // After the record, which says that nothing is in it: a crash in between is made up for by the next
        // opening.
        if !is_local {
            self.store.create_volume(record.id).await?;
        }
        let adopted = match is_local && record == before {
            true => Adopted::Known,
            false => Adopted::Improved,
        };
        Ok((name, record, adopted))
    }
}

/// What a member of a volume may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Role {
    /// It made the volume.
    Owner,
    /// It reads and writes.
    Writer,
    /// It only reads.
    Reader,
}

impl Role {
    /// Its name in the control API.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Writer => "writer",
            Role::Reader => "reader",
        }
    }
}

/// A member of a volume, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct KnownMember {
    pub device: PeerId,
    pub role: Role,
    /// Nobody invited the owner.
    pub invited_by: Option<PeerId>,
}

impl From<VolumeMember> for KnownMember {
    fn from(member: VolumeMember) -> Self {
        KnownMember {
            device: member.device,
            role: match member.read_only {
                _ if member.is_owner() => Role::Owner,
                true => Role::Reader,
                false => Role::Writer,
            },
            invited_by: member.inviter(),
        }
    }
}

/// The members of a volume that encoded chains prove, with all that are on the way to them: the owner first, then
/// those closest to it. Chains that prove nothing are passed over. Of a device with several counts the one
/// with which it may do most, then the shortest.
pub(in crate::node) fn known_members<C: AsRef<[u8]>>(
    volume: VolumeId,
    owner: PeerId,
    chains: impl IntoIterator<Item = C>,
    now_ms: u64,
) -> Vec<KnownMember> {
    let rank = |member: &VolumeMember| (member.read_only, member.ancestors.len());
    let mut best: BTreeMap<PeerId, VolumeMember> = BTreeMap::new();
    for chain in chains {
        let read = VolumeChain::decode(chain.as_ref());
        let members = match read.and_then(|chain| chain.members(volume, owner, now_ms)) {
            Ok(members) => members,
            Err(error) => {
                tracing::debug!("a member of the volume {volume}: {error}");
                continue;
            }
        };
        for member in members {
            let known = best.get(&member.device);
            if known.is_none_or(|known| rank(&member) < rank(known)) {
                best.insert(member.device, member);
            }
        }
    }
    let mut members: Vec<VolumeMember> = best.into_values().collect();
    members.sort_by_key(|member| member.ancestors.len());
    members.into_iter().map(KnownMember::from).collect()
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
