//! Calls at any level, on any processor, with little stack.

use std::collections::BTreeSet;

use lab::counters::Counters;
use lab::traffic::{Family as Shown, Indication, SYN};
use lab::variants::Variant;
use machine::nt::Irql;
use machine::wire::Family;

use super::world::{datagrams, end, eventually, exchange, plan, start};

/// The worlds that differ in the place of a call.
const WORLDS: [&[&str]; 5] = [
    &["levels-mixed"],
    &["processors-mixed"],
    &["stack-12k"],
    &["stack-6k"],
    &["levels-mixed", "processors-mixed", "stack-6k"],
];

/// Real connections are counted and keep their order, and closed ports are silent.
#[test]
fn the_place_of_a_call_changes_nothing() {
    for names in WORLDS {
        let mut plan = plan(&[("Mode", 2), ("CheckOrder", 1)]);
        names.iter().for_each(|name| Variant::named(name).unwrap().turn(&mut plan));
        let world = start(&plan);
        world.machine.kernel().journal().start();
        for family in Family::BOTH {
            exchange(&world, family, 1000, 10);
            datagrams(&world, family, 5);
        }
        let now = eventually("flows end", &world, |now| now.flows_ended == 2);
        assert_eq!((now.flows_in_order, now.deviations.len()), (2, 0), "{names:?}: {now:?}");
        assert_eq!(now.bytes, [20_000; 2], "{names:?}");
        let engine = world.machine.engine();
        for port in 0..20 {
            let syn = Indication::closed_port(Shown::V4, 1000 + port, SYN);
            assert!(engine.classify(&syn.request()).blocked(), "{names:?}");
        }
        let calls = world.machine.kernel().journal().take();
        let counters = Counters::read(world.machine.kernel(), engine).unwrap();
        let silenced = counters.at("INBOUND_TRANSPORT_V4_DISCARD", engine);
        assert_eq!(silenced.get("Silenced"), Some(&20), "{names:?}");
        // A callout asks first for its level.
        let asked = calls.iter().filter(|call| call.export == "KeGetCurrentIrql" && !call.on_system_thread);
        let levels: BTreeSet<Irql> = asked.map(|call| call.irql).collect();
        match names.contains(&"levels-mixed") {
            true => assert_eq!(levels.len(), 3, "{names:?}: {levels:?}"),
            false => assert_eq!(levels, BTreeSet::from([Irql::DISPATCH]), "{names:?}"),
        }
        end(world);
    }
}

/// A thread of the lab that is in the machine calls at its own level, whatever the options
/// say.
#[test]
fn a_call_runs_at_the_level_that_is_asked_for() {
    let world = start(&plan(&[("Mode", 2)]));
    let (kernel, engine) = (world.machine.kernel(), world.machine.engine());
    let syn = Indication::closed_port(Shown::V4, 1000, SYN);
    for level in [Irql::PASSIVE, Irql::APC, Irql::DISPATCH] {
        kernel.journal().start();
        assert!(kernel.on_processor(1, level, |_| engine.classify(&syn.request())).blocked());
        let calls = kernel.journal().take();
        let first = calls.iter().find(|call| call.export == "KeGetCurrentIrql" && !call.on_system_thread);
        assert_eq!(first.map(|call| call.irql), Some(level));
    }
    end(world);
}
