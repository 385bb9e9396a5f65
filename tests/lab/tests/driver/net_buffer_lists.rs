//! Outbound lists of several NET_BUFFERs.

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::counters::Counters;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::Family;
use machine::etw::Enable;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options};
use machine::wfp::Value;

fn stage(net_buffers: usize) -> Stage {
    let options = Options { net_buffers, classify_irql: Irql::PASSIVE, ..Options::default() };
    Stage::new(options, &[("Mode", RegistryValue::dword(2))]).unwrap()
}

/// Each NET_BUFFER is one packet. Their lengths differ, so the sum of bytes shows
/// which ones were counted.
#[test]
fn every_packet_of_a_list_is_counted_with_its_bytes() {
    for net_buffers in [1, 2, 5, 12] {
        let mut stage = stage(net_buffers);
        let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
        for family in [Family::V4, Family::V6] {
            for irql in [Irql::PASSIVE, Irql::DISPATCH] {
                let subject = Subject::syn(family);
                let flow = stage.begin_flow(&subject).unwrap();
                let sent = Subject { sent: true, ..Subject::data(family, flow) };
                let engine = stage.machine.engine();
                let layer = engine.layer_by_name(&format!("OUTBOUND_TRANSPORT_{family:?}")).unwrap();
                let shown = sent.at(layer);
                session.take();
                stage.kernel().on_processor(1, irql, |_| engine.classify(&shown.request()));
                engine.flow_end(flow);
                let events = session.take();
                let ended: Vec<_> = events.iter().filter(|event| event.name == "FlowEnded").collect();
                let [ended] = &ended[..] else { panic!("{events:?}") };
                let bytes: usize = (0..net_buffers).map(|number| sent.payload - number).sum();
                let counted = (ended.number("PacketsOut"), ended.number("BytesOut"));
                assert_eq!(counted, (net_buffers as u64, bytes as u64), "{family:?} at {irql}");
                assert_eq!((ended.number("PacketsIn"), ended.number("BytesIn")), (0, 0));
            }
        }
        drop(session);
        assert!(stage.machine.stop().unwrap().is_empty());
    }
}

/// A list gets one verdict, by its first packet.
#[test]
fn a_list_of_errors_is_judged_once() {
    let mut stage = stage(4);
    let (kernel, engine) = (stage.machine.kernel().clone(), stage.machine.engine().clone());
    for (family, kind, code) in [(Family::V4, 3, 3), (Family::V6, 1, 4)] {
        let name = format!("OUTBOUND_ICMP_ERROR_{family:?}");
        let mut error = Subject::datagram(family).at(engine.layer_by_name(&name).unwrap());
        for (field, value) in
            [("ICMP_TYPE", kind), ("IP_LOCAL_PORT", kind), ("ICMP_CODE", code), ("IP_REMOTE_PORT", code)]
        {
            error.set(field, Value::Uint16(value));
        }
        let decision = engine.classify(&error.request());
        assert!(decision.blocked(), "{family:?}: {decision:?}");
        let counted = Counters::read(&kernel, &engine).unwrap().at(&name, &engine);
        assert_eq!(counted.into_iter().collect::<Vec<_>>(), [("Silenced".to_owned(), 1)]);
    }
    assert!(stage.machine.stop().unwrap().is_empty());
}
