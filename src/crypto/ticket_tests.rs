//! Tickets in good hands and in all conditions.

use super::*;
use crate::crypto::testing::cases;
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000_000;

fn issue(storage_only: bool) -> (Ticket, NetworkSecrets) {
    let entropy = Entropy::seeded(1);
    let device = SigningKey::generate(&entropy);
    let (secrets, chain) = MembershipChain::found(&device, &entropy);
    let contacts = vec![Contact {
        peer: device.peer(),
        control: vec!["/ip4/192.0.2.1/tcp/4242".to_owned()],
        bulk: vec!["192.0.2.1:4243".to_owned(), "[2001:db8::1]:4243".to_owned()],
    }];
    let terms = Terms {
        storage_only,
        independent: false,
        expires_ms: NOW + 3_600_000,
    };
    let ticket = Ticket::issue(&chain, &device, &secrets, contacts, terms, NOW, &entropy).unwrap();
    (ticket, secrets)
}

#[test]
fn a_ticket_survives_its_text_and_admits() {
    let (ticket, secrets) = issue(false);
    let text = ticket.to_string();
    let read: Ticket = text.parse().unwrap();
    assert_eq!(read, ticket);
    let wrapped = format!("  {}\n {}\r\n", &text[..60], &text[60..]);
    assert_eq!(wrapped.parse::<Ticket>().unwrap(), ticket);

    let device = PeerId([9; 32]);
    let (joined, chain) = read.accept(device, NOW + 1).unwrap();
    assert_eq!(joined, secrets);
    let member = chain.verify(ticket.network(), NOW + 1).unwrap();
    assert_eq!(member.device, device);
    assert!(!member.storage_only);
}

#[test]
fn a_storage_only_ticket_tells_no_convergence_secret() {
    let (ticket, secrets) = issue(true);
    let (joined, chain) = ticket.accept(PeerId([9; 32]), NOW).unwrap();
    assert!(joined.convergence().is_none());
    assert_eq!(joined.membership_tag(), secrets.membership_tag());
    assert!(chain.verify(ticket.network(), NOW).unwrap().storage_only);
}

#[test]
fn each_fault_is_told_apart() {
    let (ticket, _) = issue(false);
    let text = ticket.to_string();
    let parse = |text: &str| text.parse::<Ticket>().unwrap_err();

    assert_eq!(parse(""), TicketError::NotATicket(TICKET_PREFIX));
    assert_eq!(parse("hello"), TicketError::NotATicket(TICKET_PREFIX));
    assert_eq!(parse("cairn:abc"), TicketError::IsALink);
    assert_eq!(parse("cairn-volume:abc"), TicketError::IsOfAVolume);
    assert_eq!(
        parse(&text[..text.len() - 7]),
        TicketError::Truncated { missing: 7 }
    );
    assert!(matches!(
        parse(TICKET_PREFIX),
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

    let later = envelope::wrap(TICKET_PREFIX, b"\x02something new".to_vec());
    assert_eq!(parse(&later), TicketError::Version { found: 2, known: 1 });

    let late = ticket.accept(PeerId([1; 32]), NOW + 3_600_000 + 120_000);
    assert_eq!(late.unwrap_err(), TicketError::Expired { ago_ms: 120_000 });
}

#[test]
fn a_ticket_of_mixed_parts_is_refused() {
    let (ticket, secrets) = issue(false);
    let (storage, _) = issue(true);
    let strange = SigningKey::generate(&Entropy::seeded(8));
    let (other_secrets, other_chain) = MembershipChain::found(&strange, &Entropy::seeded(9));
    let mut next_epoch = secrets.clone();
    next_epoch.epoch += 1;
    for (secrets, chain, invitation, key) in [
        (
            &other_secrets,
            &ticket.inviter,
            &ticket.invitation,
            &ticket.key,
        ),
        (&secrets, &other_chain, &ticket.invitation, &ticket.key),
        (
            &next_epoch,
            &ticket.inviter,
            &ticket.invitation,
            &ticket.key,
        ),
        (
            &secrets,
            &ticket.inviter,
            &ticket.invitation,
            &strange.secret(),
        ),
        (
            &secrets,
            &storage.inviter,
            &storage.invitation,
            &storage.key,
        ),
    ] {
        let mixed = Ticket::check(
            secrets.clone(),
            vec![],
            chain.clone(),
            invitation.clone(),
            *key,
        );
        assert!(matches!(mixed, Err(TicketError::Inconsistent(_))));
    }
}

#[test]
fn secrets_are_not_printed() {
    let (ticket, _) = issue(false);
    let shown = format!("{ticket:?}");
    assert!(
        !shown.contains("key") && !shown.contains("secrets"),
        "{shown}"
    );
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn no_text_panics(text in "(cairn-ticket:)?[1-9A-HJ-NP-Za-km-z]{0,40}.{0,4}") {
        prop_assert!(text.parse::<Ticket>().is_err());
    }
}
