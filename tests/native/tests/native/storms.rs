//! Storms with the native build: load and unload under traffic.
//!
//! The lab plays storms with the image. These are for sanitizers: `cargo lab sanitize`
//! builds and runs them.

use lab::storm::{self, Meanwhile};
use machine::schedule::Scheduling;
use native::builds::Machine;

/// Seeds to play: `few`, or as many as `HUSHPORT_LAB_SEEDS` says.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let seeds = std::env::var("HUSHPORT_LAB_SEEDS").ok();
    0..seeds.map_or(few, |text| text.parse().expect("HUSHPORT_LAB_SEEDS is a number"))
}

fn storm(scheduling: fn(u64) -> Scheduling, seed: u64) {
    for meanwhile in [Meanwhile::Policy, Meanwhile::Restarts, Meanwhile::AtAnyTime] {
        let mut machine = Machine::native(storm::options(seed));
        storm::storm(&mut machine, scheduling(seed), 2, meanwhile);
    }
}

#[test]
fn one_thread_at_a_time() {
    seeds(2).for_each(|seed| storm(|seed| Scheduling::Deterministic { seed }, seed));
}

#[test]
fn all_at_once() {
    seeds(2).for_each(|seed| storm(|seed| Scheduling::Parallel { seed }, seed));
}
