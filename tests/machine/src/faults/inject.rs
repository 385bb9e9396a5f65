//! Makes planned calls of a driver fail in one machine.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::table::{FALLIBLE, row};
use crate::nt::{Caller, Effect, FailCalls, Failure};
use crate::status::Status;

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
    /// The number of the first one, counted from 1 over the calls that can fail. Of the
    /// calls of the driver's own threads, only those to the engine's management interface
    /// count and fail, unless [`Faults::count_threads`] asks for all of them.
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

impl Injection {
    /// Whether the call has said something of a registry value that is not so: that the
    /// value does not exist, or is longer. The driver has to believe it.
    pub fn is_answer(&self) -> bool {
        let answers = [Status::OBJECT_NAME_NOT_FOUND, Status::BUFFER_OVERFLOW, Status::BUFFER_TOO_SMALL];
        FALLIBLE[self.row].name == "ZwQueryValueKey" && answers.contains(&self.failure.status)
    }
}

/// The calls that fail in one machine; none until it is armed.
#[derive(Default)]
pub struct Faults {
    armed: AtomicBool,
    counts_threads: AtomicBool,
    state: Mutex<State>,
    before: Mutex<Option<BeforeCall>>,
}

/// What happens before a call that can fail.
pub type BeforeCall = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// Whether this thread does what happens before a call.
    static BEFORE: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    paused: bool,
    /// The call of this row fails this way, after so many more calls.
    next: Option<(usize, usize, Failure)>,
    /// Every call of these rows fails this way.
    always: Vec<(usize, Failure)>,
    /// No call of these rows returns.
    blocked: Vec<usize>,
    /// The row of the planned call, and how many calls of it are left until it comes.
    by_function: Option<(usize, usize)>,
    /// Whether the planned call has come.
    has_begun: bool,
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
        // What happened before an earlier call on this thread may have been abandoned.
        BEFORE.set(false);
        *self.state() = State { plan, ..State::default() };
        self.armed.store(true, Ordering::Release);
    }

    /// Counts every call of the driver's own threads. On a machine with a time of its own
    /// a thread makes its calls in a fixed order; otherwise, it repeats some as time passes.
    pub fn count_threads(&self) {
        self.counts_threads.store(true, Ordering::Relaxed);
    }

    /// Finds the planned call by its function instead of by its number over all calls:
    /// `nth` counts the calls of this row. So calls of other functions, on other threads,
    /// may come earlier or later than in the run in which it was chosen.
    pub fn plan_by_function(&self, row: usize, nth: usize) {
        self.state().by_function = Some((row, nth));
    }

    /// Makes the next call of an export fail, whatever its number and its thread are.
    ///
    /// # Panics
    /// If the export is not in [`FALLIBLE`].
    pub fn fail_next(&self, name: &str, failure: Failure) {
        self.fail_after(name, 0, failure);
    }

    /// Makes a call of an export fail after so many calls of it that do not.
    ///
    /// # Panics
    /// If the export is not in [`FALLIBLE`].
    pub fn fail_after(&self, name: &str, calls: usize, failure: Failure) {
        self.state().next = Some((row_of(name), calls, failure));
        self.armed.store(true, Ordering::Release);
    }

    /// Makes every call of these exports fail, on every thread. This replaces what an
    /// earlier call has set; without exports, all calls work again.
    ///
    /// # Panics
    /// If an export is not in [`FALLIBLE`].
    pub fn fail_always(&self, names: &[&str], failure: Failure) {
        self.state().always = names.iter().map(|name| (row_of(name), failure)).collect();
        self.armed.store(true, Ordering::Release);
    }

    /// Lets calls of these exports, on every thread, not begin their work until they are let
    /// go, so that they do not return. This replaces what an earlier call has set; without
    /// exports, all calls go on.
    ///
    /// # Panics
    /// If an export is not in [`FALLIBLE`].
    pub fn block(&self, names: &[&str]) {
        self.state().blocked = names.iter().map(|name| row_of(name)).collect();
        self.armed.store(true, Ordering::Release);
    }

    /// Does this before each call of the system that can fail, on its thread. Calls
    /// within it are not counted and do not fail.
    pub fn before_each(&self, before: Option<BeforeCall>) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    /// Pauses failures. Calls are not counted meanwhile.
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

/// The row in [`FALLIBLE`] of an export that a test names.
fn row_of(name: &str) -> usize {
    let row = FALLIBLE.iter().position(|call| call.name == name);
    row.unwrap_or_else(|| panic!("{name} is not in the table of calls that can fail"))
}

impl FailCalls for Faults {
    /// Also counts the call.
    fn failure(&self, export: usize, caller: Caller) -> Option<Failure> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let row = row(export)?;
        if BEFORE.get() {
            return None;
        }
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(before) = before.filter(|_| caller == Caller::System) {
            BEFORE.set(true);
            before();
            BEFORE.set(false);
        }
        let mut state = self.state();
        let is_counted = caller == Caller::System
            || FALLIBLE[row].name.starts_with("Fwpm")
            || self.counts_threads.load(Ordering::Relaxed);
        let counts = is_counted && !state.paused;
        if counts {
            state.calls.push(row);
        }
        let failure = match state.asked_for(row) {
            Some(failure) => failure,
            None if counts => state.planned(row)?,
            None => return None,
        };
        let number = state.calls.len();
        state.injected.push(Injection { number, row, failure });
        Some(failure)
    }

    fn is_blocked(&self, export: usize) -> bool {
        if !self.armed.load(Ordering::Acquire) {
            return false;
        }
        let Some(row) = row(export) else { return false };
        self.state().blocked.contains(&row)
    }
}

impl State {
    /// The failure that a test has asked for by name.
    fn asked_for(&mut self, row: usize) -> Option<Failure> {
        if let Some((next, left, failure)) = &mut self.next
            && *next == row
        {
            let failure = *failure;
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => {
                    self.next = None;
                    return Some(failure);
                }
            }
        }
        self.always.iter().find(|(always, _)| *always == row).map(|(_, failure)| *failure)
    }

    /// The failure that the plan has for the call that was counted last.
    fn planned(&mut self, row: usize) -> Option<Failure> {
        let plan = self.plan?;
        let (number, call) = (self.calls.len(), &FALLIBLE[row]);
        let is_first = match &mut self.by_function {
            None => number == plan.nth,
            Some((planned, left)) if *planned == row => {
                *left = left.wrapping_sub(1);
                *left == 0
            }
            Some(_) => false,
        };
        let has_begun = self.has_begun;
        self.has_begun |= is_first;
        let failure = match plan.mode {
            _ if is_first => plan.failure,
            Mode::After if has_begun => {
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
