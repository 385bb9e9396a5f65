//! Monotonic time, which does not advance while the machine sleeps, and the system's time.

use crate::ffi;

/// Units of [`now`] in a millisecond.
pub const PER_MS: u64 = 10_000;

/// Units of [`now`] in a second.
pub const PER_SECOND: u64 = 1000 * PER_MS;

/// Time since the machine started, in units of 100 ns, with the resolution of the
/// system's tick. Callable at any IRQL.
pub fn now() -> u64 {
    // SAFETY: takes nothing; callable at any IRQL.
    unsafe { ffi::KeQueryUnbiasedInterruptTime() }
}

/// [`now`] in milliseconds.
pub fn milliseconds() -> u64 {
    now() / PER_MS
}

/// The system's time, in units of 100 ns since 1601. It can be set, also back. Callable at
/// any IRQL.
pub fn system_time() -> i64 {
    let mut time = ffi::LARGE_INTEGER { QuadPart: 0 };
    // SAFETY: the time is a local; callable at any IRQL.
    unsafe { ffi::KeQuerySystemTimePrecise(&mut time) };
    // SAFETY: all members of the union are numbers of its 8 bytes.
    unsafe { time.QuadPart }
}

/// A number that the network cannot guess. It mixes the counter behind the system's
/// time, which runs at megahertz, with an address, which the system randomizes.
pub fn seed<T: ?Sized>(address: &T) -> u64 {
    let mut counter = 0;
    // SAFETY: the counter is a local; callable at any IRQL.
    let time = unsafe { ffi::KeQueryInterruptTimePrecise(&mut counter) };
    counter.rotate_left(32) ^ time ^ core::ptr::from_ref(address).addr() as u64
}
