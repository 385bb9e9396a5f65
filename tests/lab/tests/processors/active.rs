//! Processors that may be added: the driver works with those that are active.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::counters::Counters;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::{Family, Indication, SYN};
use machine::etw::Enable;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Kernel, Options};
use machine::status::Status;
use machine::wfp::{Engine, FlowHandle};

use super::actors::{Play, play};
use super::stage::{file, seeds};

/// A machine with 64 possible processors, all of which have numbers.
fn possible(active: u32) -> Options {
    let (possible, inactive_have_numbers) = (64, true);
    Options { processors: active, possible, inactive_have_numbers, ..Options::default() }
}

/// The longest that a change may take, in the schedule's time. A busy thread would delay
/// each visit to a processor by four seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// The port that the changes below exempt, or not.
const PORT: u16 = 23;

fn blocks(kernel: &Kernel, engine: &Engine, processor: u32) -> bool {
    let syn = Indication::closed_port(Family::V4, PORT, SYN);
    kernel.on_processor(processor, Irql::DISPATCH, |_| engine.classify(&syn.request()).blocked())
}

/// Changes the list of exempt ports, and waits until the old list has been freed.
fn change(play: &Play, exempt: bool, patience: Duration) {
    let rest = play.kernel.pool().bytes().0;
    let ports = if exempt { ["23", "53/udp"] } else { ["24", "54/udp"] };
    let key = machine::nt::parameters_key(lab::hushport::SERVICE);
    play.kernel.set_value(&key, "ExemptPorts", RegistryValue::multi_sz(ports));
    play.kernel.pass(lab::hushport::LOOK);
    // The classify below has processor 0, which the driver's thread must visit.
    play.let_others_run(500);
    let settled = || {
        play.kernel.pool().bytes().0 == rest && blocks(&play.kernel, &play.engine, 0) != exempt
            || play.is_stopped()
    };
    play.wait_for(patience, "the end of the policy's change", settled);
}

/// Starts the driver with a list of exempt ports.
fn start(play: &Play, machine: &mut machine::Machine) {
    machine.start_file(file()).unwrap();
    play.let_others_run(100);
    let key = machine::nt::parameters_key(lab::hushport::SERVICE);
    play.kernel.set_value(&key, "ExemptPorts", RegistryValue::multi_sz(["24", "54/udp"]));
    play.kernel.pass(lab::hushport::LOOK);
    play.let_others_run(100);
}

#[test]
fn a_change_of_the_policy_and_an_unload_end_where_inactive_processors_have_numbers() {
    for active in [1, 2, 4] {
        play(possible(active), 1, 0, |mut machine, play| {
            start(play, &mut machine);
            for exempt in [true, false] {
                change(play, exempt, PATIENCE);
            }
            assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
        });
    }
}

#[test]
fn a_processor_may_be_added_while_the_policy_changes() {
    for seed in seeds(6) {
        play(possible(2), seed, 1, |mut machine, play| {
            start(play, &mut machine);
            let over = Arc::<AtomicBool>::default();
            let (kernel, there) = (Arc::clone(&play.kernel), Arc::clone(&over));
            play.actors[0].start(move || {
                while !there.load(Ordering::SeqCst)
                    && kernel.active_count() < 60
                    && kernel.stopped().is_none()
                {
                    assert_eq!(kernel.add_processor().ok(), Some(Status::SUCCESS));
                }
                there.store(true, Ordering::SeqCst);
            });
            let key = machine::nt::parameters_key(lab::hushport::SERVICE);
            let mut exempt = false;
            while !over.load(Ordering::SeqCst) && !play.is_stopped() {
                exempt = !exempt;
                let ports = if exempt { ["23", "53/udp"] } else { ["24", "54/udp"] };
                play.kernel.set_value(&key, "ExemptPorts", RegistryValue::multi_sz(ports));
                play.kernel.pass(lab::hushport::LOOK);
                play.let_others_run(40);
            }
            play.join(&play.actors[0]);
            for exempt in [false, true] {
                change(play, exempt, PATIENCE);
            }
            assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
        });
    }
}

#[test]
fn a_busy_thread_of_a_higher_priority_does_not_delay_a_change() {
    // Priorities below the highest, which is reserved for moments like this.
    for priority in [9, 15, 24, 30] {
        play(Options::default(), 1, 0, |mut machine, play| {
            start(play, &mut machine);
            // Without a processor for it, the driver's thread itself would wait.
            for free in 0..4 {
                let busy = |processor: u32| Some(priority).filter(|_| processor != free);
                (0..4).for_each(|processor| play.kernel.keep_busy(processor, busy(processor)));
                for exempt in [true, false] {
                    change(play, exempt, PATIENCE);
                }
            }
            (0..4).for_each(|processor| play.kernel.keep_busy(processor, None));
            assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
        });
    }
}

/// Where every processor is busy, the driver's thread waits for a boost, and no longer.
#[test]
fn a_change_comes_with_a_boost_where_every_processor_is_busy() {
    play(Options::default(), 1, 0, |mut machine, play| {
        start(play, &mut machine);
        (0..4).for_each(|processor| play.kernel.keep_busy(processor, Some(9)));
        for exempt in [true, false] {
            change(play, exempt, Duration::from_secs(8) + PATIENCE);
        }
        (0..4).for_each(|processor| play.kernel.keep_busy(processor, None));
        assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
    });
}

/// Below DISPATCH_LEVEL a busy thread keeps one of a lower priority from running: on all
/// processors, or on those that it may use. Another processor is as good, and a boost helps
/// after four seconds.
#[test]
fn a_busy_thread_starves_one_of_a_lower_priority() {
    const BUSY: i32 = 9;
    for (priority, busy, runs) in [(8, 0..4, false), (10, 0..4, true), (8, 0..3, true)] {
        play(Options::default(), 1, 1, |mut machine, play| {
            start(play, &mut machine);
            busy.clone().for_each(|processor| play.kernel.keep_busy(processor, Some(BUSY)));
            let done = Arc::<AtomicBool>::default();
            let (kernel, engine, there) =
                (Arc::clone(&play.kernel), Arc::clone(&play.engine), Arc::clone(&done));
            play.actors[0].start(move || {
                let syn = Indication::closed_port(Family::V4, PORT, SYN);
                let ask = |_: &Kernel| engine.classify(&syn.request());
                let _decision = kernel.with_priority(priority, || kernel.on_processor(0, Irql::PASSIVE, ask));
                there.store(true, Ordering::SeqCst);
            });
            play.let_others_run(500);
            assert_eq!(done.load(Ordering::SeqCst), runs, "priority {priority}, busy: {busy:?}");
            if !runs {
                let boosted = || done.load(Ordering::SeqCst) || play.is_stopped();
                play.wait_for(Duration::from_secs(5), "the boost", boosted);
            }
            busy.clone().for_each(|processor| play.kernel.keep_busy(processor, None));
            play.join(&play.actors[0]);
            assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
        });
    }
}

/// docs/PERFORMANCE.md promises this.
#[test]
fn without_flows_the_driver_takes_at_most_a_megabyte_of_pool() {
    let held = |options: Options| {
        let stage = Stage::new(options, &[("FlowLimit", RegistryValue::dword(0))]).unwrap();
        // The driver's thread allocates a policy for a moment.
        let bytes = || {
            std::thread::sleep(Duration::from_millis(20));
            stage.kernel().pool().bytes().0
        };
        (0..10).map(|_| bytes()).min().unwrap()
    };
    let (four, of_sixty_four) = (held(Options::default()), held(possible(4)));
    println!("4 processors: {four} bytes; 4 of 64: {of_sixty_four} bytes");
    assert!(of_sixty_four <= 1 << 20, "{of_sixty_four} bytes");
    let each = of_sixty_four.saturating_sub(four) / 60;
    assert!(each <= 256, "{each} bytes for each processor that may be added");
}

fn silenced(stage: &Stage) -> u64 {
    let (kernel, engine) = (stage.machine.kernel(), stage.machine.engine());
    let counts = Counters::read(kernel, engine).unwrap().at("INBOUND_TRANSPORT_V4_DISCARD", engine);
    counts.get("Silenced").copied().unwrap_or(0)
}

/// A processor that is added decides, counts, and counts for flows and scans.
#[test]
fn a_processor_that_is_added_takes_part() {
    let values =
        [("Mode", 2), ("ScanWindowMs", 1_000)].map(|(name, value)| (name, RegistryValue::dword(value)));
    let mut stage = Stage::new(possible(2), &values).unwrap();
    let session = stage.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let flow = stage.begin_flow(&Subject::data(Family::V4, FlowHandle(1))).unwrap();
    let (kernel, engine) = (stage.machine.kernel().clone(), stage.machine.engine().clone());
    assert_eq!(kernel.add_processor().unwrap(), Status::SUCCESS);
    let before = silenced(&stage);
    assert!(blocks(&kernel, &engine, 2));
    assert_eq!(silenced(&stage), before + 1);
    let shown = Subject::data(Family::V4, flow).at(engine.layer_by_name("INBOUND_TRANSPORT_V4").unwrap());
    for processor in 0..3 {
        kernel.on_processor(processor, Irql::DISPATCH, |_| engine.classify(&shown.request()));
    }
    engine.flow_end(flow);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let is_there = |name: &str| session.events().iter().any(|event| event.name == name);
    while !is_there("ScanDetected") {
        assert!(std::time::Instant::now() < end, "the scan on the added processor is not seen");
        for port in 0..60 {
            let syn = Indication::closed_port(Family::V4, 1000 + port, SYN);
            kernel.on_processor(2, Irql::DISPATCH, |_| engine.classify(&syn.request()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let events = session.events();
    let ended: Vec<_> = events.iter().filter(|event| event.name == "FlowEnded").collect();
    assert_eq!(ended.iter().map(|event| event.number("PacketsIn")).collect::<Vec<_>>(), [3]);
    drop(session);
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// Without memory for a processor, the system is told not to add it.
#[test]
fn a_processor_is_refused_without_memory_for_it() {
    let mut stage = Stage::new(possible(2), &[("Mode", RegistryValue::dword(2))]).unwrap();
    let kernel = stage.machine.kernel().clone();
    for allocations in 1..=4 {
        let before = kernel.active_count();
        // The allocations of this processor that succeed stay, and serve the next try.
        kernel.pool().fail_next(1);
        assert_eq!(kernel.add_processor().unwrap(), Status::INSUFFICIENT_RESOURCES, "{allocations}");
        assert_eq!(kernel.active_count(), before);
        kernel.pool().fail_next(0);
        assert_eq!(kernel.add_processor().unwrap(), Status::SUCCESS);
        assert!(blocks(&kernel, stage.machine.engine(), before));
    }
    assert!(stage.machine.stop().unwrap().is_empty());
}

/// A processor that the system did not announce has no memory of its own. It decides,
/// and nothing is lost of the counts.
#[test]
fn an_unannounced_processor_decides_and_counts() {
    let mut stage = Stage::new(possible(2), &[("Mode", RegistryValue::dword(2))]).unwrap();
    let (kernel, engine) = (stage.machine.kernel().clone(), stage.machine.engine().clone());
    let session = kernel.trace(Enable::all(EVENT_PROVIDER), None);
    kernel.add_processor_unannounced();
    let before = silenced(&stage);
    assert!(blocks(&kernel, &engine, 2) && blocks(&kernel, &engine, 1));
    assert_eq!(silenced(&stage), before + 2);
    let flow = stage.begin_flow(&Subject::data(Family::V4, FlowHandle(1))).unwrap();
    let shown = Subject::data(Family::V4, flow).at(engine.layer_by_name("INBOUND_TRANSPORT_V4").unwrap());
    for processor in [0, 2, 2] {
        kernel.on_processor(processor, Irql::DISPATCH, |_| engine.classify(&shown.request()));
    }
    engine.flow_end(flow);
    let events = session.events();
    let ended: Vec<_> = events.iter().filter(|event| event.name == "FlowEnded").collect();
    assert_eq!(ended.iter().map(|event| event.number("PacketsIn")).collect::<Vec<_>>(), [3]);
    drop(session);
    assert!(stage.machine.stop().unwrap().is_empty());
}
