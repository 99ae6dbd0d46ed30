//! Revoking: all that is to be said about it, and new keys for those who remain, is one change of the volume.

use std::sync::Arc;

use super::book::Book;
use super::{Feeds, Shared};
use crate::base::{Class, Classify, PeerId};
use crate::feeds::{FeedError, Revocation, Ruling, Signed, Subject};
use crate::vfs::VfsError;
use crate::vfs::errno::Stop;
use crate::vfs::inner::Inner;

/// Why nobody was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Others have no part in the volume, or nothing is known of how they came.
    #[error("the volume has no members who could be revoked")]
    Alone,
    /// This device may only read, or was revoked itself.
    #[error("this peer may only read the volume: it revokes nobody")]
    Reader,
    /// Nothing of the kind is known.
    #[error("{0} is not known as a member, or as a ticket, of the volume")]
    Unknown(Subject),
    /// The owner.
    #[error("nobody can revoke {0}: it made the volume")]
    Owner(PeerId),
    /// Somebody else invited it.
    #[error(
        "{0} was invited by others, and can be revoked only by them, those who invited them, or the owner"
    )]
    NotAbove(Subject),
    /// It is done.
    #[error("{0} is revoked already")]
    Already(Subject),
    /// Signing it.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// Writing it down.
    #[error("the revocation cannot be written down: {0}")]
    Rows(cairnfs_fuse::Errno),
    /// The local engine.
    #[error(transparent)]
    Vfs(#[from] VfsError),
}

impl Classify for RevokeError {
    fn class(&self) -> Class {
        match self {
            RevokeError::Unknown(_) => Class::Missing,
            RevokeError::Feed(error) => error.class(),
            RevokeError::Vfs(error) => error.class(),
            RevokeError::Rows(_) => Class::Retry,
            _ => Class::Denied,
        }
    }
}

/// Somebody was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Name of the epoch that begins with it.
    pub epoch: u32,
    /// How many members and holders of tickets were handed its keys.
    pub recipients: usize,
    /// Devices that came through it, and stay members.
    pub heirs: Vec<PeerId>,
}

impl Inner {
    /// See [`Vfs::revoke`](crate::vfs::Vfs::revoke).
    fn revoke(&self, subject: Subject) -> Result<Revoked, RevokeError> {
        let shared = self.shared().ok_or(RevokeError::Alone)?;
        if shared.share.read_only || shared.is_out() {
            return Err(RevokeError::Reader);
        }
        let mut feeds = shared.feeds();
        let mut core = self.core();
        self.look_at_rules_with(&mut feeds, &core)
            .map_err(|stop| RevokeError::Rows(errno_of(&stop)))?;
        let own = self.identity.peer;
        let now_ms = self.now_ms();
        let (rulings, revoked) = {
            let mut book = shared.book().ok_or(RevokeError::Alone)?;
            let before = book.standing.clone();
            check(&before, subject, own)?;
            // Whoever is revoked still has the ticket by which it came.
            let mut revocations = Vec::new();
            for subject in before.with_invitations(subject) {
                let revocation = Revocation {
                    volume: self.identity.id,
                    by: own,
                    subject,
                    at_ms: now_ms,
                };
                let signed = Signed::sign(revocation, &shared.share.device)?;
                revocations.push(Ruling::Revocation(signed));
            }
            // What follows from it is made as if it were known.
            for revocation in &revocations {
                book.standing.add(&[own], revocation, now_ms);
            }
            let made = match book.standing.is_revoked(&subject) {
                false => Err(RevokeError::NotAbove(subject)),
                true => self.make_revocation(shared, &feeds, &mut book, subject, revocations),
            };
            book.standing = before;
            made?
        };
        let written = self.write_down(&mut feeds, &mut core, rulings);
        written.map_err(|stop| RevokeError::Rows(errno_of(&stop)))?;
        Ok(revoked)
    }

    fn make_revocation(
        &self,
        shared: &Shared,
        feeds: &Feeds,
        book: &mut Book,
        subject: Subject,
        revocations: Vec<Ruling>,
    ) -> Result<(Vec<Ruling>, Revoked), RevokeError> {
        let heirs: Vec<PeerId> = book.standing.comers(&subject).into_iter().collect();
        let mut rulings = self.own_words(shared, feeds, book)?;
        // Those who had come get the new keys too: this member's word about them is one of the documents.
        for ruling in &rulings {
            book.standing
                .add(&[self.identity.peer], ruling, self.now_ms());
        }
        let (epoch, keys, recipients) = self.rotation(shared, book)?;
        rulings.extend(revocations);
        rulings.extend(keys);
        let heirs = heirs.into_iter();
        let heirs = heirs.filter(|heir| book.standing.part(heir).is_member());
        let revoked = Revoked {
            epoch,
            recipients,
            heirs: heirs.collect(),
        };
        Ok((rulings, revoked))
    }
}

fn check(
    standing: &crate::feeds::Standing,
    subject: Subject,
    own: PeerId,
) -> Result<(), RevokeError> {
    let is_known = match &subject {
        Subject::Device(device) if *device == standing.owner() => {
            return Err(RevokeError::Owner(*device));
        }
        Subject::Device(device) => standing.is_known(device),
        Subject::Invitation(id) => {
            standing.tickets_of(*id).next().is_some() || !standing.comers(&subject).is_empty()
        }
    };
    if !is_known {
        return Err(RevokeError::Unknown(subject));
    }
    let is_done = match &subject {
        Subject::Device(_) => standing.is_revoked(&subject),
        // Somebody else may have made a ticket of the same id, and revoked that.
        Subject::Invitation(_) => standing.is_over(&subject),
    };
    if is_done {
        return Err(RevokeError::Already(subject));
    }
    match subject == Subject::Device(own) {
        true => Err(RevokeError::NotAbove(subject)),
        false => Ok(()),
    }
}

fn errno_of(stop: &Stop) -> cairnfs_fuse::Errno {
    match stop {
        Stop::Errno(errno) => *errno,
        Stop::Busy => cairnfs_fuse::Errno::EAGAIN,
    }
}

impl crate::vfs::Vfs {
    /// Ends the part of a device, or an invitation, and begins a new epoch: its keys are handed to all who remain. All of
    /// it is one change of the volume, which others take like any other.
    ///
    /// # Errors
    /// If this device may not, there is nothing of the kind, or it cannot be written down.
    pub async fn revoke(&self, subject: Subject) -> Result<Revoked, RevokeError> {
        loop {
            let inner = Arc::clone(&self.0);
            let disk = &self.0.blocks.pools().disk;
            match disk.run(move || inner.revoke(subject)).await {
                Err(RevokeError::Rows(cairnfs_fuse::Errno::EAGAIN))
                    if self.0.room().await.is_ok() => {}
                other => return other,
            }
        }
    }
}
