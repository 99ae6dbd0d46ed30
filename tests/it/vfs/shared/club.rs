//! Members of a volume with real proofs: an owner, those whom it invited, and those whom these did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairnfs::base::{Clock, EcProfile, Entropy, PeerId};
use cairnfs::crypto::sign::SigningKey;
use cairnfs::crypto::volume_member::SignedVolumeInvitation;
use cairnfs::crypto::{ConvergenceSecret, EpochKey, VolumeChain, VolumeTerms};
use cairnfs::feeds::Issued;
use cairnfs::testkit::{Cluster, ClusterOptions};
use cairnfs::vfs::{Rights, ShareRules, Vfs, VfsParts, VolumeIdentity, VolumeKeys, VolumeShare};

pub use crate::common::hand::Hand;
use crate::common::member::{ID, OWNER, options};

pub const NOW: u64 = 1_767_225_600_000;
pub const DAY: u64 = 24 * 3_600_000;

/// What somebody needs to join: as a ticket has it.
#[derive(Clone)]
pub struct Ticket {
    inviter: VolumeChain,
    pub invitation: SignedVolumeInvitation,
    pub key: SigningKey,
    pub keys: VolumeKeys,
}

pub struct Member {
    pub key: SigningKey,
    pub chain: VolumeChain,
    pub keys: VolumeKeys,
    pub ticket: Option<SigningKey>,
    pub read_only: bool,
    open: Option<Arc<Vfs>>,
}

pub struct Club {
    pub cluster: Cluster,
    pub members: Vec<Member>,
    pub clock: Clock,
    pub entropy: Entropy,
}

impl Club {
    /// The owner alone, on a cluster with room for `peers`.
    pub async fn new(peers: usize, seed: u64) -> Club {
        let options = ClusterOptions {
            peers: peers.max(6),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, seed).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let entropy = Entropy::seeded(seed);
        let key = SigningKey::generate(&entropy);
        let owner = Member {
            chain: VolumeChain::found(ID, &key),
            key,
            keys: VolumeKeys {
                epochs: vec![(1, EpochKey::generate(&entropy))],
                secret: Some(ConvergenceSecret::random(&entropy)),
            },
            ticket: None,
            read_only: false,
            open: None,
        };
        let mut club = Club {
            cluster,
            members: vec![owner],
            clock: Clock::simulated(NOW),
            entropy,
        };
        club.open(0).await;
        club
    }

    pub fn peer(&self, at: usize) -> PeerId {
        self.members[at].key.peer()
    }

    pub fn vfs(&self, at: usize) -> &Arc<Vfs> {
        self.members[at].open.as_ref().expect("it is open")
    }

    pub fn hand(&self, at: usize) -> Hand<'_> {
        Hand(self.vfs(at))
    }

    /// A ticket by a member that is open, which says so in the volume.
    pub fn ticket(&self, by: usize, read_only: bool, expires_ms: u64) -> Ticket {
        let member = &self.members[by];
        let terms = VolumeTerms {
            read_only,
            expires_ms,
        };
        let made = member
            .chain
            .invite(&member.key, terms, NOW, &self.entropy)
            .unwrap();
        let mut keys = match &member.open {
            Some(vfs) => vfs.keys().unwrap(),
            None => member.keys.clone(),
        };
        if read_only {
            keys.secret = None;
        }
        let ticket = Ticket {
            inviter: member.chain.clone(),
            invitation: made.0,
            key: made.1,
            keys,
        };
        if let Some(vfs) = &member.open {
            vfs.note_ticket(Issued {
                chain: member.chain.clone(),
                invitation: ticket.invitation.clone(),
            });
        }
        ticket
    }

    /// Somebody comes by a ticket; what it is afterwards.
    pub async fn join(&mut self, ticket: &Ticket) -> usize {
        let key = SigningKey::generate(&self.entropy);
        let chain = ticket
            .inviter
            .admit(&ticket.invitation, &ticket.key, key.peer(), NOW)
            .unwrap();
        self.members.push(Member {
            key,
            chain,
            keys: ticket.keys.clone(),
            ticket: Some(ticket.key.clone()),
            read_only: ticket.invitation.read().unwrap().terms.read_only,
            open: None,
        });
        let at = self.members.len() - 1;
        self.open(at).await;
        at
    }

    /// Invited by a member to write.
    pub async fn invite(&mut self, by: usize, read_only: bool) -> usize {
        let ticket = self.ticket(by, read_only, NOW + DAY);
        self.join(&ticket).await
    }

    pub async fn shut(&mut self, at: usize) {
        if let Some(vfs) = self.members[at].open.take() {
            self.members[at].keys = vfs.keys().unwrap();
            vfs.close().await.unwrap();
        }
    }

    pub async fn open(&mut self, at: usize) {
        let owner = self.peer(0);
        let member = &self.members[at];
        let blocks = self.cluster.blocks(at).unwrap().clone();
        let _ = blocks.store().create_volume(ID).await;
        let admit = move |device: PeerId, proof: &[u8]| {
            let chain = VolumeChain::decode(proof).map_err(|error| error.to_string())?;
            let member = chain.verify(ID, owner, NOW).map_err(|e| e.to_string())?;
            match (member.device == device, member.read_only) {
                (false, _) => Err("another's".to_owned()),
                (true, true) => Ok(Rights::Read),
                (true, false) => Ok(Rights::Write),
            }
        };
        let share = VolumeShare {
            device: member.key.clone(),
            owner,
            proof: member.chain.encode().into(),
            epochs: BTreeMap::from_iter(member.keys.epochs.iter().cloned()),
            read_only: member.read_only,
            is_guest: at != 0,
            admit: Arc::new(admit),
            rules: Some(ShareRules {
                owner,
                ticket: member.ticket.clone(),
            }),
        };
        let random = || ConvergenceSecret::random(&self.entropy);
        let parts = VfsParts {
            identity: VolumeIdentity {
                id: ID,
                peer: member.key.peer(),
                owner: OWNER,
                secret: member.keys.secret.clone().unwrap_or_else(random),
                profile: EcProfile::DEFAULT,
            },
            share: Some(share),
            blocks,
            clock: self.clock.clone(),
            entropy: self.entropy.fork(),
            options: options(),
        };
        let opened = Vfs::open(parts, (0, 0)).await.unwrap();
        self.members[at].open = Some(opened);
    }

    /// What one has and the other lacks and takes. How many deltas that were.
    pub async fn tell(&self, from: usize, to: usize) -> usize {
        let (source, to) = (self.vfs(from), self.vfs(to));
        let words = source.reader_words().await;
        if !words.is_empty() {
            to.hear_reader(self.peer(from), words).await;
        }
        let mut count = 0;
        for claim in source.claims() {
            let last = || {
                let known = to.claims();
                let mut known = known.iter().filter(|known| known.writer == claim.writer);
                known.next().map_or(0, |known| known.last)
            };
            let mut after = last();
            // Also what is refused: that is for the other one to see.
            while after < claim.last {
                let before = last();
                let found = source.deltas(claim.writer, after, 4096).await.unwrap();
                let received = to.receive(PeerId([1; 32]), found.deltas).await;
                count += usize::from(last() > before);
                if received.upto <= after {
                    break;
                }
                after = received.upto;
            }
        }
        count
    }

    /// Some tell each other everything, until nobody has anything to tell.
    pub async fn gather(&self, members: &[usize]) {
        let mut quiet = 0;
        for _ in 0..400 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut told = 0;
            for from in members {
                for to in members {
                    if from != to {
                        told += self.tell(*from, *to).await;
                    }
                }
            }
            quiet = if told == 0 { quiet + 1 } else { 0 };
            // What follows by itself takes a moment.
            if quiet > 30 {
                return;
            }
        }
        panic!("they never come to an end");
    }

    /// What some see at the top, which is the same.
    pub async fn names(&self, members: &[usize]) -> Vec<String> {
        let first = self.hand(members[0]).names("").await;
        for member in members {
            assert_eq!(self.hand(*member).names("").await, first, "member {member}");
            let (one, other) = (self.vfs(members[0]), self.vfs(*member));
            assert_eq!(one.version().unwrap(), other.version().unwrap());
        }
        first
    }

    /// The epoch under which a member seals, and those who have its key.
    pub fn have_last_key(&self, of: usize) -> Vec<usize> {
        let last = self.vfs(of).keys().unwrap();
        let (epoch, key) = last.epochs.last().unwrap();
        let has = |at: &usize| {
            let keys = self.vfs(*at).keys().unwrap().epochs;
            keys.contains(&(*epoch, key.clone()))
        };
        let open = (0..self.members.len()).filter(|at| self.members[*at].open.is_some());
        open.filter(has).collect()
    }
}
