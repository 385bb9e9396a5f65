//! A report says whether the remote has proven its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use machine::etw::{Event, Value};
use machine::host::{Application, OpenPoints, Options};
use machine::wire::Family;

use super::stacks::Stacks;

const HTTP: u16 = 80;

fn start(values: &[(&str, u32)]) -> Stacks {
    let mut stacks = Stacks::start(values, &[Options::default()], &OpenPoints::default());
    for family in Family::BOTH {
        let local = stacks.host_at(0, family, HTTP);
        stacks.hosts[0].listen(local, Application::Hold).unwrap();
    }
    stacks
}

fn proven(scans: &[Event]) -> Vec<(IpAddr, bool)> {
    let of = |event: &Event| match (event.field("Remote"), event.field("Proven")) {
        (Some(Value::Socket(remote)), Some(Value::Bool(proven))) => (remote.ip(), *proven),
        other => panic!("{other:?}"),
    };
    scans.iter().map(of).collect()
}

/// Somebody forges SYNs from the address of the machine's own resolver. The machine may
/// even have a connection to it, which the machine began.
#[test]
fn forged_segments_prove_nothing_for_whomever_they_name() {
    for family in Family::BOTH {
        let mut stacks = start(&[]);
        let resolver = stacks.peer_at(family, 53);
        stacks.peer.listen(resolver).unwrap();
        stacks.hosts[0].connect(resolver, b"question".to_vec()).unwrap();
        stacks.run();
        assert!(stacks.events("Classified").iter().any(|event| event.text("Layer").starts_with("ALE_FLOW")));
        stacks.probe(0, resolver.ip(), 100..140);
        assert_eq!(proven(&stacks.scans()), [(resolver.ip(), false)]);
        let log = stacks.machine.kernel().error_log();
        assert_eq!(log.iter().filter(|entry| entry.id() == 6).count(), 1);
        stacks.end();
    }
}

/// A remote that connects before its scan, or during it, has proven its address, and
/// nobody else has.
#[test]
fn a_completed_handshake_proves_the_address_of_who_began_it() {
    for family in Family::BOTH {
        for during in [false, true] {
            let mut stacks = start(&[]);
            let scanner = stacks.peer_at(family, 0).ip();
            if during {
                stacks.probe(0, scanner, 100..108);
            }
            stacks.connect(0, family, HTTP);
            stacks.probe(0, scanner, 110..140);
            assert_eq!(proven(&stacks.scans()), [(scanner, true)], "{during}");
            let mut other = SocketAddr::new(scanner, 0);
            match scanner {
                IpAddr::V4(v4) => other.set_ip(Ipv4Addr::from_bits(v4.to_bits() ^ 0x100).into()),
                IpAddr::V6(v6) => other.set_ip(std::net::Ipv6Addr::from_bits(v6.to_bits() ^ 1 << 64).into()),
            }
            stacks.probe(0, other.ip(), 110..140);
            assert!(proven(&stacks.scans()).contains(&(other.ip(), false)));
            stacks.end();
        }
    }
}

/// A SYN alone, or a handshake that is not completed, proves nothing: anybody can send it.
#[test]
fn half_a_handshake_proves_nothing() {
    let mut stacks = start(&[]);
    let forged: IpAddr = [198, 51, 100, 8].into();
    stacks.probe(0, forged, HTTP..HTTP + 1);
    assert_eq!(stacks.lost.len(), 1, "the SYN-ACK goes to nobody");
    stacks.probe(0, forged, 100..140);
    assert_eq!(proven(&stacks.scans()), [(forged, false)]);
    stacks.end();
}

/// Without filters at the observing layers the driver sees no handshake (`Observe`).
#[test]
fn without_observation_nothing_is_proven() {
    let mut stacks = start(&[("Observe", 0)]);
    let scanner = stacks.peer_at(Family::V4, 0).ip();
    stacks.connect(0, Family::V4, HTTP);
    stacks.probe(0, scanner, 100..140);
    assert_eq!(proven(&stacks.scans()), [(scanner, false)]);
    stacks.end();
}
