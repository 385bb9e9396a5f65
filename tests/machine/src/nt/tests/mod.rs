//! Tests of the kernel: test code calls exports as a driver does.
//!
//! Test code may be abandoned at any export, so it must own nothing while it calls
//! one.
#![expect(unsafe_code, reason = "plays the driver")]

mod asynchronous;
mod callouts;
mod classify;
mod deferred;
mod engine;
mod injection;
mod library;
mod load;
mod locked;
mod own_time;
mod packets;
mod pool;
mod registry;
mod streams;
mod strings;
mod sync;
mod tables;
mod text;
mod threads;

use std::ffi::c_void;
use std::sync::Arc;

use super::types::Address;
use super::{Direct, Irql, Kernel, Options, Stop};
use crate::verifier::Rule;

/// A machine that runs native code as its driver.
fn machine() -> Arc<Kernel> {
    Kernel::new(Arc::new(Direct), Options::default())
}

/// Runs `f` as driver code at `irql` on processor 0.
fn drive<R, F: FnOnce() -> R>(kernel: &Kernel, irql: Irql, f: F) -> Result<R, Stop> {
    drive_on(kernel, 0, irql, f)
}

/// Runs `f` as driver code.
fn drive_on<R, F: FnOnce() -> R>(kernel: &Kernel, processor: u32, irql: Irql, f: F) -> Result<R, Stop> {
    struct Work<R, F>(Option<F>, Option<R>);
    extern "win64" fn trampoline<R, F: FnOnce() -> R>(work: *mut c_void) -> u64 {
        // SAFETY: the address of `work` below, which outlives the call.
        let work = unsafe { &mut *work.cast::<Work<R, F>>() };
        work.1 = work.0.take().map(|f| f());
        0
    }
    let mut work = Work(Some(f), None);
    let argument = (&raw mut work) as u64;
    let entry = trampoline::<R, F> as *const () as Address;
    kernel.on_processor(processor, irql, |kernel| {
        kernel.call_driver(entry, &[argument], irql, "test driver")
    })?;
    Ok(work.1.expect("a driver that returned has a result"))
}

/// Asserts that `rule` stopped the driver, and that there was no other finding.
#[track_caller]
fn stopped_by<R>(kernel: &Kernel, outcome: Result<R, Stop>, rule: &'static Rule) {
    let Err(Stop::BugCheck { code, parameters, text }) = outcome else {
        panic!("{} did not fire", rule.id);
    };
    assert_eq!(code, rule.code, "{text}");
    if let Some(first) = rule.parameter {
        assert_eq!(parameters[rule.place()], first, "{text}");
    }
    let found = kernel.verifier().findings();
    let names: Vec<_> = found.iter().map(|finding| finding.violation.rule.id).collect();
    assert_eq!(names, [rule.id], "{text}");
}

/// Asserts that there was no finding.
#[track_caller]
fn clean<R>(kernel: &Kernel, outcome: Result<R, Stop>) -> R {
    let found = kernel.verifier().findings();
    assert!(found.is_empty(), "{found:?}");
    match outcome {
        Ok(value) => value,
        Err(stop) => panic!("{stop:?}"),
    }
}

/// Writes driver memory.
fn poke<T>(address: Address, value: T) {
    // SAFETY: tests pass addresses of memory that they own or got from the kernel.
    unsafe { (address as *mut T).write_unaligned(value) };
}

/// Reads driver memory.
fn peek<T: Copy>(address: Address) -> T {
    // SAFETY: as `poke`.
    unsafe { (address as *const T).read_unaligned() }
}

/// The machine at an address from `with_look`.
fn kernel_at<'a>(address: usize) -> &'a Kernel {
    // SAFETY: `with_look` borrows the machine while the address is in use.
    unsafe { &*(address as *const Kernel) }
}

type Look<'a> = Box<dyn Fn(&Kernel, usize) + 'a>;

/// Passes the closure and the machine to `run` in a form that a thread-local can
/// hold. `run` must not keep them after it returns.
fn with_look(look: Look<'_>, kernel: &Arc<Kernel>, run: impl FnOnce((Look<'static>, usize))) {
    // SAFETY: `run` keeps it only during this call, while `look` and its borrows
    // live.
    let look = unsafe { std::mem::transmute::<Look<'_>, Look<'static>>(look) };
    run((look, Arc::as_ptr(kernel) as usize));
}
