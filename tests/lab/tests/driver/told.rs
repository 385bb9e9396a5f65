//! What the events of flows and of the order of layers say, field by field.

use std::sync::Arc;
use std::time::Duration;

use lab::bench::indication::Subject;
use lab::bench::stage::{Stage, layer_name};
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::Family;
use machine::etw::{Enable, Event, Filter, Value, ZeroKeyword};
use machine::nt::fwp::prepared;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options, Trace};

use super::events::{named, session, settled};

/// Keyword of flows (docs/EVENTS.md), and levels (evntrace.h).
const FLOWS: u64 = 0x10;
const WARNING: u8 = 3;
const INFORMATION: u8 = 4;
/// The process that [`Subject`] shows at ALE's layers.
const PROCESS: u64 = 4;

fn start(values: &[(&str, u32)]) -> (Stage, Trace) {
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, RegistryValue::dword(*value))).collect();
    let stage = Stage::new(Options::default(), &values).unwrap();
    let trace = session(&stage.machine);
    (stage, trace)
}

fn end((mut stage, trace): (Stage, Trace)) {
    drop(trace);
    let findings = stage.machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// Shows a subject at a layer.
fn show(stage: &Stage, layer: &str, subject: &Subject) {
    // On one processor, for walks are a processor's own.
    let calls = stage.walk(subject, &[(layer, false)]).unwrap();
    let show = |kernel: &_| prepared::run(kernel, &calls.iter().collect::<Vec<_>>(), 1, 0);
    stage.kernel().on_processor(0, Irql::DISPATCH, show).unwrap();
}

/// What was said since; the watch's first reading of the registry is in its own
/// time.
fn taken(trace: &Trace) -> Vec<Event> {
    trace.take().into_iter().filter(|event| event.name != "PolicyApplied").collect()
}

/// The counters, as a session that asks for the state is told them.
fn counters(trace: &Trace) -> Event {
    trace.capture_state();
    (*named(&trace.events(), "Counters").last().unwrap()).clone()
}

/// Nothing is the same in both directions.
#[test]
fn a_flow_is_told_with_all_that_it_was() {
    let world = start(&[]);
    let (stage, trace) = &world;
    for (ended, family) in (1..).zip([Family::V4, Family::V6]) {
        let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
        assert_eq!(counters(trace).number("Flows"), 1);
        let data = |payload| Subject { payload, ..Subject::data(family, flow) };
        (0..5).for_each(|_| show(stage, "INBOUND_TRANSPORT", &data(100)));
        (0..2).for_each(|_| show(stage, "OUTBOUND_TRANSPORT", &data(40)));
        stage.machine.kernel().clock().advance(Duration::from_millis(1_500));
        trace.take();
        stage.machine.engine().flow_end(flow);
        let events = taken(trace);
        let [event] = &events[..] else { panic!("{events:#?}") };
        assert_eq!((&*event.name, event.level, event.keyword), ("FlowEnded", INFORMATION, FLOWS));
        assert_eq!((event.number("Flow"), event.number("Process")), (flow.0, PROCESS));
        let [out, inbound] = ["Out", "In"].map(|direction| {
            (event.number(&format!("Packets{direction}")), event.number(&format!("Bytes{direction}")))
        });
        assert_eq!((out, inbound), ((2, 2 * 40), (5, 5 * 100)));
        // What the machine itself took comes on top.
        assert!((1_500..61_500).contains(&event.number("DurationMs")), "{event:?}");
        assert_eq!((event.text("Order"), event.number("Dropped")), ("NotWatched", 0));
        let now = counters(trace);
        assert_eq!((now.number("Flows"), now.number("FlowsEnded")), (0, ended));
    }
    end(world);
}

#[test]
fn flows_that_find_no_room_are_counted() {
    let world = start(&[("FlowLimit", 2)]);
    let (stage, trace) = &world;
    for _ in 0..5 {
        stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
    }
    let now = counters(trace);
    assert_eq!((now.number("Flows"), now.number("FlowsRefused")), (2, 3));
    end(world);
}

/// A packet that is shown at its layer twice.
#[test]
fn a_deviation_is_told_with_all_that_is_known() {
    let world = start(&[("CheckOrder", 1)]);
    let (stage, trace) = &world;
    let sides = [("10.0.0.2:443", "10.0.0.1:40000"), ("[fd77::2]:443", "[fd77::1]:40000")];
    for ((deviations, family), (local, remote)) in (1..).zip([Family::V4, Family::V6]).zip(sides) {
        let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
        let data = Subject::data(family, flow);
        trace.take();
        for layer in ["INBOUND_IPPACKET", "INBOUND_TRANSPORT"] {
            show(stage, layer, &data);
        }
        assert_eq!(taken(trace), [], "in order");
        show(stage, "INBOUND_TRANSPORT", &data);
        let events = taken(trace);
        let [event] = &events[..] else { panic!("{events:#?}") };
        assert_eq!((&*event.name, event.level, event.keyword), ("OrderDeviation", WARNING, FLOWS));
        assert_eq!(event.text("Layer"), layer_name("INBOUND_TRANSPORT", family, false));
        assert_eq!(event.text("Seen"), "INBOUND_TRANSPORT");
        assert!(!["", "INBOUND_TRANSPORT"].contains(&event.text("Expected")), "{event:?}");
        assert_eq!((event.number("Flow"), event.number("Protocol")), (flow.0, 6));
        assert_eq!(event.field("Local"), Some(&Value::Socket(local.parse().unwrap())));
        assert_eq!(event.field("Remote"), Some(&Value::Socket(remote.parse().unwrap())));
        assert_eq!(counters(trace).number("Deviations"), deviations);
        trace.take();
        stage.machine.engine().flow_end(flow);
        let events = taken(trace);
        let [event] = &events[..] else { panic!("{events:#?}") };
        assert_eq!((event.text("Order"), event.number("Flow")), ("Deviated", flow.0));
    }
    end(world);
}

/// A flow's order is asked as long as nothing of it has passed unseen: over any
/// change of the policy, but not over a time without a watch.
#[test]
fn a_flow_is_asked_as_long_as_it_was_watched() {
    let reload = |stage: &Stage, trace: &Trace, name: &str, value: u32| {
        trace.take();
        stage.machine.set(name, value);
        settled(trace);
    };
    for (unwatched, deviations) in [(false, 1), (true, 0)] {
        let world = start(&[("CheckOrder", 1)]);
        let (stage, trace) = &world;
        settled(trace);
        for family in [Family::V4, Family::V6] {
            let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
            let sent = Subject { sent: true, ..Subject::data(family, flow) };
            if unwatched {
                reload(stage, trace, "CheckOrder", 0);
                show(stage, "STREAM", &sent);
                reload(stage, trace, "CheckOrder", 1);
            } else {
                reload(stage, trace, "ScanPorts", if family == Family::V4 { 20 } else { 21 });
            }
            trace.take();
            // Data that left the stream unseen, or did not come from it.
            show(stage, "OUTBOUND_TRANSPORT", &sent);
            let told = named(&taken(trace), "OrderDeviation").len();
            assert_eq!(told, deviations, "{family:?}, unwatched {unwatched}");
        }
        end(world);
    }
}

/// What an earlier watch saw under way has gone on unseen since. A new watch
/// begins anew with each packet, on every processor and at each level.
#[test]
fn a_new_watch_knows_nothing_of_what_an_old_one_saw() {
    let options = Options { classify_irql: Irql::PASSIVE, ..Options::default() };
    let stage = Stage::new(options, &[("CheckOrder", RegistryValue::dword(1))]).unwrap();
    let trace = session(&stage.machine);
    settled(&trace);
    let engine = stage.machine.engine();
    // How many deviations are told when a segment is shown at a layer.
    let shows = |layer: &str, family: Family, (processor, irql): (u32, Irql), remote_port: u16| {
        let layer = engine.layer_by_name(&layer_name(layer, family, false)).unwrap();
        let shown = Subject { remote_port, ..Subject::syn(family) }.at(layer);
        trace.take();
        stage.kernel().on_processor(processor, irql, |_| engine.classify(&shown.request()));
        named(&trace.take(), "OrderDeviation").len()
    };
    let mut port = 40_000;
    for unwatched in [false, true] {
        for family in [Family::V4, Family::V6] {
            let processors = 0..stage.kernel().options().processors;
            let places = processors.flat_map(|number| [(number, Irql::PASSIVE), (number, Irql::DISPATCH)]);
            port += 100;
            for (place, port) in places.clone().zip(port..) {
                for layer in ["INBOUND_IPPACKET", "INBOUND_TRANSPORT"] {
                    assert_eq!(shows(layer, family, place, port), 0, "in order");
                }
            }
            for on in [0, 1].into_iter().filter(|_| unwatched) {
                trace.take();
                stage.machine.set("CheckOrder", on);
                settled(&trace);
            }
            for (place, port) in places.zip(port..) {
                // Again at the layer where it was seen last.
                let deviations = shows("INBOUND_TRANSPORT", family, place, port);
                assert_eq!(
                    deviations,
                    usize::from(!unwatched),
                    "{family:?} at {place:?}, unwatched {unwatched}"
                );
            }
        }
    }
    end((stage, trace));
}

/// The driver itself writes nothing where no session's level, keyword, or all
/// of the keywords that it insists on are the event's.
#[test]
fn a_flow_is_written_for_whom_it_is_meant_alone() {
    let values = [("Mode", RegistryValue::dword(2))];
    let mut stage = Stage::new(Options::default(), &values).unwrap();
    let kernel = Arc::clone(stage.machine.kernel());
    for (level, any, all, heard) in [
        (INFORMATION, FLOWS, 0, 1),
        (INFORMATION, FLOWS | 1, FLOWS, 1),
        (0, FLOWS, FLOWS, 1),
        (WARNING, FLOWS, 0, 0),
        (INFORMATION, FLOWS << 1, 0, 0),
        (INFORMATION, FLOWS | 1, FLOWS | 1, 0),
    ] {
        let filter = Filter { level, any, all };
        let trace = kernel.trace(Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::AsAll }, None);
        let before = kernel.call_count("EtwWriteTransfer");
        let flow = stage.begin_flow(&Subject::syn(Family::V4)).unwrap();
        stage.machine.engine().flow_end(flow);
        let written = kernel.call_count("EtwWriteTransfer") - before;
        let told = named(&trace.events(), "FlowEnded").len() as u64;
        assert_eq!((written, told), (heard, heard), "{level} {any:#x} {all:#x}");
    }
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// No more often: each look goes over what every processor remembers. That it is
/// not less often, the scans that are reported in time show.
#[test]
fn who_scans_is_looked_for_every_eighth_of_a_window() {
    let world = start(&[("ScanWindowMs", 8_000)]);
    let kernel = world.0.machine.kernel();
    let looks = || kernel.call_count("ZwWaitForSingleObject");
    settled(&world.1);
    let before = looks();
    std::thread::sleep(Duration::from_millis(1_500));
    // A second's, and those on either side.
    assert!(looks() - before <= 3, "{} looks", looks() - before);
    end(world);
}
