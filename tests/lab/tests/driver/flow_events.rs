//! The fields of FlowEnded, and of the counters of flows.

use std::sync::Arc;
use std::time::Duration;

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::Family;
use machine::etw::{Enable, Event, Filter, ZeroKeyword};
use machine::nt::fwp::prepared;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options, Trace};

use super::events::{named, session};

/// Keyword of flows (docs/EVENTS.md), and levels (evntrace.h).
pub const FLOWS: u64 = 0x10;
pub const WARNING: u8 = 3;
const INFORMATION: u8 = 4;
/// The process that [`Subject`] shows at the ALE layers.
const PROCESS: u64 = 4;

pub fn start(values: &[(&str, u32)]) -> (Stage, Trace) {
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, RegistryValue::dword(*value))).collect();
    let stage = Stage::new(Options::default(), &values).unwrap();
    let trace = session(&stage.machine);
    (stage, trace)
}

pub fn end((mut stage, trace): (Stage, Trace)) {
    drop(trace);
    let findings = stage.machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// Shows a subject at a layer.
pub fn show(stage: &Stage, layer: &str, subject: &Subject) {
    // On one processor, because each processor has its own walks.
    let calls = stage.walk(subject, &[(layer, false)]).unwrap();
    let show = |kernel: &_| prepared::run(kernel, &calls.iter().collect::<Vec<_>>(), 1, 0);
    stage.kernel().on_processor(0, Irql::DISPATCH, show).unwrap();
}

/// Events since the last call, without PolicyApplied: the driver's second reading of
/// the registry comes at any time.
pub fn taken(trace: &Trace) -> Vec<Event> {
    trace.take().into_iter().filter(|event| event.name != "PolicyApplied").collect()
}

/// The event Counters, which a session gets if it asks for the state.
pub fn counters(trace: &Trace) -> Event {
    trace.capture_state();
    (*named(&trace.events(), "Counters").last().unwrap()).clone()
}

/// Packets and bytes differ by direction, so that an exchange shows.
#[test]
fn a_flow_event_has_every_field() {
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
        // The time of the test itself comes on top.
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

/// The driver writes no event if no session's level and keywords accept it.
#[test]
fn a_flow_event_needs_a_session_with_its_level_and_keywords() {
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
        let reported = named(&trace.events(), "FlowEnded").len() as u64;
        assert_eq!((written, reported), (heard, heard), "{level} {any:#x} {all:#x}");
    }
    assert!(stage.machine.stop().unwrap().is_empty());
}
