//! Chains to a volume as they should be, and all the ways in which they are forged.

use proptest::prelude::*;

use super::*;
use crate::crypto::MembershipChain;
use crate::crypto::member::Terms;
use crate::crypto::testing::cases;

const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 86_400_000;
const VOLUME: VolumeId = VolumeId([6; 16]);

const WRITER: VolumeTerms = VolumeTerms {
    read_only: false,
    expires_ms: NOW + DAY,
};
const READER: VolumeTerms = VolumeTerms {
    read_only: true,
    ..WRITER
};

fn key(seed: u64) -> SigningKey {
    SigningKey::generate(&Entropy::seeded(seed))
}

fn owner_id() -> PeerId {
    key(1).peer()
}

struct Peer {
    device: SigningKey,
    chain: VolumeChain,
}

fn owner() -> Peer {
    let device = key(1);
    let chain = VolumeChain::found(VOLUME, &device);
    Peer { device, chain }
}

/// An invitation by `device` that says whatever is wanted, and its one-time key.
fn forged(
    device: &SigningKey,
    terms: VolumeTerms,
    volume: VolumeId,
) -> (SignedVolumeInvitation, SigningKey) {
    let one_time = key(500);
    let invitation = VolumeInvitation {
        volume,
        inviter: device.peer(),
        key: one_time.public(),
        terms,
        id: InvitationId([5; 16]),
    };
    (SignedVolumeInvitation::sign(&invitation, device), one_time)
}

impl Peer {
    fn admit(&self, seed: u64, terms: VolumeTerms) -> Peer {
        let entropy = Entropy::seeded(100 + seed);
        let invited = self.chain.invite(&self.device, terms, NOW, &entropy);
        let (invitation, one_time) = invited.unwrap();
        let device = key(seed);
        let admitted = self
            .chain
            .admit(&invitation, &one_time, device.peer(), NOW)
            .unwrap();
        Peer {
            device,
            chain: admitted,
        }
    }

    fn verify(&self) -> Result<VolumeMember, MemberError> {
        VolumeChain::decode(&self.chain.encode())?.verify(VOLUME, owner_id(), NOW)
    }
}

#[test]
fn a_chain_leads_from_the_owner_to_the_device() {
    let owner = owner();
    let made = owner.verify().unwrap();
    assert!(made.is_owner() && !made.read_only && made.inviter().is_none());
    let friend = owner.admit(2, WRITER);
    let device = friend.admit(3, READER);
    let member = device.verify().unwrap();
    assert_eq!(member.device, device.device.peer());
    let before = [owner.device.peer(), friend.device.peer()];
    assert_eq!(member.ancestors, before);
    assert_eq!(member.inviter(), Some(before[1]));
    assert_eq!(member.invitations.len(), 2);
    assert!(member.read_only && !member.is_owner());

    let all = device.chain.members(VOLUME, owner_id(), NOW).unwrap();
    let devices: Vec<PeerId> = all.iter().map(|member| member.device).collect();
    assert_eq!(devices, [before[0], before[1], member.device]);
    assert_eq!(all[0], made);
    assert_eq!(all[1], friend.verify().unwrap());
    assert_eq!(all[2], member);
    // Membership outlives the invitation.
    let later = NOW + 1000 * DAY;
    assert!(device.chain.verify(VOLUME, owner_id(), later).is_ok());
}

#[test]
fn a_chain_holds_for_one_volume_and_one_owner() {
    let friend = owner().admit(2, WRITER);
    let verify = |volume, owner| friend.chain.verify(volume, owner, NOW).unwrap_err();
    let other = VolumeId([7; 16]);
    assert_eq!(verify(other, owner_id()), MemberError::OtherVolume(VOLUME));
    let stranger = key(66).peer();
    assert_eq!(
        verify(VOLUME, stranger),
        MemberError::OtherOwner(owner_id())
    );
    // Nor can it be turned into one: neither by another head, nor by a link to another volume.
    let mut turned = friend.chain.clone();
    turned.volume = other;
    assert_eq!(
        turned.verify(other, owner_id(), NOW),
        Err(MemberError::OtherVolume(VOLUME))
    );
    let mut turned = friend.chain.clone();
    turned.owner = stranger;
    assert!(matches!(
        turned.verify(VOLUME, stranger, NOW),
        Err(MemberError::Broken { link: 0, .. })
    ));
    let owner = owner();
    let (invitation, one_time) = forged(&owner.device, WRITER, other);
    assert_eq!(
        owner
            .chain
            .admit(&invitation, &one_time, key(2).peer(), NOW),
        Err(MemberError::OtherVolume(other))
    );
}

#[test]
fn who_only_reads_lets_others_read_at_most() {
    let reader = owner().admit(2, READER);
    assert!(reader.verify().unwrap().read_only);
    assert!(reader.admit(3, READER).verify().unwrap().read_only);
    let entropy = Entropy::seeded(4);
    let refused = reader.chain.invite(&reader.device, WRITER, NOW, &entropy);
    assert_eq!(refused.unwrap_err(), MemberError::Reader { link: 1 });
    // Whatever it signs.
    let (invitation, one_time) = forged(&reader.device, WRITER, VOLUME);
    assert_eq!(
        reader
            .chain
            .admit(&invitation, &one_time, key(3).peer(), NOW),
        Err(MemberError::Reader { link: 1 })
    );
    // Nor does it come true further down.
    let mut longer = reader.chain;
    longer.links.push(Link::sign(
        invitation,
        InvitationId([5; 16]),
        &one_time,
        Purpose::VolumeCertificate,
        key(3).peer(),
        NOW,
    ));
    let end = Peer {
        device: key(3),
        chain: longer,
    };
    assert_eq!(end.verify(), Err(MemberError::Reader { link: 1 }));
    assert_eq!(
        end.chain
            .invite(&end.device, WRITER, NOW, &entropy)
            .unwrap_err(),
        MemberError::Reader { link: 1 }
    );
}

#[test]
fn late_and_early_joiners_are_refused() {
    let owner = owner();
    let entropy = Entropy::seeded(5);
    let invited = owner.chain.invite(&owner.device, WRITER, NOW, &entropy);
    let (invitation, one_time) = invited.unwrap();
    let join = |now| {
        owner
            .chain
            .admit(&invitation, &one_time, key(2).peer(), now)
    };
    assert!(matches!(join(NOW + DAY + 1), Err(MemberError::Expired(_))));
    let joined = join(NOW + DAY).unwrap();
    let early = joined.verify(VOLUME, owner_id(), NOW);
    assert_eq!(early, Err(MemberError::Future));
}

#[test]
fn forged_chains_are_refused() {
    let owner = owner();
    let stranger = key(66);
    let guest = key(2).peer();
    let entropy = Entropy::seeded(7);

    // A stranger invites in a member's name: with its own key, or with changed terms.
    let invited = owner.chain.invite(&stranger, WRITER, NOW, &entropy);
    assert!(matches!(invited, Err(MemberError::Broken { .. })));
    let (invitation, one_time) = forged(&owner.device, READER, VOLUME);
    let mut body = invitation.read().unwrap();
    body.terms = WRITER;
    let resigned = SignedVolumeInvitation(
        body.encode().into(),
        stranger.sign(Purpose::VolumeInvitation, &body.encode()),
    );
    let kept = SignedVolumeInvitation(body.encode().into(), invitation.1);
    for bad in [resigned, kept] {
        let joined = owner.chain.admit(&bad, &one_time, guest, NOW);
        assert!(matches!(joined, Err(MemberError::Signature { .. })));
    }
    let (own, own_key) = forged(&stranger, WRITER, VOLUME);
    let joined = owner.chain.admit(&own, &own_key, guest, NOW);
    assert!(matches!(joined, Err(MemberError::Broken { .. })));

    // Somebody has seen an invitation and lacks its key.
    let joined = owner.chain.admit(&invitation, &stranger, guest, NOW);
    assert!(matches!(joined, Err(MemberError::Signature { .. })));

    // A link is left out, or put in the place of another.
    let device = owner.admit(2, WRITER).admit(3, WRITER);
    let mut cut = device.chain.clone();
    cut.links.remove(0);
    assert!(matches!(
        cut.verify(VOLUME, owner_id(), NOW),
        Err(MemberError::Broken { .. })
    ));
    let mut mixed = device.chain;
    mixed.links[0].certificate = mixed.links[1].certificate.clone();
    assert!(matches!(
        mixed.verify(VOLUME, owner_id(), NOW),
        Err(MemberError::Broken { .. })
    ));
}

/// What the owner of a volume signs as a member of its network opens nothing, and the other way round.
#[test]
fn signatures_of_networks_and_volumes_are_apart() {
    let owner = owner();
    let entropy = Entropy::seeded(8);
    let one_time = key(500);
    let invitation = VolumeInvitation {
        volume: VOLUME,
        inviter: owner.device.peer(),
        key: one_time.public(),
        terms: WRITER,
        id: InvitationId([5; 16]),
    };
    let body = invitation.encode();
    let signature = owner.device.sign(Purpose::Invitation, &body);
    let wrong = SignedVolumeInvitation(body.into(), signature);
    assert!(matches!(
        owner.chain.admit(&wrong, &one_time, key(2).peer(), NOW),
        Err(MemberError::Signature { .. })
    ));
    let right = SignedVolumeInvitation::sign(&invitation, &owner.device);
    let mut chain = owner.chain.clone();
    chain.links.push(Link::sign(
        right,
        invitation.id,
        &one_time,
        Purpose::Certificate,
        key(2).peer(),
        NOW,
    ));
    assert!(matches!(
        chain.verify(VOLUME, owner_id(), NOW),
        Err(MemberError::Signature { .. })
    ));
    let (_, network) = MembershipChain::found(&owner.device, &entropy);
    let terms = Terms {
        storage_only: false,
        independent: false,
        expires_ms: NOW + DAY,
    };
    let (invitation, one_time) = network
        .invite(&owner.device, 0, terms, NOW, &entropy)
        .unwrap();
    let joined = network
        .admit(&invitation, &one_time, key(2).peer(), NOW)
        .unwrap();
    for chain in [network, joined] {
        assert!(VolumeChain::decode(&chain.encode()).is_err());
    }
    for chain in [owner.chain.clone(), owner.admit(2, WRITER).chain] {
        assert!(MembershipChain::decode(&chain.encode()).is_err());
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    let device = owner().admit(2, WRITER).admit(3, READER);
    let encoded = device.chain.encode();
    for bit in 0..encoded.len() * 8 {
        let mut bad = encoded.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let verdict =
            VolumeChain::decode(&bad).and_then(|chain| chain.verify(VOLUME, owner_id(), NOW));
        assert!(verdict.is_err(), "bit {bit}");
    }
    for len in 0..encoded.len() {
        assert!(VolumeChain::decode(&encoded[..len]).is_err());
    }
    let more = [&encoded[..], &[0]].concat();
    assert!(VolumeChain::decode(&more).is_err());
}

#[test]
fn the_longest_chain_fits_and_is_not_extended() {
    let mut peer = owner();
    for seed in 0..MEMBERSHIP_CHAIN_MAX as u64 {
        peer = peer.admit(20 + seed, WRITER);
    }
    assert!(peer.chain.encode().len() <= CHAIN_MAX_BYTES);
    assert_eq!(
        peer.verify().unwrap().invitations.len(),
        MEMBERSHIP_CHAIN_MAX
    );
    let more = peer
        .chain
        .invite(&peer.device, READER, NOW, &Entropy::seeded(1));
    assert_eq!(more.unwrap_err(), MemberError::TooLong);
    let (invitation, one_time) = forged(&peer.device, WRITER, VOLUME);
    let longer = peer
        .chain
        .admit(&invitation, &one_time, key(99).peer(), NOW);
    assert_eq!(longer, Err(MemberError::TooLong));
    let last = peer.chain.links[0].clone();
    peer.chain.links.push(last);
    assert!(VolumeChain::decode(&peer.chain.encode()).is_err());
}

proptest! {
    #![proptest_config(cases(16))]

    /// Whatever the terms along a chain: it can be made exactly as long as nobody who reads lets write,
    /// and a device that is in it may write if all before it may.
    #[test]
    fn rights_only_ever_shrink(terms in proptest::collection::vec(any::<bool>(), 0..6)) {
        let mut peer = owner();
        let mut is_reader = false;
        for (number, read_only) in terms.into_iter().enumerate() {
            let terms = VolumeTerms { read_only, ..WRITER };
            let entropy = Entropy::seeded(number as u64);
            let invited = peer.chain.invite(&peer.device, terms, NOW, &entropy);
            prop_assert_eq!(invited.is_ok(), read_only || !is_reader);
            if invited.is_ok() {
                peer = peer.admit(10 + number as u64, terms);
                is_reader |= read_only;
            }
            let member = peer.verify().unwrap();
            prop_assert_eq!(member.read_only, is_reader);
            prop_assert_eq!(member.ancestors.len(), member.invitations.len());
        }
        let all = peer.chain.members(VOLUME, owner_id(), NOW).unwrap();
        prop_assert!(all.windows(2).all(|pair| pair[1].inviter() == Some(pair[0].device)));
        prop_assert!(all.windows(2).all(|pair| pair[1].read_only || !pair[0].read_only));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(VolumeChain::decode(&bytes).is_err());
    }
}
