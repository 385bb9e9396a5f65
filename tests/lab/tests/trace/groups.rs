//! Captures of broadcasts and multicasts, and of who has proven its address.

use std::net::IpAddr;

use lab::trace::{Plan, Played};
use machine::host::Event;
use machine::wire::compose::fragments;

use super::captures::*;

/// The host's address is given, because nothing in these captures shows it.
fn of_host() -> Plan {
    Plan { local: HOST.map(|host| host.to_string().parse().unwrap()).into(), ..plan() }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn found(played: &Played) -> Vec<(IpAddr, Option<bool>)> {
    let scanners = played.account.scans.scanners.iter();
    scanners.map(|scanner| (scanner.scan.remote, scanner.scan.proven)).collect()
}

/// A station that looks for devices on 40 ports silences nothing and is no scanner. The
/// same datagrams to the host itself are.
#[test]
fn a_station_that_looks_for_devices_is_no_scanner_in_a_capture() {
    for (from, group, own) in [
        (PEER[0], address("255.255.255.255"), HOST[0]),
        (PEER[0], address("192.0.2.255"), HOST[0]),
        (PEER[0], address("239.1.2.3"), HOST[0]),
        (PEER[1], address("ff02::1"), HOST[1]),
        (PEER[1], address("ff05::1:3"), HOST[1]),
    ] {
        let datagrams = |to: IpAddr| (2000..2040).map(move |port| udp(at(from, 5000), at(to, port), b"?"));
        let looking: Vec<_> = datagrams(group).collect();
        let played = play(&pcap(&looking), &of_host(), &[]);
        assert_eq!(met(&played, Event::EndpointlessDatagram), 40, "{group}");
        assert_eq!((played.account.silenced, played.account.deviations), (0, 0), "{group}");
        assert_eq!(found(&played), [], "{group}");
        // Fragments, segments and echo requests are not answered, either.
        let mut others: Vec<_> = looking.iter().flat_map(|packet| fragments(packet, 7, 8)).collect();
        others.extend((80..120).map(|port| tcp(at(from, 5000), at(group, port), "S", (1, 0), b"")));
        let played = play(&pcap(&others), &of_host(), &[("CheckOrder", 1)]);
        assert_eq!((played.account.silenced, played.account.deviations), (0, 0), "{group}");
        assert_eq!(found(&played), [], "{group}");
        let played = play(&pcap(&datagrams(own).collect::<Vec<_>>()), &of_host(), &[]);
        assert_eq!((played.account.silenced, found(&played)), (40, vec![(from, Some(false))]), "{group}");
    }
}

/// A socket that sends from a port gets what comes to it for all, as one flow.
#[test]
fn a_socket_of_the_host_gets_what_is_for_all() {
    let (host, group) = (at(HOST[0], 5353), at(address("224.0.0.251"), 5353));
    let packets = [
        udp(host, group, b"question"),
        udp(at(PEER[0], 5353), group, b"answer"),
        udp(at(address("192.0.2.9"), 5353), group, b"answer"),
    ];
    let played = play(&pcap(&packets), &of_host(), &[("CheckOrder", 1)]);
    assert_eq!((met(&played, Event::DatagramIn), met(&played, Event::LaterDatagramIn)), (1, 1));
    assert_eq!((played.account.silenced, played.account.deviations), (0, 0));
}

/// Only who has completed a handshake that it began has proven its address.
#[test]
fn a_capture_shows_who_has_proven_its_address() {
    for family in [0, 1] {
        let (host, scanner) = (HOST[family], PEER[family]);
        let open = exchange(at(host, 80), at(scanner, 4000));
        // The host's own connection to the remote.
        let own = exchange(at(scanner, 53), at(host, 4000));
        let probes: Vec<_> =
            (1000..1040).map(|port| tcp(at(scanner, 5000), at(host, port), "S", (1, 0), b"")).collect();
        for (before, expected) in [(&open[..], true), (&own[..], false), (&open[..2], false), (&[], false)] {
            let played = play(&pcap(&[before, &probes].concat()), &of_host(), &[]);
            assert_eq!(found(&played), [(scanner, Some(expected))], "{} before", before.len());
        }
    }
}
