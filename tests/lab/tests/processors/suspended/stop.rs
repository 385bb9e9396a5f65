//! The driver stops while threads are stopped before any of its instructions.
//!
//! The driver waits for these threads. No flow context, memory or event with a closed
//! handle is left.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab::bench::indication::Subject;
use lab::hushport::EVENT_PROVIDER;
use lab::traffic::{Family, Indication};
use machine::etw::Enable;
use machine::nt::{Irql, Kernel, Options, RunningCallbacks};
use machine::schedule;
use machine::wfp::{self, BfeState, Engine, FlowHandle, RunningCalls};

use super::super::actors::{NOWHERE, Play, Stop, Way, play, play_with};
use super::super::stage::{file, seeds};

/// ACK (RFC 9293, 3.1): it ends a handshake.
const ACK: u8 = 0x10;

/// The operation of a thread in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A SYN to a closed port is silenced, with an event.
    Syn(Family),
    /// A flow begins.
    Begin(Family),
    /// A segment of a flow.
    Data,
    /// A flow ends.
    End,
    /// BFE's state changes.
    Bfe,
    /// An ETW session begins.
    Listen,
    /// A processor is added.
    Processor,
}

const ACTS: [Act; 9] = [
    Act::Syn(Family::V4),
    Act::Syn(Family::V6),
    Act::Begin(Family::V4),
    Act::Begin(Family::V6),
    Act::Data,
    Act::End,
    Act::Bfe,
    Act::Listen,
    Act::Processor,
];

impl Act {
    /// IRQLs at which it may happen.
    fn levels(self) -> &'static [Irql] {
        match self {
            Self::Bfe | Self::Listen | Self::Processor => &[Irql::PASSIVE],
            Self::Syn(Family::V6) | Self::Begin(Family::V6) => &[Irql::DISPATCH],
            _ => &[Irql::PASSIVE, Irql::DISPATCH],
        }
    }

    /// How many threads can do it at once. At DISPATCH_LEVEL, one on each processor. The
    /// system reports changes of BFE, of sessions and of processors one at a time.
    fn threads(self, irql: Irql) -> usize {
        match (self, irql) {
            (Self::Bfe | Self::Listen | Self::Processor, _) => 1,
            (Self::End, _) | (_, Irql::DISPATCH) => 3,
            _ => 6,
        }
    }

    /// Does it. `flow` is established, except for [`Act::Begin`].
    fn go(self, kernel: &Arc<Kernel>, engine: &Engine, flow: FlowHandle) {
        let show = |layer: &str, subject: Subject| show(engine, layer, &subject);
        match self {
            Self::Syn(family) => show(&format!("INBOUND_TRANSPORT_{family:?}_DISCARD"), Subject::syn(family)),
            Self::Begin(family) => begin(engine, family, flow),
            Self::Data => show("INBOUND_TRANSPORT_V4", Subject::data(Family::V4, flow)),
            Self::End => engine.flow_end(flow),
            Self::Bfe => engine.set_bfe_state(BfeState::StopPending),
            Self::Listen => drop(kernel.trace(Enable::all(EVENT_PROVIDER), None)),
            Self::Processor => drop(kernel.add_processor()),
        }
    }
}

fn show(engine: &Engine, layer: &str, subject: &Subject) {
    let shown: Indication = subject.at(engine.layer_by_name(layer).unwrap());
    engine.classify(&shown.request());
}

/// Establishes a flow.
fn begin(engine: &Engine, family: Family, flow: FlowHandle) {
    let subject = Subject { flags: ACK, ..Subject::data(family, flow) };
    show(engine, &format!("ALE_FLOW_ESTABLISHED_{family:?}"), &subject);
}

/// Places at which a thread stops in an act, besides its calls of the kernel.
fn places(few: u64) -> u64 {
    if std::env::var_os("HUSHPORT_LAB_SEEDS").is_some() { u64::MAX } else { few }
}

fn options() -> Options {
    Options { classify_irql: Irql::PASSIVE, possible: 8, ..Options::default() }
}

/// Whether the engine and the kernel wait for a callback that runs when the driver
/// unregisters it. No page says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callbacks {
    Awaited,
    Ignored,
}

impl Callbacks {
    fn options(self) -> (Options, wfp::Options) {
        let (running, running_calls) = match self {
            Self::Awaited => (RunningCallbacks::Awaited, RunningCalls::Awaited),
            Self::Ignored => (RunningCallbacks::Ignored, RunningCalls::Ignored),
        };
        let kernel = Options { enable_callbacks: running, processor_callbacks: running, ..options() };
        (kernel, wfp::Options { running_calls, ..wfp::Options::default() })
    }
}

/// Stops the driver while threads are stopped at these instructions of an act, one
/// thread at each. Returns the places of the last act if it was not stopped, and its way.
fn stop_during(
    callbacks: Callbacks,
    act: Act,
    irql: Irql,
    ats: &[u64],
    way: &Arc<Way>,
) -> (BTreeSet<u64>, Arc<Way>) {
    let at_which = Mutex::default();
    let (kernel, engine) = callbacks.options();
    play_with(kernel, engine, ats[0], ats.len() + 1, |mut machine, play| {
        let [stopping, acting @ ..] = &play.actors[..] else { panic!("a thread more") };
        machine.set("Trace", 2);
        machine.start_file(file()).unwrap();
        play.let_others_run(40);
        let session = play.kernel.trace(Enable::all(EVENT_PROVIDER), None);
        let flows: Vec<_> = acting.iter().map(|_| play.engine.flow_create()).collect();
        if !matches!(act, Act::Begin(_)) {
            flows.iter().for_each(|flow| begin(&play.engine, Family::V4, *flow));
        }
        let stops: Vec<_> = acting.iter().map(|_| Stop::along(way)).collect();
        // The unload runs on processor 0.
        for (number, ((actor, stop), (at, flow))) in
            acting.iter().zip(&stops).zip(ats.iter().zip(&flows)).enumerate()
        {
            let (kernel, engine, flow) = (Arc::clone(&play.kernel), Arc::clone(&play.engine), *flow);
            let place = (1 + number as u32 % 3, irql);
            play.stop_in(actor, stop, *at, place, move || act.go(&kernel, &engine, flow));
        }
        let left = Arc::new(Mutex::new(None));
        let said = Arc::clone(&left);
        stopping.start(move || *said.lock().unwrap() = machine.stop().ok());
        play.let_others_run(40);
        for stop in &stops {
            play.release(stop);
            play.let_others_run(1);
        }
        play.actors.iter().for_each(|actor| play.join(actor));
        let found = stops.last().map(|stop| (stop.places(places(8)), stop.way()));
        *at_which.lock().unwrap() = found.unwrap_or_default();
        drop(session);
        flows.iter().for_each(|flow| play.engine.flow_end(*flow));
        if let Some(left) = left.lock().unwrap().take() {
            assert!(left.is_empty(), "{act:?} at {irql}, instructions {ats:?}: {left}");
        }
    });
    at_which.into_inner().unwrap()
}

fn stop_around(callbacks: Callbacks, acts: &[Act]) {
    for act in acts {
        for irql in act.levels() {
            let (ats, way) = stop_during(callbacks, *act, *irql, &[NOWHERE], &Arc::default());
            let ats: Vec<_> = ats.into_iter().collect();
            assert!(ats.len() > 5, "{act:?} at {irql}: {ats:?}");
            for ats in ats.chunks(act.threads(*irql)) {
                stop_during(callbacks, *act, *irql, ats, &way);
            }
        }
    }
}

#[test]
fn the_driver_stops_around_threads_at_any_instruction() {
    stop_around(Callbacks::Awaited, &ACTS);
}

/// Who unregisters a callout or the ETW provider is not told when its last call has
/// returned. The driver waits for the calls itself before it frees what they use.
#[test]
fn the_driver_waits_for_calls_that_nobody_else_awaits() {
    stop_around(Callbacks::Ignored, &[Act::Syn(Family::V4), Act::Begin(Family::V4), Act::End, Act::Listen]);
}

/// Who undoes the registration for processors is not told, either.
#[test]
fn the_driver_waits_for_a_callback_about_a_processor() {
    stop_around(Callbacks::Ignored, &[Act::Processor]);
}

/// Open flows of a thread. Then it ends the oldest.
const LASTING: usize = 40;

/// Flows begin on two processors while the driver stops. The driver must refuse new
/// flows: a callout with flow contexts cannot be unregistered.
#[test]
fn the_driver_stops_while_flows_begin() {
    for seed in seeds(12) {
        play(options(), seed, 3, |mut machine, play| {
            let [stopping, beginning @ ..] = &play.actors[..] else { panic!("three threads") };
            machine.start_file(file()).unwrap();
            play.let_others_run(40);
            let over = Arc::<AtomicBool>::default();
            for (processor, actor) in (1..).zip(beginning) {
                let (kernel, engine) = (Arc::clone(&play.kernel), Arc::clone(&play.engine));
                let over = Arc::clone(&over);
                actor.start(move || {
                    let mut flows = VecDeque::new();
                    while !over.load(Ordering::SeqCst) && kernel.stopped().is_none() {
                        let (flow, irql) = (engine.flow_create(), Irql::DISPATCH);
                        // Other threads run, even if no callout is left.
                        schedule::note("flow", flow.0);
                        kernel.on_processor(processor, irql, |_| begin(&engine, Family::V4, flow));
                        flows.push_back(flow);
                        if flows.len() > LASTING {
                            flows.pop_front().into_iter().for_each(|flow| engine.flow_end(flow));
                        }
                    }
                    flows.into_iter().for_each(|flow| engine.flow_end(flow));
                });
            }
            play.let_others_run(seed % 4);
            stopping.start(move || {
                // An error has stopped the machine. It is reported below.
                if let Ok(left) = machine.stop() {
                    assert!(left.is_empty(), "{left}");
                }
            });
            let patience = Duration::from_millis(300);
            play.wait_for(patience, "the driver's end while flows begin", || !stopping.is_busy());
            over.store(true, Ordering::SeqCst);
            play.actors.iter().for_each(|actor| play.join(actor));
        });
    }
}

/// A flow ends while it begins: its contexts are deleted before the driver's call to
/// associate them returns. Its record must be free again. The table has one record, and
/// the next flow gets it.
fn end_during_begin(play: &Play, stop: &Arc<Stop>, (irql, at): (Irql, u64)) -> usize {
    let [beginning, ending] = &play.actors[..] else { panic!("two threads") };
    let session = play.kernel.trace(Enable::all(EVENT_PROVIDER), None);
    let [flow, next] = [(); 2].map(|()| play.engine.flow_create());
    let engine = Arc::clone(&play.engine);
    play.stop_in(beginning, stop, at, (1, irql), move || begin(&engine, Family::V4, flow));
    let begun = !play.engine.objects().flow_contexts.is_empty();
    let engine = Arc::clone(&play.engine);
    ending.start(move || engine.flow_end(flow));
    play.let_others_run(40);
    play.release(stop);
    play.join(beginning);
    play.join(ending);
    begin(&play.engine, Family::V4, next);
    show(&play.engine, "INBOUND_TRANSPORT_V4", &Subject::data(Family::V4, next));
    play.engine.flow_end(next);
    if play.is_stopped() {
        return 0;
    }
    let events = session.events();
    let ended = events.iter().filter(|event| event.name == "FlowEnded");
    let ended: Vec<_> = ended.map(|event| (event.number("Flow"), event.number("PacketsIn"))).collect();
    let of = |flow: FlowHandle| ended.iter().filter(|(ended, _)| *ended == flow.0).count();
    let what = format!("{irql}, instruction {at}: {ended:?}");
    assert_eq!(of(next), 1, "the next flow got no record. {what}");
    assert!(ended.contains(&(next.0, 1)), "{what}");
    assert_eq!(of(flow), usize::from(begun), "a flow with a context ends once, one without never. {what}");
    of(flow)
}

#[test]
fn a_flow_that_ends_while_it_begins_leaves_its_place() {
    for irql in [Irql::PASSIVE, Irql::DISPATCH] {
        play(options(), 1, 2, |mut machine, play| {
            machine.set("FlowLimit", 1);
            machine.start_file(file()).unwrap();
            play.let_others_run(40);
            let stop = Arc::<Stop>::default();
            end_during_begin(play, &stop, (irql, NOWHERE));
            let ats = stop.places(places(100)).into_iter();
            let ended: Vec<_> = ats.map(|at| end_during_begin(play, &stop, (irql, at))).collect();
            // At some instructions the flow had a context already, at others not yet.
            assert!(play.is_stopped() || ended.contains(&0) && ended.contains(&1), "{ended:?}");
            assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
        });
    }
}

/// Flows of this test so far. Each has another remote port, so that the order check takes
/// them for different connections.
static PORTS: AtomicU16 = AtomicU16::new(1);

fn begin_another(engine: &Engine, flow: FlowHandle) {
    let remote_port = 20_000 + PORTS.fetch_add(1, Ordering::Relaxed);
    let subject = Subject { flags: ACK, remote_port, ..Subject::data(Family::V4, flow) };
    show(engine, "ALE_FLOW_ESTABLISHED_V4", &subject);
}

/// A flow ends while it begins, and the next flow begins. Returns whether the next flow
/// kept its order.
fn begin_next_during_begin(play: &Play, stop: &Arc<Stop>, (irql, at): (Irql, u64)) -> Vec<String> {
    let [beginning, others] = &play.actors[..] else { panic!("two threads") };
    let session = play.kernel.trace(Enable::all(EVENT_PROVIDER), None);
    let [flow, next] = [(); 2].map(|()| play.engine.flow_create());
    let engine = Arc::clone(&play.engine);
    play.stop_in(beginning, stop, at, (1, irql), move || begin_another(&engine, flow));
    let (kernel, engine) = (Arc::clone(&play.kernel), Arc::clone(&play.engine));
    others.start(move || {
        engine.flow_end(flow);
        kernel.on_processor(2, Irql::DISPATCH, |_| begin_another(&engine, next));
    });
    play.let_others_run(40);
    play.release(stop);
    play.join(beginning);
    play.join(others);
    play.engine.flow_end(next);
    let events = session.events();
    let of_next = |event: &&machine::etw::Event| event.name == "FlowEnded" && event.number("Flow") == next.0;
    events.iter().filter(of_next).map(|event| event.text("Order").to_owned()).collect()
}

/// The record of a flow that ended is the next one's. The order of the first must not be
/// noted there.
#[test]
fn a_flow_that_ends_while_it_begins_leaves_no_step_to_the_next() {
    for irql in [Irql::PASSIVE, Irql::DISPATCH] {
        play(options(), 1, 2, |mut machine, play| {
            machine.set("CheckOrder", 1);
            machine.set("FlowLimit", 64);
            machine.start_file(file()).unwrap();
            play.let_others_run(40);
            let stop = Arc::<Stop>::default();
            assert_eq!(begin_next_during_begin(play, &stop, (irql, NOWHERE)), ["Kept"]);
            for at in stop.places(places(100)) {
                let kept = begin_next_during_begin(play, &stop, (irql, at));
                assert!(play.is_stopped() || kept == ["Kept"], "{irql}, instruction {at}: {kept:?}");
            }
            assert!(play.is_stopped() || machine.stop().unwrap().is_empty());
        });
    }
}
