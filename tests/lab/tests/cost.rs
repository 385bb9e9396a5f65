//! What a classify costs in instructions, locks and shared lines: counted on
//! the shipping image, instruction by instruction, and so the same on every
//! machine. Time is no test's business; `cargo lab bench` measures it.
//!
//! A limit is what the driver takes today and a little more. One that is
//! exceeded wants a reason; one that is far from what is counted, a new number.

use std::collections::BTreeMap;

use lab::bench::count::{Cost, cost};
use lab::bench::indication::Subject;
use lab::bench::native;
use lab::bench::stage::{Stage, family_of, layer_name};
use lab::etw::{Enable, Filter, HUSHPORT, ZeroKeyword};
use lab::nt::fwp::prepared::Prepared;
use lab::nt::registry::RegistryValue;
use lab::nt::{Irql, Options};
use lab::traffic::Family;

const DECIDING: [&str; 4] =
    ["INBOUND_TRANSPORT_DISCARD", "INBOUND_IPPACKET_DISCARD", "OUTBOUND_ICMP_ERROR", "INBOUND_TRANSPORT"];

/// Keyword of verdicts (docs/EVENTS.md).
const VERDICTS: u64 = 0x4;

fn stage(values: &[(&str, u32)]) -> Stage {
    let usual = [("Mode", 2), ("Observe", 1)];
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
        assert!(cost.instructions <= 88, "{}: {cost:#?}", layer.name);
        assert_eq!((cost.locked, cost.shared_writes), (0, 0), "{}: {cost:#?}", layer.name);
        assert_eq!(cost.exports, BTreeMap::from(asked.clone()), "{}", layer.name);
    }
}

#[test]
fn a_decision_locks_nothing_allocates_nothing_and_shares_nothing() {
    let stage = stage(&[]);
    let limits = [
        ("INBOUND_TRANSPORT", true, 660),
        ("INBOUND_IPPACKET", true, 1050),
        ("OUTBOUND_ICMP_ERROR", false, 600),
        ("INBOUND_TRANSPORT", false, 125),
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
    }
}

#[test]
fn a_silenced_syn_is_a_block() {
    let stage = stage(&[]);
    let call = stage.call("INBOUND_TRANSPORT_V4_DISCARD", &Subject::syn(Family::V4)).unwrap();
    cost(&stage, Irql::DISPATCH, &[&call]).unwrap();
    assert_eq!(call.action(), lab::wfp::ActionType::BLOCK, "what is counted is what is meant");
}

/// An event is made where a session wants it, and counted against its limit,
/// which all processors share: that takes the one lock, on the one line.
#[test]
fn an_event_that_is_written_takes_one_lock() {
    let stage = stage(&[("Trace", 1)]);
    let filter = Filter { level: 0, any: VERDICTS, all: 0 };
    let enable = Enable { provider: HUSHPORT, filter, zero: ZeroKeyword::AsAll };
    for family in [Family::V4, Family::V6] {
        let layer = layer_name("INBOUND_TRANSPORT", family, true);
        let quiet = at(&stage, &layer, &Subject::syn(family), Irql::DISPATCH);
        let session = stage.machine.kernel().trace(enable, None);
        let cost = at(&stage, &layer, &Subject::syn(family), Irql::DISPATCH);
        assert!(session.take().iter().any(|event| event.name == "Silenced"));
        drop(session);
        assert!(cost.instructions <= quiet.instructions + 1700, "{cost:#?}");
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
    assert!(cost.places.iter().any(|place| place.contains("driver::counters")), "{:?}", cost.places);
}

/// A flow's packets and bytes are counted in its record, which processors that
/// carry the same flow share: two locked additions on one line. It shows, too,
/// that shared lines are seen.
#[test]
fn a_segment_of_a_flow_shares_the_flow_alone() {
    let stage = stage(&[]);
    let layer = "INBOUND_TRANSPORT_V4";
    let flow = stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
    let context = stage.contexts(layer)[&flow];
    let call = stage.call(layer, &Subject::data(Family::V4, flow)).unwrap().with_flows(vec![context]);
    let cost = cost(&stage, Irql::DISPATCH, &[&call]).unwrap();
    assert!(cost.instructions <= 250, "{cost:#?}");
    assert_eq!((cost.locked, cost.shared_writes), (2, 1), "{cost:#?}");
    assert!(only_reads(&cost), "{:?}", cost.exports);
    assert!(cost.places.iter().all(|place| place.contains("logic::flow")), "{:?}", cost.places);
}

/// With `CheckOrder` each layer takes the processor's walks for itself, which
/// is a locked exchange; in order nothing is reported, and nothing shared but
/// the flow.
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
        assert_eq!((cost.locked, cost.shared_writes), (5, 1), "{cost:#?}");
        assert!(only_reads(&cost), "{:?}", cost.exports);
    }
}

fn walk_cost(stage: &Stage, calls: &[Prepared]) -> Cost {
    cost(stage, Irql::DISPATCH, &calls.iter().collect::<Vec<_>>()).unwrap()
}
