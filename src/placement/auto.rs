//! Which redundancy fits the peers that there are: the one with the least overhead with which a stripe can be read
//! 999 times of 1,000, and which survives the loss of any two peers.
//!
//! How often a peer can be reached is a number between 0 and 1, its availability; peers are taken to come and go
//! independently. A stripe is judged as if it lay on those peers that can be reached least often, since nobody knows on
//! which it will come to lie: so more uptime of any peer never costs more room.

use std::sync::{Arc, Mutex, PoisonError};

use crate::base::EcProfile;

/// What part of the time a stripe can be read.
pub const TARGET: f64 = 0.999;
/// Peers of which any may be lost at the same time.
const LOSSES: usize = 2;
/// With fewer peers than shards of the default it is the default: several shards lie on a peer then, and survive less.
pub const PEERS_MIN: usize = 6;
/// Numbers of data shards to choose from. More would make repairs read more peers, for little room.
const DATA: [u8; 7] = [2, 3, 4, 5, 6, 8, 10];
/// Numbers of parity shards to choose from, as far as they are at most twice as many as the data shards.
const PARITY: [u8; 6] = [2, 3, 4, 5, 6, 8];
/// What is stored already stays as it is while it takes at most so many times the room of what would be chosen now.
const ROOM_KEPT: f64 = 1.25;
/// And while it can be read this part of the time.
const TARGET_KEPT: f64 = 0.995;

/// The part of the time in which a stripe of `profile` can be read that lies on those of the peers that can be reached
/// least often, one shard on each. 0 if there are fewer peers than shards. Availabilities outside of 0 to 1 count as the
/// nearest of these.
pub fn readable(profile: EcProfile, availabilities: &[f64]) -> f64 {
    let shards = profile.total_shards();
    if availabilities.len() < shards {
        return 0.0;
    }
    let mut worst: Vec<f64> = availabilities.iter().map(|p| p.clamp(0.0, 1.0)).collect();
    worst.sort_unstable_by(f64::total_cmp);
    worst.truncate(shards);
    at_least(&worst, profile.data_shards())
}

/// The probability that at least `wanted` of independent events come to pass.
fn at_least(chances: &[f64], wanted: usize) -> f64 {
    // `exactly[n]`: n of those looked at so far.
    let mut exactly = vec![0.0; chances.len() + 1];
    if let Some(none) = exactly.first_mut() {
        *none = 1.0;
    }
    for chance in chances {
        let mut before = 0.0;
        for of in &mut exactly {
            let now = *of * (1.0 - chance) + before * chance;
            before = *of;
            *of = now;
        }
    }
    exactly.iter().skip(wanted).sum::<f64>().min(1.0)
}

/// Bytes stored for each byte of content.
fn overhead(profile: EcProfile) -> f64 {
    profile.total_shards() as f64 / profile.data_shards() as f64
}

/// Everything that there is to choose from.
pub fn table() -> impl Iterator<Item = EcProfile> {
    let pairs = DATA
        .into_iter()
        .flat_map(|data| PARITY.map(|parity| (data, parity)));
    pairs
        .filter(|(data, parity)| *parity <= 2 * data)
        .filter_map(|(data, parity)| EcProfile::new(data, parity).ok())
}

/// The redundancy for peers of these availabilities, the own one among them.
///
/// With fewer than [`PEERS_MIN`] peers it is [`EcProfile::DEFAULT`]. Where nothing in the [`table`] reaches the
/// [`TARGET`], it is what takes most room, and of that what can be read most often.
pub fn choose(availabilities: &[f64]) -> EcProfile {
    if availabilities.len() < PEERS_MIN {
        return EcProfile::DEFAULT;
    }
    let fits = |profile: &EcProfile| {
        profile.total_shards() <= availabilities.len() && profile.parity_shards() >= LOSSES
    };
    let judged: Vec<(EcProfile, f64)> = table()
        .filter(fits)
        .map(|profile| (profile, readable(profile, availabilities)))
        .collect();
    let least = judged
        .iter()
        .filter(|(_, readable)| *readable >= TARGET)
        .min_by(|(a, _), (b, _)| {
            let by_room = overhead(*a).total_cmp(&overhead(*b));
            by_room.then(a.total_shards().cmp(&b.total_shards()))
        });
    let safest = || {
        judged
            .iter()
            .max_by(|(a, reads_a), (b, reads_b)| {
                let by_room = overhead(*a).total_cmp(&overhead(*b));
                by_room.then(reads_a.total_cmp(reads_b))
            })
            .map(|(profile, _)| *profile)
    };
    let least = least.map(|(profile, _)| *profile);
    least.or_else(safest).unwrap_or(EcProfile::DEFAULT)
}

/// Whether what is stored with `profile` may stay as it is where [`choose`] would choose anew: it is nearly as
/// safe, and takes little more room. So a peer that comes or goes has nothing written anew.
pub fn keeps(profile: EcProfile, availabilities: &[f64]) -> bool {
    let chosen = choose(availabilities);
    if profile == chosen {
        return true;
    }
    availabilities.len() >= PEERS_MIN
        && profile.parity_shards() >= LOSSES
        && overhead(profile) <= ROOM_KEPT * overhead(chosen)
        && readable(profile, availabilities) >= TARGET_KEPT
}

/// What is known of the peers, for all who write. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct AutoProfile(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    availabilities: Vec<f64>,
    chosen: EcProfile,
    is_settled: bool,
}

impl AutoProfile {
    /// How often peers can be reached, the own one among them, as far as is known now; `is_settled` if that was looked at
    /// for long enough to know who is there at all.
    pub fn set(&self, availabilities: Vec<f64>, is_settled: bool) {
        let chosen = choose(&availabilities);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.chosen != chosen {
            let peers = availabilities.len();
            tracing::info!(%chosen, peers, "another redundancy fits the peers now");
        }
        known.chosen = chosen;
        known.availabilities = availabilities;
        known.is_settled = is_settled;
    }

    /// What [`choose`] makes of it: [`EcProfile::DEFAULT`] as long as nothing is known.
    pub fn get(&self) -> EcProfile {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.chosen
    }

    /// Whether it was looked at for long enough.
    pub fn is_settled(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_settled
    }

    /// Whether what is stored with `profile` may stay, as [`keeps`] says; anything as long as that is not settled, and
    /// where few peers are known.
    pub fn keeps(&self, profile: EcProfile) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let availabilities = &known.availabilities;
        !known.is_settled || availabilities.len() < PEERS_MIN || keeps(profile, availabilities)
    }
}

#[cfg(test)]
#[path = "auto_laws.rs"]
mod laws;
