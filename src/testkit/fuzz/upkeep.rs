//! What peers say to each other about upkeep.

use bytes::Bytes;

use crate::base::{BlockId, ClaimId, EcProfile, Group, IndexSet, OwnerId, PeerId};
use crate::crypto::{Signature, SignedRelease};
use crate::repair::Tally;
use crate::repair::message::{Ask, GroupSet, Say};
use crate::store::{Digest, Holding, Keeper};

/// A question about upkeep.
pub(super) fn upkeep_ask(data: &[u8]) {
    if let Ok(ask) = Ask::decode(&Bytes::copy_from_slice(data)) {
        assert_eq!(Ask::decode(&ask.encode()), Ok(ask));
    }
}

/// An answer to one.
pub(super) fn upkeep_say(data: &[u8]) {
    if let Ok(say) = Say::decode(&Bytes::copy_from_slice(data)) {
        assert_eq!(Say::decode(&say.encode()), Ok(say));
    }
}

const BLOCK: BlockId = BlockId([7; 32]);

fn keeper() -> Keeper {
    Keeper {
        claim: ClaimId {
            owner: OwnerId([1; 16]),
            writer: PeerId([2; 32]),
            number: 3,
        },
        is_closed: true,
        expires_ms: 4,
    }
}

fn release() -> SignedRelease {
    SignedRelease {
        claim: keeper().claim,
        from_ms: 5,
        signature: Signature([6; 64]),
    }
}

pub(super) fn asks() -> Vec<Vec<u8>> {
    let group = Group(513);
    let asks = [
        Ask::Root { known: Digest(5) },
        Ask::Groups {
            groups: vec![group, Group(0)],
        },
        Ask::List {
            group,
            after: Some(BLOCK),
        },
        Ask::Keepers {
            blocks: vec![BLOCK],
        },
        Ask::Restore {
            block: BLOCK,
            index: 5,
            keepers: vec![keeper()],
            header: Bytes::from_static(b"header"),
            data: Bytes::from_static(b"shard"),
        },
        Ask::Surplus {
            block: BLOCK,
            index: 5,
            other: PeerId([9; 32]),
        },
        Ask::Claims {
            block: BLOCK,
            from: 5,
        },
        Ask::Keep {
            block: BLOCK,
            keepers: vec![keeper()],
        },
        Ask::Ended {
            claims: vec![keeper().claim],
        },
        Ask::LetGo {
            releases: vec![release()],
        },
    ];
    asks.iter().map(|ask| ask.encode().to_vec()).collect()
}

pub(super) fn says() -> Vec<Vec<u8>> {
    let says = [
        Say::Root {
            digest: Digest(5),
            groups: None,
            tally: Tally::default(),
        },
        Say::Root {
            digest: Digest(5),
            groups: Some(GroupSet::default()),
            tally: Tally::default(),
        },
        Say::Groups {
            digests: vec![Digest(1)],
        },
        Say::List {
            blocks: vec![Holding {
                block: BLOCK,
                held: IndexSet(3),
                profile: Some(EcProfile::DEFAULT),
                is_kept: true,
                shard_bytes: 9,
            }],
            is_all: true,
        },
        Say::Keepers {
            keepers: vec![vec![keeper()]],
        },
        Say::Done,
        Say::Claims {
            keepers: vec![keeper()],
            next: Some(6),
        },
        Say::Ended {
            releases: vec![release()],
        },
    ];
    says.iter().map(|say| say.encode().to_vec()).collect()
}
