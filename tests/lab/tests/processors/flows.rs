//! More flows than slots, on all processors: the totals of each flow are exact.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};
use std::thread;

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::Family;
use machine::etw::Enable;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options};
use machine::schedule::Random;
use machine::wfp::FlowHandle;

/// Slots of a processor. Records this far apart have the same slot
/// (`logic::flow::slots`).
const SLOTS: usize = 4096;

/// Pairs of flows that share a slot.
const PAIRS: usize = 3;

/// Packets on each processor.
const PACKETS: u64 = 3_000;

#[test]
fn every_flow_ends_with_what_it_was_shown() {
    let values = ["Mode", "Observe"].map(|name| (name, RegistryValue::dword(1)));
    let stage = Stage::new(Options::default(), &values).unwrap();
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let subject = Subject::data(Family::V4, FlowHandle(1));
    let begun: Vec<_> = (0..SLOTS + PAIRS).map(|_| stage.begin_flow(&subject).unwrap()).collect();
    let paired = begun[..PAIRS].iter().chain(&begun[SLOTS..]);
    let flows: Vec<_> = paired.map(|flow| RwLock::new(*flow)).collect();
    let shown = Mutex::new(BTreeMap::<u64, u64>::new());
    let processor = |number: u32| {
        let (mut random, mut own) = (Random::new(number.into()), BTreeMap::<u64, u64>::new());
        for _ in 0..PACKETS {
            let flow = &flows[random.below(flows.len())];
            // A new flow begins. The old flow ends while processors use its slot.
            if random.below(50) == 0 {
                let next = stage.begin_flow(&subject).unwrap();
                let last = std::mem::replace(&mut *flow.write().unwrap(), next);
                stage.machine.engine().flow_end(last);
            }
            let flow = flow.read().unwrap();
            *own.entry(flow.0).or_default() += 1;
            show(&stage, *flow, number, if random.below(8) == 0 { Irql::PASSIVE } else { Irql::DISPATCH });
        }
        own.into_iter()
            .for_each(|(flow, packets)| *shown.lock().unwrap().entry(flow).or_default() += packets);
    };
    thread::scope(|scope| {
        for number in 0..stage.kernel().options().processors {
            let processor = &processor;
            scope.spawn(move || processor(number));
        }
    });
    flows.iter().for_each(|flow| stage.machine.engine().flow_end(*flow.read().unwrap()));
    assert!(stage.kernel().stopped().is_none(), "{:?}", stage.kernel().stopped());
    assert_eq!(session.lost(), 0);
    let mut said = BTreeMap::new();
    for event in session.events().iter().filter(|event| event.name == "FlowEnded") {
        let packets = event.number("PacketsIn");
        assert_eq!((event.number("PacketsOut"), event.number("BytesOut")), (0, 0));
        assert_eq!(event.number("BytesIn"), packets * subject.payload as u64);
        assert!(said.insert(event.number("Flow"), packets).is_none(), "ended twice");
    }
    said.retain(|_, packets| *packets != 0);
    assert_eq!(said, shown.into_inner().unwrap());
}

/// Shows a segment of a flow on a processor.
fn show(stage: &Stage, flow: FlowHandle, processor: u32, irql: Irql) {
    let engine = stage.machine.engine();
    let layer = engine.layer_by_name("INBOUND_TRANSPORT_V4").unwrap();
    let indication = Subject::data(Family::V4, flow).at(layer);
    stage.kernel().on_processor(processor, irql, |_| engine.classify(&indication.request()));
}
