//! When the answers do not suffice: waiting for peers that are away, and asking again those whose
//! answer got lost.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::GetError;
use super::{Ask, Fetching};
use crate::base::{IndexSet, PeerId};
use crate::net::Reach;

/// First pause before peers that did not answer are asked again; it doubles from one time to the next.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(3);

impl Fetching<'_> {
    /// Peers that may hold more and cannot be reached now.
    fn away(&self) -> BTreeSet<PeerId> {
        let members = self.blocks.net.members();
        let listed = members.list.iter().filter(|m| m.capacity_bytes > 0);
        listed
            .filter(|member| matches!(member.state, Reach::Away { .. }))
            .map(|member| member.peer)
            .collect()
    }

    /// Waits for peers that are away, and asks silent ones again, up to the configured time.
    pub(super) async fn wait_for_absent(&mut self) -> Result<Bytes, GetError> {
        let deadline = Instant::now() + self.blocks.fetch_timeout;
        let mut members = self.blocks.net.watch_members();
        let mut away = self.away();
        let mut pause = PAUSE_MIN;
        loop {
            let now = members.borrow_and_update().clone();
            // The list tells when its members are back; others have to be asked.
            let may_answer = |peer: &PeerId| {
                let listed = now.get(peer);
                listed.is_none_or(|member| !matches!(member.state, Reach::Away { .. }))
            };
            // One that is silent because it went away is waited for as others are.
            away.append(&mut self.silent);
            let back: Vec<PeerId> = away.iter().copied().filter(may_answer).collect();
            for peer in back {
                away.remove(&peer);
                // It may have got something meanwhile.
                self.answered.remove(&peer);
                if !self.liars.contains(&peer) {
                    self.queue.push_back(Ask {
                        peer,
                        wanted: IndexSet::first(self.profile.total_shards()).minus(self.at_hand()),
                        busy: 0,
                    });
                }
            }
            if let Some(plaintext) = self.drain().await? {
                return Ok(plaintext);
            }
            let wake = if self.silent.is_empty() {
                deadline
            } else {
                deadline.min(Instant::now() + pause)
            };
            if (away.is_empty() && self.silent.is_empty()) || Instant::now() >= deadline {
                break;
            }
            match tokio::time::timeout_at(wake, members.changed()).await {
                Ok(Ok(())) => {}
                // The network is shut down.
                Ok(Err(_)) => break,
                Err(_) => pause = PAUSE_MAX.min(pause * 2),
            }
        }
        self.check_raw().await;
        away.append(&mut self.silent);
        Err(GetError::NotEnough {
            block: self.reference.id,
            have: self.good.len(),
            need: self.profile.data_shards(),
            damaged: self.damaged,
            away: away.len(),
        })
    }
}
