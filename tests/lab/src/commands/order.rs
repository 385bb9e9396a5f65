//! `cargo lab order`: which changes of the documented flows the driver tells.

use anyhow::Result;
use machine::host::Fault;
use machine::wire::Family;

use super::driver;
use crate::order::{changes, outcome, unchanged};
use crate::sandbox::Job;

/// The driver to use.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    driver: driver::Arguments,
    /// Print only the changes that are not told
    #[arg(long)]
    untold: bool,
}

impl Arguments {
    /// What the driver's process gets.
    ///
    /// # Errors
    /// If the driver cannot be built.
    pub fn job(&self) -> Result<Job> {
        self.driver.refuse_registry()?;
        self.driver.job()
    }
}

/// Plays every change. Returns whether the driver reports each one, or a reason is
/// known why it cannot, and whether it reports nothing without a change.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let sys = arguments.driver.sys()?;
    let mut is_good = true;
    let mut counts =
        [(Fault::Dropped, "left out"), (Fault::Doubled, "doubled"), (Fault::Exchanged, "exchanged")]
            .map(|(fault, name)| (fault, name, 0, 0));
    for family in Family::BOTH {
        for told in unchanged(sys, family)? {
            println!("WRONG, told without a change: {told:?}");
            is_good = false;
        }
        for change in changes(sys, family)? {
            let outcome = outcome(sys, &change)?;
            let is_told = outcome.told.is_some();
            for (fault, _, told, all) in &mut counts {
                if *fault == change.fault {
                    *told += usize::from(is_told);
                    *all += 1;
                }
            }
            is_good &= is_told || outcome.reason().is_some();
            if !is_told || !arguments.untold {
                println!("{outcome}");
            }
        }
    }
    for (_, name, told, all) in counts {
        println!("{name}: {told} of {all} steps are told");
    }
    Ok(is_good)
}
