//! The replay infers the host of a capture, reassembles and decapsulates.

use lab::report::trace_text;
use lab::trace::{Plan, Played};
use machine::host::Event;
use machine::wire::compose::fragments;

use super::captures::*;

/// An Ethernet frame to a station or a group.
fn ethernet(destination: u8, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[destination; 6][..], &[2; 6], &kind, packet].concat()
}

/// A Linux cooked frame with a packet type.
fn cooked(kind: u8, packet: &[u8]) -> Vec<u8> {
    [&[0, kind][..], &[0; 12], &[8, 0], packet].concat()
}

fn v4(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

/// Six stations that send broadcasts, and a scan of three ports.
fn stations(broadcast: &str) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let spoken = (10..16).map(|station| {
        udp(v4(&format!("192.168.1.{station}:138")), v4(&format!("{broadcast}:138")), b"hello")
    });
    let scan = (22..25).flat_map(|port| {
        closed(v4(&format!("192.168.1.20:{port}")), v4(&format!("198.51.100.7:{}", 40_000 + port)))
    });
    (spoken.collect(), scan.collect())
}

fn is_scan_of_three(played: &Played) {
    assert_eq!(played.roles.text().0, ["192.168.1.20"]);
    let account = &played.account;
    assert_eq!((account.silenced, account.suppressed, account.deviations), (3, 3, 0));
    // The broadcasts were for the host, too. They found no socket, and nobody answers them.
    assert_eq!(met(played, Event::EndpointlessDatagram), 6);
    assert_eq!((played.traffic.received.udp, played.traffic.received.tcp), (6, 3));
    assert_eq!(played.traffic.sent.tcp, 3);
}

#[test]
fn a_subnets_broadcast_address_is_not_the_host() {
    // By the link layer; also for a smaller subnet.
    for broadcast in ["192.168.1.255", "192.168.1.63"] {
        let (spoken, scan) = stations(broadcast);
        let spoken = spoken.iter().map(|packet| ethernet(0xff, packet));
        let frames: Vec<_> = spoken.chain(scan.iter().map(|packet| ethernet(2, packet))).collect();
        is_scan_of_three(&play(&pcap_of(1, &frames), &plan(), &[]));
    }
    // By the address only.
    let (spoken, scan) = stations("192.168.1.255");
    is_scan_of_three(&play(&pcap(&[spoken, scan].concat()), &plan(), &[]));
    // By the packet type of frames to the host.
    let (spoken, scan) = stations("192.168.1.63");
    let spoken = spoken.iter().map(|packet| cooked(1, packet));
    let scan = scan.iter().enumerate().map(|(index, packet)| cooked([0, 4][index % 2], packet));
    let frames: Vec<_> = spoken.chain(scan).collect();
    is_scan_of_three(&play(&pcap_of(113, &frames), &plan(), &[]));
}

#[test]
fn a_broadcast_within_a_given_prefix_is_not_silenced() {
    let (spoken, scan) = stations("192.168.1.255");
    let frames: Vec<_> = spoken.iter().map(|packet| ethernet(0xff, packet)).collect();
    let frames = [frames, scan.iter().map(|packet| ethernet(2, packet)).collect()].concat();
    let given = Plan { local: vec!["192.168.1.0/24".parse().unwrap()], ..plan() };
    let played = play(&pcap_of(1, &frames), &given, &[]);
    assert_eq!((played.account.silenced, played.account.suppressed), (3, 3));
}

#[test]
fn a_silent_host_that_is_scanned_is_the_host() {
    let scan: Vec<_> =
        (20..40).map(|port| tcp(at(PEER[0], 4000), at(HOST[0], port), "S", (1, 0), b"")).collect();
    let played = play(&pcap(&scan), &plan(), &[]);
    assert!(played.roles.is_local(HOST[0]) && !played.roles.is_local(PEER[0]));
    assert_eq!(played.account.silenced, 20);
}

#[test]
fn frames_for_other_machines_are_counted_and_not_played() {
    let (_, scan) = stations("192.168.1.255");
    let frames: Vec<_> = scan.iter().map(|packet| cooked(3, packet)).collect();
    let played = play(&pcap_of(113, &frames), &plan(), &[]);
    assert_eq!((played.tally.packets, played.tally.elsewhere, played.counters.classified), (6, 6, 0));
}

#[test]
fn a_scan_in_fragments_is_seen() {
    for family in [0, 1] {
        let mut packets = Vec::new();
        // Over IPv6 the first fragment has all headers (RFC 7112).
        let (size, data) = [(8, 0), (24, 40)][family];
        for port in 20..25 {
            let (host, peer) = (at(HOST[family], port), at(PEER[family], 4000));
            packets.extend(fragments(&tcp(peer, host, "S", (100, 0), &vec![0; data]), port, size));
            packets.push(tcp(host, peer, "RA", (0, 101), b""));
        }
        let played = play(&pcap(&packets), &plan(), &[]);
        assert!(played.roles.is_local(HOST[family]), "{:?}", played.roles.text());
        let account = &played.account;
        assert_eq!((account.silenced, account.suppressed, account.deviations), (5, 5, 0), "{family}");
        assert_eq!((played.tally.fragments, played.tally.reassembled), (15, 5));
        assert_eq!(met(&played, Event::SynNobodyListening), 5);
        // The verdict is for the port, not for a fragment without ports.
        let ports: Vec<_> = account.timeline.ports(10).0.iter().map(|((_, port), _)| *port).collect();
        assert_eq!(ports.len(), 5);
        assert!((20..25).all(|port| ports.contains(&port)), "{ports:?}");
    }
}

#[test]
fn fragments_of_a_capture_are_played_reassembled() {
    let (host, peer) = (at(HOST[0], 53), at(PEER[0], 4000));
    let mut packets = vec![udp(peer, host, b"question")];
    packets.extend(fragments(&udp(host, peer, &[7; 3000]), 1, 1480));
    let played = play(&pcap(&packets), &plan(), &[]);
    assert_eq!((met(&played, Event::DatagramIn), met(&played, Event::DatagramOut)), (1, 1));
    assert_eq!((played.unplayed.fragments_out, played.account.deviations), (3, 0));
    assert_eq!((played.traffic.sent.udp, played.traffic.sent.fragments), (1, 3));
}

/// Incomplete datagrams expire, whatever their number. Later datagrams are reassembled.
#[test]
fn lone_fragments_are_forgotten_in_time() {
    let [probe, reset] = closed(at(HOST[0], 22), at(PEER[0], 4000)).try_into().unwrap();
    let lone = |number: u16| fragments(&probe, number, 8).swap_remove(0);
    // One packet each millisecond: at the end the first are older than a minute.
    let mut packets: Vec<_> = (0..62_000).map(lone).collect();
    packets.extend(fragments(&probe, 63_000, 8));
    packets.push(reset);
    let played = play(&pcap(&packets), &plan(), &[]);
    assert_eq!((played.tally.fragments, played.account.silenced), (62_003, 1));
}

#[test]
fn link_headers_are_removed_or_named() {
    let probe = closed(at(HOST[0], 22), at(PEER[0], 4000)).swap_remove(0);
    let frame = |from_type_on: &[u8], packet: &[u8]| [&[2; 12][..], from_type_on, packet].concat();
    let frames = [
        frame(&[0x81, 0, 0, 5, 8, 0], &probe),
        frame(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0], &probe),
        frame(&[0x92, 0, 0, 5, 8, 0], &probe),
        frame(&[0x88, 0x47, 0, 1, 1, 64], &probe),
        frame(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 42, 0, 0x21], &probe),
        frame(&[0, 48, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &probe),
        frame(&[0x89, 0x3f, 0, 0, 0, 0, 0, 0, 8, 0], &probe),
        frame(&[&[0x81, 0, 0, 1].repeat(5)[..], &[8, 0]].concat(), &probe),
        frame(&[0x81, 0, 0, 0, 0x88, 0xe5], &[0; 20]),
        frame(&[8, 6], &[0; 28]),
        frame(&[8, 6], &[0; 28]),
        frame(&[8, 0], &udp(at(PEER[0], 5), at(HOST[0], 4789), b"a frame")),
    ];
    let played = play(&pcap_of(1, &frames), &plan(), &[]);
    let tally = &played.tally;
    assert_eq!((tally.packets, tally.not_ip, tally.tunnels.of("VXLAN")), (9, 3, 1));
    assert_eq!((tally.others.of("MACsec"), tally.others.of("ARP")), (1, 2));
    assert_eq!(met(&played, Event::SynNobodyListening), 8);
    let mut text = Vec::new();
    trace_text(&mut text, &played, &[]).unwrap();
    let text = String::from_utf8(text).unwrap();
    for said in ["3 (ARP 2, MACsec 1)", "VXLAN 1; only the outer packets are played"] {
        assert!(text.contains(said), "{text}");
    }
}
