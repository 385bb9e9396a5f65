//! Records every call that a driver makes, with its arguments.
//!
//! Arguments are decoded as the headers declare them: names and types come from
//! `facts/functions.json`, structures from `facts/layouts.x64.json`. A structure
//! that the caller fills in is read field by field during the call. The journal
//! knows no particular driver. Tests compare its records with the expected calls.

mod decode;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cpu::Irql;
use super::guest::Place;
use super::{Kernel, SYSTEM_THREAD};
use crate::driver::DriverId;
use crate::wfp::Guid;

/// Most calls that a journal keeps. [`Journal::lost`] counts further ones.
const MOST_CALLS: usize = 1 << 20;

/// The calls of one machine's drivers. Records nothing before [`Self::start`].
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

/// A call of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The service of the driver that made it.
    pub driver: Arc<str>,
    /// The export's name.
    pub export: &'static str,
    /// The IRQL of the call.
    pub irql: Irql,
    /// Whether a system thread of the driver made the call.
    pub on_system_thread: bool,
    /// The arguments in order. The fields of a structure follow it.
    pub arguments: Vec<Argument>,
}

/// An argument, or a field of a structure that an argument points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name in the headers, with its path, such as `filter.action.type`.
    /// Unnamed unions are `@u1`, as in the fact tables.
    pub path: String,
    /// The passed value.
    pub value: Value,
}

/// The value of an argument or a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A number. Negative numbers are in two's complement: of 64 bits for a
    /// `LARGE_INTEGER`, else of the field's width.
    Number(u64),
    /// An address or a handle: where it leads, and its value.
    Pointer(Place, u64),
    /// A GUID.
    Guid(Guid),
    /// UTF-16 text.
    Text(String),
    /// Bytes of unknown structure.
    Bytes(Vec<u8>),
    /// An address whose memory cannot be read.
    Unreadable(u64),
}

impl Call {
    /// The value at a path.
    pub fn value(&self, path: &str) -> Option<&Value> {
        self.arguments.iter().find(|argument| argument.path == path).map(|argument| &argument.value)
    }

    /// The number at a path, if the value is one.
    pub fn number(&self, path: &str) -> Option<u64> {
        match self.value(path)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The GUID at a path, if the value is one.
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

    /// Removes and returns the calls so far, in order.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Number of calls that were not recorded because the journal was full.
    pub fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Records this thread's call, if the driver made it.
    pub(crate) fn record(&self, kernel: &Kernel, caller: DriverId, export: &'static str, irql: Irql) {
        if !self.recording.load(Ordering::Acquire) {
            return;
        }
        let Some(arguments) = decode::arguments(kernel, export) else { return };
        let on_system_thread = std::thread::current().name() == Some(SYSTEM_THREAD);
        let mut state = self.state();
        if state.calls.len() < MOST_CALLS {
            let driver = Arc::clone(kernel.service_name(caller));
            state.calls.push(Call { driver, export, irql, on_system_thread, arguments });
        } else {
            state.lost += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
