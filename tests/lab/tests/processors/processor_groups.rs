//! A machine with two processor groups: counters, flows and scans cover both.

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::counters::Counters;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::{Family, Indication, SYN};
use machine::etw::Enable;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options};
use machine::wfp::FlowHandle;

/// Six processors, in groups of four and two.
pub fn two_groups() -> Options {
    Options { processors: 6, group_size: 4, classify_irql: Irql::PASSIVE, ..Options::default() }
}

const LEVELS: [Irql; 3] = [Irql::PASSIVE, Irql::APC, Irql::DISPATCH];

#[test]
fn every_processor_of_every_group_decides_and_counts() {
    let mut stage = Stage::new(two_groups(), &[("Mode", RegistryValue::dword(2))]).unwrap();
    let (kernel, engine) = (stage.machine.kernel().clone(), stage.machine.engine().clone());
    let silenced = |layer: &str| {
        let counts = Counters::read(&kernel, &engine).unwrap().at(layer, &engine);
        counts.get("Silenced").copied().unwrap_or(0)
    };
    for family in [Family::V4, Family::V6] {
        let syn = Indication::closed_port(family, 23, SYN);
        for processor in 0..kernel.options().processors {
            for irql in LEVELS {
                let before = silenced(syn.layer.name);
                let blocked =
                    kernel.on_processor(processor, irql, |_| engine.classify(&syn.request()).blocked());
                assert!(blocked, "{family:?} on processor {processor} at {irql}");
                let counted = silenced(syn.layer.name) - before;
                assert_eq!(counted, 1, "{family:?} on processor {processor} at {irql}");
            }
        }
    }
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// FlowEnded has the packets of all processors.
#[test]
fn a_flow_is_counted_on_every_processor_of_every_group() {
    let mut stage = Stage::new(two_groups(), &[("Mode", RegistryValue::dword(1))]).unwrap();
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let flow = stage.begin_flow(&Subject::data(Family::V4, FlowHandle(1))).unwrap();
    let engine = stage.machine.engine();
    let shown = Subject::data(Family::V4, flow).at(engine.layer_by_name("INBOUND_TRANSPORT_V4").unwrap());
    let processors = stage.kernel().options().processors;
    for processor in 0..processors {
        for irql in LEVELS {
            stage.kernel().on_processor(processor, irql, |_| engine.classify(&shown.request()));
        }
    }
    engine.flow_end(flow);
    let events = session.events();
    let ended: Vec<_> = events.iter().filter(|event| event.name == "FlowEnded").collect();
    let [ended] = &ended[..] else { panic!("{events:?}") };
    assert_eq!(ended.number("PacketsIn"), u64::from(processors) * LEVELS.len() as u64);
    drop(session);
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// Probes on all processors count as one scan.
#[test]
fn a_scan_is_put_together_from_every_group() {
    let values = [("ScanPorts", RegistryValue::dword(40)), ("ScanWindowMs", RegistryValue::dword(1_000))];
    let mut stage = Stage::new(two_groups(), &values).unwrap();
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let engine = stage.machine.engine();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let found = || session.events().iter().any(|event| event.name == "ScanDetected");
    while !found() {
        assert!(std::time::Instant::now() < end, "no scan is seen");
        // A third of the ports is on the first group. Ports are told apart by 64 bits
        // only: of sixty, forty are always seen, of twenty never.
        for port in 0..60 {
            let syn = Indication::closed_port(Family::V4, 1000 + port as u16, SYN);
            let processor = if port < 20 { port % 4 } else { 4 + port % 2 };
            stage.kernel().on_processor(processor, Irql::DISPATCH, |_| engine.classify(&syn.request()));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(session);
    assert!(stage.machine.stop().unwrap().is_empty());
}
