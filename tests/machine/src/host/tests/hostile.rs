//! Segments that no correct peer sends, to closed, open and connected ports.

use proptest::prelude::*;

use super::assert_documented;
use super::world::{CLOSED, PEER_PORT, PORT, World};
use crate::host::{Application, Event};
use crate::wire::{Family, Parsed};

/// Ports, sequence and acknowledgment numbers, flags, options, payload.
type Segment = (u16, u16, u32, u32, u8, Vec<u8>, Vec<u8>);

fn segment() -> impl Strategy<Value = Segment> {
    (
        prop_oneof![Just(PEER_PORT), Just(0), any::<u16>()],
        prop_oneof![Just(PORT), Just(CLOSED), Just(0)],
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..=10).prop_map(|words| words.repeat(4)),
        prop::collection::vec(any::<u8>(), 0..64),
    )
}

fn build(world: &World, segment: &Segment) -> Vec<u8> {
    let (from, to, sequence, acknowledgment, flags, options, payload) = segment;
    let mut header = etherparse::TcpHeader::new(*from, *to, *sequence, 1024);
    header.acknowledgment_number = *acknowledgment;
    let bit = |n: u8| flags & 1 << n != 0;
    (header.fin, header.syn, header.rst, header.psh) = (bit(0), bit(1), bit(2), bit(3));
    (header.ack, header.urg, header.ece, header.cwr) = (bit(4), bit(5), bit(6), bit(7));
    header.set_options_raw(options).expect("40 bytes at most");
    let mut packet = Vec::new();
    let ip = world.ip();
    ip.tcp_header(header).write(&mut packet, payload).expect("writing to a vector does not fail");
    packet
}

fn walk_as_documented(segments: &[Segment], family: Family) {
    let mut world = World::new(family);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).expect("nothing blocks");
    world.connect(PORT);
    for segment in segments {
        let packet = build(&world, segment);
        for answer in world.probe(&packet) {
            let answer = Parsed::new(&answer).expect("the host sends IP packets");
            assert!(answer.tcp().is_some_and(|tcp| tcp.checksum_valid));
        }
    }
    assert_documented(&world.records(), &[Event::Listen, Event::AckIn]);
    // Everything that is left times out.
    world.host.unlisten(at).expect("it listens");
    for _ in 0..200 {
        world.now += std::time::Duration::from_secs(1);
        world.host.poll(world.now);
    }
    assert!(world.fake.live_flows() <= 1, "only the correct connection may stay");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_segments_pass_the_documented_layers(
        segments in prop::collection::vec(segment(), 1..40),
        six in any::<bool>(),
    ) {
        walk_as_documented(&segments, if six { Family::V6 } else { Family::V4 });
    }
}

/// Segments that have failed once.
#[test]
fn segments_that_once_failed_pass_the_documented_layers() {
    for segment in [(40_000, 80, 0, 0, 88, vec![], vec![0]), (0, 80, 0, 0, 74, vec![], vec![])] {
        walk_as_documented(&[segment], Family::V4);
    }
}

/// A failed property prints its case; a file would be written to the source tree.
#[test]
fn properties_leave_no_files() {
    assert!(ProptestConfig::default().failure_persistence.is_none(), "set in .cargo/config.toml");
}
