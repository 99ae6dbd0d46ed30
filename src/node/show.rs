//! How a peer describes itself and others in the control API.

use std::sync::atomic::Ordering;

use super::Node;
use crate::admin::types::{LookupInfo, LsEntry, PeerInfo, QuotaInfo, Status, TrustInfo};
use crate::base::ByteSize;
use crate::dag::directory::printable;
use crate::dag::{Entry, EntryKind, Meta, NodeAt, Timestamp};
use crate::net::{LookupTotals, Member, Path, Reach};
use crate::repair::Trust;

impl Node {
    pub(super) async fn show_status(&self) -> Status {
        let inner = &self.0;
        let members = inner.net.members();
        let own = members.get(&self.own());
        let connected = members
            .list
            .iter()
            .filter(|member| matches!(member.state, Reach::Connected(_)))
            .count();
        let identity = self.identity().clone();
        Status {
            peer: self.own().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            data_dir: inner.options.data_dir.display().to_string(),
            network: identity
                .is_networked
                .then(|| identity.secrets.network.to_string()),
            addresses: own.map(|own| own.addresses.clone()).unwrap_or_default(),
            zone: own.map(|own| own.zone.clone()).unwrap_or_default(),
            storage_only: !identity.secrets.can_seal(),
            uptime_ms: inner.started.elapsed().as_millis() as u64,
            members: members.list.len() as u32,
            connected: connected as u32,
            knows_all: members.complete,
            lookups: lookups(&inner.net.lookups()),
            storage: self.show_quota(),
            workers: inner.workers.show(),
            volumes: self.show_volumes().await.unwrap_or_else(|error| {
                tracing::warn!("{error}");
                Vec::new()
            }),
            serves_mounts: self.serves_mounts(),
            health: Some(self.show_health()),
            drain: match inner.drain.is_draining() {
                true => Some(self.show_drain().await),
                false => None,
            },
            distrusted: members
                .list
                .iter()
                .filter(|member| {
                    let trust = inner.repair.trust(&member.peer);
                    trust.is_some_and(|trust| trust.is_displaced)
                })
                .map(|member| member.peer.to_string())
                .collect(),
        }
    }

    pub(super) fn show_quota(&self) -> QuotaInfo {
        let inner = &self.0;
        let usage = inner.store.usage();
        let used = usage.allocated.saturating_sub(usage.cached);
        let reserve_free = inner.options.config.storage.reserve_free;
        let intake_stopped = if usage.poisoned {
            Some("a write failed: restart this peer, and look at its disk".to_owned())
        } else if usage.intake_left > 0 {
            None
        } else if used >= usage.quota {
            Some(format!(
                "{} are used, more than the quota of {}",
                ByteSize(used),
                ByteSize(usage.quota)
            ))
        } else if usage.disk_free <= reserve_free.0 {
            Some(format!(
                "the disk has {} free, and {reserve_free} of it are left to others",
                ByteSize(usage.disk_free)
            ))
        } else {
            Some("the rest of the quota is kept for upkeep".to_owned())
        };
        QuotaInfo {
            quota_bytes: usage.quota,
            auto: inner.quota.is_auto(),
            used_bytes: used,
            cached_bytes: usage.cached,
            free_bytes: usage.intake_left,
            reserve_free_bytes: reserve_free.0,
            offer: inner.serving.offer.load(Ordering::Relaxed),
            intake_stopped,
        }
    }

    pub(super) fn show_peers(&self) -> Vec<PeerInfo> {
        let members = self.0.net.members();
        let own = self.own();
        let trust = |member: &Member| self.0.repair.trust(&member.peer).map(trust_info);
        let shown = members.list.iter().map(|member| PeerInfo {
            trust: trust(member),
            ..peer_info(member)
        });
        let mut peers: Vec<PeerInfo> = shown.collect();
        let own = own.to_string();
        peers.sort_by_key(|peer| peer.peer != own);
        peers
    }
}

fn lookups(totals: &LookupTotals) -> LookupInfo {
    LookupInfo {
        count: totals.count,
        hops: totals.hops,
        messages: totals.messages,
        record_bytes: totals.record_bytes,
        time_ms: totals.time.as_millis() as u64,
    }
}

fn peer_info(member: &Member) -> PeerInfo {
    let (state, path, away_since_ms) = match &member.state {
        Reach::Own => ("own", None, None),
        Reach::Connected(path) => ("connected", Some(path_name(*path)), None),
        Reach::Idle => ("idle", None, None),
        Reach::Away { since_ms } => ("away", None, Some(*since_ms)),
    };
    PeerInfo {
        peer: member.peer.to_string(),
        state: state.to_owned(),
        live: member.state.is_live(),
        path: path.map(ToOwned::to_owned),
        away_since_ms,
        addresses: member.addresses.clone(),
        capacity_bytes: member.capacity_bytes,
        free_bytes: member.free_bytes,
        leaving: member.is_leaving(),
        zone: member.zone.clone(),
        storage_only: member.storage_only,
        version: member.program.clone(),
        rtt_ms: member.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        trust: None,
    }
}

fn trust_info(trust: Trust) -> TrustInfo {
    let answers = trust.answers;
    TrustInfo {
        percent: trust.percent,
        displaced: trust.is_displaced,
        disbelieved: trust.is_disbelieved,
        checks: answers.all(),
        wrong: answers.wrong,
        lacking: answers.lacking,
        late: answers.late,
        damaged: answers.damaged,
        last_bad_ms: (answers.last_bad_ms > 0).then_some(answers.last_bad_ms),
        why: trust.why,
    }
}

const fn path_name(path: Path) -> &'static str {
    match path {
        Path::Bulk(_) => "bulk",
        Path::Tcp => "tcp",
        Path::Quic => "quic",
        Path::Memory => "memory",
    }
}

/// One line of `ls`.
pub(super) fn entry(entry: &Entry<NodeAt>) -> LsEntry {
    let mut shown = LsEntry::default();
    shown.set_name(&entry.name);
    let mut meta = |meta: &Meta| {
        shown.mode = u32::from(meta.mode);
        shown.mtime_ns = nanoseconds(&meta.mtime);
    };
    match &entry.kind {
        EntryKind::File {
            meta: file,
            content,
        } => {
            meta(file);
            shown.kind = "file".to_owned();
            shown.size_bytes = content.size;
        }
        EntryKind::Directory {
            meta: directory, ..
        } => {
            meta(directory);
            shown.kind = "directory".to_owned();
        }
        EntryKind::Symlink { mtime, target } => {
            shown.kind = "symlink".to_owned();
            shown.mtime_ns = nanoseconds(mtime);
            shown.target = Some(printable(target));
        }
        EntryKind::HardLink { first } => {
            shown.kind = "hardlink".to_owned();
            shown.target = Some(printable(first));
        }
    }
    shown
}

const fn nanoseconds(time: &Timestamp) -> i64 {
    time.seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(time.nanos as i64)
}
