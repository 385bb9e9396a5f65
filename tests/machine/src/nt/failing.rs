//! Entries between a driver's imports and exports, which can make a call fail.
#![expect(unsafe_code, reason = "casts an address to a function")]

use std::mem::transmute;

use super::enter::address_of;
use super::types::{Address, NTSTATUS};
use super::{Kernel, SYSTEM_THREAD, ke};
use crate::exports;
use crate::status::Status;

/// What a failed call has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Refused,
    /// Everything. Only the result reports a failure, as when a reply is lost.
    Done,
}

/// A way in which a call can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the call returns. A call that returns NULL reports that resources are
    /// short.
    pub status: Status,
    /// What the call has done.
    pub effect: Effect,
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The system: it loads the driver, unloads it, or calls it back.
    System,
    /// A thread that the driver has created.
    DriverThread,
}

/// Decides which calls of a driver fail; see [`Kernel::set_fail_calls`].
pub trait FailCalls: Send + Sync {
    /// How the starting call fails; `None` if it does not. `export` is its row in
    /// [`crate::exports`].
    fn failure(&self, export: usize, caller: Caller) -> Option<Failure>;

    /// Whether calls of this export must not begin their work now, so that they do not
    /// return. It is asked again and again, until it says no.
    fn is_blocked(&self, export: usize) -> bool {
        let _ = export;
        false
    }
}

/// An export whose calls can fail as [`FailCalls`] decides.
pub trait CanFail {
    /// The address for a driver's import. `EXPORT` is the function's row in
    /// [`crate::exports`].
    ///
    /// # Panics
    /// If the row belongs to another function.
    fn address<const EXPORT: usize>(self) -> Address;
}

/// The result of a failed call.
trait Answer {
    fn failed(failure: Failure) -> Self;
    fn has_failed(&self) -> bool;
}

impl Answer for NTSTATUS {
    fn failed(failure: Failure) -> Self {
        failure.status.0
    }

    fn has_failed(&self) -> bool {
        *self < 0
    }
}

/// A failed call returns NULL.
impl Answer for Address {
    fn failed(_: Failure) -> Self {
        0
    }

    fn has_failed(&self) -> bool {
        *self == 0
    }
}

/// A timeout that no machine reaches: a hundred years, in units of 100 ns.
const NEVER: i64 = -100 * 365 * 86_400 * 10_000_000;

/// Makes a call, or lets it fail. The call may be abandoned, so this function owns
/// nothing while it runs.
fn call<T: Answer>(export: usize, real: impl FnOnce() -> T) -> T {
    let kernel = Kernel::current();
    let of_driver = std::thread::current().name() == Some(SYSTEM_THREAD);
    let caller = if of_driver { Caller::DriverThread } else { Caller::System };
    let driver = kernel.caller();
    if kernel.is_blocked(export, driver) {
        // The lab ends this wait, so it is no deadlock.
        let what = || format!("{} to be let go", exports::name(export));
        let _let_go = ke::wait_for_object(&kernel, &what, Some(NEVER), || !kernel.is_blocked(export, driver));
        kernel.leave_if_stopped();
    }
    match kernel.failure_of(export, driver, caller) {
        None => real(),
        Some(failure) if failure.effect == Effect::Done => {
            // A call that fails by itself has done nothing.
            let answer = real();
            if answer.has_failed() { answer } else { T::failed(failure) }
        }
        Some(failure) => {
            kernel.count_call(export, driver);
            kernel.leave_if_stopped();
            T::failed(failure)
        }
    }
}

macro_rules! can_fail {
    ($($argument:ident: $type:ident),*) => {
        impl<R: Answer, $($type),*> CanFail for extern "win64" fn($($type),*) -> R {
            fn address<const EXPORT: usize>(self) -> Address {
                extern "win64" fn entry<R: Answer, $($type,)* const EXPORT: usize>($($argument: $type),*) -> R {
                    // SAFETY: the row's function has this type: `address` has
                    // checked that before it returned `entry`.
                    let real: extern "win64" fn($($type),*) -> R = unsafe { transmute(address_of(EXPORT)) };
                    call(EXPORT, || real($($argument),*))
                }
                assert_eq!(self as usize, address_of(EXPORT), "row {EXPORT} belongs to another function");
                entry::<R, $($type,)* EXPORT> as *const () as Address
            }
        }
    };
}

can_fail!(a: A);
can_fail!(a: A, b: B);
can_fail!(a: A, b: B, c: C);
can_fail!(a: A, b: B, c: C, d: D);
can_fail!(a: A, b: B, c: C, d: D, e: E);
can_fail!(a: A, b: B, c: C, d: D, e: E, f: F);
can_fail!(a: A, b: B, c: C, d: D, e: E, f: F, g: G);
can_fail!(a: A, b: B, c: C, d: D, e: E, f: F, g: G, h: H, i: I);
can_fail!(a: A, b: B, c: C, d: D, e: E, f: F, g: G, h: H, i: I, j: J);
can_fail!(a: A, b: B, c: C, d: D, e: E, f: F, g: G, h: H, i: I, j: J, k: K);
can_fail!(a: A, b: B, c: C, d: D, e: E, f: F, g: G, h: H, i: I, j: J, k: K, l: L, m: M);
