//! Makes planned calls of a driver fail in one machine.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::table::{FALLIBLE, row};
use crate::nt::{Effect, FailCalls, Failure};

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Only the planned one.
    Once,
    /// The planned one and all later ones.
    After,
}

impl Mode {
    /// Both modes, by their names on a command line.
    pub const ALL: [(&'static str, Self); 2] = [("once", Self::Once), ("after", Self::After)];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Once => "once",
            Self::After => "after",
        })
    }
}

/// The calls of a run that fail.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The number of the first one, counted from 1 over the calls that can fail.
    pub nth: usize,
    /// Whether later calls fail, too.
    pub mode: Mode,
    /// How the first one fails.
    pub failure: Failure,
    /// The seed that decides how later ones fail.
    pub seed: u64,
}

/// A failure that was injected.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// The number of the call.
    pub number: usize,
    /// Its row in [`FALLIBLE`].
    pub row: usize,
    /// How it failed.
    pub failure: Failure,
}

/// The calls that fail in one machine; none until it is armed.
#[derive(Debug, Default)]
pub struct Faults {
    armed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    paused: bool,
    /// The next call of this row fails this way.
    next: Option<(usize, Failure)>,
    /// The rows of the calls so far.
    calls: Vec<usize>,
    injected: Vec<Injection>,
    /// The number of refused releases, in total and in a row.
    refusals: u32,
    in_a_row: u32,
}

/// The maximum number of refused releases, in a row and in one run. In the end a
/// release succeeds, as on Windows; otherwise the driver could never unload.
const IN_A_ROW: u32 = 3;
const REFUSALS: u32 = 6;

impl Faults {
    /// Starts to count calls, and lets them fail as planned.
    pub fn arm(&self, plan: Option<Plan>) {
        *self.state() = State { plan, ..State::default() };
        self.armed.store(true, Ordering::Release);
    }

    /// Makes the next call of an export fail, whatever its number is.
    ///
    /// # Panics
    /// If the export is not in [`FALLIBLE`].
    pub fn fail_next(&self, name: &str, failure: Failure) {
        let row = FALLIBLE.iter().position(|call| call.name == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in the table of calls that can fail"));
        self.state().next = Some((row, failure));
        self.armed.store(true, Ordering::Release);
    }

    /// Pauses failures; calls are still counted.
    pub fn pause(&self, paused: bool) {
        self.state().paused = paused;
    }

    /// The rows in [`FALLIBLE`] of the calls so far, in order.
    pub fn calls(&self) -> Vec<usize> {
        self.state().calls.clone()
    }

    /// The failures that were injected so far.
    pub fn injected(&self) -> Vec<Injection> {
        self.state().injected.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailCalls for Faults {
    /// Also counts the call.
    fn failure(&self, export: usize) -> Option<Failure> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let row = row(export)?;
        let mut state = self.state();
        state.calls.push(row);
        let failure = state.failure(row)?;
        let number = state.calls.len();
        state.injected.push(Injection { number, row, failure });
        Some(failure)
    }
}

impl State {
    fn failure(&mut self, row: usize) -> Option<Failure> {
        if let Some((_, failure)) = self.next.take_if(|(next, _)| *next == row) {
            return Some(failure);
        }
        let plan = self.plan.filter(|_| !self.paused)?;
        let (number, call) = (self.calls.len(), &FALLIBLE[row]);
        let failure = match number {
            _ if number == plan.nth => plan.failure,
            _ if number > plan.nth && plan.mode == Mode::After => {
                let choice = mix(plan.seed ^ number as u64) % call.failures.len() as u64;
                call.failures[choice as usize]
            }
            _ => return None,
        };
        if call.releases && failure.effect == Effect::Refused {
            if self.in_a_row == IN_A_ROW || self.refusals == REFUSALS {
                self.in_a_row = 0;
                return None;
            }
            self.in_a_row += 1;
            self.refusals += 1;
        }
        Some(failure)
    }
}

/// A step of SplitMix64 (Steele, Lea, Flood, 2014), which maps similar numbers to
/// different ones.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
