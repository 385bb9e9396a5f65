//! Outbound lists of several NET_BUFFERs.

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::counters::Counters;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::Family;
use lab::world::product::Product;
use machine::etw::Enable;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options};
use machine::wfp::{
    ActionType, Engine, FILTER_FLAG_CLEAR_ACTION_RIGHT, Filter, Guid, SESSION_FLAG_DYNAMIC, SessionId, Value,
};

fn stage(net_buffer_lists: usize, net_buffers: usize) -> Stage {
    let classify_irql = Irql::PASSIVE;
    let options = Options { net_buffer_lists, net_buffers, classify_irql, ..Options::default() };
    Stage::new(options, &[("Mode", RegistryValue::dword(2))]).unwrap()
}

/// The most NET_BUFFERs and further lists that are visited to count an indication.
const MOST: usize = 1024;

/// The bytes of the first packet of an indication.
const PAYLOAD: usize = 2000;

/// Packets and bytes, outbound and inbound, of an indication of a flow, and whether it was
/// cut.
fn counted(stage: &Stage, family: Family, sent: bool, irql: Irql) -> ([[u64; 2]; 2], bool) {
    let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
    let subject = Subject { sent, payload: PAYLOAD, ..Subject::data(family, flow) };
    let engine = stage.machine.engine();
    let way = if sent { "OUTBOUND" } else { "INBOUND" };
    let layer = engine.layer_by_name(&format!("{way}_TRANSPORT_{family:?}")).unwrap();
    let shown = subject.at(layer);
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    session.take();
    stage.kernel().on_processor(1, irql, |_| engine.classify(&shown.request()));
    engine.flow_end(flow);
    let events = session.take();
    let ended: Vec<_> = events.iter().filter(|event| event.name == "FlowEnded").collect();
    let [ended] = &ended[..] else { panic!("{events:?}") };
    let number = |field| ended.number(field);
    let counts = [[number("PacketsOut"), number("BytesOut")], [number("PacketsIn"), number("BytesIn")]];
    (counts, ended.field("Cut") == Some(&machine::etw::Value::Bool(true)))
}

/// The NET_BUFFERs that are counted, of lists with so many.
fn bounded(lists: usize, buffers: usize) -> usize {
    let (mut counted, mut left) = (1, MOST);
    for list in 0..lists {
        let here = (buffers - usize::from(list == 0)).min(left);
        counted += here;
        // The step to the next list.
        left = (left - here).saturating_sub(1);
    }
    counted
}

/// Checks both directions and families. Inbound a list has one NET_BUFFER. Each is one
/// packet. Their lengths differ, so the sum of bytes shows which ones were counted.
fn check(lists: usize, buffers: usize) {
    let mut stage = stage(lists, buffers);
    for (family, irql) in [(Family::V4, Irql::PASSIVE), (Family::V6, Irql::DISPATCH)] {
        for sent in [true, false] {
            let shown = if sent { buffers } else { 1 };
            let packets = bounded(lists, shown);
            let bytes: usize = (0..packets).map(|number| PAYLOAD - number).sum();
            let mut expected = [[0; 2]; 2];
            expected[usize::from(!sent)] = [packets as u64, bytes as u64];
            let is_cut = packets < lists * shown;
            let what = format!("{lists} lists of {shown}, {family:?} at {irql}, sent: {sent}");
            assert_eq!(counted(&stage, family, sent, irql), (expected, is_cut), "{what}");
        }
    }
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// A list of one send, and chains as of coalesced datagrams.
#[test]
fn every_packet_of_an_indication_is_counted_with_its_bytes() {
    for (lists, buffers) in [(1, 1), (1, 2), (1, 12), (1, 64), (1, 65), (1, 1024), (2, 1), (3, 4), (255, 3)] {
        assert_eq!(bounded(lists, buffers), lists * buffers);
        check(lists, buffers);
    }
}

/// The count ends at a bound, and the event says whether it has.
#[test]
fn a_count_that_is_cut_says_so() {
    for (lists, buffers) in
        [(1, 1025), (1, 1026), (1, 1500), (512, 1), (513, 1), (514, 1), (300, 4), (2, 600)]
    {
        check(lists, buffers);
    }
}

/// A driver of a heavier sublayer takes a packet and injects it again. It is counted when it
/// comes back.
#[test]
fn a_packet_that_a_heavier_sublayer_takes_is_counted_when_it_comes_again() {
    for (way, sent) in [("OUTBOUND", true), ("INBOUND", false)] {
        for family in [Family::V4, Family::V6] {
            let mut stage = stage(1, 1);
            let (engine, name) = (stage.machine.engine(), format!("{way}_TRANSPORT_{family:?}"));
            let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
            let data = Subject { sent, ..Subject::data(family, flow) };
            let layer = engine.layer_by_name(&name).unwrap();
            let shown = data.at(layer);
            let trace = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
            let session = block(engine, layer.name);
            for _ in 0..3 {
                assert!(engine.classify(&shown.request()).blocked());
            }
            assert!(engine.close(session).is_success());
            assert!(!engine.classify(&shown.request()).blocked());
            engine.flow_end(flow);
            let events = trace.events();
            let ended = events.iter().find(|event| event.name == "FlowEnded").unwrap();
            let fields = if sent { ["PacketsOut", "BytesOut"] } else { ["PacketsIn", "BytesIn"] };
            assert_eq!(fields.map(|field| ended.number(field)), [1, data.payload as u64], "{name}");
            drop(trace);
            assert!(stage.machine.stop().unwrap().is_empty());
        }
    }
}

/// Blocks at a layer in the heaviest sublayer, until the session is closed.
fn block(engine: &Engine, layer: &str) -> SessionId {
    let key = Guid::from_u128(0x0c5b_5d0e_8b61_4c0e_9b1d_0e3c_55e8_7a10);
    let product = Product::add(engine, "another driver", SESSION_FLAG_DYNAMIC, key, u16::MAX).unwrap();
    let hard = |filter: &mut Filter| filter.flags = FILTER_FLAG_CLEAR_ACTION_RIGHT;
    product.filter(layer, ActionType::BLOCK, hard).unwrap();
    product.session
}

/// A list gets one verdict, by its first packet.
#[test]
fn a_list_of_errors_is_judged_once() {
    let mut stage = stage(1, 4);
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
