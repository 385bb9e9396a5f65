//! Nobody answers broadcast and multicast, so there is nothing to silence.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lab::counters::Counters;
use lab::variants::Variant;
use lab::world::Plan;
use machine::etw::Event;
use machine::host::{OpenPoints, Options};
use machine::wire::{Family, compose};

use super::stacks::Stacks;

fn groups(family: Family) -> Vec<IpAddr> {
    match family {
        Family::V4 => {
            let multicast = Ipv4Addr::new(239, 255, 255, 250);
            [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 77, 0, 255), multicast].map(IpAddr::from).into()
        }
        Family::V6 => [1, 0xfb].map(|last| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, last).into()).into(),
    }
}

fn datagram(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    compose::ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut packet, b"here?").unwrap();
    packet
}

fn segment(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = compose::ip(from.ip(), to.ip()).tcp(from.port(), to.port(), 1, 1024).syn();
    builder.write(&mut packet, &[]).unwrap();
    packet
}

/// The verdicts that the driver counted at the discard layers of the inbound path.
fn counted(stacks: &Stacks) -> BTreeMap<String, u64> {
    let engine = stacks.machine.engine();
    let counters = Counters::read(stacks.machine.kernel(), engine).unwrap();
    let mut all = BTreeMap::new();
    for layer in ["INBOUND_TRANSPORT", "INBOUND_IPPACKET"] {
        for family in ["V4", "V6"] {
            for (verdict, count) in counters.at(&format!("{layer}_{family}_DISCARD"), engine) {
                *all.entry(verdict).or_default() += count;
            }
        }
    }
    all
}

fn discarded(event: &&Event) -> bool {
    event.text("Layer").ends_with("_DISCARD")
}

/// What a station sends that looks for devices on 40 ports: observed at each discard
/// layer, counted by a counter of its own, and never reported, nor a scan. The scan of
/// another remote is.
#[test]
fn a_station_that_looks_for_devices_is_no_scanner() {
    let names = [
        None,
        Some("udp-at-transport-discard"),
        Some("udp-at-ippacket-discard"),
        Some("reason-absent"),
        Some("group-segment-without-reason"),
        Some("group-segment-unseen"),
    ];
    for name in names {
        let mut plan = Plan::default();
        if let Some(name) = name {
            Variant::named(name).unwrap().turn(&mut plan);
        }
        let mut stacks = Stacks::start(&[], &[Options::default()], &plan.open_points);
        for family in Family::BOTH {
            let from = stacks.peer_at(family, 50_000);
            for group in groups(family) {
                for port in 2000..2040 {
                    stacks.give(&datagram(from, SocketAddr::new(group, port)));
                }
                for port in 3000..3020 {
                    stacks.give(&segment(from, SocketAddr::new(group, port)));
                }
            }
        }
        assert_eq!(stacks.scans().len(), 0, "{name:?}");
        assert_eq!(stacks.events("Silenced").len(), 0, "{name:?}");
        let shown = stacks.events("Classified");
        let shown: Vec<_> = shown.iter().filter(discarded).collect();
        let datagrams = shown.iter().filter(|event| event.number("Protocol") == 17).count();
        let layers =
            if matches!(name, Some("udp-at-transport-discard" | "udp-at-ippacket-discard")) { 1 } else { 2 };
        assert_eq!(datagrams, 5 * 40 * layers, "{name:?}");
        let mut expected: BTreeMap<String, u64> = [("NotUnicast".to_owned(), datagrams as u64)].into();
        for event in shown {
            let of_tcp = event.number("Protocol") == 6 && name != Some("group-segment-without-reason");
            let of_tcp = of_tcp && name != Some("reason-absent");
            assert_eq!(event.text("Verdict"), if of_tcp { "NoAnswer" } else { "Observed" }, "{name:?}");
        }
        match name {
            Some("group-segment-unseen") => {}
            Some("group-segment-without-reason" | "reason-absent") => {
                *expected.entry("NotUnicast".to_owned()).or_default() += 5 * 20;
            }
            _ => *expected.entry("NoAnswer".to_owned()).or_default() += 5 * 20,
        }
        assert_eq!(counted(&stacks), expected, "{name:?}");
        // A datagram and a segment to the host itself are silenced as ever.
        let scanner = IpAddr::from([198, 51, 100, 7]);
        stacks.probe(0, scanner, 100..140);
        assert_eq!(stacks.events("Silenced").len(), 40, "{name:?}");
        let scans = stacks.scans();
        assert_eq!(scans.len(), 1, "{name:?}");
        stacks.end();
    }
}

/// Whatever the policy says, nothing changes; and a socket gets what it listens for.
#[test]
fn a_listener_gets_its_datagrams_in_every_mode() {
    for mode in [0, 1, 2] {
        let values = [("Mode", mode), ("CheckOrder", 1), ("AnswerExempt", 1)];
        let mut stacks = Stacks::start(&values, &[Options::default()], &OpenPoints::default());
        for family in Family::BOTH {
            let any: IpAddr = if family == Family::V4 { [0; 4].into() } else { [0; 16].into() };
            stacks.hosts[0].echo_datagrams(SocketAddr::new(any, 7)).unwrap();
            for group in groups(family) {
                // From nobody's address, so that the response is seen.
                let from: IpAddr = match family {
                    Family::V4 => [198, 51, 100, 9].into(),
                    Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
                };
                stacks.lost.clear();
                stacks.give(&datagram(SocketAddr::new(from, 50_000), SocketAddr::new(group, 7)));
                assert_eq!(stacks.lost.len(), 1, "the response to {group}");
                stacks.give(&datagram(SocketAddr::new(from, 50_000), SocketAddr::new(group, 8)));
            }
        }
        assert_eq!(counted(&stacks), [("NotUnicast".to_owned(), 2 * 5)].into(), "{mode}");
        assert_eq!(
            stacks.events("OrderDeviation").len(),
            0,
            "{mode}: {:#?}",
            stacks.events("OrderDeviation")
        );
        stacks.end();
    }
}
