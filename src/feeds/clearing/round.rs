//! One round of questions, as the asker has it.

use std::collections::BTreeMap;

use super::{Clearing, Told, bits_len, is_set};
use crate::base::{BlockId, PeerId, VolumeId};
use crate::namespace::VersionVector;

/// Why a round came to nothing: the next one may do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It began anew since the first question.
    #[error("a member does not know of the first question any more")]
    Lost,
    /// It does not do what it is asked.
    #[error("a member answered what cannot be")]
    Nonsense,
}

#[derive(Clone, Debug, Default)]
struct Answers {
    first: Option<VersionVector>,
    is_done: bool,
}

/// See the module above.
#[derive(Clone, Debug)]
pub struct Clearance {
    volume: VolumeId,
    round: u64,
    above: VersionVector,
    blocks: Vec<BlockId>,
    named: Vec<bool>,
    members: BTreeMap<PeerId, Answers>,
}

impl Clearance {
    /// A round of somebody who had merged `version` when it named none of `blocks`, which ascend; `members` are all
    /// others who may name them.
    pub fn new(
        volume: VolumeId,
        round: u64,
        version: VersionVector,
        blocks: Vec<BlockId>,
        members: impl IntoIterator<Item = PeerId>,
    ) -> Clearance {
        let members = members.into_iter();
        Clearance {
            volume,
            round,
            above: version,
            named: vec![false; blocks.len()],
            blocks,
            members: members.map(|peer| (peer, Answers::default())).collect(),
        }
    }

    /// What all together had merged at the first question; none before everybody answered that.
    pub fn above(&self) -> Option<VersionVector> {
        let mut above = self.above.clone();
        for answers in self.members.values() {
            above.join(answers.first.as_ref()?);
        }
        Some(above)
    }

    /// What each member is to be asked now; nobody is once all is answered.
    pub fn questions(&self) -> Vec<(PeerId, Clearing)> {
        let (volume, round) = (self.volume, self.round);
        let question = match self.above() {
            None => Clearing::Ask {
                volume,
                round,
                above: self.above.clone(),
                blocks: self.blocks.clone(),
            },
            Some(above) => Clearing::Again {
                volume,
                round,
                above,
            },
        };
        let is_second = matches!(question, Clearing::Again { .. });
        let open = self.members.iter().filter(|(_, answers)| match is_second {
            true => !answers.is_done,
            false => answers.first.is_none(),
        });
        open.map(|(peer, _)| (*peer, question.clone())).collect()
    }

    /// A member answered. Whether that brings the round on: it has to be asked again otherwise.
    ///
    /// # Errors
    /// If the round comes to nothing.
    pub fn told(&mut self, peer: PeerId, told: &Told) -> Result<bool, Broken> {
        let is_second = self.above().is_some();
        let Some(answers) = self.members.get_mut(&peer) else {
            return Err(Broken::Nonsense);
        };
        let (version, bits) = match told {
            Told::Busy | Told::Behind => return Ok(false),
            Told::Lost => return Err(Broken::Lost),
            Told::Named { version, bits } => (version, bits),
        };
        if bits.len() != bits_len(self.blocks.len()) || !version.includes(&self.above) {
            return Err(Broken::Nonsense);
        }
        for (at, named) in self.named.iter_mut().enumerate() {
            *named |= is_set(bits, at);
        }
        match is_second {
            true if answers.first.as_ref() != Some(version) => return Err(Broken::Nonsense),
            true => answers.is_done = true,
            false => answers.first = Some(version.clone()),
        }
        Ok(true)
    }

    /// Those who have something to answer now.
    pub fn waits_for(&self) -> impl Iterator<Item = PeerId> {
        self.questions().into_iter().map(|(peer, _)| peer)
    }

    /// A member is asked no more: it names nothing that others could take from it.
    pub fn leave_out(&mut self, peer: &PeerId) {
        self.members.remove(peer);
    }

    /// Blocks that nobody named so far.
    pub fn unnamed(&self) -> Vec<BlockId> {
        let all = self.blocks.iter().zip(&self.named);
        let unnamed = all.filter(|(_, is_named)| !**is_named);
        unnamed.map(|(block, _)| *block).collect()
    }

    /// Blocks that nobody named, and what the asker has to have merged without naming them before it lets them go; none
    /// before everybody answered both questions.
    pub fn agreed(&self) -> Option<(VersionVector, Vec<BlockId>)> {
        let is_done = self.members.values().all(|answers| answers.is_done);
        let above = self.above().filter(|_| is_done)?;
        Some((above, self.unnamed()))
    }
}
