//! Start and stop of the driver, also while BFE stops and starts.

use lab::hushport;
use lab::setup::{self, Target};
use lab::variants;
use lab::world::Plan;
use machine::StartError;
use machine::etw::Enable;
use machine::nt::{Effect, Failure, Options};
use machine::status::Status;
use machine::sweep::leave_behind;
use machine::wfp::{BfeState, Change, DisplayData, Provider, SESSION_FLAG_DYNAMIC, Session};

use super::support::eventually;

fn sys() -> &'static std::path::Path {
    &setup::build(Target::X64).unwrap().sys
}

#[test]
fn unload_leaves_nothing_and_a_machine_takes_the_driver_again() {
    let mut machine = hushport::machine(Options::default());
    for _ in 0..3 {
        machine.start(sys()).unwrap();
        assert_eq!(machine.engine().objects().filters.len(), 66);
        let left = machine.stop().unwrap();
        assert!(left.is_empty(), "{left}");
        assert_eq!(machine.engine().objects(), Default::default());
    }
}

#[test]
fn the_driver_waits_for_bfe_and_survives_its_restart() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    engine.set_bfe_state(BfeState::Stopped);
    machine.start(sys()).unwrap();
    assert_eq!(engine.objects().registered_callouts.len(), 66);
    assert!(engine.objects().filters.is_empty(), "no session without BFE");
    for _ in 0..3 {
        engine.set_bfe_state(BfeState::StartPending);
        engine.set_bfe_state(BfeState::Running);
        eventually("filters when BFE runs", || engine.objects().filters.len() == 66);
        engine.set_bfe_state(BfeState::StopPending);
        engine.set_bfe_state(BfeState::Stopped);
        eventually("no session when BFE is gone", || engine.objects().sessions.is_empty());
    }
    let left = machine.stop().unwrap();
    assert!(left.is_empty(), "{left}");
}

/// The driver follows BFE on a system thread. The thread may run only after BFE has
/// started again. Its old session is gone even then.
#[test]
fn a_restart_too_quick_to_be_followed_step_by_step_is_survived() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    machine.start(sys()).unwrap();
    for _ in 0..50 {
        engine.set_bfe_state(BfeState::Stopped);
        engine.set_bfe_state(BfeState::Running);
        eventually("filters when BFE runs again", || engine.objects().filters.len() == 66);
    }
    let left = machine.stop().unwrap();
    assert!(left.is_empty(), "{left}");
}

#[test]
fn a_start_that_the_engine_refuses_leaves_nothing() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    // Another session owns an object with the driver's provider key.
    machine.start(sys()).unwrap();
    let provider = engine.journal().into_iter().find_map(|change| match change {
        Change::ProviderAdd { key } => Some(key),
        _ => None,
    });
    assert!(machine.stop().unwrap().is_empty());
    let display = DisplayData { name: Some("in the way".into()), description: None };
    let dynamic = Session { display: display.clone(), flags: SESSION_FLAG_DYNAMIC, ..Session::default() };
    let session = engine.open(dynamic).unwrap();
    let key = provider.unwrap();
    let in_the_way = Provider { key, display, ..Provider::default() };
    assert_eq!(engine.provider_add(session, in_the_way), Status::SUCCESS);
    match machine.start(sys()) {
        Err(StartError::Refused(status)) => assert_eq!(status, Status::FWP_ALREADY_EXISTS),
        other => panic!("{other:?}"),
    }
    let objects = engine.objects();
    assert!(objects.registered_callouts.is_empty() && objects.filters.is_empty(), "{objects:?}");
    assert!(objects.subscriptions.is_empty() && objects.sublayers.is_empty(), "{objects:?}");
    assert_eq!(engine.close(session), Status::SUCCESS);
    machine.start(sys()).unwrap();
    assert!(machine.stop().unwrap().is_empty());
}

/// Objects of somebody else with the driver's keys. A dynamic session cannot delete them
/// (`FwpmProviderDeleteByKey0`), so the start fails, and says why. The driver's own objects
/// cannot be left: they are gone with its session, however it ends.
#[test]
fn foreign_objects_with_the_drivers_keys_are_named_and_left_alone() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    machine.start(sys()).unwrap();
    let before = engine.journal();
    // The session ends while its objects are in use.
    engine.set_bfe_state(BfeState::Stopped);
    assert!(engine.objects().providers.is_empty() && engine.objects().filters.is_empty());
    engine.set_bfe_state(BfeState::Running);
    assert!(machine.stop().unwrap().is_empty());
    // All objects; the provider with some objects; the provider with fewer.
    for kept in [before.len(), 80, 72] {
        leave_behind(&engine, &before[..before.len().min(kept)]);
        let foreign = engine.objects();
        assert_eq!(foreign.providers.len(), 1);
        match machine.start(sys()) {
            Err(StartError::Refused(status)) => assert_eq!(status, Status::FWP_ALREADY_EXISTS),
            other => panic!("{other:?}"),
        }
        assert_eq!(engine.objects(), foreign, "the driver leaves others' objects alone");
        engine.set_bfe_state(BfeState::Stopped);
        engine.set_bfe_state(BfeState::Running);
        machine.start(sys()).unwrap();
        assert!(machine.stop().unwrap().is_empty());
        assert_eq!(engine.objects(), Default::default());
    }
}

/// If such objects appear while BFE restarts, the driver says so and tries again until
/// they are gone.
#[test]
fn foreign_objects_after_a_restart_of_bfe_are_told_until_they_are_gone() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    machine.start(sys()).unwrap();
    let before = engine.journal();
    let trace = machine.kernel().trace(Enable::all(hushport::EVENT_PROVIDER), None);
    let protection = |state: &str, status: Status| {
        eventually(state, || {
            trace.events().iter().rfind(|event| event.name == "Protection").is_some_and(|event| {
                event.text("State") == state && event.number("Status") == u64::from(status.0 as u32)
            })
        });
    };
    engine.set_bfe_state(BfeState::Stopped);
    protection("WaitingForBfe", Status::SUCCESS);
    engine.set_bfe_state(BfeState::Running);
    protection("Active", Status::SUCCESS);
    engine.set_bfe_state(BfeState::Stopped);
    protection("WaitingForBfe", Status::SUCCESS);
    machine.faults().fail_next(
        "FwpmEngineOpen0",
        Failure { status: Status::INSUFFICIENT_RESOURCES, effect: Effect::Refused },
    );
    engine.set_bfe_state(BfeState::Running);
    leave_behind(&engine, &before);
    protection("Refused", Status::FWP_ALREADY_EXISTS);
    let foreign = engine.objects().providers.len();
    assert_eq!(foreign, 1);
    // The objects are not persistent, so they end with BFE.
    engine.set_bfe_state(BfeState::Stopped);
    engine.set_bfe_state(BfeState::Running);
    protection("Active", Status::SUCCESS);
    drop(trace);
    assert!(machine.stop().unwrap().is_empty());
}

/// A start, a restart of BFE, a change of the policy and a stop, in each world that differs
/// in them.
#[test]
fn a_life_is_well_in_every_world() {
    for variant in variants::ALL.iter().filter(|variant| !variant.concerns_packets) {
        let name = variant.name;
        let mut plan = Plan { driver: Some(sys()), ..Plan::default() };
        variant.turn(&mut plan);
        let mut machine = plan.machine().unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let engine = machine.engine().clone();
        assert_eq!(engine.objects().filters.len(), 66, "{name}");
        engine.set_bfe_state(BfeState::Stopped);
        engine.set_bfe_state(BfeState::Running);
        eventually(name, || engine.objects().filters.len() == 66);
        machine.set("Observe", 0);
        machine.kernel().pass(hushport::LOOK);
        eventually(name, || engine.objects().filters.len() == 6);
        let findings = machine.kernel().verifier().findings();
        assert!(findings.is_empty(), "{name}: {findings:?}");
        let left = machine.stop().unwrap_or_else(|stop| panic!("{name}: {stop}"));
        assert!(left.is_empty(), "{name}: {left}");
    }
}

/// `Observe` and `SilenceEcho` add and remove filters in one session.
#[test]
fn filters_come_and_go_with_the_policy() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    machine.start(sys()).unwrap();
    let sessions = || engine.journal().iter().filter(|change| **change == Change::EngineOpen).count();
    assert_eq!((engine.objects().filters.len(), sessions()), (66, 1));
    for (name, value, filters) in [
        ("Observe", 0, 6),
        ("SilenceEcho", 1, 8),
        ("Observe", 1, 66),
        ("SilenceEcho", 0, 66),
        ("Observe", 0, 6),
    ] {
        machine.set(name, value);
        eventually("filters as the policy asks", || engine.objects().filters.len() == filters);
    }
    assert_eq!(sessions(), 1);
    assert!(machine.stop().unwrap().is_empty());
}

#[test]
fn a_registry_value_of_another_type_or_out_of_range_leaves_the_default() {
    use machine::nt::{parameters_key, registry::RegistryValue};
    let mut machine = hushport::machine(Options::default());
    let key = parameters_key(lab::hushport::SERVICE);
    machine.kernel().set_value(&key, "Observe", RegistryValue::sz("0"));
    machine.set("Mode", 3);
    machine.set("SublayerWeight", 0x10000);
    machine.start(sys()).unwrap();
    assert!(["Observe", "Mode", "SublayerWeight"].iter().all(|name| machine.has_read(name)));
    assert_eq!(machine.engine().objects().filters.len(), 66, "Observe stays 1");
    assert!(machine.stop().unwrap().is_empty());
}
