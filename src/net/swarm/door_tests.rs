//! How many are let in, from where, and whoever dialled.

use super::super::addresses::to_libp2p;
use super::*;
use crate::base::{Clock, Entropy};
use crate::crypto::{MembershipChain, SigningKey};
use crate::net::admission::Lists;

const STRANGERS: usize = 8;
const CONNECTIONS: usize = 12;

fn door() -> Door {
    let entropy = Entropy::seeded(1);
    let founder = SigningKey::generate(&entropy);
    let (secrets, chain) = MembershipChain::found(&founder, &entropy);
    let clock = Clock::simulated(1_000_000);
    Door::new(DoorPolicy {
        gate: Gate::new(secrets, &chain, Lists::default(), clock),
        admission: StreamProtocol::new("/admission"),
        requests: StreamProtocol::new("/requests"),
        timeout: Duration::from_secs(1),
        strangers_max: STRANGERS,
        connections_max: CONNECTIONS,
    })
}

fn peer(number: u8) -> PeerId {
    let key = SigningKey::from_secret(&[number; 32]);
    to_libp2p(key.peer()).unwrap()
}

fn address(place: u8) -> Multiaddr {
    format!("/ip4/10.0.0.{place}/tcp/1").parse().unwrap()
}

fn knock(door: &mut Door, number: usize, place: u8) -> bool {
    let connection = ConnectionId::new_unchecked(number);
    door.handle_pending_inbound_connection(connection, &address(0), &address(place))
        .is_ok()
}

fn enter(door: &mut Door, number: usize, who: u8, place: u8) -> bool {
    let connection = ConnectionId::new_unchecked(number);
    let (local, remote) = (address(0), address(place));
    door.handle_established_inbound_connection(connection, peer(who), &local, &remote)
        .is_ok()
}

fn dial(door: &mut Door, number: usize, who: u8) -> bool {
    let (connection, peer) = (ConnectionId::new_unchecked(number), peer(who));
    let role = Endpoint::Dialer;
    let pending = door.handle_pending_outbound_connection(connection, Some(peer), &[], role);
    pending.is_ok()
        && door
            .handle_established_outbound_connection(
                connection,
                peer,
                &address(who),
                role,
                PortUse::Reuse,
            )
            .is_ok()
}

#[test]
fn strangers_are_bounded_in_all_and_from_one_place() {
    let mut door = door();
    let from_one = (0..STRANGERS).filter(|n| knock(&mut door, *n, 1)).count();
    assert_eq!(from_one, STRANGERS / 2);
    let others = (100..130)
        .filter(|n| knock(&mut door, *n, *n as u8))
        .count();
    assert_eq!(from_one + others, STRANGERS);
    // Who has shown an id is a stranger still, and is none once it is admitted.
    assert!(enter(&mut door, 0, 1, 1));
    assert!(!knock(&mut door, 200, 200));
    door.admit(peer(1), ConnectionId::new_unchecked(0));
    assert!(knock(&mut door, 200, 200));
    assert!(!knock(&mut door, 201, 201));
}

#[test]
fn a_peer_has_few_connections_whoever_dialled() {
    let mut door = door();
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    for _ in 0..CONNECTIONS_PER_PEER / 2 {
        assert!(enter(&mut door, next(), 1, 1));
        assert!(dial(&mut door, next(), 1));
    }
    assert!(!enter(&mut door, next(), 1, 1));
    assert!(!dial(&mut door, next(), 1));
    assert!(enter(&mut door, next(), 2, 1));
}

#[test]
fn nobody_is_let_in_beyond_the_bound_whoever_dialled_the_others() {
    let mut door = door();
    for number in 0..CONNECTIONS {
        let who = number as u8 + 1;
        let is_in = match number % 2 {
            0 => knock(&mut door, number, who) && enter(&mut door, number, who, who),
            _ => dial(&mut door, number, who),
        };
        assert!(is_in, "{number}");
        door.admit(peer(who), ConnectionId::new_unchecked(number));
    }
    assert!(!knock(&mut door, 100, 100));
    // Whom it dials is bounded by whoever wants that.
    assert!(dial(&mut door, 101, 101));
}
