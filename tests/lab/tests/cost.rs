//! Limits of instructions, locks and shared cache lines per classify.
//!
//! The lab single-steps the shipping image, so the counts are equal on every
//! machine. No test measures time; `cargo lab bench` does.
//!
//! A limit is today's count and a little more. To raise a limit, give a reason. If
//! a count is far below its limit, lower the limit.

use std::collections::{BTreeMap, BTreeSet};

use lab::bench::count::{Cost, cost, costs};
use lab::bench::indication::Subject;
use lab::bench::native;
use lab::bench::stage::{Stage, family_of, layer_name};
use lab::bench::walks::{self, WALKS, Walk};
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::Family;
use machine::etw::{Enable, Filter, ZeroKeyword};
use machine::nt::fwp::prepared::{self, Prepared};
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options};
use machine::wfp::FlowHandle;

const DECIDING: [&str; 4] =
    ["INBOUND_TRANSPORT_DISCARD", "INBOUND_IPPACKET_DISCARD", "OUTBOUND_ICMP_ERROR", "INBOUND_TRANSPORT"];

/// Keyword of verdicts (docs/EVENTS.md).
const VERDICTS: u64 = 0x4;

fn stage(values: &[(&str, u32)]) -> Stage {
    // The scan window does not end between the packet that enters its remote and
    // the packet that is counted.
    let defaults = [("Mode", 2), ("Observe", 1), ("ScanWindowMs", 3_600_000)];
    let values = defaults.iter().chain(values);
    let values: Vec<_> = values.map(|(name, value)| (*name, RegistryValue::dword(*value))).collect();
    Stage::new(Options::default(), &values).unwrap()
}

fn at(stage: &Stage, layer: &str, subject: &Subject, irql: Irql) -> Cost {
    let call = stage.call(layer, subject).unwrap();
    cost(stage, irql, &[&call]).unwrap()
}

/// The common packet of a layer. At a discard layer it has no endpoint.
fn common_packet(layer: &str) -> Subject {
    let family = family_of(layer);
    match layer {
        _ if layer.contains("ICMP_ERROR") => Subject::datagram(family),
        _ if layer.starts_with("INBOUND_IPPACKET") && layer.ends_with("_DISCARD") => {
            Subject::datagram(family)
        }
        _ => Subject::syn(family),
    }
}

fn decides(layer: &str) -> bool {
    DECIDING.contains(&&*layer.replace("_V4", "").replace("_V6", ""))
}

/// Whether only exports were called that read a number or copy memory.
fn only_reads(cost: &Cost) -> bool {
    let harmless = [
        "KeGetCurrentIrql",
        "KeGetCurrentProcessorNumberEx",
        "KeQueryUnbiasedInterruptTime",
        "memcpy",
        "memcmp",
        "memset",
    ];
    cost.exports.keys().all(|name| harmless.contains(&&**name))
}

#[test]
fn an_observing_layer_takes_a_few_instructions_and_shares_nothing() {
    let stage = stage(&[]);
    // A flow begins there, which costs more.
    let begins = |name: &str| name.starts_with("ALE_FLOW_ESTABLISHED") && !name.ends_with("_DISCARD");
    let layers: Vec<_> = stage.layers().filter(|layer| !decides(layer.name) && !begins(layer.name)).collect();
    assert_eq!(layers.len(), 66 - 2 * DECIDING.len() - 2);
    let asked = ["KeGetCurrentIrql", "KeGetCurrentProcessorNumberEx"].map(|name| (name.to_owned(), 1));
    for layer in layers {
        let cost = at(&stage, layer.name, &common_packet(layer.name), Irql::DISPATCH);
        // The level is read before anything else, so the arguments are kept over two
        // calls.
        assert!(cost.instructions <= 59, "{}: {cost:#?}", layer.name);
        assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{}: {cost:#?}", layer.name);
        assert_eq!(cost.exports, BTreeMap::from(asked.clone()), "{}", layer.name);
    }
}

#[test]
fn a_decision_locks_nothing_allocates_nothing_and_shares_nothing() {
    let limits = [
        // Two to four compare the compartment and the type of the destination.
        ("INBOUND_TRANSPORT", true, 191),
        // Some instructions decide whether a packet may be a late reply, and whether it
        // is permitted.
        ("INBOUND_IPPACKET", true, 343),
        ("OUTBOUND_ICMP_ERROR", false, 285),
        // One copy of the code counts for the flows of both families, before anything else
        // is looked at.
        ("INBOUND_TRANSPORT", false, 64),
    ];
    for (name, discard, most) in limits {
        for family in [Family::V4, Family::V6] {
            // One remote for each driver. If two remotes share a set of the table, the
            // second is found a few instructions later.
            let stage = stage(&[]);
            let layer = layer_name(name, family, discard);
            let cost = at(&stage, &layer, &common_packet(&layer), Irql::DISPATCH);
            assert!(cost.instructions <= most, "{layer}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{layer}: {cost:#?}");
            assert!(only_reads(&cost), "{layer}: {:?}", cost.exports);
        }
    }
}

/// Packets that leave the fast path of the silenced SYN cost little more.
#[test]
fn a_segment_that_is_no_syn_or_not_simply_silenced_takes_little_more() {
    const FIN: u8 = 0x01;
    for mode in [0, 1, 2] {
        for family in [Family::V4, Family::V6] {
            let stage = stage(&[("Mode", mode)]);
            let subject = Subject { flags: if mode == 2 { FIN } else { 0x02 }, ..Subject::syn(family) };
            let cost = at(&stage, &layer_name("INBOUND_TRANSPORT", family, true), &subject, Irql::DISPATCH);
            assert!(cost.instructions <= 246, "{mode}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{mode}: {cost:#?}");
        }
    }
}

/// Callgrind counts the driver's source, compiled for the host. It counts a little
/// more than the lab does in the image: the thunk saves more registers, and calls
/// between crates are not inlined (docs/PERFORMANCE.md).
#[test]
fn callgrind_counts_nearly_as_many_in_the_native_build() {
    let (stepped, native) = (native::stepped().unwrap(), native::instructions().unwrap());
    assert_eq!(stepped.len(), native.len());
    for ((name, stepped), (same, native)) in stepped.into_iter().zip(native) {
        assert_eq!(name, same);
        let most = 1.2 * stepped + 48.0;
        assert!((stepped..=most).contains(&native), "{name}: {native} native, {stepped} in the image");
        // If the policy with the prefixes were refused, the SYN would take the fast path. Nine
        // instructions compare the compartment and the type of the destination, and four the
        // port with the dynamic ones.
        assert!((400.0..=528.0).contains(&stepped) || !name.contains("exempt"), "{name}: {stepped}");
        assert!(native <= 243.0 || !name.starts_with("a silenced SYN, V"), "{name}: {native}");
    }
}

/// The packets whose cost is limited are those that the driver silences.
#[test]
fn the_measured_packets_are_blocked() {
    let stage = stage(&[]);
    for (name, discard) in
        [("INBOUND_TRANSPORT", true), ("INBOUND_IPPACKET", true), ("OUTBOUND_ICMP_ERROR", false)]
    {
        for family in [Family::V4, Family::V6] {
            let layer = layer_name(name, family, discard);
            let call = stage.call(&layer, &common_packet(&layer)).unwrap();
            cost(&stage, Irql::DISPATCH, &[&call]).unwrap();
            assert_eq!(call.action(), machine::wfp::ActionType::BLOCK, "{layer}");
        }
    }
}

/// An event that a session wants counts against a rate limit. All processors
/// share the limit, so this takes one lock on one shared line.
#[test]
fn an_event_that_is_written_takes_one_lock() {
    let stage = stage(&[("Trace", 1)]);
    let filter = Filter { level: 0, any: VERDICTS, all: 0 };
    let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::AsAll };
    for family in [Family::V4, Family::V6] {
        let layer = layer_name("INBOUND_TRANSPORT", family, true);
        let quiet = at(&stage, &layer, &Subject::syn(family), Irql::DISPATCH);
        let session = stage.machine.kernel().trace(enable, None);
        let cost = at(&stage, &layer, &Subject::syn(family), Irql::DISPATCH);
        assert!(session.take().iter().any(|event| event.name == "Silenced"));
        drop(session);
        // One instruction clears the memory for the values, and counts as 96 steps.
        assert!(cost.instructions <= quiet.instructions + 2280, "{cost:#?}");
        assert_eq!((cost.locked, cost.shared_writes), (1, 1), "{cost:#?}");
        assert!(cost.places.iter().all(|place| place.contains("logic::rate")), "{:?}", cost.places);
        assert_eq!(cost.exports.get("EtwWriteTransfer"), Some(&1), "{:?}", cost.exports);
    }
}

/// Below DISPATCH_LEVEL the driver raises the level for the time of the classify. Then
/// it works as at that level: no lock, no shared line.
#[test]
fn below_dispatch_level_a_classify_raises_it_once() {
    for family in [Family::V4, Family::V6] {
        for (name, discard, most) in
            [("INBOUND_TRANSPORT", true, 285), ("INBOUND_IPPACKET", false, 150), ("STREAM", false, 150)]
        {
            let stage = stage(&[]);
            let layer = layer_name(name, family, discard);
            let cost = at(&stage, &layer, &Subject::syn(family), Irql::PASSIVE);
            assert!(cost.instructions <= most, "{layer}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{layer}: {cost:#?}");
            for name in ["KfRaiseIrql", "KeLowerIrql"] {
                assert_eq!(cost.exports.get(name), Some(&1), "{layer}: {:?}", cost.exports);
            }
        }
    }
}

/// If the processor already has a slot for the flow, a segment is counted there. It
/// touches no cache line of another processor.
#[test]
fn a_segment_of_a_flow_shares_nothing() {
    let stage = stage(&[]);
    for family in [Family::V4, Family::V6] {
        let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
        // Segments are counted at the transport layers, outbound on the slow path.
        // At the stream layer nothing is counted.
        for (layer, sent, most) in
            [("INBOUND_TRANSPORT", false, 110), ("OUTBOUND_TRANSPORT", true, 196), ("STREAM", false, 65)]
        {
            let layer = layer_name(layer, family, false);
            let subject = Subject { sent, ..Subject::data(family, machine::wfp::FlowHandle(1)) };
            let call = stage.call(&layer, &subject).unwrap().with_flows(vec![stage.contexts(&layer)[&flow]]);
            let cost = cost(&stage, Irql::DISPATCH, &[&call]).unwrap();
            assert!(cost.instructions <= most, "{layer}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{layer}: {cost:#?}");
            assert!(only_reads(&cost), "{layer}: {:?}", cost.exports);
        }
    }
}

/// Two flows use one slot in turn. Each segment evicts the other flow: it becomes a
/// visitor of that flow's record, adds packets and bytes in one addition, and
/// leaves. All of this is on the record's cache line, which processors may share.
/// The test also shows that the lab sees shared lines.
#[test]
fn a_segment_that_finds_another_flow_adds_to_that_record() {
    let stage = stage(&[]);
    for _ in 0..=SLOTS {
        stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
    }
    let contexts = stage.contexts(SEGMENTS);
    let place = |context: u64| context & 0xffff_ffff;
    let at = |wanted| contexts.values().copied().find(|context| place(*context) == wanted).unwrap();
    let calls = [at(0), at(SLOTS)].map(|context| segment(&stage, context));
    let cost = cost(&stage, Irql::DISPATCH, &calls.each_ref()).unwrap();
    assert!(cost.instructions <= 2 * 243, "{cost:#?}");
    assert_eq!((cost.locked, cost.shared_writes), (2 * 3, 2), "{cost:#?}");
    assert!(only_reads(&cost), "{:?}", cost.exports);
    assert!(cost.places.iter().all(|place| place.contains("logic::flow")), "{:?}", cost.places);
}

/// Below DISPATCH_LEVEL a segment is counted in the processor's slot, too.
#[test]
fn below_dispatch_level_a_segment_of_a_flow_shares_nothing() {
    let stage = stage(&[]);
    let flow = stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
    let cost = cost(&stage, Irql::PASSIVE, &[&segment(&stage, stage.contexts(SEGMENTS)[&flow])]).unwrap();
    assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{cost:#?}");
}

/// The layer at which these tests count segments of flows.
const SEGMENTS: &str = "INBOUND_TRANSPORT_V4";

/// Slots of a processor. Records this far apart have the same slot
/// (`logic::flow::slots`).
const SLOTS: u64 = 4096;

fn segment(stage: &Stage, context: u64) -> Prepared {
    let subject = Subject::data(Family::V4, machine::wfp::FlowHandle(1));
    stage.call(SEGMENTS, &subject).unwrap().with_flows(vec![context])
}

/// The cost that `CheckOrder` adds at each layer, for a new packet that passes the
/// layers in order: a bounded number of instructions; and no lock and no shared line,
/// except where a tie is new or knows more.
#[test]
fn checking_the_order_is_bounded_at_every_layer() {
    let stages = [0, 1].map(|order| stage(&[("CheckOrder", order)]));
    let mut seen = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        for (walk, flows) in WALKS.iter().map(|walk| (walk, false)).chain(CARRIED.map(|walk| (walk, true))) {
            let [without, with] = [0, 1].map(|order| {
                let stage = &stages[order];
                let packets = if flows { walk.of_a_flow(stage, family) } else { walk.packets(stage, family) };
                costs(stage, Irql::DISPATCH, &packets.unwrap()).unwrap()
            });
            for ((layer, without), with) in walk.layers.iter().zip(&without).zip(&with) {
                let name = layer_name(layer.0, family, layer.1);
                let added = with.instructions.saturating_sub(without.instructions);
                // If nothing is added, the layer is not checked.
                assert!(
                    (1..=most_added(*layer, family, flows)).contains(&added),
                    "{name}, {}: {added}, {with:#?}",
                    walk.name
                );
                // A tie is written when it is new or knows more. That is what a
                // packet that begins something does, and every STREAM.
                let [locks, lines] =
                    [with.locked - without.locked, with.shared_writes - without.shared_writes];
                let steady = ["IPPACKET", "TRANSPORT"].iter().any(|part| name.contains(part));
                // The numbers of a connection that begins are exchanged one by one.
                let most = match steady && walk.name != "SYN in" && walk.name != "SYN dropped" {
                    true => [0, 0],
                    false => [6, 2],
                };
                assert!(locks <= most[0] && lines <= most[1], "{name}, {}: {with:#?}", walk.name);
                assert!(only_reads(with), "{name}, {}: {:?}", walk.name, with.exports);
                seen.insert(name);
            }
        }
    }
    // The walks come to all layers but these: ICMP errors, forwarded packets, and the
    // discard layers of STREAM.
    let others = stages[0].layers().map(|layer| layer.name.to_owned()).filter(|name| !seen.contains(name));
    let unordered = ["ICMP_ERROR", "IPFORWARD", "STREAM_PACKET", "STREAM_V4_DISCARD", "STREAM_V6_DISCARD"];
    let others: Vec<_> = others.filter(|name| !unordered.iter().any(|part| name.contains(part))).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Packets sent and received by a flow that the driver watches.
static CARRIED: [&Walk; 4] =
    [&walks::DATA_RECEIVED, &walks::DATA_SENT, &walks::DATAGRAM_RECEIVED, &walks::DATAGRAM_SENT];

/// The limit for one layer.
///
/// The order check finds a call by its handle, a packet by its headers, and both by
/// their ties. Finding the tie and comparing the segment's numbers takes 600 to 700
/// instructions: that is how a missing layer is noticed. With the check on, a segment
/// without endpoint and a flow's packet take the slow path.
fn most_added(layer: (&str, bool), family: Family, flows: bool) -> usize {
    let of_packet = match family {
        Family::V4 => 1080,
        Family::V6 => 1120,
    };
    match layer {
        ("STREAM", _) if flows => 860,
        ("STREAM", _) => 760,
        ("INBOUND_TRANSPORT", _) | ("OUTBOUND_TRANSPORT", false) => of_packet + 170,
        ("ALE_AUTH_CONNECT", false) => of_packet + 260,
        _ if flows => of_packet + 170,
        ("ALE_AUTH_RECV_ACCEPT" | "ALE_FLOW_ESTABLISHED", _) => of_packet,
        (name, _) if name.starts_with("ALE") => 960,
        _ => of_packet + 40,
    }
}

/// One walk may pass its layers at different levels: no document says where the
/// stack raises the IRQL.
#[test]
fn a_walk_goes_on_at_another_level() {
    let stage = stage(&[("CheckOrder", 1)]);
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let deviations = || session.events().iter().filter(|event| event.name == "OrderDeviation").count();
    let packets = walks::DATAGRAM_SENT.packets(&stage, Family::V4).unwrap();
    let show = |at: usize, irql| {
        let show = |kernel: &_| prepared::run(kernel, &[&packets[0][at]], 1, 0);
        stage.kernel().on_processor(0, irql, show).unwrap();
    };
    // Datagrams of one length between the same ends have equal marks.
    for levels in [[Irql::PASSIVE, Irql::DISPATCH, Irql::PASSIVE], [Irql::DISPATCH; 3], [Irql::PASSIVE; 3]] {
        for (at, irql) in levels.into_iter().enumerate() {
            show(at, irql);
        }
    }
    assert_eq!(deviations(), 0);
    show(0, Irql::PASSIVE);
    show(2, Irql::DISPATCH);
    assert_eq!(deviations(), 1, "OUTBOUND_TRANSPORT is missing");
    assert!(stage.kernel().verifier().findings().is_empty());
}

/// Below DISPATCH_LEVEL a classify raises the level once, also while it uses the walks.
#[test]
fn below_dispatch_level_the_order_raises_it_once() {
    let stage = stage(&[("CheckOrder", 1)]);
    let packets = walks::DATAGRAM_SENT.packets(&stage, Family::V4).unwrap();
    for cost in costs(&stage, Irql::PASSIVE, &packets).unwrap() {
        for name in ["KfRaiseIrql", "KeLowerIrql"] {
            assert_eq!(cost.exports.get(name), Some(&1), "{:?}", cost.exports);
        }
        assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{cost:#?}");
    }
}

/// No document lists STREAM_PACKET in a sequence, so it is never out of order.
#[test]
fn a_layer_of_no_sequence_is_never_out_of_order() {
    let stage = stage(&[("CheckOrder", 1)]);
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let deviations = || session.events().iter().filter(|event| event.name == "OrderDeviation").count();
    let engine = stage.machine.engine();
    let show = |name: &str, subject: &Subject| {
        engine.classify(&subject.at(engine.layer_by_name(name).unwrap()).request());
    };
    for family in [Family::V4, Family::V6] {
        let segment = Subject { flow: None, ..Subject::data(family, FlowHandle(1)) };
        for layer in ["INBOUND_IPPACKET", "STREAM_PACKET", "INBOUND_TRANSPORT", "STREAM_PACKET"] {
            show(&layer_name(layer, family, false), &segment);
        }
    }
    assert_eq!(deviations(), 0);
    show("INBOUND_IPPACKET_V4", &Subject::syn(Family::V4));
    show("INBOUND_IPPACKET_V4", &Subject::syn(Family::V4));
    assert_eq!(deviations(), 1, "deviations are reported");
}
