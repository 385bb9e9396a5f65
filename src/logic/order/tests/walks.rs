//! Tests of packets and calls that are under way together.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use proptest::prelude::*;

use super::*;
use crate::logic::tcp::TcpFlags;

#[test]
fn packets_under_way_together_have_separate_walks() {
    let walks = Walks::<4>::default();
    let step = |mark, short| walks.step(mark, layer(short), Kinds::DATA, Start::AtFirstLayer);
    for short in ["IN_IP", "IN", "STREAM"] {
        for mark in 1..=4 {
            assert_eq!(step(mark, short), Ok(()));
        }
    }
    // The same mark again: a retransmission.
    assert_eq!(step(1, "IN_IP"), Ok(()));
    assert_eq!(step(1, "STREAM"), deviation(Some(layer("IN")), Some(layer("STREAM"))));
    // A fifth walk evicts the oldest one, which is then seen in its middle.
    assert_eq!(step(2, "IN_IP"), Ok(()));
    (5..=8).for_each(|mark| assert_eq!(step(mark, "IN_IP"), Ok(())));
    assert_eq!(step(2, "IN"), deviation(Some(layer("IN_IP")), Some(layer("IN"))));
    assert_eq!(walks.step(3, layer("IN"), Kinds::DATA, Start::AtAnyLayer), Ok(()));
    let none = Walks::<0>::default();
    assert_eq!(none.step(1, layer("IN_IP"), Kinds::ALL, Start::AtFirstLayer), Ok(()));
}

/// Equal datagrams have one mark, and each may begin a flow of its own.
#[test]
fn a_new_flow_may_begin_with_the_datagram_of_an_earlier_one() {
    let layers = ["CONNECT", "ESTABLISHED", "DATAGRAM", "OUT", "OUT_IP"];
    for shown in [&layers[..], &layers[1..]] {
        let walks = Walks::<4>::default();
        for short in [shown; 3].concat() {
            let stepped = walks.step(1, layer(short), Kinds::DATAGRAM, Start::AtAnyLayer);
            assert_eq!(stepped, Ok(()), "{short}");
        }
    }
}

/// A filter of a heavier sublayer takes a packet without a trace. Then an equal packet
/// comes: the next acknowledgement, or the packet itself, which another driver injects.
#[test]
fn an_equal_packet_may_follow_one_that_was_blocked() {
    const LIST: u64 = 0x1000;
    const INJECTED: u64 = 0x2000;
    let mark = NonZeroU64::MIN;
    for kinds in [Kinds::BARE, Kinds::SYN, Kinds::DATAGRAM] {
        // A datagram that is sent comes to DATAGRAM_DATA first.
        let sent = (kinds != Kinds::DATAGRAM).then_some(("OUT", "OUT_IP"));
        for (short, next) in [("IN_IP", "IN")].into_iter().chain(sent) {
            let walks = Walks::<4>::default();
            let step = |short, list| walks.step_of(mark, OrderLayer::of(layer(short)), kinds, list);
            assert_eq!(step(short, LIST), None);
            assert!(step(short, LIST).is_some(), "{kinds:?} at {short}: twice in one list");
            walks.block();
            assert_eq!(step(short, LIST), None, "{kinds:?} at {short}");
            walks.block();
            assert_eq!(step(short, INJECTED), None, "{kinds:?} at {short}");
            assert_eq!(step(next, INJECTED), None, "{kinds:?} at {short}");
        }
    }
    // A lighter sublayer may override the block, and the discard layer may come.
    let walks = Walks::<4>::default();
    let step = |short, list| walks.step_of(mark, OrderLayer::of(layer(short)), Kinds::SYN, list);
    assert_eq!(step("IN_IP", LIST), None);
    walks.block();
    assert_eq!(step("IN", LIST), None);
    assert!(step("IN", LIST).is_some());
    walks.block();
    assert_eq!(step("IN-D", LIST), None);
}

#[test]
fn flags_determine_the_kind() {
    for (flags, payload, expected) in [
        (0x02, false, Kinds::SYN),
        (0x02, true, Kinds::SYN),
        (0x12, false, Kinds::SYN_ACK),
        (0x10, false, Kinds::BARE),
        (0x18, true, Kinds::DATA),
        (0x11, true, Kinds::DATA),
        (0x11, false, Kinds::FIN),
        (0x14, true, Kinds::RST),
        (0x06, false, Kinds::RST),
    ] {
        assert_eq!(Kinds::of_segment(TcpFlags(flags), payload), expected, "{flags:#x}");
    }
}
/// A bare acknowledgement and the data after it have the same sequence number.
#[test]
fn a_walk_continues_after_its_flow_was_reported() {
    let (order, walks) = (Order::joined(), Walks::<4>::default());
    let see = |short, flow| classify(short, Direction::Outbound, Kinds::BARE, flow, Some(&walks));
    let doubled = Deviation { expected: Some(layer("OUT_IP")), seen: Some(layer("OUT")) };
    assert_eq!(see("OUT", Some(&order)), None);
    assert_eq!(see("OUT", Some(&order)), Some(doubled));
    for _ in 0..3 {
        assert_eq!(see("OUT_IP", None), None);
        assert_eq!(see("OUT", Some(&order)), None);
    }
}

/// A plain list of walks. Tags and the latest walk must not change the results.
#[derive(Default)]
struct OneByOne(VecDeque<(u64, Walk)>);

impl OneByOne {
    fn step(&mut self, room: usize, mark: u64, seen: LayerIndex, kinds: Kinds) -> Result<(), Deviation> {
        if let Some((_, walk)) = self.0.iter_mut().find(|(known, _)| *known == mark && mark != 0) {
            return walk.step(seen, kinds, Start::AtAnyLayer);
        }
        if self.0.len() == room {
            self.0.pop_front();
        }
        self.0.push_back((mark, Walk::NEW));
        self.0.back_mut().map_or(Ok(()), |(_, walk)| walk.step(seen, kinds, Start::AtAnyLayer))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn walks_match_a_plain_list_for_any_marks(
        // More marks than walks; and as many that all have the tag of an empty
        // entry: multiples of the inverse of the factor of the tags.
        marks in proptest::collection::vec(
            prop_oneof![0_u64..24, (0_u64..24).prop_map(|mark| mark.wrapping_mul(0xf1de_83e1_9937_733d))],
            0..400,
        ),
        layers in proptest::collection::vec(0_usize..3, 400),
    ) {
        let (kept, mut plain) = (Walks::<16>::default(), OneByOne::default());
        let (few, mut plain_few) = (Walks::<5>::default(), OneByOne::default());
        let layers = layers.into_iter().map(|at| layer(["IN_IP", "IN", "STREAM"][at]));
        for (mark, seen) in marks.into_iter().zip(layers) {
            let reported = kept.step(mark, seen, Kinds::DATA, Start::AtAnyLayer);
            prop_assert_eq!(reported, plain.step(16, mark, seen, Kinds::DATA));
            let reported = few.step(mark, seen, Kinds::DATA, Start::AtAnyLayer);
            prop_assert_eq!(reported, plain_few.step(5, mark, seen, Kinds::DATA));
        }
    }
}
