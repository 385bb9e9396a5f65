//! Where a driver's routines run: level, processor, stack and time.
//!
//! No page says at which level a callback begins, only the highest one. A thread of the
//! lab that is in the machine calls at its own level. For others, the options say it, or
//! every call draws its own ([`Options::mixed_levels`]). The machine's seed fixes what is
//! drawn.
//!
//! [`Options::mixed_levels`]: super::Options::mixed_levels

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Kernel;
use super::cpu::{self, Irql};
use crate::schedule::Random;
use crate::verifier::{Violation, rules};

/// A callback whose level the documents leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callback {
    /// classifyFn and flowDeleteFn.
    Callout,
    /// notifyFn.
    Notify,
    /// The callback about the state of BFE.
    BfeState,
    /// The completion function of an injection.
    Completion,
}

/// The levels that the pages allow for a callback.
const LEVELS: [Irql; 3] = [Irql::PASSIVE, Irql::APC, Irql::DISPATCH];

/// A tick of the system's clock.
const TICK: Duration = Duration::from_micros(15_625);

impl Kernel {
    /// The level at which a callback begins, unless the thread's own is higher.
    pub(super) fn level_of(&self, callback: Callback) -> Irql {
        let options = self.options();
        let asked = std::ptr::eq(cpu::kernel(), self) && !self.guest().in_call();
        match callback {
            Callback::Callout if asked => cpu::irql(),
            _ if options.mixed_levels => self.draw_level(),
            Callback::Callout | Callback::Completion => options.classify_irql,
            Callback::Notify => options.notify_irql,
            Callback::BfeState => options.bfe_irql,
        }
    }

    /// The level at which a thread of the lab calls the engine, for one call.
    pub fn level_of_call(&self) -> Irql {
        if self.options().mixed_levels { self.draw_level() } else { self.options().classify_irql }
    }

    fn draw_level(&self) -> Irql {
        LEVELS[self.draw(LEVELS.len())]
    }

    /// The processor on which a thread from outside the machine calls a driver: `usual`, or
    /// one of its own for each call ([`Options::mixed_processors`]).
    ///
    /// [`Options::mixed_processors`]: super::Options::mixed_processors
    pub fn processor_of_call(&self, usual: u32) -> u32 {
        match self.options().mixed_processors {
            true => self.draw(self.active_count() as usize) as u32,
            false => usual,
        }
    }

    /// The next number below `bound` that the machine's seed gives.
    fn draw(&self, bound: usize) -> usize {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        Random::new(self.options().seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).below(bound)
    }

    /// The breach of a call that has used so much processor time at DISPATCH_LEVEL or
    /// above, with the parameters of bugcheck 0x133. A routine that began there runs as
    /// part of a DPC.
    pub(super) fn out_of_time(&self, text: &str) -> Violation {
        let ticks = |time: Duration| (time.as_micros() / TICK.as_micros()) as u64;
        let allotment = ticks(self.options().dispatch_allotment);
        let text = text.lines().next().unwrap_or_default();
        match cpu::began_raised() {
            true => {
                let used = self.guest().overdue().map_or(0, ticks).max(allotment + 1);
                Violation::new(&rules::DPC_TIME_LIMIT, [used, allotment, 0], text)
            }
            false => Violation::new(&rules::DPC_WATCHDOG, [allotment, 0, 0], text),
        }
    }
}
