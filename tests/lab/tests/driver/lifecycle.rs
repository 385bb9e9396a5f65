//! Start and stop of the driver, also while BFE stops and starts.

use lab::hushport;
use lab::setup::{self, Target};
use machine::StartError;
use machine::nt::Options;
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
        Err(StartError::Refused(status)) => assert_eq!(status, Status::FWP_WRONG_SESSION),
        other => panic!("{other:?}"),
    }
    let objects = engine.objects();
    assert!(objects.registered_callouts.is_empty() && objects.filters.is_empty(), "{objects:?}");
    assert!(objects.subscriptions.is_empty() && objects.sublayers.is_empty(), "{objects:?}");
    assert_eq!(engine.close(session), Status::SUCCESS);
    machine.start(sys()).unwrap();
    assert!(machine.stop().unwrap().is_empty());
}

#[test]
fn leftovers_of_an_earlier_run_are_removed() {
    let mut machine = hushport::machine(Options::default());
    let engine = machine.engine().clone();
    machine.start(sys()).unwrap();
    let before = engine.journal();
    assert!(machine.stop().unwrap().is_empty());
    // All objects; the provider with some objects; the provider with fewer.
    for (kept, filters) in [(before.len(), 66), (80, 1), (72, 0)] {
        leave_behind(&engine, &before[..before.len().min(kept)]);
        assert!(engine.objects().filters.len() >= filters);
        assert_eq!(engine.objects().providers.len(), 1);
        machine.set("Observe", 0);
        machine.start(sys()).unwrap();
        assert_eq!(engine.objects().filters.len(), 6);
        let left = machine.stop().unwrap();
        assert!(left.is_empty(), "{left}");
        assert_eq!(engine.objects(), Default::default());
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
