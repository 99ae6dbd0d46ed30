//! `[network]`: where peers listen and how they find one another.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use cairnfs::config::{Address, Config};

use super::{peer_id, sees};
use crate::netns::{BACK_WITHIN, Lan, ip};
use crate::support::{Devnet, edit_config, wait_until};

/// How long peers that cannot know of each other are watched not to meet.
const NOT_WITHIN: Duration = Duration::from_secs(6);

/// A port that is free for TCP and UDP. (Somebody else might take it: then the peer does not
/// start, and the test fails loudly.)
fn free_port() -> u16 {
    let ports = (0..50).find_map(|_| {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let port = tcp.local_addr().ok()?.port();
        let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(port)
    });
    ports.expect("a free port")
}

fn control(port: u16) -> Vec<Address> {
    vec![
        Address(format!("/ip4/127.0.0.1/tcp/{port}")),
        Address(format!("/ip4/127.0.0.1/udp/{port}/quic-v1")),
    ]
}

fn bulk(port: u16) -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]
}

fn answers(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[test]
fn the_control_plane_listens_where_it_is_told() {
    let mut net = Devnet::start(&["--peers", "2"]);
    let ports = [free_port(), free_port()];
    for (port, other) in [(ports[0], ports[1]), (ports[1], ports[0])] {
        net.reconfigure(1, |config| config.network.listen = control(port));
        net.wait_connected(1);
        assert!(answers(port) && !answers(other));
    }
}

#[test]
fn the_bulk_plane_listens_where_it_is_told() {
    let mut net = Devnet::start(&["--peers", "2"]);
    let ports = [free_port(), free_port()];
    for (port, other) in [(ports[0], ports[1]), (ports[1], ports[0])] {
        net.reconfigure(1, |config| config.network.bulk_listen = bulk(port));
        net.wait_connected(1);
        assert!(answers(port) && !answers(other));
    }
}

#[test]
fn bootstrap_addresses_bring_strayed_peers_together() {
    let mut net = Devnet::start(&["--peers", "2"]);
    let other = peer_id(&net, 0);
    net.kill(0);
    net.kill(1);
    // Both have moved: what they remember of each other is of no use.
    let port = free_port();
    let moved = |config: &mut Config, port| {
        config.network.listen = control(port);
        config.network.bulk_listen = bulk(free_port());
    };
    edit_config(&net.peers[0].data_dir, |config| moved(config, port));
    edit_config(&net.peers[1].data_dir, |config| moved(config, free_port()));
    net.start_again(0, None);
    net.start_again(1, None);
    std::thread::sleep(NOT_WITHIN);
    assert!(!sees(&net, 1, &other), "nobody told it where the other is");
    net.reconfigure(1, |config| config.network.bootstrap = control(port));
    wait_until("they meet", BACK_WITHIN, || sees(&net, 1, &other));
}

#[test]
fn neighbours_are_found_by_multicast_only_if_wanted() {
    // In namespaces only: elsewhere the neighbours are somebody's.
    let Some(mut lan) = Lan::new(2, "mdns") else {
        return;
    };
    lan.start();
    for at in 0..2 {
        lan.stop_node(at);
        // Both have moved: what they remember of each other is of no use.
        let (name, host) = (lan.name(at), at + 1);
        assert!(ip(&format!(
            "-n {name} addr del 10.77.0.{host}/24 dev eth0"
        )));
        assert!(ip(&format!(
            "-n {name} addr add 10.77.0.5{host}/24 dev eth0"
        )));
        // Addresses that the kernel made up do not change by themselves.
        assert!(ip(&format!("-n {name} -6 addr flush dev eth0")));
    }
    for wanted in [false, true] {
        for at in 0..2 {
            edit_config(&lan.data_dir(at), |config| config.network.mdns = wanted);
            lan.start_node(at);
        }
        if wanted {
            wait_until("they meet", BACK_WITHIN, || lan.path(0, 1).is_some());
        } else {
            std::thread::sleep(NOT_WITHIN);
            assert_eq!(lan.path(0, 1), None, "nobody told them of each other");
            lan.stop_node(0);
            lan.stop_node(1);
        }
    }
}
