//! Addresses: what to listen on, what to tell others, and where to dial.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::base::PeerId;
use crate::net::command::Path;
use crate::net::records::ADDRESSES_MAX;

/// Port of the control plane, TCP and QUIC, unless configured otherwise.
pub const CONTROL_PORT: u16 = 4747;
/// Port of the bulk plane, TCP, unless configured otherwise.
pub const BULK_PORT: u16 = 4748;

/// Where the control plane listens unless configured otherwise.
pub fn default_listen() -> Vec<String> {
    vec![
        format!("/ip4/0.0.0.0/tcp/{CONTROL_PORT}"),
        format!("/ip4/0.0.0.0/udp/{CONTROL_PORT}/quic-v1"),
        format!("/ip6/::/tcp/{CONTROL_PORT}"),
        format!("/ip6/::/udp/{CONTROL_PORT}/quic-v1"),
    ]
}

/// libp2p's form of a peer id.
pub(super) fn to_libp2p(peer: PeerId) -> Option<libp2p::PeerId> {
    libp2p::PeerId::from_bytes(&peer.to_multihash()).ok()
}

/// Ours; `None` for peers whose key is not Ed25519.
pub(super) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash(&peer.to_bytes())
}

/// The transport that an address of a connection names.
pub(super) fn path_of(address: &Multiaddr) -> Path {
    let is_quic = |part| matches!(part, Protocol::QuicV1 | Protocol::Quic);
    if address.iter().any(is_quic) {
        Path::Quic
    } else {
        Path::Tcp
    }
}

pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    })
}

/// Where an address of plain TCP listens.
pub(super) fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The same address at another IP; `None` if families differ or it has none.
pub(super) fn with_ip(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    let mut parts: Vec<Protocol<'_>> = address.iter().collect();
    let first = parts.first_mut()?;
    *first = match (&first, ip) {
        (Protocol::Ip4(_), IpAddr::V4(ip)) => Protocol::Ip4(ip),
        (Protocol::Ip6(_), IpAddr::V6(ip)) => Protocol::Ip6(ip),
        _ => return None,
    };
    Some(parts.into_iter().collect())
}

/// The address with its host's name replaced by an IP; `None` if the name asks for the other
/// family.
pub(super) fn with_host(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    let mut parts: Vec<Protocol<'_>> = address.iter().collect();
    let first = parts.first_mut()?;
    *first = match (&first, ip) {
        (Protocol::Dns(_) | Protocol::Dns4(_), IpAddr::V4(ip)) => Protocol::Ip4(ip),
        (Protocol::Dns(_) | Protocol::Dns6(_), IpAddr::V6(ip)) => Protocol::Ip6(ip),
        _ => return None,
    };
    Some(parts.into_iter().collect())
}

/// Removes a trailing `/p2p/...`.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let parts = address.iter();
    parts
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect()
}

/// The peer that an address names, if it does.
pub(super) fn peer_of(address: &Multiaddr) -> Option<libp2p::PeerId> {
    address.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

/// Whether others can make use of an IP address of this machine.
fn is_telling(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // Of no use without the name of the interface.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_multicast() || is_link_local)
}

/// The addresses to announce: all that others can use; loopback only if there is nothing else.
fn announced<A: Ord + Clone>(all: impl IntoIterator<Item = (IpAddr, A)>) -> Vec<A> {
    let (local, global): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(|(ip, _)| is_telling(*ip))
        .partition(|(ip, _)| ip.is_loopback());
    let chosen = if global.is_empty() { local } else { global };
    let unique: BTreeSet<A> = chosen.into_iter().map(|(_, address)| address).collect();
    unique.into_iter().take(ADDRESSES_MAX).collect()
}

/// What to announce of the control plane.
pub(super) fn announced_control<'a>(
    listening: impl IntoIterator<Item = &'a Multiaddr>,
) -> Vec<String> {
    let with_ip = |address: &Multiaddr| Some((ip_of(address)?, without_peer(address).to_string()));
    announced(listening.into_iter().filter_map(with_ip))
}

/// What to announce of the bulk plane. It listens on unspecified addresses at those of the
/// interfaces, which the control plane watches.
pub(super) fn announced_bulk(bound: &[SocketAddr], interfaces: &BTreeSet<IpAddr>) -> Vec<String> {
    let expanded = bound.iter().flat_map(|socket| {
        let ips: Vec<IpAddr> = if socket.ip().is_unspecified() {
            let fits = |ip: &&IpAddr| ip.is_ipv4() == socket.is_ipv4();
            interfaces.iter().filter(fits).copied().collect()
        } else {
            vec![socket.ip()]
        };
        let port = socket.port();
        ips.into_iter()
            .map(move |ip| (ip, SocketAddr::new(ip, port)))
    });
    let chosen = announced(expanded);
    chosen.iter().map(SocketAddr::to_string).collect()
}

/// Reads announced bulk addresses; what is not one is left out.
pub(super) fn sockets(texts: &[String]) -> Vec<SocketAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_is_announced_only_if_there_is_nothing_else() {
        let local = address("/ip4/127.0.0.1/tcp/1");
        let lan = address("/ip4/10.0.0.7/udp/1/quic-v1");
        let useless = address("/ip6/fe80::1/tcp/1");
        assert_eq!(announced_control([&local]), ["/ip4/127.0.0.1/tcp/1"]);
        assert_eq!(
            announced_control([&local, &lan, &useless]),
            ["/ip4/10.0.0.7/udp/1/quic-v1"]
        );
        let interfaces = [ip_of(&local).unwrap(), ip_of(&lan).unwrap()].into();
        let any = "0.0.0.0:4748".parse().unwrap();
        assert_eq!(announced_bulk(&[any], &interfaces), ["10.0.0.7:4748"]);
        // Each family has a socket of its own.
        let any_v6 = "[::]:4748".parse().unwrap();
        assert!(announced_bulk(&[any_v6], &interfaces).is_empty());
        let fixed = "127.0.0.1:9".parse().unwrap();
        assert_eq!(announced_bulk(&[fixed], &interfaces), ["127.0.0.1:9"]);
    }

    #[test]
    fn addresses_are_taken_apart() {
        let id = to_libp2p(PeerId([
            0x3b, 0x6a, 0x27, 0xbc, 0xce, 0xb6, 0xa4, 0x2d, 0x62, 0xa3, 0xa8, 0xd0, 0x2a, 0x6f,
            0x0d, 0x73, 0x65, 0x32, 0x15, 0x77, 0x1d, 0xe2, 0x43, 0xa6, 0x3a, 0xc0, 0x48, 0xa1,
            0x8b, 0x59, 0xda, 0x29,
        ]))
        .unwrap();
        let full = address("/ip4/1.2.3.4/udp/5/quic-v1").with_p2p(id).unwrap();
        assert_eq!(peer_of(&full), Some(id));
        assert_eq!(without_peer(&full), address("/ip4/1.2.3.4/udp/5/quic-v1"));
        assert_eq!(path_of(&full), Path::Quic);
        assert_eq!(path_of(&address("/ip4/1.2.3.4/tcp/5")), Path::Tcp);
        let moved = with_ip(&address("/ip4/1.2.3.4/tcp/5"), "9.9.9.9".parse().unwrap());
        assert_eq!(moved, Some(address("/ip4/9.9.9.9/tcp/5")));
        assert_eq!(with_ip(&full, "::1".parse().unwrap()), None);
    }
}
