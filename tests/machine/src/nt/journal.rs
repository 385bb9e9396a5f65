//! A journal of every call that a driver makes, with its arguments.
//!
//! The arguments are decoded as the headers declare them: names and types come
//! from `facts/functions.json`, structures from `facts/layouts.x64.json`. A
//! structure that the caller fills in is read field by field while the call
//! lasts. Nothing here knows a particular driver. A test holds what a driver
//! passed against what it ought to pass.

mod decode;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cpu::Irql;
use super::guest::Place;
use super::{Kernel, SYSTEM_THREAD};
use crate::wfp::Guid;

/// The most calls that a journal keeps; a test that makes more sees
/// [`Journal::lost`].
const MOST_CALLS: usize = 1 << 20;

/// The calls of one machine's driver. It records nothing until it is told to.
#[derive(Debug, Default)]
pub struct Journal {
    recording: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    lost: u64,
}

/// One call of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The export's name.
    pub export: &'static str,
    /// The level at which it was called.
    pub irql: Irql,
    /// Whether a system thread of the driver's made it.
    pub on_system_thread: bool,
    /// The arguments in their order; behind each structure its fields.
    pub arguments: Vec<Argument>,
}

/// An argument, or a field of a structure that an argument leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name in the headers, with the way to it: `filter.action.type`.
    /// Unnamed unions are `@u1`, as in the fact tables.
    pub path: String,
    /// What was passed.
    pub value: Value,
}

/// What an argument or a field holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A number; a negative one in two's complement, of 64 bits behind a
    /// `LARGE_INTEGER` and of its own width elsewhere.
    Number(u64),
    /// An address or a handle: where it leads, and the number itself.
    Pointer(Place, u64),
    /// A GUID.
    Guid(Guid),
    /// UTF-16 text.
    Text(String),
    /// Bytes of which nothing more is known.
    Bytes(Vec<u8>),
    /// What the address leads to cannot be read.
    Unreadable(u64),
}

impl Call {
    /// What was passed at a path.
    pub fn value(&self, path: &str) -> Option<&Value> {
        self.arguments.iter().find(|argument| argument.path == path).map(|argument| &argument.value)
    }

    /// A number at a path.
    pub fn number(&self, path: &str) -> Option<u64> {
        match self.value(path)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A GUID at a path.
    pub fn guid(&self, path: &str) -> Option<Guid> {
        match self.value(path)? {
            Value::Guid(guid) => Some(*guid),
            _ => None,
        }
    }
}

impl Journal {
    /// Records every call from now on.
    pub fn start(&self) {
        self.recording.store(true, Ordering::Release);
    }

    /// The calls so far, in their order; the journal is empty then.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// How many calls found no room.
    pub fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Records the call that this thread is in, if it comes from the driver.
    pub(crate) fn record(&self, kernel: &Kernel, export: &'static str, irql: Irql) {
        if !self.recording.load(Ordering::Acquire) {
            return;
        }
        let Some(arguments) = decode::arguments(kernel, export) else { return };
        let on_system_thread = std::thread::current().name() == Some(SYSTEM_THREAD);
        let mut state = self.state();
        if state.calls.len() < MOST_CALLS {
            state.calls.push(Call { export, irql, on_system_thread, arguments });
        } else {
            state.lost += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
