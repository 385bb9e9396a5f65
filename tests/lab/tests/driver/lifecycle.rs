//! Start, stop, and BFE coming and going.

use std::time::{Duration, Instant};

use lab::machine::{Machine, StartError};
use lab::nt::Options;
use lab::setup::{self, Target};
use lab::status::Status;
use lab::wfp::{BfeState, DisplayData, Provider, Session};

fn sys() -> &'static std::path::Path {
    &setup::build(Target::X64).unwrap().sys
}

/// Waits for what the driver puts off to a system thread.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn unload_leaves_nothing_and_a_machine_takes_the_driver_again() {
    let mut machine = Machine::new(Options::default());
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
    let mut machine = Machine::new(Options::default());
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

/// The driver follows on a system thread, which may come to it only when BFE
/// runs again: the session that it had is gone all the same.
#[test]
fn a_restart_too_quick_to_be_followed_step_by_step_is_survived() {
    let mut machine = Machine::new(Options::default());
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
    let mut machine = Machine::new(Options::default());
    let engine = machine.engine().clone();
    // Somebody else's object under the driver's provider key.
    machine.start(sys()).unwrap();
    let provider = engine.journal().into_iter().find_map(|change| match change {
        lab::wfp::Change::ProviderAdd { key } => Some(key),
        _ => None,
    });
    assert!(machine.stop().unwrap().is_empty());
    let display = DisplayData { name: Some("in the way".into()), description: None };
    let session = engine.open(Session { display: display.clone(), ..Session::default() }).unwrap();
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
    assert_eq!(engine.provider_delete(session, key), Status::SUCCESS);
    machine.start(sys()).unwrap();
    assert!(machine.stop().unwrap().is_empty());
}

#[test]
fn a_registry_value_of_another_type_or_out_of_range_leaves_the_default() {
    use lab::nt::{parameters_key, registry::RegistryValue};
    let mut machine = Machine::new(Options::default());
    let key = parameters_key(lab::machine::SERVICE);
    machine.kernel().set_value(&key, "Observe", RegistryValue::sz("0"));
    machine.set("Mode", 3);
    machine.set("SublayerWeight", 0x10000);
    machine.start(sys()).unwrap();
    assert!(["Observe", "Mode", "SublayerWeight"].iter().all(|name| machine.has_read(name)));
    assert_eq!(machine.engine().objects().filters.len(), 66, "Observe stays 1");
    assert!(machine.stop().unwrap().is_empty());
}
