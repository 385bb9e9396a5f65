//! The kernel stack that each callback uses at the deepest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lab::hushport::{EVENT_PROVIDER, LOOK};
use lab::traffic::{Family as Shown, Indication, SYN, Traffic};
use lab::variants::Variant;
use machine::etw::Enable;
use machine::image::KERNEL_STACK_SIZE;
use machine::nt::Kernel;
use machine::nt::registry::RegistryValue;
use machine::wfp::BfeState;
use machine::wire::Family;

use super::world::{Watched, datagrams, eventually, exchange, plan, start};

/// The most bytes that each kind of routine may use. Callbacks run where others have used
/// most of the stack before, the others on stacks of their own.
const MOST: [(&str, usize); 9] = [
    ("BFE callback", 256),
    ("DriverEntry", 7424),
    ("DriverUnload", 1664),
    ("classifyFn", 2560),
    ("enable callback", 2304),
    ("flowDeleteFn", 1408),
    ("notifyFn", 128),
    ("system thread", 5632),
    ("worker routine", 256),
];

/// Uses everything that a callback can do.
fn play(world: &Watched) {
    let (kernel, engine) = (world.machine.kernel(), world.machine.engine());
    for family in Family::BOTH {
        exchange(world, family, 1000, 10);
        datagrams(world, family, 5);
    }
    eventually("flows end", world, |now| now.flows_ended == 2);
    let mut traffic = Traffic::new(1);
    for port in 0..200 {
        for family in [Shown::V4, Shown::V6] {
            let syn = Indication::closed_port(family, 1000 + port, SYN);
            let _decision = engine.classify(&syn.request());
        }
        let _decision = engine.classify(&traffic.anything().request());
    }
    world.session.capture_state();
    let key = machine::nt::parameters_key(lab::hushport::SERVICE);
    let prefixes: Vec<_> = (0..200).map(|number| format!("10.{number}.0.0/16")).collect();
    kernel.set_value(&key, "ExemptPrefixes", RegistryValue::multi_sz(&prefixes));
    for port in ["no port", "22/tcp"] {
        kernel.set_value(&key, "ExemptPorts", RegistryValue::multi_sz([port]));
        kernel.pass(LOOK);
        std::thread::sleep(Duration::from_millis(50));
    }
    for name in ["Observe", "SilenceEcho"] {
        for on in [0, 1] {
            world.machine.set(name, on);
            kernel.pass(LOOK);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for state in [BfeState::StopPending, BfeState::Stopped, BfeState::StartPending, BfeState::Running] {
        engine.set_bfe_state(state);
    }
    eventually("the filters", world, |_| engine.objects().filters.len() == 66);
}

fn marks(kernel: &Kernel) -> BTreeMap<&'static str, usize> {
    kernel.stack_marks().into_iter().collect()
}

/// Every call is measured. 6 KB are enough, and most of them are left.
#[test]
fn no_callback_uses_more_of_the_stack_than_it_may() {
    for variant in [None, Some("stack-12k"), Some("stack-6k")] {
        let mut plan = plan(&[("Mode", 2), ("CheckOrder", 1), ("Trace", 2)]);
        plan.machine.measure_every_call = true;
        if let Some(name) = variant {
            Variant::named(name).unwrap().turn(&mut plan);
        }
        let left = plan.machine.stack_left.unwrap_or(KERNEL_STACK_SIZE);
        let watched = start(&plan);
        let kernel = Arc::clone(watched.machine.kernel());
        drop(kernel.trace(Enable::all(EVENT_PROVIDER), None));
        play(&watched);
        let Watched { mut world, session } = watched;
        drop(session);
        let left_behind = world.machine.stop().unwrap_or_else(|stop| panic!("{variant:?}: {stop}"));
        assert!(left_behind.is_empty(), "{left_behind}");
        let marks = marks(&kernel);
        println!("{left} bytes left: {marks:?}");
        let gated: Vec<_> = MOST.iter().map(|(what, _)| *what).collect();
        assert_eq!(marks.keys().copied().collect::<Vec<_>>(), gated);
        for (what, most) in MOST {
            assert!((8..=most).contains(&marks[what]), "{what}: {} bytes, at most {most}", marks[what]);
        }
    }
}
