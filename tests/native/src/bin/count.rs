//! Classifies of the native build for callgrind to count, in parts behind each
//! of which it writes what it has: every case a few times, so often, and twice
//! as often.

use anyhow::{Result, anyhow};
use lab::bench::callouts::Callouts;
use lab::bench::cases::{cases, drivers, values};
use lab::bench::native::ROUNDS;
use machine::nt::fwp::prepared::{self, Prepared};
use machine::nt::{Irql, Kernel, Options};
use native::builds::Machine;

/// Called a few times before it is counted.
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

/// What is counted; found by its name.
#[inline(never)]
fn part(kernel: &Kernel, call: &Prepared, rounds: u64) -> Result<()> {
    kernel.on_processor(0, Irql::DISPATCH, |kernel| {
        prepared::run(kernel, &[call], rounds, 0).map_err(|stop| anyhow!("{stop}"))
    })
}
