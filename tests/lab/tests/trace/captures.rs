//! Composes captures and plays them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lab::hushport;
use lab::setup::{self, Target};
use lab::trace::{self, Plan, Played};
use machine::Machine;
use machine::nt;
use machine::wire::compose::ip;

pub const HOST: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), v6(1)];
pub const PEER: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)), v6(2)];

const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}

pub fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// A segment. Letters give its flags.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: &str, numbers: (u32, u32), data: &[u8]) -> Vec<u8> {
    let mut segment = ip(from.ip(), to.ip()).tcp(from.port(), to.port(), numbers.0, 65_535);
    for flag in flags.chars() {
        segment = match flag {
            'S' => segment.syn(),
            'A' => segment.ack(numbers.1),
            'F' => segment.fin(),
            'R' => segment.rst(),
            'P' => segment.psh(),
            other => panic!("{other} is no flag"),
        };
    }
    let mut bytes = Vec::new();
    segment.write(&mut bytes, data).unwrap();
    bytes
}

pub fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut bytes, data).unwrap();
    bytes
}

/// A whole connection to a port of the host: handshake, request, response, end.
pub fn exchange(host: SocketAddr, peer: SocketAddr) -> Vec<Vec<u8>> {
    vec![
        tcp(peer, host, "S", (100, 0), b""),
        tcp(host, peer, "SA", (500, 101), b""),
        tcp(peer, host, "A", (101, 501), b""),
        tcp(peer, host, "PA", (101, 501), b"question"),
        tcp(host, peer, "PA", (501, 109), b"answer"),
        tcp(host, peer, "FA", (507, 109), b""),
        tcp(peer, host, "FA", (109, 508), b""),
        tcp(host, peer, "A", (508, 110), b""),
    ]
}

/// A SYN to a closed port, and the RST.
pub fn closed(host: SocketAddr, peer: SocketAddr) -> Vec<Vec<u8>> {
    vec![tcp(peer, host, "S", (100, 0), b""), tcp(host, peer, "RA", (0, 101), b"")]
}

/// A pcap file of raw IP, one packet each millisecond.
pub fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    pcap_of(101, packets)
}

/// A pcap file of a link type, one packet each millisecond.
pub fn pcap_of(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    for (index, packet) in packets.iter().enumerate() {
        let (index, length) = (index as u32, packet.len() as u32);
        for word in [1_700_000_000 + index / 1000, index % 1000 * 1000, length, length] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(packet);
    }
    file
}

/// The first timestamp of [`timed`], in seconds since 1970: 2023-11-14T22:13:20Z.
pub const BEGIN: u64 = 1_700_000_000;

/// A pcap file of raw IP with nanoseconds. The times are since [`BEGIN`].
pub fn timed(packets: &[(Duration, Vec<u8>)]) -> Vec<u8> {
    let begin = Duration::from_secs(BEGIN);
    let stamped = packets.iter().map(|(at, packet)| (begin + *at, packet.clone()));
    stamped_pcap(&stamped.collect::<Vec<_>>())
}

/// The same with times since 1970.
pub fn stamped_pcap(packets: &[(Duration, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 101] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    for (at, packet) in packets {
        let length = packet.len() as u32;
        for word in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(packet);
    }
    file
}

/// A machine with values for the driver.
pub fn machine(values: &[(&str, u32)]) -> Machine {
    let mut machine = hushport::machine(nt::Options { own_time: true, ..nt::Options::default() });
    for (name, value) in values {
        machine.set(name, *value);
    }
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    machine
}

/// Plays a file through the driver, and checks that it leaves nothing.
pub fn play(file: &[u8], plan: &Plan, values: &[(&str, u32)]) -> Played {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    std::fs::write(&path, file).unwrap();
    play_file(&path, plan, values)
}

pub fn play_file(path: &Path, plan: &Plan, values: &[(&str, u32)]) -> Played {
    play_on(machine(values), path, plan)
}

pub fn play_on(mut machine: Machine, path: &Path, plan: &Plan) -> Played {
    let played = trace::play(path, plan, machine.kernel(), Arc::new(|_| ()), Box::new(|_| Ok(true))).unwrap();
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(machine.stop().unwrap().is_empty());
    played
}

/// The plan that expects every documented layer.
pub fn plan() -> Plan {
    Plan { everywhere: true, ..Plan::default() }
}

/// How often an event was seen.
pub fn met(played: &Played, event: machine::host::Event) -> usize {
    played.account.flows.iter().find(|flow| flow.event == event).map_or(0, |flow| flow.met)
}

/// Duration of a [`pcap`] with so many packets.
pub fn length(packets: usize) -> Duration {
    Duration::from_millis(packets.saturating_sub(1) as u64)
}
