//! Chains as they should be, and all the ways in which they are forged.

use super::*;

const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 86_400_000;

const PLAIN: Terms = Terms {
    storage_only: false,
    independent: false,
    expires_ms: NOW + DAY,
};

fn key(seed: u64) -> SigningKey {
    SigningKey::generate(&Entropy::seeded(seed))
}

struct Peer {
    device: SigningKey,
    chain: MembershipChain,
}

fn founder() -> Peer {
    let device = key(1);
    let (_, chain) = MembershipChain::found(&device, &Entropy::seeded(10));
    Peer { device, chain }
}

impl Peer {
    fn admit(&self, seed: u64, terms: Terms) -> Peer {
        let entropy = Entropy::seeded(100 + seed);
        let (invitation, one_time) = self
            .chain
            .invite(&self.device, 3, terms, NOW, &entropy)
            .unwrap();
        let device = key(seed);
        let chain = self
            .chain
            .admit(&invitation, &one_time, device.peer(), NOW)
            .unwrap();
        Peer { device, chain }
    }

    fn verify(&self) -> Result<Membership, MemberError> {
        MembershipChain::decode(&self.chain.encode())?.verify(founder().chain.network(), NOW)
    }
}

#[test]
fn a_chain_leads_from_the_founder_to_the_device() {
    let founder = founder();
    assert!(founder.verify().unwrap().is_founder());
    let friend = founder.admit(2, PLAIN);
    let device = friend.admit(3, PLAIN);
    let member = device.verify().unwrap();
    assert_eq!(member.device, device.device.peer());
    assert_eq!(
        member.ancestors,
        [founder.device.peer(), friend.device.peer()]
    );
    assert_eq!(member.epoch, 3);
    assert!(!member.storage_only);
    // Membership outlives the invitation.
    let network = founder.chain.network();
    assert!(device.chain.verify(network, NOW + 1000 * DAY).is_ok());
}

#[test]
fn storage_only_is_inherited_even_against_the_inviters_will() {
    let lodger = founder().admit(
        2,
        Terms {
            storage_only: true,
            ..PLAIN
        },
    );
    assert!(lodger.verify().unwrap().storage_only);
    let guest = lodger.admit(3, PLAIN);
    assert!(guest.verify().unwrap().storage_only);
}

#[test]
fn zones_follow_the_first_inviter_who_does_not_vouch() {
    let vouched = Terms {
        independent: true,
        ..PLAIN
    };
    let founder = founder();
    let trusted = founder.admit(2, vouched);
    assert_eq!(trusted.verify().unwrap().zone, None);
    assert_eq!(trusted.verify().unwrap().zone_name(), "");
    let friend = trusted.admit(3, PLAIN).verify().unwrap();
    assert_eq!(friend.zone, friend.invitations.last().copied());

    let untrusted = founder.admit(4, PLAIN);
    let zone = untrusted.verify().unwrap().zone;
    assert!(zone.is_some());
    for (seed, terms) in [(5, PLAIN), (6, vouched)] {
        assert_eq!(untrusted.admit(seed, terms).verify().unwrap().zone, zone);
    }
}

#[test]
fn late_and_early_joiners_are_refused() {
    let founder = founder();
    let (invitation, one_time) = founder
        .chain
        .invite(&founder.device, 0, PLAIN, NOW, &Entropy::seeded(5))
        .unwrap();
    let device = key(2).peer();
    let late = founder
        .chain
        .admit(&invitation, &one_time, device, NOW + DAY + 1);
    assert!(matches!(late, Err(MemberError::Expired(_))));
    let joined = founder
        .chain
        .admit(&invitation, &one_time, device, NOW + DAY)
        .unwrap();
    let network = founder.chain.network();
    assert_eq!(joined.verify(network, NOW), Err(MemberError::Future));
}

#[test]
fn forged_chains_are_refused() {
    let founder = founder();
    let network = founder.chain.network();
    let friend = founder.admit(2, PLAIN);
    let stranger = key(66);
    let entropy = Entropy::seeded(7);

    // Another founder with the same salt, or the same founder with another salt.
    let other = MembershipChain {
        founder: stranger.peer(),
        ..founder.chain.clone()
    };
    assert!(matches!(
        other.verify(network, NOW),
        Err(MemberError::OtherNetwork(_))
    ));

    // A stranger invites in a member's name.
    let forged = founder.chain.invite(&stranger, 0, PLAIN, NOW, &entropy);
    assert!(matches!(forged, Err(MemberError::Broken { .. })));
    let (invitation, one_time) = founder
        .chain
        .invite(&founder.device, 0, PLAIN, NOW, &entropy)
        .unwrap();
    let mut body = invitation.read().unwrap();
    body.terms.expires_ms += DAY;
    let bytes = body.encode();
    let resigned = SignedInvitation(
        bytes.clone().into(),
        stranger.sign(Purpose::Invitation, &bytes),
    );
    for bad in [resigned, SignedInvitation(bytes.into(), invitation.1)] {
        let joined = founder.chain.admit(&bad, &one_time, key(2).peer(), NOW);
        assert!(matches!(joined, Err(MemberError::Signature { .. })));
    }

    // Somebody has seen an invitation and lacks its key.
    let joined = founder
        .chain
        .admit(&invitation, &stranger, stranger.peer(), NOW);
    assert!(matches!(joined, Err(MemberError::Signature { .. })));

    // A link is left out, or put in the place of another.
    let device = friend.admit(3, PLAIN);
    let mut cut = device.chain.clone();
    cut.links.remove(0);
    assert!(matches!(
        cut.verify(network, NOW),
        Err(MemberError::Broken { .. })
    ));
    let mut mixed = device.chain;
    mixed.links[0].certificate = mixed.links[1].certificate.clone();
    assert!(matches!(
        mixed.verify(network, NOW),
        Err(MemberError::Broken { .. })
    ));
}

#[test]
fn any_flipped_bit_is_noticed() {
    let device = founder().admit(2, PLAIN);
    let network = device.chain.network();
    let encoded = device.chain.encode();
    for bit in 0..encoded.len() * 8 {
        let mut bad = encoded.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let verdict = MembershipChain::decode(&bad).and_then(|chain| chain.verify(network, NOW));
        assert!(verdict.is_err(), "bit {bit}");
    }
    for len in 0..encoded.len() {
        assert!(MembershipChain::decode(&encoded[..len]).is_err());
    }
}

#[test]
fn the_longest_chain_fits_and_is_not_extended() {
    let mut peer = founder();
    for seed in 0..MEMBERSHIP_CHAIN_MAX as u64 {
        peer = peer.admit(20 + seed, PLAIN);
    }
    assert!(peer.chain.encode().len() <= CHAIN_MAX_BYTES);
    assert_eq!(
        peer.verify().unwrap().invitations.len(),
        MEMBERSHIP_CHAIN_MAX
    );
    let more = peer
        .chain
        .invite(&peer.device, 0, PLAIN, NOW, &Entropy::seeded(1));
    assert_eq!(more.unwrap_err(), MemberError::TooLong);
}
