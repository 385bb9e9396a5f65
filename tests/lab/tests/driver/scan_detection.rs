//! Scans are detected by remote and technique, in time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use lab::hushport::{self, EVENT_PROVIDER};
use lab::policy::state::await_reading;
use lab::setup::{self, Target};
use lab::traffic::Family;
use lab::world::stronger;
use machine::Machine;
use machine::etw::{Enable, Event, Value};
use machine::nt::journal::{self, Call};
use machine::nt::{Irql, Options, Trace, foreign};
use machine::wfp::ActionType;

use super::events::settled;
use super::verdicts::{Decision, Kind, packet_between, packet_to};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// `ScanPorts` by default (docs/CONFIGURATION.md).
const MAKE_A_SCAN: u16 = 16;
/// The driver checks for scans every eighth of it: 300 ms. Showing the packets of a test
/// takes far less time, also on a machine under load.
const WINDOW: u32 = 2_400;

/// A running driver that gets only the packets shown here.
struct Bench {
    machine: Machine,
    trace: Trace,
}

impl Bench {
    fn new(processors: u32, window_ms: u32) -> Self {
        let mut machine = hushport::machine(Options { processors, ..Options::default() });
        machine.set("ScanWindowMs", window_ms);
        machine.kernel().journal().start();
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        let trace = machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
        Self { machine, trace }
    }

    /// Shows a packet from a remote to each of these ports.
    fn show(
        &self,
        processor: u32,
        decision: Decision,
        kind: Kind,
        remote: IpAddr,
        ports: impl Iterator<Item = u16>,
    ) {
        let engine = self.machine.engine();
        self.machine.kernel().on_processor(processor, Irql::DISPATCH, |_| {
            for port in ports {
                let indication = packet_to(engine, decision, kind, remote, port);
                assert!(engine.classify(&indication.request()).blocked());
            }
        });
    }

    fn scans(&self) -> Vec<Event> {
        self.trace.events().into_iter().filter(|event| event.name == "ScanDetected").collect()
    }

    /// Waits until `looks` more checks for scans have begun.
    fn look(&self, looks: usize) {
        let kernel = self.machine.kernel();
        let waits = || kernel.call_count("ZwWaitForSingleObject");
        let (before, end) = (waits(), Instant::now() + Duration::from_secs(20));
        while waits() - before < looks as u64 {
            assert!(Instant::now() < end, "{looks} looks");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(mut self) {
        drop(self.trace);
        assert!(self.machine.kernel().verifier().findings().is_empty());
        assert!(self.machine.stop().unwrap().is_empty());
    }
}

fn segment(tcp_flags: u8) -> Kind {
    Kind { tcp_flags, ..Kind::of(TCP) }
}

/// nmap's techniques, each with the layer that discards its packets.
fn techniques() -> Vec<(&'static str, Decision, Kind)> {
    let segments = [
        ("Syn", 0x02),
        ("Fin", 0x01),
        ("Null", 0x00),
        ("Xmas", 0x29),
        ("Ack", 0x10),
        ("Maimon", 0x11),
        // nmap sends SYN with ACK only with --scanflags.
        ("Other", 0x12),
    ];
    let mut all: Vec<_> =
        segments.map(|(name, flags)| (name, Decision::TransportDiscard, segment(flags))).to_vec();
    // UDP may be discarded at both layers.
    all.push(("Udp", Decision::TransportDiscard, Kind::of(UDP)));
    all.push(("Udp", Decision::PacketDiscard, Kind::of(UDP)));
    all
}

fn remote(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, number)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())),
    }
}

fn reported(scans: &[Event]) -> BTreeMap<IpAddr, String> {
    let of = |event: &Event| match event.field("Remote") {
        Some(Value::Socket(socket)) => (socket.ip(), event.text("Techniques").to_owned()),
        other => panic!("{other:?}"),
    };
    scans.iter().map(of).collect()
}

#[test]
fn every_technique_is_reported_by_its_name_over_both_families() {
    let bench = Bench::new(4, WINDOW);
    let mut expected = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        for (number, (name, decision, kind)) in (1..).zip(techniques()) {
            let remote = remote(family, number);
            bench.show(0, decision, kind, remote, 100..160);
            expected.insert(remote, name.to_owned());
        }
    }
    bench.look(3);
    let scans = bench.scans();
    assert_eq!(reported(&scans), expected);
    assert_eq!(scans.len(), expected.len(), "each once");
    bench.end();
}

/// A scanner is reported even if another filter has blocked its packets before the
/// driver.
#[test]
fn what_a_heavier_sublayer_has_blocked_counts() {
    let bench = Bench::new(4, 60_000);
    stronger::add(bench.machine.engine(), ActionType::BLOCK).unwrap();
    for (number, (name, decision, kind)) in (1..).zip([techniques()[0], techniques()[8]]) {
        bench.show(0, decision, kind, remote(Family::V4, number), 100..160);
        let end = Instant::now() + Duration::from_secs(30);
        while reported(&bench.scans()).get(&remote(Family::V4, number)).is_none_or(|seen| seen != name) {
            assert!(Instant::now() < end, "{name}: {:?}", bench.scans());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// ICMP errors do not count as probes. Protocols other than TCP and UDP have no ports.
#[test]
fn packets_without_a_port_are_no_scan() {
    let bench = Bench::new(4, WINDOW);
    for family in [Family::V4, Family::V6] {
        let error = Kind { icmp: Some(if family == Family::V4 { (3, 3) } else { (1, 4) }), ..Kind::of(UDP) };
        bench.show(0, Decision::IcmpError, error, remote(family, 1), 100..160);
        bench.show(0, Decision::PacketDiscard, Kind::of(47), remote(family, 2), 100..160);
    }
    bench.look(3);
    assert_eq!(bench.scans(), []);
    bench.end();
}

/// The packets of a capture of raw IPv4 (LINKTYPE_IPV4): kind, sender, source port and
/// destination port.
fn captured(pcap: &[u8]) -> Vec<(Kind, IpAddr, u16, u16)> {
    const IPV4: u32 = 228;
    let word = |at: usize| u32::from_le_bytes(pcap[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_c3d4, IPV4));
    let (mut at, mut packets) = (24, Vec::new());
    while at < pcap.len() {
        let length = word(at + 8) as usize;
        let packet = &pcap[at + 16..at + 16 + length];
        let (header, transport) = packet.split_at(usize::from(packet[0] & 15) * 4);
        let sender = Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).unwrap());
        let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        let tcp_flags = if header[9] == TCP { transport[13] } else { 0 };
        packets.push((Kind { tcp_flags, ..Kind::of(header[9]) }, sender.into(), port(0), port(2)));
        at += 16 + length;
    }
    packets
}

/// A resolver's late replies, and the last segments of a server, to ports that were just
/// closed: 40 of each. All of them come within one window.
#[test]
fn late_replies_are_no_scan_unless_the_dynamic_ports_begin_later() {
    let captures: [(&[u8], &str); 2] = [
        (include_bytes!("captures/late_dns.pcap"), "Udp"),
        (include_bytes!("captures/late_tcp.pcap"), "Ack,Maimon"),
    ];
    let bench = Bench::new(4, WINDOW);
    let engine = bench.machine.engine();
    let show = || {
        let mut senders = BTreeMap::new();
        for (capture, technique) in captures {
            for (kind, sender, source, port) in captured(capture) {
                let layers = match kind.protocol {
                    UDP => vec![Decision::TransportDiscard, Decision::PacketDiscard],
                    _ => vec![Decision::TransportDiscard],
                };
                for decision in layers {
                    let indication = packet_between(engine, decision, kind, (sender, source), port);
                    bench.machine.kernel().on_processor(0, Irql::DISPATCH, |_| {
                        assert!(engine.classify(&indication.request()).blocked(), "it is silenced");
                    });
                }
                senders.insert(sender, technique.to_owned());
            }
        }
        senders
    };
    assert_eq!(show().len(), 2);
    bench.look(3);
    assert_eq!(bench.scans(), []);
    let kernel = bench.machine.kernel();
    bench.machine.set("DynamicPortStart", 65_536);
    await_reading(kernel, "DynamicPortStart", kernel.registry().changes()).unwrap();
    let senders = show();
    bench.look(3);
    assert_eq!(reported(&bench.scans()), senders);
    bench.end();
}

/// Peers of a program that has ended meet its one port, each from a port of its own. QUIC
/// comes from port 443.
#[test]
fn many_peers_and_quic_are_no_scan() {
    let bench = Bench::new(4, WINDOW);
    let engine = bench.machine.engine();
    bench.machine.kernel().on_processor(0, Irql::DISPATCH, |_| {
        for number in 0..200 {
            let peer = remote(Family::V4, number);
            for kind in [Kind::of(UDP), segment(0x02), segment(0x10)] {
                let from = (peer, 51_413 + u16::from(number));
                let packet = packet_between(engine, Decision::TransportDiscard, kind, from, 51_413);
                engine.classify(&packet.request());
            }
            let server = remote(Family::V6, 1);
            let port = 50_000 + u16::from(number);
            let quic = packet_between(engine, Decision::PacketDiscard, Kind::of(UDP), (server, 443), port);
            engine.classify(&quic.request());
        }
    });
    bench.look(3);
    assert_eq!(bench.scans(), []);
    bench.end();
}

/// A source port of a server does not hide a scan of other ports than dynamic ones, nor
/// probes that no connection sends.
#[test]
fn a_scan_from_a_well_known_port_is_reported() {
    let bench = Bench::new(4, WINDOW);
    let engine = bench.machine.engine();
    let low = 100..160;
    let dynamic = 50_000..50_060;
    let cases = [
        (1, Kind::of(UDP), low.clone(), true),
        (2, segment(0x10), low, true),
        (3, segment(0x02), dynamic.clone(), true),
        (4, segment(0x01), dynamic.clone(), true),
        (5, segment(0x00), dynamic.clone(), true),
        (6, segment(0x29), dynamic.clone(), true),
        (7, segment(0x10), dynamic.clone(), false),
        (8, Kind::of(UDP), dynamic, false),
    ];
    bench.machine.kernel().on_processor(0, Irql::DISPATCH, |_| {
        for (number, kind, ports, _) in cases.clone() {
            for port in ports {
                let from = (remote(Family::V4, number), 53);
                let packet = packet_between(engine, Decision::TransportDiscard, kind, from, port);
                assert!(engine.classify(&packet.request()).blocked());
            }
        }
    });
    bench.look(3);
    let expected = cases.iter().filter(|case| case.3).map(|case| remote(Family::V4, case.0));
    assert_eq!(reported(&bench.scans()).into_keys().collect::<BTreeSet<_>>(), expected.collect());
    bench.end();
}

/// Groups of a remote and of remotes whose addresses differ from it in one bit.
fn neighbours(family: Family) -> Vec<Vec<IpAddr>> {
    // Together with the remote, they fit into one set of a table, whatever the key.
    // Each processor has its own tables.
    const AT_A_TIME: usize = 3;
    let (base, bits): (u128, u32) = match family {
        Family::V4 => (Ipv4Addr::new(198, 51, 100, 77).to_bits().into(), 32),
        Family::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6).to_bits(), 128),
    };
    let address = |number: u128| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    };
    let others: Vec<_> = (0..bits).map(|bit| address(base ^ 1 << bit)).collect();
    let groups = others.chunks(AT_A_TIME);
    groups.map(|group| [address(base)].into_iter().chain(group.iter().copied()).collect()).collect()
}

/// First each remote probes fewer ports than `ScanPorts`, but two together more. Then
/// each remote scans.
#[test]
fn remotes_that_differ_in_one_bit_are_told_apart() {
    let groups = [neighbours(Family::V4), neighbours(Family::V6)].concat();
    let bench = Bench::new(groups.len() as u32, 4_000);
    let meet = |processor: usize, ports: Range<u16>| {
        for (number, &remote) in (0..).zip(&groups[processor]) {
            // The first remote is in each group, with the same ports.
            let first = 1000 + number * 100;
            let ports = first + ports.start..first + ports.end;
            bench.show(processor as u32, Decision::TransportDiscard, segment(2), remote, ports);
        }
    };
    (0..groups.len()).for_each(|processor| meet(processor, 0..MAKE_A_SCAN - 1));
    bench.look(2);
    assert_eq!(bench.scans(), []);
    // Fewer scans at a time than the rate limit of the event.
    for processors in (0..groups.len()).collect::<Vec<_>>().chunks(18) {
        processors.iter().for_each(|&processor| meet(processor, MAKE_A_SCAN..80));
        bench.look(2);
    }
    let scanners: BTreeSet<_> = groups.iter().flatten().copied().collect();
    assert_eq!(scanners.len(), 1 + 32 + 1 + 128);
    let scans = reported(&bench.scans());
    assert_eq!(scans.into_keys().collect::<BTreeSet<_>>(), scanners);
    bench.end();
}

/// Calls of the thread that checks for scans: waits, and reports of scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// In ms.
    Wait(u64),
    Scan,
}

/// The waits of the driver's watchdog, which has a thread of its own.
const WATCHDOG_MS: u64 = 5_000;

fn steps(calls: &[Call]) -> Vec<Step> {
    // Keyword of ScanDetected (docs/EVENTS.md).
    let is_scan = |call: &&Call| call.number("EventDescriptor.Keyword") == Some(8);
    let steps = calls.iter().filter(|call| call.on_system_thread).filter_map(|call| match call.export {
        "ZwWaitForSingleObject" => match call.value("Timeout")? {
            journal::Value::Number(interval) => {
                let wait = (*interval as i64).unsigned_abs() / 10_000;
                Some(Step::Wait(wait)).filter(|_| wait != WATCHDOG_MS)
            }
            _ => None,
        },
        "EtwWriteTransfer" => Some(call).filter(is_scan).map(|_| Step::Scan),
        _ => None,
    });
    steps.collect()
}

/// docs/CONFIGURATION.md, ScanWindowMs: an eighth of the window, at least 10 ms and at
/// most 10 s.
#[test]
fn scan_sweeps_are_an_eighth_of_the_window_apart() {
    for (window_ms, expected) in
        [(1, 10), (80, 10), (88, 11), (800, 100), (10_000, 1_250), (80_000, 1_250), (3_600_000, 1_250)]
    {
        let bench = Bench::new(2, window_ms);
        // The first wait follows the thread's first reading of the registry.
        bench.look(if expected <= 100 { 3 } else { 0 });
        let end = Instant::now() + Duration::from_secs(20);
        let mut calls = Vec::new();
        while steps(&calls).is_empty() {
            assert!(Instant::now() < end, "no wait with a window of {window_ms} ms");
            calls.extend(bench.machine.kernel().journal().take());
        }
        assert!(
            steps(&calls).iter().all(|step| *step == Step::Wait(expected)),
            "{window_ms}: {:?}",
            steps(&calls)
        );
        bench.end();
    }
}

/// After every wait the driver checks for scans. A scan is reported before the second
/// wait after it begins. No check comes early.
#[test]
fn every_wait_ends_in_a_look() {
    let bench = Bench::new(2, WINDOW);
    bench.look(2);
    let journal = bench.machine.kernel().journal();
    for number in 1..=4 {
        let began = Instant::now();
        drop(journal.take());
        bench.show(0, Decision::TransportDiscard, segment(2), remote(Family::V6, number), 100..160);
        bench.look(3);
        let (steps, passed) = (steps(&journal.take()), began.elapsed());
        let scan = steps.iter().position(|step| *step == Step::Scan);
        // A check that ran while the packets came may have missed them.
        assert!(scan.is_some_and(|at| at <= 1), "{steps:?}");
        assert!(steps.iter().filter(|step| **step == Step::Scan).count() == 1, "{steps:?}");
        // At least two whole waits were in that time.
        assert!(passed >= Duration::from_millis(2 * u64::from(WINDOW) / 8 - 10), "{passed:?}");
    }
    bench.end();
}

/// Offsets at which a driver stores remotes in its tables.
fn places(remotes: &[Ipv6Addr]) -> Vec<usize> {
    let bench = Bench::new(1, 60_000);
    for &remote in remotes {
        bench.show(0, Decision::TransportDiscard, segment(2), remote.into(), 100..101);
    }
    let blocks = bench.machine.kernel().pool().leaks();
    // The driver may free other blocks meanwhile. Tables stay.
    let blocks: Vec<_> =
        blocks.iter().filter_map(|block| foreign::read_bytes(block.address, block.size).ok()).collect();
    let find = |remote: &Ipv6Addr| {
        // Two words, the upper half first.
        let bits = remote.to_bits();
        let halves = [(bits >> 64) as u64, bits as u64].map(u64::to_le_bytes).concat();
        let places = blocks.iter().flat_map(|block| {
            block.windows(halves.len()).enumerate().filter(|(_, bytes)| *bytes == halves).map(|(at, _)| at)
        });
        let places: Vec<_> = places.collect();
        // Behind the slots is the memory in which a check has compared them.
        assert!((1..=2).contains(&places.len()), "{remote} is remembered in one slot: {places:?}");
        places[0]
    };
    let places = remotes.iter().map(find).collect();
    bench.end();
    places
}

/// The network must not be able to predict the place of a remote. Else it could choose
/// remotes that evict each other.
#[test]
fn two_loads_remember_the_same_remotes_in_different_places() {
    // Not in sequence: with one of some hundred keys, neighbours share a set, which has room
    // for four.
    let host = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let remotes: Vec<_> = (1..=8)
        .map(|number| Ipv6Addr::from_bits(0x2001_0db8_0abc_0000 << 64 | u128::from(host(number))))
        .collect();
    let loads = [(); 3].map(|()| places(&remotes));
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let same = loads[one].iter().zip(&loads[other]).filter(|(one, other)| one == other).count();
        // There are 128 sets, so places seldom agree by chance.
        assert!(same <= 2, "{loads:?}");
    }
}

/// Each check reads the tables of all processors, so it must not run more often. The
/// tests that wait for reports show that it does not run less often.
#[test]
fn scanners_are_searched_every_eighth_of_a_window() {
    let bench = Bench::new(4, 8_000);
    let kernel = bench.machine.kernel();
    let looks = || kernel.call_count("ZwWaitForSingleObject");
    settled(&bench.trace);
    let before = looks();
    std::thread::sleep(Duration::from_millis(1_500));
    // One check a second, and one more at each end.
    assert!(looks() - before <= 3, "{} looks", looks() - before);
    bench.end();
}
