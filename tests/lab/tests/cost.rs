//! What a classify costs in instructions, locks and shared lines: counted on
//! the shipping image, instruction by instruction, and so the same on every
//! machine. Time is no test's business; `cargo lab bench` measures it.
//!
//! A limit is what the driver takes today and a little more. One that is
//! exceeded wants a reason; one that is far from what is counted, a new number.

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
    // No span of time ends between the packet that is marked in it and the one
    // that is counted.
    let usual = [("Mode", 2), ("Observe", 1), ("ScanWindowMs", 3_600_000)];
    let values = usual.iter().chain(values);
    let values: Vec<_> = values.map(|(name, value)| (*name, RegistryValue::dword(*value))).collect();
    Stage::new(Options::default(), &values).unwrap()
}

fn at(stage: &Stage, layer: &str, subject: &Subject, irql: Irql) -> Cost {
    let call = stage.call(layer, subject).unwrap();
    cost(stage, irql, &[&call]).unwrap()
}

/// The usual packet at a layer: nobody's where it is discarded.
fn usual(layer: &str) -> Subject {
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

/// Exports that read a number, and copying.
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
    // Where flows begin there is more to do.
    let begins = |name: &str| name.starts_with("ALE_FLOW_ESTABLISHED") && !name.ends_with("_DISCARD");
    let layers: Vec<_> = stage.layers().filter(|layer| !decides(layer.name) && !begins(layer.name)).collect();
    assert_eq!(layers.len(), 66 - 2 * DECIDING.len() - 2);
    let asked = ["KeGetCurrentIrql", "KeGetCurrentProcessorNumberEx"].map(|name| (name.to_owned(), 1));
    for layer in layers {
        let cost = at(&stage, layer.name, &usual(layer.name), Irql::DISPATCH);
        assert!(cost.instructions <= 55, "{}: {cost:#?}", layer.name);
        assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{}: {cost:#?}", layer.name);
        assert_eq!(cost.exports, BTreeMap::from(asked.clone()), "{}", layer.name);
    }
}

#[test]
fn a_decision_locks_nothing_allocates_nothing_and_shares_nothing() {
    let limits = [
        ("INBOUND_TRANSPORT", true, 193),
        // Three of them hold the header against the packet's own length: an MDL may
        // map more than the packet has.
        ("INBOUND_IPPACKET", true, 396),
        ("OUTBOUND_ICMP_ERROR", false, 424),
        ("INBOUND_TRANSPORT", false, 72),
    ];
    for (name, discard, most) in limits {
        for family in [Family::V4, Family::V6] {
            // One remote for each: two may be neighbours in the table of remotes,
            // and then the second is found a few instructions later.
            let stage = stage(&[]);
            let layer = layer_name(name, family, discard);
            let cost = at(&stage, &layer, &usual(&layer), Irql::DISPATCH);
            assert!(cost.instructions <= most, "{layer}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{layer}: {cost:#?}");
            assert!(only_reads(&cost), "{layer}: {:?}", cost.exports);
        }
    }
}

/// What the quick way to a silenced SYN leaves aside, because more is to be
/// looked at, takes not much more.
#[test]
fn a_segment_that_is_no_syn_or_not_simply_silenced_takes_little_more() {
    const FIN: u8 = 0x01;
    for mode in [0, 1, 2] {
        for family in [Family::V4, Family::V6] {
            let stage = stage(&[("Mode", mode)]);
            let subject = Subject { flags: if mode == 2 { FIN } else { 0x02 }, ..Subject::syn(family) };
            let cost = at(&stage, &layer_name("INBOUND_TRANSPORT", family, true), &subject, Irql::DISPATCH);
            assert!(cost.instructions <= 260, "{mode}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{mode}: {cost:#?}");
        }
    }
}

/// The source that the image is made of, compiled for the host and counted by a
/// program that is not the lab's, comes to nearly as much: what it takes more is
/// the registers that its convention has the thunk save, and calls that the
/// image, linked as a whole, has not (docs/PERFORMANCE.md).
#[test]
fn callgrind_counts_nearly_as_many_in_the_native_build() {
    let (stepped, native) = (native::stepped().unwrap(), native::instructions().unwrap());
    assert_eq!(stepped.len(), native.len());
    for ((name, stepped), (same, native)) in stepped.into_iter().zip(native) {
        assert_eq!(name, same);
        let most = 1.2 * stepped + 48.0;
        assert!((stepped..=most).contains(&native), "{name}: {native} native, {stepped} in the image");
        assert!(stepped <= 400.0 || !name.contains("exempt"), "{name}: {stepped}");
        assert!(native <= 216.0 || !name.starts_with("a silenced SYN, V"), "{name}: {native}");
    }
}

#[test]
fn a_silenced_syn_is_a_block() {
    let stage = stage(&[]);
    let call = stage.call("INBOUND_TRANSPORT_V4_DISCARD", &Subject::syn(Family::V4)).unwrap();
    cost(&stage, Irql::DISPATCH, &[&call]).unwrap();
    assert_eq!(call.action(), machine::wfp::ActionType::BLOCK, "what is counted is what is meant");
}

/// An event is made where a session wants it, and counted against its limit,
/// which all processors share: that takes the one lock, on the one line.
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
        assert!(cost.instructions <= quiet.instructions + 2250, "{cost:#?}");
        assert_eq!((cost.locked, cost.shared_writes), (1, 1), "{cost:#?}");
        assert!(cost.places.iter().all(|place| place.contains("logic::rate")), "{:?}", cost.places);
        assert_eq!(cost.exports.get("EtwWriteTransfer"), Some(&1), "{:?}", cost.exports);
    }
}

/// Below DISPATCH_LEVEL the processor is shared, and so is what is counted on
/// it: that takes a lock, and shows that locks are seen.
#[test]
fn below_dispatch_level_counting_takes_one_lock() {
    let stage = stage(&[]);
    let cost = at(&stage, "INBOUND_IPPACKET_V4", &Subject::syn(Family::V4), Irql::PASSIVE);
    assert_eq!((cost.locked, cost.shared_writes), (1, 0), "{cost:#?}");
    assert!(cost.places.iter().any(|place| place.contains("logic::counters")), "{:?}", cost.places);
}

/// So does a silenced SYN: what is known of its remote need not be written again.
#[test]
fn below_dispatch_level_a_silenced_syn_takes_one_lock() {
    for family in [Family::V4, Family::V6] {
        let stage = stage(&[]);
        let layer = layer_name("INBOUND_TRANSPORT", family, true);
        let cost = at(&stage, &layer, &Subject::syn(family), Irql::PASSIVE);
        assert!(cost.instructions <= 215, "{cost:#?}");
        assert_eq!((cost.locked, cost.shared_writes), (1, 0), "{cost:#?}");
    }
}

/// A segment of a flow that its processor counts for already: it is counted
/// there, and no line of another processor's is touched.
#[test]
fn a_segment_of_a_flow_shares_nothing() {
    let stage = stage(&[]);
    for family in [Family::V4, Family::V6] {
        let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
        // Counted at the transport layers, the less usual of the two apart; at
        // the stream's there is nothing to count.
        for (layer, sent, most) in
            [("INBOUND_TRANSPORT", false, 116), ("OUTBOUND_TRANSPORT", true, 196), ("STREAM", false, 62)]
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

/// Where two flows have the same slot and come in turn, each segment adds what
/// was counted for the other to that one's record: becomes a visitor, adds
/// packets and bytes at once, and leaves, all on the record's one line, which is
/// shared where another processor does the same. It shows, too, that shared
/// lines are seen.
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

/// Below DISPATCH_LEVEL the record counts, packets and bytes by one addition;
/// the other lock is the callout's own counter.
#[test]
fn below_dispatch_level_a_segment_of_a_flow_takes_one_lock_more() {
    let stage = stage(&[]);
    let flow = stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
    let cost = cost(&stage, Irql::PASSIVE, &[&segment(&stage, stage.contexts(SEGMENTS)[&flow])]).unwrap();
    assert_eq!((cost.locked, cost.shared_writes), (1 + 1, 1), "{cost:#?}");
}

/// Where the segments of flows are counted, in these tests.
const SEGMENTS: &str = "INBOUND_TRANSPORT_V4";

/// Flows that a processor counts for at once; places so far apart have the same
/// slot (`logic::flow::slots`).
const SLOTS: u64 = 4096;

fn segment(stage: &Stage, context: u64) -> Prepared {
    let subject = Subject::data(Family::V4, machine::wfp::FlowHandle(1));
    stage.call(SEGMENTS, &subject).unwrap().with_flows(vec![context])
}

/// What `CheckOrder` adds at each layer where its walk comes to it, in order, of
/// a packet not seen before: no lock and no shared line, whatever the layer, and
/// so many instructions.
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
                // Nothing at all would be a layer that is not watched.
                assert!(
                    (1..=most_added(*layer, family, flows)).contains(&added),
                    "{name}, {}: {added}, {with:#?}",
                    walk.name
                );
                assert_eq!(
                    (with.locked, with.shared_writes),
                    (without.locked, without.shared_writes),
                    "{name}, {}: {with:#?}",
                    walk.name
                );
                assert!(only_reads(with), "{name}, {}: {:?}", walk.name, with.exports);
                seen.insert(name);
            }
        }
    }
    // All but the two errors, what is forwarded, and STREAM's twins: the flow's
    // alone, like STREAM.
    let others = stages[0].layers().map(|layer| layer.name.to_owned()).filter(|name| !seen.contains(name));
    let unordered = ["ICMP_ERROR", "IPFORWARD", "STREAM_PACKET", "STREAM_V4_DISCARD", "STREAM_V6_DISCARD"];
    let others: Vec<_> = others.filter(|name| !unordered.iter().any(|part| name.contains(part))).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// What is sent and received by a flow that the driver watches.
static CARRIED: [&Walk; 4] =
    [&walks::DATA_RECEIVED, &walks::DATA_SENT, &walks::DATAGRAM_RECEIVED, &walks::DATAGRAM_SENT];

/// A call is known by its handle, a packet by its headers; where a connection
/// shows its packet, both are looked for; and the flow is asked, too. A segment
/// that no endpoint took is decided the longer way where it is also watched, and
/// a flow's packet is counted so.
fn most_added(layer: (&str, bool), family: Family, flows: bool) -> usize {
    let of_packet = match family {
        Family::V4 => 358,
        Family::V6 => 376,
    };
    match layer {
        ("STREAM", _) if flows => 245,
        ("STREAM", _) => 145,
        ("INBOUND_TRANSPORT", true) => of_packet + 115,
        ("ALE_AUTH_CONNECT", false) => of_packet + 145,
        _ if flows => of_packet + 170,
        ("ALE_AUTH_RECV_ACCEPT" | "ALE_FLOW_ESTABLISHED", _) => of_packet,
        (name, _) if name.starts_with("ALE") => 230,
        _ => of_packet,
    }
}

/// What layers a packet passes is one walk, at whatever levels they come: where
/// the stack raises the IRQL is not known.
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
    // Datagrams of one length between the same ends have the same mark.
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

/// Below DISPATCH_LEVEL the level is raised while the walks are looked at.
#[test]
fn below_dispatch_level_the_order_raises_it() {
    let stage = stage(&[("CheckOrder", 1)]);
    let packets = walks::DATAGRAM_SENT.packets(&stage, Family::V4).unwrap();
    for cost in costs(&stage, Irql::PASSIVE, &packets).unwrap() {
        for name in ["KeAcquireSpinLockRaiseToDpc", "KeReleaseSpinLock"] {
            assert_eq!(cost.exports.get(name), Some(&1), "{:?}", cost.exports);
        }
        assert_eq!((cost.locked, cost.shared_writes), (1, 0), "the counter's: {cost:#?}");
    }
}

/// STREAM_PACKET is in no document's sequence: whatever comes there is not out
/// of order.
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
    assert_eq!(deviations(), 1, "deviations are told");
}
