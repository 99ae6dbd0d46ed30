//! Members and tickets of a volume that are revoked, and what is told of those that are not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::mounts::OpenVolume;
use super::volumes::{Record, Role};
use crate::admin::AdminError;
use crate::admin::types::{
    VolumeEnd, VolumeMemberInfo, VolumeRevoke, VolumeRevoked, VolumeTicketInfo,
};
use crate::base::PeerId;
use crate::feeds::{Part, Subject};
use crate::vfs::{KnownPart, RevokeError, Vfs};

/// Fewest characters that name a member.
const PREFIX_MIN: usize = 4;
/// How often it is looked whether a ticket is a row by now.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

impl Node {
    /// Revokes a member or a ticket.
    pub(super) async fn revoke(&self, request: VolumeRevoke) -> Result<VolumeRevoked, AdminError> {
        let VolumeRevoke { name, member } = request;
        let record = self.record_of(&name).await?;
        if record.share.is_none() {
            let error = format!("nobody was ever invited to the volume `{name}`");
            return Err(AdminError::refused(error));
        }
        let Some(open) = self.0.mounts.find(&name).filter(|open| open.has_sharer()) else {
            let error = AdminError::refused(format!("the volume `{name}` is not mounted here"));
            return Err(error.hint(format!(
                "what is revoked is written down in the volume; mount it: cairn mount {name} DIR"
            )));
        };
        // A ticket that was just made becomes a row in a moment.
        let listed = self.open_tickets(&name, &record).await?;
        let is_listed = |id: &str| listed.iter().any(|ticket| ticket.id.starts_with(id));
        let mut tries = if is_listed(member.trim()) { TRIES } else { 0 };
        let subject = loop {
            match subject_of(&open.vfs, &name, &member) {
                Err(_) if tries > 0 => tokio::time::sleep(PAUSE).await,
                found => break found?,
            }
            tries -= 1;
        };
        let revoked = open.vfs.revoke(subject).await;
        let revoked = revoked.map_err(|error| refused(&error, &name))?;
        tracing::info!("in the volume `{name}` {subject} is revoked");
        self.publish_soon(open);
        Ok(VolumeRevoked {
            name,
            member: match subject {
                Subject::Device(device) => device.to_string(),
                Subject::Invitation(id) => id.to_string(),
            },
            is_ticket: matches!(subject, Subject::Invitation(_)),
            stay: revoked.heirs.iter().map(PeerId::to_string).collect(),
            handed: revoked.recipients as u64,
        })
    }

    /// Whoever is away finds the new keys beside a checkpoint.
    fn publish_soon(&self, open: Arc<OpenVolume>) {
        self.0.tasks.spawn(async move { open.publish().await });
    }

    /// Members of an open volume, the owner first, those who were revoked last; none where nothing more is known than
    /// their proofs tell.
    pub(super) fn known_parts(&self, vfs: &Vfs, owner: PeerId) -> Option<Vec<VolumeMemberInfo>> {
        let mut parts = vfs.parts();
        let is_known = |known: &KnownPart| known.part != Part::None;
        parts.retain(|known| is_known(known));
        if parts.is_empty() {
            return None;
        }
        parts.sort_by_key(|known| (!known.part.is_member(), known.depth));
        let own = self.own();
        let shown = parts.into_iter().map(|known| {
            let (role, end) = match known.part {
                _ if known.device == owner => (Role::Owner, None),
                Part::Reader => (Role::Reader, None),
                Part::Revoked {
                    by,
                    at_ms,
                    was_reader,
                } => match was_reader {
                    true => (Role::Reader, Some((by, at_ms))),
                    false => (Role::Writer, Some((by, at_ms))),
                },
                Part::Late { by } => (Role::Writer, Some((by, 0))),
                Part::None | Part::Writer => (Role::Writer, None),
            };
            VolumeMemberInfo {
                peer: known.device.to_string(),
                role: role.name().to_owned(),
                invited_by: known.invited_by.map(|peer| peer.to_string()),
                own: known.device == own,
                revoked: end.map(|(by, at_ms)| VolumeEnd {
                    by: by.to_string(),
                    at_ms,
                    refused: known.refused,
                }),
            }
        });
        Some(shown.collect())
    }

    /// Tickets of a volume that are open, as far as they are known here.
    pub(super) async fn open_tickets(
        &self,
        name: &str,
        record: &Record,
    ) -> Result<Vec<VolumeTicketInfo>, AdminError> {
        let Some(keys) = record.share_keys() else {
            return Ok(Vec::new());
        };
        let now_ms = self.0.clock.now_ms();
        let open = self.0.mounts.find(name);
        let ended = open.as_ref().map(|open| open.vfs.revocations());
        let mut found: BTreeMap<String, VolumeTicketInfo> = BTreeMap::new();
        for issued in self.0.volumes.tickets(record.id).await? {
            let Ok((invitation, _)) = issued.verify(record.id, keys.owner, now_ms) else {
                continue;
            };
            let subject = Subject::Invitation(invitation.id);
            let is_ended = ended.as_ref().is_some_and(|ended| ended.contains(&subject));
            if !is_ended && invitation.terms.expires_ms >= now_ms {
                found.insert(
                    invitation.id.to_string(),
                    VolumeTicketInfo {
                        id: invitation.id.to_string(),
                        by: invitation.inviter.to_string(),
                        read_only: invitation.terms.read_only,
                        expires_ms: invitation.terms.expires_ms,
                    },
                );
            }
        }
        let told = open.map(|open| open.vfs.tickets()).unwrap_or_default();
        for ticket in told {
            found.insert(
                ticket.id.to_string(),
                VolumeTicketInfo {
                    id: ticket.id.to_string(),
                    by: ticket.by.to_string(),
                    read_only: ticket.read_only,
                    expires_ms: ticket.expires_ms,
                },
            );
        }
        Ok(found.into_values().collect())
    }
}

/// Whom or what a text names, as `volume members` prints it.
fn subject_of(vfs: &Vfs, name: &str, text: &str) -> Result<Subject, AdminError> {
    let text = text.trim();
    let hint = format!("`cairn volume members {name}` lists all");
    if text.len() < PREFIX_MIN {
        let error = format!("`{text}` is too short to name a member");
        return Err(AdminError::usage(error).hint(hint));
    }
    let devices = vfs.parts().into_iter();
    let devices = devices.filter(|known| known.part != Part::None);
    let devices = devices.map(|known| (known.device.to_string(), Subject::Device(known.device)));
    let tickets = vfs.tickets().into_iter();
    let tickets = tickets.map(|ticket| (ticket.id.to_string(), Subject::Invitation(ticket.id)));
    let all = devices.chain(tickets).collect::<Vec<_>>();
    let found: Vec<_> = all.iter().filter(|(id, _)| id.starts_with(text)).collect();
    match found.as_slice() {
        [(_, subject)] => Ok(*subject),
        [] => {
            let error = format!("the volume `{name}` has no member and no open ticket `{text}`");
            Err(AdminError::missing(error).hint(hint))
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|(id, _)| id.as_str()).collect();
            let error = format!("`{text}` could be any of {}", ids.join(", "));
            Err(AdminError::usage(error).hint("give more of it"))
        }
    }
}

fn refused(error: &RevokeError, name: &str) -> AdminError {
    let shown = AdminError::of(error);
    match error {
        RevokeError::NotAbove(_) => shown.hint(format!(
            "`cairn volume members {name}` tells who invited whom"
        )),
        _ => shown,
    }
}
