//! Threads of a user's process are suspended in the driver, as long as they like.
//!
//! A thread can be suspended where its IRQL is below DISPATCH_LEVEL and no critical
//! region protects it. It is suspended there before every instruction in turn. The
//! driver must not wait for it. Where the engine or ETW would wait, they play that they
//! do not: then only the driver's own waits are left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab::bench::indication::Subject;
use lab::hushport::{EVENT_PROVIDER, SERVICE};
use lab::traffic::{Family, Indication, SYN};
use machine::etw::Enable;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Kernel, Options, RunningCallbacks, parameters_key};
use machine::wfp::{self, Engine, FlowHandle, RunningCalls};

use super::super::actors::{NOWHERE, Play, Stop, Way, play_with};
use super::super::stage::file;

/// The two policies differ in whether this port is exempt.
const PORT: u16 = 23;

/// Threads that are suspended at once, each at another instruction.
const THREADS: usize = 16;

/// What a user's thread does in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A packet to a closed port arrives at a layer where the policy's lists are read.
    Closed(&'static str),
    /// A flow begins, and its order is checked.
    Begin,
    /// A segment of a flow.
    Data,
    /// A flow ends.
    End,
    /// An ETW session begins.
    Listen,
    /// A processor is added.
    Processor,
}

const TRAFFIC: [Act; 6] = [
    Act::Closed("INBOUND_TRANSPORT_V4_DISCARD"),
    Act::Closed("INBOUND_TRANSPORT_V6_DISCARD"),
    Act::Closed("INBOUND_IPPACKET_V4_DISCARD"),
    Act::Begin,
    Act::Data,
    Act::End,
];

impl Act {
    /// What a thread does once. `flow` is established, except for [`Act::Begin`].
    fn job(self, play: &Play, flow: FlowHandle) -> impl FnOnce() + Send + use<> {
        let (kernel, engine) = (Arc::clone(&play.kernel), Arc::clone(&play.engine));
        move || match self {
            Self::Closed(layer) => {
                let family = if layer.contains("V4") { Family::V4 } else { Family::V6 };
                let subject =
                    if layer.contains("IPPACKET") { Subject::datagram(family) } else { Subject::syn(family) };
                show(&engine, layer, &subject);
            }
            Self::Begin => begin(&engine, flow),
            Self::Data => show(&engine, "INBOUND_TRANSPORT_V4", &Subject::data(Family::V4, flow)),
            Self::End => engine.flow_end(flow),
            Self::Listen => drop(kernel.trace(Enable::all(EVENT_PROVIDER), None)),
            Self::Processor => drop(kernel.add_processor()),
        }
    }

    /// Prepares a thread's flow.
    fn flow(self, engine: &Engine) -> FlowHandle {
        let flow = engine.flow_create();
        if self != Self::Begin {
            begin(engine, flow);
        }
        flow
    }

    /// How many threads can do it at once: callbacks of one ETW provider and about
    /// processors come one at a time.
    fn threads(self) -> usize {
        if matches!(self, Self::Listen | Self::Processor) { 1 } else { THREADS }
    }
}

fn show(engine: &Engine, layer: &str, subject: &Subject) {
    let shown: Indication = subject.at(engine.layer_by_name(layer).unwrap());
    engine.classify(&shown.request());
}

fn begin(engine: &Engine, flow: FlowHandle) {
    show(engine, "ALE_FLOW_ESTABLISHED_V4", &Subject::data(Family::V4, flow));
}

fn set(kernel: &Kernel, exempt: bool) {
    let ports = if exempt { ["23", "53/udp"] } else { ["24", "54/udp"] };
    kernel.set_value(&parameters_key(SERVICE), "ExemptPorts", RegistryValue::multi_sz(ports));
    kernel.pass(lab::hushport::LOOK);
}

/// Whether the policy in force exempts the port.
fn is_exempt(play: &Play) -> bool {
    let syn = Indication::closed_port(Family::V4, PORT, SYN);
    let ask = |_: &Kernel| !play.engine.classify(&syn.request()).blocked();
    play.kernel.on_processor(0, Irql::DISPATCH, ask)
}

/// A machine whose engine and ETW wait for nobody.
fn options() -> (Options, wfp::Options) {
    let kernel = Options {
        classify_irql: Irql::PASSIVE,
        enable_callbacks: RunningCallbacks::Ignored,
        processor_callbacks: RunningCallbacks::Ignored,
        possible: 8,
        ..Options::default()
    };
    (kernel, wfp::Options { running_calls: RunningCalls::Ignored, ..wfp::Options::default() })
}

/// Starts the driver, with lists in its policy, and lets `lead` play with so many
/// threads.
fn played(threads: usize, lead: impl FnOnce(machine::Machine, &Play) + Send) {
    let (kernel, engine) = options();
    play_with(kernel, engine, 1, threads, |mut machine, play| {
        set(&play.kernel, false);
        machine.set("CheckOrder", 1);
        machine.set("FlowLimit", 64);
        machine.start_file(file()).unwrap();
        play.let_others_run(100);
        lead(machine, play);
    });
}

/// The instructions before which a thread can be suspended in an act, counted among these
/// only, and the way to them.
fn places(act: Act) -> (Vec<u64>, Arc<Way>) {
    let found = Mutex::default();
    played(1, |mut machine, play| {
        let stop = Stop::suspension(&Arc::default());
        let flow = act.flow(&play.engine);
        play.stop_in(&play.actors[0], &stop, NOWHERE, (1, Irql::PASSIVE), act.job(play, flow));
        assert!(stop.executed() > 20, "{act:?}: {} instructions", stop.executed());
        *found.lock().unwrap() = (stop.suspendable(), stop.way());
        play.engine.flow_end(flow);
        assert!(machine.stop().unwrap().is_empty());
    });
    let (found, way) = found.into_inner().unwrap();
    // Every act has at least the instructions before the level is raised.
    assert!(found > 5, "{act:?}: {found}");
    ((0..found).collect(), way)
}

/// Suspends a thread at each of these instructions.
fn suspend(play: &Play, act: Act, ats: &[u64], way: &Arc<Way>) -> Vec<(Arc<Stop>, FlowHandle)> {
    let suspended: Vec<_> = ats.iter().map(|_| (Stop::suspension(way), act.flow(&play.engine))).collect();
    for ((actor, (stop, flow)), at) in play.actors.iter().zip(&suspended).zip(ats) {
        play.stop_in(actor, stop, *at, (1, Irql::PASSIVE), act.job(play, *flow));
        assert!(stop.is_reached(), "{act:?} does not come to instruction {at}");
    }
    suspended
}

/// Lets all threads go on.
fn resume(play: &Play, act: Act, suspended: Vec<(Arc<Stop>, FlowHandle)>) {
    suspended.iter().for_each(|(stop, _)| play.release(stop));
    play.actors.iter().for_each(|actor| play.join(actor));
    for (_, flow) in suspended {
        if act != Act::End {
            play.engine.flow_end(flow);
        }
    }
}

/// The policy changes, and the sweep and the counters, which run on the same thread,
/// come as if nobody were suspended.
#[test]
fn a_suspended_thread_holds_up_no_policy_no_sweep_and_no_counters() {
    for act in TRAFFIC.into_iter().chain([Act::Listen]) {
        let (places, way) = places(act);
        played(act.threads(), |mut machine, play| {
            let rest = play.kernel.pool().bytes().0;
            let mut exempt = false;
            for ats in places.chunks(act.threads()) {
                let suspended = suspend(play, act, ats, &way);
                exempt = !exempt;
                set(&play.kernel, exempt);
                let changed = || play.kernel.pool().bytes().0 == rest && is_exempt(play) == exempt;
                play.wait("the change of the policy", || play.is_stopped() || changed());
                if act != Act::Listen {
                    let session = play.kernel.trace(Enable::all(EVENT_PROVIDER), None);
                    session.take();
                    let counted = || session.events().iter().any(|event| event.name == "Counters");
                    play.wait("the counters", || play.is_stopped() || counted());
                }
                resume(play, act, suspended);
                if play.is_stopped() {
                    return;
                }
            }
            assert!(machine.stop().unwrap().is_empty());
        });
    }
}

/// The driver frees everything although threads are suspended in it. Afterwards they go
/// on and touch nothing that is freed. The system keeps the image until they are out.
///
/// A flow's context is not deleted while a classify has it (`FwpsFlowRemoveContext0`),
/// so the engine itself waits for a suspended [`Act::Data`].
#[test]
fn a_suspended_thread_does_not_hold_up_the_unload() {
    for act in TRAFFIC.into_iter().filter(|act| *act != Act::Data).chain([Act::Listen, Act::Processor]) {
        let (places, way) = places(act);
        for ats in places.chunks(act.threads()) {
            played(ats.len() + 1, |mut machine, play| {
                let suspended = suspend(play, act, ats, &way);
                let left = Arc::new(Mutex::new(None));
                let told = Arc::clone(&left);
                let stopping = play.actors.last().unwrap();
                stopping.start(move || *told.lock().unwrap() = machine.stop().ok());
                let freed = || {
                    let objects = play.engine.objects();
                    play.kernel.pool().bytes().0 == 0 && objects.registered_callouts.is_empty()
                };
                play.wait_for(Duration::from_secs(3), "the driver's end", || play.is_stopped() || freed());
                resume(play, act, suspended);
                if let Some(left) = left.lock().unwrap().take() {
                    assert!(left.is_empty(), "{act:?} at {ats:?}: {left}");
                }
            });
        }
    }
}
