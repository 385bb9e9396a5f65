//! Storms: load, unload, reload and BFE restarts under traffic, for many seeds.

use lab::storm::Meanwhile;
use machine::schedule::Scheduling;

use super::stage::{seeds, storm};

#[test]
fn a_seed_fixes_everything_that_happens() {
    let run = |seed| storm(Scheduling::Deterministic { seed }, 2, Meanwhile::Restarts);
    for seed in 0..3 {
        let (first, second) = (run(seed), run(seed));
        assert!(first.count > 1000 && first.switches > 10, "{} events", first.count);
        let differs = first.events.iter().zip(&second.events).position(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run(0).digest, run(1).digest, "seeds differ");
}

#[test]
fn the_policy_changes_under_traffic_one_thread_at_a_time() {
    for seed in seeds(24) {
        storm(Scheduling::Deterministic { seed }, 2, Meanwhile::Policy);
    }
}

#[test]
fn the_policy_changes_under_traffic_all_at_once() {
    for seed in seeds(24) {
        storm(Scheduling::Parallel { seed }, 3, Meanwhile::Policy);
    }
}

#[test]
fn bfe_comes_and_goes_under_traffic_one_thread_at_a_time() {
    for seed in seeds(24) {
        storm(Scheduling::Deterministic { seed }, 2, Meanwhile::Restarts);
    }
}

#[test]
fn bfe_comes_and_goes_under_traffic_all_at_once() {
    for seed in seeds(24) {
        storm(Scheduling::Parallel { seed }, 3, Meanwhile::Restarts);
    }
}

#[test]
fn unload_comes_in_the_middle_of_everything() {
    for seed in seeds(16) {
        storm(Scheduling::Deterministic { seed }, 3, Meanwhile::AtAnyTime);
    }
    for seed in seeds(16) {
        storm(Scheduling::Parallel { seed }, 3, Meanwhile::AtAnyTime);
    }
}
