//! Into the driver and out of it, by return or by [`escape`].
#![expect(unsafe_code, reason = "switches stacks")]

use std::arch::naked_asm;
use std::ffi::c_void;
use std::mem::offset_of;

use super::fault;
use super::registers::{restore_registers, save_registers};
use super::report::{Backtrace, FaultReport, Stop};
use super::stack::{BLOCK, Control};
use super::thunk::{self, ImportFrame, MAX_ARGUMENTS};
use super::unwind;

/// Calls driver code with the x64 convention on the thread's kernel stack.
///
/// A call made inside an export body continues on what the outer call left of
/// the kernel stack. `Err` says what stopped the driver; its instance is dead
/// then, for whatever it held it still holds.
///
/// # Safety
/// `entry` must be driver code (or a function of the same convention) that
/// takes `args`. Whatever the driver then does wrong is caught as far as the
/// processor notices it; writes into live host memory are not.
///
/// # Panics
/// If there are more than [`MAX_ARGUMENTS`] arguments.
pub unsafe fn call(entry: *const c_void, args: &[u64]) -> Result<u64, Stop> {
    assert!(args.len() <= MAX_ARGUMENTS, "at most {MAX_ARGUMENTS} arguments");
    fault::install();
    let control = Control::of_thread();
    let on_stack = args.get(4..).unwrap_or_default();
    let first = (control.next_frame() - 8 * on_stack.len() as u64) & !15;
    // Below the stack arguments lies the callee's home space of four words.
    let rsp = first - 32;
    if !control.has_room(rsp) {
        return Err(Stop::Fault(Box::new(FaultReport::exhausted(control, entry.addr() as u64))));
    }
    for (address, &argument) in (first..).step_by(8).zip(on_stack) {
        control.set_word(address, argument);
    }
    let mut registers = [0; 4];
    for (register, &argument) in registers.iter_mut().zip(args) {
        *register = argument;
    }
    // SAFETY: `rsp` is aligned and has room below; the caller vouches for `entry`.
    let value = unsafe { enter(control, entry, &registers, rsp) };
    match control.stop.take() {
        Some(stop) => Err(stop),
        None => Ok(value),
    }
}

/// Abandons the innermost [`call`] of this thread, which returns `Err(stop)`.
///
/// For export bodies, as KeBugCheckEx. Nothing is unwound: no destructor may be
/// alive between the call and here. Drop guards first, and keep nothing in the
/// export's caller frames that owns a lock or memory that matters.
///
/// # Panics
/// Outside any call.
pub fn escape(stop: Stop) -> ! {
    let control = Control::of_thread();
    assert!(in_call(), "escape outside a driver call: {stop}");
    control.stop.set(Some(stop));
    // SAFETY: `host_rsp` is not 0, so `enter` is on this stack and its frame,
    // which `leave` restores, is intact.
    unsafe { leave(control, 0) }
}

/// Whether this thread is inside driver code or an export body that it called.
pub fn in_call() -> bool {
    Control::existing().is_some_and(|control| control.host_rsp.get() != 0)
}

/// Which driver frames lie on this thread's kernel stack, innermost first, seen
/// from inside an export body.
pub fn backtrace() -> Backtrace {
    match Control::existing() {
        Some(control) => unwind::walk(control, None),
        None => Backtrace(Vec::new()),
    }
}

/// Where driver code called the export body that is running: an address in the
/// call instruction. Costs a few loads, for records kept with every allocation;
/// [`describe`] names it later.
///
/// [`describe`]: super::describe
pub fn call_site() -> Option<u64> {
    let control = Control::existing()?;
    let frame = ImportFrame::at(control, control.kernel_rsp.get())?;
    // One byte back, for the next instruction may belong to another line.
    frame.return_address.checked_sub(1)
}

/// The first `count` arguments that the driver passed to the export whose body
/// is running, as whole registers or words. `None` if the running body is not
/// that export's: then other host code called it.
pub fn arguments(export: &str, count: usize) -> Option<Vec<u64>> {
    let control = Control::existing()?;
    let frame = ImportFrame::at(control, control.kernel_rsp.get())?;
    let name = thunk::name_of_body(frame.body)?;
    if name.rsplit_once('!')?.1 != export {
        return None;
    }
    (frame.rsp..).step_by(8).take(count).map(|address| control.word(address)).collect()
}

/// Bytes that the driver may still use of this thread's kernel stack
/// (IoGetRemainingStackSize).
pub fn stack_remaining() -> usize {
    let control = Control::of_thread();
    (control.next_frame() - control.stack().start) as usize
}

/// Most bytes of kernel stack in use since [`stack_used_reset`] on this thread.
/// Counts what was written: an untouched part at the end of the deepest frame
/// is not seen.
pub fn stack_used() -> usize {
    Control::existing().map_or(0, Control::used)
}

/// Starts a new measurement for [`stack_used`]. A few nanoseconds for each word
/// used before.
pub fn stack_used_reset() {
    Control::of_thread().paint();
}

/// Saves the host's registers and stack pointer, runs `entry` with its stack
/// pointer at `rsp`, where home space and stack arguments lie.
///
/// # Safety
/// `rsp` is a 16-byte aligned address on the kernel stack of `control`, the
/// calling thread's own, and below it is free.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(
    control: &Control,
    entry: *const c_void,
    registers: &[u64; 4],
    rsp: u64,
) -> u64 {
    naked_asm!(
        save_registers!(),
        "push qword ptr [rdi + {kernel_rsp}]",
        "push qword ptr [rdi + {host_rsp}]",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "mov [rdi + {host_rsp}], rsp",
        "mov rsp, rcx",
        "mov rax, rsi",
        // Walkers of frame pointers stop here.
        "xor ebp, ebp",
        "mov rcx, [rdx]",
        "mov r8, [rdx + 16]",
        "mov r9, [rdx + 24]",
        "mov rdx, [rdx + 8]",
        "cmp qword ptr [rdi + {stepped}], 0",
        "je 2f",
        // The trap comes behind the call, at the driver's first instruction.
        "pushfq",
        "or dword ptr [rsp], 0x100",
        "popfq",
        "2:",
        "call rax",
        "mov rdi, rsp",
        "and rdi, {block}",
        "mov rsi, rax",
        "jmp {leave}",
        host_rsp = const offset_of!(Control, host_rsp),
        kernel_rsp = const offset_of!(Control, kernel_rsp),
        stepped = const offset_of!(Control, stepped),
        block = const -(BLOCK as isize),
        leave = sym leave,
    )
}

/// Returns `value` from the innermost `enter`.
///
/// # Safety
/// The thread is inside an `enter` with this `control`.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave(control: &Control, value: u64) -> ! {
    naked_asm!(
        "mov rax, rsi",
        "mov rsp, [rdi + {host_rsp}]",
        "ldmxcsr [rsp]",
        "add rsp, 8",
        "pop qword ptr [rdi + {host_rsp}]",
        "pop qword ptr [rdi + {kernel_rsp}]",
        restore_registers!(),
        "cld",
        "ret",
        host_rsp = const offset_of!(Control, host_rsp),
        kernel_rsp = const offset_of!(Control, kernel_rsp),
    )
}
