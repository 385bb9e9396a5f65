//! Hostile captures are read without a fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use lab::hushport;
use lab::trace::{Replay, Roles, Survey, Visitor, Witness, feed};
use machine::host::{Ends, Event, Filter, OpenPoints, Record};
use machine::nt;
use machine::wfp::{Decision, Engine, FlowHandle, LayerId, Request};
use proptest::prelude::*;

use super::captures::*;
use super::formats::pcapng;

/// An observer that ignores all records.
struct Blind;

impl Witness for Blind {
    fn record(&mut self, record: &Record) -> anyhow::Result<()> {
        // The completion of an accept passes no layer.
        let has_layers = record.event != Event::Accept;
        assert_eq!(!record.steps.is_empty(), has_layers, "{record}");
        Ok(())
    }

    fn suppressed(&mut self, _: std::time::Duration, _: Ends) -> anyhow::Result<()> {
        Ok(())
    }
}

/// An engine that counts open flows.
struct Counted(Arc<Engine>, AtomicI64);

impl Filter for Counted {
    fn classify(&self, request: &Request<'_>) -> Decision {
        self.0.classify(request)
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.0.generation(layer)
    }

    fn flow_create(&self) -> FlowHandle {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.1.fetch_sub(1, Ordering::Relaxed);
        self.0.flow_end(flow);
    }
}

/// Plays a file to an engine. Returns the number of packets.
fn play_to(file: &[u8], engine: Arc<Engine>, local: Option<&str>) -> u64 {
    let mut survey = Survey::default();
    let first = feed(file, true, &mut survey).unwrap();
    let roles = local.map_or_else(|| survey.roles(), |local| Roles::given(vec![local.parse().unwrap()]));
    let counted = Arc::new(Counted(engine, AtomicI64::new(0)));
    let filter = Arc::<Counted>::clone(&counted);
    let mut replay = Replay::new(filter, OpenPoints::default(), &survey, &roles, Blind);
    replay.position(0);
    let second = feed(file, true, &mut replay).unwrap();
    assert_eq!((first.packets, first.damage), (second.packets, second.damage));
    let _ = replay.finish();
    assert_eq!(counted.1.load(Ordering::Relaxed), 0, "every flow ends once");
    second.packets
}

fn seed() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for family in [0, 1] {
        let (host, peer) = (HOST[family], PEER[family]);
        packets.extend(exchange(at(host, 80), at(peer, 4000)));
        packets.extend(closed(at(host, 81), at(peer, 4001)));
        packets.extend([udp(peer_port(peer), at(host, 53), b"x"), udp(at(host, 53), peer_port(peer), b"y")]);
    }
    packets
}

fn peer_port(peer: std::net::IpAddr) -> std::net::SocketAddr {
    at(peer, 4002)
}

/// First bytes of captures.
const HEADS: &[&[u8]] = &[
    &[0xd4, 0xc3, 0xb2, 0xa1],
    &[0xa1, 0xb2, 0x3c, 0x4d],
    &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a],
    &[],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes behind a valid head are read as far as they are valid.
    #[test]
    fn any_bytes_are_read(
        head in prop::sample::select(HEADS),
        body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let file = [head, &body].concat();
        play_to(&file, Engine::new(), None);
    }
}

/// Plays a real capture with changed, removed and doubled bytes and records. The driver
/// breaks no rule and leaves nothing behind.
#[test]
fn changed_captures_are_played() {
    let mut machine = machine(&[("CheckOrder", 1), ("FlowLimit", 16)]);
    let engine = Arc::<Engine>::clone(machine.engine());
    let files = [pcap(&seed()), pcapng(&seed())];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..12);
    let local = prop_oneof![Just(None), Just(Some("0.0.0.0/0")), Just(Some("2001:db8::1"))];
    let outcome = runner.run(&(0..files.len(), changes, local), |(which, changes, local)| {
        let mut file = files[which].clone();
        for (place, byte, kind) in changes {
            if file.is_empty() {
                break;
            }
            let place = place.index(file.len());
            match kind {
                0 | 1 => file[place] = byte,
                2 => drop(file.drain(place..(place + usize::from(byte)).min(file.len()))),
                _ => file.splice(place..place, std::iter::repeat_n(byte, 3)).for_each(drop),
            }
        }
        play_to(&file, Arc::<Engine>::clone(&engine), local);
        prop_assert!(machine.kernel().stopped().is_none(), "{:?}", machine.kernel().stopped());
        Ok(())
    });
    outcome.unwrap();
    for file in &files {
        assert_eq!(play_to(file, Arc::<Engine>::clone(&engine), None), seed().len() as u64);
    }
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(machine.stop().unwrap().is_empty());
}

/// A file of another kind is refused, and the error names its kind.
#[test]
fn other_files_are_refused() {
    let machine = hushport::machine(nt::Options::default());
    let path = lab::setup::root().join("Cargo.toml");
    let (progress, listener) = (Arc::new(|_| ()), Box::new(|_: &lab::trace::Entry<'_>| Ok(true)));
    let refused = lab::trace::play(&path, &plan(), machine.kernel(), progress, listener);
    assert!(refused.err().unwrap().to_string().contains("no capture file"));
}

/// A length beyond the file is not allocated.
#[test]
fn a_length_beyond_the_file_is_not_allocated() {
    let mut file = pcap(&[]);
    for word in [0_u32, 0, u32::MAX, u32::MAX] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(play_to(&file, Engine::new(), None), 0);
    let tally = feed(&file[..], true, &mut Survey::default()).unwrap();
    assert_eq!(
        tally.damage.as_deref(),
        Some("at byte 24: a frame of 4294967295 bytes; the maximum is 262144")
    );
}
