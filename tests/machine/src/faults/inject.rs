//! Which calls of a driver fail in one machine.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::table::{FALLIBLE, row};
use crate::nt::{Effect, FailCalls, Failure};

/// Whether a call fails alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Only the nth fails.
    Once,
    /// It and every later one.
    After,
}

impl Mode {
    /// Both, by their names on a command line.
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

/// Which calls of a life fail.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the first, from 1, counting calls that can fail.
    pub nth: usize,
    /// Whether later ones fail, too.
    pub mode: Mode,
    /// How the first fails.
    pub failure: Failure,
    /// Chooses how later ones fail.
    pub seed: u64,
}

/// A call that was made to fail.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// Its number.
    pub number: usize,
    /// Its row in [`FALLIBLE`].
    pub row: usize,
    /// How it failed.
    pub failure: Failure,
}

/// Which calls fail in one machine: none, until it is armed.
#[derive(Debug, Default)]
pub struct Faults {
    armed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    paused: bool,
    /// The next call of this row fails so.
    next: Option<(usize, Failure)>,
    /// Rows of the calls so far.
    calls: Vec<usize>,
    injected: Vec<Injection>,
    /// Releases refused, in all and since one was let through.
    refusals: u32,
    in_a_row: u32,
}

/// The most refusals of a release, one after the other and in one life. In
/// the end it succeeds, as on Windows: refused for ever, it would be a hang of
/// the lab's own making.
const IN_A_ROW: u32 = 3;
const REFUSALS: u32 = 6;

impl Faults {
    /// Counts calls from now on, and lets them fail as planned.
    pub fn arm(&self, plan: Option<Plan>) {
        *self.state() = State { plan, ..State::default() };
        self.armed.store(true, Ordering::Release);
    }

    /// Lets the next call of an export fail, whatever its number.
    ///
    /// # Panics
    /// If the export is not in [`FALLIBLE`].
    pub fn fail_next(&self, name: &str, failure: Failure) {
        let row = FALLIBLE.iter().position(|call| call.name == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in the table of calls that can fail"));
        self.state().next = Some((row, failure));
        self.armed.store(true, Ordering::Release);
    }

    /// Whether calls are let through for now; they are counted all the same.
    pub fn pause(&self, paused: bool) {
        self.state().paused = paused;
    }

    /// Rows in [`FALLIBLE`] of the calls so far, in their order.
    pub fn calls(&self) -> Vec<usize> {
        self.state().calls.clone()
    }

    /// What was made to fail so far.
    pub fn injected(&self) -> Vec<Injection> {
        self.state().injected.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailCalls for Faults {
    /// Counts the call, too.
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

/// The step of SplitMix64 (Steele, Lea, Flood, 2014): every number to another
/// that looks unlike it.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
