//! Objects that the driver adds to the filter engine, and their order.

use std::collections::BTreeMap;

use lab::hushport;
use lab::setup::{self, Target};
use lab::variants::Variant;
use lab::world::Plan;
use machine::nt::{Effect, Failure, Options};
use machine::status::Status;
use machine::wfp::{Change, Engine, Guid};
use machine::{Machine, StartError};

/// Layers in the order of the page "TCP packet flows" (bind, listen, connect, SYN out,
/// SYN in, SYN-ACK in, data), then the other layers. The flag says whether a layer has
/// a discard layer. Written from the page, not from the driver.
const ORDER: [(&str, bool); 19] = [
    ("ALE_BIND_REDIRECT", false),
    ("ALE_RESOURCE_ASSIGNMENT", true),
    ("ALE_AUTH_LISTEN", true),
    ("ALE_CONNECT_REDIRECT", false),
    ("ALE_AUTH_CONNECT", true),
    ("OUTBOUND_TRANSPORT", true),
    ("OUTBOUND_IPPACKET", true),
    ("INBOUND_IPPACKET", true),
    ("INBOUND_TRANSPORT", true),
    ("ALE_AUTH_RECV_ACCEPT", true),
    ("ALE_FLOW_ESTABLISHED", true),
    ("STREAM", true),
    ("ALE_ENDPOINT_CLOSURE", false),
    ("ALE_RESOURCE_RELEASE", false),
    ("STREAM_PACKET", false),
    ("DATAGRAM_DATA", true),
    ("INBOUND_ICMP_ERROR", true),
    ("OUTBOUND_ICMP_ERROR", true),
    ("IPFORWARD", true),
];

fn expected() -> Vec<String> {
    let mut layers = Vec::new();
    for (layer, twin) in ORDER {
        for family in ["V4", "V6"] {
            layers.push(format!("{layer}_{family}"));
            if twin {
                layers.push(format!("{layer}_{family}_DISCARD"));
            }
        }
    }
    layers
}

fn started(values: &[(&str, u32)]) -> Machine {
    let mut machine = hushport::machine(Options::default());
    for (name, number) in values {
        machine.set(name, *number);
    }
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    machine
}

fn name(engine: &Engine, layer: Guid) -> String {
    engine.layer_by_key(layer).expect("a built-in layer").name.to_owned()
}

#[test]
fn callouts_are_registered_added_and_filtered_in_the_documented_order() {
    let machine = started(&[]);
    let engine = machine.engine();
    let expected = expected();
    assert_eq!(expected.len(), 66);
    let (mut registered, mut added, mut filtered) = (Vec::new(), Vec::new(), Vec::new());
    for change in engine.journal() {
        match change {
            Change::CalloutRegister { key, .. } => registered.push(key),
            Change::CalloutAdd { key, layer, .. } => added.push((key, layer)),
            Change::FilterAdd { layer, callout, .. } => filtered.push((callout, layer)),
            _ => {}
        }
    }
    let layers: Vec<_> = added.iter().map(|(_, layer)| name(engine, *layer)).collect();
    assert_eq!(layers, expected, "FwpmCalloutAdd0");
    let layers: Vec<_> = filtered.iter().map(|(_, layer)| name(engine, *layer)).collect();
    assert_eq!(layers, expected, "FwpmFilterAdd0");
    let keys: Vec<_> = added.iter().map(|(key, _)| *key).collect();
    assert_eq!(registered, keys, "FwpsCalloutRegister3");
    let callouts: Vec<_> = filtered.iter().map(|(callout, _)| callout.unwrap()).collect();
    assert_eq!(callouts, keys, "each filter has the callout of its layer");
}

#[test]
fn one_transaction_holds_everything_and_every_object_names_the_provider() {
    let machine = started(&[]);
    let journal = machine.engine().journal();
    let place = |wanted: fn(&Change) -> bool| journal.iter().position(wanted);
    let count = |wanted: fn(&Change) -> bool| journal.iter().filter(|change| wanted(change)).count();
    assert_eq!(count(|change| matches!(change, Change::EngineOpen)), 1);
    assert_eq!(count(|change| matches!(change, Change::TransactionBegin)), 1);
    assert_eq!(count(|change| matches!(change, Change::ProviderAdd { .. })), 1);
    assert_eq!(count(|change| matches!(change, Change::SublayerAdd { .. })), 1);
    let order = [
        place(|change| matches!(change, Change::CalloutRegister { .. })),
        place(|change| matches!(change, Change::EngineOpen)),
        place(|change| matches!(change, Change::TransactionBegin)),
        place(|change| matches!(change, Change::ProviderAdd { .. })),
        place(|change| matches!(change, Change::SublayerAdd { .. })),
        place(|change| matches!(change, Change::CalloutAdd { .. })),
        place(|change| matches!(change, Change::FilterAdd { .. })),
        place(|change| matches!(change, Change::TransactionCommit)),
    ];
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");
    assert_eq!(order.last().copied().flatten(), Some(journal.len() - 1), "the commit comes last");
    let provider = journal.iter().find_map(|change| match change {
        Change::ProviderAdd { key } => Some(*key),
        _ => None,
    });
    for change in &journal {
        if let Change::CalloutAdd { provider: named, .. } | Change::FilterAdd { provider: named, .. } = change
        {
            assert_eq!(*named, provider, "{change:?}");
        }
    }
}

fn filtered(engine: &Engine) -> Vec<String> {
    let changes = engine.journal().into_iter();
    let filters = changes.filter_map(|change| match change {
        Change::FilterAdd { layer, .. } => Some(name(engine, layer)),
        _ => None,
    });
    filters.collect()
}

#[test]
fn without_observe_only_the_deciding_layers_have_filters() {
    const DECIDING: [&str; 6] = [
        "INBOUND_IPPACKET_V4_DISCARD",
        "INBOUND_IPPACKET_V6_DISCARD",
        "INBOUND_TRANSPORT_V4_DISCARD",
        "INBOUND_TRANSPORT_V6_DISCARD",
        "OUTBOUND_ICMP_ERROR_V4",
        "OUTBOUND_ICMP_ERROR_V6",
    ];
    let machine = started(&[("Observe", 0)]);
    let engine = machine.engine();
    assert_eq!(filtered(engine), DECIDING);
    assert_eq!(engine.objects().callouts.len(), 66, "their callouts stay");

    // Every inbound packet passes INBOUND_TRANSPORT, so a filter is there only if
    // echo requests are silenced.
    let machine = started(&[("Observe", 0), ("SilenceEcho", 1)]);
    let mut expected = DECIDING.to_vec();
    expected.extend(["INBOUND_TRANSPORT_V4", "INBOUND_TRANSPORT_V6"]);
    expected.sort_unstable();
    let mut filtered = filtered(machine.engine());
    filtered.sort_unstable();
    assert_eq!(filtered, expected);
}

/// Registration refuses flags that a level of Windows does not know. The callouts are
/// registered with the others.
#[test]
fn flags_that_windows_does_not_know_are_left_out() {
    /// ALLOW_OFFLOAD, ALLOW_RSC, ALLOW_USO, ALLOW_URO (`fwpsk.h`).
    const FLAGS: u32 = 0x2 | 0x40 | 0x100 | 0x200;
    let names = ["flags-2004", "flags-21h2", "flags-22h2", "flags-refused-as-parameter"];
    let mut plans = vec![Plan::default()];
    plans.extend(names.map(|name| {
        let mut plan = Plan::default();
        Variant::named(name).unwrap().turn(&mut plan);
        plan
    }));
    for plan in plans {
        let mut machine = Machine::with(hushport::SERVICE, plan.machine, plan.engine.clone());
        machine.kernel().journal().start();
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        let what = format!("{:?}, {}", plan.engine.callout_flags, plan.engine.flags_refusal);
        let objects = machine.engine().objects();
        assert_eq!((objects.registered_callouts.len(), objects.filters.len()), (66, 66), "{what}");
        let calls = machine.kernel().journal().take();
        let mut last = BTreeMap::new();
        for call in calls.iter().filter(|call| call.export == "FwpsCalloutRegister3") {
            last.insert(call.guid("callout.calloutKey"), call.number("callout.flags").unwrap());
        }
        assert_eq!(last.len(), 66);
        let kept = u64::from(FLAGS & plan.engine.callout_flags.known());
        assert!(last.values().all(|flags| *flags == kept), "{what}: {last:x?}");
        assert!(machine.stop().unwrap().is_empty());
    }
}

/// A refusal for another reason is not tried again with fewer flags.
#[test]
fn a_callout_that_is_refused_for_another_reason_fails_the_start() {
    let mut machine = hushport::machine(Options::default());
    let failure = Failure { status: Status::INSUFFICIENT_RESOURCES, effect: Effect::Refused };
    machine.faults().fail_next("FwpsCalloutRegister3", failure);
    match machine.start(&setup::build(Target::X64).unwrap().sys) {
        Err(StartError::Refused(Status::INSUFFICIENT_RESOURCES)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.kernel().call_count("FwpsCalloutRegister3"), 1);
}
