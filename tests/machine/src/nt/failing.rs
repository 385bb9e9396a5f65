//! What lies between a driver's imports and the exports that can fail.
#![expect(unsafe_code, reason = "makes a function of an address")]

use std::mem::transmute;

use super::enter::address_of;
use super::types::{Address, NTSTATUS};
use super::{Kernel, SYSTEM_THREAD};
use crate::status::Status;

/// What a call that fails has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Refused,
    /// Everything: only its answer says otherwise, as where a reply is lost.
    Done,
}

/// One way in which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it returns; a call that returns NULL is short of resources.
    pub status: Status,
    /// What it has done.
    pub effect: Effect,
}

/// Decides which calls of a driver fail; given to
/// [`Kernel::set_fail_calls`].
pub trait FailCalls: Send + Sync {
    /// How the call that begins fails, if it does. `export` is its row in
    /// [`crate::exports`]. The calls of system threads do not come here: they
    /// fall between the others in no fixed order.
    fn failure(&self, export: usize) -> Option<Failure>;
}

/// An export that [`FailCalls`] is asked about before each call.
pub trait CanFail {
    /// The address for a driver's import; `EXPORT` is the function's row in
    /// [`crate::exports`].
    ///
    /// # Panics
    /// If it is not.
    fn address<const EXPORT: usize>(self) -> Address;
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
fn call<T: Answer>(export: usize, real: impl FnOnce() -> T) -> T {
    let kernel = Kernel::current();
    let of_system_thread = std::thread::current().name() == Some(SYSTEM_THREAD);
    let failure = if of_system_thread { None } else { kernel.failure_of(export) };
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

macro_rules! can_fail {
    ($($argument:ident: $type:ident),*) => {
        impl<R: Answer, $($type),*> CanFail for extern "win64" fn($($type),*) -> R {
            fn address<const EXPORT: usize>(self) -> Address {
                extern "win64" fn entry<R: Answer, $($type,)* const EXPORT: usize>($($argument: $type),*) -> R {
                    // SAFETY: the row's function has this type, or `address` would
                    // not have given `entry` away.
                    let real: extern "win64" fn($($type),*) -> R = unsafe { transmute(address_of(EXPORT)) };
                    call(EXPORT, || real($($argument),*))
                }
                assert_eq!(self as usize, address_of(EXPORT), "row {EXPORT} is another function's");
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
