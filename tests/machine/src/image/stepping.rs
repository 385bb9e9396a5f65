//! Calls a hook before each instruction of the driver that a thread executes.
//!
//! The trap flag is set while the thread executes the image, and clear while an
//! export body runs, so that only driver code is slowed down. The hook runs in the
//! trap's signal handler. The interrupted driver code holds no lock of the host, so
//! the hook may lock, wait and allocate.
#![expect(unsafe_code, reason = "single-steps driver code")]

use std::cell::Cell;
use std::ops::Range;

use super::fault;
use super::stack::Control;

/// An instruction before which the hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its address; for a driver's machine, its offset in the image.
    pub address: u64,
    /// Whether the thread comes from outside the image: a call of an export has returned,
    /// or the driver was called.
    pub enters: bool,
}

/// Where the hook is called next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Before the next instruction.
    Instruction,
    /// Before the first instruction after the next call of an export has returned, or at
    /// the driver's next entry. Until then the driver runs at full speed.
    Return,
    /// Nowhere.
    Nowhere,
}

/// The trap flag in EFLAGS (Intel SDM volume 1, 3.4.3.3).
const TRAP_FLAG: i64 = 0x100;

struct Hook<'a> {
    image: Range<u64>,
    before: &'a mut dyn FnMut(Step) -> Next,
    /// Whether the thread has been in the image since the last instruction before which
    /// the hook was called.
    inside: bool,
}

thread_local! {
    /// The hook of this thread, or null. Without a destructor, because the signal
    /// handler reads it.
    static HOOK: Cell<*mut Hook<'static>> = const { Cell::new(std::ptr::null_mut()) };
}

/// Runs `f`. Calls `before` with the instructions of `image` that this thread executes in
/// calls made by `f`: with the first, and then with those that `before` asks for. A stepped
/// instruction takes thousands of times as long as others.
///
/// `before` may wait for other threads. It must not panic, and must not call the
/// driver on this thread.
///
/// # Panics
/// If the thread is already stepping, or is inside the driver.
pub fn stepping<R>(image: Range<u64>, mut before: impl FnMut(Step) -> Next, f: impl FnOnce() -> R) -> R {
    fault::install();
    let control = Control::of_thread();
    assert!(
        control.host_rsp.get() == 0 && HOOK.get().is_null(),
        "stepping must begin outside the driver, once"
    );
    let mut hook = Hook { image, before: &mut before, inside: false };
    HOOK.set((&raw mut hook).cast());
    control.stepped.set(1);
    let stepped = Stepped(control);
    let result = f();
    drop(stepped);
    result
}

/// Ends the stepping of a thread, also after a panic.
struct Stepped(&'static Control);

impl Drop for Stepped {
    fn drop(&mut self) {
        self.0.stepped.set(0);
        HOOK.set(std::ptr::null_mut());
    }
}

/// Handles a trap. Returns whether this thread steps. Runs in the signal handler.
pub(super) fn step(registers: &mut [i64; 23]) -> bool {
    // SAFETY: `stepping` sets it to its own local until its call ends. The
    // interrupted thread owns that local and is inside the call.
    let Some(hook) = (unsafe { HOOK.get().as_mut() }) else { return false };
    let address = registers[libc::REG_RIP as usize] as u64;
    if hook.image.contains(&address) {
        let control = Control::of_thread();
        // A fault in the hook is the lab's own.
        control.reporting.set(true);
        let enters = !std::mem::replace(&mut hook.inside, true);
        let next = (hook.before)(Step { address, enters });
        control.reporting.set(false);
        if next == Next::Nowhere {
            control.stepped.set(0);
        }
        if next != Next::Instruction {
            hook.inside = false;
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
        }
    } else {
        // The gate sets the flag again on return to the image.
        hook.inside = false;
        registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
    }
    true
}
