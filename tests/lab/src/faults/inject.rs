//! What lies between a driver's imports and the exports: a call of each
//! function that can fail comes through here, and may fail here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::table::{Effect, FALLIBLE, Failure, row};
use crate::exports;
use crate::nt::types::{Address, HANDLE, NTSTATUS};
use crate::nt::{self, Kernel, SYSTEM_THREAD};

/// Whether a call fails alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Mode {
    /// Only the nth fails.
    Once,
    /// It and every later one.
    After,
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

    /// Counts a call, and says how it fails, if it does.
    fn next(&self, row: usize) -> Option<Failure> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.state();
        state.calls.push(row);
        let failure = state.failure(row)?;
        let number = state.calls.len();
        state.injected.push(Injection { number, row, failure });
        Some(failure)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What a call that failed returns.
trait Answer {
    fn failed(failure: Failure) -> Self;
}

impl Answer for NTSTATUS {
    fn failed(failure: Failure) -> Self {
        failure.status.0
    }
}

/// NULL.
impl Answer for Address {
    fn failed(_: Failure) -> Self {
        0
    }
}

/// Makes a call, or lets it fail. The call may be abandoned, so that nothing
/// here owns anything while it is made.
fn call<T: Answer>(export: usize, row: usize, real: impl FnOnce() -> T) -> T {
    let kernel = Kernel::current();
    // A system thread's calls come between the others' as it happens: counted,
    // they would make no two lives alike.
    let of_system_thread = std::thread::current().name() == Some(SYSTEM_THREAD);
    let failure = if of_system_thread { None } else { kernel.faults().next(row) };
    match failure {
        None => real(),
        Some(failure) if failure.effect == Effect::Done => {
            let _answer_lost = real();
            T::failed(failure)
        }
        Some(failure) => {
            kernel.count_call(export);
            kernel.leave_if_stopped();
            T::failed(failure)
        }
    }
}

macro_rules! interpose {
    ($($($path:ident)::+ => $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        #[expect(non_snake_case, reason = "the names are the NT API's own")]
        mod interposed {
            use super::*;
            $(pub(super) extern "win64" fn $name($($argument: $type),*) -> $result {
                let (export, row) = const { (exports::index(stringify!($name)), row(stringify!($name))) };
                call(export, row, || $($path)::+::$name($($argument),*))
            })*
        }

        /// What a driver's import of this name is bound to, if the call can
        /// fail.
        pub fn interposed(name: &str) -> Option<Address> {
            match name {
                $(stringify!($name) => Some(interposed::$name as *const () as Address),)*
                _ => None,
            }
        }
    };
}

interpose! {
    nt::etw => EtwRegister(provider: Address, callback: Address, context: Address, handle: Address)
        -> NTSTATUS;
    nt::etw => EtwSetInformation(handle: u64, class: i32, information: Address, length: u32) -> NTSTATUS;
    nt::etw => EtwWriteTransfer(handle: u64, descriptor: Address, activity: Address, related: Address,
        count: u32, data: Address) -> NTSTATUS;
    nt::ex => ExAllocatePool2(flags: u64, bytes: usize, tag: u32) -> Address;
    nt::io => IoAllocateWorkItem(device: Address) -> Address;
    nt::io => IoCreateDevice(driver: Address, extension: u32, name: Address, kind: u32,
        characteristics: u32, exclusive: u8, device: Address) -> NTSTATUS;
    nt::io => IoOpenDriverRegistryKey(driver: Address, kind: i32, access: u32, flags: u32, key: Address)
        -> NTSTATUS;
    nt::zw => ZwQueryValueKey(key: HANDLE, name: Address, class: i32, information: Address, length: u32,
        result_length: Address) -> NTSTATUS;
    nt::zw => ZwCreateEvent(handle: Address, access: u32, attributes: Address, kind: i32, state: u8)
        -> NTSTATUS;
    nt::ps => PsCreateSystemThread(handle: Address, access: u32, attributes: Address, process: HANDLE,
        client: Address, routine: Address, context: Address) -> NTSTATUS;
    nt::fwp => FwpsCalloutRegister3(device: Address, callout: Address, id: Address) -> NTSTATUS;
    nt::fwp => FwpsCalloutUnregisterById0(id: u32) -> NTSTATUS;
    nt::fwp => FwpmBfeStateSubscribeChanges0(device: Address, callback: Address, context: Address,
        handle: Address) -> NTSTATUS;
    nt::fwp => FwpmBfeStateUnsubscribeChanges0(handle: HANDLE) -> NTSTATUS;
    nt::fwp => FwpmEngineOpen0(server: Address, service: u32, identity: Address, session: Address,
        handle: Address) -> NTSTATUS;
    nt::fwp => FwpmEngineClose0(handle: HANDLE) -> NTSTATUS;
    nt::fwp => FwpmTransactionBegin0(handle: HANDLE, flags: u32) -> NTSTATUS;
    nt::fwp => FwpmTransactionCommit0(handle: HANDLE) -> NTSTATUS;
    nt::fwp => FwpmTransactionAbort0(handle: HANDLE) -> NTSTATUS;
    nt::fwp => FwpmProviderAdd0(handle: HANDLE, provider: Address, sd: Address) -> NTSTATUS;
    nt::fwp => FwpmSubLayerAdd0(handle: HANDLE, sublayer: Address, sd: Address) -> NTSTATUS;
    nt::fwp => FwpmCalloutAdd0(handle: HANDLE, callout: Address, sd: Address, id: Address) -> NTSTATUS;
    nt::fwp => FwpmFilterAdd0(handle: HANDLE, filter: Address, sd: Address, id: Address) -> NTSTATUS;
    nt::fwp => FwpmFilterDeleteByKey0(handle: HANDLE, key: Address) -> NTSTATUS;
    nt::fwp => FwpmCalloutDeleteByKey0(handle: HANDLE, key: Address) -> NTSTATUS;
    nt::fwp => FwpmSubLayerDeleteByKey0(handle: HANDLE, key: Address) -> NTSTATUS;
    nt::fwp => FwpmProviderDeleteByKey0(handle: HANDLE, key: Address) -> NTSTATUS;
    nt::fwp => FwpsFlowAssociateContext0(flow: u64, layer: u16, callout: u32, context: u64) -> NTSTATUS;
    nt::fwp => FwpsFlowRemoveContext0(flow: u64, layer: u16, callout: u32) -> NTSTATUS;
}
