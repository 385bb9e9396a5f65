//! Events of the driver, as an ETW session decodes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::hushport::{self, EVENT_PROVIDER};
use machine::Machine;
use machine::etw::{Enable, Event, Filter, Value, ZeroKeyword};
use machine::nt::registry::RegistryValue;
use machine::nt::{Options, Trace};
use machine::wfp::{LayerData, Metadata, Request};

use super::probe::{Bench, INTERFACE, Probe};

const POLICY: u64 = 0x2;
const VERDICTS: u64 = 0x4;
const SCANS: u64 = 0x8;
const COUNTERS: u64 = 0x40;

pub fn session(machine: &Machine) -> Trace {
    machine.kernel().trace(Enable::all(EVENT_PROVIDER), None)
}

fn filtered(machine: &Machine, level: u8, any: u64, zero: ZeroKeyword) -> Trace {
    let filter = Filter { level, any, all: 0 };
    machine.kernel().trace(Enable { provider: EVENT_PROVIDER, filter, zero }, None)
}

pub fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name == name).collect()
}

/// Waits until the events have a property.
pub fn eventually(trace: &Trace, what: &str, holds: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let events = trace.events();
        if holds(&events) {
            return events;
        }
        assert!(Instant::now() < end, "{what}: {events:#?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the driver has read the registry a second time. It does so when it
/// begins to watch its key. A later session sees this by the number of the policy.
pub fn settled(trace: &Trace) {
    let second = |event: &Event| event.name == "PolicyApplied" && event.number("Number") > 1;
    eventually(trace, "the first reading of the watch", |events| {
        events.iter().any(|event| event.text("Occasion") == "Change" || second(event))
    });
}

/// Shows a packet at OUTBOUND_IPPACKET_V4, an observing layer.
fn observe(bench: &Bench) {
    let engine = bench.machine.engine();
    let layer = engine.layer_by_name("OUTBOUND_IPPACKET_V4").unwrap();
    let values = vec![machine::wfp::Value::Empty; layer.fields];
    let metadata = Metadata::default();
    engine.classify(&Request {
        layer: layer.id,
        values: &values,
        metadata: &metadata,
        data: LayerData::None,
    });
}

/// Shows a segment without endpoint and without metadata.
fn silence(bench: &Bench) {
    let engine = bench.machine.engine();
    let layer = engine.layer_by_name("INBOUND_TRANSPORT_V4_DISCARD").unwrap();
    let mut values = vec![machine::wfp::Value::Empty; layer.fields];
    values[layer.field("IP_PROTOCOL").unwrap()] = machine::wfp::Value::Uint8(6);
    let metadata = Metadata::default();
    let data = LayerData::None;
    let request = Request { layer: layer.id, values: &values, metadata: &metadata, data };
    assert!(engine.classify(&request).blocked());
}

#[test]
fn a_session_from_before_the_start_hears_the_whole_life() {
    let mut machine = hushport::machine(Options::default());
    let trace = session(&machine);
    machine.start(&lab::setup::build(lab::setup::Target::X64).unwrap().sys).unwrap();
    settled(&trace);
    assert!(machine.stop().unwrap().is_empty());
    let events = trace.events();
    assert!(events.iter().all(|event| event.provider == "Hushport" && event.provider_id == EVENT_PROVIDER));
    let names: Vec<_> = events.iter().map(|event| &*event.name).collect();
    assert_eq!(
        names,
        ["PolicyApplied", "Started", "Protection", "PolicyApplied", "Counters", "Stopped"],
        "{events:#?}"
    );
    assert_eq!(events[0].text("Occasion"), "Start");
    assert_eq!((events[0].number("Number"), events[3].number("Number")), (1, 2));
    let expected =
        [("Mode", 2), ("SublayerWeight", 0x7000), ("Trace", 1), ("ScanPorts", 16), ("FlowLimit", 65536)];
    for (field, number) in expected {
        assert_eq!(events[0].number(field), number, "{field}");
    }
    assert_eq!(events[0].field("SilenceTcp"), Some(&Value::Bool(true)));
    assert_eq!(events[0].field("SilenceEcho"), Some(&Value::Bool(false)));
    assert_eq!((events[2].text("Occasion"), events[2].text("State")), ("Start", "Active"));
    assert_eq!((events[1].text("Version"), events[1].number("Callouts")), (env!("CARGO_PKG_VERSION"), 66));
    assert!(events[5].number("UptimeMs") < 60_000);
    assert_eq!(machine.kernel().tracing().unheard(), 0);
}

#[test]
fn a_silenced_event_has_every_field() {
    for (mode, audited) in [(2, false), (1, true)] {
        let bench = Bench::new(Options::default(), &[("Mode", mode)]);
        let trace = session(&bench.machine);
        trace.take();
        for (family, local, remote) in
            [("V4", "10.77.0.2:23", "10.77.0.1:40000"), ("V6", "[fd77::2]:23", "[fd77::1]:40000")]
        {
            bench.ask(&Probe::syn(family));
            let events = trace.take();
            let [event] = named(&events, "Silenced")[..] else { panic!("{events:#?}") };
            assert_eq!((event.level, event.keyword), (4, VERDICTS));
            assert_eq!(event.text("Layer"), format!("INBOUND_TRANSPORT_{family}_DISCARD"));
            assert_eq!(event.field("Audited"), Some(&Value::Bool(audited)));
            assert_eq!(event.field("Local"), Some(&Value::Socket(local.parse().unwrap())));
            assert_eq!(event.field("Remote"), Some(&Value::Socket(remote.parse().unwrap())));
            assert_eq!((event.number("Protocol"), event.number("Interface")), (6, INTERFACE));
            assert_eq!((event.text("DiscardModule"), event.number("DiscardReason")), ("Transport", 4));
            assert_eq!((event.text("Technique"), event.number("Dropped")), ("Syn", 0));
        }
        drop(trace);
        bench.end();
    }
}

#[test]
fn without_a_session_no_etw_function_is_called() {
    let bench = Bench::new(Options::default(), &[("Trace", 2)]);
    let kernel = Arc::clone(bench.machine.kernel());
    let calls = || ["EtwWriteTransfer", "KeQueryInterruptTimePrecise"].map(|name| kernel.call_count(name));
    let before = calls();
    for _ in 0..10 {
        silence(&bench);
        observe(&bench);
    }
    assert_eq!(calls(), before);
    assert_eq!(before[0], 0);
    // A session that wants other events.
    let trace = filtered(&bench.machine, 5, SCANS, ZeroKeyword::AsAll);
    let before = calls();
    silence(&bench);
    assert_eq!(calls(), before);
    drop(trace);
    // A session that wanted the events has ended.
    let trace = session(&bench.machine);
    let before = calls();
    silence(&bench);
    assert_ne!(calls(), before);
    drop(trace);
    let before = calls();
    silence(&bench);
    assert_eq!(calls(), before);
    bench.end();
}

#[test]
fn sessions_get_what_their_level_and_keywords_ask_for() {
    let bench = Bench::new(Options::default(), &[]);
    for zero in [ZeroKeyword::AsAll, ZeroKeyword::AsGiven] {
        for (level, any, silenced) in
            [(0, 0, 1), (4, 0, 1), (5, VERDICTS, 1), (4, VERDICTS | POLICY, 1), (3, 0, 0), (5, POLICY, 0)]
        {
            let trace = filtered(&bench.machine, level, any, zero);
            bench.ask(&Probe::syn("V4"));
            let events = trace.events();
            assert_eq!(named(&events, "Silenced").len(), silenced, "{level} {any:#x} {zero:?}");
            assert!(events.iter().all(|event| level == 0 || event.level <= level));
        }
    }
    // Two sessions at once: each gets its events.
    let warnings = filtered(&bench.machine, 3, 0, ZeroKeyword::AsAll);
    let verdicts = filtered(&bench.machine, 4, VERDICTS, ZeroKeyword::AsAll);
    warnings.take();
    bench.ask(&Probe::syn("V4"));
    let warned = warnings.events();
    // Each new session has the driver write its state, which the others get, too.
    assert!(warned.iter().all(|event| event.name == "Protection"), "{warned:#?}");
    assert_eq!(verdicts.events().len(), 1);
    drop(warnings);
    bench.ask(&Probe::syn("V4"));
    assert_eq!(verdicts.events().len(), 2);
    drop(verdicts);
    bench.end();
}

#[test]
fn a_session_that_starts_or_captures_state_gets_the_rundown() {
    let machine = hushport::machine(Options::default());
    machine.set("Mode", 1);
    machine.set("ScanPorts", 0);
    let early = session(&machine);
    let bench = Bench::start(machine);
    settled(&early);
    drop(early);
    bench.ask(&Probe::syn("V6"));
    bench.ask(&Probe::syn("V6"));
    let trace = session(&bench.machine);
    for _ in 0..2 {
        let events = trace.take();
        let names: Vec<_> = events.iter().map(|event| &*event.name).collect();
        let expected =
            ["Started", "Protection", "PolicyApplied", "PolicyRejected", "LayerCounters", "Counters"];
        assert_eq!(names, expected);
        assert!(events[..4].iter().all(|event| event.text("Occasion") == "Rundown"));
        assert_eq!((events[1].text("State"), events[5].text("Protection")), ("Active", "Active"));
        assert_eq!(events[2].number("Mode"), 1);
        assert_eq!((events[3].text("Value"), events[3].text("Reason")), ("ScanPorts", "OutOfRange"));
        assert_eq!(events[4].text("Layer"), "INBOUND_TRANSPORT_V6_DISCARD");
        for event in &events[4..] {
            assert_eq!(event.number("Verdicts.Audited"), 2);
            assert_eq!(event.number("Verdicts.Silenced"), 0);
            assert_eq!(event.keyword, COUNTERS);
        }
        trace.capture_state();
    }
    drop(trace);
    bench.end();
}

#[test]
fn a_registry_change_is_printed_and_a_bad_value_named() {
    let machine = hushport::machine(Options::default());
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["113", "8100-8000"]));
    let trace = session(&machine);
    let bench = Bench::start(machine);
    settled(&trace);
    let events = trace.take();
    let rejected = named(&events, "PolicyRejected");
    assert_eq!((rejected[0].text("Occasion"), rejected[0].text("Holds")), ("Start", "Default"));
    assert_eq!((rejected[0].text("Reason"), rejected[0].number("Entry")), ("ReversedRange", 2));
    assert_eq!((rejected[0].level, rejected[0].keyword), (3, POLICY));
    assert_eq!(rejected[1].text("Holds"), "LastPolicy");
    bench.machine.set_value("ExemptPorts", RegistryValue::multi_sz(["113", "8000-8099", "53/udp"]));
    bench.machine.set_value("ExemptPrefixes", RegistryValue::multi_sz(["10.0.0.0/8", "fd00::/8"]));
    bench.machine.set("Mode", 1);
    let events = eventually(&trace, "applied", |events| {
        named(events, "PolicyApplied").last().is_some_and(|event| event.number("Mode") == 1)
    });
    let applied = *named(&events, "PolicyApplied").last().unwrap();
    assert_eq!(applied.text("Occasion"), "Change");
    let lists = ["ExemptPorts", "ExemptPrefixes", "ExemptInterfaces"].map(|field| applied.number(field));
    assert_eq!(lists, [101 + 101 + 1, 2, 0]);
    drop(trace);
    bench.end();
}

/// `Trace` 0 writes nothing, 1 verdicts, 2 every classify. It changes at run time.
#[test]
fn trace_sets_which_events_are_written() {
    let bench = Bench::new(Options::default(), &[("Trace", 0)]);
    let trace = session(&bench.machine);
    let ask = || {
        silence(&bench);
        observe(&bench);
    };
    ask();
    trace.capture_state();
    assert_eq!(trace.take(), []);
    for (level, silenced, classified) in [(1, 1, 0), (2, 1, 2), (0, 0, 0)] {
        bench.machine.set("Trace", level);
        let events = eventually(&trace, "applied", |events| {
            named(events, "PolicyApplied")
                .last()
                .is_some_and(|event| event.number("Trace") == u64::from(level))
        });
        drop(events);
        // PolicyApplied is written before `Trace` takes effect.
        eventually(&trace, "permitted", |_| {
            trace.take();
            ask();
            named(&trace.events(), "Silenced").len() == silenced
        });
        let events = trace.take();
        let seen = named(&events, "Classified");
        assert_eq!(seen.len(), classified, "{events:#?}");
        if let [decided, observed] = seen[..] {
            assert_eq!((decided.text("Verdict"), observed.text("Verdict")), ("Silenced", "Observed"));
            assert_eq!(observed.text("Layer"), "OUTBOUND_IPPACKET_V4");
            assert_eq!(observed.field("Remote"), Some(&Value::Nowhere));
            assert_eq!(observed.number("Protocol"), 255);
        }
    }
    drop(trace);
    bench.end();
}

/// Counters are written every 10 s of the driver's clock.
#[test]
fn counters_are_logged_at_intervals() {
    // Counters are written after a check for scans, here every 10 ms.
    let bench = Bench::new(Options::default(), &[("ScanWindowMs", 80)]);
    let trace = session(&bench.machine);
    settled(&trace);
    trace.take();
    let kernel = bench.machine.kernel();
    let looks = || kernel.call_count("ZwWaitForSingleObject");
    for _ in 0..35 {
        kernel.clock().advance(Duration::from_secs(1));
        let before = looks();
        eventually(&trace, "a check that began since", |_| looks() > before + 1);
    }
    let events = trace.events();
    let times: Vec<_> = named(&events, "Counters").iter().map(|event| event.time).collect();
    assert!(times.len() >= 3, "{times:?}");
    for pair in times.windows(2) {
        // The clock advances by seconds; the time of the test comes on top.
        let apart = Duration::from_nanos(100 * (pair[1] - pair[0]));
        assert!((9..15).contains(&apart.as_secs()), "{apart:?}");
    }
    drop(trace);
    bench.end();
}

#[test]
fn events_above_the_rate_are_suppressed_and_counted_in_the_next() {
    const SHOWN: u64 = 1300;
    const MOST: u64 = 1000;
    let bench = Bench::new(Options::default(), &[]);
    let trace = session(&bench.machine);
    (0..SHOWN).for_each(|_| silence(&bench));
    bench.machine.kernel().clock().advance(Duration::from_secs(2));
    silence(&bench);
    silence(&bench);
    let events = trace.events();
    let silenced = named(&events, "Silenced");
    let dropped: u64 = silenced.iter().map(|event| event.number("Dropped")).sum();
    assert_eq!(silenced.len() as u64 + dropped, SHOWN + 2);
    assert!(dropped > 0, "all events in more than a second");
    // The test does not know how many seconds this took. The limit is per second.
    let mut seconds: Vec<_> = silenced.iter().map(|event| event.time / 10_000_000).collect();
    seconds.dedup();
    assert!(silenced.len() as u64 <= MOST * (seconds.len() as u64 + 1), "{} events", silenced.len());
    trace.capture_state();
    let events = trace.events();
    assert_eq!(named(&events, "Counters").last().unwrap().number("EventsDropped"), dropped);
    drop(trace);
    bench.end();
}

/// Sessions begin, ask for the state and end while packets pass and the driver unloads.
#[test]
fn sessions_come_and_go_under_traffic_and_unload() {
    let mut bench = Bench::new(Options::default(), &[("Trace", 2)]);
    let (kernel, done) = (Arc::clone(bench.machine.kernel()), AtomicBool::new(false));
    let engine = Arc::clone(bench.machine.engine());
    std::thread::scope(|scope| {
        let sessions = scope.spawn(|| {
            let mut heard = 0;
            while !done.load(Ordering::Acquire) {
                let trace = kernel.trace(Enable::all(EVENT_PROVIDER), None);
                trace.capture_state();
                heard += trace.events().len();
            }
            heard
        });
        scope.spawn(|| {
            let layer = engine.layer_by_name("OUTBOUND_IPPACKET_V4").unwrap();
            let values = vec![machine::wfp::Value::Empty; layer.fields];
            let metadata = Metadata::default();
            kernel.on_processor(1, machine::nt::Irql::PASSIVE, |_| {
                while !done.load(Ordering::Acquire) {
                    let data = LayerData::None;
                    engine.classify(&Request { layer: layer.id, values: &values, metadata: &metadata, data });
                }
            });
        });
        std::thread::sleep(Duration::from_millis(300));
        let left = bench.machine.stop();
        std::thread::sleep(Duration::from_millis(20));
        done.store(true, Ordering::Release);
        assert!(left.unwrap().is_empty());
        assert!(sessions.join().unwrap() > 0);
    });
    let findings = kernel.verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
}
