//! Tickets of volumes in good hands and in all conditions.

use proptest::prelude::*;

use super::*;
use crate::crypto::member::MemberError;
use crate::crypto::testing::cases;
use crate::crypto::{MembershipChain, Terms};

const NOW: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;
const ID: VolumeId = VolumeId([6; 16]);

fn device() -> SigningKey {
    SigningKey::generate(&Entropy::seeded(1))
}

fn network() -> Ticket {
    let entropy = Entropy::seeded(2);
    let (secrets, chain) = MembershipChain::found(&device(), &entropy);
    let terms = Terms {
        storage_only: false,
        independent: false,
        expires_ms: NOW + HOUR,
    };
    Ticket::issue(&chain, &device(), &secrets, vec![], terms, NOW, &entropy).unwrap()
}

fn shared() -> SharedVolume {
    SharedVolume {
        id: ID,
        owner: device().peer(),
        name: "photos".to_owned(),
        claims: OwnerId([3; 16]),
        profile: EcProfile::DEFAULT,
        secret: Some(ConvergenceSecret::from_bytes([4; 32])),
        keys: vec![
            (1, EpochKey::from_bytes([5; 32])),
            (3, EpochKey::from_bytes([7; 32])),
        ],
    }
}

fn terms(read_only: bool) -> VolumeTerms {
    VolumeTerms {
        read_only,
        expires_ms: NOW + HOUR,
    }
}

fn try_issue(volume: SharedVolume, read_only: bool) -> Result<VolumeTicket, TicketError> {
    let chain = VolumeChain::found(ID, &device());
    let entropy = Entropy::seeded(9);
    VolumeTicket::issue(
        volume,
        &chain,
        &device(),
        terms(read_only),
        network(),
        NOW,
        &entropy,
    )
}

fn issue(read_only: bool) -> VolumeTicket {
    try_issue(shared(), read_only).unwrap()
}

#[test]
fn a_ticket_survives_its_text_and_admits() {
    let ticket = issue(false);
    let text = ticket.to_string();
    let read: VolumeTicket = text.parse().unwrap();
    assert_eq!(read, ticket);
    let wrapped = format!("  {}\n {}\r\n", &text[..60], &text[60..]);
    assert_eq!(wrapped.parse::<VolumeTicket>().unwrap(), ticket);
    assert_eq!(*read.volume(), shared());
    assert_eq!(*read.network(), network());

    let guest = PeerId([9; 32]);
    let chain = read.accept(guest, NOW + 1).unwrap();
    let member = chain.verify(ID, device().peer(), NOW + 1).unwrap();
    assert_eq!(member.device, guest);
    assert!(!member.read_only);
}

#[test]
fn a_ticket_for_reading_tells_no_convergence_secret() {
    let ticket: VolumeTicket = issue(true).to_string().parse().unwrap();
    assert_eq!(ticket.volume().secret, None);
    assert_eq!(ticket.volume().keys, shared().keys);
    let chain = ticket.accept(PeerId([9; 32]), NOW).unwrap();
    let member = chain.verify(ID, device().peer(), NOW).unwrap();
    assert!(member.read_only && ticket.terms().read_only);
    // Nor can one be made for writing without it, or with it for reading.
    let without = SharedVolume {
        secret: None,
        ..shared()
    };
    assert!(matches!(
        try_issue(without, false),
        Err(TicketError::Inconsistent(_))
    ));
    let told = VolumeTicket::check(
        shared(),
        ticket.inviter,
        ticket.invitation,
        ticket.key,
        ticket.network,
    );
    assert!(matches!(told, Err(TicketError::Inconsistent(_))));
}

#[test]
fn each_fault_is_told_apart() {
    let ticket = issue(false);
    let text = ticket.to_string();
    let parse = |text: &str| text.parse::<VolumeTicket>().unwrap_err();

    assert_eq!(parse(""), TicketError::NotATicket(VOLUME_TICKET_PREFIX));
    assert_eq!(parse("cairn:abc"), TicketError::IsALink);
    let other = network().to_string();
    assert_eq!(parse(&other), TicketError::IsOfANetwork);
    let told = text.parse::<Ticket>().unwrap_err();
    assert_eq!(told, TicketError::IsOfAVolume);
    assert!(told.to_string().contains("cairn volume open"));
    assert_eq!(
        parse(&text[..text.len() - 7]),
        TicketError::Truncated { missing: 7 }
    );
    assert!(matches!(
        parse(VOLUME_TICKET_PREFIX),
        TicketError::Truncated { .. }
    ));
    assert_eq!(
        parse(&format!("{text}abc")),
        TicketError::Trailing { extra: 3 }
    );
    let mut typo = text.clone();
    typo.replace_range(40..41, "0");
    assert_eq!(
        parse(&typo),
        TicketError::BadCharacter {
            found: '0',
            position: 41
        }
    );
    let swapped = if &text[40..41] == "a" { "b" } else { "a" };
    let mut typo = text;
    typo.replace_range(40..41, swapped);
    assert_eq!(parse(&typo), TicketError::Checksum);
    let later = envelope::wrap(VOLUME_TICKET_PREFIX, b"\x02something new".to_vec());
    assert_eq!(parse(&later), TicketError::Version { found: 2, known: 1 });

    let late = ticket.accept(PeerId([1; 32]), NOW + HOUR + 120_000);
    assert_eq!(late.unwrap_err(), TicketError::Expired { ago_ms: 120_000 });
}

#[test]
fn a_ticket_of_mixed_parts_is_refused() {
    let ticket = issue(false);
    let strange = SigningKey::generate(&Entropy::seeded(8));
    let other = VolumeId([7; 16]);
    let chain = VolumeChain::found(other, &strange);
    let entropy = Entropy::seeded(9);
    let (invitation, _) = chain.invite(&strange, terms(false), NOW, &entropy).unwrap();
    let mut of_other = shared();
    of_other.id = other;
    let mut of_stranger = shared();
    of_stranger.owner = strange.peer();
    let inviter = &ticket.inviter;
    let strange_chain = VolumeChain::found(ID, &strange);
    for (volume, chain, invitation, key) in [
        (of_other, inviter, &ticket.invitation, ticket.key),
        (of_stranger, inviter, &ticket.invitation, ticket.key),
        (shared(), &chain, &ticket.invitation, ticket.key),
        (shared(), &strange_chain, &ticket.invitation, ticket.key),
        (shared(), inviter, &invitation, ticket.key),
        (shared(), inviter, &ticket.invitation, strange.secret()),
    ] {
        let mixed = VolumeTicket::check(
            volume,
            chain.clone(),
            invitation.clone(),
            key,
            ticket.network.clone(),
        );
        assert!(matches!(mixed, Err(TicketError::Inconsistent(_))));
    }
    // A chain of somebody else's device cannot sign.
    let issued = VolumeTicket::issue(
        shared(),
        &VolumeChain::found(ID, &device()),
        &strange,
        terms(true),
        network(),
        NOW,
        &entropy,
    );
    assert!(matches!(issued, Err(TicketError::Member(_))));
}

#[test]
fn names_and_keys_are_bounded_and_in_order() {
    let key = |epoch| (epoch, EpochKey::from_bytes([5; 32]));
    let many = 1..VOLUME_KEYS_MAX as u32 + 2;
    for keys in [
        vec![],
        vec![key(2), key(1)],
        vec![key(1), key(1)],
        many.map(key).collect(),
    ] {
        let volume = SharedVolume { keys, ..shared() };
        assert!(matches!(
            try_issue(volume, false),
            Err(TicketError::Inconsistent(_))
        ));
    }
    let name = "a".repeat(VOLUME_NAME_MAX_BYTES + 1);
    let volume = SharedVolume { name, ..shared() };
    assert!(matches!(
        try_issue(volume, false),
        Err(TicketError::Inconsistent(_))
    ));
}

/// The largest that this program makes is one that it reads.
#[test]
fn the_largest_ticket_can_be_read() {
    use crate::base::limits::MEMBERSHIP_CHAIN_MAX;
    use crate::crypto::Contact;
    let entropy = Entropy::seeded(3);
    let (secrets, mut outer) = MembershipChain::found(&device(), &entropy);
    let mut inner = VolumeChain::found(ID, &device());
    let mut last = device();
    let network_terms = Terms {
        storage_only: false,
        independent: false,
        expires_ms: u64::MAX,
    };
    let volume_terms = VolumeTerms {
        read_only: false,
        expires_ms: u64::MAX,
    };
    for _ in 1..MEMBERSHIP_CHAIN_MAX {
        let next = SigningKey::generate(&entropy);
        let (invitation, key) = outer
            .invite(&last, 0, network_terms, NOW, &entropy)
            .unwrap();
        outer = outer.admit(&invitation, &key, next.peer(), NOW).unwrap();
        let (invitation, key) = inner.invite(&last, volume_terms, NOW, &entropy).unwrap();
        inner = inner.admit(&invitation, &key, next.peer(), NOW).unwrap();
        last = next;
    }
    let contacts = (0..8u8).map(|number| Contact {
        peer: PeerId([number; 32]),
        control: vec!["a".repeat(511)],
        bulk: vec![],
    });
    let network = Ticket::issue(
        &outer,
        &last,
        &secrets,
        contacts.collect(),
        network_terms,
        NOW,
        &entropy,
    );
    let volume = SharedVolume {
        name: "n".repeat(VOLUME_NAME_MAX_BYTES),
        keys: (0..VOLUME_KEYS_MAX as u32)
            .map(|at| (u32::MAX - 100 + at, EpochKey::generate(&entropy)))
            .collect(),
        ..shared()
    };
    let ticket = VolumeTicket::issue(
        volume,
        &inner,
        &last,
        volume_terms,
        network.unwrap(),
        NOW,
        &entropy,
    );
    let ticket = ticket.unwrap();
    let text = ticket.to_string();
    assert!(text.len() < TEXT_MAX_CHARS, "{}", text.len());
    assert_eq!(text.parse::<VolumeTicket>().unwrap(), ticket);
    assert!(ticket.accept(PeerId([9; 32]), NOW).is_ok());
}

#[test]
fn a_reader_cannot_make_a_ticket_for_writing() {
    let owner = VolumeChain::found(ID, &device());
    let entropy = Entropy::seeded(5);
    let reader = SigningKey::generate(&entropy);
    let (invitation, key) = owner.invite(&device(), terms(true), NOW, &entropy).unwrap();
    let chain = owner.admit(&invitation, &key, reader.peer(), NOW).unwrap();
    let make = |read_only| {
        let terms = terms(read_only);
        VolumeTicket::issue(shared(), &chain, &reader, terms, network(), NOW, &entropy)
    };
    let refused = TicketError::Member(MemberError::Reader { link: 1 });
    assert_eq!(make(false).unwrap_err(), refused);
    let ticket = make(true).unwrap();
    let chain = ticket.accept(PeerId([9; 32]), NOW).unwrap();
    let member = chain.verify(ID, device().peer(), NOW).unwrap();
    assert!(member.read_only && member.ancestors.len() == 2);
}

#[test]
fn secrets_are_not_printed() {
    let shown = format!("{:?} {:?}", issue(false), shared());
    for secret in ["4, 4", "5, 5", "0404", "0505", "key:", "secrets"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn no_text_panics(text in "(cairn-volume:)?[1-9A-HJ-NP-Za-km-z]{0,40}.{0,4}") {
        prop_assert!(text.parse::<VolumeTicket>().is_err());
    }

    /// A body that was changed anywhere is another ticket or none; never a panic.
    #[test]
    fn changed_bodies_are_read_or_refused(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let ticket = issue(false);
        let mut content = ticket.encode();
        let at = at.index(content.len());
        content[at] ^= flip;
        if let Ok(changed) = VolumeTicket::decode(&content) {
            prop_assert_ne!(&changed, &ticket);
            prop_assert_eq!(&changed.encode(), &content);
        }
        prop_assert!(VolumeTicket::decode(&content[..at]).is_err());
    }
}
