//! How the kernel gets into driver code and out of it again.
//!
//! The kernel knows a driver only as addresses. A [`Guest`] runs such code and
//! can abandon it from inside an export. [`Direct`] does so for native code on
//! the caller's own stack; a loaded image brings its own kernel stacks and
//! fault handler behind the same trait.
#![expect(unsafe_code, reason = "calls addresses, leaves frames behind")]

use std::arch::naked_asm;
use std::cell::{Cell, RefCell};
use std::fmt;

use super::types::Address;
use crate::image::{restore_registers, save_registers};

/// Why driver code did not return.
#[derive(Clone, Debug)]
pub enum Stop {
    /// `KeBugCheckEx`, or a verifier rule.
    BugCheck {
        /// Bugcheck code.
        code: u32,
        /// The four parameters.
        parameters: [u64; 4],
        /// What happened, in words.
        text: String,
    },
    /// A processor fault.
    Fault {
        /// What the processor objected to.
        exception: Exception,
        /// What happened, in words.
        text: String,
    },
    /// Nobody can go on.
    Deadlock {
        /// Who waits for what.
        waits: String,
    },
}

/// A processor exception in driver code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which.
    pub cause: Cause,
    /// The address that could not be used, if that was the reason.
    pub address: Option<u64>,
    /// The instruction.
    pub instruction: u64,
}

/// Why the processor raised an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Memory could not be read.
    Read,
    /// Memory could not be written.
    Write,
    /// Memory could not be executed.
    Execute,
    /// The kernel stack is exhausted.
    StackOverflow,
    /// Ring 0 only.
    Privileged,
    /// No instruction.
    IllegalInstruction,
    /// `#GP`: a misaligned or impossible operand.
    Protection,
    /// Division by zero.
    Divide,
    /// `int 3`.
    Breakpoint,
    /// `__fastfail`, with its code.
    FastFail(u32),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BugCheck { code, parameters: [a, b, c, d], text } => {
                write!(f, "bugcheck {code:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x}): {text}")
            }
            Self::Fault { text, .. } => f.write_str(text),
            Self::Deadlock { waits } => write!(f, "deadlock: {waits}"),
        }
    }
}

/// Runs driver code.
pub trait Guest: Send + Sync {
    /// Calls `entry` with integer arguments, at most [`MOST_ARGUMENTS`]. `Err`
    /// if [`escape`](Self::escape) or a fault ended it.
    ///
    /// # Safety
    /// `entry` must be driver code, or code of the same (win64) convention,
    /// that takes these arguments.
    unsafe fn call(&self, entry: Address, arguments: &[u64]) -> Result<u64, Stop>;

    /// Leaves the innermost [`call`](Self::call) on this thread with `Err`.
    /// No frame between here and there may own anything with a destructor.
    fn escape(&self, stop: Stop) -> !;

    /// Return addresses of the driver's frames on this thread, innermost
    /// first; empty if unknown.
    fn frames(&self) -> Vec<u64> {
        Vec::new()
    }

    /// The first `count` arguments of the export that the driver is calling on
    /// this thread; `None` if unknown.
    fn arguments(&self, export: &str, count: usize) -> Option<Vec<u64>> {
        let _ = (export, count);
        None
    }

    /// Which memory of the guest's holds an address; `None` if no such memory
    /// does, or if it is unknown.
    fn place(&self, address: u64) -> Option<Place> {
        let _ = address;
        None
    }

    /// The call before a return address, in words.
    fn describe(&self, address: u64) -> String {
        format!("{address:#x}")
    }

    /// Begins to measure this thread's kernel stack; `false` if it cannot be
    /// measured, or is in use already.
    fn measure_stack(&self) -> bool {
        false
    }

    /// Bytes of kernel stack used since then.
    fn stack_used(&self) -> usize {
        0
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: it is NULL.
    Null,
    /// The calling thread's kernel stack.
    Stack,
    /// Code of the driver.
    Code,
    /// Other bytes of the driver's image.
    Data,
    /// A block of pool.
    Pool,
    /// Anything else: a handle, or an object of the system's.
    System,
}

/// The most arguments of any driver routine the kernel calls.
pub const MOST_ARGUMENTS: usize = 12;

/// Native code on the caller's stack, without fault handling.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

thread_local! {
    /// Stack pointer saved by the innermost call.
    static SAVED: Cell<usize> = const { Cell::new(0) };
    /// Why it was left, set just before leaving.
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
}

impl Guest for Direct {
    unsafe fn call(&self, entry: Address, arguments: &[u64]) -> Result<u64, Stop> {
        assert!(arguments.len() <= MOST_ARGUMENTS, "too many arguments");
        let mut padded = [0; MOST_ARGUMENTS];
        padded[..arguments.len()].copy_from_slice(arguments);
        let outer = SAVED.get();
        let mut saved = outer;
        // `saved` is filled before `entry` runs; an escape needs it, so the
        // thread-local points at this frame's variable.
        SAVED.set(&raw mut saved as usize);
        // SAFETY: the caller vouches for `entry`, `padded` holds every argument slot the stub copies, and
        // `saved` outlives the call.
        let value = unsafe { enter(entry, padded.as_ptr(), &raw mut saved) };
        SAVED.set(outer);
        match STOP.take() {
            None => Ok(value),
            Some(stop) => Err(stop),
        }
    }

    fn escape(&self, stop: Stop) -> ! {
        let saved = SAVED.get() as *const usize;
        assert!(!saved.is_null(), "escape outside a driver call");
        STOP.set(Some(stop));
        // SAFETY: set by the innermost `call`, whose frame is still below us.
        let stack = unsafe { saved.read() };
        // SAFETY: `stack` is what `enter` saved, and the frames in between own
        // nothing (the trait's contract).
        unsafe { leave(stack) }
    }
}

/// Saves the callee-saved registers, stores the stack pointer in `*saved`,
/// copies twelve arguments into place and calls `entry`.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(entry: Address, arguments: *const u64, saved: *mut usize) -> u64 {
    naked_asm!(
        save_registers!(),
        "mov [rdx], rsp",
        // Twelve slots of 8 bytes and 8 more to keep the stack aligned.
        "sub rsp, 104",
        "mov rax, rdi",
        "mov r10, rsi",
        "mov ecx, 4",
        "2:",
        "mov r11, [r10 + rcx * 8]",
        "mov [rsp + rcx * 8], r11",
        "inc ecx",
        "cmp ecx, 12",
        "jne 2b",
        "mov rcx, [r10]",
        "mov rdx, [r10 + 8]",
        "mov r8, [r10 + 16]",
        "mov r9, [r10 + 24]",
        "call rax",
        "add rsp, 104",
        restore_registers!(),
        "ret",
    )
}

/// Returns from the `enter` that saved `stack`.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave(stack: usize) -> ! {
    naked_asm!("mov rsp, rdi", "xor eax, eax", restore_registers!(), "ret",)
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "win64" fn weigh(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64) -> u64 {
        a + 10 * b + 100 * c + 1_000 * d + 10_000 * e + 100_000 * f + 1_000_000 * g
    }

    extern "win64" fn give_up(code: u64) -> u64 {
        Direct.escape(Stop::BugCheck { code: code as u32, parameters: [1, 2, 3, 4], text: "gave up".into() })
    }

    extern "win64" fn nest() -> u64 {
        // SAFETY: a function of that convention and that many arguments.
        let inner = unsafe { Direct.call(give_up as *const () as Address, &[5]) };
        u64::from(inner.is_err())
    }

    #[test]
    fn every_argument_arrives_where_it_belongs() {
        let entry = weigh as *const () as Address;
        // SAFETY: a function of that convention and that many arguments.
        let value = unsafe { Direct.call(entry, &[1, 2, 3, 4, 5, 6, 7]) };
        assert_eq!(value.unwrap(), 7_654_321);
    }

    #[test]
    fn an_escape_ends_the_innermost_call_only() {
        // SAFETY: a function of that convention without arguments.
        let outer = unsafe { Direct.call(nest as *const () as Address, &[]) };
        assert_eq!(outer.unwrap(), 1);
        // SAFETY: a function of that convention with one argument.
        let inner = unsafe { Direct.call(give_up as *const () as Address, &[0xE2]) };
        let Err(Stop::BugCheck { code, parameters, .. }) = inner else {
            panic!("an escape must arrive as an error");
        };
        assert_eq!((code, parameters), (0xE2, [1, 2, 3, 4]));
    }
}
