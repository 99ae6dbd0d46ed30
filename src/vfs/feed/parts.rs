//! What an open volume tells of its members, tickets and keys; and those who only read, who have no feed in which they
//! could say anything: others say it for them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Shared;
use super::book::VolumeKeys;
use crate::base::PeerId;
use crate::crypto::member::InvitationId;
use crate::feeds::{Feed, Issued, Lineage, Part, Ruling, Subject, read_proof};
use crate::namespace::{WriterId, state};
use crate::vfs::inner::Inner;

/// Documents of somebody who only reads that become rows.
const READER_WORDS_MAX: usize = 1024;

/// What is known of a device that is, or was, a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPart {
    /// Which.
    pub device: PeerId,
    /// Its part.
    pub part: Part,
    /// Who invited it; nobody invited the owner.
    pub invited_by: Option<PeerId>,
    /// How many invitations it is away from the owner, at least.
    pub depth: usize,
    /// How many changes of it are here that are refused: those behind the end of its feeds.
    pub refused: u64,
}

/// A ticket that can still be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTicket {
    /// Its id.
    pub id: InvitationId,
    /// Who made it.
    pub by: PeerId,
    /// Whether it is for reading only.
    pub read_only: bool,
    /// Until when (ms since 1970).
    pub expires_ms: u64,
}

/// This device has no part in the volume any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnEnd {
    /// Who revoked it, or what it came through.
    pub by: PeerId,
    /// When (ms since 1970), by their clock; 0 if it was not revoked itself.
    pub at_ms: u64,
    /// Changes of it that the members did not take, as far as their words are here.
    pub untaken: u64,
}

impl crate::vfs::Vfs {
    /// Remembers a ticket that this device made, so that whoever makes new keys hands them to its holder as well.
    pub fn note_ticket(&self, issued: Issued) {
        if let Some(shared) = self.0.shared() {
            shared.add_pending(Ruling::Issued(issued));
        }
    }

    /// Everybody who is, or was, a member, as far as this replica knows; empty where nothing is known of how they came.
    pub fn parts(&self) -> Vec<KnownPart> {
        let Some(shared) = self.0.shared() else {
            return Vec::new();
        };
        let claims = shared.feeds().refused.clone();
        let Some(book) = shared.book() else {
            return Vec::new();
        };
        let known = book.standing.devices().map(|device| {
            let ways = book.standing.lineages(device).iter();
            let way = ways.min_by_key(|way| way.len());
            let before = way.and_then(|way| way.iter().rev().nth(1));
            let refused = claims.iter().filter(|(writer, _)| writer.peer == *device);
            let beyond =
                |(writer, last): (&WriterId, &u64)| last.saturating_sub(book.standing.end(writer));
            KnownPart {
                device: *device,
                part: book.standing.part(device),
                invited_by: before.map(|step| step.device),
                depth: way.map_or(0, Vec::len),
                refused: refused.map(beyond).sum(),
            }
        });
        known.collect()
    }

    /// Tickets by which somebody could join now.
    pub fn tickets(&self) -> Vec<KnownTicket> {
        let Some(book) = self.0.shared().and_then(Shared::book) else {
            return Vec::new();
        };
        let now_ms = self.0.now_ms();
        let open = book.standing.tickets().filter(|ticket| {
            let is_open = ticket.invitation.terms.expires_ms >= now_ms;
            is_open && book.standing.part_by_ticket(ticket).is_member()
        });
        let known = open.map(|ticket| KnownTicket {
            id: ticket.invitation.id,
            by: ticket.invitation.inviter,
            read_only: ticket.invitation.terms.read_only,
            expires_ms: ticket.invitation.terms.expires_ms,
        });
        known.collect()
    }

    /// What is revoked.
    pub fn revocations(&self) -> Vec<Subject> {
        let book = self.0.shared().and_then(Shared::book);
        book.map_or_else(Vec::new, |book| book.standing.revoked().to_vec())
    }

    /// That this device has no part any more, if that is so. Reads tables.
    pub fn own_end(&self) -> Option<OwnEnd> {
        self.0.own_end()
    }

    /// The keys of the volume as they are known now; none where nothing is known of how members came.
    pub fn keys(&self) -> Option<VolumeKeys> {
        Some(self.0.shared()?.book()?.volume_keys())
    }

    /// A receiver that sees every time that something about members or keys was learned.
    pub fn watch_keys(&self) -> Option<watch::Receiver<u64>> {
        Some(self.0.shared()?.learned.subscribe())
    }

    /// Whether deltas of a feed behind a dot are taken at all: not of a device that was revoked. What a peer claims to
    /// have besides is remembered.
    pub fn takes(&self, writer: WriterId, after: u64, claimed: u64) -> bool {
        let Some(shared) = self.0.shared() else {
            return true;
        };
        let mut feeds = shared.feeds();
        let cut = feeds.known.get(&writer).and_then(Feed::revoked_at);
        let is_taken = cut.is_none_or(|cut| after < cut);
        if !is_taken && writer != self.0.writer() {
            let known = feeds.refused.entry(writer).or_insert(0);
            *known = claimed.max(*known);
        }
        is_taken
    }

    /// What somebody who only reads has to say about itself, and about those who were revoked: it has no feed, so a
    /// member that writes says it for it.
    pub async fn reader_words(&self) -> Vec<(u8, Bytes)> {
        let is_reader = |shared: &Shared| shared.share.read_only;
        if !self.0.shared().is_some_and(is_reader) {
            return Vec::new();
        }
        let inner = Arc::clone(&self.0);
        let disk = &self.0.blocks.pools().disk;
        disk.run(move || inner.reader_words()).await
    }

    /// Takes what somebody who only reads says: see [`Vfs::reader_words`](crate::vfs::Vfs::reader_words). What is wrong
    /// is passed over.
    pub async fn hear_reader(&self, from: PeerId, words: Vec<(u8, Bytes)>) {
        let inner = Arc::clone(&self.0);
        let pools = self.0.blocks.pools();
        let read = pools.cpu.run(move || inner.read_words(from, &words)).await;
        if let Some(words) = read {
            let inner = Arc::clone(&self.0);
            let hear = move || inner.hear_reader(from, words);
            pools.disk.run(hear).await;
        }
    }
}

/// What somebody who only reads says of itself, of which all was checked that can be without the rows.
struct Words {
    proofs: Vec<(Bytes, Lineage)>,
    rulings: Vec<Ruling>,
}

impl Inner {
    fn own_end(&self) -> Option<OwnEnd> {
        let shared = self.shared()?;
        let last = shared
            .feeds()
            .known
            .get(&self.writer())
            .map_or(0, Feed::last);
        let _core = self.core();
        let version = state::version(&self.rows()).unwrap_or_default();
        let book = shared.book()?;
        let (by, at_ms) = match book.standing.part(&self.identity.peer) {
            Part::Revoked { by, at_ms, .. } => (by, at_ms),
            Part::Late { by } => (by, 0),
            _ => return None,
        };
        let last = last.max(version.get(&self.writer()));
        let untaken = last.saturating_sub(book.standing.end(&self.writer()));
        Some(OwnEnd { by, at_ms, untaken })
    }

    fn reader_words(&self) -> Vec<(u8, Bytes)> {
        let Some(shared) = self.shared() else {
            return Vec::new();
        };
        let feeds = shared.feeds();
        let _core = self.core();
        let Some(mut book) = shared.book() else {
            return Vec::new();
        };
        let mut words = Vec::new();
        if !book.has_proof(&shared.share.proof) {
            words.push((0, shared.share.proof.clone()));
        }
        if shared.is_out() {
            return words;
        }
        let rulings = self.own_words(shared, &feeds, &mut book);
        let pending = shared.pending(&book);
        let rulings = rulings.unwrap_or_default().into_iter().chain(pending);
        words.extend(rulings.map(|ruling| (ruling.kind() as u8, ruling.encode())));
        words
    }

    /// Checks signatures, so before anything is locked.
    fn read_words(&self, from: PeerId, words: &[(u8, Bytes)]) -> Option<Words> {
        if self.is_reader() {
            return None;
        }
        let (volume, now_ms) = (self.identity.id, self.now_ms());
        let owner = self.shared()?.book()?.standing.owner();
        let mut read = Words {
            proofs: Vec::new(),
            rulings: Vec::new(),
        };
        for (kind, bytes) in words {
            if *kind == 0 {
                let way = read_proof((volume, owner), from, bytes, now_ms);
                read.proofs.extend(way.ok().map(|way| (bytes.clone(), way)));
                continue;
            }
            let Ok(ruling) = Ruling::decode(volume, *kind, bytes) else {
                continue;
            };
            let is_own = match &ruling {
                Ruling::Cut(cut) => cut.by == from,
                Ruling::Heirs(heirs) => heirs.by == from,
                Ruling::Issued(issued) => issued
                    .verify(volume, owner, now_ms)
                    .is_ok_and(|(invitation, _)| invitation.inviter == from),
                Ruling::Revocation(_) | Ruling::Rotation(_) => false,
            };
            if is_own {
                read.rulings.push(ruling);
            }
        }
        Some(read)
    }

    fn hear_reader(&self, from: PeerId, words: Words) {
        let Some(shared) = self.shared() else { return };
        let mut feeds = shared.feeds();
        let mut core = self.core();
        let Some(book) = shared.book() else { return };
        let standing = &book.standing;
        let mut proofs = words.proofs;
        proofs.retain(|(_, way)| {
            let is_new = !standing.lineages(&from).contains(way);
            is_new && standing.part_with(&from, std::slice::from_ref(way)) == Part::Reader
        });
        let mut rulings = words.rulings;
        match standing.part(&from) == Part::Reader || !proofs.is_empty() {
            true => rulings.retain(|ruling| !book.has_row(ruling)),
            false => rulings.clear(),
        }
        // It writes nothing else, and this not without end.
        rulings.truncate(READER_WORDS_MAX.saturating_sub(book.said_by(&from)));
        drop(book);
        if !proofs.is_empty() {
            let said = self.change(&mut core, |edit| {
                let mut proofs = proofs.iter();
                proofs.try_for_each(|(proof, _)| edit.set_member(from, proof.clone()))
            });
            if said.is_err() {
                tracing::debug!(from = %from.short(), "that it is a member is said later");
            }
        }
        if self.write_down(&mut feeds, &mut core, rulings).is_err()
            || self.look_at_rules_with(&mut feeds, &core).is_err()
        {
            tracing::debug!(from = %from.short(), "what it says is written down later");
        }
    }
}
