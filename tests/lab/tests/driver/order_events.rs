//! OrderDeviation: its fields, and when a flow's order is checked.

use std::time::Duration;

use lab::bench::indication::Subject;
use lab::bench::stage::{Stage, layer_name};
use lab::traffic::{Data, Family, Indication};
use machine::etw::Value;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options, Trace};
use machine::wfp::{self, FlowHandle};

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

/// The stack's ICMP error passes OUTBOUND_ICMP_ERROR before OUTBOUND_TRANSPORT. A socket
/// may send one that does not: its first has an endpoint, later ones a flow, too.
#[test]
fn an_icmp_error_that_a_socket_sends_needs_no_error_layer() {
    for family in [Family::V4, Family::V6] {
        for (endpoint, flow, deviations) in [
            (None, None, 1),
            (Some(7), None, 0),
            (None, Some(FlowHandle(9)), 0),
            (Some(7), Some(FlowHandle(9)), 0),
        ] {
            let options = Options { own_time: true, ..Options::default() };
            let stage = Stage::new(options, &[("CheckOrder", RegistryValue::dword(1))]).unwrap();
            let trace = session(&stage.machine);
            // The check begins with the first packet, and tells only of what it has seen from
            // its beginning.
            show(&stage, "INBOUND_IPPACKET", &Subject::syn(family));
            stage.kernel().run_until(Duration::from_secs(100), Duration::MAX);
            let discarded = Subject::datagram(family);
            show(&stage, "INBOUND_IPPACKET", &discarded);
            let engine = stage.machine.engine();
            let layer = |name, discard| engine.layer_by_name(&layer_name(name, family, discard)).unwrap();
            let shows = |shown: &Indication| {
                stage.kernel().on_processor(0, Irql::DISPATCH, |_| engine.classify(&shown.request()));
            };
            shows(&discarded.at(layer("INBOUND_TRANSPORT", true)));
            trace.take();
            let mut error = discarded.at(layer("OUTBOUND_TRANSPORT", false));
            port_unreachable(family, &mut error);
            error.metadata.transport_endpoint_handle = endpoint;
            error.metadata.flow_handle = flow;
            shows(&error);
            let events = trace.take();
            let reported = named(&events, "OrderDeviation");
            assert_eq!(reported.len(), deviations, "{family:?}, {endpoint:?}, {flow:?}: {reported:?}");
            end((stage, trace));
        }
    }
}

/// Turns a packet at OUTBOUND_TRANSPORT into ICMP's port unreachable (RFC 792; RFC 4443,
/// 3.1) to the same address.
fn port_unreachable(family: Family, shown: &mut Indication) {
    let (protocol, kind, code) = match family {
        Family::V4 => (1, 3, 3),
        Family::V6 => (58, 1, 4),
    };
    let mut bytes = vec![kind, code];
    bytes.resize(8 + 28, 0);
    shown.data = Data::Packet(bytes, 0);
    shown.metadata.transport_header_size = Some(8);
    shown.set("IP_PROTOCOL", wfp::Value::Uint8(protocol));
    // At these layers the port fields hold type and code.
    shown.set("IP_LOCAL_PORT", wfp::Value::Uint16(kind.into()));
    shown.set("IP_REMOTE_PORT", wfp::Value::Uint16(code.into()));
}
