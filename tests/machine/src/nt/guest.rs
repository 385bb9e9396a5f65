//! Calls driver code from the kernel, and abandons such calls.
//!
//! The kernel knows a driver only by addresses. A [`Guest`] runs code at an
//! address, and can abandon it from an export. [`Direct`] does so for native code
//! on the caller's own stack. A loaded image has its own kernel stacks and fault
//! handler behind this trait.
#![expect(unsafe_code, reason = "calls addresses, leaves frames behind")]

use std::arch::naked_asm;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use super::types::Address;
use crate::image::{Raised, restore_registers, save_registers};

/// Why driver code did not return.
#[derive(Clone, Debug)]
pub enum Stop {
    /// `KeBugCheckEx`, or the breach of a rule.
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
        /// The exception that the processor raised.
        exception: Exception,
        /// What happened, in words.
        text: String,
    },
    /// The driver's thread has ended itself. Nothing is wrong.
    ThreadEnded,
    /// No thread can continue.
    Deadlock {
        /// Which thread waits for what.
        waits: String,
    },
}

/// A processor exception in driver code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The cause.
    pub cause: Cause,
    /// The address that could not be accessed, if that was the cause.
    pub address: Option<u64>,
    /// The instruction's address.
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
    /// The call has been at DISPATCH_LEVEL or above for too long.
    OutOfTime,
    /// An instruction for ring 0, or an interrupt, that is not modelled.
    Privileged,
    /// A system call of the host.
    SystemCall,
    /// An invalid instruction.
    IllegalInstruction,
    /// `#GP`: a misaligned or invalid operand.
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
            Self::ThreadEnded => f.write_str("the thread has ended itself"),
            Self::Deadlock { waits } => write!(f, "deadlock: {waits}"),
        }
    }
}

/// Runs driver code.
pub trait Guest: Send + Sync {
    /// Calls `entry` with at most [`MOST_ARGUMENTS`] integer arguments.
    ///
    /// # Errors
    /// What ended the call: [`escape`](Self::escape) or a fault.
    ///
    /// # Safety
    /// `entry` must be driver code, or code with the win64 convention, that takes
    /// these arguments.
    unsafe fn call(&self, entry: Address, arguments: &[u64]) -> Result<u64, Stop>;

    /// Leaves the innermost [`call`](Self::call) on this thread, which returns
    /// `Err`. No frame of the abandoned call may own anything with a destructor.
    fn escape(&self, stop: Stop) -> !;

    /// Searches a handler of the driver for an exception in the running export. Returns
    /// if there is none; the frames of the export are abandoned otherwise.
    fn raise(&self, raised: &Raised) {
        let _ = raised;
    }

    /// What `__C_specific_handler` does with its arguments. `None` if no handler is being
    /// called. It does not return if a block of the driver takes the exception.
    fn c_specific_handler(&self, arguments: [u64; 4]) -> Option<u32> {
        let _ = arguments;
        None
    }

    /// Unwinds from the running export to a frame of the driver, and continues at `ip`
    /// with `value` in rax. Returns if there is no such frame.
    fn unwind_to(&self, frame: u64, ip: u64, value: u64) {
        let _ = (frame, ip, value);
    }

    /// Whether this thread is in a [`call`](Self::call).
    fn in_call(&self) -> bool;

    /// The frames of the driver and of the exports on this thread, in words. Empty if
    /// unknown.
    fn trace(&self) -> String {
        String::new()
    }

    /// Return addresses of the driver's frames on this thread, innermost first.
    /// Empty if unknown.
    fn frames(&self) -> Vec<u64> {
        Vec::new()
    }

    /// The first `count` arguments of the export that the driver is calling on this
    /// thread. `None` if unknown.
    fn arguments(&self, export: &str, count: usize) -> Option<Vec<u64>> {
        let _ = (export, count);
        None
    }

    /// The guest's memory that holds an address. `None` if the address is
    /// elsewhere, or if it is unknown.
    fn place(&self, address: u64) -> Option<Place> {
        let _ = address;
        None
    }

    /// Describes the call before a return address.
    fn describe(&self, address: u64) -> String {
        format!("{address:#x}")
    }

    /// Starts to measure this thread's kernel stack. `false` if it cannot be
    /// measured, or is already in use.
    fn measure_stack(&self) -> bool {
        false
    }

    /// Bytes of kernel stack used since [`Self::measure_stack`].
    fn stack_used(&self) -> usize {
        0
    }

    /// Leaves so many bytes of this thread's kernel stack for the calls that follow;
    /// `None` leaves all. Not to be called inside a call.
    fn leave_stack(&self, bytes: Option<usize>) {
        let _ = bytes;
    }

    /// Gives the calls that follow on this thread so much processor time at DISPATCH_LEVEL
    /// or above. `raised`: whether the thread is there.
    fn watch(&self, allotment: Duration, raised: bool) {
        let _ = (allotment, raised);
    }

    /// Ends what [`Self::watch`] began.
    fn end_watch(&self) {}

    /// The processor time that this thread's call has used, if it is more than it has.
    fn overdue(&self) -> Option<Duration> {
        None
    }
}

/// The memory to which an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// None: the address is NULL.
    Null,
    /// The calling thread's kernel stack.
    Stack,
    /// Code of the driver.
    Code,
    /// Other bytes of the driver's image.
    Data,
    /// A block of pool.
    Pool,
    /// Anything else: a handle, or an object of the system.
    System,
}

/// Most arguments of a driver routine that the kernel calls.
pub const MOST_ARGUMENTS: usize = 12;

/// Native code on the caller's stack, without fault handling.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

thread_local! {
    /// Stack pointer saved by the innermost call.
    static SAVED: Cell<usize> = const { Cell::new(0) };
    /// Why the call was left. Set just before leaving.
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
}

impl Guest for Direct {
    unsafe fn call(&self, entry: Address, arguments: &[u64]) -> Result<u64, Stop> {
        assert!(arguments.len() <= MOST_ARGUMENTS, "too many arguments");
        let mut padded = [0; MOST_ARGUMENTS];
        padded[..arguments.len()].copy_from_slice(arguments);
        let outer = SAVED.get();
        let mut saved = outer;
        // `enter` fills `saved` before `entry` runs. An escape needs it, so the
        // thread-local variable points to it.
        SAVED.set(&raw mut saved as usize);
        // SAFETY: the caller vouches for `entry`. `padded` holds every argument
        // slot that the stub copies, and `saved` outlives the call.
        let value = unsafe { enter(entry, padded.as_ptr(), &raw mut saved) };
        SAVED.set(outer);
        match STOP.take() {
            None => Ok(value),
            Some(stop) => Err(stop),
        }
    }

    fn in_call(&self) -> bool {
        SAVED.get() != 0
    }

    fn escape(&self, stop: Stop) -> ! {
        let saved = SAVED.get() as *const usize;
        assert!(!saved.is_null(), "escape outside a driver call");
        STOP.set(Some(stop));
        // SAFETY: set by the innermost `call`, whose frame is still below us.
        let stack = unsafe { saved.read() };
        // SAFETY: `enter` saved `stack`. The frames in between own nothing (the
        // trait's contract).
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
        // Twelve slots of 8 bytes, and 8 bytes to keep the stack aligned.
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
