//! What a classify costs in instructions, locks and shared lines: counted on
//! the shipping image, instruction by instruction, and so the same on every
//! machine. Time is no test's business; `cargo lab bench` measures it.
//!
//! A limit is what the driver takes today and a little more. One that is
//! exceeded wants a reason; one that is far from what is counted, a new number.

use std::collections::BTreeMap;

use lab::bench::count::{Cost, cost};
use lab::bench::indication::Subject;
use lab::bench::stage::{Stage, family_of, layer_name};
use lab::nt::fwp::prepared::Prepared;
use lab::nt::registry::RegistryValue;
use lab::nt::{Irql, Options};
use lab::traffic::Family;

const DECIDING: [&str; 4] =
    ["INBOUND_TRANSPORT_DISCARD", "INBOUND_IPPACKET_DISCARD", "OUTBOUND_ICMP_ERROR", "INBOUND_TRANSPORT"];

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
        assert!(cost.instructions <= 60, "{}: {cost:#?}", layer.name);
        assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{}: {cost:#?}", layer.name);
        assert_eq!(cost.exports, BTreeMap::from(asked.clone()), "{}", layer.name);
    }
}

#[test]
fn a_decision_locks_nothing_allocates_nothing_and_shares_nothing() {
    let stage = stage(&[]);
    let limits = [
        ("INBOUND_TRANSPORT", true, 220),
        ("INBOUND_IPPACKET", true, 820),
        ("OUTBOUND_ICMP_ERROR", false, 430),
        ("INBOUND_TRANSPORT", false, 80),
    ];
    for (name, discard, most) in limits {
        for family in [Family::V4, Family::V6] {
            let layer = layer_name(name, family, discard);
            let cost = at(&stage, &layer, &usual(&layer), Irql::DISPATCH);
            assert!(cost.instructions <= most, "{layer}: {cost:#?}");
            assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{layer}: {cost:#?}");
            assert!(only_reads(&cost), "{layer}: {:?}", cost.exports);
        }
    }
}

#[test]
fn a_silenced_syn_is_a_block() {
    let stage = stage(&[]);
    let call = stage.call("INBOUND_TRANSPORT_V4_DISCARD", &Subject::syn(Family::V4)).unwrap();
    cost(&stage, Irql::DISPATCH, &[&call]).unwrap();
    assert_eq!(call.action(), lab::wfp::ActionType::BLOCK, "what is counted is what is meant");
}

/// Below DISPATCH_LEVEL the processor is shared, and so is what is counted on
/// it: that takes a lock, and shows that locks are seen.
#[test]
fn below_dispatch_level_counting_takes_one_lock() {
    let stage = stage(&[]);
    let cost = at(&stage, "INBOUND_IPPACKET_V4", &Subject::syn(Family::V4), Irql::PASSIVE);
    assert_eq!((cost.locked, cost.shared_writes), (1, 0), "{cost:#?}");
    assert!(cost.places.iter().any(|place| place.contains("driver::counters")), "{:?}", cost.places);
}

/// A segment of a flow that its processor counts for already: it is counted
/// there, and no line of another processor's is touched.
#[test]
fn a_segment_of_a_flow_shares_nothing() {
    let stage = stage(&[]);
    let flow = stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
    let cost = cost(&stage, Irql::DISPATCH, &[&segment(&stage, stage.contexts(SEGMENTS)[&flow])]).unwrap();
    assert!(cost.instructions <= 235, "{cost:#?}");
    assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{cost:#?}");
    assert!(only_reads(&cost), "{:?}", cost.exports);
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
    assert!(cost.instructions <= 2 * 365, "{cost:#?}");
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
    let subject = Subject::data(Family::V4, lab::wfp::FlowHandle(1));
    stage.call(SEGMENTS, &subject).unwrap().with_flows(vec![context])
}

/// With `CheckOrder` each layer takes the processor's walks for itself, which
/// is a locked exchange; in order nothing is reported, and nothing is shared.
#[test]
fn checking_the_order_is_bounded() {
    let stage = stage(&[("CheckOrder", 1)]);
    for family in [Family::V4, Family::V6] {
        let layers = [("INBOUND_IPPACKET", false), ("INBOUND_TRANSPORT", true)];
        let cost = walk_cost(&stage, &stage.walk(&Subject::syn(family), &layers).unwrap());
        assert!(cost.instructions <= 2750, "{cost:#?}");
        assert_eq!((cost.locked, cost.shared_writes), (2, 0), "{cost:#?}");
        assert!(only_reads(&cost), "{:?}", cost.exports);
        let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
        let layers = [("INBOUND_IPPACKET", false), ("INBOUND_TRANSPORT", false), ("STREAM", false)];
        let cost = walk_cost(&stage, &stage.walk(&Subject::data(family, flow), &layers).unwrap());
        assert!(cost.instructions <= 2750, "{cost:#?}");
        assert_eq!((cost.locked, cost.shared_writes), (3, 0), "{cost:#?}");
        assert!(only_reads(&cost), "{:?}", cost.exports);
    }
}

fn walk_cost(stage: &Stage, calls: &[Prepared]) -> Cost {
    cost(stage, Irql::DISPATCH, &calls.iter().collect::<Vec<_>>()).unwrap()
}
