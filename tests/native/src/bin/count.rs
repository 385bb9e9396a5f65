//! Runs classifies of the native build under callgrind.
//!
//! For each case, callgrind writes its counts after a warm-up, after N classifies, and
//! after 2 N more.

use anyhow::{Result, anyhow};
use lab::bench::callouts::Callouts;
use lab::bench::cases::{cases, drivers, values};
use lab::bench::native::ROUNDS;
use machine::nt::fwp::prepared::{self, Prepared};
use machine::nt::{Irql, Kernel, Options};
use native::builds::Machine;

/// Warm-up calls of each case.
const BEFORE: u64 = 8;

fn main() -> Result<()> {
    for driver @ (exempted, _) in drivers() {
        let mut machine = Machine::native(Options::default());
        for (name, value) in values(exempted) {
            machine.set(name, value);
        }
        machine.start()?;
        let callouts = Callouts::of(machine.kernel(), machine.engine())?;
        for case in cases(driver) {
            let call = case.call(&callouts)?;
            part(callouts.kernel(), &call, BEFORE)?;
            part(callouts.kernel(), &call, ROUNDS)?;
            part(callouts.kernel(), &call, 2 * ROUNDS)?;
        }
        machine.stop().map_err(|stop| anyhow!("{stop}"))?;
    }
    Ok(())
}

/// The function that callgrind counts, by its name.
#[inline(never)]
fn part(kernel: &Kernel, call: &Prepared, rounds: u64) -> Result<()> {
    kernel.on_processor(0, Irql::DISPATCH, |kernel| {
        prepared::run(kernel, &[call], rounds, 0).map_err(|stop| anyhow!("{stop}"))
    })
}
