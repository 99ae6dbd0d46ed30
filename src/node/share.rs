//! Volumes of several machines: tickets made and opened, and their members shown.

use std::sync::Arc;

use super::volumes::{Adopted, Record, Role, VolumesError, check_name, known_members};
use super::{Node, NodeError};
use crate::admin::AdminError;
use crate::admin::types::{
    VolumeInvited, VolumeMemberInfo, VolumeMembers, VolumeMembersRequest, VolumeOpen, VolumeOpened,
    VolumeTicketRequest,
};
use crate::base::{PeerId, VolumeId};
use crate::crypto::{SharedVolume, Terms, VolumeTerms, VolumeTicket};
use crate::feeds::Issued;

impl Node {
    /// The volume of a name, for who shares it or asks about it.
    pub(super) async fn record_of(&self, name: &str) -> Result<Record, AdminError> {
        let found = self.0.volumes.find(name).await?;
        Ok(found.ok_or_else(|| VolumesError::NotFound(name.to_owned()))?)
    }

    /// Makes a ticket; the first one makes the volume shared, and opens the network.
    pub(super) async fn invite_to_volume(
        &self,
        request: VolumeTicketRequest,
    ) -> Result<VolumeInvited, AdminError> {
        let VolumeTicketRequest {
            name, read_only, ..
        } = request;
        let record = self.record_of(&name).await?;
        if record.is_read_only() && !read_only {
            let error = AdminError::refused(format!("this peer may only read the volume `{name}`"));
            return Err(error.hint(format!(
                "a ticket for reading can be made: cairn volume ticket {name} --read-only"
            )));
        }
        if record.share.is_none() && !self.0.volumes.local().await?.contains(&record.id) {
            let error = AdminError::missing(format!(
                "the tree of the volume `{name}` is not on this machine, so there is nothing to share"
            ));
            return Err(error.hint("make the ticket on the machine that has it"));
        }
        let now_ms = self.0.clock.now_ms();
        let expires_ms = self.ticket_end(now_ms, request.expires_ms);
        let network = Terms {
            storage_only: false,
            independent: false,
            expires_ms,
        };
        let network = self.issue_ticket(network, now_ms).await?;
        let device = self.identity().device.clone();
        let entropy = &self.0.entropy;
        let (record, keys) = {
            let _changing = self.0.mounts.changing.lock().await;
            let shared = self.0.volumes.share(&name, &device, entropy).await?;
            self.shared_now(&name, &shared.0).await?;
            shared
        };
        let volume = SharedVolume {
            id: record.id,
            owner: keys.owner,
            name: name.clone(),
            claims: record.owner,
            profile: record.profile,
            secret: record.secret,
            keys: keys.keys,
        };
        let open = self.0.mounts.find(&name);
        let ended = match open.as_ref().map(|open| Arc::clone(&open.vfs)) {
            Some(vfs) => self.0.blocks.pools().disk.run(move || vfs.own_end()).await,
            None => None,
        };
        if let Some(end) = ended {
            let error = format!("{} revoked this peer: it lets nobody into `{name}`", end.by);
            return Err(AdminError::refused(error));
        }
        let terms = VolumeTerms {
            read_only,
            expires_ms,
        };
        let chain = &keys.chain;
        let ticket = VolumeTicket::issue(volume, chain, &device, terms, network, now_ms, entropy)
            .map_err(NodeError::from)?;
        let issued = Issued {
            chain: keys.chain,
            invitation: ticket.invitation().clone(),
        };
        self.0.volumes.keep_ticket(&issued, now_ms).await?;
        if let Some(open) = open {
            open.vfs.note_ticket(issued);
        }
        Ok(VolumeInvited {
            ticket: ticket.to_string(),
            name,
            read_only,
            expires_ms,
        })
    }

    /// Makes the volume of a ticket one of this machine. What stands in the way of that is told before the
    /// network is joined for it.
    pub(super) async fn open_ticket(
        &self,
        request: VolumeOpen,
    ) -> Result<VolumeOpened, AdminError> {
        let ticket = request.ticket.trim().parse::<VolumeTicket>();
        let ticket = ticket.map_err(|error| AdminError::usage(error.to_string()))?;
        let volume = ticket.volume();
        let name = request.name.as_ref().unwrap_or(&volume.name);
        let checked = check_name(name).map_err(AdminError::from);
        checked.map_err(|error| match request.name {
            Some(_) => error,
            None => error.hint("choose a name for it: --name NAME"),
        })?;
        let now_ms = self.0.clock.now_ms();
        let holds = ticket.accept(self.own(), now_ms);
        holds.map_err(NodeError::from)?;
        let listed = self.0.volumes.list().await?;
        let is_known = listed.iter().any(|(_, record)| record.id == volume.id);
        if !is_known && listed.iter().any(|(taken, _)| taken == name) {
            return Err(taken(name));
        }
        let network = ticket.network();
        let is_inside = self.identity().secrets.network == network.network();
        let joined = match is_inside {
            true => None,
            false => Some(self.enter(network, "volume open").await?),
        };
        let device = self.identity().device.clone();
        let _changing = self.0.mounts.changing.lock().await;
        let adopted = self.0.volumes.adopt(name, &ticket, &device, now_ms).await;
        let (name, record, adopted) = adopted.map_err(|error| match error {
            VolumesError::Exists(name) => taken(&name),
            error => error.into(),
        })?;
        Ok(VolumeOpened {
            volume: self.volume_info(name, &record, true),
            known: adopted != Adopted::New,
            improved: adopted == Adopted::Improved,
            joined,
        })
    }

    /// Who is known to be a member of a volume.
    pub(super) async fn show_members(
        &self,
        request: VolumeMembersRequest,
    ) -> Result<VolumeMembers, AdminError> {
        let record = self.record_of(&request.name).await?;
        let own = self.own();
        let members = match record.share_keys() {
            // Nobody was invited: it is this peer's alone.
            None => vec![VolumeMemberInfo {
                peer: own.to_string(),
                role: Role::Owner.name().to_owned(),
                invited_by: None,
                own: true,
                revoked: None,
            }],
            Some(keys) => {
                let (node, name) = (self.clone(), request.name.clone());
                let (owner, id) = (keys.owner, record.id);
                let own_chain = keys.chain.encode();
                let show = move || {
                    let known = node.parts_of(&name, owner);
                    known.unwrap_or_else(|| node.proved_members(&name, (id, owner), own_chain))
                };
                // Rows are read, and signatures checked.
                self.0.blocks.pools().disk.run(show).await
            }
        };
        let tickets = self.open_tickets(&request.name, &record).await?;
        Ok(VolumeMembers {
            name: request.name,
            members,
            tickets,
        })
    }

    /// Members of a volume that is open.
    fn parts_of(&self, name: &str, owner: PeerId) -> Option<Vec<VolumeMemberInfo>> {
        let open = self.0.mounts.find(name)?;
        self.known_parts(&open.vfs, owner)
    }

    /// Members of which this peer has a proof: its own, which leads over all that are between it and the owner, and
    /// those of everybody who wrote to the volume, if it is open.
    fn proved_members(
        &self,
        name: &str,
        (volume, owner): (VolumeId, PeerId),
        own_chain: Vec<u8>,
    ) -> Vec<VolumeMemberInfo> {
        let open = self.0.mounts.find(name);
        let told = open.and_then(|open| open.vfs.members().ok());
        let told = told.into_iter().flatten().flat_map(|(_, proofs)| proofs);
        let chains = std::iter::once(own_chain).chain(told.map(|proof| proof.to_vec()));
        let own = self.own();
        let members = known_members(volume, owner, chains, self.0.clock.now_ms()).into_iter();
        let shown = members.map(|member| VolumeMemberInfo {
            peer: member.device.to_string(),
            role: member.role.name().to_owned(),
            invited_by: member.invited_by.map(|peer| peer.to_string()),
            own: member.device == own,
            revoked: None,
        });
        shown.collect()
    }
}

fn taken(name: &str) -> AdminError {
    let error = VolumesError::Exists(name.to_owned());
    AdminError::of(&error).hint("call this one something else: --name NAME")
}
