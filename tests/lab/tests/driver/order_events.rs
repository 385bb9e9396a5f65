//! OrderDeviation: its fields, and when a flow's order is checked.

use lab::bench::indication::Subject;
use lab::bench::stage::{Stage, layer_name};
use lab::traffic::Family;
use machine::etw::Value;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options, Trace};

use super::events::{named, session, settled};
use super::flow_events::{FLOWS, WARNING, counters, end, show, start, taken};

/// A packet is shown twice at one layer.
#[test]
fn a_deviation_event_has_every_field() {
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

/// The order of a flow is checked over changes of the policy, but not after a time in
/// which `CheckOrder` was 0.
#[test]
fn a_flow_is_checked_over_changes_of_the_policy_but_not_after_a_gap() {
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
            // With `CheckOrder` 0, the driver did not see this data at STREAM.
            show(stage, "OUTBOUND_TRANSPORT", &sent);
            let reported = named(&taken(trace), "OrderDeviation").len();
            assert_eq!(reported, deviations, "{family:?}, unwatched {unwatched}");
        }
        end(world);
    }
}

/// After `CheckOrder` was 0, the driver forgets the packets that it was following, on
/// every processor and at each level.
#[test]
fn a_new_watch_knows_nothing_of_what_an_old_one_saw() {
    let options = Options { classify_irql: Irql::PASSIVE, ..Options::default() };
    let stage = Stage::new(options, &[("CheckOrder", RegistryValue::dword(1))]).unwrap();
    let trace = session(&stage.machine);
    settled(&trace);
    let engine = stage.machine.engine();
    // Shows a segment at a layer. Returns the number of reported deviations.
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
                // Again at the layer that saw it last.
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
